//! Routes, as they are: paged, streamed, looked up.

use super::{NDJSON, Reply, dispatch::Request, json, problem::problem, push_line};
use crate::http::{Pull, Source};
use crate::node::Node;
use alloc::{format, string::String, vec::Vec};
use config::IpNet;
use core::net::IpAddr;
use router::{NextHopStatus, RouteCursor, RouteStatus, Source as Origin, TargetStatus};
use serde::Serialize;

/// Routes of one piece of a stream.
const ROUTES_PER_PIECE: usize = 100;

#[derive(Serialize)]
struct Page {
    routes: Vec<Route>,
    /// What to give as `after` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

#[derive(Serialize)]
struct Lookup {
    address: IpAddr,
    /// The longest match; null if there is none.
    route: Option<Route>,
}

#[derive(Serialize)]
struct Route {
    prefix: IpNet,
    source: &'static str,
    /// Packets follow it.
    active: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    via: Vec<NextHop>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<String>,
    #[serde(skip_serializing_if = "is_false")]
    local: bool,
    #[serde(skip_serializing_if = "is_false")]
    blackhole: bool,
}

#[derive(Serialize)]
struct NextHop {
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<String>,
    weight: u16,
    resolved: bool,
}

impl From<RouteStatus> for Route {
    fn from(status: RouteStatus) -> Self {
        let mut route = Self {
            prefix: status.prefix,
            source: status.source.name(),
            active: status.active,
            via: Vec::new(),
            interface: None,
            local: false,
            blackhole: false,
        };
        match status.target {
            TargetStatus::Local => route.local = true,
            TargetStatus::Connected { interface } => route.interface = Some(interface),
            TargetStatus::Blackhole => route.blackhole = true,
            TargetStatus::Via(hops) => route.via = hops.into_iter().map(NextHop::from).collect(),
        }
        route
    }
}

impl From<NextHopStatus> for NextHop {
    fn from(hop: NextHopStatus) -> Self {
        Self { address: hop.address, interface: hop.interface, weight: hop.weight, resolved: hop.resolved }
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

/// Which routes of the list are meant: those of both families, or of one.
#[derive(Clone, Copy)]
struct Families {
    ipv4: bool,
    ipv6: bool,
}

/// `GET /v1/routes`.
pub(super) fn list(node: &mut Node, request: &Request) -> Reply {
    let family = request.query.text("family");
    let families = Families { ipv4: family != Some("ipv6"), ipv6: family != Some("ipv4") };
    let after = match request.query.text("after").map(read_cursor) {
        Some(None) => return problem(400, "query parameter after must be the next of an earlier answer"),
        Some(cursor) => cursor,
        None => None,
    };
    if request.wants_lines {
        return Reply::stream(NDJSON, All { families, after });
    }
    let limit = request.query.integer("limit").unwrap_or(100) as usize;
    let found = page(node, families, after, limit);
    let next = (found.len() == limit).then(|| found.last().map(cursor)).flatten();
    json(200, &Page { routes: found.into_iter().map(Route::from).collect(), next })
}

/// `GET /v1/routes/lookup`.
pub(super) fn lookup(node: &mut Node, request: &Request) -> Reply {
    let Some(address) = request.query.address("address") else {
        return problem(400, "query parameter address is missing");
    };
    json(200, &Lookup { address, route: node.router.lookup(address).map(Route::from) })
}

/// At most `limit` routes after a cursor: IPv4 before IPv6.
fn page(node: &Node, families: Families, after: Option<RouteCursor>, limit: usize) -> Vec<RouteStatus> {
    let in_ipv6 = after.is_some_and(|(prefix, _)| matches!(prefix, IpNet::V6(_)));
    let mut found = Vec::new();
    if families.ipv4 && !in_ipv6 {
        found = node.router.routes(IpNet::V4(config::Ipv4Net::default()), after, limit);
    }
    if families.ipv6 && found.len() < limit {
        let after = after.filter(|_| in_ipv6);
        found.extend(node.router.routes(IpNet::V6(config::Ipv6Net::default()), after, limit - found.len()));
    }
    found
}

/// `10.0.0.0/8,static`.
fn cursor(route: &RouteStatus) -> String {
    format!("{},{}", route.prefix, route.source.name())
}

fn read_cursor(text: &str) -> Option<RouteCursor> {
    let (prefix, source) = text.split_once(',')?;
    let source = Origin::ALL.into_iter().find(|origin| origin.name() == source)?;
    Some((prefix.parse().ok()?, source))
}

/// All routes as lines.
struct All {
    families: Families,
    after: Option<RouteCursor>,
}

impl Source<Node> for All {
    fn pull(&mut self, node: &mut Node, out: &mut Vec<u8>) -> Pull {
        let found = page(node, self.families, self.after, ROUTES_PER_PIECE);
        let is_last = found.len() < ROUTES_PER_PIECE;
        for status in found {
            self.after = Some((status.prefix, status.source));
            push_line(out, &Route::from(status));
        }
        if is_last { Pull::End } else { Pull::More }
    }
}
