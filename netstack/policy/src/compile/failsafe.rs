//! `FelixConfiguration`: of all that it configures, the failsafe ports of hosts.

use alloc::{format, string::String, sync::Arc, vec::Vec};

use config::from_value;
use serde_json::Value;

use super::{Known, values};
use crate::api::calico::{FelixConfiguration, ProtoPort};
use crate::failsafe::{Failsafe, OpenPort};
use crate::problem::Problems;

const INBOUND: &str = "failsafeInboundHostPorts";
const OUTBOUND: &str = "failsafeOutboundHostPorts";

/// The configuration of all nodes, and what those of one are called by.
const OF_ALL: &str = "default";
const OF_NODE: &str = "node.";

/// What a configuration says of failsafe ports.
#[derive(Clone, Debug, Default)]
pub struct Written {
    inbound: Option<Vec<OpenPort>>,
    outbound: Option<Vec<OpenPort>>,
}

/// First pass: hosts refer to it.
pub fn learn(felix: &FelixConfiguration, known: &mut Known, problems: &mut Problems) {
    let name = &felix.metadata.name;
    let mut written = Written::default();
    for (field, value) in felix.spec.iter().filter(|(field, _)| field.starts_with("failsafe")) {
        problems.within("spec", |problems| match field.as_str() {
            INBOUND => written.inbound = ports(value, field, problems),
            OUTBOUND => written.outbound = ports(value, field, problems),
            _ => problems.add(field, format!("is neither {INBOUND} nor {OUTBOUND}")),
        });
        if name != OF_ALL && !name.starts_with(OF_NODE) {
            let message = format!("failsafe ports are those of {OF_ALL}, or of {OF_NODE} and a node's name");
            problems.within("metadata", |problems| problems.add("name", message));
        }
    }
    let _ = Arc::make_mut(&mut known.failsafes).insert(name.clone(), written);
}

/// None if nothing is said.
fn ports(value: &Value, field: &str, problems: &mut Problems) -> Option<Vec<OpenPort>> {
    let written: Option<Vec<ProtoPort>> =
        from_value(value).map_err(|problem| problems.add_below(field, problem)).ok()?;
    Some(problems.each(field, &written?, |problems, _, port| {
        let said = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let protocol = said(&port.protocol).map(|name| name.to_ascii_uppercase());
        OpenPort {
            protocol: values::port_protocol(protocol.as_deref(), "protocol", problems),
            port: port.port,
            net: said(&port.net).and_then(|net| values::net(&net, "net", problems)),
        }
    }))
}

/// True if hosts of a node have their ports from the configuration of a name.
pub fn is_for(name: &str, node: Option<&str>) -> bool {
    name == OF_ALL || node.is_some_and(|node| name.strip_prefix(OF_NODE) == Some(node))
}

/// The failsafe ports of a node's hosts: what its own configuration says, what that of all says, or else the defaults.
pub fn of_node(node: Option<&str>, known: &Known) -> Failsafe {
    let own: Option<String> = node.map(|node| format!("{OF_NODE}{node}"));
    let written = [own.as_deref(), Some(OF_ALL)].into_iter().flatten();
    let written: Vec<&Written> = written.filter_map(|name| known.failsafes.get(name)).collect();
    let said = |of: fn(&Written) -> Option<&Vec<OpenPort>>| written.iter().find_map(|w| of(w)).cloned();
    let default = Failsafe::default();
    Failsafe {
        inbound: said(|written| written.inbound.as_ref()).unwrap_or(default.inbound),
        outbound: said(|written| written.outbound.as_ref()).unwrap_or(default.outbound),
    }
}
