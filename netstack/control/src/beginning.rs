//! How control begins, in two parts, so that two cores can share the work: a configuration is chosen and the router made
//! of it on whichever core has nothing else to do ([`Beginning::run`]), all else on control's own ([`Remainder::finish`]).

use crate::boot::{self, Start};
use crate::control::Control;
use crate::net::{Stack, server::Server};
use crate::node::{self, Node};
use crate::platform::{Boot, Platform};
use crate::store::Saved;
use alloc::{boxed::Box, string::String, sync::Arc, vec::Vec};
use buffer::{BufferCache, PortControl};
use config::PortFacts;
use core::mem::ManuallyDrop;
use crypto::gcm::Gcm;
use dataplane::Shared;
use fib::{Fib4Writer, Fib6Writer};
use router::{Limits, Port, Router};

/// A router without configuration, and what one is chosen of. It knows no platform.
pub struct Beginning {
    /// Whoever leaves this behind leaves the router too: nothing drops one, and the code that would is large.
    pub(crate) router: ManuallyDrop<Router>,
    /// The newest document of the store.
    pub(crate) saved: Option<Saved>,
    pub(crate) ports: Vec<PortAtStart>,
    pub(crate) now_ns: u64,
}

/// A port as it is when control begins.
pub struct PortAtStart {
    /// Its name, such as `eth0`.
    pub name: String,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// The longest IP packet that it can carry, in bytes.
    pub max_mtu: u16,
    /// Whether its link is up.
    pub is_up: bool,
}

impl PortAtStart {
    /// A port that is open already.
    pub(crate) fn of(port: &mut dyn PortControl, now_ns: u64) -> Self {
        let is_up = port.link_up(now_ns);
        let info = port.info();
        Self { name: info.name.clone(), mac: info.mac, max_mtu: info.max_mtu, is_up }
    }
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
    links: Vec<bool>,
    stack_seed: u64,
}

/// Divides what control is made of, and reads the store. `now_ns` is monotonic. As what is below it is done once a start, and
/// is not to be part of what calls it, which is built for speed.
#[inline(never)]
pub(crate) fn divide(
    mut platform: Box<dyn Platform>,
    shared: Arc<Shared>,
    (fib4, fib6): (Fib4Writer, Fib6Writer),
    ports: Vec<PortAtStart>,
    now_ns: u64,
) -> (Beginning, Remainder) {
    let mut seed = [[0; 8]; 2];
    seed.iter_mut().for_each(|bytes| platform.random(bytes));
    let [router_seed, stack_seed] = seed.map(u64::from_le_bytes);
    let links: Vec<_> = ports.iter().map(|port| port.is_up).collect();
    let router_ports: Vec<_> =
        ports.iter().map(|port| Port { name: port.name.clone(), mac: port.mac }).collect();
    let mut router = Router::new(shared.clone(), fib4, fib6, &router_ports, Limits::default(), router_seed);
    router.begin_with_links(&links);
    let saved = node::load(&mut *platform);
    let router = ManuallyDrop::new(router);
    (Beginning { router, saved, ports, now_ns }, Remainder { platform, shared, links, stack_seed })
}

impl Beginning {
    /// Chooses a configuration and makes the router of it.
    #[must_use]
    #[inline(never)]
    pub fn run(self, mut boot: Boot) -> Begun {
        let Self { router, saved, ports, now_ns } = self;
        let mut router = ManuallyDrop::into_inner(router);
        let facts: Vec<_> =
            ports.iter().map(|port| PortFacts { name: &port.name, max_mtu: port.max_mtu }).collect();
        let start = boot::choose(&mut boot, saved.as_ref(), &facts);
        match boot.crypto.map(|kernel| (kernel, Gcm::with_kernel(kernel))) {
            Some((_, Some(gcm))) => router.set_crypto(gcm),
            Some((kernel, None)) => {
                log::error!(target: "ipsec", "this CPU does not run crypto={kernel}; {} is used", Gcm::best().kernel());
            }
            None => {}
        }
        router.configure(&start.config, now_ns);
        Begun { router, start, boot }
    }
}

impl Remainder {
    /// Puts in force what was begun, and listens. The `ports` are those that were told of, in that order; `begun` waits for
    /// what was begun if need be.
    pub fn finish(
        self,
        ports: Vec<Box<dyn PortControl>>,
        cache: BufferCache,
        begun: Box<dyn FnOnce() -> Begun + '_>,
        now_ns: u64,
    ) -> Control {
        let Self { platform, shared, links, stack_seed } = self;
        let mut stack = Stack::new(stack_seed, now_ns);
        // It learns its port when the stack learns its addresses.
        let server = Server::new(&mut stack, 0, now_ns);
        let mut node = Node::new(platform, shared.clone(), begun(), ports, now_ns);
        node.router.apply_changes(now_ns);
        Control::made_of(node, stack, server, cache, shared, links, now_ns)
    }
}
