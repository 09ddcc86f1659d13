//! The vocabulary between a task and whoever drives it: what a task wants, what it is told and how it
//! ends. No task stands here.

use std::time::Duration;

use crate::dht::requests::{Question, Request};
use crate::id::NodeId;
use crate::wire::message::{Contact, Endpoint, Token};

/// What a task wants next.
#[must_use]
pub enum Step {
    /// This question sent, for a purpose that the driver fills in: to tell the task of the answer, or
    /// of silence.
    Ask(Request),
    /// This question sent, and nothing told of it.
    Tell(Request),
    /// The contacts that the node knows nearest to this id, before the first question.
    Nearest(NodeId),
    /// In which ranges of ids the table is thin.
    Survey,
    /// An id that agrees with the own one in so many bits, and the contacts nearest to it.
    Refresh(usize),
    /// Nothing, until something comes.
    Wait,
    /// Nothing any more: it is over.
    Over,
}

/// The answer to a question of a task.
#[derive(Clone, Copy)]
pub struct Answer<'a> {
    pub question: Question,
    pub contact: Contact,
    pub round_trip: Duration,
    pub verdict: Verdict,
    pub token: Option<Token>,
    /// Whether an announce without a token is in order there: v0.1's way, and trusted from there.
    pub takes_unproved: bool,
    /// The nodes that it names and that are worth asking.
    pub nodes: &'a [Contact],
    /// The peers that it names and that are believable.
    pub peers: &'a [Endpoint],
    /// How many peers the node stores of what was asked, where it does not name all.
    pub total: Option<usize>,
    /// Where the node that answered sees this one, if it says so.
    pub seen_at: Option<Endpoint>,
}

/// What an answer says of the question.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Served,
    Stored,
    Refused,
}

/// Why a question gets no answer, where that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The system refused to send it, with this code of its own.
    System(i32),
    /// It went to this node itself.
    Itself,
    /// Another node with this node's id answered.
    Namesake,
}

/// So many questions go out as fast as the round trips measured allow, before repetitions pause.
const QUICK: u32 = 3;
/// The longest pause between two repetitions.
const PAUSE_MAX: Duration = Duration::from_secs(16);

/// The least time between a question that is repeated for as long as its task has, and the next
/// repetition: 1, 2, 4 s and so on, after the first few; `asked` were sent before it.
pub fn pause_after(asked: u32) -> Duration {
    match asked.checked_sub(QUICK) {
        None => Duration::ZERO,
        Some(repeated) => PAUSE_MAX.min(Duration::from_secs(1 << repeated.min(10))),
    }
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The pinged node answered after so long.
    Pong(Duration),
    /// The pinged node did not answer.
    Silence,
    /// Nobody could be asked: each question met with this.
    Failed(Obstacle),
    /// The nodes nearest to the target that answered, the nearest first.
    Nodes(Vec<Contact>),
    /// A lookup for peers is over; what it found was told as it came.
    Found,
    /// So many nodes confirmed that they store the announce.
    Announced(usize),
    /// A join is over.
    Joined {
        /// Contacts in the table now.
        contacts: usize,
        /// What became of each contact asked.
        seeds: Seeds,
    },
}

/// The contacts that a join asks, each once, and what became of each.
pub type Seeds = Vec<(Endpoint, SeedState)>;

/// What became of a contact that a join asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeedState {
    /// Not asked yet.
    Unasked,
    /// No answer yet.
    Asking,
    /// No answer within the short wait; it was asked so often by now.
    Late(u32),
    /// It answered.
    Answered,
    /// It did not answer, however often it was asked; or there was no room for the question.
    Silent,
    /// It cannot answer.
    Failed(Obstacle),
}
