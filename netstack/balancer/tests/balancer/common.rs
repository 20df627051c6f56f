//! Services on one address, a balancer, and packets of their clients.

use std::net::{IpAddr, SocketAddr};

use balancer::{Balancer, Builder, Settings, Snapshot, Verdict};
use etherparse::PacketBuilder;
use flow::{Config, Timeouts};
use rewrite::View;
use serde_json::{Value, json};
use services::{Objects, Site, compile};

pub const MS: u64 = 1_000_000;
pub const VIP: [u8; 4] = [10, 96, 0, 10];

/// A service on the VIP over backends 10.1.0.x, at another port where that can be.
pub fn snapshot(builder: &mut Builder, spec: &Value, forwarding: &str, backends: &[u8]) -> Snapshot {
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "annotations": {"fairlead.dev/forwarding": forwarding}},
        "spec": {"clusterIP": "10.96.0.10", "ports": [{"port": 80}]},
    });
    for (name, value) in spec.as_object().unwrap() {
        service["spec"][name] = value.clone();
    }
    if spec["type"] == "LoadBalancer" {
        service["status"] = json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.5"}]}});
    }
    let endpoints: Vec<Value> =
        backends.iter().map(|b| json!({"addresses": [format!("10.1.0.{b}")]})).collect();
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"port": if forwarding.ends_with("nat") { 8080 } else { 80 }}], "endpoints": endpoints,
    });
    let mut objects = Objects::default();
    objects.add(0, &service).unwrap();
    objects.add(1, &slice).unwrap();
    builder.build(&compile(&objects, &Site::default()).unwrap())
}

pub fn builder() -> Builder {
    Builder::new(Settings {
        node_addresses: vec!["192.0.2.1".parse().unwrap()],
        own_addresses: ["192.0.2.1", "192.0.2.2"].map(|address| address.parse().unwrap()).into(),
        api_port: Some(80),
        source_addresses: vec!["192.0.2.9".parse().unwrap()],
        tunnel4: Some("192.0.2.1".parse().unwrap()),
        gue_port: 6080,
        ..Settings::default()
    })
}

pub fn balancer() -> Balancer {
    let config = Config { capacity: 10_000, secret: [1, 2], timeouts: Timeouts::default() };
    Balancer::new((&config, &config), (0, 1), (20_000, 60_000)).unwrap()
}

pub fn tcp(from: ([u8; 4], u16), to: ([u8; 4], u16), flags: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut builder = PacketBuilder::ipv4(from.0, to.0, 60).tcp(from.1, to.1, 1, 100);
    if flags & 2 != 0 {
        builder = builder.syn();
    }
    if flags & 16 != 0 {
        builder = builder.ack(9);
    }
    if flags & 1 != 0 {
        builder = builder.fin();
    }
    builder.write(&mut bytes, b"hello").unwrap();
    bytes
}

pub fn one(balancer: &mut Balancer, snapshot: &Snapshot, packet: &mut [u8], now_ns: u64) -> Verdict {
    let mut verdicts = [Verdict::NotOurs];
    balancer.process(snapshot, &mut [packet], now_ns, &mut verdicts);
    let [verdict] = verdicts;
    verdict
}

pub fn ends(packet: &[u8]) -> (SocketAddr, SocketAddr) {
    let tuple = View::parse(packet).unwrap().tuple;
    (tuple.source(), tuple.destination())
}

pub fn client(number: u16) -> ([u8; 4], u16) {
    ([198, 51, (number >> 8) as u8, number as u8], 1000 + number)
}

/// Sends a client's packet and says which backend it went to.
pub fn backend_of(
    balancer: &mut Balancer,
    snapshot: &Snapshot,
    client: ([u8; 4], u16),
    flags: u8,
) -> SocketAddr {
    let mut packet = tcp(client, (VIP, 80), flags);
    assert_eq!(one(balancer, snapshot, &mut packet, 0), Verdict::Route);
    let (source, destination) = ends(&packet);
    assert_eq!(source, SocketAddr::from(client));
    // The rewritten packet is what its sender would have sent there itself.
    let IpAddr::V4(address) = destination.ip() else { panic!("{destination}") };
    assert_eq!(packet, tcp(client, (address.octets(), destination.port()), flags));
    destination
}
