//! Devices that lie. Each lie has a name, none breaks memory, panics or hangs, and every buffer comes back.

use std::collections::HashSet;
use std::sync::{Mutex, OnceLock, PoisonError};

use buffer::{BufferPool, Vector};
use drivers::virtio::{Error, Fault, feature, net};
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use crate::model::{Card, HEADER_BYTES, Memory, Model, RINGS, common, model, offer, options};

const SPLIT: u64 = offer::USUAL | feature::EVENT_IDX;
const PACKED: u64 = SPLIT | feature::RING_PACKED;

fn read<T: vm_memory::ByteValued>(address: u64) -> T {
    Memory::get().guest().read_obj(GuestAddress(address)).expect("ring memory")
}

fn write<T: vm_memory::ByteValued>(address: u64, value: T) {
    Memory::get().guest().write_obj(value, GuestAddress(address)).expect("ring memory");
}

/// The error of opening a card of which something was changed.
fn refused(features: u64, change: impl FnOnce(&Model)) -> Error {
    let model = model(features, 256, true);
    change(&model);
    let error = net::open(model.clone(), &options(2)).err().expect("the card lies");
    assert!(!model.state().is_running(), "left reset");
    error
}

#[test]
fn structures_outside_their_bar_are_not_used() {
    // The common configuration's capability is at 0x5c: its offset at 0x64, its length at 0x68, its BAR at 0x60.
    const COMMON: usize = 0x5c;
    let common = |change: fn(&mut [u8; 256])| refused(SPLIT, |model| model.config_space(change));
    let missing = Error::NoStructure("common configuration");
    assert_eq!(common(|space| space[COMMON + 9] = 0x40), missing, "offset at the end of the BAR");
    assert_eq!(common(|space| space[COMMON + 8..COMMON + 12].fill(0xff)), missing, "offset beyond");
    assert_eq!(common(|space| space[COMMON + 8] = 2), missing, "misaligned");
    assert_eq!(common(|space| space[COMMON + 12] = 55), missing, "too short");
    assert_eq!(common(|space| space[COMMON + 12..COMMON + 16].fill(0xff)), missing, "too long");
    assert_eq!(common(|space| space[COMMON + 4] = 1), missing, "no such BAR");
    assert_eq!(common(|space| space[COMMON + 4] = 6), missing, "a reserved BAR number");
    assert_eq!(common(|space| space[COMMON + 2] = 15), missing, "a short capability");
    assert_eq!(common(|space| space[6] = 0), missing, "no capabilities");
    assert_eq!(common(|space| space[0x41] = 0x40), missing, "a list that loops");
    assert_eq!(common(|space| space[0x41] = 0x08), missing, "a list into the header");
    assert_eq!(common(|space| space[0x41] = 0xfc), missing, "a list to the very end");
}

#[test]
fn impossible_queues_are_refused() {
    let lie = |features, offset, value| refused(features, |model| model.lie(offset, value));
    assert_eq!(lie(SPLIT, common::QUEUE_SIZE, 0), Error::NoQueue(0));
    assert_eq!(lie(SPLIT, common::QUEUE_SIZE, 3), Error::QueueSize { queue: 0, size: 3 });
    assert_eq!(lie(SPLIT, common::QUEUE_SIZE, 0xffff), Error::QueueSize { queue: 0, size: 0xffff });
    assert_eq!(lie(PACKED, common::QUEUE_SIZE, 0x8001), Error::QueueSize { queue: 0, size: 0x8001 });
    assert_eq!(lie(SPLIT, common::NUM_QUEUES, 0), Error::NoQueue(0));
    assert_eq!(lie(SPLIT, common::NUM_QUEUES, 1), Error::NoQueue(1));
    assert_eq!(lie(SPLIT, common::NUM_QUEUES, 6), Error::NoQueue(6), "the control queue");
    let beyond = Error::NotifyOutOfRange { queue: 0, offset: 0x3fffc };
    assert_eq!(lie(SPLIT, common::QUEUE_NOTIFY_OFF, 0xffff), beyond);
    assert_eq!(
        lie(SPLIT, common::QUEUE_NOTIFY_OFF, 0x400),
        Error::NotifyOutOfRange { queue: 0, offset: 0x1000 }
    );
    assert_eq!(lie(SPLIT, common::QUEUE_VECTOR, 0xffff), Error::VectorRefused { queue: Some(0) });
    assert_eq!(lie(SPLIT, common::CONFIG_VECTOR, 0xffff), Error::VectorRefused { queue: None });
}

#[test]
fn a_card_that_names_another_doorbell_is_not_rung() {
    for rings in RINGS {
        let model = model(offer::USUAL | rings, 64, true);
        model.lie(common::QUEUE_NOTIFY_OFF, 7);
        assert!(net::open(model, &options(3)).is_err());
    }
}

#[test]
fn impossible_configuration_is_refused() {
    let config = |features, at: usize, value: &[u8]| {
        refused(features, |model| model.state().config[at..at + value.len()].copy_from_slice(value))
    };
    assert_eq!(config(SPLIT, 0, &[0; 6]), Error::Config("impossible MAC address"));
    assert_eq!(config(SPLIT, 0, &[0xff; 6]), Error::Config("impossible MAC address"));
    assert_eq!(config(SPLIT, 8, &[0, 0]), Error::Config("impossible number of queue pairs"));
    assert_eq!(config(SPLIT, 8, &[1, 0x80]), Error::Config("impossible number of queue pairs"));
    assert_eq!(config(SPLIT | offer::MTU, 10, &[67, 0]), Error::Config("MTU below 68"));
    // More pairs than there are queues.
    assert_eq!(config(SPLIT, 8, &[0, 0x80]), Error::NoQueue(0xfffe));
}

#[test]
fn a_device_that_does_not_follow_the_start_is_refused() {
    let lie = |value| refused(SPLIT, |model| model.lie(common::DEVICE_STATUS, value));
    assert_eq!(lie(0xff), Error::ResetTimeout);
    assert_eq!(lie(0), Error::FeaturesRefused(SPLIT & !offer::GUEST_TSO4 | feature::VERSION_1));
    let legacy = refused(SPLIT, |model| model.lie(common::DEVICE_FEATURE, 0));
    assert_eq!(legacy, Error::Legacy);
    let answers_nothing = refused(SPLIT, |model| model.state().answer = Some(7));
    assert_eq!(answers_nothing, Error::Broken(Fault::ControlCommand));
    let stalls = refused(SPLIT, |model| model.state().stalled = true);
    assert_eq!(stalls, Error::Broken(Fault::ControlCommand));
    let refuses = refused(SPLIT, |model| model.state().answer = Some(1));
    assert_eq!(refuses, Error::Config("device refuses its own number of queue pairs"));
}

#[test]
fn a_changing_configuration_is_read_a_bounded_number_of_times() {
    let model = model(SPLIT, 64, true);
    // Each look at the generation sees another one.
    model.state().restless = true;
    assert!(net::open(model.clone(), &options(1)).is_ok());
}

/// Opens a card, lets the device misbehave, polls, and tells what the driver made of it.
fn fault_after(features: u64, misbehave: impl FnOnce(&Card)) -> Option<&'static str> {
    // One caller at a time, so that every buffer can be asked for at the end.
    static POOL: Mutex<Option<&'static BufferPool>> = Mutex::new(None);
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    let pool = *pool.get_or_insert_with(|| Memory::get().pool(300));
    let model = model(features, 64, true);
    let mut card = Card::open_with(&model, 1, pool).expect("a correct card, as yet");
    assert!(card.transmit(0, &[vec![1; 60]]).is_empty());
    misbehave(&card);
    for _ in 0..3 {
        let mut received = card.receive(0);
        card.cache.free(&mut received);
        drop(card.transmit(0, &[vec![1; 60]]));
    }
    let _ = card.control.link_up(0);
    let fault = card.control.fault();
    if fault.is_some() {
        assert!(!card.control.link_up(0));
        assert!(!model.state().is_running(), "stopped");
        assert_eq!(card.receive(0).len(), 0);
        assert!(card.queues[0].arm(), "other rings may come, and no interrupt would say so");
        assert_eq!(card.transmit(0, &[vec![1; 60]]).len(), 1, "left to the caller");
    }
    drop(card);
    assert_eq!((pool.available(), model.live_regions()), (300, 0));
    fault
}

/// The device takes a chain of the receive queue, writes a frame, and returns it with an id and a length of
/// the test's choice.
fn lie(card: &Card, id: impl FnOnce(u16) -> u32, length: impl FnOnce(u32) -> u32) {
    let mut state = card.model.state();
    let mut chain = state.queue(0).take().expect("the driver posted buffers");
    let written =
        chain.write(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]);
    let ([descriptors, _, used], _) = state.areas(0);
    let (id, length) = (id(chain.id), length(written));
    chain.id = id as u16;
    if state.negotiated(feature::RING_PACKED) {
        assert_eq!(read::<u16>(descriptors + 12), 0, "the first descriptor");
        state.give_back(0, &chain, length);
    } else {
        write::<[u32; 2]>(used + 4, [id, length]);
        write::<u16>(used + 2, 1);
    }
}

#[test]
fn used_ids_that_lie_are_faults() {
    for features in [SPLIT, PACKED] {
        let same = |length: u32| length;
        // Without mergeable buffers no header is looked at: another buffer has another one.
        let features = features & !offer::MRG_RXBUF;
        let fault = |id: u32| fault_after(features, |card| lie(card, |_| id, same));
        assert_eq!(fault(0), None, "the truth");
        assert_eq!(fault(63), None, "out of order");
        for beyond in [64, 65, 0xffff] {
            assert_eq!(fault(beyond), Some(Fault::UsedIdOutOfRange.as_str()));
        }
    }
    let high = fault_after(SPLIT, |card| lie(card, |_| 0x1_0000, |length| length));
    assert_eq!(high, Some(Fault::UsedIdOutOfRange.as_str()));
}

#[test]
fn used_lengths_that_lie_are_faults() {
    for features in [SPLIT, PACKED] {
        let fault = |length: u32| fault_after(features, |card| lie(card, u32::from, |_| length));
        assert_eq!([0, 1, 26, 2048].map(fault), [None; 4]);
        assert_eq!([2049, 0xffff_ffff].map(fault), [Some(Fault::LengthBeyondBuffer.as_str()); 2]);
    }
}

#[test]
fn a_chain_returned_twice_is_a_fault() {
    for features in [SPLIT, PACKED] {
        let fault = fault_after(features, |card| {
            let mut state = card.model.state();
            let chain = state.queue(0).take().expect("the driver posted buffers");
            state.give_back(0, &chain, 20);
            state.give_back(0, &chain, 20);
        });
        assert_eq!(fault, Some(Fault::UsedIdNotOutstanding.as_str()));
    }
}

#[test]
fn a_chain_never_sent_cannot_come_back() {
    // The second descriptor of the transmit queue of a packed ring: used, with an id that nobody has.
    let fault = fault_after(PACKED, |card| {
        let _ = card.sent(0);
        let [descriptors, ..] = card.model.state().areas(1).0;
        write(descriptors + 16 + 12, 1u16);
        write(descriptors + 16 + 14, 0x8080u16);
    });
    assert_eq!(fault, Some(Fault::UsedIdNotOutstanding.as_str()));
}

#[test]
fn a_used_index_that_jumps_is_a_fault() {
    for (queue, posted) in [(0, 64), (1, 1)] {
        for index in [posted + 1, 0x8000, 0xffff] {
            let jump = |card: &Card| write(card.model.state().areas(queue).0[2] + 2, index);
            assert_eq!(fault_after(SPLIT, jump), Some(Fault::UsedIndexJump.as_str()));
        }
    }
}

#[test]
fn numbers_of_buffers_that_lie_are_faults() {
    let deliver = |card: &Card, num_buffers: u16| {
        let mut state = card.model.state();
        let chain = state.queue(0).take().expect("the driver posted buffers");
        let mut bytes = [0; 100];
        bytes[10..12].copy_from_slice(&num_buffers.to_le_bytes());
        let written = chain.write(&bytes);
        state.give_back(0, &chain, written);
    };
    for features in [SPLIT, PACKED] {
        assert_eq!(fault_after(features, |card| deliver(card, 1)), None);
        for num_buffers in [0, 2, 35, 0xffff] {
            let fault = fault_after(features, |card| deliver(card, num_buffers));
            assert_eq!(fault, Some(Fault::BufferCount.as_str()));
        }
        let unmerged = fault_after(features & !offer::MRG_RXBUF, |card| deliver(card, 0));
        assert_eq!(unmerged, None, "it means nothing then");
    }
}

#[test]
fn a_device_that_asks_to_be_reset_is_stopped() {
    let fault = fault_after(SPLIT, |card| card.model.state().ask_for_reset());
    assert_eq!(fault, Some(Fault::NeedsReset.as_str()));
}

#[test]
fn a_device_that_does_not_stop_keeps_its_memory() {
    let pool = Memory::get().pool(200);
    let model = model(SPLIT, 64, true);
    let card = Card::open_with(&model, 1, pool).expect("a correct card");
    model.lie(common::DEVICE_STATUS, 0x0f);
    drop(card);
    assert!(model.live_regions() > 0, "rings stay the device's");
    assert_eq!(pool.available(), 200 - 64, "and so do the buffers in them");
}

/// What a hostile device and an honest driver do, in any order.
#[derive(Clone, Debug)]
enum Operation {
    Receive,
    Transmit(u8),
    Arm,
    Disarm,
    Link,
    /// An honest frame, which may be long.
    Deliver(u16),
    TakeSent,
    /// Bytes at any place of the three areas of a queue.
    Scribble(u8, u8, u16, Vec<u8>),
    /// A used element or descriptor that is nearly right: position, id, length, header.
    Forge(u16, u16, u16, [u8; HEADER_BYTES]),
    Config(u8, u8),
}

fn operation() -> impl Strategy<Value = Operation> {
    let bytes = prop::collection::vec(any::<u8>(), 1..9);
    prop_oneof![
        4 => Just(Operation::Receive),
        3 => any::<u8>().prop_map(Operation::Transmit),
        1 => Just(Operation::Arm),
        1 => Just(Operation::Disarm),
        1 => Just(Operation::Link),
        4 => (0u16..9000).prop_map(Operation::Deliver),
        2 => Just(Operation::TakeSent),
        2 => (0u8..7, 0u8..3, 0u16..700, bytes).prop_map(|(q, a, o, b)| Operation::Scribble(q, a, o, b)),
        4 => (0u16..40, 0u16..70, 0u16..2100, forged_header()).prop_map(|(p, i, l, h)| Operation::Forge(p, i, l, h)),
        1 => (0u8..12, any::<u8>()).prop_map(|(at, value)| Operation::Config(at, value)),
    ]
}

/// Any header, with a number of buffers that is often small.
fn forged_header() -> impl Strategy<Value = [u8; HEADER_BYTES]> {
    (any::<[u8; HEADER_BYTES]>(), 0u8..4, any::<bool>()).prop_map(|(mut header, buffers, small)| {
        if small {
            header[10..12].copy_from_slice(&[buffers, 0]);
            header[1] = 0;
        }
        header
    })
}

/// Runs operations, and checks that no buffer is in two hands.
fn survive(card: &mut Card, operations: &[Operation]) {
    let mut held: Vec<Vector> = Vec::new();
    for operation in operations {
        match operation {
            Operation::Receive => {
                held.push(card.receive(0));
                let mut seen = HashSet::new();
                let received = held.iter().flatten();
                let mut buffers = received.flat_map(|packet| packet.segments()).map(<[u8]>::as_ptr);
                assert!(buffers.all(|pointer| seen.insert(pointer as usize / buffer::BUFFER_BYTES)));
                if held.len() > 2 {
                    card.cache.free(&mut held.remove(0));
                }
            }
            Operation::Transmit(count) => {
                let frames = vec![vec![7; 60]; usize::from(count % 40)];
                let mut left = card.transmit(0, &frames);
                card.cache.free(&mut left);
                // A router sends on what it received, whatever that was.
                if let Some(packets) = held.last_mut() {
                    card.queues[0].transmit(&mut card.cache, packets);
                }
            }
            Operation::Arm => drop(card.queues[0].arm()),
            Operation::Disarm => card.queues[0].disarm(),
            Operation::Link => drop(card.control.link_up(0)),
            other => misbehave(card, other),
        }
    }
    held.iter_mut().for_each(|packets| card.cache.free(packets));
}

fn misbehave(card: &Card, operation: &Operation) {
    let running = card.model.state().is_running();
    match operation {
        Operation::Deliver(len) if running => {
            let _ = card.deliver(0, [0; HEADER_BYTES], &vec![3; usize::from(*len)]);
        }
        Operation::TakeSent if running => {
            let mut state = card.model.state();
            // A ring that was scribbled on can have chains for ever.
            for _ in 0..100 {
                let Some(chain) = state.queue(1).take() else { break };
                state.give_back(1, &chain, 0);
            }
        }
        Operation::Scribble(queue, area, offset, bytes) => {
            let (areas, _) = card.model.state().areas(usize::from(*queue));
            let address = areas[usize::from(*area)];
            if address != 0 {
                let _ = Memory::get().guest().write_slice(bytes, GuestAddress(address + u64::from(*offset)));
            }
        }
        Operation::Forge(position, id, length, header) if running => {
            let ([descriptors, _, used], size) = card.model.state().areas(0);
            // Into the buffer that the descriptor names, if it names one.
            let buffer: u64 = read(descriptors + 16 * u64::from(id % size));
            let _ = Memory::get().device_write(buffer, header);
            if card.model.state().negotiated(feature::RING_PACKED) {
                let at = descriptors + 16 * u64::from(position % size);
                write(at + 8, u32::from(*length));
                write(at + 12, *id);
                write::<u16>(at + 14, if read::<u16>(at + 14) & 0x80 != 0 { 0x8080 } else { 0 });
            } else {
                let index: u16 = read(used + 2);
                write(used + 4 + 8 * u64::from(index % size), [u32::from(*id), u32::from(*length)]);
                write(used + 2, index.wrapping_add(1));
            }
        }
        Operation::Config(at, value) => {
            card.model.state().change_config(|config| config[usize::from(*at)] = *value);
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_device_breaks_the_driver(
        rings in prop::sample::select(&RINGS[..]), operations in prop::collection::vec(operation(), 1..80),
    ) {
        static POOL: OnceLock<&'static BufferPool> = OnceLock::new();
        let pool = POOL.get_or_init(|| Memory::get().pool(400));
        let model = model(offer::USUAL | rings, 64, true);
        let mut card = Card::open_with(&model, 1, pool).expect("a correct card, as yet");
        survive(&mut card, &operations);
        drop(card);
        prop_assert_eq!((pool.available(), model.live_regions()), (400, 0));
    }

    #[test]
    fn registers_of_noise_open_nothing_that_breaks(seed: u64, in_space in prop::collection::vec((any::<u8>(), any::<u8>()), 0..20)) {
        let model = model(PACKED, 64, true);
        model.config_space(|space| in_space.iter().for_each(|&(at, value)| space[usize::from(at)] = value));
        model.state().noise = Some(seed);
        drop(net::open(model.clone(), &options(3)));
        drop(drivers::virtio::blk::BlockDevice::open(model.clone()));
        drop(drivers::virtio::rng::EntropySource::open(model));
    }
}

proptest! {
    // A device that is never reset takes a million looks to be given up.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn one_register_that_lies_opens_nothing_that_breaks(offset in 0usize..56, value: u64, rings in prop::sample::select(&RINGS[..])) {
        let model = model(offer::USUAL | rings, 64, true);
        model.lie(offset, value);
        drop(net::open(model, &options(3)));
    }
}
