//! Keeps a port of the home router mapped to a node, on a thread of its own, and logs what the router
//! says. How routers are asked is `net/mapping.rs`'s affair.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use log::Level;
use parking_lot::Mutex;

use super::{Node, Shared, lines};
use crate::id::NodeId;
use crate::net::mapping::plan::{Fate, Plan};
use crate::net::mapping::{Failure, Mapping, Place, Request, bound_to};

/// How often it looks whether the host has moved to another network.
const LOOK: Duration = Duration::from_secs(15);
/// How much of the time for a close is left when it stops waiting for the router to remove the mapping,
/// which ends by itself within the hour.
const CLOSE_SPARE: Duration = Duration::from_secs(1);

/// What a node shares with the thread.
pub(super) struct Mapper {
    /// A token makes the thread ask again at once; it ends when this is dropped.
    wakes: Mutex<Option<Sender<()>>>,
    /// Whether the router has granted a mapping that is not removed yet.
    is_held: AtomicBool,
    /// Nothing is ever sent: it is disconnected when the thread has ended.
    ended: Receiver<()>,
}

/// What the thread knows.
struct Course {
    bound: Ipv4Addr,
    port: u16,
    nonce: [u8; 12],
    plan: Plan,
    place: Option<Place>,
    mapping: Option<Mapping>,
    /// The failure told of last, so that one that repeats itself is told once.
    told: Option<Failure>,
}

impl Node {
    /// Keeps a port of the home router mapped to this node, from now on until the node is closed.
    ///
    /// It returns at once. What comes of it, the log says; a node that no router translates for has
    /// nothing to map, which is logged too.
    ///
    /// # Errors
    ///
    /// The system's, where it gives no thread; `AlreadyExists` at the second call.
    pub fn map_port(&self) -> io::Result<()> {
        let bound = match bound_to(self.address()) {
            Ok(bound) => bound,
            Err(nothing) => {
                self.log(Level::Info, &format!("no port to map: {nothing}"));
                return Ok(());
            }
        };
        let nonce = nonce(self.id());
        let (wake, woken) = bounded(1);
        let (lives, ended) = bounded::<()>(0);
        let mapper =
            Mapper { wakes: Mutex::new(Some(wake)), is_held: AtomicBool::new(false), ended };
        self.shared
            .mapper
            .set(mapper)
            .map_err(|_| io::Error::new(io::ErrorKind::AlreadyExists, "it maps one already"))?;
        let shared = Arc::clone(&self.shared);
        let port = self.address().port();
        let name = format!("kadepy-mapper-{port}");
        let spawned = std::thread::Builder::new().name(name).spawn(move || {
            let plan = Plan::new(shared.link.now());
            let (place, mapping, told) = (None, None, None);
            let course = Course { bound, port, nonce, plan, place, mapping, told };
            course.run(&shared, &woken);
            drop(lives);
        });
        spawned.map(drop)
    }
}

impl Course {
    /// Asks whenever the plan says so, until the node is closed.
    fn run(mut self, shared: &Shared, woken: &Receiver<()>) {
        let mut wait = Duration::ZERO;
        loop {
            match woken.recv_timeout(wait) {
                Ok(()) => self.plan.resume(shared.link.now()),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.look(shared);
            wait = LOOK;
            if let Some(Place::Behind { gateway, local }) = self.place {
                if shared.link.now() >= self.plan.due() {
                    self.ask(shared, gateway, local);
                }
                wait = wait.min(self.plan.due() - shared.link.now());
            }
        }
        self.remove(shared);
    }

    /// Looks where the host stands. What was mapped at another router is left to end by itself.
    fn look(&mut self, shared: &Shared) {
        let place = Place::look(self.bound);
        if self.place == Some(place) {
            return;
        }
        match place {
            Place::Behind { .. } => {}
            Place::Outside(ip) => {
                shared.log(
                    Level::Info,
                    &format!("no port to map: this host has {ip}, a public address"),
                );
            }
            Place::Offline => {
                shared.log(Level::Info, "no port to map: no router leads out of this network");
            }
        }
        self.place = Some(place);
        self.told = None;
        self.hold(shared, None);
        self.plan.forget(shared.link.now());
    }

    fn ask(&mut self, shared: &Shared, gateway: Ipv4Addr, local: Ipv4Addr) {
        let is_unwanted = || shared.is_closed.load(Ordering::SeqCst);
        let Self { port, nonce, .. } = *self;
        let request = Request { gateway, local, port, nonce, is_unwanted: &is_unwanted };
        let asked = self.mapping.as_ref().map_or_else(|| request.obtain(), |m| request.renew(m));
        let now = shared.link.now();
        match asked {
            Ok(mapping) => {
                self.plan.mapped(now, mapping.lease);
                self.tell_mapped(shared, &mapping);
                self.told = None;
                self.hold(shared, Some(mapping));
            }
            // Nobody has asked to the end.
            Err(_) if is_unwanted() => {}
            Err(failure) => {
                let was_mapped = self.mapping.is_some();
                if self.plan.failed(now, &failure) == Fate::Unmapped {
                    self.hold(shared, None);
                    let wait = self.plan.due() - now;
                    self.tell_failed(shared, failure, was_mapped, wait);
                }
            }
        }
    }

    fn tell_mapped(&self, shared: &Shared, mapping: &Mapping) {
        let (level, text) = lines::mapped(mapping.external, mapping.protocol());
        let is_known = self.mapping.as_ref().is_some_and(|former| former.is_like(mapping));
        shared.log(if is_known { Level::Debug } else { level }, &text);
    }

    fn tell_failed(&mut self, shared: &Shared, failure: Failure, was_mapped: bool, wait: Duration) {
        let (level, text) = match &failure {
            Failure::Refused { why, .. } => (Level::Warn, lines::unmapped(why, self.port)),
            Failure::Silent if was_mapped => (Level::Warn, lines::UNANSWERED.to_owned()),
            Failure::Silent => (Level::Info, lines::NO_ROUTER.to_owned()),
        };
        let is_known = self.told.as_ref() == Some(&failure);
        let level = if is_known { Level::Debug } else { level };
        shared.log(level, &format!("{text}; next try in {wait:?}"));
        self.told = Some(failure);
    }

    fn hold(&mut self, shared: &Shared, mapping: Option<Mapping>) {
        if let Some(mapper) = shared.mapper.get() {
            mapper.is_held.store(mapping.is_some(), Ordering::SeqCst);
        }
        self.mapping = mapping;
    }

    /// Has the router remove what it maps.
    fn remove(mut self, shared: &Shared) {
        let Some(Place::Behind { gateway, local }) = self.place else {
            return;
        };
        let Self { port, nonce, .. } = self;
        let request = Request { gateway, local, port, nonce, is_unwanted: &|| false };
        if let Some(mapping) = self.mapping.take() {
            let text = lines::removed(mapping.external.port(), request.remove(&mapping));
            shared.log(Level::Debug, &text);
            self.hold(shared, None);
        }
    }
}

impl Mapper {
    /// Has the router asked again, for it may have forgotten the mapping, or be another one.
    pub(super) fn resume(&self) {
        if let Some(wakes) = &*self.wakes.lock() {
            // Where a token waits already, nobody has asked since.
            let _ = wakes.try_send(());
        }
    }

    /// Has the thread remove the mapping and end.
    pub(super) fn begin_close(&self) {
        drop(self.wakes.lock().take());
    }

    /// Waits until the mapping is removed, if there is one, with a bound.
    ///
    /// Where the router's first answer is still to come there is nothing to wait for. The thread takes the
    /// request back, if the process lives so long.
    pub(super) fn finish_close(&self, deadline: Instant) {
        if self.is_held.load(Ordering::SeqCst) {
            // It fails at once when the thread has ended, and else at the deadline.
            let _ = self.ended.recv_deadline(deadline - CLOSE_SPARE);
        }
    }
}

/// The nonce of a node's mapping, for PCP.
///
/// It follows from the id, so that a node that was killed and has come back with its id gets its port
/// again: to a router, another nonce is somebody else (RFC 6887, section 11.3). It need not be a secret,
/// for who can forge this host's address on its own link needs no nonce.
fn nonce(id: NodeId) -> [u8; 12] {
    let digest = NodeId::of_topic(&[b"PCP".as_slice(), &id.0].concat()).0;
    *digest.first_chunk().expect("an id is longer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_comes_back_owns_its_mapping() {
        assert_eq!(nonce(NodeId([7; 32])), nonce(NodeId([7; 32])));
        assert_ne!(nonce(NodeId([7; 32])), nonce(NodeId([8; 32])));
    }
}
