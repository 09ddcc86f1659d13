//! Python values into the core's types and back; past this file no type is checked again.
//!
//! Every error names the argument, what came and what is allowed.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use pyo3::exceptions::{PyOSError, PyOverflowError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{
    PyBool, PyBytes, PyDict, PyInt, PyList, PyMemoryView, PyString, PyTuple, PyType,
};

use super::classes;
use crate::id::{ID_LEN, NodeId};
use crate::net::socket::interface_name;
use crate::node::reasons;
use crate::wire::message::{Body, Contact, Endpoint};
use crate::wire::native::{self, FIRST_APPLICATION_KIND, Lists, MAX_PAYLOAD};

/// The longest timeout in seconds, some 30 years; a longer one means the same.
const TIMEOUT_MAX: f64 = 1e9;
/// The longest latency of a simulation.
const MILLISECONDS_MAX: f64 = 60_000.0;
/// The longest host name, from RFC 1035.
const HOST_MAX: usize = 253;

/// A value as an error shows it: its `repr`, cut.
pub fn shown(value: &Bound<'_, PyAny>) -> String {
    const SHOWN_MAX: usize = 60;
    let repr = value.repr().map_or_else(|_| "an object".to_owned(), |repr| repr.to_string());
    if repr.chars().count() <= SHOWN_MAX {
        return repr;
    }
    repr.chars().take(SHOWN_MAX).chain("...".chars()).collect()
}

fn type_error(name: &str, expected: &str, value: &Bound<'_, PyAny>) -> PyErr {
    let class = class_name(value);
    PyTypeError::new_err(format!("{name} must be {expected}, got {class} {}", shown(value)))
}

/// The name of a value's class.
pub fn class_name(value: &Bound<'_, PyAny>) -> String {
    value.get_type().name().map_or_else(|_| "object".to_owned(), |name| name.to_string())
}

/// The error of a value that is not among those allowed.
pub fn value_error(name: &str, expected: &str, got: &str) -> PyErr {
    PyValueError::new_err(format!("{name} must be {expected}, got {got}"))
}

/// The bytes of any contiguous bytes-like object, as they are now.
pub fn bytes(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    if let Ok(bytes) = value.cast::<PyBytes>() {
        return Ok(bytes.as_bytes().to_vec());
    }
    let view = PyMemoryView::from(value).map_err(|error| {
        if error.is_instance_of::<PyTypeError>(value.py()) {
            type_error(name, "a bytes-like object", value)
        } else {
            PyValueError::new_err(format!("{name} cannot be read: {error}"))
        }
    })?;
    if !view.getattr("c_contiguous")?.is_truthy()? {
        // Not its content, which may be a key.
        return Err(value_error(name, "contiguous", &class_name(value)));
    }
    Ok(view.call_method0("tobytes")?.cast::<PyBytes>()?.as_bytes().to_vec())
}

/// A node id or a distance: 32 bytes.
pub fn id(name: &str, value: &Bound<'_, PyAny>) -> PyResult<NodeId> {
    let bytes = bytes(name, value)?;
    let array: [u8; ID_LEN] = bytes.try_into().map_err(|bytes: Vec<u8>| {
        value_error(name, "32 bytes", &format!("{} bytes", bytes.len()))
    })?;
    Ok(NodeId(array))
}

/// A topic: 32 bytes; a name is refused with a hint.
pub fn topic(name: &str, value: &Bound<'_, PyAny>) -> PyResult<NodeId> {
    if value.is_instance_of::<PyString>() {
        let text = shown(value);
        return Err(PyTypeError::new_err(format!(
            "{name} must be 32 bytes, got str {text}; kadepy.topic({text}) gives the topic of that name"
        )));
    }
    id(name, value).map_err(|error| {
        if error.is_instance_of::<PyValueError>(value.py()) {
            let hint = "kadepy.topic() gives the topic of a name";
            return PyValueError::new_err(format!("{}; {hint}", error.value(value.py())));
        }
        error
    })
}

/// A whole number, no bool.
pub fn integer(name: &str, expected: &str, value: &Bound<'_, PyAny>) -> PyResult<i64> {
    if value.is_instance_of::<PyBool>() {
        return Err(type_error(name, expected, value));
    }
    value.extract::<i64>().map_err(|error| {
        if error.is_instance_of::<PyOverflowError>(value.py()) {
            value_error(name, expected, &shown(value))
        } else {
            type_error(name, expected, value)
        }
    })
}

/// A whole number of `range`.
fn integer_in(
    name: &str,
    expected: &str,
    value: &Bound<'_, PyAny>,
    least: i64,
    most: i64,
) -> PyResult<i64> {
    let number = integer(name, expected, value)?;
    if (least..=most).contains(&number) {
        Ok(number)
    } else {
        Err(value_error(name, expected, &shown(value)))
    }
}

/// A port that something can be sent to.
pub fn port(name: &str, value: &Bound<'_, PyAny>) -> PyResult<u16> {
    integer_in(name, "an int from 1 to 65535", value, 1, 65_535).map(|port| port as u16)
}

/// A port to bind to, where 0 lets the system choose.
pub fn bind_port(name: &str, value: &Bound<'_, PyAny>) -> PyResult<u16> {
    integer_in(name, "an int from 0 to 65535", value, 0, 65_535).map(|port| port as u16)
}

/// A packet's type that belongs to applications.
pub fn application_kind(name: &str, value: &Bound<'_, PyAny>) -> PyResult<u8> {
    let least = i64::from(FIRST_APPLICATION_KIND);
    integer_in(name, "an application's type, an int from 16 to 255", value, least, 255)
        .map(|kind| kind as u8)
}

/// Any packet's type.
pub fn any_kind(name: &str, value: &Bound<'_, PyAny>) -> PyResult<u8> {
    integer_in(name, "a packet's type, an int from 0 to 255", value, 0, 255).map(|kind| kind as u8)
}

/// A message's bytes, no more than fit into a datagram.
pub fn payload(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    let bytes = bytes(name, value)?;
    if bytes.len() > MAX_PAYLOAD {
        return Err(value_error(name, "at most 1100 bytes", &format!("{} bytes", bytes.len())));
    }
    Ok(bytes)
}

/// A number, no bool; it may be infinite, or none.
fn number(name: &str, expected: &str, value: &Bound<'_, PyAny>) -> PyResult<f64> {
    if value.is_instance_of::<PyBool>() {
        return Err(type_error(name, expected, value));
    }
    value.extract().map_err(|error: PyErr| {
        if error.is_instance_of::<PyOverflowError>(value.py()) {
            value_error(name, expected, &shown(value))
        } else {
            type_error(name, expected, value)
        }
    })
}

/// Seconds, finite and not negative.
pub fn seconds(name: &str, expected: &str, value: &Bound<'_, PyAny>) -> PyResult<Duration> {
    let seconds = number(name, expected, value)?;
    if !seconds.is_finite() || seconds < 0.0 {
        return Err(value_error(name, expected, &shown(value)));
    }
    Ok(Duration::from_secs_f64(seconds.min(TIMEOUT_MAX)))
}

/// Seconds, finite and more than none.
pub fn some_seconds(name: &str, expected: &str, value: &Bound<'_, PyAny>) -> PyResult<Duration> {
    let span = seconds(name, expected, value)?;
    if span.is_zero() { Err(value_error(name, expected, &shown(value))) } else { Ok(span) }
}

/// A share of a whole.
pub fn share(name: &str, value: &Bound<'_, PyAny>) -> PyResult<f64> {
    const EXPECTED: &str = "a share from 0 to 1";
    let share = number(name, EXPECTED, value)?;
    // What is no number is in no range.
    if (0.0..=1.0).contains(&share) {
        Ok(share)
    } else {
        Err(value_error(name, EXPECTED, &shown(value)))
    }
}

/// Two times in milliseconds, the lesser first.
pub fn milliseconds(name: &str, value: &Bound<'_, PyAny>) -> PyResult<RangeInclusive<Duration>> {
    let expected = format!("(least, most) milliseconds from 0 to {MILLISECONDS_MAX}");
    let Ok(pair) = value.cast::<PyTuple>() else {
        return Err(type_error(name, &expected, value));
    };
    if pair.len() != 2 {
        return Err(value_error(name, &expected, &shown(value)));
    }
    let side = |at| {
        let number = number(name, &expected, &pair.get_item(at)?);
        number.map_err(|error| {
            if error.is_instance_of::<PyTypeError>(value.py()) {
                type_error(name, &expected, value)
            } else {
                error
            }
        })
    };
    let (least, most) = (side(0)?, side(1)?);
    // What is no number is not less than another, either.
    if 0.0 <= least && least <= most && most <= MILLISECONDS_MAX {
        Ok(Duration::from_secs_f64(least / 1e3)..=Duration::from_secs_f64(most / 1e3))
    } else {
        Err(value_error(name, &expected, &shown(value)))
    }
}

/// A whole number of 64 bits from which random ones are made.
pub fn seed(name: &str, value: &Bound<'_, PyAny>) -> PyResult<u64> {
    const EXPECTED: &str = "an int from 0 to 2**64 - 1";
    if value.is_instance_of::<PyBool>() {
        return Err(type_error(name, EXPECTED, value));
    }
    value.extract().map_err(|error: PyErr| {
        if error.is_instance_of::<PyOverflowError>(value.py()) {
            value_error(name, EXPECTED, &shown(value))
        } else {
            type_error(name, EXPECTED, value)
        }
    })
}

/// How many of something.
pub fn count(name: &str, value: &Bound<'_, PyAny>, least: u32, most: u32) -> PyResult<usize> {
    let expected = format!("an int from {least} to {most}");
    integer_in(name, &expected, value, least.into(), most.into()).map(|count| count as usize)
}

/// True or False, and nothing that is like it.
pub fn boolean(name: &str, value: &Bound<'_, PyAny>) -> PyResult<bool> {
    value
        .cast::<PyBool>()
        .map(|value| value.is_true())
        .map_err(|_| type_error(name, "True or False", value))
}

/// One of a list of names, as its place in the list.
pub fn choice(name: &str, value: &Bound<'_, PyAny>, names: &[&str]) -> PyResult<usize> {
    let quoted: Vec<_> = names.iter().map(|name| format!("{name:?}")).collect();
    let expected = format!("one of {}", quoted.join(", "));
    let text = text(name, &expected, value)?;
    let place = names.iter().position(|name| *name == text);
    place.ok_or_else(|| value_error(name, &expected, &shown(value)))
}

/// A timeout, where None means until the work ends by itself.
pub fn timeout(value: &Bound<'_, PyAny>) -> PyResult<Option<Duration>> {
    if value.is_none() {
        return Ok(None);
    }
    seconds("timeout", "seconds, finite and not negative, or None", value).map(Some)
}

fn text(name: &str, expected: &str, value: &Bound<'_, PyAny>) -> PyResult<String> {
    match value.cast::<PyString>() {
        Ok(text) => {
            text.to_str().map(str::to_owned).map_err(|_| value_error(name, expected, &shown(value)))
        }
        Err(_) => Err(type_error(name, expected, value)),
    }
}

/// A file's path; `None` where it is None. What has `__fspath__` was asked for it before.
pub fn path(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Option<PathBuf>> {
    const EXPECTED: &str = "a path, as str or os.PathLike[str]";
    if value.is_none() {
        return Ok(None);
    }
    if !value.is_instance_of::<PyString>() {
        return Err(type_error(name, EXPECTED, value));
    }
    // It fails where the system has no bytes for a character.
    let path: PathBuf = value.extract().map_err(|_| value_error(name, EXPECTED, &shown(value)))?;
    let bytes = path.as_os_str().as_encoded_bytes();
    if bytes.is_empty() || bytes.contains(&0) {
        return Err(value_error(
            name,
            "a path of at least one character, none of them NUL",
            &shown(value),
        ));
    }
    Ok(Some(path))
}

/// An IP address, with the name or number of an interface behind `%` where it is link-local.
pub fn ip(name: &str, value: &Bound<'_, PyAny>) -> PyResult<SocketAddr> {
    const EXPECTED: &str = "an IP address like \"192.0.2.1\" or \"2001:db8::1\"";
    let text = text(name, EXPECTED, value)?;
    if let Some(address) = parse_ip(&text) {
        return with_interface(name, address.into()).map(|()| address);
    }
    let expected = if has_interface(&text) {
        "an IP address, and behind the % the name or number of an interface of this machine"
    } else {
        EXPECTED
    };
    Err(value_error(name, expected, &shown(value)))
}

/// An IP address as `socket` takes it: an interface behind `%` must be there.
fn parse_ip(text: &str) -> Option<SocketAddr> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(SocketAddr::new(ip, 0));
    }
    let numbered = format!("[{text}]:0").parse().ok();
    // The system's resolver knows the names of interfaces, and for an address it asks nobody else.
    let named = || (text, 0).to_socket_addrs().ok()?.next();
    numbered.or_else(|| has_interface(text).then(named)?)
}

/// Whether it is an IPv6 address with something behind a `%`.
fn has_interface(text: &str) -> bool {
    text.split_once('%').is_some_and(|(ip, _)| ip.parse::<Ipv6Addr>().is_ok())
}

/// Refuses a link-local address that could be on any link.
fn with_interface(name: &str, endpoint: Endpoint) -> PyResult<()> {
    if endpoint.needs_scope() && endpoint.scope() == 0 {
        let ip = endpoint.ip();
        let expected = format!("a link-local address with its interface, like \"{ip}%eth0\"");
        return Err(value_error(name, &expected, &format!("{:?}", ip.to_string())));
    }
    Ok(())
}

/// Where a contact is to be found; its host may be a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// As it was given.
    host: String,
    /// The host as the system's resolver takes it: in ASCII.
    pub name: String,
    pub port: u16,
}

impl Target {
    /// The endpoint, where the host is an address; none while its interface is not there.
    pub fn endpoint(&self) -> Option<Endpoint> {
        parse_ip(&self.host).map(|address| Endpoint::from(address).with_port(self.port))
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

const EXPECTED_CONTACT: &str = "a contact: \"host:port\", (host, port), a Peer or a Node";

/// An address given as two arguments, or as a Peer, a Node or a pair in the place of both; `names`
/// are those of the arguments.
pub fn endpoint(
    names: [&str; 2],
    value: &Bound<'_, PyAny>,
    port_value: Option<&Bound<'_, PyAny>>,
) -> PyResult<Endpoint> {
    let [ip_name, port_name] = names;
    let (address, port) = match port_value {
        Some(port_value) => (ip(ip_name, value)?, port(port_name, port_value)?),
        None => {
            let Some((host, port_value)) = host_and_port(value)? else {
                return Err(PyTypeError::new_err(format!(
                    "{ip_name} must come with {port_name}, or be a Peer, a Node or an (ip, port) tuple, got {}",
                    shown(value)
                )));
            };
            (ip(ip_name, &host)?, port(port_name, &port_value)?)
        }
    };
    sendable(ip_name, Endpoint::from(address).with_port(port))
}

fn sendable(name: &str, endpoint: Endpoint) -> PyResult<Endpoint> {
    with_interface(name, endpoint)?;
    if endpoint.is_sendable() {
        return Ok(endpoint);
    }
    let ip = endpoint.ip();
    let expected = if ip.is_unspecified() {
        "the address of one host: \"127.0.0.1\" on this machine, else the one that others reach it at (every interface is none)"
    } else {
        "the address of one host"
    };
    Err(value_error(name, expected, &format!("{:?}", ip.to_string())))
}

/// Host and port of a pair, a Peer, a Node or an IPv6 address of four as `socket` has it, whose host
/// names its interface too.
fn host_and_port<'py>(
    value: &Bound<'py, PyAny>,
) -> PyResult<Option<(Bound<'py, PyAny>, Bound<'py, PyAny>)>> {
    let Ok(tuple) = value.cast::<PyTuple>() else {
        return Ok(None);
    };
    Ok(match tuple.len() {
        2 if !is_contact(&tuple.get_item(1)?) => Some((tuple.get_item(0)?, tuple.get_item(1)?)),
        3 if tuple.get_item(0)?.is_instance_of::<PyBytes>() => {
            Some((tuple.get_item(1)?, tuple.get_item(2)?))
        }
        4 if tuple.get_item(2)?.is_instance_of::<PyInt>() => {
            Some((tuple.get_item(0)?, tuple.get_item(1)?))
        }
        _ => None,
    })
}

/// Whether it is a contact itself, and so no port.
fn is_contact(value: &Bound<'_, PyAny>) -> bool {
    let text = value.cast::<PyString>();
    value.is_instance_of::<PyTuple>() || text.is_ok_and(|text| text.to_string_lossy().contains(':'))
}

/// One contact, one given as two arguments, or any number of them.
pub fn targets(
    value: &Bound<'_, PyAny>,
    port_value: Option<&Bound<'_, PyAny>>,
) -> PyResult<Vec<Target>> {
    if let Some(port_value) = port_value {
        return Ok(vec![target(value, port_value)?]);
    }
    if let Some((host, port_value)) = host_and_port(value)? {
        return Ok(vec![target(&host, &port_value)?]);
    }
    if let Ok(text) = value.cast::<PyString>() {
        return Ok(vec![target_from_text(text)?]);
    }
    let Ok(items) = value.try_iter() else {
        return Err(type_error("bootstrap", "a contact or an iterable of contacts", value));
    };
    items
        .map(|item| {
            let item = item?;
            match host_and_port(&item)? {
                Some((host, port_value)) => target(&host, &port_value),
                None => match item.cast::<PyString>() {
                    Ok(text) => target_from_text(text),
                    Err(_) => Err(type_error("bootstrap", EXPECTED_CONTACT, &item)),
                },
            }
        })
        .collect()
}

fn target(host: &Bound<'_, PyAny>, port_value: &Bound<'_, PyAny>) -> PyResult<Target> {
    let text = text("host", "an IP address or a host name", host)?;
    let port = port("port", port_value)?;
    checked_target(&text, port, host)
}

fn target_from_text(text: &Bound<'_, PyString>) -> PyResult<Target> {
    let refused =
        || value_error("bootstrap", "\"host:port\" (an IPv6 address in brackets)", &shown(text));
    let whole = text.to_str().map_err(|_| refused())?;
    let (host, port_text) = whole.rsplit_once(':').ok_or_else(refused)?;
    let host = match host.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
        Some(inside) => inside.ok_or_else(refused)?,
        None if host.contains(':') => return Err(refused()),
        None => host,
    };
    let is_number = port_text.bytes().all(|byte| byte.is_ascii_digit());
    let port =
        port_text.parse().ok().filter(|&port: &u16| is_number && port > 0).ok_or_else(|| {
            value_error(
                "port",
                "an int from 1 to 65535",
                &format!("{port_text:?} in {}", shown(text)),
            )
        })?;
    checked_target(host, port, text)
}

/// A host that is the address of one host, or may be the name of one.
fn checked_target(host: &str, port: u16, value: &Bound<'_, PyAny>) -> PyResult<Target> {
    let refused = || value_error("host", "an IP address or a host name", &shown(value));
    let name = if host.is_ascii() {
        host.to_owned()
    } else {
        in_ascii(&PyString::new(value.py(), host)).map_err(|error| {
            // That of the codec says nothing of the argument.
            if error.is_instance_of::<PyValueError>(value.py()) { refused() } else { error }
        })?
    };
    let target = Target { host: host.to_owned(), name, port };
    match target.endpoint() {
        Some(endpoint) => sendable("host", endpoint).map(|_| target),
        None if has_interface(host) || is_name(&target.name) => Ok(target),
        None => Err(refused()),
    }
}

/// A host name in ASCII, by the codec that Python's `socket` uses.
fn in_ascii(host: &Bound<'_, PyString>) -> PyResult<String> {
    host.call_method1(intern!(host.py(), "encode"), ("idna",))?
        .call_method1(intern!(host.py(), "decode"), ("ascii",))?
        .extract()
}

/// Whether a resolver may know the name. What nobody calls a host is refused at once: parts of a
/// URL, and four numbers that are no address.
fn is_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let has_foreign =
        || name.contains(|c: char| c.is_control() || c.is_whitespace() || "/:@[]%".contains(c));
    !name.is_empty() && name.len() <= HOST_MAX && !has_foreign() && !is_wrong_ipv4(name)
}

fn is_wrong_ipv4(name: &str) -> bool {
    let is_number = |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_digit());
    let labels = || name.split('.');
    labels().count() == 4
        && labels().all(is_number)
        && labels().any(|label| label.parse::<u8>().is_err())
}

/// A named tuple of `class`, made by `tuple` itself: no Python code runs, for which the interpreter
/// might stop this thread with our frames on its stack.
pub fn named_tuple<'py>(
    class: &Bound<'py, PyType>,
    values: Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    class.py().get_type::<PyTuple>().call_method1(intern!(class.py(), "__new__"), (class, values))
}

/// A `kadepy.Peer`; one with an interface stores what `connect` takes for that, too.
pub fn peer<'py>(py: Python<'py>, endpoint: &Endpoint) -> PyResult<Bound<'py, PyAny>> {
    let (classes, ip, port) = (classes::classes(py)?, host_text(endpoint), endpoint.port());
    match endpoint.scope() {
        0 => named_tuple(classes.peer.bind(py), (ip, port).into_pyobject(py)?),
        scope => named_tuple(classes.link_peer.bind(py), (ip, port, 0, scope).into_pyobject(py)?),
    }
}

/// A `kadepy.Node`.
pub fn node<'py>(py: Python<'py>, contact: &Contact) -> PyResult<Bound<'py, PyAny>> {
    let Contact { id, endpoint } = contact;
    let values =
        (PyBytes::new(py, &id.0), host_text(endpoint), endpoint.port()).into_pyobject(py)?;
    named_tuple(classes::classes(py)?.node.bind(py), values)
}

/// An endpoint's address as text, an interface by name where `socket` does it so.
pub fn host_text(endpoint: &Endpoint) -> String {
    match (endpoint.ip(), endpoint.scope()) {
        (ip, 0) => ip.to_string(),
        (ip, scope) => match interface_name(scope) {
            Some(name) => format!("{ip}%{name}"),
            None => format!("{ip}%{scope}"),
        },
    }
}

/// A packet as a callback takes it: `(sender_id, msg_type, ip, port, payload)`.
pub fn packet<'py>(
    py: Python<'py>,
    from: &Endpoint,
    datagram: &[u8],
) -> PyResult<Bound<'py, PyTuple>> {
    let mut lists = Lists::of(from);
    let message = native::decode(datagram, &mut lists).map_err(|error| {
        PyValueError::new_err(format!("a packet that was read before: {error}"))
    })?;
    let payload = match message.body {
        Body::Ping | Body::Pong => py.None().into_bound(py),
        Body::FoundNodes => {
            let nodes = PyList::empty(py);
            for node in message.nodes {
                nodes.append(address_dict(py, Some(&node.id), &node.endpoint)?)?;
            }
            nodes.into_any()
        }
        Body::Peers { .. } => {
            let peers = PyList::empty(py);
            for peer in message.peers {
                peers.append(address_dict(py, None, peer)?)?;
            }
            peers.into_any()
        }
        _ => PyBytes::new(py, native::body_of(datagram)).into_any(),
    };
    let sender = PyBytes::new(py, &message.sender.0);
    let kind = PyInt::new(py, datagram[0]);
    (sender, kind, host_text(from), from.port(), payload).into_pyobject(py)
}

fn address_dict<'py>(
    py: Python<'py>,
    id: Option<&NodeId>,
    endpoint: &Endpoint,
) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    if let Some(id) = id {
        dict.set_item("id", PyBytes::new(py, &id.0))?;
    }
    dict.set_item("ip", host_text(endpoint))?;
    dict.set_item("port", endpoint.port())?;
    Ok(dict)
}

/// The `OSError` for a question that the system refuses to send for a node that is bound to `bound`,
/// with its code.
pub fn unsent(what: &str, code: i32, bound: IpAddr) -> PyErr {
    let text = format!("{what}: {}", reasons::of_system(code, bound));
    if cfg!(windows) {
        return PyOSError::new_err((0, text, None::<String>, code));
    }
    PyOSError::new_err((code, text))
}
