//! Joining through contacts whose hosts may be names: the system's resolver takes as long as it likes,
//! so names are resolved on threads of their own.

use std::net::ToSocketAddrs;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use log::Level;
use parking_lot::Mutex;

use super::convert::Target;
use crate::dht::protocol::{SeedState, Seeds};
use crate::dht::requests::OpId;
use crate::node::{CommandError, Node, Pending};
use crate::wire::message::Endpoint;

/// Names of one node that are resolved at once: a dead one must not hold up the others.
const RESOLVERS: usize = 8;
/// The wait before names that did not resolve are tried again, which doubles with each failure.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// What a contact resolves to, or why it does not.
type Resolved = (Target, Result<Vec<Endpoint>, String>);

/// A join through contacts, of which it tells what became of each.
pub struct Joining {
    own: Endpoint,
    is_private: bool,
    targets: Vec<Target>,
    tried: Arc<Mutex<Vec<Resolved>>>,
}

impl Joining {
    /// Has `node` join through `targets`: through addresses at once, through names as they resolve.
    pub fn begin(
        node: &Arc<Node>,
        is_private: bool,
        targets: Vec<Target>,
        timeout: Option<Duration>,
    ) -> Result<(Pending, Self), CommandError> {
        let ipv4 = node.address().is_ipv4();
        let (literal, names) = split(&targets, ipv4);
        let pending = node.join(endpoints(&literal), !names.is_empty(), timeout)?;
        let own = node.address().into();
        let tried = Arc::new(Mutex::new(literal));
        if !names.is_empty() {
            let (node, op, tried) = (Arc::downgrade(node), pending.op(), Arc::clone(&tried));
            on_a_thread(move || add_when_resolved(&node, op, names, &tried, ipv4));
        }
        Ok((pending, Self { own, is_private, targets, tried }))
    }

    /// Why it failed, with every contact and its reason; `None` where a contact answered.
    pub fn failure(&self, seeds: &Seeds) -> Option<String> {
        if seeds.iter().any(|(_, state)| *state == SeedState::Answered) {
            return None;
        }
        let tried = self.tried.lock();
        let reasons: Vec<String> = self
            .targets
            .iter()
            .map(|target| {
                let found = tried.iter().find(|(name, _)| name == target);
                format!("{target} ({})", self.reason(found.map(|(_, found)| found)))
            })
            .collect();
        let under = if self.is_private { " under this network key" } else { "" };
        Some(format!("no bootstrap contact answered{under}: {}", reasons.join("; ")))
    }

    fn reason<'a>(&self, found: Option<&'a Result<Vec<Endpoint>, String>>) -> &'a str {
        match found {
            None => "its name did not resolve in time",
            Some(Err(error)) => error,
            Some(Ok(endpoints)) if endpoints.iter().all(|endpoint| *endpoint == self.own) => {
                "it is this node itself"
            }
            Some(Ok(_)) => "no answer",
        }
    }
}

fn add_when_resolved(
    node: &Weak<Node>,
    op: OpId,
    names: Vec<Target>,
    tried: &Mutex<Vec<Resolved>>,
    ipv4: bool,
) {
    let mut left = names.len();
    for resolved in resolve(names, ipv4) {
        left -= 1;
        let found = resolved.1.clone().unwrap_or_default();
        tried.lock().push(resolved);
        let Some(node) = node.upgrade() else {
            return;
        };
        // It fails only where the node is closed.
        let _ = node.add_seeds(op, found, left > 0);
    }
}

/// Has `node` join through `targets`, and stay joined: through addresses at once, through names as
/// they resolve, and as they resolve by then whenever it knows nobody again.
pub fn stay_joined(node: &Arc<Node>, targets: &[Target]) -> Result<(), CommandError> {
    let ipv4 = node.address().is_ipv4();
    let (literal, names) = split(targets, ipv4);
    let known = endpoints(&literal);
    warn(node, &literal);
    node.stay_joined(known.clone(), !names.is_empty())?;
    if !names.is_empty() {
        let node = Arc::downgrade(node);
        on_a_thread(move || keep_resolved(&node, &known, &names, ipv4));
    }
    Ok(())
}

fn keep_resolved(node: &Weak<Node>, literal: &[Endpoint], names: &[Target], ipv4: bool) {
    let mut wait = BACKOFF_MIN;
    let mut found = Vec::new();
    loop {
        let mut fresh = Vec::new();
        for resolved in resolve(names.to_vec(), ipv4) {
            let Some(node) = node.upgrade() else {
                return;
            };
            warn(&node, std::slice::from_ref(&resolved));
            fresh.extend(resolved.1.unwrap_or_default());
            // What was found the last time stays in use until all is resolved anew. Here and below
            // it fails only where the node is closed, which the wait tells.
            let _ = node.stay_joined([literal, &found, &fresh].concat(), true);
        }
        let Some(node) = node.upgrade() else {
            return;
        };
        let patience = if fresh.is_empty() {
            let patience = wait;
            wait = (wait * 2).min(BACKOFF_MAX);
            Some(patience)
        } else {
            found = fresh;
            wait = BACKOFF_MIN;
            None
        };
        let _ = node.stay_joined([literal, &found].concat(), found.is_empty());
        if node.wait_alone(patience).is_err() {
            return;
        }
    }
}

fn warn(node: &Node, resolved: &[Resolved]) {
    for (target, found) in resolved {
        if let Err(error) = found {
            node.log(Level::Warn, format!("cannot join through {target}: {error}"));
        }
    }
}

/// Addresses as they are, each with what this node makes of it, and names, which are to be resolved.
fn split(targets: &[Target], ipv4: bool) -> (Vec<Resolved>, Vec<Target>) {
    let (literal, names): (Vec<Target>, Vec<Target>) =
        targets.iter().cloned().partition(|target| target.endpoint().is_some());
    let with_endpoint = |target: Target| {
        let found = of_family(target.endpoint().into_iter().collect(), ipv4);
        (target, found)
    };
    (literal.into_iter().map(with_endpoint).collect(), names)
}

/// Resolves names, a few at once; each comes as soon as it is resolved.
fn resolve(names: Vec<Target>, ipv4: bool) -> Receiver<Resolved> {
    let (queue, waiting) = unbounded();
    let (sender, resolved) = unbounded();
    let workers = names.len().min(RESOLVERS);
    for name in names {
        // It cannot fail: the other end is here.
        let _ = queue.send(name);
    }
    for _ in 0..workers {
        let (waiting, sender): (Receiver<Target>, Sender<Resolved>) =
            (waiting.clone(), sender.clone());
        on_a_thread(move || {
            while let Ok(name) = waiting.try_recv() {
                let found = look_up(&name, ipv4);
                // Nobody may be waiting any more.
                let _ = sender.send((name, found));
            }
        });
    }
    resolved
}

fn on_a_thread(work: impl FnOnce() + Send + 'static) {
    // Where there is no thread to be had, the name is one that did not resolve.
    let _ = thread::Builder::new().name("kadepy-resolver".into()).spawn(work);
}

fn look_up(name: &Target, ipv4: bool) -> Result<Vec<Endpoint>, String> {
    let found = (name.host.as_str(), name.port)
        .to_socket_addrs()
        .map_err(|error| format!("the name does not resolve: {error}"))?;
    of_family(found.map(Endpoint::from).filter(Endpoint::is_sendable).collect(), ipv4)
}

/// The addresses that a node of one family reaches, if there are any.
fn of_family(all: Vec<Endpoint>, ipv4: bool) -> Result<Vec<Endpoint>, String> {
    let reached: Vec<Endpoint> =
        all.into_iter().filter(|endpoint| endpoint.is_ipv4() == ipv4).collect();
    if reached.is_empty() {
        let family = if ipv4 { "IPv4" } else { "IPv6" };
        return Err(format!("it has no {family} address, and this node speaks {family} only"));
    }
    Ok(reached)
}

/// All addresses that were found.
fn endpoints(resolved: &[Resolved]) -> Vec<Endpoint> {
    resolved.iter().filter_map(|(_, found)| found.as_ref().ok()).flatten().copied().collect()
}
