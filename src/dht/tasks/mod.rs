//! Whatever can be under way, as one type: which kind of task is told what. A task has its own state,
//! says what it wants next and takes in what came of it; it knows neither the engine nor the table.

mod announce;
mod gathering;
mod get_peers;
mod introduction;
mod join;
pub mod membership;
mod ping;
pub mod step;
mod walk;

pub use self::announce::Announce;
use self::gathering::Gathering;
pub use self::get_peers::GetPeers;
pub use self::introduction::Introduction;
pub use self::join::Join;
pub use self::membership::MembershipTask;
pub use self::ping::Ping;
use self::step::{Answer, Obstacle, Outcome, SeedState, Step};
pub use self::walk::Walk;
use crate::config::Config;
use crate::dht::requests::Request;
use crate::id::NodeId;
use crate::time::Time;
use crate::wire::message::Endpoint;

/// A task under way.
pub enum Task {
    Ping(Ping),
    Introduction(Introduction),
    FindNode(Box<Walk>),
    GetPeers(Box<GetPeers>),
    Announce(Box<Announce>),
    Join(Box<Join>),
    Membership(Box<MembershipTask>),
}

impl Task {
    /// What it wants next. Where a membership is over, only its round is.
    pub fn step(&mut self, now: Time) -> Step {
        match self {
            Task::Ping(task) => task.step(now),
            Task::Introduction(task) => task.step(now),
            Task::FindNode(walk) => walk.step(now),
            Task::GetPeers(task) => task.step(now),
            Task::Announce(task) => task.step(now),
            Task::Join(task) => task.step(now),
            Task::Membership(task) => task.step(now),
        }
    }

    /// Takes the answer to one of its questions in; returns the peers to tell of.
    pub fn answered(&mut self, answer: &Answer<'_>) -> Vec<Endpoint> {
        match self {
            Task::Ping(task) => task.answered(answer.round_trip),
            Task::Introduction(task) => task.answered(answer.token),
            Task::FindNode(walk) => walk.answered(answer),
            Task::GetPeers(task) => return task.answered(answer),
            Task::Announce(task) => task.answered(answer),
            Task::Join(task) => task.answered(answer),
            Task::Membership(task) => return task.answered(answer),
        }
        Vec::new()
    }

    /// Notes that the short wait for an answer is over; it still counts if it comes.
    pub fn late(&mut self, request: &Request) {
        if let (Some(contact), Some(part)) = (request.contact(), request.question.part()) {
            return self.gathering().into_iter().for_each(|peers| peers.late(&contact, part));
        }
        match (self, request.contact(), request.question.target()) {
            (Task::Ping(task), ..) => task.late(),
            (Task::Introduction(task), ..) => task.late(),
            (Task::Join(task), None, _) => task.seed_is_late(&request.to),
            (task, Some(contact), Some(target)) => {
                task.walk(target).into_iter().for_each(|walk| walk.lookup.late(&contact));
            }
            (task, Some(_), None) => {
                let announce = task.announce().into_iter();
                announce.for_each(|task| task.late(&request.to, request.is_retry));
            }
            (_, None, _) => {}
        }
    }

    /// Notes that one of its questions could not be sent.
    pub fn failed(&mut self, request: &Request) {
        if let (Some(contact), Some(_)) = (request.contact(), request.question.part()) {
            return self.gathering().into_iter().for_each(|peers| peers.failed(&contact));
        }
        match (self, request.contact(), request.question.target()) {
            (Task::Ping(task), ..) => task.failed(),
            (Task::Join(task), None, _) => task.seed_failed(&request.to, SeedState::Silent),
            (task, Some(contact), Some(target)) => {
                task.walk(target).into_iter().for_each(|walk| walk.lookup.failed(&contact));
            }
            (task, Some(_), None) => {
                task.announce().into_iter().for_each(|task| task.failed(&request.to));
            }
            // What has no contact has a deadline.
            (_, None, _) => {}
        }
    }

    /// Notes that one of its questions met with an obstacle, so that no answer comes.
    pub fn met(&mut self, request: &Request, obstacle: Obstacle) {
        match (self, request.contact(), request.question.target()) {
            (Task::Ping(task), ..) => task.met(obstacle),
            (Task::Introduction(task), ..) => task.met_obstacle(),
            (Task::Join(task), None, _) => {
                task.seed_failed(&request.to, SeedState::Failed(obstacle));
            }
            (task, _, target) => {
                let walk = target.and_then(|target| task.walk(target));
                walk.into_iter().for_each(|walk| walk.met(obstacle));
                task.failed(request);
            }
        }
    }

    /// Notes that one of its questions has expired.
    pub fn expired(&mut self) {
        if let Task::Ping(task) = self {
            task.expired();
        }
    }

    /// How it ended, or would if its time were up; `None` where nobody is to be told. `contacts` are
    /// those in the table.
    pub fn outcome(&self, contacts: usize) -> Option<Outcome> {
        match self {
            Task::Ping(task) => Some(task.outcome()),
            Task::FindNode(walk) => Some(walk.outcome()),
            Task::GetPeers(task) => Some(task.outcome()),
            Task::Announce(task) => Some(task.outcome()),
            Task::Join(task) => Some(task.outcome(contacts)),
            Task::Introduction(_) | Task::Membership(_) => None,
        }
    }

    pub fn walk(&mut self, target: NodeId) -> Option<&mut Walk> {
        match self {
            Task::FindNode(walk) => Some(walk),
            Task::GetPeers(task) => Some(&mut task.walk),
            Task::Join(task) => task.walk_to(target),
            _ => self.announce().map(|task| &mut task.walk),
        }
    }

    pub fn walks(&self) -> Vec<&Walk> {
        match self {
            Task::Ping(_) | Task::Introduction(_) => Vec::new(),
            Task::FindNode(walk) => vec![walk],
            Task::GetPeers(task) => vec![&task.walk],
            Task::Announce(task) => vec![&task.walk],
            Task::Join(task) => task.walks().collect(),
            Task::Membership(task) => task.round.iter().map(|round| &round.announce.walk).collect(),
        }
    }

    /// The topic of a lookup that has as many peers as it may collect.
    pub fn full_topic(&self) -> Option<NodeId> {
        match self {
            Task::GetPeers(task) => task.peers.full_topic(),
            Task::Membership(task) => task.round.as_ref()?.peers.full_topic(),
            _ => None,
        }
    }

    /// Panics where an invariant is broken.
    pub fn check_invariants(&self, config: &Config) {
        self.walks().into_iter().for_each(|walk| walk.lookup.check_invariants());
        match self {
            Task::GetPeers(task) => task.peers.check_invariants(),
            Task::Membership(task) => {
                assert!(task.peers.len() <= config.lookup_peers, "more peers than allowed");
                task.peers.check_invariants();
                task.round.iter().for_each(|round| round.peers.check_invariants());
            }
            _ => {}
        }
    }

    fn gathering(&mut self) -> Option<&mut Gathering> {
        match self {
            Task::GetPeers(task) => Some(&mut task.peers),
            Task::Membership(task) => task.round.as_mut().map(|round| &mut round.peers),
            _ => None,
        }
    }

    fn announce(&mut self) -> Option<&mut Announce> {
        match self {
            Task::Announce(task) => Some(task),
            Task::Membership(task) => task.round.as_mut().map(|round| &mut round.announce),
            _ => None,
        }
    }
}
