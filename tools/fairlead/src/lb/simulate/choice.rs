//! Ways to choose a connection's backend.

use maglev::{Backend, FlowHasher, Seed, Table, TableSize};

use super::nodes;

/// The choices among some backends, known by number.
pub struct Choices {
    hasher: FlowHasher,
    backends: Vec<u16>,
    table: Table,
    /// Points of a ring, in order, and who has the part before each.
    ring: Vec<(u64, u16)>,
}

impl Choices {
    /// The choices by a table of this size, and a ring with so many points of each backend.
    pub fn new(size: TableSize, points: u32, backends: &[u16]) -> Self {
        let seed = Seed::default();
        Self {
            hasher: FlowHasher::new(&seed),
            backends: backends.to_vec(),
            table: table(size, &seed, backends),
            ring: ring(backends, points, 0),
        }
    }

    fn hash(&self, flow: u32) -> u64 {
        let (source, port) = nodes::client(flow);
        self.hasher.ipv4(source, nodes::VIP, 6, (port, nodes::PORT))
    }

    /// By the table that nodes have.
    pub fn maglev(&self, flow: u32) -> u16 {
        self.backends[self.table.backend(self.hash(flow)) as usize]
    }

    /// By a ring of consistent hashing (Karger et al., 1997).
    pub fn ring(&self, flow: u32) -> u16 {
        let hash = self.hash(flow);
        let at = self.ring.partition_point(|(point, _)| *point < hash);
        self.ring[if at == self.ring.len() { 0 } else { at }].1
    }

    /// By the hash modulo their number.
    pub fn modulo(&self, flow: u32) -> u16 {
        self.backends[(self.hash(flow) % self.backends.len() as u64) as usize]
    }
}

/// The Maglev table of backends with these numbers, which index into them.
pub fn table(size: TableSize, seed: &Seed, backends: &[u16]) -> Table {
    let names: Vec<String> = backends.iter().map(|number| nodes::backend(*number).to_string()).collect();
    let backends: Vec<Backend<'_>> =
        names.iter().map(|name| Backend { name: name.as_bytes(), weight: 1 }).collect();
    Table::build(size, seed, &backends).expect("backends with names of their own, fewer than slots")
}

/// So many points of each backend on a ring.
pub fn ring(backends: &[u16], points: u32, seed: u64) -> Vec<(u64, u16)> {
    let mut ring: Vec<(u64, u16)> = backends
        .iter()
        .flat_map(|backend| {
            (0..points).map(move |point| (mix(u64::from(*backend) << 32 | u64::from(point), seed), *backend))
        })
        .collect();
    ring.sort_unstable();
    ring
}

/// A hash of two numbers (the finaliser of splitmix64, twice).
pub fn mix(a: u64, b: u64) -> u64 {
    let step = |value: u64| {
        let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ value >> 31
    };
    step(a ^ step(b))
}
