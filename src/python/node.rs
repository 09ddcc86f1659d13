//! `kadepy._core.Node`: one node as Python holds it. What takes time it only begins.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple};

use super::detach::detached;
use super::handle::Handle;
use super::operation::{Goal, PyMembers, PyOperation, PyPeers};
use super::resolve::{self, Joining};
use super::state::StateFile;
use super::{callbacks, classes, config, convert, keys, v01};
use crate::dht::protocol::Refusal;
use crate::dht::requests::Question;
use crate::wire::message::{Kind, Part};

/// One DHT node: a UDP socket, its thread and a routing table. `kadepy.Swarm` is its public face.
#[pyclass(frozen, name = "Node", module = "kadepy._core")]
pub struct PyNode {
    pub handle: Arc<Handle>,
}

#[pymethods]
impl PyNode {
    #[new]
    #[pyo3(signature = (port, host, bootstrap, node_id, network_key, cipher, state_path, read_only, config, is_default))]
    #[expect(clippy::too_many_arguments, reason = "those of Swarm")]
    fn new(
        py: Python<'_>,
        port: &Bound<'_, PyAny>,
        host: &Bound<'_, PyAny>,
        bootstrap: &Bound<'_, PyAny>,
        node_id: &Bound<'_, PyAny>,
        network_key: &Bound<'_, PyAny>,
        cipher: &Bound<'_, PyAny>,
        state_path: &Bound<'_, PyAny>,
        read_only: &Bound<'_, PyAny>,
        config: &Bound<'_, PyAny>,
        is_default: bool,
    ) -> PyResult<Self> {
        let port = convert::bind_port("port", port)?;
        let mut address = convert::ip("host", host)?;
        address.set_port(port);
        let id = if node_id.is_none() { None } else { Some(own_id(node_id)?) };
        let config = config::config(config)?;
        let targets = convert::targets(bootstrap, None)?;
        let network = keys::network(network_key, cipher)?;
        let read_only = convert::optional_boolean("read_only", read_only)?;
        let state_path = convert::path("state_path", state_path)?;
        let state_file = state_path.map(|path| StateFile::open(py, path)).transpose()?;
        let id = id.or_else(|| state_file.as_ref()?.id());
        // A port that was asked for is the one and only.
        let former_port = state_file.as_ref().filter(|_| port == 0).map_or(0, StateFile::port);
        let address = (address, former_port);
        let handle = Handle::start(py, address, id, &network, config, is_default)?;
        if read_only.is_some() {
            detached(py, || handle.node.set_read_only(read_only))?;
        }
        let recalled = state_file.map(|file| file.hand_to(py, &handle.node)).transpose()?;
        if !targets.is_empty() {
            detached(py, || resolve::stay_joined(&handle.node, &targets))?;
        }
        if let Some(contacts) = recalled {
            detached(py, || handle.node.recall(contacts))?;
        }
        v01::settle(py)?;
        Ok(Self { handle })
    }

    #[getter]
    fn id<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.handle.node.id().0)
    }

    #[getter]
    fn port(&self) -> u16 {
        self.handle.node.address().port()
    }

    #[getter]
    fn host(&self) -> String {
        convert::host_text(&self.handle.node.address().into())
    }

    #[getter]
    fn closed(&self) -> bool {
        self.handle.node.is_closed()
    }

    /// Whether it asks public nodes not to list it.
    #[getter]
    fn read_only(&self, py: Python<'_>) -> bool {
        detached(py, || self.handle.node.stats()).is_ok_and(|stats| stats.read_only)
    }

    /// The external address of each family for which there is one, IPv4 first.
    #[getter]
    fn external_addresses<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let external = detached(py, || self.handle.node.external())?;
        let peers: Vec<_> = external
            .iter()
            .flatten()
            .map(|address| convert::peer(py, address))
            .collect::<PyResult<_>>()?;
        PyList::new(py, peers)
    }

    fn bootstrap(
        &self,
        py: Python<'_>,
        ip: &Bound<'_, PyAny>,
        port: Option<&Bound<'_, PyAny>>,
        timeout: &Bound<'_, PyAny>,
    ) -> PyResult<PyOperation> {
        let timeout = convert::timeout(timeout)?;
        let targets = convert::targets(ip, port)?;
        if targets.is_empty() {
            return Err(PyValueError::new_err("bootstrap needs at least one contact, got none"));
        }
        let Handle { node, is_private, .. } = &*self.handle;
        let (pending, joining) =
            detached(py, || Joining::begin(node, *is_private, targets, timeout))?;
        Ok(PyOperation::new(&self.handle, pending, Goal::Join(joining)))
    }

    fn ping(
        &self,
        py: Python<'_>,
        ip: &Bound<'_, PyAny>,
        port: Option<&Bound<'_, PyAny>>,
        timeout: &Bound<'_, PyAny>,
    ) -> PyResult<PyOperation> {
        let timeout = convert::timeout(timeout)?;
        let to = self.handle.endpoint(["ip", "port"], ip, port)?;
        let pending = detached(py, || self.handle.node.ping(to, timeout))?;
        Ok(PyOperation::new(&self.handle, pending, Goal::Ping { to, timeout }))
    }

    fn find_node(
        &self,
        py: Python<'_>,
        target: &Bound<'_, PyAny>,
        timeout: &Bound<'_, PyAny>,
    ) -> PyResult<PyOperation> {
        let timeout = convert::timeout(timeout)?;
        let target = convert::id("target", target)?;
        let pending = detached(py, || self.handle.node.find_node(target, timeout))?;
        Ok(PyOperation::new(&self.handle, pending, Goal::FindNode))
    }

    fn iter_peers(
        &self,
        py: Python<'_>,
        topic: &Bound<'_, PyAny>,
        timeout: &Bound<'_, PyAny>,
    ) -> PyResult<PyPeers> {
        let timeout = convert::timeout(timeout)?;
        let topic = convert::topic("topic", topic)?;
        let pending = detached(py, || self.handle.node.get_peers(topic, timeout))?;
        Ok(PyPeers::new(&self.handle, pending, topic))
    }

    fn announce_peer(
        &self,
        py: Python<'_>,
        topic: &Bound<'_, PyAny>,
        port: &Bound<'_, PyAny>,
        timeout: &Bound<'_, PyAny>,
    ) -> PyResult<PyOperation> {
        let timeout = convert::timeout(timeout)?;
        let topic = convert::topic("topic", topic)?;
        let port = optional_port(port)?;
        let pending = detached(py, || self.handle.node.announce_peer(topic, port, timeout))?;
        Ok(PyOperation::new(&self.handle, pending, Goal::Announce))
    }

    /// Joins a topic; `on_peer` is only checked.
    fn join_topic(
        &self,
        py: Python<'_>,
        topic: &Bound<'_, PyAny>,
        port: &Bound<'_, PyAny>,
        on_peer: &Bound<'_, PyAny>,
    ) -> PyResult<PyMembers> {
        let topic = convert::topic("topic", topic)?;
        let port = optional_port(port)?;
        callbacks::checked("on_peer", on_peer)?;
        let pending = detached(py, || self.handle.node.join_topic(topic, port))?;
        Ok(PyMembers::new(&self.handle, pending, topic, port))
    }

    fn send(
        &self,
        py: Python<'_>,
        ip: &Bound<'_, PyAny>,
        port: Option<&Bound<'_, PyAny>>,
        kind: &Bound<'_, PyAny>,
        payload: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let to = self.handle.endpoint(["ip", "port"], ip, port)?;
        let kind = convert::application_kind("type", kind)?;
        let payload = convert::payload("payload", payload)?;
        Ok(detached(py, || self.handle.node.send(to, kind, &payload))?)
    }

    fn announce_to(
        &self,
        py: Python<'_>,
        target_ip: &Bound<'_, PyAny>,
        target_port: Option<&Bound<'_, PyAny>>,
        topic_hash: &Bound<'_, PyAny>,
        port: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let to = self.handle.endpoint(["target_ip", "target_port"], target_ip, target_port)?;
        let topic = convert::topic("topic_hash", topic_hash)?;
        let port = optional_port(port)?;
        Ok(detached(py, || self.handle.node.announce_to(to, topic, port))?)
    }

    fn lookup_from(
        &self,
        py: Python<'_>,
        target_ip: &Bound<'_, PyAny>,
        target_port: Option<&Bound<'_, PyAny>>,
        topic_hash: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let to = self.handle.endpoint(["target_ip", "target_port"], target_ip, target_port)?;
        let topic = convert::topic("topic_hash", topic_hash)?;
        Ok(detached(py, || self.handle.node.fire(to, Question::GetPeers(topic, Part::WHOLE)))?)
    }

    fn set_callback(&self, callback: &Bound<'_, PyAny>) -> PyResult<()> {
        self.handle.set_callback(callback)
    }

    fn nodes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let entries = detached(py, || self.handle.node.entries())?;
        let nodes: Vec<_> = entries
            .iter()
            .map(|entry| convert::node(py, &entry.contact))
            .collect::<PyResult<_>>()?;
        PyList::new(py, nodes)
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let stats = detached(py, || self.handle.node.stats())?;
        let counters = &stats.counters;
        let by_kind = |counts: &[u64]| -> PyResult<Bound<'py, PyDict>> {
            let dict = PyDict::new(py);
            for kind in Kind::ALL {
                dict.set_item(kind.name(), counts[kind as usize])?;
            }
            Ok(dict)
        };
        let dropped = PyDict::new(py);
        for refusal in Refusal::ALL {
            dropped.set_item(refusal.name(), counters.refused[refusal as usize])?;
        }
        let (waiting, callback_dropped) = self.handle.node.notices_waiting();
        let fields = [
            by_kind(&counters.packets_in)?.into_any(),
            by_kind(&counters.packets_out)?.into_any(),
            counters.bytes_in.into_pyobject(py)?.into_any(),
            counters.bytes_out.into_pyobject(py)?.into_any(),
            dropped.into_any(),
            counters.requests.into_pyobject(py)?.into_any(),
            counters.timeouts.into_pyobject(py)?.into_any(),
            stats.rtt.map(|rtt| rtt.as_secs_f64()).into_pyobject(py)?,
            counters.lookups.into_pyobject(py)?.into_any(),
            stats.lookups_active.into_pyobject(py)?.into_any(),
            stats.contacts.into_pyobject(py)?.into_any(),
            stats.topics.into_pyobject(py)?.into_any(),
            stats.records.into_pyobject(py)?.into_any(),
            waiting.into_pyobject(py)?.into_any(),
            callback_dropped.into_pyobject(py)?.into_any(),
            self.handle.callbacks.errors().into_pyobject(py)?.into_any(),
            stats.uptime.as_secs_f64().into_pyobject(py)?.into_any(),
            stats.reachable.into_pyobject(py)?,
            stats.read_only.into_pyobject(py)?.to_owned().into_any(),
        ];
        let class = classes::classes(py)?.stats.bind(py);
        convert::named_tuple(class, PyTuple::new(py, fields)?)
    }

    fn save(&self, py: Python<'_>) -> PyResult<()> {
        Ok(detached(py, || self.handle.node.save())?)
    }

    /// Packets that may wait for whoever takes them.
    #[getter]
    fn callback_queue(&self) -> usize {
        self.handle.callback_queue()
    }

    /// Counts a packet that was dropped because too many waited.
    fn count_dropped(&self) {
        self.handle.node.count_dropped();
    }

    /// Counts a call that raised.
    fn count_error(&self) {
        self.handle.callbacks.count_error();
    }

    fn close(&self, py: Python<'_>) {
        detached(py, || self.handle.node.close());
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.handle.callbacks.traverse(&visit)
    }

    fn __clear__(&self) {
        self.handle.callbacks.clear();
    }
}

fn own_id(value: &Bound<'_, PyAny>) -> PyResult<crate::NodeId> {
    let id = convert::id("node_id", value)?;
    if id == crate::NodeId::ZERO || id == crate::NodeId::MAX {
        return Err(PyValueError::new_err(
            "node_id must not be all zeros or all ones: other nodes ignore such",
        ));
    }
    Ok(id)
}

pub fn optional_port(value: &Bound<'_, PyAny>) -> PyResult<Option<u16>> {
    if value.is_none() { Ok(None) } else { convert::port("port", value).map(Some) }
}
