//! A frame through the whole graph of the dataplane: the input as it is, addressed to the router, and with its IPv4 header
//! checksum made right, at both ports. Whatever comes in leaves, is dropped for a reason, or goes to control.

use std::cell::RefCell;

use crate::testbed::{MAC0, MAC1, Testbed};

/// Time between inputs: enough for the limits on ICMP errors to allow some.
const STEP_NS: u64 = 6_000_000;
/// The longest frame of a port whose MTU is 1500: Ethernet header and one tag.
const MAX_FRAME_BYTES: usize = 1518;
const MAC_BYTES: usize = 6;
const ETHERNET_BYTES: usize = 14;

thread_local! {
    static TESTBED: RefCell<Testbed> = RefCell::new(Testbed::new());
}

/// Sends `data` through.
pub fn run(data: &[u8]) {
    TESTBED.with_borrow_mut(|testbed| {
        for (port, mac) in [(0, MAC0), (1, MAC1)] {
            let mut frame = data.to_vec();
            assert!(testbed.wires[port].send(&frame), "the wire is full");
            if let Some(destination) = frame.get_mut(..MAC_BYTES) {
                destination.copy_from_slice(&mac);
                assert!(testbed.wires[port].send(&frame), "the wire is full");
            }
            if correct_ipv4_checksum(&mut frame) {
                assert!(testbed.wires[port].send(&frame), "the wire is full");
            }
        }
        testbed.now_ns += STEP_NS;
        testbed.run();
        check(testbed);
    });
}

/// No frame is too long, and nothing is lost.
fn check(testbed: &mut Testbed) {
    for frame in testbed.sent(0).into_iter().chain(testbed.sent(1)) {
        assert!(
            (ETHERNET_BYTES..=MAX_FRAME_BYTES).contains(&frame.len()),
            "a frame of {} bytes left",
            frame.len()
        );
    }
    drop(testbed.punts());
    crate::books::assert_balanced(&testbed.shared);
}

/// Makes the checksum of an untagged frame's IPv4 header right, if it has one of a possible length.
fn correct_ipv4_checksum(frame: &mut [u8]) -> bool {
    const VERSION_4: u8 = 4;
    if frame.get(12..ETHERNET_BYTES) != Some(&[8, 0])
        || frame.get(ETHERNET_BYTES).is_none_or(|first| first >> 4 != VERSION_4)
    {
        return false;
    }
    let length = usize::from(frame[ETHERNET_BYTES] & 0xf) * 4;
    let Some(header) =
        frame.get_mut(ETHERNET_BYTES..ETHERNET_BYTES + length).filter(|header| header.len() >= 20)
    else {
        return false;
    };
    header[10..12].fill(0);
    let checksum = packet::checksum::of(header).get();
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    true
}
