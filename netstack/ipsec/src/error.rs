//! Why ESP refuses a packet. The auditable events of RFC 4301 and RFC 4303 are among these.

use core::fmt;

macro_rules! esp_errors {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why ESP refuses a packet; each is counted by the SA that it concerns.
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum EspError {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl EspError {
            /// All of them; an error's place is its number.
            pub const ALL: &'static [EspError] = &[$(EspError::$variant,)+];

            /// Its name in counters.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

esp_errors! {
    /// The ESP packet is shorter than its headers, or its ciphertext is no whole number of blocks.
    Malformed = "malformed",
    /// No inbound SA has this SPI (RFC 4303 §3.4.2).
    UnknownSpi = "unknown-spi",
    /// No outbound SA is there, or it is not usable any more (RFC 4303 §3.3.1).
    NoSa = "no-sa",
    /// The SA has reached its hard lifetime.
    Expired = "expired",
    /// All sequence numbers of the SA have been used (RFC 4303 §3.3.3).
    SequenceExhausted = "sequence-exhausted",
    /// The sequence number was seen before, or is older than the window (RFC 4303 §3.4.3).
    Replayed = "replayed",
    /// The integrity check failed (RFC 4303 §3.4.4).
    AuthenticationFailed = "authentication-failed",
    /// The padding is not 1, 2, 3, ... or longer than the packet (RFC 4303 §2.4).
    BadPadding = "bad-padding",
    /// A dummy packet for traffic flow confidentiality (next header 59); not an error.
    Dummy = "dummy",
    /// A NAT keepalive (RFC 3948 §2.3); not an error.
    Keepalive = "keepalive",
    /// What is inside is not what the SA's mode carries, or its IP header is not valid.
    BadInner = "bad-inner",
    /// The inner packet is outside the SA's selectors (RFC 4301 §5.2, step 4).
    SelectorMismatch = "selector-mismatch",
    /// Congestion was experienced outside of a packet that does not take part in ECN (RFC 6040 §4.2).
    EcnDropped = "ecn-dropped",
    /// The outer addresses or UDP encapsulation are not those of the SA.
    WrongEncapsulation = "wrong-encapsulation",
    /// The packet with its ESP trailer does not fit into a buffer, or is longer than a datagram may be.
    TooLong = "too-long",
    /// No room was left in the buffer for headers.
    NoHeadroom = "no-headroom",
    /// A fragment, which transport mode does not encrypt and decapsulation does not reassemble (RFC 4303 §3.3.4, §3.4.1).
    Fragment = "fragment",
}

impl EspError {
    /// The error with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

impl fmt::Display for EspError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl core::error::Error for EspError {}
