//! Network keys from Python, and the network that they make. No error shows any of a key.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyMemoryView, PyString};
use zeroize::Zeroizing;

use super::convert::{bytes, class_name, shown, value_error};
use crate::wire::seal::{KEYS_MAX, KeyError, Network, NetworkKey};

/// The network of those who hold a key, or one of a list of keys, under a cipher.
pub fn network(value: &Bound<'_, PyAny>, cipher: &Bound<'_, PyAny>) -> PyResult<Network> {
    const NAME: &str = "network_key";
    const CIPHERS: &str = "\"sealed\" or \"chacha20\"";
    // What was given is not shown where it may be a key in the wrong place.
    let cipher_name = cipher.cast::<PyString>().map_err(|_| {
        PyTypeError::new_err(format!("cipher must be {CIPHERS}, got {}", class_name(cipher)))
    })?;
    let cipher_name = cipher_name.to_string_lossy();
    if !["sealed", "chacha20"].contains(&&*cipher_name) {
        let len = cipher_name.chars().count();
        let got = if len < 16 { shown(cipher) } else { format!("a str of {len} characters") };
        return Err(value_error("cipher", CIPHERS, &got));
    }
    if value.is_none() {
        return Ok(Network::Public);
    }
    let Ok(listed) = value.cast::<PyList>() else {
        let key = network_key(NAME, value)?;
        return Ok(match &*cipher_name {
            "sealed" => Network::Sealed { key, older: Vec::new() },
            _ => Network::ChaCha20(key),
        });
    };
    let listed: Vec<Bound<'_, PyAny>> = listed.iter().collect();
    let mut keys =
        listed.iter().enumerate().map(|(at, key)| network_key(&format!("{NAME}[{at}]"), key));
    let Some(key) = keys.next() else {
        return Err(value_error(NAME, "32 bytes or a list of such", "an empty list"));
    };
    let key = key?;
    if listed.len() > KEYS_MAX {
        let expected = format!("at most {KEYS_MAX} keys");
        return Err(value_error(NAME, &expected, &listed.len().to_string()));
    }
    let older = keys.collect::<PyResult<Vec<_>>>()?;
    match (&*cipher_name, older.len()) {
        ("sealed", _) => Ok(Network::Sealed { key, older }),
        (_, 0) => Ok(Network::ChaCha20(key)),
        (_, more) => Err(value_error(
            NAME,
            "one key for \"chacha20\", which cannot tell under which key a packet is",
            &(more + 1).to_string(),
        )),
    }
}

/// A key for v0.1's cipher; None for no key.
pub fn chacha20(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Network> {
    if value.is_none() {
        return Ok(Network::Public);
    }
    network_key(name, value).map(Network::ChaCha20)
}

fn network_key(name: &str, value: &Bound<'_, PyAny>) -> PyResult<NetworkKey> {
    let is_none = |error: PyErr| error.is_instance_of::<PyTypeError>(value.py());
    if PyMemoryView::from(value).is_err_and(is_none) {
        let class = class_name(value);
        let hint = match value.is_instance_of::<PyString>() {
            true => "; bytes.fromhex() makes them of a key in hex",
            false => "",
        };
        return Err(PyTypeError::new_err(format!("{name} must be 32 bytes, got {class}{hint}")));
    }
    let bytes = Zeroizing::new(bytes(name, value)?);
    NetworkKey::new(&bytes).map_err(|error| match error {
        // As many as hex has, with a line end or without.
        KeyError::Length(len @ 64..=66) => {
            let got = format!("{len} bytes; bytes.fromhex() makes 32 of a key in hex");
            value_error(name, "32 bytes", &got)
        }
        KeyError::Length(len) => value_error(name, "32 bytes", &format!("{len} bytes")),
        KeyError::Zero => value_error(name, "random bytes", "all zeros, which is no secret"),
    })
}
