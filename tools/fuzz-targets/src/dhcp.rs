//! The DHCP client against a server that says anything at any time. The input is a script: answers that carry the right
//! transaction identifier and hardware address and any options, whole packets, time that passes, links that come up.
//!
//! Whatever is said, the client asks in bounds, its messages are well formed, and what it calls a lease is one.

use std::net::Ipv4Addr;

use control::dhcp::{Client, Event, Output};
use packet::checksum;

use crate::input::Input;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x10];
const SECOND_NS: u64 = 1_000_000_000;
/// More steps find nothing that fewer do not.
const MAX_STEPS: usize = 64;
/// The longest wait, some years: a whole script of them ends before 64 bits of nanoseconds do.
const MAX_WAIT_NS: u64 = (1 << 27) * SECOND_NS;
/// Polls at one time after which a client waits.
const MAX_POLLS: usize = 3;

const ETHERNET_BYTES: usize = 14;
const IPV4_BYTES: usize = 20;
const UDP_BYTES: usize = 8;
/// The fixed part of a message with the magic cookie (RFC 2131 §2).
const MESSAGE_BYTES: usize = 240;
/// Where the transaction identifier is in a message.
const XID_AT: usize = 4;

/// Does what `data` says.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut server = Server { client: Client::new(MAC, "fuzz", 42, 0), now_ns: 0, xid: [0; 4] };
    server.poll();
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        server.step(&mut input);
        server.check();
    }
}

struct Server {
    client: Client,
    now_ns: u64,
    /// Transaction of the client's last message.
    xid: [u8; 4],
}

impl Server {
    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 8 {
            0 => self.now_ns = self.client.next_deadline_ns().clamp(self.now_ns, self.now_ns + MAX_WAIT_NS),
            1 => self.now_ns += u64::from(input.word()) * SECOND_NS,
            2 => self.client.link_up(self.now_ns),
            3 => {
                let length = usize::from(input.byte());
                let packet = input.bytes(length).to_vec();
                self.say(&packet);
            }
            _ => {
                let packet = self.answer(input);
                self.say(&packet);
            }
        }
        self.poll();
    }

    /// A packet of a server: address and options are the input's.
    fn answer(&self, input: &mut Input<'_>) -> Vec<u8> {
        let mut message = vec![0; MESSAGE_BYTES];
        message[..4].copy_from_slice(&[2, 1, 6, 0]);
        message[XID_AT..XID_AT + 4].copy_from_slice(&self.xid);
        input.bytes(4).iter().zip(&mut message[16..20]).for_each(|(byte, out)| *out = *byte);
        message[28..34].copy_from_slice(&MAC);
        message[236..].copy_from_slice(&[99, 130, 83, 99]);
        let length = usize::from(input.byte());
        message.extend_from_slice(input.bytes(length));
        message.push(255);
        let udp_bytes = (UDP_BYTES + message.len()) as u16;
        let mut packet = vec![0x45, 0];
        packet.extend((IPV4_BYTES as u16 + udp_bytes).to_be_bytes());
        packet.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 254, 255, 255, 255, 255]);
        let sum = checksum::of(&packet).get();
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend([0, 67, 0, 68]);
        packet.extend(udp_bytes.to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(message);
        packet
    }

    fn say(&mut self, packet: &[u8]) {
        let before = self.client.lease().cloned();
        let (output, event) = self.client.receive(packet, self.now_ns);
        match &event {
            Some(Event::Bound(lease)) => assert!(before.as_ref() != Some(lease), "old news"),
            Some(Event::Lost) => assert!(before.is_some(), "what was not there is lost"),
            None => assert_eq!(before.as_ref(), self.client.lease(), "a lease changes without a word"),
        }
        self.take(output);
    }

    /// Polls until the client waits for a later time.
    fn poll(&mut self) {
        for _ in 0..MAX_POLLS {
            if self.client.next_deadline_ns() > self.now_ns {
                return;
            }
            let before = self.client.lease().is_some();
            let (output, event) = self.client.poll(self.now_ns);
            assert!(event.is_none_or(|event| event == Event::Lost && before), "time gives no lease");
            self.take(output);
        }
        assert!(self.client.next_deadline_ns() > self.now_ns, "the client does not rest");
    }

    fn take(&mut self, output: Option<Output>) {
        let packet = match output {
            Some(Output::Frame(frame)) => frame[ETHERNET_BYTES..].to_vec(),
            Some(Output::Packet(packet)) => packet,
            None => return,
        };
        assert_eq!(checksum::of(&packet[..IPV4_BYTES]).get(), 0, "the client's IPv4 checksum is wrong");
        assert_eq!(usize::from(u16::from_be_bytes([packet[2], packet[3]])), packet.len());
        let message = &packet[IPV4_BYTES + UDP_BYTES..];
        self.xid.copy_from_slice(&message[XID_AT..XID_AT + 4]);
    }

    fn check(&self) {
        let Some(lease) = self.client.lease() else { return };
        let is_host = |address: Ipv4Addr| {
            !(address.is_unspecified()
                || address.is_broadcast()
                || address.is_multicast()
                || address.is_loopback())
        };
        assert!(is_host(lease.address.addr()), "the lease is of {}", lease.address);
        assert!(lease.address.prefix_len() >= 8, "the lease is of {}", lease.address);
        assert!(is_host(lease.server), "the server is {}", lease.server);
        for (net, via) in &lease.routes {
            assert!(is_host(*via) && *via != lease.address.addr(), "a route goes through {via}");
            assert!(
                lease.address.prefix_len() == 32 || lease.address.contains(via),
                "{via} is no neighbour of {}",
                lease.address
            );
            assert_eq!(net.trunc(), *net, "a route has host bits");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kept_scripts_lead_to_every_state() {
        let mut seen = std::collections::BTreeSet::new();
        for script in crate::corpus::load("dhcp").unwrap() {
            let mut input = Input::new(&script.data);
            let mut server = Server { client: Client::new(MAC, "fuzz", 42, 0), now_ns: 0, xid: [0; 4] };
            server.poll();
            while !input.is_empty() {
                server.step(&mut input);
                let _ = seen.insert(server.client.state_name());
            }
        }
        let states = ["bound", "init", "rebinding", "renewing", "requesting", "selecting"];
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), states);
    }
}
