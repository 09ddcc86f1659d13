//! The module `kadepy._core`: what it holds, and nothing else.

use pyo3::prelude::*;

use super::config::PyConfig;
use super::lines::{self, PyLines};
use super::node::PyNode;
use super::notices::{self, PyNotices};
use super::operation::{PyMembers, PyOperation, PyPeers};
use super::simulation::PySimulation;
use super::{handle, v01};

/// The compiled core of KadePy.
#[pymodule(gil_used = false)]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<PyConfig>()?;
    module.add_class::<PyNode>()?;
    module.add_class::<PyMembers>()?;
    module.add_class::<PyOperation>()?;
    module.add_class::<PyPeers>()?;
    module.add_class::<PyNotices>()?;
    module.add_class::<PyLines>()?;
    module.add_class::<PySimulation>()?;
    for function in [
        wrap_pyfunction!(handle::_close_all, module)?,
        wrap_pyfunction!(handle::_abandon_all, module)?,
        wrap_pyfunction!(lines::_open_log, module)?,
        wrap_pyfunction!(notices::_report, module)?,
        wrap_pyfunction!(v01::create_swarm, module)?,
        wrap_pyfunction!(v01::set_callback, module)?,
        wrap_pyfunction!(v01::dht_ping, module)?,
        wrap_pyfunction!(v01::dht_find_node, module)?,
        wrap_pyfunction!(v01::dht_announce_peer, module)?,
        wrap_pyfunction!(v01::dht_get_peers, module)?,
        wrap_pyfunction!(v01::send_packet, module)?,
        wrap_pyfunction!(v01::set_network_key, module)?,
        wrap_pyfunction!(v01::storage_cleanup, module)?,
        wrap_pyfunction!(v01::dump_routing_table, module)?,
        wrap_pyfunction!(v01::xor_distance, module)?,
        wrap_pyfunction!(v01::topic, module)?,
    ] {
        module.add_function(function)?;
    }
    Ok(())
}
