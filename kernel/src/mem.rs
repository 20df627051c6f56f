//! The memory functions that compiled code calls and that a C library would bring: the binary exports
//! them as `memcpy` and so on. In assembly, because the compiler would turn a loop that copies back into
//! a call of `memcpy`.
//!
//! Up to 128 bytes everything is loaded before anything is stored, without a loop. Longer ones go by 64
//! bytes with SSE2, and not by `rep movsb`, however long they are: an emulated CPU does that byte by byte.

use core::arch::naked_asm;

/// `memcpy` and `memmove`: copies `len` bytes, correctly also where the two overlap. Returns `to`.
///
/// # Safety
/// `from` is readable and `to` writable for `len` bytes.
#[unsafe(naked)]
pub unsafe extern "C" fn copy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    naked_asm!(
        "mov rax, rdi",
        "cmp rdx, 16",
        "jb 8f",
        "cmp rdx, 32",
        "ja 2f",
        "movups xmm0, [rsi]",
        "movups xmm1, [rsi + rdx - 16]",
        "movups [rdi], xmm0",
        "movups [rdi + rdx - 16], xmm1",
        "ret",
        "2:",
        "cmp rdx, 64",
        "ja 3f",
        "movups xmm0, [rsi]",
        "movups xmm1, [rsi + 16]",
        "movups xmm2, [rsi + rdx - 32]",
        "movups xmm3, [rsi + rdx - 16]",
        "movups [rdi], xmm0",
        "movups [rdi + 16], xmm1",
        "movups [rdi + rdx - 32], xmm2",
        "movups [rdi + rdx - 16], xmm3",
        "ret",
        "3:",
        // Above 64: the first and the last 64 bytes in registers. Above 128 the loop copies from one side.
        "mov r8, rdi",
        "sub r8, rsi",
        "cmp r8, rdx",
        "jb 6f",
        // Forward: the tail is kept in registers, because the loop may overwrite its source.
        "movups xmm4, [rsi + rdx - 64]",
        "movups xmm5, [rsi + rdx - 48]",
        "movups xmm6, [rsi + rdx - 32]",
        "movups xmm7, [rsi + rdx - 16]",
        "lea rcx, [rdi + rdx - 64]",
        "4:",
        "movups xmm0, [rsi]",
        "movups xmm1, [rsi + 16]",
        "movups xmm2, [rsi + 32]",
        "movups xmm3, [rsi + 48]",
        "movups [rdi], xmm0",
        "movups [rdi + 16], xmm1",
        "movups [rdi + 32], xmm2",
        "movups [rdi + 48], xmm3",
        "add rsi, 64",
        "add rdi, 64",
        "cmp rdi, rcx",
        "jb 4b",
        "movups [rcx], xmm4",
        "movups [rcx + 16], xmm5",
        "movups [rcx + 32], xmm6",
        "movups [rcx + 48], xmm7",
        "ret",
        "6:",
        // Backward: the destination begins inside the source; the head is kept in registers.
        "movups xmm4, [rsi]",
        "movups xmm5, [rsi + 16]",
        "movups xmm6, [rsi + 32]",
        "movups xmm7, [rsi + 48]",
        "lea r9, [rdi + 64]",
        "7:",
        "movups xmm0, [rsi + rdx - 16]",
        "movups xmm1, [rsi + rdx - 32]",
        "movups xmm2, [rsi + rdx - 48]",
        "movups xmm3, [rsi + rdx - 64]",
        "movups [rdi + rdx - 16], xmm0",
        "movups [rdi + rdx - 32], xmm1",
        "movups [rdi + rdx - 48], xmm2",
        "movups [rdi + rdx - 64], xmm3",
        "sub rdx, 64",
        "cmp rdx, 64",
        "ja 7b",
        "movups [rdi], xmm4",
        "movups [rdi + 16], xmm5",
        "movups [rdi + 32], xmm6",
        "movups [rdi + 48], xmm7",
        "ret",
        "8:",
        "cmp edx, 8",
        "jb 9f",
        "mov rcx, [rsi]",
        "mov r8, [rsi + rdx - 8]",
        "mov [rdi], rcx",
        "mov [rdi + rdx - 8], r8",
        "ret",
        "9:",
        "cmp edx, 4",
        "jb 9f",
        "mov ecx, [rsi]",
        "mov r8d, [rsi + rdx - 4]",
        "mov [rdi], ecx",
        "mov [rdi + rdx - 4], r8d",
        "ret",
        "9:",
        // One to three bytes: first, middle, last.
        "test edx, edx",
        "jz 9f",
        "mov r10d, edx",
        "shr r10d",
        "movzx ecx, byte ptr [rsi]",
        "movzx r8d, byte ptr [rsi + r10]",
        "movzx r9d, byte ptr [rsi + rdx - 1]",
        "mov [rdi], cl",
        "mov [rdi + r10], r8b",
        "mov [rdi + rdx - 1], r9b",
        "9:",
        "ret",
    )
}

/// `memset`: fills `len` bytes with the low byte of `value`. Returns `to`.
///
/// # Safety
/// `to` is writable for `len` bytes.
#[unsafe(naked)]
pub unsafe extern "C" fn fill(to: *mut u8, value: i32, len: usize) -> *mut u8 {
    naked_asm!(
        "mov rax, rdi",
        "movzx esi, sil",
        "mov rcx, 0x0101010101010101",
        "imul rsi, rcx",
        "cmp rdx, 16",
        "jb 4f",
        "movq xmm0, rsi",
        "punpcklqdq xmm0, xmm0",
        "cmp rdx, 128",
        "jb 2f",
        "lea rcx, [rdi + rdx - 64]",
        "3:",
        "movups [rdi], xmm0",
        "movups [rdi + 16], xmm0",
        "movups [rdi + 32], xmm0",
        "movups [rdi + 48], xmm0",
        "add rdi, 64",
        "cmp rdi, rcx",
        "jb 3b",
        "movups [rcx], xmm0",
        "movups [rcx + 16], xmm0",
        "movups [rcx + 32], xmm0",
        "movups [rcx + 48], xmm0",
        "ret",
        "2:",
        "lea rcx, [rdi + rdx - 16]",
        "7:",
        "movups [rdi], xmm0",
        "add rdi, 16",
        "cmp rdi, rcx",
        "jb 7b",
        "movups [rcx], xmm0",
        "ret",
        "4:",
        "cmp edx, 8",
        "jb 5f",
        "mov [rdi], rsi",
        "mov [rdi + rdx - 8], rsi",
        "ret",
        "5:",
        "cmp edx, 4",
        "jb 6f",
        "mov [rdi], esi",
        "mov [rdi + rdx - 4], esi",
        "ret",
        "6:",
        "test edx, edx",
        "jz 7f",
        "mov ecx, edx",
        "shr ecx",
        "mov [rdi], sil",
        "mov [rdi + rcx], sil",
        "mov [rdi + rdx - 1], sil",
        "7:",
        "ret",
    )
}

/// `memcmp` and `bcmp`: negative, zero or positive as the first differing byte of `a` is less or greater.
///
/// # Safety
/// `a` and `b` are readable for `len` bytes.
#[unsafe(naked)]
pub unsafe extern "C" fn compare(a: *const u8, b: *const u8, len: usize) -> i32 {
    naked_asm!(
        "xor eax, eax",
        "cmp rdx, 8",
        "jb 3f",
        "2:",
        "mov rcx, [rdi]",
        "mov r8, [rsi]",
        "cmp rcx, r8",
        "jne 5f",
        "add rdi, 8",
        "add rsi, 8",
        "sub rdx, 8",
        "cmp rdx, 8",
        "jae 2b",
        "3:",
        "test rdx, rdx",
        "jz 4f",
        "movzx eax, byte ptr [rdi]",
        "movzx ecx, byte ptr [rsi]",
        "inc rdi",
        "inc rsi",
        "dec rdx",
        "sub eax, ecx",
        "jz 3b",
        "4:",
        "ret",
        "5:",
        "bswap rcx",
        "bswap r8",
        "cmp rcx, r8",
        "sbb eax, eax",
        "or eax, 1",
        "ret",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Lengths around every boundary of the code above.
    fn length() -> impl Strategy<Value = usize> {
        prop_oneof![0usize..300, 2000usize..2100]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn copy_agrees_with_copy_within(len in length(), from in 0usize..200, to in 0usize..200) {
            let mut bytes: Vec<u8> = (0..2400u32).map(|i| (i * 7 % 251) as u8).collect();
            let mut oracle = bytes.clone();
            oracle.copy_within(from..from + len, to);
            let base = bytes.as_mut_ptr();
            // SAFETY: 200 + 2100 bytes lie within the vector.
            let returned = unsafe { copy(base.add(to), base.add(from), len) };
            prop_assert_eq!(returned as usize, base as usize + to);
            prop_assert_eq!(bytes, oracle);
        }

        #[test]
        fn fill_writes_its_range_only(len in length(), at in 0usize..100, value: i32) {
            let mut bytes = vec![0x55u8; 2400];
            let mut oracle = bytes.clone();
            oracle[at..at + len].fill(value as u8);
            // SAFETY: 100 + 2100 bytes lie within the vector.
            let returned = unsafe { fill(bytes.as_mut_ptr().add(at), value, len) };
            prop_assert_eq!(returned as usize, bytes.as_ptr() as usize + at);
            prop_assert_eq!(bytes, oracle);
        }

        #[test]
        fn compare_orders_like_slices(a in prop::collection::vec(any::<u8>(), 0..64), change in 0usize..64, value: u8) {
            let mut b = a.clone();
            if let Some(byte) = b.get_mut(change) {
                *byte = value;
            }
            // SAFETY: both vectors have the length of `a`.
            let order = unsafe { compare(a.as_ptr(), b.as_ptr(), a.len()) };
            prop_assert_eq!(order.cmp(&0), a.cmp(&b));
        }
    }
}
