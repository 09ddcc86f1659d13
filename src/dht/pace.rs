//! The pace of a node's own questions: how many may be under way at once so that their answers, and
//! at the node asked the questions themselves, find room in a receive buffer. Which operation is next
//! is not decided here.

use std::collections::{BTreeMap, VecDeque};

use super::requests::{Request, Requests};
use crate::wire::message::Endpoint;

/// Questions to one node that may be under way at once. Linux gives a socket that asks for nothing
/// room for 332 of the longest ones, and other nodes ask too.
const ROOM_PER_NODE: usize = 32;
/// The least room: what one lookup asks at once by default.
const ROOM_MIN: usize = 4;
/// The most room. More is no faster on a fast network, where it makes answers late that queue at a
/// busy processor.
const ROOM_MAX: usize = 1_024;

/// How many questions may be under way, and those that wait for others to the same node. A question
/// is under way until its answer comes or its short wait is over.
pub struct Pace {
    room: usize,
    /// By the node that they go to, at which there is no room; those that came first are first.
    held: BTreeMap<Endpoint, VecDeque<Request>>,
    held_len: usize,
}

impl Pace {
    /// As many questions as there may be open requests: `cap`.
    pub fn new(cap: usize) -> Self {
        Self { room: cap.min(ROOM_MAX), held: BTreeMap::new(), held_len: 0 }
    }

    /// Sets the pace for a receive buffer that holds so many answers. A quarter of it stays free for
    /// what others send by themselves.
    pub fn set_buffer(&mut self, answers: usize) {
        self.room = self.room.min((answers - answers / 4).max(ROOM_MIN));
    }

    /// Whether there is room for one more question.
    pub fn has_room(&self, requests: &Requests) -> bool {
        requests.waiting() + self.held_len < self.room
    }

    /// Whether the node at `to` has room for one more.
    pub fn has_room_at(&self, to: &Endpoint, requests: &Requests) -> bool {
        requests.waiting_to(to) < ROOM_PER_NODE
    }

    /// Keeps a question until there is room at the node that it goes to.
    pub fn hold(&mut self, request: Request) {
        self.held.entry(request.to).or_default().push_back(request);
        self.held_len += 1;
    }

    /// The next question to the node at `to`, if one waits and there is room.
    pub fn next(&mut self, to: &Endpoint, requests: &Requests) -> Option<Request> {
        if !self.has_room_at(to, requests) {
            return None;
        }
        let waiting = self.held.get_mut(to)?;
        let next = waiting.pop_front();
        if waiting.is_empty() {
            self.held.remove(to);
        }
        self.held_len -= usize::from(next.is_some());
        next
    }

    /// Panics where a question waits for nothing.
    pub fn check_invariants(&self, requests: &Requests) {
        assert_eq!(self.held_len, self.held.values().map(VecDeque::len).sum::<usize>());
        for (to, waiting) in &self.held {
            assert!(!waiting.is_empty());
            assert!(!self.has_room_at(to, requests), "a question waits though there is room");
        }
    }
}
