//! A network card that lies to its driver: the first byte says what the card offers, the others what driver and card do
//! one after the other.

use std::sync::OnceLock;

use buffer::{BufferPool, Vector};
use vm_memory::{Bytes, GuestAddress};

use crate::input::Input;
use crate::model::{Card, HEADER_BYTES, Memory, RINGS, model, offer};

/// Entries of each ring: few, as every input makes a card of its own.
const RING_ENTRIES: u16 = 16;
/// Buffers of the pool: enough for the rings and what was received.
const BUFFERS: usize = 128;
/// More steps find nothing that fewer do not.
const MAX_STEPS: usize = 64;
/// The longest frame that the card delivers.
const MAX_FRAME_BYTES: u16 = 9000;

/// Has driver and card do what `data` says.
pub fn run(data: &[u8]) {
    static POOL: OnceLock<&'static BufferPool> = OnceLock::new();
    let pool = POOL.get_or_init(|| Memory::get().pool(BUFFERS));
    let mut input = Input::new(data);
    let kind = input.byte();
    let features = offer::USUAL | RINGS[usize::from(kind) % RINGS.len()];
    let features = if kind & 4 != 0 { features & !offer::MRG_RXBUF } else { features };
    let model = model(features, RING_ENTRIES, true);
    let Ok(mut card) = Card::open_with(&model, 1, pool) else { panic!("a correct card, as yet") };
    let mut held = Vector::new();
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        step(&mut card, &mut held, &mut input);
    }
    card.cache.free(&mut held);
    drop(card);
    assert_eq!((pool.available(), model.live_regions()), (BUFFERS, 0), "buffers or rings were lost");
}

fn step(card: &mut Card, held: &mut Vector, input: &mut Input<'_>) {
    match input.byte() % 10 {
        0 | 1 => {
            card.cache.free(held);
            *held = card.receive(0);
            for packet in held.iter() {
                assert_eq!(packet.segments().map(<[u8]>::len).sum::<usize>(), packet.total_len());
            }
        }
        // A router sends on what it received, whatever that was.
        2 => card.queues[0].transmit(&mut card.cache, held),
        3 => drop(card.transmit(0, &vec![vec![7; 60]; usize::from(input.byte() % 24)])),
        4 => drop(card.queues[0].arm()),
        5 => card.queues[0].disarm(),
        6 => drop(card.control.link_up(0)),
        _ if !card.model.state().is_running() => {}
        7 => {
            let header: [u8; HEADER_BYTES] = std::array::from_fn(|_| input.byte());
            let _ = card.deliver(
                0,
                header,
                &[3; MAX_FRAME_BYTES as usize][..usize::from(input.word() % MAX_FRAME_BYTES)],
            );
        }
        8 => take_sent(card),
        _ => scribble(card, input),
    }
}

/// The card uses what was sent. A ring that was scribbled on can have chains for ever.
fn take_sent(card: &Card) {
    let mut state = card.model.state();
    for _ in 0..100 {
        let Some(chain) = state.queue(1).take() else { break };
        state.give_back(1, &chain, 0);
    }
}

/// Bytes at any place of the areas of a ring.
fn scribble(card: &Card, input: &mut Input<'_>) {
    let (areas, _) = card.model.state().areas(usize::from(input.byte() % 7));
    let area = areas[usize::from(input.byte() % 3)];
    let offset = u64::from(input.word() % 1024);
    let count = usize::from(input.byte() % 16);
    if area != 0 {
        // What lies outside is not written.
        let _ = Memory::get().guest().write_slice(input.bytes(count), GuestAddress(area + offset));
    }
}
