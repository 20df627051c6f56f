//! The network card: frames both ways, checksums, link, queue pairs, interrupts.

use buffer::{Buf, Flags, Vector};
use drivers::bus::InterruptTarget;
use drivers::virtio::{feature, net};

use crate::model::{Card, HEADER_BYTES, MAC, Memory, PAIRS, RINGS, model, offer, options};

const PLAIN: [u8; HEADER_BYTES] = [0; HEADER_BYTES];

fn frame(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (number * 31 + at * 7) as u8).collect()
}

fn bytes(packet: &Buf) -> Vec<u8> {
    packet.segments().collect::<Vec<_>>().concat()
}

/// A header as the device writes it: flags, and where the checksum starts and goes.
fn header(flags: u8, csum_start: u16, csum_offset: u16) -> [u8; HEADER_BYTES] {
    let mut header = [flags, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    header[6..8].copy_from_slice(&csum_start.to_le_bytes());
    header[8..10].copy_from_slice(&csum_offset.to_le_bytes());
    header
}

#[test]
fn bursts_are_received_in_order() {
    for rings in RINGS {
        let mut card = Card::open(offer::USUAL | rings);
        let mut number = 0;
        for count in [1, 2, 67, 256, 67, 1] {
            let frames: Vec<_> = (0..count).map(|i| frame(number + i, 60 + (i * 97) % 1455)).collect();
            number += count;
            assert!(frames.iter().all(|frame| card.deliver(0, PLAIN, frame)));
            let mut received = card.receive(0);
            assert_eq!(received.iter().map(bytes).collect::<Vec<_>>(), frames);
            assert!(received.iter().all(|packet| packet.meta().flags.is_empty() && !packet.is_chained()));
            assert_eq!(card.receive(0).len(), 0);
            card.cache.free(&mut received);
        }
        let stats = card.control.stats();
        assert_eq!((stats.rx_packets, stats.rx_errors, stats.rx_no_buffer), (394, 0, 0));
    }
}

#[test]
fn bursts_are_sent_in_order_with_one_notification() {
    for rings in RINGS {
        let mut card = Card::open(offer::USUAL | rings);
        let mut number = 0;
        let mut total = 0;
        for count in [1, 2, 67, 256, 256] {
            let frames: Vec<_> = (0..count).map(|i| frame(number + i, 14 + (i * 97) % 1501)).collect();
            number += count;
            total += frames.iter().map(Vec::len).sum::<usize>() as u64;
            let rings_before = card.model.state().rings(1);
            assert!(card.transmit(0, &frames).is_empty());
            assert_eq!(card.model.state().rings(1), rings_before + 1);
            let sent = card.sent(0);
            assert!(sent.iter().all(|(header, _)| header == &[0; 12]));
            assert_eq!(sent.into_iter().map(|(_, frame)| frame).collect::<Vec<_>>(), frames);
        }
        let stats = card.control.stats();
        assert_eq!((stats.tx_packets, stats.tx_bytes, stats.tx_errors), (582, total, 0));
    }
}

#[test]
fn what_does_not_fit_stays_with_the_caller() {
    for rings in RINGS {
        let mut card = Card::open(offer::USUAL | rings);
        let frames: Vec<_> = (0..200).map(|i| frame(i, 60)).collect();
        assert!(card.transmit(0, &frames).is_empty());
        let mut left = card.transmit(0, &frames);
        assert_eq!(left.iter().map(bytes).collect::<Vec<_>>(), frames[56..]);
        assert_eq!(card.sent(0).len(), 256);
        card.queues[0].transmit(&mut card.cache, &mut left);
        assert!(left.is_empty());
        assert_eq!(card.sent(0).into_iter().map(|(_, frame)| frame).collect::<Vec<_>>(), frames[56..]);
    }
}

#[test]
fn jumbo_frames_are_chains() {
    for rings in RINGS {
        let mut card = Card::open(offer::USUAL | offer::MTU | rings);
        assert_eq!(card.control.info().max_mtu, 9000);
        for round in 0..60 {
            let lens = [9018, 60, 2036, 2037, 2048 * 2 - 12, 2048 * 2 - 11, 1514];
            for len in lens {
                assert!(card.deliver(0, PLAIN, &frame(round, len)));
            }
            let mut received = card.receive(0);
            for (packet, len) in received.iter().zip(lens) {
                assert_eq!(bytes(packet), frame(round, len));
                assert_eq!(packet.total_len(), len);
                assert_eq!(packet.is_chained(), len > 2036);
            }
            // A router sends on what it received.
            card.queues[0].transmit(&mut card.cache, &mut received);
            assert!(received.is_empty());
            let sent: Vec<_> = card.sent(0).into_iter().map(|(_, frame)| frame).collect();
            assert_eq!(sent, lens.map(|len| frame(round, len)));
        }
        assert_eq!(card.control.stats().rx_errors, 0);
    }
}

#[test]
fn without_mergeable_buffers_the_mtu_is_that_of_one_buffer() {
    let mut card = Card::open((offer::USUAL | offer::MTU) & !offer::MRG_RXBUF);
    let mtu = usize::from(card.control.info().max_mtu);
    assert_eq!(mtu, 2048 - 12 - 22);
    assert!(!card.model.state().negotiated(offer::MTU), "it would promise to receive 9000");
    let longest = frame(1, mtu + 22);
    assert!(card.deliver(0, PLAIN, &longest));
    assert_eq!(card.receive(0).iter().map(bytes).collect::<Vec<_>>(), [longest]);
}

#[test]
fn checksum_state_comes_with_a_frame() {
    for rings in RINGS {
        let mut card = Card::open(offer::USUAL | rings);
        let whole = frame(3, 100);
        for header in [PLAIN, header(2, 0, 0), header(1, 34, 16), header(1, 82, 16)] {
            assert!(card.deliver(0, header, &whole));
        }
        let received = card.receive(0);
        let flags: Vec<_> = received.iter().map(|packet| packet.meta().flags).collect();
        let partial = Flags::RX_CSUM_GOOD | Flags::TX_CSUM;
        assert_eq!(flags, [Flags::empty(), Flags::RX_CSUM_GOOD, partial, partial]);
        let place = |packet: &Buf| usize::from(packet.meta().csum_start) - packet.start();
        assert_eq!((place(&received[2]), received[2].meta().csum_offset), (34, 16));
    }
}

#[test]
fn impossible_headers_are_refused() {
    let mut card = Card::open(offer::USUAL);
    let whole = frame(3, 100);
    let segmentation = [0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for header in [header(1, 83, 16), header(1, u16::MAX, u16::MAX), header(1, 99, 0), segmentation] {
        assert!(card.deliver(0, header, &whole));
    }
    for short in [&whole[..13], &[]] {
        assert!(card.deliver(0, PLAIN, short));
    }
    assert!(card.deliver(0, PLAIN, &whole[..14]));
    assert_eq!(card.receive(0).iter().map(bytes).collect::<Vec<_>>(), [&whole[..14]]);
    assert_eq!(card.control.stats().rx_errors, 6);
    assert!(card.control.link_up(0), "that breaks no ring");
}

/// A frame as a router that pushed and pulled headers has it: its checksum is still to be completed.
fn partial(card: &mut Card, offload_start: usize) -> (Vector, Vec<u8>) {
    let mut packet = card.cache.allocate().expect("buffers are left");
    packet.append(&frame(9, 300)).expect("it fits");
    packet.meta_mut().flags.insert(Flags::TX_CSUM);
    packet.meta_mut().csum_start = (packet.start() + offload_start) as u16;
    packet.meta_mut().csum_offset = 6;
    let mut tail = card.cache.allocate().expect("buffers are left");
    tail.append(&frame(10, 201)).expect("it fits");
    packet.append_segment(tail);
    packet.pull_front(4).expect("it is longer");
    let whole = bytes(&packet);
    (Vector::from_iter([packet]), whole)
}

#[test]
fn a_partial_checksum_is_handed_on_or_completed() {
    for rings in RINGS {
        let mut card = Card::open(offer::USUAL | rings);
        let (mut packets, whole) = partial(&mut card, 34);
        card.queues[0].transmit(&mut card.cache, &mut packets);
        assert_eq!(card.sent(0), [(header(1, 30, 6).to_vec(), whole)]);

        let mut card = Card::open((offer::USUAL | rings) & !offer::CSUM);
        assert!(!card.control.info().offloads.tx_csum);
        let (mut packets, whole) = partial(&mut card, 34);
        card.queues[0].transmit(&mut card.cache, &mut packets);
        let sent = card.sent(0);
        assert_eq!(sent[0].0, PLAIN);
        let words = |bytes: &[u8]| {
            let word = |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
            bytes.chunks(2).map(word).sum::<u64>() % 0xffff
        };
        // The field stood for the pseudo-header: with it, what was sent sums to all ones.
        assert_eq!((words(&sent[0].1[30..]) + words(&whole[36..38])) % 0xffff, 0);
        assert_eq!((&sent[0].1[..36], &sent[0].1[38..]), (&whole[..36], &whole[38..]));
    }
}

#[test]
fn frames_that_cannot_be_sent_are_counted() {
    let mut card = Card::open(offer::USUAL);
    let (mut outside, _) = partial(&mut card, 500);
    let (mut before, _) = partial(&mut card, 0);
    let mut no_headroom = card.cache.allocate().expect("buffers are left");
    let _ = no_headroom.push_front(250).expect("there is headroom");
    let mut too_many = card.cache.allocate().expect("buffers are left");
    too_many.append(&[1; 20]).expect("it fits");
    for _ in 0..40 {
        let mut tail = card.cache.allocate().expect("buffers are left");
        tail.append(&[2; 20]).expect("it fits");
        too_many.append_segment(tail);
    }
    let mut packets = Vector::from_iter([no_headroom, too_many]);
    packets.extend(outside.drain(..));
    packets.extend(before.drain(..));
    card.queues[0].transmit(&mut card.cache, &mut packets);
    assert!(packets.is_empty());
    assert_eq!(card.sent(0), []);
    assert_eq!((card.control.stats().tx_packets, card.control.stats().tx_errors), (0, 4));
}

#[test]
fn a_chain_longer_than_the_queue_does_not_block_it() {
    let model = model(offer::USUAL, 4, true);
    let mut card = Card::open_with(&model, 1, Memory::get().pool(100)).expect("a correct card");
    let mut packets = Vector::new();
    for segments in [5, 1, 4] {
        let mut bufs = (0..segments).map(|number| {
            let mut buf = card.cache.allocate().expect("buffers are left");
            buf.append(&frame(number, 20)).expect("it fits");
            buf
        });
        let mut packet = bufs.next().expect("one at least");
        bufs.for_each(|buf| packet.append_segment(buf));
        assert!(packets.push(packet).is_ok());
    }
    card.queues[0].transmit(&mut card.cache, &mut packets);
    assert_eq!(packets.len(), 1, "four segments do not fit behind one");
    assert_eq!((card.control.stats().tx_errors, card.sent(0).len()), (1, 1));
    card.queues[0].transmit(&mut card.cache, &mut packets);
    assert_eq!((packets.len(), card.sent(0)[0].1.len()), (0, 80));
}

#[test]
fn each_worker_has_its_queue_pair() {
    for rings in RINGS {
        let model = model(offer::USUAL | rings, 64, true);
        let mut card = Card::open_with(&model, 2, Memory::get().pool(400)).expect("a correct card");
        assert_eq!((card.queues.len(), card.control.info().queues), (2, 2));
        let live: Vec<_> = (0..7).map(|queue| model.state().is_live(queue)).collect();
        assert_eq!(live, [true, true, true, true, false, false, true], "the control queue is the last");
        assert_eq!(model.state().commands, [vec![4, 0, 2, 0], vec![0, 0, 1]], "two pairs, promiscuous");
        assert!(card.deliver(1, PLAIN, &frame(1, 60)));
        assert_eq!((card.receive(0).len(), card.receive(1).len()), (0, 1));
        assert!(card.transmit(1, &[frame(2, 60)]).is_empty());
        assert_eq!((card.sent(0).len(), card.sent(1).len()), (0, 1));
    }
    // Each pair interrupts its own worker: with one vector for control and one more there is one pair.
    let few = model(offer::USUAL, 64, true);
    few.state().vectors = 2;
    let card = Card::open_with(&few, 2, Memory::get().pool(400)).expect("a correct card");
    assert_eq!(card.queues.len(), 1);

    let model = model(offer::USUAL, 64, true);
    let card = Card::open_with(&model, 16, Memory::get().pool(400)).expect("a correct card");
    assert_eq!(card.queues.len(), usize::from(PAIRS));
}

#[test]
fn the_link_is_followed() {
    for msix in [true, false] {
        let model = model(offer::USUAL, 64, msix);
        let mut card = Card::open_with(&model, 1, Memory::get().pool(100)).expect("a correct card");
        assert_eq!(card.control.info().mac, MAC);
        assert!(card.control.link_up(0));
        model.state().change_config(|config| config[6] = 0);
        assert!(!card.control.link_up(0));
        assert!(!card.control.link_up(0));
        // As QEMU does: drops what is sent, and wants to hear of no more.
        model.state().queue(1).disable_notification();
        assert!(card.transmit(0, &[frame(1, 60)]).is_empty());
        let rings_before = model.state().rings(1);
        model.state().change_config(|config| config[6] = 1);
        assert!(card.control.link_up(0));
        assert_eq!(model.state().rings(1), rings_before + 1, "the device is told to look again");
        assert!(card.control.link_up(0));
        assert_eq!(model.state().rings(1), rings_before + 1);
    }
    let mut always = Card::open(offer::USUAL & !offer::STATUS);
    always.model.state().change_config(|config| config[6] = 0);
    assert!(always.control.link_up(0));
}

#[test]
fn an_interrupt_comes_only_when_armed() {
    const PAIR_VECTOR: u16 = 1;
    for rings in RINGS {
        let mut card = Card::open(offer::USUAL | rings);
        let deliver = |card: &Card| assert!(card.deliver(0, PLAIN, &frame(1, 60)));
        deliver(&card);
        assert!(!card.model.fired(PAIR_VECTOR), "nobody asked");
        assert!(card.queues[0].arm(), "a frame is there");
        card.queues[0].disarm();
        assert_eq!(card.receive(0).len(), 1);

        assert!(!card.queues[0].arm());
        deliver(&card);
        assert!(card.model.fired(PAIR_VECTOR));
        card.queues[0].disarm();
        assert!(!card.model.fired(PAIR_VECTOR), "taken");
        assert_eq!(card.control.stats().interrupts, 1);
        for _ in 0..50 {
            deliver(&card);
        }
        assert!(!card.model.fired(PAIR_VECTOR));
        assert_eq!(card.receive(0).len(), 51);
    }
}

#[test]
fn without_msix_a_worker_must_not_sleep() {
    let model = model(offer::USUAL, 64, false);
    let mut card = Card::open_with(&model, 1, Memory::get().pool(100)).expect("a correct card");
    assert!(card.queues[0].arm());
}

#[test]
fn an_empty_pool_delays_and_loses_nothing_else() {
    for rings in RINGS {
        let pool = Memory::get().pool(40);
        let mut card =
            Card::open_with(&model(offer::USUAL | rings, 64, true), 1, pool).expect("a correct card");
        let mut kept: Vec<Vector> = Vec::new();
        for number in 0..40 {
            assert!(card.deliver(0, PLAIN, &frame(number, 60)));
        }
        kept.push(card.receive(0));
        assert_eq!(kept[0].len(), 40);
        assert!(!card.deliver(0, PLAIN, &frame(1, 60)), "the device has no buffer");
        assert!(card.queues[0].arm(), "no interrupt would come");
        assert!(card.control.stats().rx_no_buffer > 0);
        // Two buffers are posted: a frame that needs three would not be received, and nothing would be heard of it.
        let mut two: Vector = kept[0].drain(..2).collect();
        card.cache.free(&mut two);
        assert_eq!(card.receive(0).len(), 0);
        assert!(!card.deliver(0, PLAIN, &frame(1, 5000)), "the device has too few buffers");
        assert!(card.queues[0].arm(), "no interrupt would come");
        card.cache.free(&mut kept[0]);
        assert_eq!(card.receive(0).len(), 0);
        assert!(card.deliver(0, PLAIN, &frame(1, 60)));
        assert_eq!(card.receive(0).len(), 1);
    }
}

#[test]
fn a_closed_card_is_reset_and_gives_everything_back() {
    for rings in RINGS {
        let pool = Memory::get().pool(600);
        let model = model(offer::USUAL | rings, 256, true);
        let mut card = Card::open_with(&model, 1, pool).expect("a correct card");
        assert!(card.deliver(0, PLAIN, &frame(1, 5000)));
        assert!(card.transmit(0, &[frame(1, 60), frame(2, 60)]).is_empty());
        assert!(model.state().is_running());
        assert!(pool.available() < 600);
        drop(card);
        assert!(!model.state().is_running());
        assert_eq!((pool.available(), model.live_regions()), (600, 0));
    }
}

#[test]
fn a_card_may_be_opened_again() {
    let model = model(offer::USUAL | feature::RING_PACKED, 128, true);
    let pool = Memory::get().pool(300);
    for _ in 0..3 {
        let mut card = Card::open_with(&model, 1, pool).expect("a correct card");
        assert!(card.deliver(0, PLAIN, &frame(1, 60)));
        assert_eq!(card.receive(0).len(), 1);
    }
    assert_eq!(pool.available(), 300);
}

#[test]
fn what_was_sent_comes_back_though_nothing_else_is_sent() {
    for rings in RINGS {
        let pool = Memory::get().pool(400);
        let model = model(offer::USUAL | rings, 64, true);
        let mut card = Card::open_with(&model, 1, pool).expect("a correct card");
        let available = |card: &mut Card| {
            let mut all = Vector::new();
            let mut count = 0;
            let mut vectors = Vec::new();
            while card.cache.allocate_into(&mut all, 256) > 0 {
                count += all.len();
                vectors.push(core::mem::take(&mut all));
            }
            vectors.iter_mut().for_each(|vector| card.cache.free(vector));
            count
        };
        let before = available(&mut card);
        assert!(card.transmit(0, &(0..50).map(|number| frame(number, 60)).collect::<Vec<_>>()).is_empty());
        assert_eq!(available(&mut card), before - 50);
        assert_eq!(card.sent(0).len(), 50);
        assert_eq!(card.receive(0).len(), 0);
        assert_eq!(available(&mut card), before);
    }
}

#[test]
fn a_card_without_an_address_gets_one() {
    let card = Card::open(offer::USUAL & !offer::MAC);
    assert_eq!(card.control.info().mac, [net::LOCALLY_ADMINISTERED, 1, 2, 3, 4, 5]);
}

#[test]
fn a_pair_wakes_the_worker_that_it_was_dealt_to() {
    let model = model(offer::USUAL, 64, true);
    let options = net::NetOptions { first_worker: 3, workers: 4, ..options(3) };
    let _card = net::open(model.clone(), &options).expect("a correct card");
    let workers = [3, 0, 1].map(InterruptTarget::Worker);
    assert_eq!(model.state().targets, [&[InterruptTarget::Control][..], &workers].concat());
}
