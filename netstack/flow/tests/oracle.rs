//! The table against a map that does the same the plain way.

use std::collections::HashMap;

use flow::{Config, FlowTable, Key, Observed, Refused, State, Timeouts, V4, V6};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Operation {
    Lookup { key: u8, observed: Observed },
    Batch { keys: Vec<u8>, observed: Observed },
    Insert { key: u8, observed: Observed, binding: u32 },
    InsertPair { key: u8, answer: u8, observed: Observed, binding: u32 },
    InsertBoth { key: u8, observed: Observed, binding: u32 },
    Remove { key: u8 },
    Wait { ms: u64 },
    Expire { lines: usize },
}

fn observed() -> impl Strategy<Value = Observed> {
    prop_oneof![
        prop::sample::select(vec![2u8, 18, 16, 24, 17, 4, 20, 0, 1]).prop_map(Observed::Tcp),
        Just(Observed::Other),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    let key = || 0u8..40;
    prop_oneof![
        8 => (key(), observed()).prop_map(|(key, observed)| Operation::Lookup { key, observed }),
        1 => (prop::collection::vec(key(), 0..300), observed())
            .prop_map(|(keys, observed)| Operation::Batch { keys, observed }),
        4 => (key(), observed(), any::<u32>())
            .prop_map(|(key, observed, binding)| Operation::Insert { key, observed, binding }),
        3 => (key(), key(), observed(), any::<u32>())
            .prop_map(|(key, answer, observed, binding)| Operation::InsertPair { key, answer, observed, binding }),
        3 => (key(), observed(), any::<u32>())
            .prop_map(|(key, observed, binding)| Operation::InsertBoth { key, observed, binding }),
        1 => key().prop_map(|key| Operation::Remove { key }),
        3 => prop::sample::select(vec![1u64, 900, 9_000, 31_000, 100_000, 1_000_000]).prop_map(|ms| Operation::Wait { ms }),
        1 => (0usize..300).prop_map(|lines| Operation::Expire { lines }),
    ]
}

/// A flow, the plain way.
#[derive(Clone, Copy, Debug)]
struct Flow {
    state: State,
    expires_tick: u64,
    binding: u32,
    /// The other direction, and whether this one answers it.
    peer: Option<(u8, bool)>,
    /// The other direction is this one turned round: they expire together.
    is_turned: bool,
}

#[derive(Default)]
struct Oracle {
    flows: HashMap<u8, Flow>,
    now_ns: u64,
}

fn timeout_ticks(state: State) -> u64 {
    let timeouts = Timeouts::default();
    let ms = match state {
        State::Free => 0,
        State::TcpOpening => timeouts.tcp_opening_ms,
        State::TcpEstablished => timeouts.tcp_established_ms,
        State::TcpClosing => timeouts.tcp_closing_ms,
        State::TcpClosed => timeouts.tcp_closed_ms,
        State::Opening => timeouts.opening_ms,
        State::Established => timeouts.established_ms,
    };
    (u64::from(ms) * 1_000_000) >> 20
}

impl Oracle {
    fn tick(&self) -> u64 {
        self.now_ns >> 20
    }

    fn is_quiet(&self, flow: &Flow) -> bool {
        self.tick() >= flow.expires_tick
    }

    fn alive(&self, key: u8) -> Option<Flow> {
        let flow = *self.flows.get(&key)?;
        let peer = flow.peer.map(|(peer, _)| self.flows[&peer]);
        (!self.is_quiet(&flow) || peer.is_some_and(|peer| !self.is_quiet(&peer))).then_some(flow)
    }

    fn remove(&mut self, key: u8) {
        if let Some(Flow { peer: Some((peer, _)), .. }) = self.flows.remove(&key) {
            let _ = self.flows.remove(&peer);
        }
    }

    fn lookup(&mut self, key: u8, observed: Observed) -> Option<Flow> {
        let flow = self.alive(key)?;
        let (syn, fin, rst, ack) = match observed {
            Observed::Tcp(flags) => (flags & 2 != 0, flags & 1 != 0, flags & 4 != 0, flags & 16 != 0),
            Observed::Other => (false, false, false, false),
        };
        let is_tcp = observed != Observed::Other;
        if syn && !ack && matches!(flow.state, State::TcpClosing | State::TcpClosed) {
            return None;
        }
        let further = if is_tcp { ack && !syn } else { true };
        let proves = match flow.peer {
            None => true,
            Some((_, answers)) => answers && further && !rst,
        };
        let state = match (flow.state, is_tcp) {
            (State::Opening, false) if proves => State::Established,
            (State::TcpOpening, true) if proves && further && !rst => {
                if fin {
                    State::TcpClosing
                } else {
                    State::TcpEstablished
                }
            }
            (State::TcpEstablished | State::TcpClosing, true) if rst => State::TcpClosed,
            (State::TcpEstablished, true) if fin => State::TcpClosing,
            (State::TcpClosed, true) if !rst => State::TcpClosing,
            (state, _) => state,
        };
        let tick = self.tick();
        if let Some((peer, _)) = flow.peer
            && flow.state.is_unproven()
            && !state.is_unproven()
        {
            let peer = self.flows.get_mut(&peer).unwrap();
            peer.state = match peer.state {
                State::TcpOpening => State::TcpEstablished,
                State::Opening => State::Established,
                state => state,
            };
            peer.expires_tick = tick + timeout_ticks(peer.state);
        }
        // What was reset is not waited for as if it were established, even if a second reset says so.
        if let Some((peer, _)) = flow.peer
            && state == State::TcpClosed
        {
            let peer = self.flows.get_mut(&peer).unwrap();
            peer.expires_tick = peer.expires_tick.min(tick + timeout_ticks(State::TcpClosing));
        }
        let flow = Flow { state, expires_tick: tick + timeout_ticks(state), ..flow };
        let _ = self.flows.insert(key, flow);
        if flow.is_turned {
            self.keep_both(key);
        }
        Some(flow)
    }

    /// A flow whose answers come from where it goes to is there as long as one direction says so, from its last packet on.
    fn keep_both(&mut self, key: u8) {
        let keys = [key, self.flows[&key].peer.unwrap().0];
        let states = keys.map(|key| self.flows[&key].state);
        let ticks = match states.contains(&State::TcpClosed) {
            true => timeout_ticks(State::TcpClosing),
            false => timeout_ticks(states[0]).max(timeout_ticks(states[1])),
        };
        for key in keys {
            self.flows.get_mut(&key).unwrap().expires_tick = self.tick() + ticks;
        }
    }

    fn insert(&mut self, key: u8, observed: Observed, binding: u32) {
        self.remove(key);
        let state = if observed == Observed::Other { State::Opening } else { State::TcpOpening };
        let _ = self.flows.insert(
            key,
            Flow {
                state,
                expires_tick: self.tick() + timeout_ticks(state),
                binding,
                peer: None,
                is_turned: false,
            },
        );
    }

    fn insert_pair(
        &mut self,
        (key, answer): (u8, u8),
        is_turned: bool,
        observed: Observed,
        binding: u32,
    ) -> bool {
        self.remove(key);
        if key == answer {
            return false;
        }
        if let Some(flow) = self.alive(answer) {
            let begins = matches!(observed, Observed::Tcp(flags) if flags & 18 == 2);
            let is_over = |flow: &Flow| matches!(flow.state, State::TcpClosing | State::TcpClosed);
            if !begins || !is_over(&flow) || flow.peer.is_some_and(|(peer, _)| !is_over(&self.flows[&peer])) {
                return false;
            }
        }
        self.remove(answer);
        self.insert(answer, observed, binding);
        self.insert(key, observed, binding);
        for (this, other, answers) in [(key, answer, false), (answer, key, true)] {
            let flow = self.flows.get_mut(&this).unwrap();
            (flow.peer, flow.is_turned) = (Some((other, answers)), is_turned);
        }
        true
    }

    /// Those of a flow that expire together have one entry.
    fn entries(&self) -> usize {
        let alive = self.flows.keys().filter_map(|key| self.alive(*key));
        alive.filter(|flow| !(flow.is_turned && flow.peer.is_some_and(|(_, answers)| answers))).count()
    }
}

/// An odd number's key is that of the answers to the even one before.
fn turned<K: Key>(number: u8, even: K) -> K {
    if number.is_multiple_of(2) { even } else { even.reversed() }
}

fn v4(number: u8) -> V4 {
    let (source, destination) = ([10, 0, 0, number / 2], [192, 0, 2, 1]);
    turned(number, V4 { source, destination, source_port: 9, destination_port: 80, protocol: 6 })
}

/// One address is at both ends.
fn v6(number: u8) -> V6 {
    let (address, source_port) = ([1; 16], u16::from(number / 2));
    let (source, destination) = (address, address);
    turned(number, V6 { source, destination, source_port, destination_port: 80, protocol: 6 })
}

fn agree<K: Key>(
    secret: [u64; 2],
    key_of: fn(u8) -> K,
    operations: Vec<Operation>,
) -> Result<(), TestCaseError> {
    // Large enough that nobody is refused or displaced: the unproven may be an eighth of 2,000, and no more are inserted.
    let config = Config { capacity: 2000, secret, timeouts: Timeouts::default() };
    let mut table = FlowTable::<K>::new(&config).unwrap();
    let mut oracle = Oracle::default();
    for operation in operations {
        let now = oracle.now_ns;
        match operation {
            Operation::Lookup { key, observed } => {
                let found = table.lookup(&key_of(key), observed, now).map(|slot| table.side(slot).unwrap());
                let expected = oracle.lookup(key, observed);
                prop_assert_eq!(
                    found.map(|side| (side.key(), side.state(), side.binding(), side.is_answer())),
                    expected.map(|flow| {
                        let is_answer = flow.peer.is_some_and(|(_, answers)| answers);
                        (key_of(key), flow.state, flow.binding, is_answer)
                    })
                );
                let peer =
                    found.and_then(|side| table.side(side.peer()?)).map(|peer| (peer.key(), peer.state()));
                let expected = expected
                    .and_then(|flow| flow.peer)
                    .map(|(peer, _)| (key_of(peer), oracle.flows[&peer].state));
                prop_assert_eq!(peer, expected);
            }
            Operation::Batch { keys, observed } => {
                let all: Vec<K> = keys.iter().map(|key| key_of(*key)).collect();
                let mut found = vec![None; keys.len()];
                table.lookup_batch(&all, &vec![observed; keys.len()], now, &mut found);
                for (key, found) in keys.iter().zip(found) {
                    let expected = oracle.lookup(*key, observed);
                    prop_assert_eq!(found.is_some(), expected.is_some());
                    if let Some(slot) = found {
                        prop_assert_eq!(table.side(slot).unwrap().key(), key_of(*key));
                    }
                }
            }
            Operation::Insert { key, observed, binding } => {
                let slot = table.insert(&key_of(key), observed, binding, now);
                oracle.insert(key, observed, binding);
                prop_assert_eq!(table.side(slot.unwrap()).unwrap().binding(), binding);
            }
            Operation::InsertBoth { key, observed, binding } => {
                let answer = key_of(key).reversed();
                let result = table.insert_pair(&key_of(key), &answer, observed, binding, now);
                prop_assert_eq!(result.is_ok(), oracle.insert_pair((key, key ^ 1), true, observed, binding));
            }
            Operation::InsertPair { key, answer, observed, binding } => {
                let result = table.insert_pair(&key_of(key), &key_of(answer), observed, binding, now);
                let is_turned = key_of(answer) == key_of(key).reversed();
                let expected = oracle.insert_pair((key, answer), is_turned, observed, binding);
                prop_assert_eq!(result.is_ok(), expected);
                prop_assert!(result != Err(Refused::Full));
            }
            Operation::Remove { key } => {
                let slot = table.find_at(&table.home(&key_of(key)));
                slot.into_iter().for_each(|slot| table.remove(slot));
                oracle.remove(key);
            }
            Operation::Wait { ms } => oracle.now_ns += ms * 1_000_000,
            Operation::Expire { lines } => table.expire(now, lines),
        }
        prop_assert!(table.counts().live >= oracle.entries());
        prop_assert_eq!(table.counts().displaced + table.counts().refused, 0);
    }
    table.expire(oracle.now_ns, usize::MAX);
    let alive: Vec<K> = (0u8..40).filter(|key| oracle.alive(*key).is_some()).map(key_of).collect();
    prop_assert_eq!(table.counts().live, oracle.entries());
    prop_assert!(table.iter().all(|(_, side)| alive.contains(&side.key())));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn ipv4_agrees(secret in any::<[u64; 2]>(), operations in prop::collection::vec(operation(), 1..120)) {
        agree(secret, v4, operations)?;
    }

    #[test]
    fn ipv6_agrees(secret in any::<[u64; 2]>(), operations in prop::collection::vec(operation(), 1..120)) {
        agree(secret, v6, operations)?;
    }

    /// With no secret to speak of everything lives in a few lines: search, displacement and removal still agree.
    #[test]
    fn crowded_lines_agree(operations in prop::collection::vec(operation(), 1..120)) {
        let key = |number| turned(number, V4 { source_port: 1, destination_port: 2, protocol: number / 2, ..V4::default() });
        agree([0, 0], key, operations)?;
    }
}
