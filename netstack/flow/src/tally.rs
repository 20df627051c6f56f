//! What flows have carried, and how they ended: kept beside the table, and only while somebody wants to know.

use alloc::vec::Vec;

use crate::key::{Home, Key};
use crate::probe;
use crate::side::{Side, Slot};
use crate::state::{State, TimeoutTicks, ticks};
use crate::table::{Config, Error, FlowTable, Room, lines_of};

/// Flows that have ended and that nobody has been told of yet, at most: more than a vector of packets can end.
const ENDED_MAX: usize = 768;

/// What one direction of a flow has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// When it began, or was first looked at, in ticks; 0 before that.
    begun: u32,
    /// Packets.
    pub packets: u32,
    /// Bytes of them.
    pub bytes: u64,
}

const _: () = assert!(size_of::<Tally>() == 16);

impl Tally {
    /// Counts a packet.
    #[inline(always)]
    pub fn add(&mut self, bytes: u64, now_ns: u64) {
        if self.begun == 0 {
            self.begun = ticks(now_ns).max(1);
        }
        self.packets = self.packets.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// How a flow ended; the numbers are those of IPFIX's flowEndReason (RFC 5102 §5.11.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum End {
    /// It was quiet for too long.
    Idle = 1,
    /// Its ends closed it.
    Closed = 3,
    /// It was told to end.
    Forced = 4,
    /// It gave way to another one.
    Displaced = 5,
}

/// A flow that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended<K> {
    /// The flow, as who began it sent it.
    pub key: K,
    /// The key of its answers, if they pass here.
    pub answer: Option<K>,
    /// What it was bound to.
    pub binding: u32,
    /// What policy found.
    pub verdict: u32,
    /// Why.
    pub end: End,
    /// When it began.
    begun: u32,
    /// When its last packet came.
    last: u32,
    /// What who began it has sent.
    pub asks: Tally,
    /// What was answered.
    pub answers: Tally,
}

impl<K> Ended<K> {
    /// When it began and when its last packet came, within a millisecond; `now_ns` is less than 52 days later.
    pub fn times_ns(&self, now_ns: u64) -> (u64, u64) {
        let at = |tick: u32| now_ns.saturating_sub(u64::from(ticks(now_ns).wrapping_sub(tick)) << 20);
        (at(self.begun), at(self.last))
    }
}

/// What the flow of an entry has carried: one that is of one direction has the other's in its peer.
#[derive(Clone, Copy, Debug, Default)]
struct Carried {
    own: Tally,
    turned: Tally,
}

/// Memory to count a table's flows in: 52 bytes a flow for IPv4, 46 for IPv6.
pub struct Tallies<K> {
    slots: Vec<Carried>,
    ended: Vec<Ended<K>>,
    lost: u64,
}

impl<K: Key> Tallies<K> {
    /// For the table that is made with the same configuration.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn new(config: &Config) -> Result<Self, Error> {
        let count = lines_of::<K>(config.capacity).1 * K::WAYS;
        let (mut slots, mut ended) = (Vec::new(), Vec::new());
        let enough = slots.try_reserve_exact(count).and_then(|()| ended.try_reserve_exact(ENDED_MAX));
        enough.map_err(|_| Error::Memory { bytes: count * size_of::<Carried>() })?;
        slots.resize(count, Carried::default());
        Ok(Self { slots, ended, lost: 0 })
    }

    pub(crate) fn begin(&mut self, slot: Slot, now: u32) {
        if let Some(carried) = self.slots.get_mut(slot.number()) {
            let own = Tally { begun: now.max(1), ..Tally::default() };
            *carried = Carried { own, turned: Tally::default() };
        }
    }

    #[inline(always)]
    pub(crate) fn of(&mut self, slot: Slot) -> Option<&mut Tally> {
        let carried = self.slots.get_mut(slot.number())?;
        Some(if slot.is_turned() { &mut carried.turned } else { &mut carried.own })
    }

    fn ending(&self, side: &Side<'_, K>, timeouts: &TimeoutTicks) -> Ending<K> {
        let carried = self.slots.get(side.slot.number()).copied().unwrap_or_default();
        let tally = if side.slot.is_turned() { carried.turned } else { carried.own };
        let entry = side.entry;
        let timeout = match entry.link.is_both() {
            true => timeouts.of_both(entry.states()),
            false => timeouts.of(entry.state),
        };
        let is_over = matches!(side.state(), State::TcpClosing | State::TcpClosed);
        Ending { key: side.key(), tally, last: entry.expires.wrapping_sub(timeout), is_over }
    }

    /// Notes that a flow ends. Without packets it is none, but something that the owner of the table remembers.
    fn end(&mut self, asks: &Ending<K>, answers: Option<&Ending<K>>, kept: (u32, u32), end: End) {
        let answered = answers.map(|side| side.tally).unwrap_or_default();
        if asks.tally.packets == 0 && answered.packets == 0 {
            return;
        }
        if self.ended.len() == ENDED_MAX {
            self.lost += 1;
            return;
        }
        let last = answers.filter(|side| side.last.wrapping_sub(asks.last) as i32 > 0);
        let is_closed = end == End::Idle && (asks.is_over || answers.is_some_and(|side| side.is_over));
        let (binding, verdict) = kept;
        self.ended.push(Ended {
            key: asks.key,
            answer: answers.map(|side| side.key),
            binding,
            verdict,
            end: if is_closed { End::Closed } else { end },
            begun: if asks.tally.begun == 0 { answered.begun } else { asks.tally.begun },
            last: last.map_or(asks.last, |side| side.last),
            asks: asks.tally,
            answers: answered,
        });
    }
}

/// One direction of a flow that ends.
struct Ending<K> {
    key: K,
    tally: Tally,
    /// When its last packet came, or that of the flow if one entry is of both directions.
    last: u32,
    /// It has said FIN or RST.
    is_over: bool,
}

impl<K: Key> FlowTable<K> {
    /// True if what flows carry is counted.
    #[inline(always)]
    pub fn is_tallied(&self) -> bool {
        self.tallies.is_some()
    }

    /// Has what flows carry counted in this memory, or no more in any, from now on; returns the memory before, or this one if
    /// it is not for a table of this size.
    pub fn set_tallies(&mut self, tallies: Option<Tallies<K>>) -> Option<Tallies<K>> {
        match tallies {
            Some(tallies) if tallies.slots.len() != self.lines.len() * K::WAYS => Some(tallies),
            tallies => core::mem::replace(&mut self.tallies, tallies),
        }
    }

    /// True if there is more of flows than their entries: what they carry is counted, or their windows are followed.
    #[inline(always)]
    pub fn keeps_beside(&self) -> bool {
        self.tallies.is_some() | self.windows.is_some()
    }

    /// Asks for the tally of a flow that lives in its home line.
    #[inline(always)]
    pub fn prefetch_tally(&self, home: &Home<K>) {
        if let Some(tallies) = &self.tallies
            && let Some(tally) = tallies.slots.get(self.line(home) * K::WAYS)
        {
            buffer::prefetch_write(tally);
        }
    }

    /// The verdict of the flow in `asks`, and what a packet that was found in `slot` is counted in.
    #[inline(always)]
    pub fn kept_mut(&mut self, asks: Slot, slot: Slot) -> (Option<&mut u32>, Option<&mut Tally>) {
        let entry = probe::at_mut(&mut self.lines, asks.place::<K>()).filter(|entry| !entry.is_free());
        let tally = self.tallies.as_mut().and_then(|tallies| tallies.of(slot));
        (entry.map(|entry| &mut entry.verdict), tally)
    }

    /// What a packet that was found in a slot is counted in.
    #[inline(always)]
    pub fn tally_mut(&mut self, slot: Slot) -> Option<&mut Tally> {
        self.tallies.as_mut()?.of(slot)
    }

    /// What the first packet of a flow that is to come into the table is counted in.
    #[inline(always)]
    pub fn tally_in(&mut self, room: &Room) -> Option<&mut Tally> {
        self.tallies.as_mut()?.of(Slot::at::<K>(room.asks))
    }

    /// Takes the flows that have ended since, if they are counted; returns how many more there were than room for.
    pub fn drain_ended(&mut self, each: impl FnMut(Ended<K>)) -> u64 {
        let Some(tallies) = &mut self.tallies else { return 0 };
        tallies.ended.drain(..).for_each(each);
        core::mem::take(&mut tallies.lost)
    }

    /// Notes that the flow ends whose entry has this slot.
    #[inline(never)]
    pub(crate) fn note_end(&mut self, slot: Slot, end: End) {
        let Some(mut tallies) = self.tallies.take() else { return };
        if let Some(here) = self.side(slot) {
            let there = here.peer().and_then(|peer| self.side(peer));
            let (asks, answers) = match there {
                Some(there) if here.is_answer() => (there, Some(here)),
                there => (here, there),
            };
            let ending = |side: &Side<'_, K>| tallies.ending(side, &self.timeouts);
            let (of_asks, of_answers) = (ending(&asks), answers.as_ref().map(ending));
            tallies.end(&of_asks, of_answers.as_ref(), (asks.entry.binding, asks.entry.verdict), end);
        }
        self.tallies = Some(tallies);
    }
}

impl<K> core::fmt::Debug for Tallies<K> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "tallies of {} slots", self.slots.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Observed, Timeouts, V4};

    const MS: u64 = 1_000_000;

    fn table() -> (FlowTable<V4>, Config) {
        let config = Config { capacity: 100, secret: [3, 5], timeouts: Timeouts::default() };
        (FlowTable::new(&config).unwrap(), config)
    }

    fn keys(port: u16) -> (V4, V4) {
        let (a, b) = ([10, 0, 0, 1], [10, 1, 0, 1]);
        let key = V4 { source: a, destination: b, source_port: port, destination_port: 80, protocol: 6 };
        let answer = V4 { source: b, destination: a, source_port: 80, destination_port: port, protocol: 6 };
        (key, answer)
    }

    fn count(table: &mut FlowTable<V4>, key: &V4, flags: u8, bytes: u64, now_ns: u64) {
        let slot = table.lookup(key, Observed::Tcp(flags), now_ns).unwrap();
        let asks = table.side(slot).unwrap().asks().unwrap();
        table.kept_mut(asks, slot).1.unwrap().add(bytes, now_ns);
    }

    fn ended(table: &mut FlowTable<V4>) -> Vec<Ended<V4>> {
        let mut all = Vec::new();
        assert_eq!(table.drain_ended(|ended| all.push(ended)), 0);
        all
    }

    #[test]
    fn what_a_flow_carried_each_way_is_told_when_it_ends_whichever_direction_is_found_first() {
        let (mut table, config) = table();
        assert!(table.set_tallies(Some(Tallies::new(&Config { capacity: 7, ..config }).unwrap())).is_some());
        assert!(table.set_tallies(Some(Tallies::new(&config).unwrap())).is_none());
        let (key, answer) = keys(4000);
        let slot = table.insert_pair(&key, &answer, Observed::Tcp(2), 9, 1000 * MS).unwrap();
        *table.kept_mut(slot, slot).0.unwrap() = 77;
        count(&mut table, &key, 2, 60, 1000 * MS);
        count(&mut table, &answer, 18, 60, 1500 * MS);
        count(&mut table, &key, 16, 1500, 2000 * MS);
        count(&mut table, &answer, 17, 52, 9000 * MS);
        table.expire(60_000 * MS, usize::MAX);
        assert!(ended(&mut table).is_empty());
        let now_ns = 2_000_000 * MS;
        table.expire(now_ns, usize::MAX);
        let [flow] = ended(&mut table)[..] else { panic!("one flow") };
        assert_eq!((flow.key, flow.answer, flow.binding, flow.verdict), (key, Some(answer), 9, 77));
        assert_eq!((flow.asks.packets, flow.asks.bytes), (2, 1560));
        assert_eq!((flow.answers.packets, flow.answers.bytes), (2, 112));
        assert_eq!(flow.end, End::Closed);
        let (begun_ns, last_ns) = flow.times_ns(now_ns);
        assert!(begun_ns.abs_diff(1000 * MS) < 3 * MS, "{begun_ns}");
        assert!(last_ns.abs_diff(9000 * MS) < 3 * MS, "{last_ns}");
    }

    #[test]
    fn ends_have_reasons_and_what_carried_nothing_is_no_flow() {
        let (mut table, config) = table();
        let _ = table.set_tallies(Some(Tallies::new(&config).unwrap()));
        for (port, bytes) in [(1, 0), (2, 70), (3, 71)] {
            let (key, answer) = keys(port);
            let slot = table.insert_pair(&key, &answer, Observed::Other, 0, MS).unwrap();
            if bytes > 0 {
                table.kept_mut(slot, slot).1.unwrap().add(bytes, MS);
            }
            if port == 2 {
                table.remove(slot);
            }
        }
        // The table has room for a few unproven flows only.
        for port in 10..100 {
            let (key, answer) = keys(port);
            let _ = table.insert_pair(&key, &answer, Observed::Other, 0, 2 * MS).unwrap();
        }
        let ends: Vec<_> = ended(&mut table).iter().map(|flow| (flow.end, flow.asks.bytes)).collect();
        assert_eq!(ends, [(End::Forced, 70), (End::Displaced, 71)]);
        // A slot's next flow has not what the one before had, and without tallies nothing is told.
        assert!(table.set_tallies(None).is_some());
        table.expire(1_000_000 * MS, usize::MAX);
        assert!(ended(&mut table).is_empty());
    }
}
