//! What every header's tests check.

use core::fmt::Debug;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// `T` reads the bytes of `example`, writes the same again, refuses fewer, and keeps any other bytes too.
pub(crate) fn check_format<T>(example: &[u8])
where
    T: FromBytes + IntoBytes + KnownLayout + Immutable + Unaligned,
{
    let size = size_of::<T>();
    let (header, rest) = T::ref_from_prefix(example).expect("the example is long enough");
    assert_eq!(header.as_bytes(), &example[..size]);
    assert_eq!(rest, &example[size..]);
    for short in 0..size {
        assert!(T::ref_from_prefix(&example[..short]).is_err(), "{short} bytes are too few");
    }
    let any_bytes = prop::collection::vec(any::<u8>(), size);
    TestRunner::default()
        .run(&any_bytes, |bytes| {
            let header = T::read_from_bytes(&bytes).expect("the size is right");
            prop_assert_eq!(header.as_bytes(), &bytes[..]);
            Ok(())
        })
        .expect("all bytes survive");
}

/// The header at the front of `bytes`.
pub(crate) fn parse<T: FromBytes + KnownLayout + Immutable + Debug>(bytes: &[u8]) -> T {
    T::read_from_prefix(bytes).expect("the example is long enough").0
}
