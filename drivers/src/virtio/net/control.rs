//! Control's handle of a card: its link, and what becomes of it after a fault.
//!
//! A fault stops the device. After a pause it is reset and set up as before, and the workers exchange their rings for
//! fresh ones; then the link may come up again. A card that does not come back, or comes back as another one, is tried
//! a few times, with growing pauses, and then left alone. Each step is short, and none waits for what the card was told:
//! control may share its core with a worker, and an emulated card with whoever would wait for it.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use buffer::{Buf, PortControl, PortInfo, PortStats};

use super::counters::Counters;
use super::exchange::Exchange;
use super::{Card, Facts, Format, NetOptions, read_link, start};
use crate::virtio::pci::{Doorbell, QUICK};
use crate::virtio::{Error, Fault};

/// How often in a row a card is reset.
const MAX_ATTEMPTS: u32 = 8;

/// The pause before the first attempt; it doubles with each.
const FIRST_PAUSE_NS: u64 = 100_000_000;

/// How long a card that was reset may take to do what it is told.
const COMMANDS_NS: u64 = 1_000_000_000;

/// A card that runs this long is in order again.
const SETTLED_NS: u64 = 600_000_000_000;

/// Where a card is.
enum Phase<F: Format> {
    Running,
    /// Stopped, or being stopped; to be set up again at this time.
    Down {
        due_ns: u64,
    },
    /// Set up again, but for what it still has to do; until this time at the latest.
    Told {
        card: Box<Card<F>>,
        until_ns: u64,
    },
    /// Runs again; some workers still have to exchange their rings.
    Exchanging,
    /// Out of use for good.
    GivenUp,
}

/// Control's handle of a card.
pub(super) struct NetControl<F: Format> {
    info: PortInfo,
    /// As it was opened.
    options: NetOptions,
    card: Card<F>,
    /// The card before a reset, until all workers have given its rings back.
    old: Option<Card<F>>,
    exchanges: Vec<Arc<Exchange<F::Ring<Buf>>>>,
    counters: Vec<Arc<Counters>>,
    phase: Phase<F>,
    /// The fault that stopped the card, while it is out of use.
    fault: Option<Fault>,
    /// Attempts to set it up again, in a row.
    attempts: u32,
    running_since_ns: u64,
    resets: u64,
    /// As last read.
    link_up: Option<bool>,
}

impl<F: Format> NetControl<F> {
    pub(super) fn new(
        info: PortInfo,
        options: NetOptions,
        card: Card<F>,
        exchanges: Vec<Arc<Exchange<F::Ring<Buf>>>>,
        counters: Vec<Arc<Counters>>,
    ) -> Self {
        Self {
            info,
            options,
            card,
            old: None,
            exchanges,
            counters,
            phase: Phase::Running,
            fault: None,
            attempts: 0,
            running_since_ns: 0,
            resets: 0,
            link_up: None,
        }
    }

    fn read_link(&self) -> bool {
        self.card.transport.check_status();
        read_link(&self.card.transport)
    }

    /// The link of a card that runs.
    fn follow_link(&mut self, now_ns: u64) -> bool {
        let interrupted = self.card.config_interrupt.as_mut().map(|interrupt| interrupt.take());
        let link_up = match (self.link_up, interrupted) {
            (Some(link_up), Some(false)) => link_up,
            _ => self.read_link(),
        };
        if let Some(fault) = self.card.transport.fault() {
            self.stop(fault, now_ns);
            return false;
        }
        // QEMU turns notifications off when it drops what is sent over a link that is down, and does not turn
        // them on again with the link. A bell rung nevertheless makes it look, and ask for more.
        if link_up && (self.link_up == Some(false) || interrupted == Some(true)) {
            self.card.tx_doorbells.iter().for_each(Doorbell::ring);
        }
        self.link_up = Some(link_up);
        link_up
    }

    /// Stops a card that committed a fault.
    #[cold]
    fn stop(&mut self, fault: Fault, now_ns: u64) {
        log::error!(target: "virtio", "{} is broken and stopped: {fault}", self.info.name);
        let _ = self.card.transport.stop();
        self.fault = Some(fault);
        if now_ns.saturating_sub(self.running_since_ns) > SETTLED_NS {
            self.attempts = 0;
        }
        self.try_later(now_ns);
    }

    /// Plans the next attempt, if there is to be one.
    fn try_later(&mut self, now_ns: u64) {
        if self.attempts == MAX_ATTEMPTS {
            log::error!(target: "virtio", "{} is out of use: reset {MAX_ATTEMPTS} times in vain", self.info.name);
            self.exchanges.iter().for_each(|exchange| exchange.close());
            self.phase = Phase::GivenUp;
            return;
        }
        self.phase = Phase::Down { due_ns: now_ns.saturating_add(FIRST_PAUSE_NS << self.attempts) };
        self.attempts += 1;
    }

    /// Resets the card and tells it what it was told before.
    #[cold]
    fn reset(&mut self, now_ns: u64) {
        match self.set_up() {
            Ok(card) => {
                let (card, until_ns) = (Box::new(card), now_ns.saturating_add(COMMANDS_NS));
                self.phase = Phase::Told { card, until_ns };
                self.follow_commands(now_ns);
            }
            Err(error) => self.fail_again(&error, now_ns),
        }
    }

    /// Offers the workers the rings of a card that was reset, once it has done what it was told.
    fn follow_commands(&mut self, now_ns: u64) {
        let Phase::Told { card, until_ns } = &mut self.phase else { return };
        let answer = match card.poll() {
            Ok(false) if now_ns < *until_ns => return,
            Ok(false) => Err(card.give_up()),
            answer => answer,
        };
        if let Err(error) = answer {
            return self.fail_again(&error, now_ns);
        }
        if let Phase::Told { mut card, .. } = core::mem::replace(&mut self.phase, Phase::Exchanging) {
            for (rings, exchange) in card.rings.drain(..).zip(&self.exchanges) {
                exchange.offer(rings);
            }
            self.old = Some(core::mem::replace(&mut self.card, *card));
        }
    }

    fn fail_again(&mut self, error: &Error, now_ns: u64) {
        log::warn!(target: "virtio", "{}, attempt {} to reset it: {error}", self.info.name, self.attempts);
        self.try_later(now_ns);
    }

    /// The card, as it was, which still has to do what it is told.
    fn set_up(&self) -> Result<Card<F>, Error> {
        let before = &self.card.transport;
        if !before.stop() {
            return Err(Error::ResetTimeout);
        }
        let transport = start(before.device().clone(), &self.options, QUICK)?;
        if transport.features() != before.features() {
            return Err(Error::Config("other features than before"));
        }
        let facts = Facts::read(&transport, &self.options)?;
        let card = Card::<F>::begin(&Arc::new(transport), &facts, &self.options)?;
        let same = card.mac == self.info.mac
            && card.max_mtu == self.info.max_mtu
            && card.rings.len() == self.exchanges.len();
        if same { Ok(card) } else { Err(Error::Config("another card than before")) }
    }

    /// Takes the old rings back once every worker has fresh ones.
    fn finish_reset(&mut self, now_ns: u64) {
        if !self.exchanges.iter().all(|exchange| exchange.is_taken()) {
            return;
        }
        self.exchanges.iter().for_each(|exchange| drop(exchange.take_back()));
        self.old = None;
        self.phase = Phase::Running;
        (self.fault, self.link_up) = (None, None);
        self.running_since_ns = now_ns;
        self.resets += 1;
        log::warn!(target: "virtio", "{} was reset and runs again", self.info.name);
    }
}

impl<F: Format> PortControl for NetControl<F> {
    fn info(&self) -> &PortInfo {
        &self.info
    }

    fn link_up(&mut self, now_ns: u64) -> bool {
        match self.phase {
            Phase::Down { due_ns } if now_ns >= due_ns => self.reset(now_ns),
            Phase::Told { .. } => self.follow_commands(now_ns),
            Phase::Exchanging => self.finish_reset(now_ns),
            _ => {}
        }
        match self.phase {
            Phase::Running => self.follow_link(now_ns),
            _ => false,
        }
    }

    fn fault(&self) -> Option<&'static str> {
        self.fault.or_else(|| self.card.transport.fault()).map(Fault::as_str)
    }

    fn stats(&self) -> PortStats {
        let mut stats = PortStats { resets: self.resets, ..PortStats::default() };
        for counters in &self.counters {
            counters.add_to(&mut stats);
        }
        stats
    }
}
