//! Host names into addresses, on threads of their own: the system's resolver takes as long as it
//! likes.

use std::net::ToSocketAddrs;
use std::sync::{Arc, Weak};
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded};
use log::Level;

use super::convert::Target;
use crate::node::{CommandError, Node};
use crate::wire::message::Endpoint;

/// The wait before names that did not resolve are tried again, which doubles with each failure.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// What a contact resolves to, or why it does not.
pub type Resolved = (Target, Result<Vec<Endpoint>, String>);

/// Contacts whose host is an address, and those whose host is a name.
pub fn split(targets: Vec<Target>) -> (Vec<Target>, Vec<Target>) {
    targets.into_iter().partition(|target| target.endpoint().is_some())
}

/// Resolves names for a node that reaches IPv4, or else IPv6; the answer comes through the channel.
pub fn resolve(names: Vec<Target>, ipv4: bool) -> Receiver<Vec<Resolved>> {
    let (sender, receiver) = bounded(1);
    // Without the thread the channel is disconnected, which the caller takes as no answer; and
    // nobody may be waiting any more when the answer is there.
    on_a_thread(move || drop(sender.send(resolve_all(names, ipv4))));
    receiver
}

/// Has `node` join through `targets`, and stay joined: through addresses at once, through names as
/// soon as one of them resolves.
pub fn stay_joined(node: &Arc<Node>, targets: Vec<Target>) -> Result<(), CommandError> {
    let ipv4 = node.address().is_ipv4();
    let (literal, names) = split(targets);
    let known = endpoints(&resolve_all(literal, ipv4));
    node.stay_joined(known.clone())?;
    if !names.is_empty() {
        node.expect_seeds()?;
        let weak = Arc::downgrade(node);
        on_a_thread(move || join_when_resolved(&weak, known, &names, ipv4));
    }
    Ok(())
}

fn join_when_resolved(node: &Weak<Node>, mut seeds: Vec<Endpoint>, names: &[Target], ipv4: bool) {
    let mut wait = BACKOFF_MIN;
    loop {
        let resolved = resolve_all(names.to_vec(), ipv4);
        let found = endpoints(&resolved);
        let Some(node) = node.upgrade() else {
            return;
        };
        for (name, error) in
            resolved.iter().filter_map(|(name, found)| Some((name, found.as_ref().err()?)))
        {
            node.log(Level::Warn, format!("cannot join through {name}: {error}"));
        }
        if !found.is_empty() {
            seeds.extend(found);
            // It fails only where the node is closed.
            let _ = node.stay_joined(seeds);
            return;
        }
        if node.wait_closed(wait) {
            return;
        }
        wait = (wait * 2).min(BACKOFF_MAX);
    }
}

fn on_a_thread(work: impl FnOnce() + Send + 'static) {
    // Where there is no thread to be had, nothing is resolved, and lookups wait for their timeout.
    let _ = std::thread::Builder::new().name("kadepy-resolver".into()).spawn(work);
}

/// All addresses that were found, each contact's own in the resolver's order.
pub fn endpoints(resolved: &[Resolved]) -> Vec<Endpoint> {
    resolved.iter().filter_map(|(_, found)| found.as_ref().ok()).flatten().copied().collect()
}

pub fn resolve_all(targets: Vec<Target>, ipv4: bool) -> Vec<Resolved> {
    targets
        .into_iter()
        .map(|target| {
            let found = resolve_one(&target, ipv4);
            (target, found)
        })
        .collect()
}

fn resolve_one(target: &Target, ipv4: bool) -> Result<Vec<Endpoint>, String> {
    let all: Vec<Endpoint> = match target.endpoint() {
        Some(endpoint) => vec![endpoint],
        None => (target.host.as_str(), target.port)
            .to_socket_addrs()
            .map_err(|error| format!("the name does not resolve: {error}"))?
            .map(Endpoint::from)
            .filter(Endpoint::is_sendable)
            .collect(),
    };
    let reached: Vec<Endpoint> =
        all.into_iter().filter(|endpoint| endpoint.is_ipv4() == ipv4).collect();
    if reached.is_empty() {
        let family = if ipv4 { "IPv4" } else { "IPv6" };
        return Err(format!("it has no {family} address, and this node speaks {family} only"));
    }
    Ok(reached)
}
