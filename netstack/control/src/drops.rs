//! Why packets end in control without having been taken, each reason with a counter.
//!
//! These packets have left the dataplane's books as punted, or never came into them; so they are told beside its drops and are
//! not among its totals.

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
}

impl ControlDrop {
    /// All; a reason's place is its number.
    pub const ALL: [Self; 5] =
        [Self::NotTaken, Self::QueueFull, Self::Fragment, Self::EchoLimited, Self::NotSent];

    /// Its name in counters.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotTaken => "control-not-taken",
            Self::QueueFull => "control-queue-full",
            Self::Fragment => "control-fragment",
            Self::EchoLimited => "control-echo-limited",
            Self::NotSent => "control-not-sent",
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
        }
    }
}

/// A counter for each reason.
#[derive(Debug, Default)]
pub(crate) struct ControlDrops([u64; ControlDrop::ALL.len()]);

impl ControlDrops {
    /// Counts `packets` of them.
    pub fn add(&mut self, reason: ControlDrop, packets: u64) {
        let counter = &mut self.0[reason as usize];
        *counter = counter.saturating_add(packets);
    }

    /// Each reason with its packets.
    pub fn iter(&self) -> impl Iterator<Item = (ControlDrop, u64)> {
        ControlDrop::ALL.into_iter().map(|reason| (reason, self.0[reason as usize]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter_and_a_name_that_the_dataplane_does_not_use() {
        let mut drops = ControlDrops::default();
        for (count, reason) in (1..).zip(ControlDrop::ALL) {
            drops.add(reason, count);
            assert_eq!(dataplane::DropReason::from_name(reason.name()), None);
        }
        assert!(drops.iter().map(|(_, packets)| packets).eq(1..=5));
    }
}
