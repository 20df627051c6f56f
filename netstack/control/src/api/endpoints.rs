//! Every path of the API with its methods, in the order of the description.

use super::query::{
    Kind::{Address, Boolean, Choice, Cursor, Integer, Name, Network, Text},
    Param, optional, required,
};
use super::{
    JSON, NDJSON, Reply, bulk, configuration, dispatch::Request, flows, interfaces, ipsec, log, metrics,
    neighbours, openapi, policy, resources, room, routes, services, status, storage, traffic,
};
use crate::http::{Sink, head::Method};
use crate::node::Node;
use alloc::boxed::Box;

/// One method of one path.
pub(crate) struct Endpoint {
    pub method: Method,
    pub path: &'static str,
    /// Answers without a token.
    pub is_open: bool,
    pub summary: &'static str,
    pub query: &'static [Param],
    pub handler: Handler,
    pub answer: Answer,
    /// Statuses of refusals that are particular to it.
    pub refusals: &'static [u16],
    /// Memory that a plain handler's answer takes at most, in bytes.
    pub room: fn(&Node) -> u64,
}

/// What handles a request.
#[derive(Clone, Copy)]
pub(crate) enum Handler {
    /// There is no body.
    Plain(fn(&mut Node, &Request) -> Reply),
    /// The body is one document.
    Document {
        content_type: &'static str,
        max_bytes: usize,
        schema: &'static str,
        handle: fn(&mut Node, &Request, &[u8]) -> Reply,
    },
    /// The body is handled as it comes.
    Stream { content_types: &'static [&'static str], schema: &'static str, open: Open },
    /// There is no body, and the answer takes several turns.
    Work { open: Open },
}

/// Begins to handle a request in several turns, or refuses it.
type Open = fn(&mut Node, &Request) -> Result<Box<dyn Sink<Node>>, Reply>;

/// What a good answer is.
pub(crate) struct Answer {
    pub status: u16,
    pub content_type: &'static str,
    /// Name of its schema in the description; empty for text.
    pub schema: &'static str,
    /// It can also come as ndjson with lines of this schema; empty if not.
    pub lines: &'static str,
}

/// Longest configuration document.
const MAX_CONFIG_BYTES: usize = 2 << 20;
/// Longest association document.
const MAX_ASSOCIATION_BYTES: usize = 4096;
/// Items of a page at most.
const MAX_PAGE: u64 = 1000;

const fn answer(schema: &'static str) -> Answer {
    Answer { status: 200, content_type: JSON, schema, lines: "" }
}

const fn get(
    path: &'static str,
    schema: &'static str,
    summary: &'static str,
    handle: fn(&mut Node, &Request) -> Reply,
) -> Endpoint {
    Endpoint {
        method: Method::Get,
        path,
        is_open: false,
        summary,
        query: &[],
        handler: Handler::Plain(handle),
        answer: answer(schema),
        refusals: &[],
        room: room::little,
    }
}

/// What answers at length: with 507 when there is not the memory.
const fn large(room: fn(&Node) -> u64, endpoint: Endpoint) -> Endpoint {
    Endpoint { room, refusals: &[507], ..endpoint }
}

const fn post(
    path: &'static str,
    schema: &'static str,
    summary: &'static str,
    handle: fn(&mut Node, &Request) -> Reply,
) -> Endpoint {
    Endpoint { method: Method::Post, ..get(path, schema, summary, handle) }
}

const fn association(handle: fn(&mut Node, &Request, &[u8]) -> Reply) -> Handler {
    Handler::Document {
        content_type: JSON,
        max_bytes: MAX_ASSOCIATION_BYTES,
        schema: "IpsecAssociation",
        handle,
    }
}

const DRY_RUN: Param = optional("dry_run", Boolean, "Check, and say what would change; change nothing.");
const WAIT: Param = optional(
    "wait_seconds",
    Integer(1, 60),
    "Answer once packets are treated by the objects, or after so long; as soon as they are taken if left out.",
);

const PROTOCOL: Param = optional(
    "protocol",
    Choice(&["tcp", "udp", "sctp", "icmp"]),
    "`tcp` if left out; `icmp` is an echo request.",
);
const PORT: Param =
    optional("port", Integer(1, 65_535), "Destination port; needed unless the protocol is `icmp`.");

const fn objects(open: Open) -> Handler {
    Handler::Stream { content_types: &[NDJSON, JSON], schema: "Resource", open }
}

const fn text(content_type: &'static str) -> Answer {
    Answer { status: 200, content_type, schema: "", lines: "" }
}

/// The API.
pub(crate) static ENDPOINTS: &[Endpoint] = &[
    Endpoint { is_open: true, ..get("/v1/health", "Health", "Whether the node is there", status::health) },
    get("/v1/status", "Status", "What the node is, how long it runs and how it fares", status::status),
    large(
        room::config,
        get("/v1/config", "Config", "The running configuration, without secrets", configuration::get),
    ),
    Endpoint {
        method: Method::Put,
        query: &[
            optional("dry_run", Boolean, "Validate and say what would change; change nothing."),
            optional(
                "confirm_seconds",
                Integer(5, 3600),
                "Return to the configuration before unless confirmed in time.",
            ),
        ],
        handler: Handler::Document {
            content_type: JSON,
            max_bytes: MAX_CONFIG_BYTES,
            schema: "Config",
            handle: configuration::put,
        },
        refusals: &[409, 412, 422, 507],
        ..get("/v1/config", "ConfigChange", "Replace the configuration as a whole", configuration::get)
    },
    Endpoint {
        refusals: &[409],
        ..post(
            "/v1/config/confirm",
            "Generation",
            "Keep a change that waits for confirmation",
            configuration::confirm,
        )
    },
    Endpoint {
        refusals: &[409],
        ..post(
            "/v1/config/rollback",
            "Generation",
            "Take back a change that waits for confirmation",
            configuration::rollback,
        )
    },
    Endpoint { refusals: &[503, 507], ..get("/v1/store", "Store", "What the store holds", storage::get) },
    Endpoint {
        refusals: &[409, 503, 507],
        ..post("/v1/store", "Store", "Write the running configuration to the store", storage::save)
    },
    large(
        room::interfaces,
        get("/v1/interfaces", "Interfaces", "Interfaces with addresses, link and counters", interfaces::list),
    ),
    Endpoint {
        query: &[
            optional("limit", Integer(1, MAX_PAGE), "Routes of a page; 100 if left out."),
            optional("after", Cursor, "Go on after this one: the `next` of the page before."),
            optional("family", Choice(&["ipv4", "ipv6"]), "Routes of this family alone."),
        ],
        answer: Answer { lines: "Route", ..answer("Routes") },
        ..get(
            "/v1/routes",
            "Routes",
            "Routes in order of their prefixes, paged or all as lines",
            routes::list,
        )
    },
    Endpoint {
        method: Method::Post,
        handler: Handler::Stream { content_types: &[NDJSON], schema: "RouteChange", open: bulk::open },
        refusals: &[422],
        ..get("/v1/routes", "BulkResult", "Add and remove dynamic routes, one a line", routes::list)
    },
    Endpoint {
        query: &[required("address", Address, "Destination address.")],
        ..get("/v1/routes/lookup", "Lookup", "The route that packets to an address take", routes::lookup)
    },
    Endpoint {
        query: &[
            optional("kind", Text(64), "Only this kind: `NetworkPolicy`, `pods` and the like."),
            optional("api_version", Text(64), "Only kinds of this API version."),
            optional("namespace", Text(253), "Only of this namespace."),
            optional("name", Text(253), "Only of this name."),
            optional("limit", Integer(1, MAX_PAGE), "Objects of a page; 100 if left out."),
            optional("after", Text(600), "Go on after this one: the `next` of the page before."),
        ],
        refusals: &[507],
        answer: Answer { lines: "Resource", ..answer("Resources") },
        ..get(
            "/v1/resources",
            "Resources",
            "Kubernetes and Calico objects in the order of kind, namespace and name, paged or all as lines",
            resources::list,
        )
    },
    Endpoint {
        method: Method::Post,
        query: &[DRY_RUN, WAIT],
        handler: objects(resources::apply),
        refusals: &[422, 507],
        ..get(
            "/v1/resources",
            "ResourceChange",
            "Add objects, or replace those of the same names; all of them or none",
            resources::list,
        )
    },
    Endpoint {
        method: Method::Put,
        query: &[DRY_RUN, WAIT],
        handler: objects(resources::replace),
        refusals: &[422, 507],
        ..get(
            "/v1/resources",
            "ResourceChange",
            "Replace all objects by these: what is not among them is removed",
            resources::list,
        )
    },
    Endpoint {
        method: Method::Delete,
        query: &[
            required("api_version", Text(64), "Its `apiVersion`."),
            required("kind", Text(64), "Its `kind`."),
            optional("namespace", Text(253), "Its namespace; `default` if left out and the kind has one."),
            required("name", Text(253), "Its name."),
            DRY_RUN,
            WAIT,
        ],
        handler: Handler::Work { open: resources::remove_one },
        refusals: &[404, 422],
        ..get("/v1/resources", "ResourceChange", "Remove one object", resources::list)
    },
    Endpoint {
        method: Method::Post,
        query: &[DRY_RUN, WAIT],
        handler: objects(resources::remove),
        refusals: &[422, 507],
        ..get(
            "/v1/resources/delete",
            "ResourceChange",
            "Remove the objects of these names, as far as they are there; all of them or none",
            resources::list,
        )
    },
    get(
        "/v1/resources/status",
        "ResourcesStatus",
        "How many objects there are, and whether they are in force",
        resources::status,
    ),
    Endpoint {
        query: &[
            optional("namespace", Text(253), "Only services of this namespace."),
            optional("name", Text(253), "Only services of this name."),
        ],
        ..get(
            "/v1/services",
            "Services",
            "Services with frontends, backends, their shares of the tables and counters",
            services::list,
        )
    },
    Endpoint {
        query: &[
            required("source", Address, "The client's address."),
            optional("source_port", Integer(0, 65_535), "The client's port; 0 if left out."),
            required("destination", Address, "The address that the client sends to."),
            required("port", Integer(1, 65_535), "The port that the client sends to."),
            optional("protocol", Choice(&["tcp", "udp", "sctp"]), "`tcp` if left out."),
        ],
        ..get(
            "/v1/services/explain",
            "ServiceExplanation",
            "Which backend a flow gets that no worker knows, and why",
            services::explain,
        )
    },
    Endpoint {
        query: &[optional("name", Text(600), "Only this one: `namespace/pod`, or a host endpoint.")],
        ..get(
            "/v1/policy/endpoints",
            "PolicyEndpoints",
            "Endpoints with the policies that select them",
            policy::endpoints,
        )
    },
    Endpoint {
        query: &[
            required("from", Text(600), "Who sends: `namespace/pod`, a host endpoint, or an address."),
            required("to", Text(600), "Who receives."),
            PROTOCOL,
            PORT,
            optional("source_port", Integer(1, 65_535), "Source port; 49152 if left out."),
        ],
        refusals: &[404],
        ..get(
            "/v1/policy/explain",
            "PolicyExplanation",
            "What happens to the first packet of a flow, and the rule that decides",
            policy::explain,
        )
    },
    Endpoint {
        query: &[optional("namespace", Text(253), "Only endpoints of this namespace."), PROTOCOL, PORT],
        refusals: &[507],
        room: room::matrix,
        ..get("/v1/policy/matrix", "PolicyMatrix", "Who reaches whom on a port", policy::matrix)
    },
    Endpoint {
        query: &[optional("name", Text(600), "Only policies of this name: `NAME` or `NAMESPACE/NAME`.")],
        ..get(
            "/v1/policy/rules",
            "PolicyRules",
            "Policies and profiles with what each rule has decided",
            policy::rules,
        )
    },
    Endpoint {
        query: &[
            optional(
                "since",
                Integer(0, u64::MAX),
                "First sequence number; the oldest record if left out, or the next one of a stream that follows.",
            ),
            optional(
                "limit",
                Integer(1, 1000),
                "Records at most; 1000 if left out. Without effect on a stream.",
            ),
            optional("follow", Boolean, "Stream records, also those to come."),
            optional("verdict", Choice(&["allow", "deny"]), "Only these."),
            optional("namespace", Text(253), "Only from or to endpoints of this namespace."),
            optional(
                "endpoint",
                Text(600),
                "Only from or to this endpoint: `namespace/pod`, or a host endpoint.",
            ),
            optional(
                "address",
                Network,
                "Only from or to this network or address, before or after translation.",
            ),
            optional(
                "protocol",
                Choice(&["tcp", "udp", "sctp", "icmp"]),
                "Only this protocol; `icmp` is ICMPv6 too.",
            ),
            optional("port", Integer(1, 65_535), "Only from or to this port."),
            optional("policy", Text(600), "Only what this policy has decided: `NAME` or `NAMESPACE/NAME`."),
        ],
        answer: Answer { lines: "Flow", ..answer("Flows") },
        ..get(
            "/v1/flows",
            "Flows",
            "Flows that begin, are denied or end; followed from the first request on",
            flows::get,
        )
    },
    large(
        room::neighbours,
        get("/v1/neighbours", "Neighbours", "ARP and neighbour discovery entries", neighbours::list),
    ),
    Endpoint {
        refusals: &[507],
        ..get(
            "/v1/ipsec/associations",
            "IpsecAssociations",
            "Security associations with counters, never with keys",
            ipsec::associations,
        )
    },
    Endpoint {
        method: Method::Post,
        handler: association(ipsec::add),
        refusals: &[409, 422, 507],
        ..get(
            "/v1/ipsec/associations",
            "IpsecAssociationChange",
            "Add a security association, as a key daemon does",
            ipsec::associations,
        )
    },
    Endpoint {
        method: Method::Put,
        handler: association(ipsec::replace),
        refusals: &[404, 409, 422, 507],
        ..get(
            "/v1/ipsec/associations",
            "IpsecAssociationChange",
            "Replace a security association that was added: rekey",
            ipsec::associations,
        )
    },
    Endpoint {
        method: Method::Delete,
        query: &[required("name", Name, "Name of the association.")],
        refusals: &[404, 409],
        ..get(
            "/v1/ipsec/associations",
            "IpsecAssociationRemoved",
            "Remove a security association that was added",
            ipsec::remove,
        )
    },
    Endpoint {
        refusals: &[507],
        ..get("/v1/ipsec/tunnels", "IpsecTunnels", "IPsec tunnels with counters", ipsec::tunnels)
    },
    Endpoint {
        query: &[optional(
            "since",
            Integer(0, u64::MAX),
            "First sequence number; the oldest event if left out.",
        )],
        ..get("/v1/ipsec/events", "IpsecEvents", "What happened to security associations", ipsec::events)
    },
    Endpoint {
        query: &[required("prefix", Network, "Network of destinations.")],
        ..get(
            "/v1/ipsec/verify",
            "IpsecVerification",
            "Whether traffic to a network leaves encrypted, and by which association",
            ipsec::verify,
        )
    },
    large(
        room::interfaces,
        get("/v1/counters", "Counters", "Counters of interfaces and of the graph's nodes", traffic::counters),
    ),
    get("/v1/drops", "Drops", "Dropped packets by reason", traffic::drops),
    large(
        room::trace,
        get("/v1/trace", "Trace", "The recorded ways of packets through the graph", traffic::trace),
    ),
    Endpoint {
        query: &[
            optional(
                "packets",
                Integer(1, dataplane::MAX_TRACED_PACKETS as u64),
                "How many packets; 50 if left out.",
            ),
            optional("interface", Name, "Only what comes in for this interface."),
            optional("address", Address, "Only from or to this address, or a network that starts with it."),
            optional(
                "prefix_len",
                Integer(0, 128),
                "Length of the network's prefix; the whole address if left out.",
            ),
            optional("protocol", Integer(0, 255), "Only this protocol above IP."),
            optional("port", Integer(1, 65_535), "Only from or to this port."),
            optional("dropped", Boolean, "Only packets that are dropped, and of these only where."),
            optional(
                "reason",
                Name,
                "Only packets that are dropped for this reason, as `/v1/drops` names it; one of the dataplane's, which do not begin with `control-`.",
            ),
        ],
        answer: Answer { status: 202, ..answer("TraceStarted") },
        ..post("/v1/trace", "TraceStarted", "Record the way of the next packets", traffic::start_trace)
    },
    Endpoint {
        query: &[
            optional("since", Integer(0, u64::MAX), "First sequence number; the oldest line if left out."),
            optional(
                "limit",
                Integer(1, 10_000),
                "Lines at most; 1000 if left out. Without effect on a stream.",
            ),
            optional("follow", Boolean, "Stream lines, also those to come."),
        ],
        answer: Answer { lines: "LogLine", ..answer("Log") },
        ..get("/v1/log", "Log", "The log", log::get)
    },
    get("/v1/crash", "Crash", "The record of the last crash", status::crash),
    Endpoint {
        answer: Answer { status: 202, ..answer("Rebooting") },
        ..post("/v1/reboot", "Rebooting", "Restart the node", status::reboot)
    },
    Endpoint {
        answer: text(metrics::CONTENT_TYPE),
        refusals: &[507],
        room: room::metrics,
        ..get("/metrics", "", "Metrics for Prometheus", metrics::get)
    },
    large(room::description, get("/openapi.json", "OpenApi", "This description", openapi::get)),
];
