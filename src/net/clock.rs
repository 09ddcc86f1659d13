//! The clock that a node lives by, which goes on while the machine is suspended, and the alarm that
//! wakes the node's thread by that clock. What a node does about a suspend is the engine's affair.
//!
//! The monotonic clock of Linux and macOS stands still in a suspend. By that clock a node would serve
//! records that have expired meanwhile, and would announce itself again only after the rest of its
//! pause. By a clock that goes on, all that has become due is due when the machine wakes.

use std::io;
use std::time::Duration;

use mio::{Registry, Token};

use crate::time::Time;

/// The time since it was made.
pub struct Clock {
    started: Duration,
}

impl Clock {
    /// Starts at zero.
    pub fn start() -> Self {
        Self { started: system::now() }
    }

    /// The time now.
    pub fn now(&self) -> Time {
        Time::ZERO + system::now().saturating_sub(self.started)
    }
}

/// Wakes a poll.
///
/// The timeout of a poll stands still in a suspend: where ten minutes were left, they are left when
/// the machine wakes. So it serves short waits only. Longer ones take a timer of the system that goes
/// by [`Clock`], at no cost while it runs. Where the system has none, the poll wakes now and then.
pub struct Alarm {
    timer: Option<system::Timer>,
    set_to: Option<Time>,
}

/// The longest timeout of a poll: what a suspend may add to a wait that it serves.
const TIMEOUT_MAX: Duration = Duration::from_secs(10);

impl Alarm {
    /// One that wakes the poll of `registry`.
    pub fn new(registry: &Registry, token: Token) -> Self {
        Self { timer: system::Timer::new(registry, token).ok(), set_to: None }
    }

    /// Has the next poll wake at `at`, if at all. Gives when it wakes at the latest, and the timeout to
    /// poll with.
    pub fn set(&mut self, clock: &Clock, at: Option<Time>) -> (Time, Option<Duration>) {
        let Some(at) = at else {
            return (Time::MAX, None);
        };
        let now = clock.now();
        let wait = at - now;
        if wait > TIMEOUT_MAX && self.set_timer(clock, at) {
            return (at, None);
        }
        let wait = wait.min(TIMEOUT_MAX);
        (now + wait, Some(wait))
    }

    /// Whether the timer is set to `at`, which has not come yet.
    fn set_timer(&mut self, clock: &Clock, at: Time) -> bool {
        if self.set_to != Some(at) {
            let reading = clock.started + (at - Time::ZERO);
            let is_set = self.timer.as_ref().is_some_and(|timer| timer.set(reading).is_ok());
            self.set_to = is_set.then_some(at);
        }
        self.set_to.is_some()
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod system {
    use std::os::fd::{AsRawFd, OwnedFd};

    use mio::Interest;
    use mio::unix::SourceFd;
    use rustix::time::{
        ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, clock_gettime,
        timerfd_create, timerfd_settime,
    };

    use super::*;

    pub fn now() -> Duration {
        Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default()
    }

    pub struct Timer(OwnedFd);

    impl Timer {
        pub fn new(registry: &Registry, token: Token) -> io::Result<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let timer = timerfd_create(TimerfdClockId::Boottime, flags)?;
            registry.register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
            Ok(Self(timer))
        }

        /// To set it again makes it forget that it went off: nothing needs to read it.
        pub fn set(&self, at: Duration) -> io::Result<()> {
            let once = |at: Duration| at.try_into().map_err(io::Error::other);
            let time = Itimerspec { it_interval: once(Duration::ZERO)?, it_value: once(at)? };
            timerfd_settime(&self.0, TimerfdTimerFlags::ABSTIME, &time)?;
            Ok(())
        }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod system {
    use super::*;

    /// There, POSIX's name for the monotonic clock is that of the one that goes on.
    #[cfg(target_vendor = "apple")]
    pub fn now() -> Duration {
        use rustix::time::{ClockId, clock_gettime};
        Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default()
    }

    /// On Windows the monotonic clock goes on; elsewhere there is no better one.
    #[cfg(not(target_vendor = "apple"))]
    pub fn now() -> Duration {
        use std::sync::LazyLock;
        use std::time::Instant;

        #[expect(clippy::disallowed_methods, reason = "the clock of this driver's time")]
        static FIRST: LazyLock<Instant> = LazyLock::new(Instant::now);
        FIRST.elapsed()
    }

    pub enum Timer {}

    impl Timer {
        pub fn new(_: &Registry, _: Token) -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub fn set(&self, _: Duration) -> io::Result<()> {
            match *self {}
        }
    }
}
