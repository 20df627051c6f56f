//! How the backends of services are checked.

use alloc::{format, string::String};
use serde::{Deserialize, Serialize};

/// What a probe of a backend does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthKind {
    /// There are no probes.
    #[default]
    None,
    /// A TCP connection is opened and closed.
    Tcp,
    /// An HTTP/1.1 GET is answered with one of the status codes.
    Http,
    /// An ICMP echo request is answered.
    Icmp,
}

impl HealthKind {
    /// Names of all kinds, in a configuration and in annotations.
    pub const NAMES: &[&str] = &["none", "tcp", "http", "icmp"];

    /// The kind of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "none" => Some(Self::None),
            "tcp" => Some(Self::Tcp),
            "http" => Some(Self::Http),
            "icmp" => Some(Self::Icmp),
            _ => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::Icmp => "icmp",
        }
    }
}

/// How the backends of services are checked, where a Service does not say it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HealthCheck {
    /// What a probe does.
    pub kind: HealthKind,
    /// Port of probes over TCP. None: the backend's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Path and query of an HTTP request.
    pub path: String,
    /// Status codes that are good, such as `200` or `200-399`.
    pub status: String,
    /// Time from one probe of a backend to the next.
    pub interval_ms: u32,
    /// Time after which a probe has failed; at most the interval.
    pub timeout_ms: u32,
    /// Successes in a row after which a backend that is down is up.
    pub rise: u32,
    /// Failures in a row after which a backend that is up is down.
    pub fall: u32,
    /// If less than this percentage of a service's weight is up, all backends are used.
    pub panic_percent: u32,
    /// Time in which the share of a backend that has come grows to its whole; 0: at once.
    pub slow_start_ms: u32,
    /// Time for which a backend that is down or terminating keeps its flows; 0: as long as it is there.
    pub drain_ms: u32,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            kind: HealthKind::None,
            port: None,
            path: "/".into(),
            status: "200-399".into(),
            interval_ms: 5000,
            timeout_ms: 2000,
            rise: 2,
            fall: 3,
            panic_percent: 50,
            slow_start_ms: 0,
            drain_ms: 300_000,
        }
    }
}

/// A number of a health check: its name, whether it is a time in milliseconds, and what it is from and to.
pub struct HealthNumber {
    /// Its name in a configuration without the unit, and in annotations with hyphens.
    pub name: &'static str,
    /// It is a time.
    pub is_time: bool,
    /// The least and the greatest value.
    pub limits: (u32, u32),
    /// Where it is.
    pub of: fn(&mut HealthCheck) -> &mut u32,
}

/// All of them.
pub static HEALTH_NUMBERS: [HealthNumber; 7] = [
    HealthNumber { name: "interval", is_time: true, limits: INTERVAL_MS, of: |check| &mut check.interval_ms },
    HealthNumber { name: "timeout", is_time: true, limits: TIMEOUT_MS, of: |check| &mut check.timeout_ms },
    HealthNumber { name: "rise", is_time: false, limits: IN_A_ROW, of: |check| &mut check.rise },
    HealthNumber { name: "fall", is_time: false, limits: IN_A_ROW, of: |check| &mut check.fall },
    HealthNumber {
        name: "panic-percent",
        is_time: false,
        limits: (0, 100),
        of: |check| &mut check.panic_percent,
    },
    HealthNumber {
        name: "slow-start",
        is_time: true,
        limits: SLOW_START_MS,
        of: |check| &mut check.slow_start_ms,
    },
    HealthNumber { name: "drain", is_time: true, limits: DRAIN_MS, of: |check| &mut check.drain_ms },
];

pub(crate) const INTERVAL_MS: (u32, u32) = (100, 3_600_000);
pub(crate) const TIMEOUT_MS: (u32, u32) = (10, 600_000);
pub(crate) const IN_A_ROW: (u32, u32) = (1, 100);
pub(crate) const SLOW_START_MS: (u32, u32) = (0, 3_600_000);
pub(crate) const DRAIN_MS: (u32, u32) = (0, 86_400_000);

/// The first and the last status code of a text such as `200` or `200-399`.
pub fn statuses(text: &str) -> Option<(u16, u16)> {
    let (first, last) = crate::ports(text)?;
    (first >= 100 && last <= 599).then_some((first, last))
}

/// Whether a text is a path that a request line has room for: from a slash on, visible ASCII characters (RFC 9112 §3.2.1).
///
/// # Errors
/// What it must be.
pub fn check_path(text: &str) -> Result<(), String> {
    let is_path =
        text.len() <= MAX_PATH_BYTES && text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic());
    is_path.then_some(()).ok_or_else(|| {
        format!("is not a path: a slash, then visible ASCII characters, at most {MAX_PATH_BYTES} in all")
    })
}

/// Bytes of a path at most.
pub(crate) const MAX_PATH_BYTES: usize = 255;
