//! v0.1's functions, which act on one node for the whole process: the one that `create_swarm` made
//! last, else the first `Swarm` that is still open.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use super::detach::{detached, in_python};
use super::handle::{self, Handle};
use super::{callbacks, classes, convert, keys};
use crate::config::Config;
use crate::dht::requests::Question;
use crate::wire::seal::Network;

/// What v0.1's functions act on.
struct Process {
    /// The node that `create_swarm` made.
    made: Option<Arc<Handle>>,
    /// The callback, which the default node gets, whichever that is.
    callback: Option<Py<PyAny>>,
    /// The node that has it.
    holder: Weak<Handle>,
}

/// Under its lock no Python runs, so neither a callback nor a node, which holds one, is dropped there.
static PROCESS: Mutex<Process> =
    Mutex::new(Process { made: None, callback: None, holder: Weak::new() });
/// The network of the nodes that `create_swarm` makes, as `set_network_key` says. Taken before
/// `PROCESS`.
static NETWORK: Mutex<Network> = Mutex::new(Network::Public);

impl Process {
    /// The one made last, else the first of `nodes`, as far as they are open.
    fn default<'a>(&'a self, nodes: &'a [Arc<Handle>]) -> Option<&'a Arc<Handle>> {
        let others = nodes.iter().filter(|handle| handle.is_default);
        self.made.iter().chain(others).find(|handle| !handle.node.is_closed())
    }

    /// The default node, where it is to get the callback.
    fn without_callback<'a>(&'a self, nodes: &'a [Arc<Handle>]) -> Option<&'a Arc<Handle>> {
        self.callback.as_ref()?;
        self.default(nodes).filter(|handle| self.holder.as_ptr() != Arc::as_ptr(handle))
    }
}

/// The default node, and whether it is the one that `create_swarm` made.
fn node_in_use(py: Python<'_>) -> PyResult<(Arc<Handle>, bool)> {
    settle(py)?;
    let nodes = handle::all();
    let process = PROCESS.lock();
    let made = process.made.clone();
    let default = process.default(&nodes).cloned();
    drop(process);
    if let Some(default) = default {
        let is_made = made.is_some_and(|made| Arc::ptr_eq(&made, &default));
        return Ok((default, is_made));
    }
    if let Some(made) = made {
        made.node.check_open()?;
    }
    let message = "there is no open node: call create_swarm() or make a Swarm first";
    Err(classes::closed_error(py, message.into()))
}

/// The default node, to send something: not in the clear where the process has a key.
fn sender(py: Python<'_>) -> PyResult<Arc<Handle>> {
    let (handle, is_made) = node_in_use(py)?;
    let wants_key = !matches!(*NETWORK.lock(), Network::Public);
    if wants_key && !is_made && !handle.is_private {
        return Err(PyRuntimeError::new_err(
            "set_network_key was given a key, but the default node is a Swarm without one: call create_swarm(), or make the Swarm with network_key and cipher=\"chacha20\"",
        ));
    }
    Ok(handle)
}

/// Sees to it that the default node has the process's callback, and no other.
pub fn settle(py: Python<'_>) -> PyResult<()> {
    loop {
        let nodes = handle::all();
        let next = PROCESS.lock().without_callback(&nodes).cloned();
        let Some(next) = next else {
            return Ok(());
        };
        // It runs Python, while others may change all this.
        next.ensure_dispatcher(py)?;
        hand_over(py, &next);
    }
}

/// Gives the callback to `next`, if that is the default node still, and takes it from its holder.
fn hand_over(py: Python<'_>, next: &Arc<Handle>) {
    let nodes = handle::all();
    let mut process = PROCESS.lock();
    if !process.without_callback(&nodes).is_some_and(|handle| Arc::ptr_eq(handle, next)) {
        return;
    }
    let callback = process.callback.as_ref().map(|callback| callback.clone_ref(py));
    // It fails where the node is closed, and so not the default one.
    let Ok(own) = next.callbacks.replace(callback) else {
        return;
    };
    let former = std::mem::replace(&mut process.holder, Arc::downgrade(next)).upgrade();
    let taken = former.as_ref().map(|former| former.callbacks.replace(None));
    drop(process);
    drop((own, taken, former));
}

/// Makes the process's node on `port` (0: the system chooses) and closes the one made before.
///
/// Returns the port. Raises OSError where it cannot be bound; then the one made before stays,
/// unless the port is its own.
#[pyfunction]
#[pyo3(signature = (port = None), text_signature = "(port=0)")]
pub fn create_swarm(py: Python<'_>, port: Option<&Bound<'_, PyAny>>) -> PyResult<u16> {
    let port = port.map_or(Ok(0), |port| convert::bind_port("port", port))?;
    let former = PROCESS.lock().made.clone();
    if let Some(former) = former.filter(|former| former.node.address().port() == port) {
        detached(py, || former.node.close());
    }
    let address = ([0, 0, 0, 0], port).into();
    let network = NETWORK.lock().clone();
    let handle = Handle::start(py, address, None, &network, Config::default(), true)?;
    let network = NETWORK.lock();
    // The key may have been changed while the node was made. One that the exit has closed has no use
    // for it.
    let _ = handle.node.enter(&network);
    let former = PROCESS.lock().made.replace(Arc::clone(&handle));
    drop(network);
    if let Some(former) = former {
        detached(py, || former.node.close());
    }
    settle(py)?;
    Ok(handle.node.address().port())
}

/// Sets what is called with every packet: `callback(sender_id, msg_type, ip, port, payload)`.
///
/// None removes it. It is the process's: a node that becomes the default one later takes it over
/// when it is made, or else at the next call of one of these functions.
#[pyfunction]
pub fn set_callback(callback: &Bound<'_, PyAny>) -> PyResult<()> {
    let checked = callbacks::checked("callback", callback)?;
    let is_removed = checked.is_none();
    let nodes = handle::all();
    let mut process = PROCESS.lock();
    let former = std::mem::replace(&mut process.callback, checked);
    let holder = std::mem::take(&mut process.holder).upgrade();
    // The default node's own goes too.
    let default = process.default(&nodes).filter(|_| is_removed).cloned();
    let taken: Vec<_> =
        holder.iter().chain(&default).map(|handle| handle.callbacks.replace(None)).collect();
    drop(process);
    drop((former, taken, holder, default));
    settle(callback.py())
}

/// Sends a PING. The answer comes to the callback.
#[pyfunction]
pub fn dht_ping(py: Python<'_>, ip: &Bound<'_, PyAny>, port: &Bound<'_, PyAny>) -> PyResult<()> {
    fire(py, ip, port, Question::Ping)
}

/// Sends a FIND_NODE for the 32-byte `target`. The answer comes to the callback.
#[pyfunction]
pub fn dht_find_node(
    py: Python<'_>,
    ip: &Bound<'_, PyAny>,
    port: &Bound<'_, PyAny>,
    target: &Bound<'_, PyAny>,
) -> PyResult<()> {
    fire(py, ip, port, Question::FindNode(convert::id("target", target)?))
}

/// Sends an ANNOUNCE_PEER of the 32-byte `topic`; `announced_port` is where the peer listens.
#[pyfunction]
pub fn dht_announce_peer(
    py: Python<'_>,
    ip: &Bound<'_, PyAny>,
    port: &Bound<'_, PyAny>,
    topic: &Bound<'_, PyAny>,
    announced_port: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let handle = sender(py)?;
    let to = handle.endpoint(["ip", "port"], ip, Some(port))?;
    let topic = convert::topic("topic", topic)?;
    let announced = convert::port("announced_port", announced_port)?;
    Ok(detached(py, || handle.node.announce_to(to, topic, Some(announced)))?)
}

/// Sends a GET_PEERS of the 32-byte `topic`. The answer comes to the callback.
#[pyfunction]
pub fn dht_get_peers(
    py: Python<'_>,
    ip: &Bound<'_, PyAny>,
    port: &Bound<'_, PyAny>,
    topic: &Bound<'_, PyAny>,
) -> PyResult<()> {
    fire(py, ip, port, Question::GetPeers(convert::topic("topic", topic)?))
}

fn fire(
    py: Python<'_>,
    ip: &Bound<'_, PyAny>,
    port: &Bound<'_, PyAny>,
    question: Question,
) -> PyResult<()> {
    let handle = sender(py)?;
    let to = handle.endpoint(["ip", "port"], ip, Some(port))?;
    Ok(detached(py, || handle.node.fire(to, question))?)
}

/// Sends a packet of any type, 0 to 255, with `payload` (at most 1,100 bytes) as its body.
#[pyfunction]
#[pyo3(signature = (ip, port, r#type, payload))]
pub fn send_packet(
    py: Python<'_>,
    ip: &Bound<'_, PyAny>,
    port: &Bound<'_, PyAny>,
    r#type: &Bound<'_, PyAny>,
    payload: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let handle = sender(py)?;
    let to = handle.endpoint(["ip", "port"], ip, Some(port))?;
    let kind = convert::any_kind("type", r#type)?;
    let payload = convert::payload("payload", payload)?;
    Ok(detached(py, || handle.node.send(to, kind, &payload))?)
}

/// Sets the network key of the node that `create_swarm` made, and of those that it makes later.
///
/// With a key, 32 bytes that all members share, packets are encrypted with v0.1's ChaCha20, and
/// packets of others are not understood. That hides what they say; it does not stop anyone who
/// can change packets on their way. None switches encryption off. Between a key and none a node
/// forgets its contacts and what it stores. A `Swarm` is not touched: its keys are those that it
/// was made with.
#[pyfunction]
pub fn set_network_key(key: &Bound<'_, PyAny>) -> PyResult<()> {
    let network = keys::chacha20("key", key)?;
    let mut current = NETWORK.lock();
    *current = network;
    let made = PROCESS.lock().made.clone();
    // A closed node has no use for it.
    let _ = made.map(|made| made.node.enter(&current));
    Ok(())
}

/// Forgets the stored peers that were announced `max_age_ms` milliseconds ago or earlier.
#[pyfunction]
pub fn storage_cleanup(py: Python<'_>, max_age_ms: &Bound<'_, PyAny>) -> PyResult<()> {
    let age = convert::integer("max_age_ms", "milliseconds, an int of 0 or more", max_age_ms)?;
    let age = u64::try_from(age).map_err(|_| {
        PyValueError::new_err(format!(
            "max_age_ms must be milliseconds, an int of 0 or more, got {age}"
        ))
    })?;
    let (handle, _) = node_in_use(py)?;
    Ok(detached(py, || handle.node.clean_storage(Duration::from_millis(age)))?)
}

/// Prints the routing table.
#[pyfunction]
pub fn dump_routing_table(py: Python<'_>) -> PyResult<()> {
    let (handle, _) = node_in_use(py)?;
    let entries = detached(py, || handle.node.entries())?;
    let nodes: Vec<_> =
        entries.iter().map(|entry| convert::node(py, &entry.contact)).collect::<PyResult<_>>()?;
    let id = PyBytes::new(py, &handle.node.id().0);
    in_python(|| py.import("kadepy._runtime")?.getattr("print_table")?.call1((id, nodes)).map(drop))
}

/// The XOR distance of two 32-byte ids, as 32 bytes.
///
/// >>> from kadepy import xor_distance
/// >>> xor_distance(bytes(32), b"\x01" * 32) == b"\x01" * 32
/// True
#[pyfunction]
pub fn xor_distance<'py>(
    a: &Bound<'py, PyAny>,
    b: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyBytes>> {
    let distance = convert::id("a", a)?.distance(&convert::id("b", b)?);
    Ok(PyBytes::new(a.py(), &distance.to_bytes()))
}

/// The 32-byte topic of a name: the SHA-256 of its UTF-8, or of the bytes given.
///
/// >>> from kadepy import topic
/// >>> topic("chess") == topic(b"chess")
/// True
/// >>> len(topic("chess"))
/// 32
#[pyfunction]
pub fn topic<'py>(name: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    let id = match name.cast::<PyString>() {
        Ok(text) => crate::NodeId::of_topic(text.to_str()?.as_bytes()),
        Err(_) => crate::NodeId::of_topic(&convert::bytes("name", name)?),
    };
    Ok(PyBytes::new(name.py(), &id.0))
}
