//! What an entry is of, and what it has to do with the opposite direction of its flow.

use crate::side::Slot;
use crate::state::State;

/// A word of an entry. From the top: of which direction it is, two bits; which end its packets come from, or those of who began
/// the flow; whether answers go to another source. Below: one more than the slot of the opposite direction, 0 if there is none; or
/// which directions have said FIN or RST if the entry is of both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link(u32);

const KIND: u32 = 3 << 30;
/// Of who began the flow. 0 is of nobody: the entry is free.
const ASKS: u32 = 1 << 30;
const ANSWERS: u32 = 2 << 30;
const BOTH: u32 = 3 << 30;
/// From the upper end of the key to the lower.
const DOWN: u32 = 1 << 29;
/// The flow's answers go to another address or port than its source.
const OTHER_SOURCE: u32 = 1 << 28;
const SLOT: u32 = OTHER_SOURCE - 1;
/// How a direction of an entry of both has ended, in two bits each: that of who began the flow is the lower one.
const END: u32 = 3;
const END_BITS: u32 = 2;
const CLOSING: u32 = 1;
const CLOSED: u32 = 2;

/// Where kind and end are, as one number.
const CODE: u32 = DOWN.trailing_zeros();

/// Slots at most that a link has room for.
pub(crate) const MAX_SLOTS: usize = SLOT as usize;

impl Link {
    const fn from_end(is_down: bool) -> u32 {
        if is_down { DOWN } else { 0 }
    }

    /// Of an entry of both directions: nobody has said anything about an end of the answering one.
    #[inline(always)]
    pub(crate) fn both(is_down: bool) -> Link {
        Link(BOTH | Self::from_end(is_down))
    }

    /// Of the asking direction, of whose answers nothing is known.
    #[inline(always)]
    pub(crate) fn asks(is_down: bool) -> Link {
        Link(ASKS | Self::from_end(is_down))
    }

    /// Of the asking direction, whose answers have this slot.
    #[inline(always)]
    pub(crate) fn asks_of(is_down: bool, answers: Slot, keeps_source: bool) -> Link {
        let other_source = if keeps_source { 0 } else { OTHER_SOURCE };
        Link(Self::asks(is_down).0 | other_source | (answers.0 + 1))
    }

    /// Of the answering direction.
    #[inline(always)]
    pub(crate) fn answers_to(is_down: bool, asks: Slot) -> Link {
        Link(ANSWERS | Self::from_end(is_down) | (asks.0 + 1))
    }

    #[inline(always)]
    pub(crate) fn is_free(self) -> bool {
        self.0 == 0
    }

    /// What it is to packets that come from this end.
    #[inline(always)]
    pub(crate) fn seen_from(self, is_down: bool) -> Seen {
        Seen(self.0 >> CODE ^ u32::from(is_down))
    }

    /// True if its packets, or those of who began the flow, come from the upper end.
    #[inline(always)]
    pub(crate) fn is_down(self) -> bool {
        self.0 & DOWN != 0
    }

    /// The slot of the opposite direction, if that has another entry.
    #[inline(always)]
    pub(crate) fn peer(self) -> Option<Slot> {
        if self.is_both() { None } else { (self.0 & SLOT).checked_sub(1).map(Slot) }
    }

    /// True if answers pass here.
    #[inline(always)]
    pub(crate) fn has_answers(self) -> bool {
        self.is_both() | (self.0 & SLOT != 0)
    }

    #[inline(always)]
    pub(crate) fn is_both(self) -> bool {
        self.0 >= BOTH
    }

    /// True of an entry of the answering direction alone.
    #[inline(always)]
    pub(crate) fn is_answer(self) -> bool {
        self.0 & KIND == ANSWERS
    }

    #[inline(always)]
    pub(crate) fn keeps_source(self) -> bool {
        self.0 & OTHER_SOURCE == 0
    }

    /// The states of the asking and the answering direction of an entry of both, which has the state `joint`.
    pub(crate) fn states(self, joint: State) -> [State; 2] {
        [0, END_BITS].map(|shift| match (self.0 >> shift & END, joint) {
            (0, State::TcpClosing) => State::TcpEstablished,
            (0, joint) => joint,
            (CLOSING, _) => State::TcpClosing,
            _ => State::TcpClosed,
        })
    }

    /// The same with its directions in these states, and what the entry's is: [`State::TcpClosing`] as soon as one is over. Both
    /// are proven at once.
    pub(crate) fn with_states(self, states: [State; 2]) -> (Link, State) {
        let [asks, answers] = states.map(|state| match state {
            State::TcpClosing => CLOSING,
            State::TcpClosed => CLOSED,
            _ => 0,
        });
        let joint = if asks | answers == 0 { states[0] } else { State::TcpClosing };
        (Link(self.0 & !SLOT | asks | answers << END_BITS), joint)
    }
}

/// What an entry is to packets from one end: its kind, and whether it is of packets from the other one.
#[derive(Clone, Copy)]
pub(crate) struct Seen(u32);

const OTHER_END: u32 = 1;
/// As bits, what is an answer's.
const ANSWER: u32 = 1 << (ANSWERS >> CODE) | 1 << (BOTH >> CODE | OTHER_END);

impl Seen {
    /// True if they belong to it.
    #[inline(always)]
    pub(crate) fn is_theirs(self) -> bool {
        const THEIRS: u32 = 1 << (ASKS >> CODE) | ANSWER | 1 << (BOTH >> CODE);
        THEIRS >> self.0 & 1 != 0
    }

    /// True if they go to whoever began the flow, given that they belong to it.
    #[inline(always)]
    pub(crate) fn is_answer(self) -> bool {
        ANSWER >> self.0 & 1 != 0
    }

    /// True if they are the answering direction of an entry of both.
    #[inline(always)]
    pub(crate) fn is_turned(self) -> bool {
        self.0 == BOTH >> CODE | OTHER_END
    }
}
