//! Power fails after every single sector, between flushes in every subset that matters, and tears sectors.

use super::*;

/// A device whose power fails at a chosen write. What was written since the last flush may or may not be there.
#[derive(Clone)]
struct Disk {
    stable: Vec<Sector>,
    /// Written and not flushed, in order.
    cached: Vec<(u64, Sector)>,
    writes_left: usize,
    /// A sector that cannot be read.
    bad: Option<u64>,
}

impl Disk {
    fn new(sectors: usize) -> Self {
        Self {
            stable: vec![[0; SECTOR_BYTES]; sectors],
            cached: Vec::new(),
            writes_left: usize::MAX,
            bad: None,
        }
    }

    fn spend(&mut self) -> Result<(), BlockError> {
        self.writes_left = self.writes_left.checked_sub(1).ok_or(BlockError("no power".into()))?;
        Ok(())
    }

    /// The device after power came back: the cached writes chosen by `kept` are there, the last one torn at `torn` bytes.
    fn after_power_loss(&self, kept: impl Fn(usize) -> bool, torn: usize) -> Disk {
        let mut disk = Disk { stable: self.stable.clone(), ..Disk::new(0) };
        for (index, (sector, data)) in self.cached.iter().enumerate().filter(|(index, _)| kept(*index)) {
            let bytes = if index + 1 == self.cached.len() { torn } else { SECTOR_BYTES };
            disk.stable[*sector as usize][..bytes].copy_from_slice(&data[..bytes]);
        }
        disk
    }
}

impl BlockDevice for Disk {
    fn sectors(&self) -> u64 {
        self.stable.len() as u64
    }

    fn read(&mut self, sector: u64, out: &mut Sector) -> Result<(), BlockError> {
        if self.bad == Some(sector) {
            return Err(BlockError("bad sector".into()));
        }
        *out = *self.stable.get(sector as usize).ok_or(BlockError("no such sector".into()))?;
        for (_, data) in self.cached.iter().filter(|(cached, _)| *cached == sector) {
            *out = *data;
        }
        Ok(())
    }

    fn write(&mut self, sector: u64, data: &Sector) -> Result<(), BlockError> {
        assert!(sector < self.sectors());
        // The write at which power fails has reached the device's cache, not the caller.
        let power = self.spend();
        self.cached.push((sector, *data));
        power
    }

    fn flush(&mut self) -> Result<(), BlockError> {
        self.spend()?;
        for (sector, data) in self.cached.drain(..) {
            self.stable[sector as usize] = data;
        }
        Ok(())
    }
}

fn saved(generation: u64, length: usize) -> Saved {
    let document: Vec<u8> = (0..length).map(|i| (i as u64 * 31 + generation) as u8).collect();
    Saved { generation, module: [generation as u8; 32], document: document.into() }
}

fn load(disk: &mut Disk) -> Option<Saved> {
    Store::open(disk).unwrap().load().unwrap()
}

fn save(disk: &mut Disk, saved: &Saved) -> Result<(), StoreError> {
    Store::open(disk).unwrap().save(saved)
}

#[test]
fn keeps_the_newest() {
    let mut disk = Disk::new(200);
    assert!(load(&mut disk).is_none());
    for generation in 1..20 {
        let length = [0, 1, 511, 512, 513, 5000][generation as usize % 6];
        save(&mut disk, &saved(generation, length)).unwrap();
        assert!(load(&mut disk) == Some(saved(generation, length)));
    }
    let states = Store::open(&mut disk).unwrap().slots().unwrap();
    assert_eq!(states.map(|s| s.sequence()), [Some(19), Some(18)]);
}

#[test]
fn power_loss_at_any_moment_leaves_the_old_or_the_new() {
    // Starting from nothing, one, two and three documents: both slots get their turn.
    for history in 0..4u64 {
        let mut before = Disk::new(100);
        for generation in 1..=history {
            save(&mut before, &saved(generation, 700 * generation as usize)).unwrap();
        }
        let (old, new) = (load(&mut before), saved(99, 2500));
        let mut saw = [false; 2];
        for writes in 0.. {
            let mut disk = before.clone();
            disk.writes_left = writes;
            let finished = save(&mut disk, &new).is_ok();
            let pending = disk.cached.len();
            for torn in [0, 1, 8, 31, 256, 479, 480, 511, SECTOR_BYTES] {
                // Any subset of what was not flushed may have reached the medium.
                for subset in 0..1u32 << pending {
                    let mut after = disk.after_power_loss(|index| subset >> index & 1 == 1, torn);
                    let found = load(&mut after);
                    let is_new = found.as_ref() == Some(&new);
                    assert!(
                        is_new || found == old,
                        "history {history}, {writes} writes, torn {torn}, {subset:b}"
                    );
                    assert!(!finished || is_new);
                    saw[usize::from(is_new)] = true;
                    // And the store works on.
                    save(&mut after, &saved(100, 10)).unwrap();
                    assert!(load(&mut after) == Some(saved(100, 10)));
                }
            }
            if finished {
                break;
            }
        }
        assert_eq!(saw, [true, true]);
    }
}

#[test]
fn a_damaged_slot_leaves_the_other() {
    let mut disk = Disk::new(100);
    save(&mut disk, &saved(1, 1000)).unwrap();
    save(&mut disk, &saved(2, 1000)).unwrap();
    disk.stable[48 + 2][100] ^= 1;
    assert!(load(&mut disk) == Some(saved(1, 1000)));
    assert_eq!(Store::open(&mut disk).unwrap().slots().unwrap()[1], SlotState::Damaged);
    disk.stable[1][100] ^= 1;
    assert!(load(&mut disk).is_none());
    save(&mut disk, &saved(3, 1000)).unwrap();
    assert!(load(&mut disk) == Some(saved(3, 1000)));
}

#[test]
fn a_slot_that_cannot_be_read_leaves_the_other() {
    let mut disk = Disk::new(100);
    save(&mut disk, &saved(1, 1000)).unwrap();
    save(&mut disk, &saved(2, 1000)).unwrap();
    // Header and document of the newer slot.
    for bad in [48, 50] {
        let mut disk = Disk { bad: Some(bad), ..disk.clone() };
        assert!(load(&mut disk) == Some(saved(1, 1000)), "sector {bad}");
        assert_eq!(Store::open(&mut disk).unwrap().slots().unwrap()[1], SlotState::Unreadable);
        save(&mut disk, &saved(3, 1000)).unwrap();
        disk.bad = None;
        assert!(load(&mut disk) == Some(saved(3, 1000)), "sector {bad}");
    }
    // A document that may be there is not the same as none.
    let mut fresh = Disk::new(100);
    save(&mut fresh, &saved(1, 1000)).unwrap();
    fresh.bad = Some(0);
    assert!(Store::open(&mut fresh).unwrap().load().is_err());
}

#[test]
fn sequence_numbers_go_on_for_ever() {
    let mut disk = Disk::new(100);
    let header = Header {
        sequence: u64::MAX - 1,
        generation: 1,
        module: [0; 32],
        length: 0,
        checksum: Sha256::digest([]).into(),
    };
    disk.stable[0] = header.emit();
    for generation in 2..8 {
        save(&mut disk, &saved(generation, 1000)).unwrap();
        assert!(load(&mut disk) == Some(saved(generation, 1000)), "generation {generation}");
    }
}

#[test]
fn a_disk_that_holds_something_else_is_left_alone() {
    // A partition table, the superblock of ext4, something far behind.
    let btrfs = (128, 64, &b"_BHRfS_M"[..]);
    for (sector, at, bytes) in
        [(0, 510, &[0x55, 0xaa][..]), (2, 56, &[0x53, 0xef]), (127, 0, b"x"), btrfs, (287, 511, b"x")]
    {
        let mut disk = Disk::new(300);
        disk.stable[sector][at..at + bytes.len()].copy_from_slice(bytes);
        let before = disk.stable.clone();
        assert!(matches!(
            save(&mut disk, &saved(1, 100)),
            Err(StoreError::Foreign { start_kib: 0, length_kib: 144 })
        ));
        assert!(disk.stable == before && disk.cached.is_empty());
        disk.stable[sector] = [0; SECTOR_BYTES];
        save(&mut disk, &saved(1, 100)).unwrap();
        assert!(load(&mut disk) == Some(saved(1, 100)));
    }
}

#[test]
fn what_is_to_be_cleared_for_objects_leaves_the_configuration() {
    let mut disk = Disk::new(8192 + 300);
    save(&mut disk, &saved(1, 100)).unwrap();
    disk.stable[8192 + 5][7] = 1;
    let error = Store::open_objects(&mut Behind::new(&mut disk)).unwrap().save(&saved(1, 100)).unwrap_err();
    assert!(matches!(error, StoreError::Foreign { start_kib: 4096, length_kib: 144 }));
    // Who does what it says has not lost the configuration, and gets the objects kept.
    disk.stable[8192..8192 + 288].fill([0; SECTOR_BYTES]);
    Store::open_objects(&mut Behind::new(&mut disk)).unwrap().save(&saved(2, 200)).unwrap();
    assert!(load(&mut disk) == Some(saved(1, 100)));
}

#[test]
fn refuses_what_does_not_fit() {
    let mut small = Disk::new(63);
    assert!(matches!(Store::open(&mut small), Err(StoreError::TooSmall { device_bytes: 32256 })));
    let mut disk = Disk::new(64);
    assert!(matches!(
        save(&mut disk, &saved(1, 31 * 512 + 1)),
        Err(StoreError::TooLong { document_bytes: 15873, capacity_bytes: 15872 })
    ));
    save(&mut disk, &saved(1, 31 * 512)).unwrap();
    assert!(load(&mut disk) == Some(saved(1, 31 * 512)));
}

#[test]
fn a_header_of_a_larger_store_is_damage_not_a_panic() {
    let mut disk = Disk::new(64);
    let header = Header { sequence: 1, generation: 1, module: [0; 32], length: u32::MAX, checksum: [0; 32] };
    disk.stable[0] = header.emit();
    assert!(load(&mut disk).is_none());
}
