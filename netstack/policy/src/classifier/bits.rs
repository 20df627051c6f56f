//! A set of small numbers.

use alloc::{vec, vec::Vec};

/// One bit for each number. It grows with what is put in; numbers beyond its end are not in it.
#[derive(Clone, Debug, Default)]
pub struct Bits {
    words: Vec<u64>,
}

impl Bits {
    /// All numbers below `len`.
    pub fn all(len: usize) -> Bits {
        let mut bits = Bits::default();
        bits.invert(len);
        bits
    }

    pub fn insert(&mut self, number: u32) {
        let index = number as usize / 64;
        if index >= self.words.len() {
            self.words.resize(index + 1, 0);
        }
        if let Some(word) = self.words.get_mut(index) {
            *word |= 1 << (number % 64);
        }
    }

    pub fn remove(&mut self, number: u32) {
        if let Some(word) = self.words.get_mut(number as usize / 64) {
            *word &= !(1 << (number % 64));
        }
    }

    #[inline]
    pub fn contains(&self, number: u32) -> bool {
        self.words.get(number as usize / 64).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    pub fn union(&mut self, other: &Bits) {
        if self.words.len() < other.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word |= other);
    }

    pub fn intersect(&mut self, other: &Bits) {
        self.words.truncate(other.words.len());
        self.words.iter_mut().zip(&other.words).for_each(|(word, other)| *word &= other);
    }

    /// Takes those below `len` that it did not have.
    pub fn invert(&mut self, len: usize) {
        let old = core::mem::replace(&mut self.words, vec![u64::MAX; len.div_ceil(64)]);
        self.words.iter_mut().zip(old).for_each(|(word, old)| *word = !old);
        if let Some(last) = self.words.last_mut()
            && !len.is_multiple_of(64)
        {
            *last &= (1 << (len % 64)) - 1;
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.words.iter().enumerate().flat_map(|(index, word)| {
            let mut left = *word;
            core::iter::from_fn(move || {
                let bit = left.trailing_zeros();
                left &= left.wrapping_sub(1);
                (bit < 64).then_some(index as u32 * 64 + bit)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inverting_stays_within_the_length() {
        let mut bits = Bits::default();
        [0, 63, 64, 69].into_iter().for_each(|number| bits.insert(number));
        assert_eq!(bits.iter().collect::<Vec<_>>(), [0, 63, 64, 69]);
        bits.invert(70);
        assert_eq!(bits.iter().count(), 66);
        assert!(!bits.contains(69) && bits.contains(68) && !bits.contains(1000));
        assert_eq!(Bits::all(70).iter().count(), 70);
        assert_eq!(Bits::all(64).iter().last(), Some(63));
    }

    #[test]
    fn lengths_may_differ() {
        let (mut short, mut long) = (Bits::default(), Bits::default());
        short.insert(1);
        [1, 200].into_iter().for_each(|number| long.insert(number));
        let mut both = short.clone();
        both.union(&long);
        assert_eq!(both.iter().collect::<Vec<_>>(), [1, 200]);
        long.intersect(&short);
        assert_eq!(long.iter().collect::<Vec<_>>(), [1]);
        long.remove(1);
        assert!(long.is_empty());
    }
}
