//! A network card with its cable in the test's hand.

use std::sync::Arc;

use buffer::{BufferCache, BufferPool, PortControl, PortQueue, Vector};
use drivers::virtio::{Error, feature, net};

use super::{Chain, Kind, Memory, Model, Setup};

/// Feature bits of the card (VIRTIO 1.3 §5.1.3).
pub mod offer {
    pub const CSUM: u64 = 1 << 0;
    pub const GUEST_CSUM: u64 = 1 << 1;
    pub const MTU: u64 = 1 << 3;
    pub const MAC: u64 = 1 << 5;
    pub const GUEST_TSO4: u64 = 1 << 7;
    pub const MRG_RXBUF: u64 = 1 << 15;
    pub const STATUS: u64 = 1 << 16;
    pub const CTRL_VQ: u64 = 1 << 17;
    pub const CTRL_RX: u64 = 1 << 18;
    pub const MQ: u64 = 1 << 22;

    /// What QEMU offers by default, more or less.
    pub const USUAL: u64 = CSUM | GUEST_CSUM | MAC | GUEST_TSO4 | MRG_RXBUF | STATUS | CTRL_VQ | CTRL_RX | MQ;
}

pub const MAC: [u8; 6] = [0x52, 0x54, 0, 0xab, 0xcd, 0xef];
pub const PAIRS: u16 = 3;
pub const HEADER_BYTES: usize = 12;

/// The kinds of rings that every test of the card runs over.
pub const RINGS: [u64; 4] =
    [0, feature::EVENT_IDX, feature::RING_PACKED, feature::RING_PACKED | feature::EVENT_IDX];

pub struct Card {
    pub model: Arc<Model>,
    pub control: Box<dyn PortControl>,
    pub queues: Vec<Box<dyn PortQueue>>,
    pub cache: BufferCache,
}

/// A card that nobody opened yet.
pub fn model(features: u64, queue_size: u16, msix: bool) -> Arc<Model> {
    let mut config = MAC.to_vec();
    config.extend([1, 0, PAIRS as u8, 0]);
    config.extend(9000u16.to_le_bytes());
    let queues = 2 * usize::from(PAIRS) + 1;
    Model::new(Setup { kind: Kind::Net, features, queues, queue_size, config, msix })
}

pub fn options(queue_pairs: u16) -> net::NetOptions {
    let fallback_mac = [net::LOCALLY_ADMINISTERED, 1, 2, 3, 4, 5];
    net::NetOptions {
        name: "eth0".into(),
        queue_pairs,
        first_worker: 0,
        workers: queue_pairs,
        queue_size: 256,
        packed: true,
        fallback_mac,
    }
}

impl Card {
    pub fn open(features: u64) -> Self {
        Self::open_with(&model(features, 256, true), 1, Memory::get().pool(1200)).expect("a correct card")
    }

    pub fn open_with(model: &Arc<Model>, pairs: u16, pool: &'static BufferPool) -> Result<Self, Error> {
        let (control, queues) = net::open(model.clone(), &options(pairs))?;
        let mut card = Self { model: model.clone(), control, queues, cache: pool.cache() };
        // The first poll posts the receive buffers.
        for pair in 0..card.queues.len() {
            assert_eq!(card.receive(pair).len(), 0);
        }
        Ok(card)
    }

    pub fn receive(&mut self, pair: usize) -> Vector {
        let mut out = Vector::new();
        let received = self.queues[pair].receive(&mut self.cache, &mut out);
        assert_eq!(received, out.len());
        out
    }

    /// Sends frames of one buffer each, and returns those that did not fit.
    pub fn transmit(&mut self, pair: usize, frames: &[Vec<u8>]) -> Vector {
        let mut packets = Vector::new();
        for frame in frames {
            let mut buf = self.cache.allocate().expect("buffers are left");
            buf.append(frame).expect("it fits");
            assert!(packets.push(buf).is_ok());
        }
        self.queues[pair].transmit(&mut self.cache, &mut packets);
        packets
    }

    /// The device receives a frame. False: it has no buffers for it.
    pub fn deliver(&self, pair: usize, header: [u8; HEADER_BYTES], frame: &[u8]) -> bool {
        let mut state = self.model.state();
        let mergeable = state.negotiated(offer::MRG_RXBUF);
        let mut bytes = [&header[..], frame].concat();
        let mut chains: Vec<Chain> = Vec::new();
        let mut room = 0;
        while room < bytes.len() && (mergeable || chains.is_empty()) {
            let Some(chain) = state.queue(2 * pair).take() else { return false };
            room += chain.pieces.iter().map(|piece| piece.len as usize).sum::<usize>();
            chains.push(chain);
        }
        bytes[10..12].copy_from_slice(&(chains.len() as u16).to_le_bytes());
        let mut rest = &bytes[..];
        for chain in chains {
            let written = chain.write(rest);
            rest = &rest[written as usize..];
            state.give_back(2 * pair, &chain, written);
        }
        true
    }

    /// What was sent: header and frame of each. The device uses every chain.
    pub fn sent(&self, pair: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut state = self.model.state();
        let mut sent = Vec::new();
        while let Some(chain) = state.queue(2 * pair + 1).take() {
            assert!(chain.pieces.iter().all(|piece| !piece.device_writes));
            let mut header = chain.readable_bytes();
            let frame = header.split_off(HEADER_BYTES);
            sent.push((header, frame));
            state.give_back(2 * pair + 1, &chain, 0);
        }
        let _ = state.queue(2 * pair + 1).enable_notification();
        sent
    }
}
