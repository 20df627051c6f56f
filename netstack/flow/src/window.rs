//! Whether a TCP segment can be one of its connection: its sequence numbers against the windows that both ends have told.
//!
//! The model is that of G. van Rooij, "Real Stateful TCP Packet Filtering in IP Filter" (2000), which packet filters have used
//! since. An end may send what the other's window has room for and not before what the other may still want again; and it
//! acknowledges what the other has sent. RFC 9293 §3.4 (sequence numbers), RFC 7323 §2 (scaled windows), RFC 5961 (forged segments).
//!
//! A segment with SYN is never refused: in a connection that stands the ends settle themselves what it means (RFC 5961 §4).

use alloc::vec::Vec;
use core::cmp::max;

use crate::key::{Home, Key};
use crate::side::Slot;
use crate::state::Observed;
use crate::table::{Error, FlowTable};

/// Flags of a header (RFC 9293 §3.1).
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// The shift of a window whose scale nobody has seen: the largest (RFC 7323 §2.3).
const UNKNOWN_SCALE: u8 = 14;
/// An acknowledgment is no older than a window, or this if that is more.
const OLDEST_ACKNOWLEDGMENT: u32 = 66_000;

/// What windows are about in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Number of its first byte.
    pub sequence: u32,
    /// Number of the byte that its sender waits for; of no meaning without the flag ACK.
    pub acknowledgment: u32,
    /// As it is in the header, not shifted.
    pub window: u16,
    /// The flags of the header's 14th byte.
    pub flags: u8,
    /// The window scale option.
    pub scale: Option<u8>,
    /// Bytes of data.
    pub bytes: u32,
}

impl Segment {
    /// Reads a segment of this length, of which `header` has the header at least. None if its header is longer than it.
    pub fn read(header: &[u8], length: usize) -> Option<Self> {
        let fixed: &[u8; 20] = header.first_chunk()?;
        let header_bytes = usize::from(fixed[12] >> 4) * 4;
        let bytes = length.checked_sub(header_bytes).filter(|_| header_bytes >= fixed.len())?;
        let flags = fixed[13];
        let options = || header.get(fixed.len()..header_bytes).and_then(scale);
        Some(Self {
            sequence: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
            acknowledgment: u32::from_be_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]),
            window: u16::from_be_bytes([fixed[14], fixed[15]]),
            flags,
            scale: if flags & SYN != 0 { options() } else { None },
            bytes: bytes as u32,
        })
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The number behind its last byte.
    fn end(&self) -> u32 {
        let flags = u32::from(self.has(SYN)) + u32::from(self.has(FIN));
        self.sequence.wrapping_add(self.bytes).wrapping_add(flags)
    }
}

/// The window scale option.
fn scale(mut options: &[u8]) -> Option<u8> {
    loop {
        match *options {
            [] | [0, ..] => return None,
            [1, ..] => options = options.get(1..)?,
            [3, 3, shift, ..] => return Some(shift.min(UNKNOWN_SCALE)),
            [_, length, ..] if length >= 2 => options = options.get(usize::from(length)..)?,
            _ => return None,
        }
    }
}

/// What is known of an end.
#[derive(Clone, Copy, Debug, Default)]
struct End {
    /// The number behind the last byte that it has sent.
    sent: u32,
    /// The number behind the last byte that the other end lets it send.
    limit: u32,
    /// The largest window that it has told.
    window: u32,
    /// By how much it shifts its windows.
    scale: u8,
    knows: u8,
}

/// Bits of [`End::knows`]: it has sent something; the other end has told it a window; of whoever asks, that the connection stands.
const SEEN: u8 = 1;
const LIMITED: u8 = 2;
const STANDS: u8 = 4;

impl End {
    fn is(&self, bit: u8) -> bool {
        self.knows & bit != 0
    }

    fn limit_to(&mut self, limit: u32) {
        if !self.is(LIMITED) || is_after(limit, self.limit) {
            (self.limit, self.knows) = (limit, self.knows | LIMITED);
        }
    }
}

/// The windows of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Windows {
    asks: End,
    answers: End,
}

const _: () = assert!(size_of::<Windows>() == 32);

impl Windows {
    /// True if a segment can be of the connection, which then goes on with it.
    pub(crate) fn admit(&mut self, is_answer: bool, segment: &Segment) -> bool {
        let stands = self.asks.is(STANDS);
        let (sender, receiver) = match is_answer {
            true => (&mut self.answers, &mut self.asks),
            false => (&mut self.asks, &mut self.answers),
        };
        if segment.has(SYN) {
            if !stands {
                begin(sender, receiver, segment);
            }
            return true;
        }
        if segment.has(RST) {
            return can_reset(sender, receiver, segment);
        }
        if !fits(sender, receiver, segment) {
            return false;
        }
        go_on(sender, receiver, segment);
        if sender.is(SEEN) && receiver.is(SEEN) {
            self.asks.knows |= STANDS;
        }
        true
    }
}

impl<K: Key> FlowTable<K> {
    /// Has the windows of TCP flows followed from now on: 52 bytes more a flow for IPv4, 46 for IPv6.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub fn follow_windows(&mut self) -> Result<(), Error> {
        let count = self.lines.len() * K::WAYS;
        let mut windows = Vec::new();
        let enough = windows.try_reserve_exact(count);
        enough.map_err(|_| Error::Memory { bytes: count * size_of::<Windows>() })?;
        windows.resize(count, Windows::default());
        self.windows = Some(windows);
        Ok(())
    }

    /// True if a segment is to be asked about by [`FlowTable::admits`].
    #[inline(always)]
    pub fn follows_windows(&self, observed: Observed) -> bool {
        self.windows.is_some() && matches!(observed, Observed::Tcp(_))
    }

    /// True if a segment can be of the flow in a slot, either direction's, as far as windows tell, which are followed with it.
    /// Where only one direction passes here, any segment can.
    pub fn admits(&mut self, slot: Slot, segment: &Segment) -> bool {
        let Some(side) = self.side(slot).filter(|side| side.peer().is_some()) else { return true };
        let (is_answer, asks) = (side.is_answer(), side.asks());
        let (Some(windows), Some(asks)) = (&mut self.windows, asks) else { return true };
        windows.get_mut(asks.number()).is_none_or(|windows| windows.admit(is_answer, segment))
    }

    /// Asks for the windows of flows that live at home and began from there.
    #[inline(always)]
    pub fn prefetch_windows(&self, home: &Home<K>) {
        let windows = self.windows.as_ref().and_then(|windows| windows.get(self.line(home) * K::WAYS));
        if let Some(windows) = windows {
            buffer::prefetch_write(windows);
        }
    }

    /// Forgets the windows of the flow that was in a slot.
    #[inline(always)]
    pub(crate) fn forget_windows(&mut self, slot: Slot) {
        if let Some(windows) = &mut self.windows
            && let Some(windows) = windows.get_mut(slot.number())
        {
            *windows = Windows::default();
        }
    }
}

/// Takes the first segment of an end, or its first once more.
fn begin(sender: &mut End, receiver: &mut End, segment: &Segment) {
    let end = segment.end();
    if !segment.has(ACK) && sender.is(SEEN) && sender.sent != end {
        // Another connection: what was answered belonged to the one before.
        *receiver = End::default();
    }
    let window = max(u32::from(segment.window), 1);
    let (scale, knows) = (segment.scale.unwrap_or(0), SEEN | sender.knows & LIMITED);
    *sender = End { sent: end, window, scale, knows, ..*sender };
    if segment.has(ACK) {
        // Windows are scaled if both ends want it.
        if segment.scale.is_none() {
            receiver.scale = 0;
        }
        receiver.limit_to(segment.acknowledgment.wrapping_add(window));
    }
}

/// A reset is in the window; one that answers a SYN acknowledges that.
fn can_reset(sender: &End, receiver: &End, segment: &Segment) -> bool {
    if !sender.is(SEEN) {
        let answers = segment.has(ACK) && segment.acknowledgment == receiver.sent;
        return answers || !receiver.is(SEEN);
    }
    is_in_window(sender, receiver, segment.sequence, segment.sequence)
}

fn fits(sender: &End, receiver: &End, segment: &Segment) -> bool {
    let is_in_window = !sender.is(SEEN) || is_in_window(sender, receiver, segment.sequence, segment.end());
    let acknowledges = !segment.has(ACK) || !receiver.is(SEEN) || {
        let oldest = receiver.sent.wrapping_sub(max(sender.window, OLDEST_ACKNOWLEDGMENT)).wrapping_sub(1);
        !is_after(segment.acknowledgment, receiver.sent) && is_after(segment.acknowledgment, oldest)
    };
    is_in_window && acknowledges
}

/// True if its receiver may want a segment with these numbers: a byte beyond the window asks for a new one, and a byte before
/// what is acknowledged whether anybody is there.
fn is_in_window(sender: &End, receiver: &End, sequence: u32, end: u32) -> bool {
    let oldest = sender.sent.wrapping_sub(receiver.window).wrapping_sub(2);
    !(sender.is(LIMITED) && is_after(sequence, sender.limit)) && (!receiver.is(SEEN) || is_after(end, oldest))
}

fn go_on(sender: &mut End, receiver: &mut End, segment: &Segment) {
    let end = segment.end();
    if !sender.is(SEEN) {
        // It began before anybody looked.
        *sender = End { sent: end, scale: UNKNOWN_SCALE, knows: sender.knows | SEEN, ..*sender };
    }
    let window = u32::from(segment.window) << sender.scale;
    sender.window = max(sender.window, max(window, 1));
    if is_after(end, sender.sent) {
        sender.sent = end;
    }
    if segment.has(ACK) {
        receiver.limit_to(segment.acknowledgment.wrapping_add(max(window, 1)));
    }
}

/// True if one number comes after another (RFC 9293 §3.4).
fn is_after(number: u32, other: u32) -> bool {
    number.wrapping_sub(other) as i32 > 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn segment(flags: u8, sequence: u32, acknowledgment: u32, window: u16, bytes: u32) -> Segment {
        Segment { sequence, acknowledgment, window, flags, scale: None, bytes }
    }

    /// A connection that stands: the asking end has numbers from `asks` on and a window of 2,000 bytes, the other from `answers`
    /// on, and one of 1,000.
    fn standing(asks: u32, answers: u32) -> Windows {
        let mut windows = Windows::default();
        assert!(windows.admit(false, &segment(SYN, asks.wrapping_sub(1), 0, 2000, 0)));
        assert!(windows.admit(true, &segment(SYN | ACK, answers.wrapping_sub(1), asks, 1000, 0)));
        assert!(windows.admit(false, &segment(ACK, asks, answers, 2000, 0)));
        windows
    }

    #[test]
    fn what_the_windows_have_no_room_for_is_refused() {
        for (asks, answers) in [(10_000, 500_000), (u32::MAX - 500, 700), (0, u32::MAX)] {
            let at = |offset: i32| asks.wrapping_add_signed(offset);
            let acks = |offset: i32| answers.wrapping_add_signed(offset);
            for (wanted, segment) in [
                (true, segment(ACK, at(0), acks(0), 2000, 1000)),
                // At the window's end, a probe of it, and beyond.
                (true, segment(ACK, at(1000), acks(0), 2000, 1)),
                (false, segment(ACK, at(1001), acks(0), 2000, 1)),
                (false, segment(ACK, at(500_000), acks(0), 2000, 10)),
                // Whether anybody is there; what was received long ago.
                (true, segment(ACK, at(-1), acks(0), 2000, 0)),
                (false, segment(ACK, at(-5000), acks(0), 2000, 10)),
                // What was not sent cannot be acknowledged, and what is acknowledged is not that old.
                (false, segment(ACK, at(0), acks(1), 2000, 10)),
                (false, segment(ACK, at(0), acks(-70_000), 2000, 10)),
                (true, segment(RST, at(0), 0, 0, 0)),
                (true, segment(RST | ACK, at(900), acks(0), 0, 0)),
                (false, segment(RST, at(1001), 0, 0, 0)),
                (false, segment(RST, at(-2000), 0, 0, 0)),
                // For the other end to answer.
                (true, segment(SYN, at(123_456), 0, 1000, 0)),
            ] {
                let mut windows = standing(asks, answers);
                assert_eq!(windows.admit(false, &segment), wanted, "{asks}: {segment:?}");
                // It goes on in any case.
                assert!(windows.admit(true, &super::tests::segment(ACK, acks(0), at(0), 1000, 1500)));
            }
        }
    }

    #[test]
    fn acknowledgments_open_the_window_and_scales_shift_it() {
        let mut windows = Windows::default();
        assert!(windows.admit(false, &Segment { scale: Some(7), ..segment(SYN, 99, 0, 1000, 0) }));
        // Not shifted yet.
        assert!(windows.admit(true, &Segment { scale: Some(3), ..segment(SYN | ACK, 199, 100, 1000, 0) }));
        assert!(!windows.admit(false, &segment(ACK, 1101, 200, 10, 1)));
        assert!(windows.admit(false, &segment(ACK, 100, 200, 10, 1000)));
        assert!(windows.admit(true, &segment(ACK, 200, 1100, 1000, 0)));
        assert!(windows.admit(false, &segment(ACK, 9100, 200, 10, 1)));
        assert!(!windows.admit(false, &segment(ACK, 9102, 200, 10, 1)));
        // The other end's window is 10 << 7.
        assert!(!windows.admit(true, &segment(ACK, 1481, 1100, 1000, 1)));
        assert!(windows.admit(true, &segment(ACK, 1480, 1100, 1000, 1)));
    }

    #[test]
    fn one_end_that_does_not_scale_is_enough() {
        let mut windows = Windows::default();
        assert!(windows.admit(false, &Segment { scale: Some(7), ..segment(SYN, 99, 0, 1000, 0) }));
        assert!(windows.admit(true, &segment(SYN | ACK, 199, 100, 1000, 0)));
        assert!(windows.admit(false, &segment(ACK, 100, 200, 10, 0)));
        assert!(!windows.admit(true, &segment(ACK, 1300, 100, 1000, 1)));
    }

    #[test]
    fn a_syn_is_refused_by_a_reset_that_acknowledges_it_only() {
        let asked = || {
            let mut windows = Windows::default();
            assert!(windows.admit(false, &segment(SYN, 99, 0, 1000, 0)));
            windows
        };
        assert!(asked().admit(true, &segment(RST | ACK, 0, 100, 0, 0)));
        assert!(!asked().admit(true, &segment(RST | ACK, 0, 101, 0, 0)));
        assert!(!asked().admit(true, &segment(RST, 0, 0, 0, 0)));
        // One that asks again with other numbers, and another connection's answer to that.
        let mut windows = asked();
        assert!(windows.admit(true, &segment(SYN | ACK, 5000, 100, 1000, 0)));
        assert!(windows.admit(false, &segment(SYN, 7000, 0, 1000, 0)));
        assert!(windows.admit(true, &segment(SYN | ACK, 90_000, 7001, 1000, 0)));
        assert!(windows.admit(false, &segment(ACK, 7001, 90_001, 1000, 100)));
    }

    #[test]
    fn a_connection_that_began_before_is_taken_up_with_windows_of_any_scale() {
        let mut windows = Windows::default();
        assert!(windows.admit(true, &segment(ACK, 200, 100, 1, 1000)));
        assert!(windows.admit(false, &segment(ACK, 100 + (1 << 14), 1200, 1, 1000)));
        assert!(!windows.admit(false, &segment(ACK, 101 + (1 << 14), 1200, 1, 1000)));
        assert!(!windows.admit(false, &segment(ACK, 100, 1_000_000, 1, 10)));
        assert!(!windows.admit(true, &segment(RST, 1_000_000, 0, 0, 0)));
        assert!(windows.admit(true, &segment(RST, 1200, 0, 0, 0)));
    }

    #[test]
    fn a_header_is_read_with_its_options() {
        let mut bytes = vec![0; 40];
        bytes[4..8].copy_from_slice(&7_u32.to_be_bytes());
        bytes[8..12].copy_from_slice(&9_u32.to_be_bytes());
        (bytes[12], bytes[13], bytes[15]) = (10 << 4, SYN, 5);
        bytes[20..28].copy_from_slice(&[2, 4, 5, 180, 1, 3, 3, 20]);
        let read = Segment::read(&bytes, 43).unwrap();
        let wanted = Segment { scale: Some(14), ..segment(SYN, 7, 9, 5, 3) };
        assert_eq!(read, wanted);
        assert_eq!(Segment::read(&bytes, 39), None);
        for options in [[3, 2, 0, 0], [2, 0, 3, 3], [0, 3, 3, 7], [9, 200, 0, 0]] {
            bytes[12] = 6 << 4;
            bytes[20..24].copy_from_slice(&options);
            assert_eq!(Segment::read(&bytes, 24).unwrap().scale, None, "{options:?}");
        }
        bytes[12] = 4 << 4;
        assert_eq!(Segment::read(&bytes, 43), None);
        assert_eq!(Segment::read(&bytes[..19], 43), None);
    }

    /// An end of a connection as RFC 9293 has it, as far as its numbers go.
    struct Tcp {
        /// `SND.UNA`, `SND.NXT`, and the number behind what may be sent.
        una: u32,
        next: u32,
        may: u32,
        /// `RCV.NXT`, and the number behind what there is room for.
        received: u32,
        room: u32,
        scale: u8,
    }

    impl Tcp {
        fn takes(&self, segment: &Segment) -> bool {
            let new_data = is_after(segment.end(), self.received) && is_after(self.room, segment.sequence);
            let new_ack =
                is_after(segment.acknowledgment, self.una) && !is_after(segment.acknowledgment, self.next);
            new_data || new_ack
        }

        fn receive(&mut self, segment: &Segment, shift: u8) {
            let acknowledged = segment.acknowledgment;
            if !is_after(acknowledged, self.next) && !is_after(self.una, acknowledged) {
                self.una = acknowledged;
                let may = acknowledged.wrapping_add(u32::from(segment.window) << shift);
                if is_after(may, self.may) {
                    self.may = may;
                }
            }
            if !is_after(segment.sequence, self.received) && is_after(segment.end(), self.received) {
                let end = segment.end();
                self.received = if is_after(end, self.room) { self.room } else { end };
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// Segments are lost, come twice and overtake each other before and behind the one who looks.
        #[test]
        fn nothing_is_refused_that_its_receiver_would_take(
            first in any::<(u32, u32)>(),
            scales in (0..15_u8, 0..15_u8),
            steps in prop::collection::vec((any::<bool>(), 0..8_u8, any::<u16>(), 0..4_usize), 1..400),
        ) {
            let mut windows = Windows::default();
            let window = 60_000;
            let syn = Segment { scale: Some(scales.0), ..segment(SYN, first.0, 0, window, 0) };
            let answer = segment(SYN | ACK, first.1, first.0.wrapping_add(1), window, 0);
            prop_assert!(windows.admit(false, &syn));
            let answer = Segment { scale: Some(scales.1), ..answer };
            prop_assert!(windows.admit(true, &answer));
            let end = |own: u32, other: u32, scale| {
                let (own, other) = (own.wrapping_add(1), other.wrapping_add(1));
                let (may, room) = (own.wrapping_add(window.into()), other.wrapping_add(window.into()));
                Tcp { una: own, next: own, may, received: other, room, scale }
            };
            let mut ends = [end(first.0, first.1, scales.0), end(first.1, first.0, scales.1)];
            // To the one who looks, and from there, for segments of either end.
            let mut before: [VecDeque<Segment>; 2] = Default::default();
            let mut behind: [VecDeque<Segment>; 2] = Default::default();
            for (is_answer, action, amount, at) in steps {
                let side = usize::from(is_answer);
                match action {
                    0 | 1 => {
                        let end = &mut ends[side];
                        // New data, or what was not acknowledged once more; a byte beyond a window that is closed.
                        let sequence = if action == 0 { end.next } else { end.una };
                        let bytes = match end.may.wrapping_sub(sequence) as i32 {
                            0 => 1,
                            room if room < 0 => 0,
                            room => room.min(1460).min(i32::from(amount)) as u32,
                        };
                        // Room never goes away again, and a window is told in steps of its scale.
                        let grown = end.received.wrapping_add(u32::from(amount) << end.scale);
                        if is_after(grown, end.room) {
                            end.room = grown;
                        }
                        let told = (end.room.wrapping_sub(end.received) >> end.scale).min(65_535);
                        let segment = segment(ACK, sequence, end.received, told as u16, bytes);
                        if is_after(segment.end(), end.next) {
                            end.next = segment.end();
                        }
                        before[side].push_back(segment);
                    }
                    2 => drop(before[side].pop_front()),
                    3 => drop(behind[side].pop_front()),
                    4 => {
                        let copy = before[side].front().copied();
                        before[side].extend(copy);
                    }
                    5 | 6 => {
                        let taken = (at < before[side].len()).then(|| before[side].remove(at)).flatten();
                        if let Some(segment) = taken {
                            if windows.admit(is_answer, &segment) {
                                behind[side].push_back(segment);
                            } else {
                                prop_assert!(!ends[1 - side].takes(&segment), "{:?} {:?}", segment, windows);
                            }
                        }
                    }
                    _ => {
                        let taken = (at < behind[side].len()).then(|| behind[side].remove(at)).flatten();
                        if let Some(segment) = taken {
                            let shift = ends[side].scale;
                            ends[1 - side].receive(&segment, shift);
                        }
                    }
                }
            }
        }
    }
}
