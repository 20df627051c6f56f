//! What the node says itself, by way of transport mode.

use super::*;
use crate::net::reassembly::Reassembler;
use ::ipsec::{Algorithm, Database, Direction, Entropy, Long, Mode, SaParameters};

const NODE: &str = "2001:db8::1";
const HOST: &str = "2001:db8::2";
const SPI: u32 = 4097;

/// The host's end of the association.
fn peer() -> Database {
    let mut database = Database::new(crypto::gcm::Gcm::best());
    let ends = (HOST.parse().unwrap(), NODE.parse().unwrap());
    let key = vec![0x5a; 20].into();
    let inbound = SaParameters {
        mode: Mode::Transport,
        ..SaParameters::new(SPI, Direction::Inbound, ends, Algorithm::Aes128Gcm, key)
    };
    let _ = database.add(inbound, &Entropy { iv_base: 0, iv_key: [0; 16] }, 0).unwrap();
    database
}

/// An echo request that comes in fragments, in the clear, is answered by control. The answer is encrypted as a whole, and what
/// comes of that is cut (RFC 4303 §3.3.4): none of it leaves as it is.
#[test]
fn pings_in_fragments_are_answered_whole_by_transport_mode() {
    let mut config = config();
    config["neighbours"] = json!([{"interface": "eth0", "address": HOST, "mac": "52:54:00:00:01:00"}]);
    config["ipsec"] = json!({
        "tunnels": [{"name": "t", "mode": "transport", "route_based": false, "local": NODE, "remote": HOST}],
        "associations": [
            {"name": "o", "tunnel": "t", "direction": "out", "spi": SPI, "algorithm": "aes128gcm16", "key": "5a".repeat(20)},
        ],
        "policies": [
            {"name": "o", "direction": "out", "action": "protect", "tunnel": "t", "source": "2001:db8::1/128", "destination": "2001:db8::2/128"},
        ],
    });
    let mut world = World::new(&Machine::default(), Some(config), "2001:db8::2/64", NODE);
    world.run(10);
    world.seen = Some(Vec::new());
    let [host, node] = [HOST, NODE].map(|text| text.parse::<std::net::Ipv6Addr>().unwrap().octets());
    let request = echo_request6(&host, &node, 3000);
    for frame in fragments6(&host, &node, &request) {
        assert!(world.wires[0].send(&frame));
    }
    world.run(10);
    let sent = world.seen.take().unwrap();
    let mut reassembler = Reassembler::default();
    let fragments = sent.iter().filter(|frame| frame[20] == 44).inspect(|frame| assert_eq!(frame[54], 50));
    let outer = fragments.filter_map(|frame| reassembler.receive(&frame[14..], 0)).next().expect("an answer");
    let snapshot = peer().snapshot();
    let packet = BufferPool::from_heap(16).cache().copy(&outer).unwrap();
    let mut long = Long::new();
    let (_, answer) = long.decapsulate(&snapshot, &packet, 0).expect("the node's");
    assert_eq!((&answer[8..24], &answer[24..40], answer[40]), (&node[..], &host[..], 129));
    assert_eq!(answer[48..], request[8..]);
    // Nothing of the answer left in the clear.
    assert!(!sent.iter().any(|frame| frame.windows(32).any(|bytes| bytes == &request[100..132])));
}
