//! Text that is never printed and is cleared when dropped.

use alloc::{string::String, vec::Vec};
use core::fmt;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

/// A secret of the configuration. It is serialized as it is, for the store; whoever shows a configuration to somebody
/// uses [`crate::Config::without_secrets`].
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// The text.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The bytes of hexadecimal text; None if it is not that.
    #[must_use]
    pub fn to_bytes(&self) -> Option<Zeroizing<Vec<u8>>> {
        let digits = self.0.as_bytes();
        if !digits.len().is_multiple_of(2) {
            return None;
        }
        let mut bytes = Zeroizing::new(Vec::with_capacity(digits.len() / 2));
        for pair in digits.chunks_exact(2) {
            let &[high, low] = pair else { return None };
            let digit = |byte: u8| char::from(byte).to_digit(16);
            bytes.push((digit(high)? * 16 + digit(low)?) as u8);
        }
        Some(bytes)
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;

    #[test]
    fn hexadecimal_text_is_bytes() {
        let bytes = |text: &str| Secret::from(String::from(text)).to_bytes().map(|bytes| bytes.to_vec());
        assert_eq!(bytes("00fFa5"), Some([0, 255, 0xa5].into()));
        assert_eq!((bytes("0"), bytes("0g"), bytes("é")), (None, None, None));
        assert_eq!(format!("{:?}", Secret::from(String::from("00"))), "<secret>");
    }
}
