//! The farm's addresses of IPv6, beside those of IPv4, and a service on them.
//!
//! ```text
//!   client 2001:db8:1N::2 and 2001:db8:c::9 -- ::1 appliance N 2001:db8:2::N+1 -- backends 2001:db8:2::101, ::102, ::103
//! ```

use std::net::Ipv6Addr;

use serde_json::{Value, json};

use super::BULK;

/// The service's address.
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x96, 0, 0, 0, 0, 0x10);
/// The client's address.
pub(super) const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 9);
/// The same service's port at every appliance's own addresses.
pub const NODE_PORT: u16 = 30_201;

/// The address of an appliance (host 1) or of the client (2) in the network between the two.
pub fn near_client(appliance: usize, host: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0x10 + appliance as u16, 0, 0, 0, 0, host)
}

/// The address of an appliance in the backends' network.
pub(super) fn near_backends(appliance: usize) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, appliance as u16 + 1)
}

/// The address of a backend.
pub(super) fn backend_address6(backend: usize) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x101 + backend as u16)
}

/// The service as Kubernetes objects: its port for bulk, which one backend serves.
pub fn objects6(forwarding: &str, backend: usize) -> Value {
    let mut port = json!({ "name": "bulk", "port": BULK });
    let is_translated = matches!(forwarding, "nat" | "full-nat");
    if is_translated {
        port["nodePort"] = NODE_PORT.into();
    }
    json!({ "apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": "web6", "annotations": { "fairlead.dev/forwarding": forwarding } },
            "spec": {
                "type": if is_translated { "NodePort" } else { "ClusterIP" },
                "clusterIP": VIP6.to_string(), "ports": [port],
            },
        },
        {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv6",
            "metadata": { "name": "web6-1", "labels": { "kubernetes.io/service-name": "web6" } },
            "ports": [{ "name": "bulk", "port": BULK }],
            "endpoints": [{ "addresses": [backend_address6(backend).to_string()] }],
        },
    ]})
}
