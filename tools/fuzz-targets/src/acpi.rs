//! ACPI's static tables, as firmware or a hypervisor leaves them.
//!
//! The input is the memory at `BASE`, the root pointer first. Checksums are made right, as the tables would be
//! skipped otherwise.

use boot::PhysicalMemory;
use kernel::acpi::Acpi;

/// Where the input lies in physical memory.
const BASE: u64 = 0x9000;
/// Bytes that the checksum of a root pointer of the first revision is over.
const ROOT_POINTER_BYTES: usize = 20;
/// Where a table keeps its length and its checksum.
const LENGTH_AT: usize = 4;
const CHECKSUM_AT: usize = 9;

struct Memory(Vec<u8>);

impl PhysicalMemory for Memory {
    fn bytes(&self, address: u64, len: usize) -> Option<&[u8]> {
        let from = usize::try_from(address.checked_sub(BASE)?).ok()?;
        self.0.get(from..from.checked_add(len)?)
    }
}

/// Reads `data`.
pub fn run(data: &[u8]) {
    if let Some(acpi) = read(data) {
        let most = data.len();
        assert!(acpi.cores.len() <= most && acpi.ecam.len() <= most, "more is said than was there to say it");
    }
}

fn read(data: &[u8]) -> Option<Acpi> {
    let mut memory = data.to_vec();
    // The root pointer's two checksums: one over its first bytes, one over all of it.
    correct(&mut memory, 0, ROOT_POINTER_BYTES, 8);
    correct(&mut memory, 0, 36, 32);
    for at in 0..memory.len() {
        let Some(signature) = memory.get(at..at + 4) else { break };
        if [b"XSDT", b"RSDT", b"APIC", b"MCFG", b"FACP"].iter().any(|known| *known == signature) {
            let length =
                memory.get(at + LENGTH_AT..at + LENGTH_AT + 4).and_then(|bytes| bytes.try_into().ok());
            let length = length.map_or(0, u32::from_le_bytes) as usize;
            correct(&mut memory, at, length, CHECKSUM_AT);
        }
    }
    Acpi::read(&Memory(memory), Some(BASE)).ok()
}

/// Sets the checksum at `checksum_at` of the `len` bytes at `at`, if they exist.
fn correct(memory: &mut [u8], at: usize, len: usize, checksum_at: usize) {
    let Some(bytes) = at.checked_add(len).and_then(|end| memory.get_mut(at..end)) else { return };
    if checksum_at < bytes.len() {
        bytes[checksum_at] = 0;
        bytes[checksum_at] = bytes.iter().fold(0, |sum: u8, byte| sum.wrapping_sub(*byte));
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_kept_tables_are_understood() {
        for input in crate::corpus::load("acpi").unwrap() {
            let Some(acpi) = super::read(&input.data) else { panic!("{} is refused", input.name) };
            if input.name.contains("revision") {
                assert_eq!(
                    (acpi.cores.len(), acpi.ecam.len(), acpi.reset.is_some()),
                    (3, 1, true),
                    "{}",
                    input.name
                );
            }
        }
    }
}
