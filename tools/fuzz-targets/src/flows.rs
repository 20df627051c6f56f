//! A frame through the dataplane while services of all sorts and policies are in force (`flows.ndjson`): the input as it is,
//! addressed to the router, and with its checksums made right, at both ports; and the answers to all that leaves. The node is
//! kept from input to input, and what is in force changes now and then.
//!
//! Whatever comes in leaves, is dropped for a reason, goes to control, or is held, as is a fragment before its first; right
//! checksums stay right; an answer to a packet that was translated comes from where that packet went; both directions are of the
//! same worker.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use balancer::{Builder, Settings};
use dataplane::{Flows, InterfaceId, Policy};
use flow::{Config, Timeouts};
use policy::classifier::Compiler;
use resources::{Compiled, Edit, Object, Set};
use rewrite::{Fragment, Transport, Tuple, View, translate};
use services::Site;

use crate::testbed::{MAC0, MAC1, Testbed};
use crate::{books, transport};

const OBJECTS: &str = include_str!("flows.ndjson");
/// Time between inputs.
const STEP_NS: u64 = 6_000_000;
/// Inputs between two changes of what is in force.
const INPUTS_PER_CHANGE: u32 = 512;
const MAC_BYTES: usize = 6;
const ETHERNET_BYTES: usize = 14;
/// A port's MTU with Ethernet header and tag.
const MAX_FRAME_BYTES: usize = 1518;
/// Workers that a packet would be divided among, were there so many.
const WORKERS: u16 = 5;

struct Node {
    bed: Testbed,
    builder: Builder,
    compiler: Compiler,
    /// All objects, and some of them.
    sets: [Compiled; 2],
    inputs: u32,
}

thread_local! {
    static NODE: RefCell<Node> = RefCell::new(Node::new());
}

/// Sends `data` through.
pub fn run(data: &[u8]) {
    NODE.with_borrow_mut(|node| node.feed(data));
}

fn compiled(objects: impl Iterator<Item = &'static str>) -> Compiled {
    let read = |line| {
        let value = serde_json::from_str(line).ok()?;
        Object::read(value).map(Arc::new).ok()
    };
    let objects = objects.map(|line| read(line).unwrap_or_else(|| panic!("{line} is refused"))).collect();
    let site = Site { node: Some("node".into()), zone: None, ..Site::default() };
    pace::at_once(|pace| async move {
        let (set, changes) = Set::default().change(&Edit::Apply(objects), &pace).await;
        let compiled = resources::compile(&set, &changes, &site, &Compiled::default(), &pace).await;
        compiled.unwrap_or_else(|faults| panic!("{faults:?}"))
    })
}

fn settings() -> Settings {
    let own = |v6: Ipv6Addr| [[10, 0, 1, 1].into(), IpAddr::from(v6)];
    let v6 = Ipv6Addr::from([0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    Settings {
        node_addresses: own(v6).to_vec(),
        source_addresses: own(v6).to_vec(),
        tunnel4: Some([10, 0, 1, 1].into()),
        tunnel6: Some(v6),
        gue_port: 6080,
        ..Settings::default()
    }
}

impl Node {
    fn new() -> Self {
        let bed = Testbed::new();
        let config = Config { capacity: 1000, secret: [3, 4], timeouts: Timeouts::default() };
        let (Ok(flows), Ok(compiler)) = (Flows::new(&config, &config, 0, 1), Compiler::new()) else {
            panic!("small tables need little memory")
        };
        let _ = bed.shared.give_flows(0, flows);
        let some = OBJECTS.lines().enumerate().filter(|(number, _)| number % 3 != 1).map(|(_, line)| line);
        let sets = [compiled(OBJECTS.lines()), compiled(some)];
        let mut node = Self { bed, builder: Builder::new(settings()), compiler, sets, inputs: 0 };
        node.publish(0);
        node
    }

    fn publish(&mut self, which: usize) {
        let compiled = &self.sets[which];
        let _ = self.bed.shared.publish_services(Some(self.builder.build(&compiled.services)));
        let Ok(classifier) = self.compiler.update(compiled.model().clone()) else {
            panic!("a few objects are small")
        };
        assert!(self.compiler.apply().is_ok(), "a few objects are small");
        let hosts: Vec<_> =
            classifier.host("node", "eth0", &[]).map(|host| (InterfaceId(0), host)).into_iter().collect();
        let _ = self.bed.shared.publish_policy(Some(Policy::new(classifier, hosts)));
        let _ = self.bed.shared.judge_again();
    }

    fn feed(&mut self, data: &[u8]) {
        self.inputs += 1;
        if self.inputs.is_multiple_of(INPUTS_PER_CHANGE) {
            self.publish((self.inputs / INPUTS_PER_CHANGE) as usize % 2);
        }
        self.bed.now_ns += STEP_NS;
        for (port, mac) in [(0, MAC0), (1, MAC1)] {
            let mut frame = data.to_vec();
            drop(self.send(port, &frame));
            let Some(destination) = frame.get_mut(..MAC_BYTES) else { continue };
            destination.copy_from_slice(&mac);
            let is_right = is_plain_ip(&frame) && transport::correct(&mut frame[ETHERNET_BYTES..]);
            let sent = self.send(port, &frame);
            if is_right {
                sent.iter().for_each(|(_, sent)| assert_right(sent));
                self.answer(port, &frame, &sent);
            }
        }
        drop(self.bed.punts());
        while self.bed.shared.next_flow_event().is_some() {}
        books::assert_balanced(&self.bed.shared);
    }

    /// Sends a frame to a port; what left, and by which.
    fn send(&mut self, port: usize, frame: &[u8]) -> Vec<(usize, Vec<u8>)> {
        self.bed.send(port, frame);
        let mut sent = Vec::new();
        for port in [0, 1] {
            sent.extend(self.bed.sent(port).into_iter().map(|frame| (port, frame)));
        }
        for (_, frame) in &sent {
            let length = frame.len();
            assert!((ETHERNET_BYTES..=MAX_FRAME_BYTES).contains(&length), "a frame of {length} bytes left");
        }
        sent
    }

    /// Answers what left after `asked` came in, if it is the same packet still.
    fn answer(&mut self, port: usize, asked: &[u8], sent: &[(usize, Vec<u8>)]) {
        let [(to, frame)] = sent else { return };
        let Ok(question) = View::parse(&asked[ETHERNET_BYTES..]) else { return };
        let mut answer = frame.clone();
        if *to == port || !is_plain_ip(&answer) || question.fragment != Fragment::Whole {
            return;
        }
        let Some(view) = View::parse(&answer[ETHERNET_BYTES..]).ok() else { return };
        let is_same =
            question.transport == view.transport && view.tuple.protocol() == question.tuple.protocol();
        if !is_same || !matches!(view.transport, Transport::Tcp(_) | Transport::Udp | Transport::Sctp) {
            return;
        }
        answer[..MAC_BYTES].copy_from_slice([&MAC0, &MAC1][*to]);
        let bytes = &mut answer[ETHERNET_BYTES..];
        assert_eq!(translate(bytes, &view, &view.tuple.reversed()), Ok(()));
        bytes[if bytes[0] >> 4 == 4 { 8 } else { 7 }] = 64;
        if let Transport::Tcp(flags) = view.transport {
            bytes[view.transport_offset + 13] = flags | 16;
        }
        if !transport::correct(bytes) {
            return;
        }
        self.assert_one_owner(
            &asked[ETHERNET_BYTES..],
            &answer[ETHERNET_BYTES..],
            &question.tuple,
            &view.tuple,
        );
        let back = self.send(*to, &answer);
        back.iter().for_each(|(_, back)| assert_right(back));
        let is_translated = view.tuple.destination() != question.tuple.destination();
        let [(_, back)] = &back[..] else { return };
        let Ok(back) = View::parse(&back[ETHERNET_BYTES..]) else { return };
        if is_translated && matches!(back.transport, Transport::Tcp(_) | Transport::Udp | Transport::Sctp) {
            assert_eq!(back.tuple, question.tuple.reversed(), "the answer is from somebody else");
        }
    }

    /// A flow whose client keeps its address is of one worker in both directions.
    fn assert_one_owner(&self, asked: &[u8], answer: &[u8], question: &Tuple, translated: &Tuple) {
        let services = self.bed.shared.services();
        let Some(services) = services.as_ref() else { return };
        // Answers to an address of ours are found by their port, and no packet of ours comes in by a wire.
        let is_ours = settings().source_addresses.contains(&question.source().ip());
        if question.source() == translated.source() && !is_ours {
            let [there, back] =
                [asked, answer].map(|p| services.owner(p, WORKERS, dataplane::FULL_NAT_PORTS));
            assert_eq!(there, back, "{question:?} and its answers are of two workers");
        }
    }
}

/// An untagged frame with an IP packet.
fn is_plain_ip(frame: &[u8]) -> bool {
    let version = frame.get(ETHERNET_BYTES).map(|first| first >> 4);
    matches!(
        (frame.get(12..ETHERNET_BYTES), version),
        (Some([8, 0]), Some(4)) | (Some([0x86, 0xdd]), Some(6))
    )
}

fn assert_right(frame: &[u8]) {
    if is_plain_ip(frame) {
        let packet = &frame[ETHERNET_BYTES..];
        assert!(transport::is_right(packet), "a right checksum has become wrong: {packet:02x?}");
        let inner = match packet[0] >> 4 {
            4 if packet[9] == 4 || packet[9] == 41 => packet.get(20..),
            6 if packet[6] == 4 || packet[6] == 41 => packet.get(40..),
            _ => None,
        };
        // In a tunnel made here. What came in with one looks alike, and nobody has made its checksums right.
        let is_ours = packet[0] >> 4 == 4 && packet[12..16] == [10, 0, 1, 1];
        assert!(!is_ours || inner.is_none_or(transport::is_right), "what a tunnel carries was damaged");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn kept_frames_meet_every_sort_of_service_and_policy() {
        let mut node = Node::new();
        let mut left = BTreeSet::new();
        for input in crate::corpus::load("flows").unwrap() {
            let mut frame = input.data.clone();
            if frame.len() < ETHERNET_BYTES || input.name.contains("malformed") {
                continue;
            }
            frame[..MAC_BYTES].copy_from_slice(&MAC0);
            let _ = is_plain_ip(&frame) && transport::correct(&mut frame[ETHERNET_BYTES..]);
            for (port, sent) in node.send(0, &frame) {
                let _ = left.insert((port, sent[23]));
            }
            node.feed(&input.data);
        }
        // Until nobody waits for a first fragment any more.
        node.bed.now_ns += 2_000_000_000;
        node.bed.run();
        let wanted = [(1, 4), (1, 6), (1, 17), (1, 132), (0, 1)];
        assert!(wanted.iter().all(|wanted| left.contains(wanted)), "{left:?}");
        let drops: BTreeSet<String> =
            node.bed.drops().iter().map(|(reason, _)| format!("{reason:?}")).collect();
        for reason in [
            "ServiceNoBackend",
            "ServiceNoPort",
            "ServiceSourceRange",
            "PolicyDenied",
            "FragmentWithoutFirst",
        ] {
            assert!(drops.contains(reason), "{reason} is not among {drops:?}");
        }
        let counters = node.bed.shared.flow_counters(0);
        assert!(counters.ipv4.live > 0 && counters.ipv6.live > 0, "{counters:?}");
    }
}
