//! The Internet checksum (RFC 1071), its incremental form (RFC 1624), and pseudo-headers.

use zerocopy::network_endian::U16;

/// A ones' complement sum in progress.
///
/// Sums in the machine's byte order: ones' complement addition does not mind (RFC 1071 §2 B). Bytes may come in
/// pieces of any length.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    sum: u64,
    /// An odd number of bytes came before.
    odd: bool,
}

impl Sum {
    /// An empty sum.
    pub const fn new() -> Self {
        Self { sum: 0, odd: false }
    }

    /// Adds bytes.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        let folded = u64::from(fold(sum_bytes(bytes)));
        self.sum += if self.odd { u64::from((folded as u16).swap_bytes()) } else { folded };
        self.odd ^= bytes.len() % 2 == 1;
        self
    }

    /// Adds a 16-bit number. Only between pieces of even length.
    #[must_use]
    pub fn number(mut self, number: u16) -> Self {
        debug_assert!(!self.odd, "a number must start at an even place");
        self.sum += u64::from(number.to_be());
        self
    }

    /// Adds the IPv4 or IPv6 pseudo-header (RFC 768, RFC 8200 §8.1) for a payload of `length` bytes. Addresses are in
    /// network byte order.
    #[must_use]
    pub fn pseudo_header(self, source: &[u8], destination: &[u8], protocol: u8, length: u32) -> Self {
        self.bytes(source)
            .bytes(destination)
            .number(u16::from(protocol))
            .number((length >> 16) as u16)
            .number(length as u16)
    }

    /// The checksum: the complement of the sum.
    #[inline]
    pub fn finish(self) -> U16 {
        U16::from_bytes((!fold(self.sum)).to_ne_bytes())
    }

    /// The sum itself, for whoever completes it later ("partial checksum").
    pub fn partial(self) -> U16 {
        U16::from_bytes(fold(self.sum).to_ne_bytes())
    }

    /// True if the checksum was among the bytes and is right.
    #[inline]
    pub fn is_valid(self) -> bool {
        fold(self.sum) == 0xffff
    }
}

/// The checksum of `bytes`.
pub fn of(bytes: &[u8]) -> U16 {
    Sum::new().bytes(bytes).finish()
}

/// True if an IPv4 header without options has the right checksum.
#[inline(always)]
pub fn is_ipv4_header_valid(header: &[u8; 20]) -> bool {
    let (words, _) = header.as_chunks::<4>();
    let sum: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    let (sum, carry) = (sum as u32).overflowing_add((sum >> 32) as u32);
    let sum = sum.wrapping_add(u32::from(carry));
    // The high half becomes both halves' sum with its carry, which is all ones if the checksum is right.
    sum.wrapping_add(sum.rotate_left(16)) >= 0xffff_0000
}

/// The checksum after one 16-bit word that it covers changed (RFC 1624, equation 3).
#[inline]
#[must_use]
pub fn update(checksum: U16, old: u16, new: u16) -> U16 {
    let sum = u32::from(!checksum.get()) + u32::from(!old) + u32::from(new);
    let sum = (sum & 0xffff) + (sum >> 16);
    U16::new(!((sum & 0xffff) + (sum >> 16)) as u16)
}

fn sum_bytes(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let sum: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    sum + u64::from(u32::from_ne_bytes(last))
}

/// A sum of words of 16, 32 or 64 bits, which has not overflowed, as one of 16 bits. Only what is all zero has the sum 0.
#[inline(always)]
pub fn fold(sum: u64) -> u16 {
    // The high half becomes both halves' sum with its carry.
    fold_word((sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32)
}

/// The same of a sum of 32 bits, whose carries have been added to it.
#[inline(always)]
pub fn fold_word(sum: u32) -> u16 {
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 §4.1, word by word.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from);
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !sum as u16
    }

    #[test]
    fn rfc_1071_example() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(of(&bytes).get(), !0xddf2);
    }

    proptest! {
        #[test]
        fn sums_match_the_naive_one(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..200) {
            prop_assert_eq!(of(&bytes).get(), naive(&bytes));
            let (a, b) = bytes.split_at(cut.min(bytes.len()));
            prop_assert_eq!(Sum::new().bytes(a).bytes(b).finish().get(), naive(&bytes));
        }

        #[test]
        fn ipv4_headers_are_judged_alike(mut header in any::<[u8; 20]>(), wrong in any::<u16>()) {
            header[10..12].fill(0);
            let right = naive(&header);
            for checksum in [right, wrong] {
                header[10..12].copy_from_slice(&checksum.to_be_bytes());
                prop_assert_eq!(is_ipv4_header_valid(&header), Sum::new().bytes(&header).is_valid());
            }
        }

        #[test]
        fn an_update_is_a_recount(mut words in prop::collection::vec(any::<u16>(), 2..10), new in any::<u16>()) {
            // A sum of zero has two forms; headers are never all zero.
            words[1] |= 1;
            let bytes = |words: &[u16]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>();
            let before = of(&bytes(&words));
            let updated = update(before, words[0], new);
            words[0] = new;
            prop_assert_eq!(updated, of(&bytes(&words)));
        }
    }
}
