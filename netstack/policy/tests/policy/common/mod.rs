//! What the tests share: their data, and objects made of it.

use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;
use policy::Inventory;
use policy::model::{Packet, protocol};
use serde_json::{Value, json};

/// A compressed JSON file of `tests/data`.
pub fn load(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    let file = std::fs::File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut text = String::new();
    let _ = GzDecoder::new(file).read_to_string(&mut text).expect("gzip");
    serde_json::from_str(&text).expect("JSON")
}

/// The elements of an array; none of null.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A text.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

/// A number.
pub fn number<T: TryFrom<i64>>(value: &Value) -> T {
    let number = value.as_i64().unwrap_or_default();
    T::try_from(number).unwrap_or_else(|_| panic!("{number} is out of range"))
}

/// A protocol's number.
pub fn protocol_number(name: &str) -> u8 {
    match name.to_ascii_uppercase().as_str() {
        "TCP" => protocol::TCP,
        "UDP" => protocol::UDP,
        "SCTP" => protocol::SCTP,
        other => panic!("protocol {other}"),
    }
}

/// A packet to a port.
pub fn packet(source: &str, destination: &str, protocol: u8, port: u16) -> Packet {
    Packet {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        protocol,
        source_port: 40_000,
        destination_port: port,
        icmp: (0, 0),
    }
}

/// Adds objects that must be right.
pub fn add(inventory: &mut Inventory, value: &Value) {
    if let Err(problems) = inventory.add(0, value) {
        panic!("{problems:?} in {value}");
    }
}

/// A namespace with labels.
pub fn namespace(name: &str, labels: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

/// A pod with one address; `ports` have name, port and protocol.
pub fn pod(
    namespace: &str,
    name: &str,
    labels: &Value,
    ip: &str,
    ports: &Value,
    host_network: bool,
) -> Value {
    let ports: Vec<Value> = list(ports)
        .iter()
        .map(|p| json!({"name": p["name"], "containerPort": p["port"], "protocol": p["protocol"]}))
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "spec": {"hostNetwork": host_network, "containers": [{"name": "c", "ports": ports}]},
        "status": {"podIPs": [{"ip": ip}]},
    })
}
