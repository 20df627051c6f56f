//! Health checks: when to probe backends, what answers mean, and what that does to a service's shares. Without IO or a clock.
//!
//! Main path:
//! 1. [`Monitor::set_target`] says who is checked, and how ([`Check`]); who stays keeps what is known of him;
//! 2. [`Monitor::poll`] names probes that are due, spread over their interval with jitter; whoever makes them tells
//!    [`Monitor::report`] how they ended, and [`Monitor::next_ns`] says when to come again;
//! 3. [`Monitor::shares`] turns a pool's backends to what the table is to be built of: the unhealthy have no share and drain, the
//!    recovered and the new come slowly, and if too few are left all are used; it also says when time alone changes
//!    that.
//!
//! A backend is *up* at first, so that a node that starts does not take services away which it has not looked at yet. It goes down
//! after [`Check::fall`] failures in a row, and up after [`Check::rise`] successes.
//!
//! It makes no connections (`control` does).
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod backend;
mod monitor;
mod shares;
#[cfg(test)]
mod tests;

pub use backend::{Backend, Change, Failure, Status};
pub use monitor::{Event, Monitor, Probe, Target};

/// What a probe does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A TCP connection is opened and closed.
    Tcp {
        /// The port, if it is not the backend's.
        port: Option<u16>,
    },
    /// An HTTP/1.1 GET of this path is answered with one of these status codes.
    Http {
        /// The port, if it is not the backend's.
        port: Option<u16>,
        /// Path and query.
        path: alloc::string::String,
        /// The first and the last status code that is good.
        status: (u16, u16),
    },
    /// An ICMP echo is answered.
    Echo,
}

/// How a pool's backends are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What a probe does. None: there are no probes, and all are up.
    pub kind: Option<Kind>,
    /// Time from one probe of a backend to the next.
    pub interval_ns: u64,
    /// Time after which a probe has failed; at most the interval counts.
    pub timeout_ns: u64,
    /// Successes in a row after which a backend that is down is up.
    pub rise: u32,
    /// Failures in a row after which a backend that is up is down.
    pub fall: u32,
    /// If less than this percentage of a pool's weight is up, health is not looked at: all are used.
    pub panic_percent: u8,
    /// Time in which the share of a backend that has come up grows to its whole; 0 for at once.
    pub slow_start_ns: u64,
    /// Time for which a backend that is down or draining keeps its flows; afterwards they are forgotten, and what comes of
    /// them goes where the table says. 0: as long as it is there.
    pub drain_ns: u64,
}

impl Default for Check {
    /// A TCP connection every 5 s, with a timeout of 2 s; down after 3 failures, up after 2 successes; half of the weight must be up.
    fn default() -> Self {
        let check = config::HealthCheck { kind: config::HealthKind::Tcp, ..Default::default() };
        Self::new(&check, services::Protocol::Tcp)
    }
}

impl Check {
    /// What a configuration says about the backends of a service of this protocol.
    pub fn new(said: &config::HealthCheck, protocol: services::Protocol) -> Self {
        use config::HealthKind;
        const MS: u64 = 1_000_000;
        let (has_port, port) = (protocol == services::Protocol::Tcp || said.port.is_some(), said.port);
        let ns = |milliseconds: u32| u64::from(milliseconds) * MS;
        Check {
            kind: match said.kind {
                HealthKind::Tcp if has_port => Some(Kind::Tcp { port }),
                HealthKind::Http if has_port => {
                    let status = config::statuses(&said.status).unwrap_or((200, 399));
                    Some(Kind::Http { port, path: said.path.clone(), status })
                }
                HealthKind::Icmp => Some(Kind::Echo),
                _ => None,
            },
            interval_ns: ns(said.interval_ms.max(1)),
            timeout_ns: ns(said.timeout_ms),
            rise: said.rise,
            fall: said.fall,
            panic_percent: said.panic_percent.min(100) as u8,
            slow_start_ns: ns(said.slow_start_ms),
            drain_ns: ns(said.drain_ms),
        }
    }
}
