//! What is measured.

use buffer::VECTOR_SIZE;

/// One row of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// What it exercises, such as `ip4-forward`.
    pub group: &'static str,
    /// What is particular about it.
    pub variant: &'static str,
    /// Packets of IPv6 instead of IPv4.
    pub ipv6: bool,
    /// Routes in the table.
    pub routes: Routes,
    /// Packets in a vector.
    pub vector: usize,
    /// Buffers that have left the processor's own caches since they were written.
    pub cold: bool,
}

/// The route table of a workload. Destinations are random addresses behind random routes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routes {
    /// One route, one flow.
    One,
    /// So many routes of this length, next to each other.
    Uniform {
        /// How many.
        count: u32,
        /// Bits of each prefix.
        len: u8,
    },
    /// So many routes at random places, with lengths spread as in the Internet's tables.
    Random {
        /// How many.
        count: u32,
    },
}

/// Bytes of an Ethernet frame on the wire without preamble, frame check sequence included.
pub const FRAME_BYTES: usize = 64;

/// Everything that can be measured.
pub fn all() -> Vec<Workload> {
    let base = Workload {
        group: "ip4-forward",
        variant: "1-route",
        ipv6: false,
        routes: Routes::One,
        vector: VECTOR_SIZE,
        cold: false,
    };
    let uniform = |count, len| Routes::Uniform { count, len };
    let mut all = vec![
        base,
        Workload { variant: "1000-routes", routes: uniform(1000, 24), ..base },
        Workload { variant: "60000-routes", routes: uniform(60_000, 24), ..base },
        Workload { variant: "1000000-routes", routes: Routes::Random { count: 1_000_000 }, ..base },
        Workload { variant: "cold-pool", cold: true, ..base },
    ];
    let vectors = [("vector-1", 1), ("vector-4", 4), ("vector-16", 16), ("vector-64", 64)];
    all.extend(vectors.map(|(variant, vector)| Workload { variant, vector, ..base }));
    let base = Workload { group: "ip6-forward", ipv6: true, ..base };
    all.extend([
        base,
        Workload { variant: "1000-routes", routes: uniform(1000, 48), ..base },
        Workload { variant: "60000-routes", routes: uniform(60_000, 48), ..base },
        Workload { variant: "200000-routes", routes: Routes::Random { count: 200_000 }, ..base },
        Workload { variant: "cold-pool", cold: true, ..base },
    ]);
    all.extend(vectors.map(|(variant, vector)| Workload { variant, vector, ..base }));
    all
}

impl Workload {
    /// Its full name.
    pub fn name(&self) -> String {
        format!("{}/{}", self.group, self.variant)
    }

    /// True if a person who says `wanted` means it: its full name or its group's.
    pub fn is_meant_by(&self, wanted: &str) -> bool {
        wanted == self.group || wanted == self.name()
    }
}
