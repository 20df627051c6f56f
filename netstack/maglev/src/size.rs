//! How many slots a table has: a prime, so that every skip passes all slots.

use crate::table::Error;

/// Number of slots of a table, a prime of 3 to [`TableSize::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableSize(u32);

impl TableSize {
    /// The size for most services, as in the paper: for less than 1 % of imbalance up to some 650 backends.
    pub const DEFAULT: TableSize = TableSize(65_537);
    /// The largest size, the paper's second.
    pub const MAX: TableSize = TableSize(655_373);

    /// A size of `slots`, if that is a prime in range.
    ///
    /// # Errors
    /// [`Error::Size`] otherwise.
    pub fn new(slots: u32) -> Result<Self, Error> {
        if (3..=Self::MAX.0).contains(&slots) && is_prime(slots) {
            Ok(Self(slots))
        } else {
            Err(Error::Size { slots })
        }
    }

    /// Number of slots.
    pub const fn slots(self) -> u32 {
        self.0
    }
}

impl Default for TableSize {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Trial division: at most 404 divisions up to the largest size.
const fn is_prime(number: u32) -> bool {
    if number < 4 || number.is_multiple_of(2) {
        return number == 2 || number == 3;
    }
    let mut divisor = 3;
    while divisor * divisor <= number {
        if number.is_multiple_of(divisor) {
            return false;
        }
        divisor += 2;
    }
    true
}

const _: () = assert!(is_prime(TableSize::DEFAULT.0) && is_prime(TableSize::MAX.0));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_primes_in_range_are_sizes() {
        let mut composite = vec![false; TableSize::MAX.0 as usize + 100];
        for number in 2..composite.len() {
            let is_prime = !composite[number];
            if is_prime {
                (number * number..composite.len()).step_by(number).for_each(|i| composite[i] = true);
            }
            let expected = is_prime && number > 2 && number <= TableSize::MAX.0 as usize;
            assert_eq!(TableSize::new(number as u32).is_ok(), expected, "{number}");
        }
        for slots in [0, 1, 2, 65_536, u32::MAX] {
            assert_eq!(TableSize::new(slots), Err(Error::Size { slots }));
        }
    }
}
