//! An announce to one node that wants a token with it: the token is fetched, and then the announce
//! sent. Nobody is told how that goes.

use super::step::{Step, pause_after};
use crate::dht::requests::{Announcement, Purpose, Question, Request};
use crate::id::NodeId;
use crate::time::Time;
use crate::wire::message::{Endpoint, Part, Token};

/// An announce to one node under way.
pub struct Introduction {
    to: Endpoint,
    topic: NodeId,
    port: Option<u16>,
    state: State,
    /// Questions sent.
    asked: u32,
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
        Self { to, topic, port, state: State::Unasked, asked: 0 }
    }

    pub(super) fn step(&mut self, now: Time) -> Step {
        let Self { to, topic, port, .. } = *self;
        let request = |question| Request::to_endpoint(now, to, question, Purpose::Nothing);
        let pause = pause_after(self.asked);
        let query = Request { pause, ..request(Question::GetPeers(topic, Part::WHOLE)) };
        let (state, step) = match self.state {
            State::Unasked => (State::Asking, Step::Ask(query)),
            State::Late => (State::Asking, Step::Ask(query.repeated(now))),
            State::Answered(token) => {
                let announcement = Announcement { topic, port, token };
                (State::Over, Step::Tell(request(Question::Announce(announcement))))
            }
            State::Asking => (State::Asking, Step::Wait),
            State::Over => (State::Over, Step::Over),
        };
        self.asked += u32::from(matches!(step, Step::Ask(_)));
        self.state = state;
        step
    }

    /// Takes the answer in, which brings the token.
    pub(super) fn answered(&mut self, token: Option<Token>) {
        self.state = State::Answered(token);
    }

    /// Notes that its last question was not answered within the short wait.
    pub(super) fn late(&mut self) {
        if matches!(self.state, State::Asking) {
            self.state = State::Late;
        }
    }

    /// Notes that there is no answer to wait for.
    pub(super) fn met_obstacle(&mut self) {
        self.state = State::Over;
    }
}
