//! What every core switches on before it runs anything else.

use core::arch::x86_64::{__cpuid, __cpuid_count, _xsetbv, CpuidResult};
use x86_64::registers::control::{Cr4, Cr4Flags};

/// Bits of XCR0 (Intel SDM volume 1, section 13.3).
mod state {
    pub const X87: u64 = 1;
    pub const SSE: u64 = 1 << 1;
    pub const AVX: u64 = 1 << 2;
    /// Opmask registers, upper halves of ZMM0 to ZMM15, ZMM16 to ZMM31: all or none.
    pub const AVX512: u64 = 0b111 << 5;
}

/// Lets code use the vector registers that the core has, up to AVX-512, and machine checks be reported.
///
/// Libraries look at CPUID and XCR0 once and remember, so this comes before any of them, on every core. It comes before
/// anything else at all because an emulator has code of its own for each combination of these: what runs both before
/// and after is translated twice.
pub fn enable_features() {
    const XSAVE: u32 = 1 << 26;
    // SAFETY: machine checks go to a handler; without one they would shut the machine down all the same.
    unsafe { Cr4::update(|cr4| cr4.insert(Cr4Flags::MACHINE_CHECK_EXCEPTION)) };
    if __cpuid(1).ecx & XSAVE == 0 {
        return;
    }
    let available = u64::from(__cpuid_count(0xd, 0).eax);
    let mut enabled = state::X87 | state::SSE | (available & state::AVX);
    if enabled & state::AVX != 0 && available & state::AVX512 == state::AVX512 {
        enabled |= state::AVX512;
    }
    // SAFETY: CPUID says that XSAVE and these state components exist.
    unsafe {
        Cr4::update(|cr4| cr4.insert(Cr4Flags::OSXSAVE));
        set_xcr0(enabled);
    }
}

/// Sets XCR0.
///
/// # Safety
/// CR4.OSXSAVE is set and CPUID leaf 0Dh lists every component in `value`.
#[target_feature(enable = "xsave")]
unsafe fn set_xcr0(value: u64) {
    // SAFETY: the caller's contract.
    unsafe { _xsetbv(0, value) };
}

/// This core's APIC identifier as CPUID gives it.
pub fn apic_id() -> u32 {
    const EXTENDED_TOPOLOGY: u32 = 0xb;
    if __cpuid(0).eax >= EXTENDED_TOPOLOGY && __cpuid_count(EXTENDED_TOPOLOGY, 0).ebx != 0 {
        __cpuid_count(EXTENDED_TOPOLOGY, 0).edx
    } else {
        __cpuid(1).ebx >> 24
    }
}

/// The first hypervisor leaf: the highest one, and a signature. `None` on bare metal.
pub fn hypervisor() -> Option<CpuidResult> {
    const HYPERVISOR_PRESENT: u32 = 1 << 31;
    (__cpuid(1).ecx & HYPERVISOR_PRESENT != 0).then(|| __cpuid(0x4000_0000))
}

/// What KVM says that it offers (Linux, `Documentation/virt/kvm/x86/cpuid.rst`); `None` where it is not KVM.
pub fn kvm_features() -> Option<u32> {
    const SIGNATURE: [u32; 3] = [0x4b4d_564b, 0x564b_4d56, 0x4d];
    let leaf = hypervisor()?;
    ([leaf.ebx, leaf.ecx, leaf.edx] == SIGNATURE).then(|| __cpuid(0x4000_0001).eax)
}

/// Stops this core for ever.
pub fn halt() -> ! {
    loop {
        x86_64::instructions::interrupts::disable();
        x86_64::instructions::hlt();
    }
}
