//! Joining through contacts whose hosts may be names: the system's resolver takes as long as it likes,
//! so names are resolved on threads of their own.

use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, select, unbounded};
use log::Level;
use parking_lot::Mutex;

use super::convert::Target;
use crate::dht::protocol::{SeedState, Seeds};
use crate::dht::requests::OpId;
use crate::node::{CommandError, Node, Pending, reasons};
use crate::wire::message::{Endpoint, Want};

/// Names that the process resolves at once, each on a thread of its own, so that one that takes long
/// holds up no other. A thread cannot be stopped in the system's resolver.
const RESOLVERS: usize = 64;
/// The wait before names that did not resolve are tried again, which doubles with each failure.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// Resolvers under way.
static RESOLVING: AtomicUsize = AtomicUsize::new(0);

/// What a contact resolves to, or why it does not.
type Resolved = (Target, Result<Vec<Endpoint>, String>);

/// A join through contacts, of which it tells what became of each.
pub struct Joining {
    is_private: bool,
    /// Where the node is bound.
    bound: IpAddr,
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
        let families = node.families();
        let (literal, names) = split(&targets, families);
        let pending = node.join(endpoints(&literal), !names.is_empty(), timeout)?;
        let tried = Arc::new(Mutex::new(literal));
        let adding = Adding {
            node: Arc::downgrade(node),
            op: pending.op(),
            left: AtomicUsize::new(names.len()),
            tried: Arc::clone(&tried),
        };
        resolve(names, families, Arc::new(move |resolved| adding.add(resolved)));
        let bound = node.address().ip();
        Ok((pending, Self { is_private, bound, targets, tried }))
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
                format!("{target} ({})", reason(found.map(|(_, found)| found), seeds, self.bound))
            })
            .collect();
        let under = if self.is_private { " under this network key" } else { "" };
        Some(format!("no bootstrap contact answered{under}: {}", reasons.join("; ")))
    }
}

/// Why nobody answered at what a contact resolves to.
fn reason(found: Option<&Result<Vec<Endpoint>, String>>, seeds: &Seeds, bound: IpAddr) -> String {
    let endpoints = match found {
        None => return "its name did not resolve in time".to_owned(),
        Some(Err(error)) => return error.clone(),
        Some(Ok(endpoints)) => endpoints,
    };
    let obstacle = |endpoint: &Endpoint| {
        let (_, state) = seeds.iter().find(|(seed, _)| seed == endpoint)?;
        matches!(state, SeedState::Failed(_)).then_some(*state)
    };
    // One that could be asked and is silent says more than the others.
    let obstacles: Option<Vec<SeedState>> = endpoints.iter().map(obstacle).collect();
    let first = obstacles.unwrap_or_default().first().copied();
    reasons::of_contact(first.unwrap_or(SeedState::Silent), bound)
}

/// A join that waits for names.
struct Adding {
    node: Weak<Node>,
    op: OpId,
    left: AtomicUsize,
    tried: Arc<Mutex<Vec<Resolved>>>,
}

impl Adding {
    fn add(&self, resolved: Resolved) {
        let found = resolved.1.clone().unwrap_or_default();
        self.tried.lock().push(resolved);
        let expects_more = self.left.fetch_sub(1, Ordering::AcqRel) > 1;
        if let Some(node) = self.node.upgrade() {
            // It fails only where the node is closed.
            let _ = node.add_seeds(self.op, found, expects_more);
        }
    }
}

/// Has `node` join through `targets`, and stay joined: through addresses at once, through names as
/// they resolve, and as they resolve by then whenever it knows nobody again.
///
/// # Errors
///
/// The system's, where it gives no thread to wait for the names; a closed node's are none, for it
/// has no use for contacts.
pub fn stay_joined(node: &Arc<Node>, targets: &[Target]) -> io::Result<()> {
    let families = node.families();
    let (literal, names) = split(targets, families);
    let known = endpoints(&literal);
    warn(node, &literal);
    // It fails only where the node is closed.
    let _ = node.stay_joined(known.clone(), !names.is_empty());
    if names.is_empty() {
        return Ok(());
    }
    let keeper = Keeper { node: Arc::downgrade(node), ended: node.ended(), known, names };
    let spawned = thread::Builder::new()
        .name(format!("kadepy-names-{}", node.address().port()))
        .spawn(move || keeper.keep_resolved(families));
    spawned.map(drop)
}

/// What keeps the names of a node resolved, until the node ends.
struct Keeper {
    node: Weak<Node>,
    ended: Receiver<()>,
    /// The contacts that are addresses.
    known: Vec<Endpoint>,
    names: Vec<Target>,
}

impl Keeper {
    fn keep_resolved(self, families: Want) {
        let mut wait = BACKOFF_MIN;
        let mut found = Vec::new();
        loop {
            let Some(fresh) = self.resolve(&found, families) else {
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
            let Some(node) = self.node.upgrade() else {
                return;
            };
            // It fails only where the node is closed, which the wait tells.
            let _ = node.stay_joined([&*self.known, &found].concat(), found.is_empty());
            if node.wait_alone(patience).is_err() {
                return;
            }
        }
    }

    /// Resolves all names anew, and gives the node what comes as it comes; `None` where it ended.
    fn resolve(&self, found: &[Endpoint], families: Want) -> Option<Vec<Endpoint>> {
        let (sender, resolved): (Sender<Resolved>, Receiver<Resolved>) = unbounded();
        // Where the node has ended, nobody listens.
        resolve(self.names.clone(), families, Arc::new(move |one| drop(sender.send(one))));
        let mut fresh = Vec::new();
        loop {
            let one = select! {
                recv(resolved) -> one => one,
                recv(self.ended) -> _ => return None,
            };
            let Ok(one) = one else {
                return Some(fresh);
            };
            let node = self.node.upgrade()?;
            warn(&node, std::slice::from_ref(&one));
            fresh.extend(one.1.unwrap_or_default());
            // What was found the last time stays in use until all is resolved anew.
            let _ = node.stay_joined([&*self.known, found, &fresh].concat(), true);
        }
    }
}

/// Forgets the resolvers that a fork has left in the parent.
pub fn forget_all() {
    RESOLVING.store(0, Ordering::SeqCst);
}

fn warn(node: &Node, resolved: &[Resolved]) {
    for (target, found) in resolved {
        if let Err(error) = found {
            node.log(Level::Warn, &format!("cannot join through {target}: {error}"));
        }
    }
}

/// Addresses as they are, each with what this node makes of it, and names, which are to be resolved.
fn split(targets: &[Target], families: Want) -> (Vec<Resolved>, Vec<Target>) {
    let (literal, names): (Vec<Target>, Vec<Target>) =
        targets.iter().cloned().partition(|target| target.endpoint().is_some());
    let with_endpoint = |target: Target| {
        let found = of_families(target.endpoint().into_iter().collect(), families);
        (target, found)
    };
    (literal.into_iter().map(with_endpoint).collect(), names)
}

/// Resolves names side by side; `tell` is called with each, on any thread.
fn resolve(names: Vec<Target>, families: Want, tell: Arc<dyn Fn(Resolved) + Send + Sync>) {
    for name in names {
        let (about, refused) = (name.clone(), Arc::clone(&tell));
        let tell = Arc::clone(&tell);
        let resolver = Resolver::enter();
        let work = move || {
            let found = look_up(&name, families);
            drop(resolver);
            tell((name, found));
        };
        if RESOLVING.load(Ordering::SeqCst) > RESOLVERS {
            drop(work);
            let reason = format!("{RESOLVERS} names are being resolved already");
            refused((about, Err(reason)));
        } else if let Err(error) = thread::Builder::new().name("kadepy-resolver".into()).spawn(work)
        {
            refused((about, Err(format!("there is no thread to resolve it on: {error}"))));
        }
    }
}

/// A resolver under way, while it lives.
struct Resolver;

impl Resolver {
    fn enter() -> Self {
        RESOLVING.fetch_add(1, Ordering::SeqCst);
        Self
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        // A fork may have set it to zero meanwhile.
        let one_less = |resolving: usize| Some(resolving.saturating_sub(1));
        let _ = RESOLVING.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less);
    }
}

fn look_up(name: &Target, families: Want) -> Result<Vec<Endpoint>, String> {
    let found = (name.name.as_str(), name.port)
        .to_socket_addrs()
        .map_err(|error| format!("the name does not resolve: {error}"))?;
    of_families(found.map(Endpoint::from).filter(Endpoint::is_sendable).collect(), families)
}

/// The addresses that a node of these families reaches, if there are any.
fn of_families(all: Vec<Endpoint>, families: Want) -> Result<Vec<Endpoint>, String> {
    let reached: Vec<Endpoint> =
        all.into_iter().filter(|endpoint| families.includes(endpoint)).collect();
    if reached.is_empty() && families.v4 && families.v6 {
        return Err("it has no address that can be sent to".to_owned());
    }
    if reached.is_empty() {
        let family = if families.v4 { "IPv4" } else { "IPv6" };
        return Err(format!("it has no {family} address, and this node speaks {family} only"));
    }
    Ok(reached)
}

/// All addresses that were found.
fn endpoints(resolved: &[Resolved]) -> Vec<Endpoint> {
    resolved.iter().filter_map(|(_, found)| found.as_ref().ok()).flatten().copied().collect()
}
