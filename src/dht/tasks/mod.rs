//! Whatever can be under way, as one type: which kind of task is told what. A task has its own state,
//! says what it wants next and takes in what came of it; it knows neither the engine nor the table.

mod announce;
mod get_peers;
mod introduction;
mod join;
pub mod membership;
mod ping;
pub mod step;
mod walk;

pub use self::announce::Announce;
pub use self::get_peers::GetPeers;
pub use self::introduction::Introduction;
pub use self::join::Join;
pub use self::membership::MembershipTask;
pub use self::ping::Ping;
use self::step::{Answer, Outcome, Step};
pub use self::walk::Walk;
use crate::config::Config;
use crate::dht::requests::Request;
use crate::id::NodeId;
use crate::wire::message::{Contact, Endpoint};

/// A task under way.
pub enum Task {
    /// One node asked whether it is there.
    Ping(Ping),
    /// An announce to one node.
    Introduction(Introduction),
    /// A lookup for the nodes nearest to an id.
    FindNode(Box<Walk>),
    /// A lookup for the peers of a topic.
    GetPeers(Box<GetPeers>),
    /// An announce to the nodes nearest to a topic.
    Announce(Box<Announce>),
    /// A join through some contacts.
    Join(Box<Join>),
    /// A topic that a caller has joined.
    Membership(Box<MembershipTask>),
}

impl Task {
    /// What it wants next. Where a membership is over, only its round is.
    pub fn step(&mut self) -> Step {
        match self {
            Task::Ping(task) => task.step(),
            Task::Introduction(task) => task.step(),
            Task::FindNode(task) => task.step(),
            Task::GetPeers(task) => task.step(),
            Task::Announce(task) => task.step(),
            Task::Join(task) => task.step(),
            Task::Membership(task) => task.step(),
        }
    }

    /// Gives it the contacts that it wants to begin with.
    pub fn begin(&mut self, contacts: &[Contact]) {
        match self {
            Task::FindNode(task) => task.begin(contacts),
            Task::GetPeers(task) => task.begin(contacts),
            Task::Announce(task) => task.begin(contacts),
            Task::Membership(task) => {
                task.round.iter_mut().for_each(|round| round.begin(contacts));
            }
            Task::Ping(_) | Task::Introduction(_) | Task::Join(_) => {}
        }
    }

    /// Tells it which buckets are thin, if it asked.
    pub fn survey(&mut self, thin: Vec<usize>) {
        if let Task::Join(task) = self {
            task.survey(thin);
        }
    }

    /// Gives it an id of a bucket that it wants to refresh.
    pub fn refresh(&mut self, target: NodeId, contacts: &[Contact], config: &Config) {
        if let Task::Join(task) = self {
            task.refresh(target, contacts, config);
        }
    }

    /// Takes the answer to one of its questions in; returns the peers to tell of.
    pub fn answered(&mut self, answer: &Answer<'_>) -> Vec<Endpoint> {
        match self {
            Task::Ping(task) => task.answered(answer.round_trip),
            Task::Introduction(task) => task.answered(answer.token),
            Task::FindNode(task) => task.answered(answer),
            Task::GetPeers(task) => return task.answered(answer),
            Task::Announce(task) => task.answered(answer),
            Task::Join(task) => task.answered(answer),
            Task::Membership(task) => return task.answered(answer),
        }
        Vec::new()
    }

    /// Notes that the short wait for an answer is over; it still counts if it comes.
    pub fn late(&mut self, request: &Request) {
        match (self, request.contact()) {
            (Task::Ping(task), _) => task.late(),
            (Task::Introduction(task), _) => task.late(request.is_retry),
            (Task::Join(task), _) => task.late(request),
            (Task::FindNode(task), Some(contact)) => task.late(&contact),
            (Task::GetPeers(task), Some(contact)) => task.late(&contact),
            (Task::Announce(task), Some(contact)) => task.late(request, &contact),
            (Task::Membership(task), Some(contact)) => {
                task.round.iter_mut().for_each(|round| round.late(request, &contact));
            }
            (_, None) => {}
        }
    }

    /// Notes that one of its questions could not be sent.
    pub fn failed(&mut self, request: &Request) {
        match (self, request.contact()) {
            (Task::Join(task), _) => task.failed(request),
            (Task::FindNode(task), Some(contact)) => task.failed(&contact),
            (Task::GetPeers(task), Some(contact)) => task.failed(&contact),
            (Task::Announce(task), Some(contact)) => task.failed(request, &contact),
            (Task::Membership(task), Some(contact)) => {
                task.round.iter_mut().for_each(|round| round.failed(request, &contact));
            }
            // They have a deadline.
            (Task::Ping(_) | Task::Introduction(_), _) | (_, None) => {}
        }
    }

    /// Notes that the answer to one of its questions is no longer accepted.
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
            Task::FindNode(task) => Some(task.outcome()),
            Task::GetPeers(_) => Some(Outcome::Found),
            Task::Announce(task) => Some(task.outcome()),
            Task::Join(task) => Some(task.outcome(contacts)),
            Task::Introduction(_) | Task::Membership(_) => None,
        }
    }

    /// How many lookups it has under way.
    pub fn lookups(&self) -> usize {
        match self {
            Task::Ping(_) | Task::Introduction(_) => 0,
            Task::FindNode(_) | Task::GetPeers(_) | Task::Announce(_) => 1,
            Task::Join(task) => task.lookups(),
            Task::Membership(task) => usize::from(task.round.is_some()),
        }
    }

    /// Panics where an invariant is broken.
    pub fn check_invariants(&self, config: &Config) {
        match self {
            Task::Ping(_) | Task::Introduction(_) => {}
            Task::FindNode(task) => task.check_invariants(),
            Task::GetPeers(task) => task.check_invariants(),
            Task::Announce(task) => task.check_invariants(),
            Task::Join(task) => task.check_invariants(),
            Task::Membership(task) => task.check_invariants(config),
        }
    }
}
