//! The virtio network card (VIRTIO 1.3 §5.1).
//!
//! [`open`] agrees on features, sets up a queue pair for each worker and gives one [`PortQueue`] for each and
//! one [`PortControl`] for all. A card that commits a fault is stopped; control resets it and hands the workers fresh
//! rings (`control.rs`, `exchange.rs`), some times, with growing pauses.
//!
//! The header of 12 bytes that the device wants before each frame lies in the same memory as the frame:
//! in the first bytes of a received buffer, in the headroom of a sent one. So a frame of one buffer takes
//! one descriptor. Longer frames are chains of buffers: on receive by mergeable buffers, on transmit by as
//! many descriptors. Indirect descriptors are not used. They concern chains alone, and there they were tried: frames
//! of 9,000 bytes in 5 buffers take 77 clocks to send at 32 a burst without them and 78 to 83 with them, 143 to 155
//! against 132 to 136 at 8 a burst (split rings, the model's device, best of six runs); the device has to map and read
//! a second table for each. What they save is ring slots, which frames of an ordinary MTU do not run short of.
//!
//! Not done: segmentation offloads, receive-side scaling by our own key, filters (every frame is let in, the
//! dataplane looks at destination addresses itself).

mod command;
mod control;
mod counters;
mod exchange;
mod header;
mod pair;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use buffer::{Buf, DATA_ROOM, Offloads, PortControl, PortInfo, PortQueue};

use self::command::{Command, CommandQueue};
use self::control::NetControl;
use self::counters::Counters;
use self::exchange::{Exchange, Rings};
use self::header::HEADER_BYTES;
use self::pair::{Agreed, Pair};
use super::packed::Packed;
use super::pci::{Config, Doorbell, NO_VECTOR, PATIENT, Transport};
use super::ring::{Fault, Ring};
use super::split::Split;
use super::{Error, feature};
use crate::bus::{Device, Interrupt, InterruptTarget};

/// Feature bits (§5.1.3).
mod net_feature {
    pub const CSUM: u64 = 1 << 0;
    pub const GUEST_CSUM: u64 = 1 << 1;
    pub const MTU: u64 = 1 << 3;
    pub const MAC: u64 = 1 << 5;
    pub const MRG_RXBUF: u64 = 1 << 15;
    pub const STATUS: u64 = 1 << 16;
    pub const CTRL_VQ: u64 = 1 << 17;
    pub const CTRL_RX: u64 = 1 << 18;
    pub const MQ: u64 = 1 << 22;

    /// What we take of what is offered.
    pub fn wanted(offered: u64) -> u64 {
        let mut wanted = CSUM | GUEST_CSUM | MAC | MRG_RXBUF | STATUS | CTRL_VQ;
        // §5.1.3.1: these need the control queue.
        if offered & CTRL_VQ != 0 {
            wanted |= CTRL_RX | MQ;
        }
        // §5.1.4.2: who takes the MTU must receive frames of it, and one buffer may be too small.
        if offered & MRG_RXBUF != 0 {
            wanted |= MTU;
        }
        wanted
    }
}

/// Device configuration (§5.1.4).
mod config {
    pub const MAC: usize = 0;
    pub const STATUS: usize = 6;
    pub const MAX_PAIRS: usize = 8;
    pub const MTU: usize = 10;
    pub const STATUS_LINK_UP: u16 = 1;
}

/// What we carry when the device names no limit: the largest of the field's jumbo frames.
const JUMBO_MTU: u16 = 9216;
/// What every link carries (RFC 791 §3.2, VIRTIO 1.3 §5.1.4.1).
const MIN_MTU: u16 = 68;
/// An Ethernet header and two VLAN tags.
const MAX_LINK_HEADER_BYTES: usize = 22;
/// §5.1.4.1: `VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MAX`.
const MAX_PAIRS: u16 = 0x8000;

/// How to open a card.
#[derive(Clone, Debug)]
pub struct NetOptions {
    /// Its name, such as `eth0`.
    pub name: String,
    /// How many queue pairs: one for each worker. A device with fewer gives fewer.
    pub queue_pairs: u16,
    /// The worker of the first pair; the pairs after it belong to the workers after that, of [`workers`](Self::workers)
    /// around. An interrupt of a pair has to wake the worker who polls it.
    pub first_worker: u16,
    /// How many workers there are.
    pub workers: u16,
    /// Descriptors of each queue at most. Each receive queue holds that many buffers of the pool, each
    /// transmit queue up to that many until it is used again.
    pub queue_size: u16,
    /// Whether to use packed virtqueues where the device offers them. They save a device behind a bus two of
    /// three reads. QEMU's own device gains nothing, and (to 10.0 at least) asks to be reset when something is sent
    /// while its link is down: what it drops then, `virtqueue_packed_drop_all` of its `hw/virtio/virtio.c` gives back
    /// without having counted it as taken, as the split variant does, so that the count of what it has falls below
    /// zero and the next chain seems to be one too many.
    pub packed: bool,
    /// The MAC address of a card that has none: of one station ([`MULTICAST`]), and [`LOCALLY_ADMINISTERED`].
    pub fallback_mac: [u8; 6],
}

/// The bit of a MAC address's first byte that says that it names a group (IEEE 802, section 8.2).
pub const MULTICAST: u8 = 1;
/// The bit of a MAC address's first byte that says that nobody assigned it world-wide.
pub const LOCALLY_ADMINISTERED: u8 = 2;

/// An opened card: control's handle, and a queue pair for each worker, by index.
pub type Net = (Box<dyn PortControl>, Vec<Box<dyn PortQueue>>);

/// Opens a network card and lets it run.
///
/// Each queue pair interrupts its own worker, changes of the link interrupt control: a device with few
/// MSI-X vectors gives few pairs. One with less than two does not interrupt at all: [`PortQueue::arm`] is
/// always true then.
///
/// # Errors
/// The device is not a network card that follows the specification; it is left reset.
pub fn open(device: Arc<dyn Device>, options: &NetOptions) -> Result<Net, Error> {
    let (net, told) = find(device, options)?.begin(options.first_worker)?.finish();
    told.map(|()| net)
}

/// The first step of [`open`]: asks a card what port it is going to be, and agrees on features.
///
/// # Errors
/// As [`open`].
pub fn find(device: Arc<dyn Device>, options: &NetOptions) -> Result<Found, Error> {
    let transport = start(device, options, PATIENT)?;
    let facts = Facts::read(&transport, options)?;
    let info = PortInfo {
        name: options.name.clone(),
        mac: facts.mac,
        max_mtu: facts.max_mtu,
        offloads: Offloads {
            tx_csum: transport.has(net_feature::CSUM),
            rx_csum: transport.has(net_feature::GUEST_CSUM),
        },
        queues: facts.pairs,
    };
    Ok(Found { link_up: read_link(&transport), transport, facts, info, options: options.clone() })
}

/// A card that nothing is set up of yet. Dropped, it is left reset.
pub struct Found {
    transport: Transport,
    facts: Facts,
    info: PortInfo,
    link_up: bool,
    options: NetOptions,
}

impl Found {
    /// What the port is going to be.
    #[must_use]
    pub fn info(&self) -> &PortInfo {
        &self.info
    }

    /// Whether its link is up.
    #[must_use]
    pub fn link_up(&self) -> bool {
        self.link_up
    }

    /// Sets the card up, with `first_worker` in place of [`NetOptions::first_worker`], to where one that keeps to the
    /// specification has only to do what it was told: meanwhile others can be set up.
    ///
    /// # Errors
    /// As [`open`].
    pub fn begin(self, first_worker: u16) -> Result<Opening, Error> {
        if self.transport.has(feature::RING_PACKED) {
            self.begin_with::<PackedFormat>(first_worker)
        } else {
            self.begin_with::<SplitFormat>(first_worker)
        }
    }

    fn begin_with<F: Format>(self, first_worker: u16) -> Result<Opening, Error> {
        let Self { transport, facts, info, mut options, .. } = self;
        options.first_worker = first_worker;
        let mut card = Card::<F>::begin(&Arc::new(transport), &facts, &options)?;
        let options = NetOptions { queue_pairs: info.queues, fallback_mac: info.mac, ..options };
        Ok(Opening(Box::new(move || {
            let told = card.finish();
            (run(card, info, options), told)
        })))
    }
}

/// A card that does what it was told. Dropped, it is left reset.
pub struct Opening(Box<dyn FnOnce() -> (Net, Result<(), Error>)>);

impl Opening {
    /// Waits until the card has done what it was told. One that does not is a port all the same, out of use until control
    /// has reset it, as if it had broken the rules later; the error says what it did.
    pub fn finish(self) -> (Net, Result<(), Error>) {
        (self.0)()
    }
}

fn start(device: Arc<dyn Device>, options: &NetOptions, max_polls: u32) -> Result<Transport, Error> {
    let rings = if options.packed { feature::RING_PACKED } else { 0 };
    let wanted = |offered| net_feature::wanted(offered) | rings | feature::COMMON;
    Transport::start(device, max_polls, wanted)
}

/// A ring format, for any token.
trait Format: 'static {
    type Ring<T: Send + 'static>: Ring<T> + 'static;
}

struct SplitFormat;
struct PackedFormat;

impl Format for SplitFormat {
    type Ring<T: Send + 'static> = Split<T>;
}

impl Format for PackedFormat {
    type Ring<T: Send + 'static> = Packed<T>;
}

/// Makes the handles of a card.
fn run<F: Format>(mut card: Card<F>, info: PortInfo, options: NetOptions) -> Net {
    card.transport.set_quick();
    let counters: Vec<Arc<Counters>> = card.rings.iter().map(|_| Arc::default()).collect();
    let exchanges: Vec<_> = card.rings.iter().map(|_| Arc::new(Exchange::new())).collect();
    let pairs = card.rings.drain(..).zip(&exchanges).zip(&counters);
    let queues = pairs
        .map(|((rings, exchange), counters)| {
            let pair = Pair::new(rings, exchange.clone(), card.agreed, counters.clone());
            Box::new(pair) as Box<dyn PortQueue>
        })
        .collect();
    (Box::new(NetControl::new(info, options, card, exchanges, counters)), queues)
}

/// A card that runs, but for what the workers have of it.
struct Card<F: Format> {
    transport: Arc<Transport>,
    agreed: Agreed,
    mac: [u8; 6],
    max_mtu: u16,
    config_interrupt: Option<Box<dyn Interrupt>>,
    tx_doorbells: Vec<Doorbell>,
    /// The workers', until they are handed out.
    rings: Vec<Rings<F::Ring<Buf>>>,
    /// The device has this queue's memory as long as it runs.
    commands: Option<CommandQueue<F::Ring<()>>>,
    /// How many of its commands the device has carried out.
    done: usize,
}

impl<F: Format> Card<F> {
    /// Sets the queues of a started device up, lets it run and gives it its first command.
    fn begin(transport: &Arc<Transport>, facts: &Facts, options: &NetOptions) -> Result<Self, Error> {
        let has = |bits| transport.has(bits);
        let &Facts { device_pairs, pairs, mac, max_mtu } = facts;
        let (config_interrupt, mut interrupts) = enable_interrupts(transport, pairs, options)?;
        let mut rings = Vec::new();
        let mut tx_doorbells = Vec::new();
        for pair in 0..pairs {
            let interrupt = interrupts.next();
            let vector = if interrupt.is_some() { pair + 1 } else { NO_VECTOR };
            let rx = transport.queue::<Buf, F::Ring<Buf>>(2 * pair, options.queue_size, vector)?;
            let tx = transport.queue::<Buf, F::Ring<Buf>>(2 * pair + 1, options.queue_size, NO_VECTOR)?;
            tx_doorbells.push(tx.doorbell().clone());
            rings.push(Rings { rx, tx, interrupt });
        }
        let mut commands = if has(net_feature::CTRL_VQ) {
            const COMMAND_QUEUE_SIZE: u16 = 8;
            let queue =
                transport.queue::<(), F::Ring<()>>(2 * device_pairs, COMMAND_QUEUE_SIZE, NO_VECTOR)?;
            Some(CommandQueue::new(transport, queue)?)
        } else {
            None
        };
        transport.driver_ok();
        if let Some(commands) = &mut commands
            && let Some(command) = commands_for(transport, pairs).next()
        {
            commands.begin(&command)?;
        }
        Ok(Self {
            transport: transport.clone(),
            agreed: Agreed {
                mergeable: has(net_feature::MRG_RXBUF),
                rx_csum: has(net_feature::GUEST_CSUM),
                tx_csum: has(net_feature::CSUM),
            },
            mac,
            max_mtu,
            config_interrupt,
            tx_doorbells,
            rings,
            commands,
            done: 0,
        })
    }

    /// Whether the card has done all that it is to be told. Tells it the next thing when it has done one.
    fn poll(&mut self) -> Result<bool, Error> {
        let Some(commands) = &mut self.commands else { return Ok(true) };
        let mut left = commands_for(&self.transport, self.rings.len() as u16).skip(self.done).peekable();
        while let Some(command) = left.next() {
            let Some(is_done) = commands.poll()? else { return Ok(false) };
            // A card that refuses filters does so on its own terms; what matters is that nothing wanted is kept out.
            if !is_done && matches!(command, Command::QueuePairs(_)) {
                self.transport.report(Fault::ControlCommand);
                return Err(Error::Config("device refuses its own number of queue pairs"));
            }
            self.done += 1;
            left.peek().map_or(Ok(()), |next| commands.begin(next))?;
        }
        Ok(true)
    }

    /// Waits until the card has done all that it is to be told. One that does not is stopped.
    fn finish(&mut self) -> Result<(), Error> {
        for _ in 0..self.transport.max_polls() {
            if self.poll()? {
                return Ok(());
            }
        }
        Err(self.give_up())
    }

    /// Takes a card that does not do what it was told out of use.
    fn give_up(&mut self) -> Error {
        self.commands.as_mut().map_or(Error::Broken(Fault::ControlCommand), CommandQueue::fail)
    }
}

/// What a started device says of itself.
struct Facts {
    device_pairs: u16,
    /// Pairs to use.
    pairs: u16,
    mac: [u8; 6],
    max_mtu: u16,
}

impl Facts {
    fn read(transport: &Transport, options: &NetOptions) -> Result<Self, Error> {
        let device_pairs = device_pairs(transport)?;
        Ok(Self {
            device_pairs,
            pairs: pairs_to_use(transport, options.queue_pairs.clamp(1, device_pairs)),
            mac: read_mac(transport, options.fallback_mac)?,
            max_mtu: read_mtu(transport)?,
        })
    }
}

fn read_link(transport: &Transport) -> bool {
    let up = |config: &Config<'_>| config.read16(config::STATUS) & config::STATUS_LINK_UP != 0;
    !transport.has(net_feature::STATUS) || transport.config(up)
}

/// How many queue pairs the device has.
fn device_pairs(transport: &Transport) -> Result<u16, Error> {
    if !transport.has(net_feature::MQ) {
        return Ok(1);
    }
    match transport.config(|config| config.read16(config::MAX_PAIRS)) {
        pairs @ 1..=MAX_PAIRS => Ok(pairs.min(MAX_PAIRS - 1)),
        _ => Err(Error::Config("impossible number of queue pairs")),
    }
}

/// A worker with a queue pair that cannot wake it would never sleep: rather fewer pairs, if any can interrupt.
fn pairs_to_use(transport: &Transport, wanted: u16) -> u16 {
    match transport.device().msix_table_len() {
        0 | 1 => wanted,
        vectors => wanted.min(vectors - 1),
    }
}

/// The interrupt of configuration changes and those of the queue pairs.
type Interrupts = (Option<Box<dyn Interrupt>>, alloc::vec::IntoIter<Box<dyn Interrupt>>);

/// Vector 0 is for configuration changes, 1 + N for queue pair N; or none for anything.
fn enable_interrupts(transport: &Transport, pairs: u16, options: &NetOptions) -> Result<Interrupts, Error> {
    if transport.device().msix_table_len() <= pairs {
        return Ok((None, Vec::new().into_iter()));
    }
    let worker =
        |pair: u16| (u32::from(options.first_worker) + u32::from(pair)) % u32::from(options.workers.max(1));
    let workers = (0..pairs).map(|pair| InterruptTarget::Worker(worker(pair) as u16));
    let targets: Vec<_> = core::iter::once(InterruptTarget::Control).chain(workers).collect();
    let mut interrupts = transport.device().enable_msix(&targets)?.into_iter();
    transport.set_config_vector(0)?;
    Ok((interrupts.next(), interrupts))
}

fn read_mac(transport: &Transport, fallback: [u8; 6]) -> Result<[u8; 6], Error> {
    // §5.1.5: a device without one leaves it to the driver, which takes one of local administration.
    if !transport.has(net_feature::MAC) {
        return Ok(fallback);
    }
    let mac = transport.config(|config| core::array::from_fn(|byte| config.read8(config::MAC + byte)));
    let is_multicast = mac[0] & MULTICAST != 0;
    if is_multicast || mac == [0; 6] { Err(Error::Config("impossible MAC address")) } else { Ok(mac) }
}

/// The longest IP packet: as the device says, and as receive buffers take.
fn read_mtu(transport: &Transport) -> Result<u16, Error> {
    let device = if transport.has(net_feature::MTU) {
        transport.config(|config| config.read16(config::MTU))
    } else {
        JUMBO_MTU
    };
    let buffers = if transport.has(net_feature::MRG_RXBUF) {
        JUMBO_MTU
    } else {
        (DATA_ROOM - HEADER_BYTES - MAX_LINK_HEADER_BYTES) as u16
    };
    match device.min(buffers) {
        mtu @ MIN_MTU.. => Ok(mtu),
        _ => Err(Error::Config("MTU below 68")),
    }
}

/// What is left to say to a device that runs with this many queue pairs.
fn commands_for(transport: &Transport, pairs: u16) -> impl Iterator<Item = Command> + use<> {
    let queue_pairs = (pairs > 1).then_some(Command::QueuePairs(pairs));
    let promiscuous = transport.has(net_feature::CTRL_RX).then_some(Command::Promiscuous(true));
    queue_pairs.into_iter().chain(promiscuous)
}
