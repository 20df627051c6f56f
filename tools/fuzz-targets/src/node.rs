//! A frame to a whole node: dataplane, ARP and neighbour discovery, DHCP client, TCP and the API above it. The input as it
//! is, and addressed to the node, at both ports; an answer to the node's DHCP client gets the identifier that it expects.

use std::cell::RefCell;
use std::ops::Range;

use crate::rig::{MACS, Rig};

/// Time between inputs: timers of all kinds run out now and then.
const STEP_NS: u64 = 37_000_000;
/// Inputs after which a fresh node is made.
const LIFE: u32 = 20_000;

const MAC_BYTES: usize = 6;
/// Where the transaction identifier of an untagged DHCP message without IP options is (RFC 2131 §2).
const DHCP_XID: Range<usize> = 46..50;
const DHCP_CHADDR: Range<usize> = 70..76;

thread_local! {
    static NODE: RefCell<Option<(Rig, u32)>> = const { RefCell::new(None) };
}

/// Sends `data`.
pub fn run(data: &[u8]) {
    NODE.with_borrow_mut(|node| {
        let (mut rig, mut age) = node.take().unwrap_or_else(|| (Rig::new(), 0));
        feed(&mut rig, data);
        age += 1;
        if age < LIFE {
            *node = Some((rig, age));
        }
    });
}

fn feed(rig: &mut Rig, data: &[u8]) {
    for (port, mac) in MACS.iter().enumerate() {
        let mut frame = data.to_vec();
        rig.send(port, &frame);
        if let Some(destination) = frame.get_mut(..MAC_BYTES) {
            destination.copy_from_slice(mac);
            rig.send(port, &frame);
        }
    }
    rig.wait(STEP_NS);
    answer_dhcp(rig, data);
    rig.sent(0).for_each(drop);
}

/// If the node asks by DHCP, and `data` is to a DHCP client, sends it as the answer.
fn answer_dhcp(rig: &mut Rig, data: &[u8]) {
    let is_udp_to = |frame: &[u8], port: [u8; 2]| {
        frame.get(12..15) == Some(&[8, 0, 0x45])
            && frame.get(23) == Some(&17)
            && frame.get(36..38) == Some(&port)
    };
    let asked: Vec<Vec<u8>> = rig.sent(1).filter(|frame| is_udp_to(frame, [0, 67])).collect();
    let mut answer = data.to_vec();
    if !is_udp_to(&answer, [0, 68]) || answer.len() < DHCP_CHADDR.end {
        return;
    }
    for question in asked.iter().filter(|question| question.len() >= DHCP_CHADDR.end) {
        answer[DHCP_XID].copy_from_slice(&question[DHCP_XID]);
        answer[DHCP_CHADDR].copy_from_slice(&MACS[1]);
        answer[..MAC_BYTES].copy_from_slice(&MACS[1]);
        // No UDP checksum, and a right one of the IPv4 header.
        answer[40..42].fill(0);
        answer[24..26].fill(0);
        let checksum = packet::checksum::of(&answer[14..34]).get();
        answer[24..26].copy_from_slice(&checksum.to_be_bytes());
        rig.send(1, &answer);
    }
    rig.run();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kept_answers_give_the_node_a_lease() {
        let mut rig = Rig::new();
        let inputs = crate::corpus::load("node").unwrap();
        let kept = |name: &str| {
            inputs.iter().find(|input| input.name.ends_with(name)).map(|input| &input.data[..]).unwrap()
        };
        for _ in 0..200 {
            feed(&mut rig, kept("dhcp-offer"));
            feed(&mut rig, kept("dhcp-ack"));
        }
        let request = format!(
            "GET /v1/interfaces HTTP/1.1\r\nHost: n\r\nAuthorization: Bearer {}\r\n\r\n",
            crate::rig::TOKEN
        );
        let said = crate::http::exchange(&mut rig, request.as_bytes());
        assert!(
            String::from_utf8_lossy(&said).contains("192.0.2.50/24"),
            "{}",
            String::from_utf8_lossy(&said)
        );
    }
}
