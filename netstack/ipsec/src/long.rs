//! Packets that do not fit into one buffer: jumbo frames, and ESP that was fragmented on its way and put together here.
//!
//! Ciphers want a packet in one piece. Such packets are rare, so each is copied into a worker's [`Long`], treated there, and
//! copied back by the caller: bounded memory, no chains anywhere else in this crate.

use crate::decapsulate::{examine, locate_in};
use crate::encapsulate::{MAX_PACKET_BYTES, Wrapping};
use crate::inner::accept;
use crate::jobs::{ExtendedHeader, Jobs};
use crate::outer::fill_checksum;
use crate::sa::HARD_EXPIRED;
use crate::{Claimant, EspError, Sa, Snapshot};
use alloc::boxed::Box;
use alloc::vec;
use buffer::Buf;
use core::ops::Range;
use crypto::Suite;
use packet::protocol;
use packet::udp::Udp;

/// Room before a packet: more than any headers of ESP.
const FRONT: usize = 128;

/// Memory of a worker for the longest packet with all that ESP puts around it.
pub struct Long {
    bytes: Box<[u8]>,
}

impl Default for Long {
    fn default() -> Self {
        Self::new()
    }
}

impl Long {
    /// Allocates it: 64 KiB.
    pub fn new() -> Self {
        Self { bytes: vec![0; FRONT + MAX_PACKET_BYTES].into_boxed_slice() }
    }

    /// Encrypts one packet as [`encapsulate`](crate::encapsulate()) does, and returns the outer packet, its checksums
    /// complete. The packet itself stays, but for its own checksum.
    ///
    /// # Errors
    /// As the SA counts them.
    pub fn encapsulate(
        &mut self,
        suite: &Suite,
        claimant: &Claimant,
        packet: &mut Buf,
        sa: &Sa,
        now_ns: u64,
    ) -> Result<&[u8], EspError> {
        let sealed = self.seal(suite, claimant, packet, sa, now_ns).inspect_err(|error| sa.refuse(*error))?;
        sa.count_sent(claimant, packet.total_len() as u64, now_ns);
        Ok(&self.bytes[sealed])
    }

    fn seal(
        &mut self,
        suite: &Suite,
        claimant: &Claimant,
        packet: &mut Buf,
        sa: &Sa,
        now_ns: u64,
    ) -> Result<Range<usize>, EspError> {
        if !sa.may_send(now_ns) {
            return Err(EspError::Expired);
        }
        packet.complete_checksum().map_err(|_| EspError::Malformed)?;
        let end = FRONT + packet.total_len();
        let inner = self.bytes.get_mut(FRONT..end).ok_or(EspError::TooLong)?;
        let _ = packet.copy_out(0, inner);
        let wrapping = Wrapping::new(sa, inner)?;
        let range = FRONT - wrapping.before..end + wrapping.added;
        let bytes = self.bytes.get_mut(range.clone()).ok_or(EspError::TooLong)?;
        let number = sa.sequence.take(claimant, 1).next().ok_or_else(|| {
            sa.raise(HARD_EXPIRED);
            sa.why_no_number()
        })?;
        let wrapped = wrapping.write(sa, bytes, number).and_then(|esp| {
            let (mut extended, mut jobs) = (ExtendedHeader::default(), Jobs::new());
            let text = bytes.get_mut(esp..).ok_or(EspError::Malformed)?;
            jobs.push(0, sa, number, text, &mut extended).ok_or(EspError::Malformed)?;
            jobs.seal(suite);
            Ok(esp)
        });
        let esp = wrapped.inspect_err(|_| sa.leave_number())?;
        if sa.how.udp && sa.how.outer_v6 {
            let _ = fill_checksum(bytes, esp - size_of::<Udp>(), protocol::UDP);
        }
        Ok(range)
    }

    /// Decrypts one packet as [`decapsulate`](crate::decapsulate()) does, and returns the inner packet and its SA. The packet
    /// itself stays.
    ///
    /// # Errors
    /// As the SA counts them, if there is one.
    pub fn decapsulate<'s>(
        &mut self,
        snapshot: &'s Snapshot,
        packet: &Buf,
        now_ns: u64,
    ) -> Result<(&'s Sa, &[u8]), EspError> {
        let bytes = self.bytes.get_mut(..packet.total_len()).ok_or(EspError::TooLong)?;
        let _ = packet.copy_out(0, bytes);
        let (spi, head) = locate_in(bytes)?;
        let sa = snapshot.inbound(spi).ok_or(EspError::UnknownSpi)?;
        let opened = (|| {
            let number = examine(sa, bytes, head, sa.may_receive(now_ns))?;
            let esp = bytes.get_mut(usize::from(head.place.esp)..).ok_or(EspError::Malformed)?;
            if !is_authentic(snapshot.suite(), sa, number, esp)? {
                return Err(EspError::AuthenticationFailed);
            }
            sa.window.accept(number)?;
            accept(sa, number, bytes, head.place)
        })();
        let inner = opened.inspect_err(|error| sa.refuse(*error))?;
        sa.count_received(1, inner.len() as u64, now_ns);
        Ok((sa, &bytes[inner]))
    }
}

/// Decrypts what starts at its SPI.
fn is_authentic(suite: &Suite, sa: &Sa, number: u64, esp: &mut [u8]) -> Result<bool, EspError> {
    let (mut extended, mut jobs) = (ExtendedHeader::default(), Jobs::new());
    jobs.push(0, sa, number, esp, &mut extended).ok_or(EspError::Malformed)?;
    Ok(jobs.open(suite) != 0)
}
