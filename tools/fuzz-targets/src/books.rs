//! The dataplane's books: what comes in leaves, is dropped for a reason, goes to control, or is held: a fragment that
//! waits for the first one of its packet.

use dataplane::{DropReason, Shared};

use crate::testbed::{ETH0, ETH1, ETH1_VLAN};

/// Holds the counters against one another.
pub fn assert_balanced(shared: &Shared) {
    let totals = shared.packet_totals();
    let counters = [ETH0, ETH1, ETH1_VLAN].map(|id| shared.interface_counters(id));
    let (rx, tx) = counters.iter().fold((0, 0), |(rx, tx), c| (rx + c.rx.packets, tx + c.tx.packets));
    let mut dropped = 0;
    for (reason, count) in shared.drop_counters() {
        assert!(count == 0 || reason != DropReason::Unspecified, "a packet was dropped for no reason");
        assert!(count == 0 || reason != DropReason::NoBuffer, "buffers leak");
        dropped += count;
    }
    assert_eq!(
        rx + totals.injected + totals.made,
        tx + dropped + totals.punted + totals.held,
        "packets were lost or doubled"
    );
}
