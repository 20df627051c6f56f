//! SCTP's checksum after other ports (RFC 9260 §6.8).
//!
//! A CRC is linear: the checksum of a packet with other ports is that of the packet before, and the CRC of the difference, which is
//! zero but for its first four bytes. How many zero bytes follow is a multiplication by a power of x, so that the packet
//! itself is not looked at.

/// The polynomial of `CRC32c`, bits reversed: the coefficient of x^0 is the highest bit.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// Length of an SCTP header, checksum included.
const HEADER_BYTES: usize = 12;
/// Bits of the exponents that occur: eight times the length of a packet.
const EXPONENT_BITS: usize = 20;

/// x to the power of 2^k.
static POWERS: [u32; EXPONENT_BITS] = {
    // x^1
    let mut powers = [1 << 30; EXPONENT_BITS];
    let mut k = 1;
    while k < EXPONENT_BITS {
        powers[k] = multiply(powers[k - 1], powers[k - 1]);
        k += 1;
    }
    powers
};

/// The product of two polynomials, modulo [`POLYNOMIAL`].
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 1 << 31;
    while bit != 0 {
        if a & bit != 0 {
            product ^= b;
        }
        b = (b >> 1) ^ (POLYNOMIAL & (b & 1).wrapping_neg());
        bit >>= 1;
    }
    product
}

/// Replaces the ports of the SCTP packet at `offset`, which has `length` bytes there, all told. Of what an ICMP error sends back
/// the checksum may be missing.
pub(crate) fn replace_ports(
    packet: &mut [u8],
    offset: usize,
    length: usize,
    ports: (u16, u16),
) -> Option<()> {
    let header = packet.get_mut(offset..)?;
    let place: &mut [u8; 4] = header.first_chunk_mut()?;
    let new = (u32::from(ports.0) << 16 | u32::from(ports.1)).to_be_bytes();
    let difference = u32::from_le_bytes(*place) ^ u32::from_le_bytes(new);
    *place = new;
    if let Some(checksum) = header.get_mut(8..HEADER_BYTES).and_then(<[u8]>::first_chunk_mut::<4>)
        // Zero is none (RFC 9653).
        && *checksum != [0; 4]
    {
        let change = (0..EXPONENT_BITS)
            .filter(|k| (length * 8) >> k & 1 == 1)
            .fold(difference, |change, k| multiply(POWERS[k], change));
        *checksum = (u32::from_le_bytes(*checksum) ^ change).to_le_bytes();
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `CRC32c` bit by bit.
    fn crc(bytes: &[u8]) -> u32 {
        let step = |crc: u32| (crc >> 1) ^ (POLYNOMIAL & (crc & 1).wrapping_neg());
        !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
    }

    #[test]
    fn the_oracle_is_right() {
        assert_eq!(crc(b"123456789"), 0xe306_9283);
    }

    proptest! {
        #[test]
        fn a_change_is_a_recount(
            mut packet in prop::collection::vec(any::<u8>(), 12..3000),
            offset in 0usize..60,
            ports in any::<(u16, u16)>(),
        ) {
            let fill = |packet: &mut [u8]| {
                packet[8..12].fill(0);
                let sum = crc(packet);
                packet[8..12].copy_from_slice(&sum.to_le_bytes());
            };
            fill(&mut packet);
            let mut all = vec![7; offset];
            all.extend_from_slice(&packet);
            prop_assert_eq!(replace_ports(&mut all, offset, packet.len(), ports), Some(()));
            packet[..2].copy_from_slice(&ports.0.to_be_bytes());
            packet[2..4].copy_from_slice(&ports.1.to_be_bytes());
            fill(&mut packet);
            prop_assert_eq!(&all[offset..], &packet[..]);
        }
    }

    #[test]
    fn what_is_cut_short_is_changed_as_far_as_it_goes() {
        let mut packet = [1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(replace_ports(&mut packet, 0, 100, (0x0a0b, 0x0c0d)), Some(()));
        assert_eq!(packet, [10, 11, 12, 13, 5, 6, 7, 8]);
        assert_eq!(replace_ports(&mut packet, 6, 100, (1, 2)), None);
    }
}
