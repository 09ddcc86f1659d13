//! An announce to one node that wants a token with it: the token is fetched, and then the announce
//! sent. Nobody is told how that goes.

use super::step::{Ask, Step};
use crate::dht::requests::{Announcement, Question};
use crate::id::NodeId;
use crate::wire::message::{Endpoint, Token};

/// An announce to one node under way.
pub struct Introduction {
    to: Endpoint,
    topic: NodeId,
    port: Option<u16>,
    state: State,
}

enum State {
    Unasked,
    Asking,
    Late,
    /// The node has answered, with this token if any.
    Answered(Option<Token>),
    Over,
}

impl Introduction {
    /// An announce of `topic`, with this port or the one that its packets come from.
    pub fn new(to: Endpoint, topic: NodeId, port: Option<u16>) -> Self {
        Self { to, topic, port, state: State::Unasked }
    }

    /// What it wants next.
    pub fn step(&mut self) -> Step {
        let Self { to, topic, port, .. } = *self;
        let query = Ask::endpoint(to, Question::GetPeers(topic));
        let (state, step) = match self.state {
            State::Unasked => (State::Asking, Step::Ask(query)),
            State::Late => (State::Asking, Step::Ask(Ask { is_retry: true, ..query })),
            State::Answered(token) => {
                let announcement = Announcement { topic, port, token };
                let announce = Ask::endpoint(to, Question::Announce(announcement));
                (State::Over, Step::Tell(announce))
            }
            State::Asking => (State::Asking, Step::Wait),
            State::Over => (State::Over, Step::Over),
        };
        self.state = state;
        step
    }

    /// Takes the answer in, which brings the token.
    pub fn answered(&mut self, token: Option<Token>) {
        self.state = State::Answered(token);
    }

    /// Notes that its question was not answered within the short wait; it is repeated once.
    pub fn late(&mut self, is_retry: bool) {
        if !is_retry {
            self.state = State::Late;
        }
    }
}
