//! `kadepy.Config`, made from the list of tunables that stands in `crate::config`.

use std::time::Duration;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

use super::convert;
use crate::config::{Config, Legacy, config_fields};

/// The limits that an argument `config` asks for: a `Config`, or None for the defaults.
pub fn config(value: &Bound<'_, PyAny>) -> PyResult<Config> {
    if value.is_none() {
        return Ok(Config::default());
    }
    let config = value.cast::<PyConfig>().map_err(|_| {
        let shown = convert::shown(value);
        PyTypeError::new_err(format!("config must be a Config or None, got {shown}"))
    })?;
    Ok(config.get().config.clone())
}

/// A type of tunable as Python sees it.
trait FromPython: Sized {
    fn from_python(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Self>;
}

impl FromPython for usize {
    fn from_python(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Self> {
        let number = convert::integer(name, "an int", value)?;
        usize::try_from(number).map_err(|_| {
            PyValueError::new_err(format!("{name} must not be negative, got {number}"))
        })
    }
}

impl FromPython for Duration {
    fn from_python(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Self> {
        convert::seconds(name, "seconds, finite and not negative", value)
    }
}

impl FromPython for Legacy {
    fn from_python(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Self> {
        let allowed = [Legacy::Local, Legacy::Never, Legacy::Always];
        let Ok(text) = value.cast::<PyString>() else {
            return Err(PyTypeError::new_err(format!(
                "{name} must be a str, got {}",
                convert::shown(value)
            )));
        };
        allowed.into_iter().find(|legacy| text == legacy.name()).ok_or_else(|| {
            PyValueError::new_err(format!(
                "{name} must be \"local\", \"never\" or \"always\", got {}",
                convert::shown(value)
            ))
        })
    }
}

/// A tunable as it is handed to Python.
trait ToPython {
    type Value;
    fn to_python(&self) -> Self::Value;
}

impl ToPython for usize {
    type Value = usize;
    fn to_python(&self) -> usize {
        *self
    }
}

impl ToPython for Duration {
    type Value = f64;
    fn to_python(&self) -> f64 {
        self.as_secs_f64()
    }
}

impl ToPython for Legacy {
    type Value = &'static str;
    fn to_python(&self) -> &'static str {
        self.name()
    }
}

macro_rules! make_python_config {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $default:expr, $allowed:expr;)*) => {
        /// Every tunable of a node. Frozen, checked when made, equal and hashed by value.
        ///
        /// Each field is a keyword argument and an attribute; what is not given has the default
        /// that suits the open Internet. Times are seconds.
        ///
        /// >>> from kadepy import Config
        /// >>> Config(alpha=5).alpha
        /// 5
        /// >>> Config(k=0)
        /// Traceback (most recent call last):
        ///     ...
        /// ValueError: k must be from 1 to 20, got 0
        #[pyclass(frozen, eq, hash, name = "Config", module = "kadepy")]
        #[derive(Clone, PartialEq, Eq, Hash)]
        pub struct PyConfig {
            pub config: Config,
        }

        #[pymethods]
        impl PyConfig {
            #[new]
            #[pyo3(signature = (*, $($name = None),*))]
            #[expect(clippy::too_many_arguments, reason = "one for each tunable")]
            fn new($($name: Option<&Bound<'_, PyAny>>),*) -> PyResult<Self> {
                let mut config = Config::default();
                $(if let Some(value) = $name {
                    config.$name = <$type as FromPython>::from_python(stringify!($name), value)?;
                })*
                config.check()?;
                Ok(Self { config })
            }

            $(
                $(#[$doc])*
                #[getter]
                fn $name(&self) -> <$type as ToPython>::Value {
                    self.config.$name.to_python()
                }
            )*

            /// For pickle and copy.
            fn __getnewargs_ex__<'py>(
                &self,
                py: Python<'py>,
            ) -> PyResult<(Bound<'py, PyTuple>, Bound<'py, PyDict>)> {
                let fields = PyDict::new(py);
                $(fields.set_item(stringify!($name), self.config.$name.to_python())?;)*
                Ok((PyTuple::empty(py), fields))
            }

            fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
                let defaults = Config::default();
                let mut changed = Vec::new();
                $(if self.config.$name != defaults.$name {
                    let value = self.config.$name.to_python().into_pyobject(py)?.into_any();
                    changed.push(format!("{}={}", stringify!($name), value.repr()?));
                })*
                Ok(format!("Config({})", changed.join(", ")))
            }
        }
    };
}
config_fields!(make_python_config);
