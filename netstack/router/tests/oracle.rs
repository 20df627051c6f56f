//! Routes of all sources against a naive list, while links and the configuration change.

mod common;

use std::{collections::BTreeMap, net::Ipv4Addr};

use common::*;
use config::{IpNet, Ipv4Net};
use dataplane::InterfaceId;
use proptest::prelude::*;
use router::{Source, TargetStatus};

/// Where a route leads: by a gateway on one of two links, or nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Leads {
    Via(u8, u8),
    Blackhole,
}

#[derive(Clone, Debug)]
enum Operation {
    SetDynamic(Ipv4Net, Leads),
    RemoveDynamic(Ipv4Net),
    Configure(Vec<(Ipv4Net, Leads)>),
    SetLink(u8, bool),
    Time,
}

fn prefix() -> impl Strategy<Value = Ipv4Net> {
    let address =
        prop_oneof![Just([10, 0, 0, 7]), Just([10, 0, 1, 1]), Just([10, 0, 0, 0]), Just([192, 0, 2, 5])];
    (address, prop_oneof![Just(0u8), Just(8), Just(15), Just(16), Just(24), Just(25), Just(32)])
        .prop_map(|(address, len)| Ipv4Net::new(address.into(), len).unwrap().trunc())
}

fn leads() -> impl Strategy<Value = Leads> {
    prop_oneof![4 => (0u8..2, 20u8..23).prop_map(|(link, host)| Leads::Via(link, host)), 1 => Just(Leads::Blackhole)]
}

/// The configuration must not route the networks of interfaces.
fn may_be_static(prefix: Ipv4Net) -> bool {
    ![[10, 0, 0, 0], [10, 0, 1, 0]]
        .iter()
        .any(|network| prefix == Ipv4Net::new((*network).into(), 24).unwrap())
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => (prefix(), leads()).prop_map(|(prefix, leads)| Operation::SetDynamic(prefix, leads)),
        2 => prefix().prop_map(Operation::RemoveDynamic),
        2 => prop::collection::btree_map(prefix(), leads(), 0..5)
            .prop_map(|routes| Operation::Configure(routes.into_iter().filter(|route| may_be_static(route.0)).collect())),
        2 => (0u8..2, any::<bool>()).prop_map(|(port, up)| Operation::SetLink(port, up)),
        1 => Just(Operation::Time),
    ]
}

/// What should be.
struct Naive {
    links: [bool; 2],
    fixed: BTreeMap<Ipv4Net, Leads>,
    dynamic: BTreeMap<Ipv4Net, Leads>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Expected {
    None,
    Local,
    Connected(u8),
    Route(Source, Leads),
}

impl Naive {
    fn at(&self, prefix: Ipv4Net) -> Option<Expected> {
        for link in 0..2u8 {
            let own = Ipv4Net::new(Ipv4Addr::new(10, 0, link, 1), 32).unwrap();
            if prefix == own {
                return Some(Expected::Local);
            }
            if self.links[usize::from(link)]
                && prefix == Ipv4Net::new(Ipv4Addr::new(10, 0, link, 0), 24).unwrap()
            {
                return Some(Expected::Connected(link));
            }
        }
        let usable =
            |leads: &&Leads| !matches!(leads, Leads::Via(link, _) if !self.links[usize::from(*link)]);
        let fixed =
            self.fixed.get(&prefix).filter(usable).map(|leads| Expected::Route(Source::Static, *leads));
        fixed.or(self.dynamic.get(&prefix).map(|leads| Expected::Route(Source::Dynamic, *leads)))
    }

    fn lookup(&self, address: Ipv4Addr) -> Expected {
        let prefixes = (0..=32).rev().map(|len| Ipv4Net::new(address, len).unwrap().trunc());
        prefixes.filter_map(|prefix| self.at(prefix)).next().unwrap_or(Expected::None)
    }
}

fn json(routes: &[(Ipv4Net, Leads)]) -> String {
    let routes: Vec<_> = routes.iter().map(|(prefix, leads)| route_json(*prefix, *leads)).collect();
    format!(
        r#"{{"interfaces": [{{"name": "eth0", "addresses": ["10.0.0.1/24"]}}, {{"name": "eth1", "addresses": ["10.0.1.1/24"]}}], "routes": [{}]}}"#,
        routes.join(",")
    )
}

fn route_json(prefix: Ipv4Net, leads: Leads) -> String {
    match leads {
        Leads::Via(link, host) => {
            format!(r#"{{"prefix": "{prefix}", "via": [{{"address": "10.0.{link}.{host}"}}]}}"#)
        }
        Leads::Blackhole => format!(r#"{{"prefix": "{prefix}", "blackhole": true}}"#),
    }
}

fn check(node: &Node, naive: &Naive) {
    let mut values: BTreeMap<u32, Expected> = BTreeMap::new();
    for address in [
        [10, 0, 0, 1],
        [10, 0, 0, 7],
        [10, 0, 0, 99],
        [10, 0, 0, 200],
        [10, 0, 1, 1],
        [10, 0, 1, 2],
        [10, 1, 0, 0],
        [11, 0, 0, 1],
        [192, 0, 2, 5],
        [192, 0, 2, 6],
        [192, 0, 2, 129],
        [192, 0, 3, 1],
        [8, 8, 8, 8],
    ]
    .map(Ipv4Addr::from)
    {
        let expected = naive.lookup(address);
        let told = node.router.lookup(address.into());
        let got = told.as_ref().map_or(Expected::None, |route| match &route.target {
            TargetStatus::Local => Expected::Local,
            TargetStatus::Connected { interface } => Expected::Connected(u8::from(interface == "eth1")),
            TargetStatus::Blackhole => Expected::Route(route.source, Leads::Blackhole),
            TargetStatus::Via(hops) => {
                let Some(std::net::IpAddr::V4(hop)) = hops[0].address else { panic!("{hops:?}") };
                Expected::Route(route.source, Leads::Via(hop.octets()[2], hop.octets()[3]))
            }
        });
        assert_eq!(got, expected, "{address}");
        let value = node.shared.fib4().lookup(address.to_bits());
        assert_eq!(value == 0, expected == Expected::None, "{address}: {expected:?}");
        // A group stands for where a route leads, not for where it comes from.
        let leads = match expected {
            Expected::Route(_, leads) => Expected::Route(Source::Static, leads),
            other => other,
        };
        assert_eq!(*values.entry(value).or_insert(leads), leads, "{address} has another's group");
    }
    let mut listed = node.router.routes("0.0.0.0/0".parse().unwrap(), None, 1000);
    listed.retain(|route| route.source == Source::Dynamic);
    let listed: Vec<IpNet> = listed.into_iter().map(|route| route.prefix).collect();
    assert_eq!(listed, naive.dynamic.keys().map(|prefix| IpNet::V4(*prefix)).collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn routes_are_chosen_as_by_a_naive_list(operations in prop::collection::vec(operation(), 1..40)) {
        let mut node = Node::configured(2, &json(&[]));
        let mut naive = Naive { links: [true; 2], fixed: BTreeMap::new(), dynamic: BTreeMap::new() };
        for operation in operations {
            match operation {
                Operation::SetDynamic(prefix, leads) => {
                    let route = config::parse_route(route_json(prefix, leads).as_bytes()).unwrap();
                    node.router.set_route(&route).unwrap();
                    let _ = naive.dynamic.insert(prefix, leads);
                }
                Operation::RemoveDynamic(prefix) => {
                    let was_there = naive.dynamic.remove(&prefix).is_some();
                    prop_assert_eq!(node.router.remove_route(prefix.into()), Ok(was_there));
                }
                Operation::Configure(routes) => {
                    node.configure(&json(&routes));
                    naive.fixed = routes.into_iter().collect();
                }
                Operation::SetLink(port, is_up) => {
                    node.router.set_link(InterfaceId(port.into()), is_up, node.now_ns);
                    naive.links[usize::from(port)] = is_up;
                }
                Operation::Time => node.after(SECOND_NS),
            }
            node.run();
            let _ = (node.sent(0), node.sent(1));
            check(&node, &naive);
        }
    }
}
