//! How control begins, in two parts, so that two cores can share the work: a configuration is chosen and the router made
//! of it on whichever core has nothing else to do ([`Beginning::run`]), all else on control's own ([`Remainder::finish`]).

use crate::boot::{self, Start};
use crate::control::{Control, Parts};
use crate::net::{Stack, server::Server};
use crate::node::{self, Node};
use crate::platform::{Boot, Platform};
use crate::store::Saved;
use alloc::{boxed::Box, string::String, sync::Arc, vec::Vec};
use buffer::{BufferCache, PortControl};
use config::PortFacts;
use crypto::gcm::Gcm;
use dataplane::Shared;
use fib::{Fib4Writer, Fib6Writer};
use router::{Limits, Port, Router};

/// What a configuration is chosen and the router made of. It knows no platform.
pub struct Beginning {
    pub(crate) shared: Arc<Shared>,
    pub(crate) fib4: Fib4Writer,
    pub(crate) fib6: Fib6Writer,
    pub(crate) boot: Boot,
    /// The newest document of the store.
    pub(crate) saved: Option<Saved>,
    pub(crate) ports: Vec<PortAtStart>,
    pub(crate) router_seed: u64,
    pub(crate) now_ns: u64,
}

/// A port as it is when control begins.
pub(crate) struct PortAtStart {
    pub(crate) name: String,
    pub(crate) mac: [u8; 6],
    pub(crate) max_mtu: u16,
    pub(crate) is_up: bool,
}

/// A router with the configuration that was chosen. Nothing of it is published yet.
pub struct Begun {
    pub(crate) router: Router,
    pub(crate) start: Start,
    pub(crate) boot: Boot,
}

/// What is control's own.
pub struct Remainder {
    platform: Box<dyn Platform>,
    shared: Arc<Shared>,
    ports: Vec<Box<dyn PortControl>>,
    cache: BufferCache,
    links: Vec<bool>,
    stack_seed: u64,
}

/// Divides what control is made of, and reads the store. `now_ns` is monotonic.
pub(crate) fn divide(parts: Parts, now_ns: u64) -> (Beginning, Remainder) {
    let Parts { mut platform, shared, fib4, fib6, mut ports, cache, boot } = parts;
    let mut seed = [[0; 8]; 2];
    seed.iter_mut().for_each(|bytes| platform.random(bytes));
    let [router_seed, stack_seed] = seed.map(u64::from_le_bytes);
    let at_start = |port: &mut Box<dyn PortControl>| {
        let is_up = port.link_up(now_ns);
        let info = port.info();
        PortAtStart { name: info.name.clone(), mac: info.mac, max_mtu: info.max_mtu, is_up }
    };
    let at_start: Vec<_> = ports.iter_mut().map(at_start).collect();
    let links = at_start.iter().map(|port| port.is_up).collect();
    let saved = node::load(&mut *platform);
    let beginning =
        Beginning { shared: shared.clone(), fib4, fib6, boot, saved, ports: at_start, router_seed, now_ns };
    (beginning, Remainder { platform, shared, ports, cache, links, stack_seed })
}

impl Beginning {
    /// Chooses a configuration and makes the router of it.
    #[must_use]
    pub fn run(self) -> Begun {
        let Self { shared, fib4, fib6, boot, saved, ports, router_seed, now_ns } = self;
        let facts: Vec<_> =
            ports.iter().map(|port| PortFacts { name: &port.name, max_mtu: port.max_mtu }).collect();
        let start = boot::choose(&boot, saved.as_ref(), &facts);
        let router_ports: Vec<_> =
            ports.iter().map(|port| Port { name: port.name.clone(), mac: port.mac }).collect();
        let mut router = Router::new(shared, fib4, fib6, &router_ports, Limits::default(), router_seed);
        match boot.crypto.map(|kernel| (kernel, Gcm::with_kernel(kernel))) {
            Some((_, Some(gcm))) => router.set_crypto(gcm),
            Some((kernel, None)) => {
                log::error!(target: "ipsec", "this CPU does not run crypto={kernel}; {} is used", Gcm::best().kernel());
            }
            None => {}
        }
        let links: Vec<_> = ports.iter().map(|port| port.is_up).collect();
        router.begin_with_links(&links);
        router.configure(&start.config, now_ns);
        Begun { router, start, boot }
    }
}

impl Remainder {
    /// Puts in force what was begun, and listens. `begun` waits for it if need be.
    pub fn finish(self, begun: impl FnOnce() -> Begun, now_ns: u64) -> Control {
        let Self { platform, shared, ports, cache, links, stack_seed } = self;
        let mut stack = Stack::new(stack_seed, now_ns);
        // It learns its port when the stack learns its addresses.
        let server = Server::new(&mut stack, 0, now_ns);
        let mut node = Node::new(platform, shared.clone(), begun(), ports, now_ns);
        node.router.apply_changes(now_ns);
        Control::made_of(node, stack, server, cache, shared, links, now_ns)
    }
}
