//! What the fields of `cluster` mean together.

use super::not_a_host;
use crate::{
    Config,
    cluster::SEED_BYTES,
    problem::{Problems, element},
};
use core::net::IpAddr;

/// Adds what is wrong.
pub(super) fn validate(config: &Config, problems: &mut Problems) {
    let cluster = &config.cluster;
    for (name, addresses) in [
        ("/cluster/node_addresses", &cluster.node_addresses),
        ("/cluster/source_addresses", &cluster.source_addresses),
        ("/cluster/tunnel_addresses", &cluster.tunnel_addresses),
    ] {
        for (index, address) in addresses.iter().enumerate() {
            if let Some(why) = not_a_host(*address) {
                problems.add(element(name, index), why);
            } else if addresses.iter().take(index).any(|other| other == address) {
                problems.add(element(name, index), "is there twice");
            }
        }
    }
    if let [first, second] = cluster.tunnel_addresses[..]
        && first != second
        && first.is_ipv4() == second.is_ipv4()
    {
        problems.add(element("/cluster/tunnel_addresses", 1), "is of the same family as the other one");
    }
    let is_link_local = |address: &IpAddr| matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    for (index, _) in cluster.tunnel_addresses.iter().enumerate().filter(|(_, a)| is_link_local(a)) {
        problems.add(element("/cluster/tunnel_addresses", index), "is link-local: which link is not said");
    }
    let bytes = cluster.seed.as_ref().map(|seed| seed.to_bytes().map_or(0, |bytes| bytes.len()));
    if bytes.is_some_and(|bytes| bytes != SEED_BYTES) {
        problems.add("/cluster/seed", "must be 32 hexadecimal digits");
    }
}

#[cfg(test)]
mod tests {
    use crate::parse;
    use alloc::{string::String, vec::Vec};

    fn pointers(cluster: &str) -> Vec<String> {
        let text = alloc::format!("{{\"cluster\": {cluster}}}");
        parse(text.as_bytes()).err().unwrap_or_default().into_iter().map(|problem| problem.pointer).collect()
    }

    #[test]
    fn collectors_are_hosts_that_a_route_leads_to() {
        let text = r#"{"flow_log": {"collectors": [{"address": "10.0.0.9"}, {"address": "224.0.0.1"}, {"address": "fe80::1"}]}}"#;
        let problems = parse(text.as_bytes()).err().unwrap_or_default();
        let pointers: Vec<String> = problems.into_iter().map(|problem| problem.pointer).collect();
        assert_eq!(pointers, ["/flow_log/collectors/1/address", "/flow_log/collectors/2/address"]);
    }

    #[test]
    fn addresses_and_seed() {
        let none: [&str; 0] = [];
        assert_eq!(
            pointers(
                r#"{"node": "node-a", "zone": "z1", "node_addresses": ["192.0.2.1", "2001:db8::1"], "seed": "000102030405060708090a0b0c0d0e0f",
                    "tunnel_addresses": ["192.0.2.1", "2001:db8::1"], "flows_per_worker": 4096}"#
            ),
            none
        );
        assert_eq!(pointers(r#"{"node_addresses": ["127.0.0.1"]}"#), ["/cluster/node_addresses/0"]);
        assert_eq!(
            pointers(r#"{"source_addresses": ["192.0.2.1", "192.0.2.1"]}"#),
            ["/cluster/source_addresses/1"]
        );
        assert_eq!(
            pointers(r#"{"tunnel_addresses": ["192.0.2.1", "192.0.2.2"]}"#),
            ["/cluster/tunnel_addresses/1"]
        );
        assert_eq!(pointers(r#"{"tunnel_addresses": ["fe80::1"]}"#), ["/cluster/tunnel_addresses/0"]);
        assert_eq!(pointers(r#"{"seed": "0001"}"#), ["/cluster/seed"]);
        assert_eq!(pointers(r#"{"gue_port": 0}"#), ["/cluster/gue_port"]);
        assert_eq!(
            pointers(
                r#"{"health_check": {"kind": "http", "path": "/healthz?a=1", "status": "204", "port": 81}}"#
            ),
            none
        );
        for (text, field) in [
            (r#"{"health_check": {"kind": "udp"}}"#, "kind"),
            (r#"{"health_check": {"path": "healthz"}}"#, "path"),
            (r#"{"health_check": {"path": "/a b"}}"#, "path"),
            (r#"{"health_check": {"status": "399-200"}}"#, "status"),
            (r#"{"health_check": {"status": "600"}}"#, "status"),
            (r#"{"health_check": {"rise": 0}}"#, "rise"),
        ] {
            assert_eq!(pointers(text), [alloc::format!("/cluster/health_check/{field}")]);
        }
        assert_eq!(pointers(r#"{"nodes": "a"}"#), ["/cluster/nodes"]);
    }
}
