//! The header before each frame (VIRTIO 1.3 §5.1.6): what it asks for on transmit, what it tells on receive.

use buffer::{Buf, Flags, NoRoom};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, little_endian::U16};

/// Always with `num_buffers`, as virtio 1 has it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
pub(super) struct Header {
    flags: u8,
    gso_type: u8,
    header_len: U16,
    gso_size: U16,
    csum_start: U16,
    csum_offset: U16,
    num_buffers: U16,
}

pub(super) const HEADER_BYTES: usize = 12;
const _: () = assert!(size_of::<Header>() == HEADER_BYTES);

const F_NEEDS_CSUM: u8 = 1;
const F_DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;

impl Header {
    /// Copies the header of a received frame, or none if it is not all there.
    #[inline(always)]
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        Self::read_from_prefix(bytes).ok().map(|(header, _)| header)
    }

    /// Over how many buffers the frame extends, if mergeable buffers were agreed on.
    #[inline(always)]
    pub(super) fn num_buffers(&self) -> u16 {
        self.num_buffers.get()
    }

    /// Marks a whole received frame with what the device says of its checksum. False when it cannot be so:
    /// a place outside the frame, or segmentation that nobody agreed on.
    ///
    /// A checksum that needs completing is of a packet that never was on a wire: good, and to be completed
    /// by whoever sends it on.
    #[inline(always)]
    pub(super) fn mark(&self, frame: &mut Buf) -> bool {
        if self.gso_type != GSO_NONE {
            return false;
        }
        if self.flags & F_NEEDS_CSUM == 0 {
            if self.flags & F_DATA_VALID != 0 {
                frame.meta_mut().flags.insert(Flags::RX_CSUM_GOOD);
            }
            return true;
        }
        let (start, offset) = (self.csum_start.get(), self.csum_offset.get());
        if usize::from(start) + usize::from(offset) + 2 > frame.len() {
            return false;
        }
        // Inside the first segment, whose room is far below 64 KiB.
        let csum_start = frame.start() as u16 + start;
        let meta = frame.meta_mut();
        meta.flags.insert(Flags::RX_CSUM_GOOD | Flags::TX_CSUM);
        (meta.csum_start, meta.csum_offset) = (csum_start, offset);
        true
    }

    /// Puts a header before a frame that is to be sent. Without checksum `offload` a checksum that needs
    /// completing is completed here.
    ///
    /// # Errors
    /// No headroom, or the frame says impossible things about its checksum.
    #[inline(always)]
    pub(super) fn prepend(frame: &mut Buf, offload: bool) -> Result<(), NoRoom> {
        let mut header = Self::default();
        if frame.meta().flags.contains(Flags::TX_CSUM) {
            if offload {
                let meta = frame.meta();
                let start = usize::from(meta.csum_start).checked_sub(frame.start()).ok_or(NoRoom)?;
                if start + usize::from(meta.csum_offset) + 2 > frame.total_len() {
                    return Err(NoRoom);
                }
                header.flags = F_NEEDS_CSUM;
                header.csum_start = U16::new(start as u16);
                header.csum_offset = U16::new(meta.csum_offset);
            } else {
                frame.complete_checksum()?;
            }
        }
        frame.push_front(HEADER_BYTES)?[..HEADER_BYTES].copy_from_slice(header.as_bytes());
        Ok(())
    }
}
