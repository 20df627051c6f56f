//! The disk and the entropy source.

use std::cell::Cell;
use std::sync::Arc;

use drivers::virtio::blk::BlockDevice;
use drivers::virtio::rng::EntropySource;
use drivers::virtio::{DeviceKind, Error, Fault, feature, identify};

use crate::model::{Kind, Model, Setup};

const SECTORS: usize = 400;
const RO: u64 = 1 << 5;
const FLUSH: u64 = 1 << 9;
const SIZE_MAX: u64 = 1 << 1;
const BLK_SIZE: u64 = 1 << 6;

fn disk(features: u64) -> Arc<Model> {
    let contents = (0..SECTORS * 512).map(|at| (at / 512 * 3 + at) as u8).collect();
    let mut config = (SECTORS as u64).to_le_bytes().to_vec();
    config.extend(9000u32.to_le_bytes());
    config.extend([0; 8]);
    config.extend(4096u32.to_le_bytes());
    let (queues, queue_size, msix) = (1, 128, true);
    Model::new(Setup { kind: Kind::Block(contents), features, queues, queue_size, config, msix })
}

fn entropy(features: u64) -> Arc<Model> {
    let (queues, queue_size, config, msix) = (1, 8, Vec::new(), false);
    Model::new(Setup { kind: Kind::Entropy, features, queues, queue_size, config, msix })
}

/// A clock that advances by a second at each look.
fn clock() -> impl Fn() -> u64 {
    let seconds = Cell::new(0);
    move || {
        seconds.set(seconds.get() + 1);
        seconds.get() * 1_000_000_000
    }
}

#[test]
fn functions_are_told_apart() {
    assert_eq!(identify(&*disk(0)), Some(DeviceKind::Block));
    assert_eq!(identify(&*entropy(0)), Some(DeviceKind::Entropy));
    let other = entropy(0);
    other.config_space(|space| space[2] = 0x52);
    assert_eq!(identify(&*other), None);
}

#[test]
fn what_was_written_is_read() {
    for features in [0, feature::EVENT_IDX, SIZE_MAX, BLK_SIZE, BLK_SIZE | SIZE_MAX].map(|bits| bits | FLUSH)
    {
        let model = disk(features);
        let mut disk = BlockDevice::open(model.clone()).expect("a correct disk");
        assert_eq!((disk.sectors(), disk.is_read_only()), (SECTORS as u64, false));
        // More than one request in each case.
        let data: Vec<u8> = (0..300 * 512).map(|at| (at * 7 / 5) as u8).collect();
        disk.write(50, &data, &clock()).expect("inside");
        disk.flush(&clock()).expect("a cache");
        let mut all = vec![0; SECTORS * 512];
        disk.read(0, &mut all, &clock()).expect("inside");
        assert_eq!(&all[50 * 512..350 * 512], &data);
        assert!((0..50 * 512).all(|at| all[at] == (at / 512 * 3 + at) as u8));
        let flushes = model.state().commands.iter().filter(|command| command[0] == 4).count();
        assert_eq!(flushes, 1);
    }
}

#[test]
fn a_disk_of_large_blocks_keeps_what_is_around_a_sector() {
    let model = disk(FLUSH | BLK_SIZE);
    let mut disk = BlockDevice::open(model.clone()).expect("a correct disk");
    let mut expected = vec![0; SECTORS * 512];
    disk.read(0, &mut expected, &clock()).expect("inside");
    for (sector, sectors) in [(0, 1), (7, 2), (9, 1), (16, 8), (15, 30), (393, 7), (399, 1)] {
        let data: Vec<u8> = (0..sectors * 512).map(|at| (at * 11 + sector) as u8).collect();
        disk.write(sector as u64, &data, &clock()).expect("inside");
        expected[sector * 512..(sector + sectors) * 512].copy_from_slice(&data);
        let mut part = vec![0; data.len()];
        disk.read(sector as u64, &mut part, &clock()).expect("inside");
        assert_eq!(part, data);
    }
    let mut all = vec![0; SECTORS * 512];
    disk.read(0, &mut all, &clock()).expect("inside");
    assert!(all == expected);
    for impossible in [0u32, 256, 1000, 1 << 17] {
        model.state().config[20..24].copy_from_slice(&impossible.to_le_bytes());
        let error = BlockDevice::open(model.clone()).err();
        assert_eq!(error, Some(Error::Config("impossible block size")));
    }
}

#[test]
fn a_disk_without_cache_needs_no_flush() {
    let model = disk(0);
    BlockDevice::open(model.clone()).and_then(|mut disk| disk.flush(&clock())).expect("nothing to do");
    assert!(model.state().commands.is_empty());
}

#[test]
fn requests_outside_the_disk_are_refused() {
    let mut disk = BlockDevice::open(disk(FLUSH)).expect("a correct disk");
    for (sector, len) in [(0, 511), (0, 1), (400, 512), (399, 1024), (u64::MAX, 512), (0, 401 * 512)] {
        assert_eq!(disk.read(sector, &mut vec![0; len], &clock()), Err(Error::OutOfRange));
        assert_eq!(disk.write(sector, &vec![0; len], &clock()), Err(Error::OutOfRange));
    }
    assert_eq!(disk.read(399, &mut [0; 512], &clock()), Ok(()));
    assert_eq!(disk.read(400, &mut [], &clock()), Ok(()));
}

#[test]
fn a_read_only_disk_is_only_read() {
    let mut disk = BlockDevice::open(disk(RO)).expect("a correct disk");
    assert!(disk.is_read_only());
    assert_eq!(disk.write(0, &[0; 512], &clock()), Err(Error::ReadOnly));
    assert_eq!(disk.read(0, &mut [0; 512], &clock()), Ok(()));
}

#[test]
fn failures_of_the_disk_are_told() {
    let model = disk(FLUSH);
    let mut disk = BlockDevice::open(model.clone()).expect("a correct disk");
    for (answer, error) in [(1, Error::Io), (2, Error::Unsupported), (77, Error::Io), (0xff, Error::Io)] {
        model.state().answer = Some(answer);
        assert_eq!(disk.read(0, &mut [0; 512], &clock()), Err(error));
        assert_eq!(disk.write(0, &[0; 512], &clock()), Err(error));
        assert_eq!(disk.flush(&clock()), Err(error));
    }
    model.state().answer = None;
    model.state().short_reads = true;
    assert_eq!(disk.read(0, &mut [0; 512], &clock()), Err(Error::Io));
    assert_eq!(disk.write(0, &[0; 512], &clock()), Ok(()));
    model.state().short_reads = false;
    assert_eq!(disk.read(0, &mut [0; 512], &clock()), Ok(()));
}

#[test]
fn a_disk_that_does_not_answer_is_stopped() {
    let model = disk(FLUSH);
    let mut disk = BlockDevice::open(model.clone()).expect("a correct disk");
    model.state().stalled = true;
    assert_eq!(disk.read(0, &mut [0; 512], &clock()), Err(Error::Broken(Fault::Timeout)));
    assert!(!model.state().is_running());
    model.state().stalled = false;
    assert_eq!(disk.read(0, &mut [0; 512], &clock()), Err(Error::Broken(Fault::Timeout)));
    drop(disk);
    assert_eq!(model.live_regions(), 0);
}

#[test]
fn a_disk_with_an_impossible_capacity_is_refused() {
    let model = disk(0);
    model.state().config[..8].fill(0xff);
    assert!(matches!(BlockDevice::open(model.clone()).err(), Some(Error::Config(_))));
    assert!(!model.state().is_running());
}

#[test]
fn entropy_fills_any_length() {
    for len in [0, 1, 32, 255, 256, 1000] {
        let mut source = EntropySource::open(entropy(feature::EVENT_IDX)).expect("a correct source");
        let mut out = vec![0xee; len];
        source.fill(&mut out, &clock()).expect("enough entropy");
        assert!(len < 4 || out.windows(4).all(|part| part != [0xee; 4]));
    }
}

#[test]
fn a_source_that_does_not_answer_is_stopped() {
    let model = entropy(0);
    let mut source = EntropySource::open(model.clone()).expect("a correct source");
    model.state().stalled = true;
    assert_eq!(source.fill(&mut [0; 8], &clock()), Err(Error::Broken(Fault::Timeout)));
    assert!(!model.state().is_running());
}
