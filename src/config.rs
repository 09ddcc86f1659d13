//! Every limit of a node: its unit, its default, what it is for and which values it takes.
//!
//! The list stands once, in `config_fields`; the struct here and the Python class are both made
//! from it.

use std::ops::RangeInclusive;
use std::time::Duration;

use thiserror::Error;

/// Calls a macro with the list of tunables: documentation, name, type, default, allowed range.
macro_rules! config_fields {
    ($make:ident) => {
        $make! {
            /// Contacts in a bucket, nodes in an answer, and nodes that a lookup ends on. More finds
            /// records more surely and costs more queries. Kademlia's k.
            ///
            /// Default 20; 1 to 20.
            k: usize = 20, 1..=20;
            /// Queries of one lookup under way at once. More is faster where nodes are dead or slow
            /// and costs a few queries more. Kademlia's alpha.
            ///
            /// Default 4; 1 to 20.
            alpha: usize = 4, 1..=20;
            /// Queries that one lookup may send, retries included, before it ends with what it has.
            ///
            /// Default 120; 1 to 10000.
            lookup_queries: usize = 120, 1..=10_000;
            /// Times that a lookup repeats a query that nobody answers, before it passes its contact
            /// over. More gives the nearest nodes more surely under loss, and takes longer where
            /// nodes are dead.
            ///
            /// Default 1; 0 to 5.
            lookup_retries: usize = 1, 0..=5;
            /// Contacts that one lookup keeps in view, the nearest first.
            ///
            /// Default 100; 20 to 10000.
            shortlist: usize = 100, 20..=10_000;
            /// Seconds for which an answer to a request is still accepted.
            ///
            /// Default 2; 0.01 to 60.
            request_timeout: Duration = Duration::from_secs(2), Duration::from_millis(10)..=Duration::from_secs(60);
            /// The least seconds after which a lookup goes on without an answer that it waits for.
            /// Less is faster past dead nodes and repeats more queries on a loaded machine.
            ///
            /// Default 0.05; 0.001 to 10.
            short_wait_min: Duration = Duration::from_millis(50), Duration::from_millis(1)..=Duration::from_secs(10);
            /// The most seconds for which a lookup holds a place for an answer, unless the round trips
            /// measured are about as long; twice that where nothing is measured yet.
            ///
            /// Default 0.5; 0.001 to 60.
            short_wait_max: Duration = Duration::from_millis(500), Duration::from_millis(1)..=Duration::from_secs(60);
            /// Seconds after which a bucket that no lookup touched is refreshed by one.
            ///
            /// Default 900; 1 to 86400.
            bucket_refresh: Duration = Duration::from_secs(900), Duration::from_secs(1)..=Duration::from_secs(86_400);
            /// Seconds for which an announced peer is kept.
            ///
            /// Default 1800; 1 to 86400.
            record_life: Duration = Duration::from_secs(1_800), Duration::from_secs(1)..=Duration::from_secs(86_400);
            /// Topics that this node stores; when full, records go of the address that has most, until
            /// a topic is free.
            ///
            /// Default 10000; 1 to 10000000.
            topics: usize = 10_000, 1..=10_000_000;
            /// Peers stored of one topic; when full, the oldest goes of the address that has most of it.
            /// A lookup takes no more than this from one node, but 256 at least.
            ///
            /// Default 256; 1 to 65536.
            topic_peers: usize = 256, 1..=65_536;
            /// Peers stored in all; when full, the oldest goes of the address that has most. As many
            /// more may be known of joined topics.
            ///
            /// Default 100000; 1 to 100000000.
            records: usize = 100_000, 1..=100_000_000;
            /// Peers stored from one address that is not local; an IPv6 network of 64 bits counts as
            /// one.
            ///
            /// Default 1000; 1 to 100000000.
            records_per_ip: usize = 1_000, 1..=100_000_000;
            /// Peers in one answer, a random sample where more are stored. Who wants the rest asks
            /// for it part by part.
            ///
            /// Default 64; 1 to 128.
            reply_peers: usize = 64, 1..=128;
            /// Peers that one lookup collects, or one membership of a topic keeps, before it takes no
            /// more. A warning in the log says when that is so.
            ///
            /// Default 4096; 1 to 1000000.
            lookup_peers: usize = 4_096, 1..=1_000_000;
            /// Senders of requests that wait to be asked whether they are there; when full, a random one
            /// makes room. One address has one place, and networks of one owner have few.
            ///
            /// Default 256; 1 to 65536.
            candidates: usize = 256, 1..=65_536;
            /// Candidates asked in any one second. Local ones, and those that have announced with a
            /// token, are asked at once and do not count.
            ///
            /// Default 10; 1 to 1000.
            candidate_pings: usize = 10, 1..=1_000;
            /// Requests a second that this node serves of one address that is not local, application
            /// messages included; an IPv6 network of 64 bits counts as one. What is beyond is dropped.
            /// A lookup asks a node once or twice, so that this is room for an office behind one address.
            ///
            /// Default 50; 1 to 1000000.
            requests_per_second: usize = 50, 1..=1_000_000;
            /// Requests that one such address may make at once, after a pause.
            ///
            /// Default 100; 1 to 1000000.
            requests_burst: usize = 100, 1..=1_000_000;
            /// Requests a second that this node serves of all such addresses together: less than a
            /// core can serve, so that forged sources do not take what its own lookups need.
            ///
            /// Default 50000; 1 to 1000000.
            requests_in_all: usize = 50_000, 1..=1_000_000;
            /// Contacts that wait beside each full bucket for a place in it.
            ///
            /// Default 10; 0 to 100.
            replacements: usize = 10, 0..=100;
            /// Requests of this node that may wait for an answer at once.
            ///
            /// Default 16384; 16 to 1000000.
            open_requests: usize = 16_384, 16..=1_000_000;
            /// Lookups, announces, pings and joins that callers may have started and not seen the end
            /// of; one more is refused. Those for which the receive buffer has no room at the moment
            /// wait for their turn, the one that ends first first.
            ///
            /// Default 65536; 1 to 1000000.
            operations: usize = 65_536, 1..=1_000_000;
            /// Topics that this node has joined at once; one more is refused. As a round for each
            /// begins 100 ms after the last one, more than the default cannot be kept announced for
            /// the default `record_life`.
            ///
            /// Default 10000; 1 to 1000000.
            memberships: usize = 10_000, 1..=1_000_000;
            /// Packets that wait for a slow callback before the oldest is dropped.
            ///
            /// Default 8192; 1 to 1000000.
            callback_queue: usize = 8_192, 1..=1_000_000;
            /// Bytes of socket receive buffer to ask the system for; it may give less. What it gives
            /// bounds how many questions this node has under way at once, and so how fast many
            /// lookups at once go where round trips are long.
            ///
            /// Default 4194304; 1024 to 1073741824.
            receive_buffer: usize = 4 << 20, 1_024..=1 << 30;
            /// With which addresses v0.1's packets are trusted as v0.1 trusts them (announces without
            /// a token, answers without a transaction id): `"local"`, `"never"` or `"always"`. A node
            /// of a sealed network trusts none of them, whatever stands here; one that is bound to a
            /// single address trusts as local only what that address can have for a neighbor.
            ///
            /// Default "local".
            legacy: Legacy = Legacy::Local, Legacy::Local..=Legacy::Always;
        }
    };
}
#[cfg(feature = "python")]
pub(crate) use config_fields;

macro_rules! make_config {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $default:expr, $allowed:expr;)*) => {
        /// Every tunable of a node. Defaults suit the open Internet.
        ///
        /// ```
        /// use kadepy::Config;
        ///
        /// let config = Config { alpha: 5, ..Config::default() };
        /// assert!(config.check().is_ok());
        /// assert!(Config { k: 0, ..config }.check().is_err());
        /// ```
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub struct Config {
            $($(#[$doc])* pub $name: $type,)*
        }

        impl Default for Config {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        impl Config {
            /// Whether every value is one that a node can work with.
            ///
            /// # Errors
            ///
            /// The first [`ConfigError`], which names the field, its value and what is allowed.
            pub fn check(&self) -> Result<(), ConfigError> {
                $(check_range(stringify!($name), &self.$name, &$allowed)?;)*
                if self.short_wait_min > self.short_wait_max {
                    return Err(ConfigError {
                        field: "short_wait_min",
                        value: self.short_wait_min.show(),
                        allowed: format!("at most short_wait_max ({})", self.short_wait_max.show()),
                    });
                }
                Ok(())
            }
        }
    };
}
config_fields!(make_config);

/// With which addresses v0.1's unauthenticated packets are trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Legacy {
    /// With local addresses within the reach of the node's own, at which nothing of the Internet can
    /// be aimed.
    Local,
    /// With none.
    Never,
    /// With every address.
    Always,
}

impl Legacy {
    /// The setting's name.
    pub fn name(self) -> &'static str {
        match self {
            Legacy::Local => "local",
            Legacy::Never => "never",
            Legacy::Always => "always",
        }
    }
}

/// A value outside its range.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{field} must be {allowed}, got {value}")]
pub struct ConfigError {
    field: &'static str,
    value: String,
    allowed: String,
}

/// A type of tunable, and how a value of it is shown to people.
pub(crate) trait Tunable: PartialOrd {
    fn show(&self) -> String;
}

impl Tunable for usize {
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Tunable for Duration {
    fn show(&self) -> String {
        format!("{} s", self.as_secs_f64())
    }
}

impl Tunable for Legacy {
    fn show(&self) -> String {
        self.name().to_owned()
    }
}

fn check_range<T: Tunable>(
    field: &'static str,
    value: &T,
    allowed: &RangeInclusive<T>,
) -> Result<(), ConfigError> {
    if allowed.contains(value) {
        return Ok(());
    }
    Err(ConfigError {
        field,
        value: value.show(),
        allowed: format!("from {} to {}", allowed.start().show(), allowed.end().show()),
    })
}
