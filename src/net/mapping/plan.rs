//! When a router is asked: pure decisions on times that the owner passes in.

use std::time::Duration;

use super::{Failure, LEASE};
use crate::time::Time;

/// The pause after the first failure, which doubles with each up to the longest. A move to another
/// network is noticed for itself ([`Plan::forget`]), so a router that is silent need not be asked often.
pub const PAUSE_MIN: Duration = Duration::from_secs(60);
/// See [`PAUSE_MIN`].
pub const PAUSE_MAX: Duration = Duration::from_secs(3_600);
/// The shortest time between two renewals, by RFC 6887, section 11.2.1.
pub const RENEW_MIN: Duration = Duration::from_secs(4);

/// When to ask the router next.
#[derive(Debug)]
pub struct Plan {
    due: Time,
    /// The pause after the next failure.
    pause: Duration,
    /// When what the router has granted ends; none where nothing is mapped.
    expires: Option<Time>,
}

/// What a failure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The mapping lasts, and will be renewed once more before it ends.
    Held,
    /// There is no mapping.
    Unmapped,
}

impl Plan {
    /// Asks at once.
    pub fn new(now: Time) -> Self {
        Self { due: now, pause: PAUSE_MIN, expires: None }
    }

    /// When to ask.
    pub fn due(&self) -> Time {
        self.due
    }

    /// The router has granted, or renewed, a mapping for so long: renews at half its life.
    ///
    /// A lease that is longer than [`LEASE`], or without an end, counts as one of that length: a router
    /// that has started again has forgotten it.
    pub fn mapped(&mut self, now: Time, lease: Duration) {
        let lease = lease.min(LEASE);
        self.expires = Some(now + lease);
        self.due = now + (lease / 2).max(RENEW_MIN);
        self.pause = PAUSE_MIN;
    }

    /// The router has not granted it.
    ///
    /// While a mapping lasts, silence is asked again after half of what is left of it, as RFC 6887 has
    /// it. A refusal ends it. Without a mapping, the pauses double, and are no shorter than the router
    /// wants them.
    pub fn failed(&mut self, now: Time, failure: &Failure) -> Fate {
        let left = self.expires.map_or(Duration::ZERO, |expires| expires - now);
        let is_silent = *failure == Failure::Silent;
        if is_silent && left > RENEW_MIN {
            self.due = now + (left / 2).max(RENEW_MIN);
            return Fate::Held;
        }
        let wanted = match failure {
            Failure::Silent => Duration::ZERO,
            Failure::Refused { holds, .. } => *holds,
        };
        self.expires = None;
        self.due = now + self.pause.max(wanted.min(PAUSE_MAX));
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        Fate::Unmapped
    }

    /// Asks at once, for the machine was suspended: the router may have forgotten the mapping.
    pub fn resume(&mut self, now: Time) {
        self.due = now;
        self.pause = PAUSE_MIN;
    }

    /// Begins anew, for the router is another one.
    pub fn forget(&mut self, now: Time) {
        *self = Self::new(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn refusal(holds: Duration) -> Failure {
        Failure::Refused { why: "PCP: not authorized".into(), holds }
    }

    #[test]
    fn a_lease_is_renewed_at_half_its_life() {
        let mut plan = Plan::new(Time::ZERO);
        assert_eq!(plan.due(), Time::ZERO);
        plan.mapped(Time::ZERO, 20 * MINUTE);
        assert_eq!(plan.due(), Time::ZERO + 10 * MINUTE);
        plan.mapped(plan.due(), 20 * MINUTE);
        assert_eq!(plan.due(), Time::ZERO + 20 * MINUTE);
    }

    #[test]
    fn a_lease_that_is_too_long_or_too_short_is_renewed_within_bounds() {
        let mut plan = Plan::new(Time::ZERO);
        plan.mapped(Time::ZERO, Duration::MAX);
        assert_eq!(plan.due(), Time::ZERO + LEASE / 2);
        plan.mapped(Time::ZERO, Duration::ZERO);
        assert_eq!(plan.due(), Time::ZERO + RENEW_MIN);
    }

    #[test]
    fn an_unanswered_renewal_is_repeated_until_the_lease_ends() {
        let mut plan = Plan::new(Time::ZERO);
        plan.mapped(Time::ZERO, Duration::from_secs(64));
        let mut asked = Vec::new();
        while plan.failed(plan.due(), &Failure::Silent) == Fate::Held {
            asked.push((plan.due() - Time::ZERO).as_secs());
        }
        assert_eq!(asked, [48, 56, 60]);
        assert_eq!(plan.due(), Time::ZERO + Duration::from_secs(60) + PAUSE_MIN);
    }

    #[test]
    fn a_refused_renewal_ends_the_mapping() {
        let mut plan = Plan::new(Time::ZERO);
        plan.mapped(Time::ZERO, LEASE);
        assert_eq!(plan.failed(plan.due(), &refusal(Duration::ZERO)), Fate::Unmapped);
        assert_eq!(plan.due(), Time::ZERO + LEASE / 2 + PAUSE_MIN);
    }

    #[test]
    fn pauses_double_up_to_the_longest_and_a_mapping_makes_them_short_again() {
        let mut plan = Plan::new(Time::ZERO);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            let now = plan.due();
            assert_eq!(plan.failed(now, &Failure::Silent), Fate::Unmapped);
            pauses.push((plan.due() - now).as_secs() / 60);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        let now = plan.due();
        plan.mapped(now, Duration::ZERO);
        plan.failed(now, &Failure::Silent);
        assert_eq!(plan.due(), now + PAUSE_MIN);
    }

    #[test]
    fn a_router_says_how_long_its_refusal_holds_within_bounds() {
        for (holds, pause) in [
            (Duration::ZERO, PAUSE_MIN),
            (30 * MINUTE, 30 * MINUTE),
            (Duration::from_secs(u32::MAX.into()), PAUSE_MAX),
        ] {
            let mut plan = Plan::new(Time::ZERO);
            plan.failed(Time::ZERO, &refusal(holds));
            assert_eq!(plan.due(), Time::ZERO + pause);
        }
    }

    #[test]
    fn after_a_suspend_it_asks_at_once_and_the_mapping_may_last() {
        let mut plan = Plan::new(Time::ZERO);
        plan.mapped(Time::ZERO, LEASE);
        let now = Time::ZERO + MINUTE;
        plan.resume(now);
        assert_eq!(plan.due(), now);
        assert_eq!(plan.failed(now, &Failure::Silent), Fate::Held);
    }

    #[test]
    fn at_another_router_it_begins_anew() {
        let mut plan = Plan::new(Time::ZERO);
        plan.mapped(Time::ZERO, LEASE);
        let now = Time::ZERO + MINUTE;
        plan.forget(now);
        assert_eq!(plan.due(), now);
        assert_eq!(plan.failed(now, &Failure::Silent), Fate::Unmapped);
    }
}
