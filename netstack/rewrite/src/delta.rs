//! The difference that changed bytes make to a checksum.

/// A ones' complement difference of 16-bit words (RFC 1624, equation 3: the sum of `~m + m'`).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Delta(u32);

impl Delta {
    /// Counts a word's change.
    #[inline(always)]
    pub(crate) fn word(&mut self, old: u16, new: u16) {
        self.0 += u32::from(!old) + u32::from(new);
        self.0 = (self.0 & 0xffff) + (self.0 >> 16);
    }

    /// This difference and another one.
    #[inline(always)]
    pub(crate) fn and(mut self, other: Delta) -> Delta {
        self.0 += other.0;
        self.0 = (self.0 & 0xffff) + (self.0 >> 16);
        self
    }

    /// A checksum after the change. It is never 0xffff where a recount would give 0, nor the other way round, as
    /// long as not all words are zero.
    #[inline(always)]
    pub(crate) fn apply(self, checksum: u16) -> u16 {
        let sum = u32::from(!checksum) + self.0;
        let sum = (sum & 0xffff) + (sum >> 16);
        !((sum & 0xffff) + (sum >> 16)) as u16
    }
}

/// Writes `new` at an even offset, and counts the change. `None` if the bytes end before.
#[inline(always)]
pub(crate) fn replace(bytes: &mut [u8], offset: usize, new: &[u8]) -> Option<Delta> {
    let old = bytes.get_mut(offset..offset.checked_add(new.len())?)?;
    let mut delta = Delta::default();
    for (old, new) in old.as_chunks::<2>().0.iter().zip(new.as_chunks::<2>().0) {
        delta.word(u16::from_be_bytes(*old), u16::from_be_bytes(*new));
    }
    old.copy_from_slice(new);
    Some(delta)
}

/// Updates the checksum at `offset` by a change of what it covers. The checksum's own change is returned, for those that
/// cover it too.
#[inline(always)]
pub(crate) fn update(bytes: &mut [u8], offset: usize, delta: Delta) -> Option<Delta> {
    let old = *bytes.get(offset..)?.first_chunk()?;
    replace(bytes, offset, &delta.apply(u16::from_be_bytes(old)).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_change_is_a_recount(mut bytes in prop::collection::vec(any::<u8>(), 6..80), new in any::<[u8; 4]>()) {
            bytes.truncate(bytes.len() & !1);
            bytes[5] |= 1;
            let before = packet::checksum::of(&bytes).get();
            let delta = replace(&mut bytes, 0, &new).unwrap();
            prop_assert_eq!(delta.apply(before), packet::checksum::of(&bytes).get());
        }
    }

    #[test]
    fn nothing_is_written_beyond_the_end() {
        let mut bytes = [1, 2, 3];
        assert!(replace(&mut bytes, 2, &[9, 9]).is_none());
        assert!(replace(&mut bytes, usize::MAX, &[9, 9]).is_none());
        assert_eq!(bytes, [1, 2, 3]);
    }
}
