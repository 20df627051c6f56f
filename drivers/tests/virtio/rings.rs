//! Both ring formats against their device sides and a naive model of a queue.

use std::collections::VecDeque;

use drivers::bus::Device;
use drivers::virtio::packed::Packed;
use drivers::virtio::ring::{Ring, Segment};
use drivers::virtio::split::Split;
use proptest::prelude::*;

use crate::model::{Chain, DeviceQueue, Kind, Model, Piece, Setup};

fn device() -> std::sync::Arc<Model> {
    let (features, queues, queue_size, config, msix) = (0, 0, 0, Vec::new(), false);
    Model::new(Setup { kind: Kind::Net, features, queues, queue_size, config, msix })
}

#[derive(Clone, Debug)]
enum Operation {
    /// Lengths of the segments, and how many of them the device only reads.
    Push(Vec<u16>, usize),
    Publish,
    DeviceTake,
    /// Which of the chains that the device has, modulo their number, and how much it says it wrote, in 256ths.
    DeviceGiveBack(usize, u8),
    DeviceSleep,
    DeviceWake,
    Pop,
    Arm,
    Disarm,
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => (prop::collection::vec(1u16..3000, 1..5), 0usize..5).prop_map(|(l, r)| Operation::Push(l, r)),
        3 => Just(Operation::Publish),
        5 => Just(Operation::DeviceTake),
        4 => (any::<usize>(), any::<u8>()).prop_map(|(i, n)| Operation::DeviceGiveBack(i, n)),
        1 => Just(Operation::DeviceSleep),
        1 => Just(Operation::DeviceWake),
        4 => Just(Operation::Pop),
        1 => Just(Operation::Arm),
        1 => Just(Operation::Disarm),
    ]
}

/// What a queue is, without a ring.
#[derive(Default)]
struct Oracle {
    tokens: u32,
    staged: VecDeque<(u32, Vec<Piece>)>,
    available: VecDeque<(u32, Vec<Piece>)>,
    with_device: Vec<(u32, Chain)>,
    used: VecDeque<(u32, u32, usize)>,
    /// The device found nothing and waits to be notified.
    asleep: bool,
    /// The driver found nothing and waits to be interrupted.
    armed: bool,
}

struct Bench<R> {
    ring: R,
    device: DeviceQueue,
    size: u16,
    oracle: Oracle,
}

impl<R: Ring<u32>> Bench<R> {
    fn new(size: u16, packed: bool, event_index: bool) -> Self {
        let model = device();
        let ring = R::new(&*model, size, event_index).expect("enough memory");
        let device = DeviceQueue::new(packed, size, ring.areas(), event_index);
        Self { ring, device, size, oracle: Oracle::default() }
    }

    fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Push(lens, readable) => self.push(lens, *readable),
            Operation::Publish => self.publish(),
            Operation::DeviceTake => self.device_take(),
            Operation::DeviceGiveBack(index, part) => self.device_give_back(*index, *part),
            Operation::DeviceSleep => self.oracle.asleep = !self.device.enable_notification(),
            Operation::DeviceWake => {
                self.device.disable_notification();
                self.oracle.asleep = false;
            }
            Operation::Pop => self.pop(),
            Operation::Arm => {
                let pending = self.ring.arm();
                assert_eq!(pending, !self.oracle.used.is_empty());
                self.oracle.armed = !pending;
            }
            Operation::Disarm => {
                self.ring.disarm();
                self.oracle.armed = false;
            }
        }
        self.check_counts();
    }

    fn check_counts(&self) {
        let oracle = &self.oracle;
        let chains = oracle.staged.len() + oracle.available.len() + oracle.with_device.len();
        assert_eq!(usize::from(self.ring.outstanding()), chains + oracle.used.len());
        let waiting = oracle.staged.iter().chain(&oracle.available).map(|(_, pieces)| pieces.len());
        let taken = oracle.with_device.iter().map(|(_, chain)| chain.pieces.len());
        let used = oracle.used.iter().map(|(_, _, pieces)| *pieces);
        let segments: usize = waiting.chain(taken).chain(used).sum();
        assert_eq!(usize::from(self.ring.free()) + segments, usize::from(self.size));
    }

    fn push(&mut self, lens: &[u16], readable: usize) {
        let token = self.oracle.tokens;
        let segment = |(index, &len): (usize, &u16)| Segment {
            iova: 0x1234_5678_0000 + u64::from(token) * 65536 + index as u64 * 4096,
            len_bytes: len.into(),
            device_writes: index >= readable,
        };
        let segments: Vec<_> = lens.iter().enumerate().map(segment).collect();
        let fits = segments.len() <= usize::from(self.ring.free());
        let pushed = self.ring.push(token, &segments);
        assert_eq!(pushed, if fits { Ok(()) } else { Err(token) });
        if fits {
            let piece =
                |s: &Segment| Piece { iova: s.iova, len: s.len_bytes, device_writes: s.device_writes };
            self.oracle.staged.push_back((token, segments.iter().map(piece).collect()));
            self.oracle.tokens += 1;
        }
    }

    fn publish(&mut self) {
        let notify = self.ring.publish();
        if self.oracle.asleep && !self.oracle.staged.is_empty() {
            assert!(notify, "the device sleeps for ever");
            self.oracle.asleep = false;
        }
        assert!(!(notify && self.oracle.staged.is_empty()), "notified of nothing");
        self.oracle.available.append(&mut self.oracle.staged);
    }

    fn device_take(&mut self) {
        let taken = self.device.take();
        let expected = self.oracle.available.pop_front();
        assert_eq!(taken.as_ref().map(|chain| &chain.pieces), expected.as_ref().map(|(_, pieces)| pieces));
        if let (Some(chain), Some((token, _))) = (taken, expected) {
            self.oracle.with_device.push((token, chain));
        }
    }

    fn device_give_back(&mut self, index: usize, part: u8) {
        if self.oracle.with_device.is_empty() {
            return;
        }
        let at = index % self.oracle.with_device.len();
        let (token, chain) = self.oracle.with_device.remove(at);
        let room: u32 = chain.pieces.iter().filter(|piece| piece.device_writes).map(|piece| piece.len).sum();
        let written = room * u32::from(part) / 255;
        let interrupt = self.device.give_back(&chain, written);
        if self.oracle.armed {
            assert!(interrupt, "the driver sleeps for ever");
            self.oracle.armed = false;
        }
        self.oracle.used.push_back((token, written, chain.pieces.len()));
    }

    fn pop(&mut self) {
        let expected = self.oracle.used.pop_front().map(|(token, written, _)| (token, written));
        assert_eq!(self.ring.pop(), Ok(expected));
    }
}

fn run<R: Ring<u32>>(size: u16, packed: bool, event_index: bool, operations: &[Operation]) {
    let mut bench = Bench::<R>::new(size, packed, event_index);
    for operation in operations {
        bench.apply(operation);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn split_rings_are_queues(
        log_size in 0u32..7, event_index: bool, operations in prop::collection::vec(operation(), 0..400),
    ) {
        run::<Split<u32>>(1 << log_size, false, event_index, &operations);
    }

    #[test]
    fn packed_rings_are_queues(
        log_size in 0u32..7, operations in prop::collection::vec(operation(), 0..400),
    ) {
        run::<Packed<u32>>(1 << log_size, true, false, &operations);
    }
}

/// Indices of 16 bits wrap, with chains that never line up with the ring.
fn wrap<R: Ring<u32>>(packed: bool, event_index: bool) {
    let mut bench = Bench::<R>::new(8, packed, event_index);
    for round in 0..35_000 {
        bench.apply(&Operation::Push(vec![1; 1 + round % 3], round % 4));
        bench.apply(&Operation::Push(vec![7], 0));
        bench.apply(&Operation::Publish);
        bench.apply(&Operation::DeviceTake);
        bench.apply(&Operation::DeviceTake);
        bench.apply(&Operation::DeviceSleep);
        bench.apply(&Operation::Arm);
        bench.apply(&Operation::DeviceGiveBack(round, 255));
        bench.apply(&Operation::DeviceGiveBack(0, 255));
        bench.apply(&Operation::Pop);
        bench.apply(&Operation::Pop);
    }
}

#[test]
fn split_indices_wrap() {
    wrap::<Split<u32>>(false, true);
    wrap::<Split<u32>>(false, false);
}

#[test]
fn packed_indices_wrap() {
    wrap::<Packed<u32>>(true, false);
}

#[test]
fn the_largest_rings_fit() {
    let model = device();
    let size = drivers::virtio::ring::MAX_QUEUE_SIZE;
    let split = Split::<u32>::new(&*model as &dyn Device, size, true).expect("enough memory");
    let packed = Packed::<u32>::new(&*model as &dyn Device, size, true).expect("enough memory");
    assert_eq!((split.free(), packed.free()), (size, size));
    drop((split, packed));
    assert_eq!(model.live_regions(), 0);
}
