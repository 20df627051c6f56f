//! Which backend a QUIC packet names: its connection ID, which the backend has chosen, carries a server ID that stays the same
//! when the client's address changes.
//!
//! Form: draft-ietf-quic-load-balancers, plaintext. The first octet of a connection ID has the configuration's number in its
//! upper three bits, 7 for none; then comes the server ID, of a length that is agreed on. Here it is the last bytes of the
//! backend's address. Where the connection ID is: RFC 8999 §5.

use alloc::vec::Vec;
use core::net::IpAddr;

/// Bytes that a server ID may have.
const MAX_BYTES: usize = 15;
/// Where the destination connection ID of a long header has its length.
const LONG_LENGTH: usize = 5;
/// The configuration that no connection ID is routed by.
const UNROUTABLE: u8 = 7;

/// A server ID, with zeros behind it.
type Id = [u8; MAX_BYTES];

/// The server IDs of a service's backends.
pub(crate) struct ServerIds {
    bytes: usize,
    /// In order, with the backends' numbers.
    backends: Vec<(Id, u32)>,
}

impl ServerIds {
    /// IDs of so many bytes. Of several backends with one ID nobody is found by it.
    pub(crate) fn new(bytes: u8, backends: impl Iterator<Item = (IpAddr, u32)>) -> Self {
        let bytes = usize::from(bytes).min(MAX_BYTES);
        let id_of = |address: IpAddr| match address {
            IpAddr::V4(address) => id(&address.octets(), bytes),
            IpAddr::V6(address) => id(&address.octets(), bytes),
        };
        let mut all: Vec<(Id, u32)> =
            backends.filter_map(|(address, number)| Some((id_of(address)?, number))).collect();
        all.sort_unstable();
        let is_alone = |(index, (id, _)): &(usize, &(Id, u32))| {
            let is_other =
                |at: Option<usize>| at.and_then(|at| all.get(at)).is_none_or(|(other, _)| other != id);
            is_other(index.checked_sub(1)) && is_other(index.checked_add(1))
        };
        let backends = all.iter().enumerate().filter(is_alone).map(|(_, backend)| *backend).collect();
        Self { bytes, backends }
    }

    /// The number of the backend that a UDP datagram's payload names.
    pub(crate) fn backend(&self, datagram: &[u8]) -> Option<u32> {
        let id = server_id(datagram, self.bytes)?;
        let at = self.backends.binary_search_by(|(known, _)| known.cmp(&id)).ok()?;
        self.backends.get(at).map(|(_, number)| *number)
    }
}

/// The last `bytes` of an address.
fn id(address: &[u8], bytes: usize) -> Option<Id> {
    let last = address.get(address.len().checked_sub(bytes)?..)?;
    let mut id = Id::default();
    id.get_mut(..bytes)?.copy_from_slice(last);
    Some(id)
}

/// The server ID that a QUIC packet would have, if it has room for one.
fn server_id(datagram: &[u8], bytes: usize) -> Option<Id> {
    let is_long = datagram.first()? & 0x80 != 0;
    let connection_id = if is_long {
        let length = usize::from(*datagram.get(LONG_LENGTH)?);
        datagram.get(LONG_LENGTH + 1..)?.get(..length)?
    } else {
        // Its length is its owner's secret; the rest of the packet is there in any case.
        datagram.get(1..)?
    };
    let (first, rest) = connection_id.split_first()?;
    if first >> 5 == UNROUTABLE {
        return None;
    }
    let mut id = Id::default();
    id.get_mut(..bytes)?.copy_from_slice(rest.get(..bytes)?);
    Some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn short(connection_id: &[u8]) -> Vec<u8> {
        [&[0x41][..], connection_id, &[9; 20]].concat()
    }

    fn long(connection_id: &[u8]) -> Vec<u8> {
        [&[0xe0, 0, 0, 0, 1, connection_id.len() as u8][..], connection_id, &[9; 20]].concat()
    }

    /// The draft's test vector of an unencrypted connection ID: configuration 0, server ID c4605e, nonce 4504cc4f.
    const VECTOR: [u8; 8] = [0x07, 0xc4, 0x60, 0x5e, 0x45, 0x04, 0xcc, 0x4f];

    #[test]
    fn the_drafts_vector_names_its_server() {
        let backends = [([10, 0xc4, 0x60, 0x5e], 5), ([10, 0xc4, 0x60, 0x5f], 6)];
        let ids = ServerIds::new(3, backends.into_iter().map(|(address, number)| (address.into(), number)));
        assert_eq!(ids.backend(&short(&VECTOR)), Some(5));
        assert_eq!(ids.backend(&long(&VECTOR)), Some(5));
        let mut other = VECTOR;
        other[3] = 0x60;
        assert_eq!(ids.backend(&short(&other)), None);
        other = VECTOR;
        other[0] |= 0xe0;
        assert_eq!(ids.backend(&short(&other)), None, "not for routing");
        assert_eq!(ids.backend(&long(&VECTOR[..3])), None);
        for length in 0..4 {
            assert_eq!(ids.backend(&short(&VECTOR)[..length]), None);
        }
    }

    #[test]
    fn an_id_of_two_backends_is_nobodys() {
        let backends = [([10, 0, 0, 1], 1), ([10, 0, 1, 1], 2), ([10, 0, 1, 2], 3)];
        let ids = ServerIds::new(1, backends.into_iter().map(|(address, number)| (address.into(), number)));
        assert_eq!(ids.backend(&short(&[0, 1])), None);
        assert_eq!(ids.backend(&short(&[0, 2])), Some(3));
        let none = ServerIds::new(5, [([10, 0, 0, 1].into(), 1)].into_iter());
        assert_eq!(none.backend(&short(&[0, 10, 0, 0, 1, 0])), None);
    }
}
