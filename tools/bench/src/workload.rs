//! What is measured.

use buffer::VECTOR_SIZE;

/// One row of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// What it exercises, such as `ip4-forward`.
    pub group: &'static str,
    /// What is particular about it.
    pub variant: &'static str,
    /// The same in a sentence's words.
    pub about: &'static str,
    /// Packets of IPv6 instead of IPv4.
    pub ipv6: bool,
    /// Routes in the table.
    pub routes: Routes,
    /// Next hops of each route.
    pub next_hops: u32,
    /// Source address and ports differ from packet to packet.
    pub many_flows: bool,
    /// Packets in a vector.
    pub vector: usize,
    /// Buffers that have left the processor's own caches since they were written.
    pub cold: bool,
}

/// The route table of a workload, and with it the destinations: distinct addresses behind random routes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routes {
    /// One host route, one destination.
    One,
    /// One route that covers all destinations.
    Wide,
    /// So many routes of this length, next to each other.
    Uniform {
        /// How many.
        count: usize,
        /// Bits of each prefix.
        len: u8,
    },
    /// So many distinct routes, with lengths and places spread about as in the Internet's tables.
    Internet {
        /// How many.
        count: usize,
    },
    /// The same lengths at places that share nothing.
    Scattered {
        /// How many.
        count: usize,
    },
}

/// Bytes of an Ethernet frame on the wire without preamble, frame check sequence included.
pub const FRAME_BYTES: usize = 64;

const BASE4: Workload = Workload {
    group: "ip4-forward",
    variant: "1-route",
    about: "1 route, 1 flow",
    ipv6: false,
    routes: Routes::One,
    next_hops: 1,
    many_flows: false,
    vector: VECTOR_SIZE,
    cold: false,
};
const BASE6: Workload = Workload { group: "ip6-forward", ipv6: true, ..BASE4 };

/// Everything that can be measured.
pub fn all() -> Vec<Workload> {
    let mut all = vec![BASE4];
    all.extend([
        tables(
            BASE4,
            "1000-routes",
            "1,000 /24, 2^17 destinations",
            Routes::Uniform { count: 1000, len: 24 },
        ),
        tables(
            BASE4,
            "60000-routes",
            "60,000 /24, 2^22 destinations",
            Routes::Uniform { count: 60_000, len: 24 },
        ),
        tables(
            BASE4,
            "200000-routes",
            "200,000 as in the Internet, 2^22 destinations",
            Routes::Internet { count: 200_000 },
        ),
        tables(
            BASE4,
            "1000000-routes",
            "1,000,000 as in the Internet, 2^22 destinations",
            Routes::Internet { count: 1_000_000 },
        ),
    ]);
    all.extend(common(BASE4));
    all.push(BASE6);
    all.extend([
        tables(
            BASE6,
            "1000-routes",
            "1,000 /48, 2^22 destinations",
            Routes::Uniform { count: 1000, len: 48 },
        ),
        tables(
            BASE6,
            "60000-routes",
            "60,000 /48, 2^22 destinations",
            Routes::Uniform { count: 60_000, len: 48 },
        ),
        tables(
            BASE6,
            "200000-routes",
            "200,000 as in the Internet, 2^22 destinations",
            Routes::Internet { count: 200_000 },
        ),
        tables(
            BASE6,
            "200000-scattered",
            "200,000 that share nothing, 2^22 destinations",
            Routes::Scattered { count: 200_000 },
        ),
    ]);
    all.extend(common(BASE6));
    all
}

/// All names.
pub fn names() -> Vec<String> {
    all().iter().map(Workload::name).collect()
}

fn tables(base: Workload, variant: &'static str, about: &'static str, routes: Routes) -> Workload {
    Workload { variant, about, routes, ..base }
}

/// What either family has, besides tables.
fn common(base: Workload) -> Vec<Workload> {
    let flows = Workload { routes: Routes::Wide, many_flows: true, ..base };
    let mut rows = vec![
        Workload { variant: "many-flows", about: "1 route, 1 next hop, every packet another flow", ..flows },
        Workload {
            variant: "ecmp",
            about: "1 route, 16 next hops, every packet another flow",
            next_hops: 16,
            ..flows
        },
        Workload {
            variant: "cold-pool",
            about: "1 route, 1 flow; 32,768 buffers in turn, which the first- and second-level caches do not hold",
            cold: true,
            ..base
        },
    ];
    let vectors = [("vector-1", 1), ("vector-4", 4), ("vector-16", 16), ("vector-64", 64)];
    rows.extend(vectors.map(|(variant, vector)| Workload { variant, vector, ..base }));
    rows
}

impl Workload {
    /// Its full name.
    pub fn name(&self) -> String {
        format!("{}/{}", self.group, self.variant)
    }
}
