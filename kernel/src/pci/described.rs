//! The sizes of a virtio function's BARs by what its capabilities say is in them. To measure them means to switch the
//! function's memory off and on, and a hypervisor takes as long over each as over a hundred other accesses.
//!
//! Source: VIRTIO 1.3, section 4.1.4; PCI Express Base 6.0, section 7.7.2.

use super::{Address, Bar, ConfigSpace, Msix, bar_register, capabilities, is_io, is_wide, register};

const VIRTIO: u16 = 0x1af4;
/// Capabilities: a vendor's, which is a virtio structure here, and MSI-X.
const VENDOR: u8 = 0x09;
const MSIX: u8 = 0x11;
/// Structures that lie in a BAR by `offset` and `length`: common, notify, ISR status, device.
const STRUCTURES: core::ops::RangeInclusive<u8> = 1..=4;

/// The memory BARs of a virtio function if all have addresses and something is known to be in each.
pub(super) fn bars(space: &impl ConfigSpace, at: Address) -> Option<[Option<Bar>; 6]> {
    if space.read16(at, register::VENDOR) != VIRTIO {
        return None;
    }
    let ends = ends(space, at);
    let mut bars = [None; 6];
    let mut number = 0;
    while number < bars.len() {
        let low = space.read32(at, bar_register(number));
        let wide = is_wide(low, number);
        if low != 0 && !is_io(low) {
            let high = if wide { space.read32(at, bar_register(number + 1)) } else { 0 };
            let address = u64::from(high) << 32 | u64::from(low & !0xf);
            let bytes = ends[number].next_power_of_two();
            if address == 0 || bytes < 16 || !address.is_multiple_of(bytes) {
                return None;
            }
            bars[number] = Some(Bar { address, bytes, wide, prefetchable: low & Bar::PREFETCHABLE != 0 });
        }
        number += if wide { 2 } else { 1 };
    }
    Some(bars)
}

/// By BAR, where the last thing ends that the capabilities say is there, in bytes from its beginning.
fn ends(space: &impl ConfigSpace, at: Address) -> [u64; 6] {
    let mut ends = [0; 6];
    let mut note = |bar: u8, offset: u32, bytes: u32| {
        if let Some(end) = ends.get_mut(usize::from(bar)) {
            *end = u64::max(*end, u64::from(offset) + u64::from(bytes));
        }
    };
    for (kind, capability) in capabilities(space, at) {
        if kind == VENDOR && STRUCTURES.contains(&space.read8(at, capability + 3)) {
            let [offset, bytes] = [8, 12].map(|field| space.read32(at, capability + field));
            note(space.read8(at, capability + 4), offset, bytes);
        } else if kind == MSIX {
            let entries = u32::from(space.read16(at, capability + Msix::CONTROL) & 0x7ff) + 1;
            let [table, pending] = [4, 8].map(|field| space.read32(at, capability + field));
            note((table & 7) as u8, table & !7, entries * Msix::ENTRY_BYTES as u32);
            note((pending & 7) as u8, pending & !7, entries.div_ceil(64) * 8);
        }
    }
    ends
}
