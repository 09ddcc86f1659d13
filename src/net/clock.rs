//! The clock that a node lives by, which goes on while the machine is suspended.
//!
//! The monotonic clock of Linux and macOS stands still in a suspend. By that clock a node would serve
//! records that have expired meanwhile, and would announce itself again only after the rest of its
//! pause. What a node does about a suspend is the engine's affair.

use std::time::Duration;

use crate::time::Time;

/// The time since it was started.
pub struct Clock {
    started: Duration,
}

impl Clock {
    /// Starts at zero.
    pub fn start() -> Self {
        Self { started: reading() }
    }

    /// The time now.
    pub fn now(&self) -> Time {
        Time::ZERO + reading().saturating_sub(self.started)
    }
}

#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn reading() -> Duration {
    use rustix::time::{ClockId, clock_gettime};

    #[cfg(not(target_vendor = "apple"))]
    const CLOCK: ClockId = ClockId::Boottime;
    /// There the name of POSIX's monotonic clock stands for the one that goes on.
    #[cfg(target_vendor = "apple")]
    const CLOCK: ClockId = ClockId::Monotonic;
    // It is negative nowhere.
    clock_gettime(CLOCK).try_into().unwrap_or_default()
}

/// On Windows the standard library's clock goes on; elsewhere there is no better one.
#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn reading() -> Duration {
    use std::sync::LazyLock;
    use std::time::Instant;

    #[expect(clippy::disallowed_methods, reason = "the clock of this driver's time")]
    static FIRST: LazyLock<Instant> = LazyLock::new(Instant::now);
    FIRST.elapsed()
}
