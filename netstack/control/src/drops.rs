//! Why packets end in control without having been taken, each reason with a counter.
//!
//! These packets have left the dataplane's books as punted, or never came into them; so they are told beside its drops and are
//! not among its totals.

use router::RouterDrop;

/// Why control dropped a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ControlDrop {
    /// Nobody takes it; its sender may have been told.
    NotTaken,
    /// The API's TCP has not caught up.
    QueueFull,
    /// A fragment of a packet that could not be put together.
    Fragment,
    /// A ping in fragments above the rate of answers.
    EchoLimited,
    /// No buffer for a packet of the node's own, or no room in the queue to the workers.
    NotSent,
    /// The router's.
    Router(RouterDrop),
}

impl ControlDrop {
    const OWN: [Self; 5] =
        [Self::NotTaken, Self::QueueFull, Self::Fragment, Self::EchoLimited, Self::NotSent];

    /// All; a reason's place is its number.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::OWN.into_iter().chain(RouterDrop::ALL.map(Self::Router))
    }

    /// The reason of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::all().find(|reason| reason.name() == name)
    }

    fn number(self) -> usize {
        match self {
            Self::NotTaken => 0,
            Self::QueueFull => 1,
            Self::Fragment => 2,
            Self::EchoLimited => 3,
            Self::NotSent => 4,
            Self::Router(reason) => Self::OWN.len() + reason as usize,
        }
    }

    /// Its name in counters.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotTaken => "control-not-taken",
            Self::QueueFull => "control-queue-full",
            Self::Fragment => "control-fragment",
            Self::EchoLimited => "control-echo-limited",
            Self::NotSent => "control-not-sent",
            Self::Router(RouterDrop::NotOnLink) => "control-not-on-link",
            Self::Router(RouterDrop::TooManyNeighbours) => "control-neighbours-full",
            Self::Router(RouterDrop::QueueFull) => "control-neighbour-queue-full",
            Self::Router(RouterDrop::NoAnswer) => "control-neighbour-no-answer",
            Self::Router(RouterDrop::Forgotten) => "control-neighbour-forgotten",
            Self::Router(RouterDrop::OutputFull) => "control-output-full",
        }
    }

    /// What it means, in a sentence.
    pub fn description(self) -> &'static str {
        match self {
            Self::NotTaken => {
                "A packet for the node that is neither for its API nor for anything else that it runs."
            }
            Self::QueueFull => "The queue of packets to the API was full.",
            Self::Fragment => {
                "A fragment to the node was malformed, or the others of its packet did not come in time or had no room."
            }
            Self::EchoLimited => "Pings in fragments came faster than they are answered.",
            Self::NotSent => "A packet of the node's own found no buffer, or the queue to the workers full.",
            Self::Router(RouterDrop::NotOnLink) => {
                "Its destination is not, or no longer, on the link that it was to go out by."
            }
            Self::Router(RouterDrop::TooManyNeighbours) => {
                "The neighbour table was full, or too many neighbours were being looked for."
            }
            Self::Router(RouterDrop::QueueFull) => {
                "As many packets as may wait for a neighbour, or for all together, waited: the oldest, or this one, went."
            }
            Self::Router(RouterDrop::NoAnswer) => "The neighbour that it was for does not answer.",
            Self::Router(RouterDrop::Forgotten) => {
                "The neighbour that it waited for was forgotten: its link or network went, or the table was full."
            }
            Self::Router(RouterDrop::OutputFull) => "The queue of what the router sends was full.",
        }
    }
}

/// A counter for each reason.
#[derive(Debug, Default)]
pub(crate) struct ControlDrops([u64; ControlDrop::OWN.len() + RouterDrop::ALL.len()]);

impl ControlDrops {
    /// Counts `packets` of them.
    pub fn add(&mut self, reason: ControlDrop, packets: u64) {
        let counter = &mut self.0[reason.number()];
        *counter = counter.saturating_add(packets);
    }

    /// Each reason with its packets.
    pub fn iter(&self) -> impl Iterator<Item = (ControlDrop, u64)> {
        ControlDrop::all().zip(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter_and_a_name_that_the_dataplane_does_not_use() {
        let mut drops = ControlDrops::default();
        for (count, reason) in (1..).zip(ControlDrop::all()) {
            drops.add(reason, count);
            assert_eq!(dataplane::DropReason::from_name(reason.name()), None);
            assert_eq!(ControlDrop::from_name(reason.name()), Some(reason));
            assert!(reason.name().starts_with("control-"));
        }
        assert!(drops.iter().map(|(_, packets)| packets).eq(1..=11));
    }
}
