//! Cards that fail and are reset: they come back as they were, or not at all, and nothing is lost either way.

use drivers::virtio::{Fault, feature, net};

use crate::model::{Card, HEADER_BYTES, Memory, RINGS, common, model, offer, options};

const PLAIN: [u8; HEADER_BYTES] = [0; HEADER_BYTES];
const SECOND_NS: u64 = 1_000_000_000;
const BUFFERS: usize = 400;

/// Asks for the link until it is up or a thousand seconds have passed; the workers poll meanwhile. Whether it came up.
fn comes_back(card: &mut Card, pairs: usize, now_ns: &mut u64) -> bool {
    for _ in 0..10_000 {
        *now_ns += SECOND_NS / 10;
        if card.control.link_up(*now_ns) {
            return true;
        }
        for pair in 0..pairs {
            assert_eq!(card.receive(pair).len(), 0);
        }
    }
    false
}

fn forwards(card: &mut Card, pair: usize) {
    assert!(card.deliver(pair, PLAIN, &[7; 100]));
    let mut received = card.receive(pair);
    assert_eq!(received.len(), 1);
    card.queues[pair].transmit(&mut card.cache, &mut received);
    assert!(received.is_empty());
    assert_eq!(card.sent(pair).len(), 1);
}

#[test]
fn a_card_that_asks_for_a_reset_comes_back() {
    for rings in RINGS {
        let pool = Memory::get().pool(BUFFERS);
        let model = model(offer::USUAL | rings, 64, true);
        let mut card = Card::open_with(&model, 2, pool).expect("a correct card");
        let mut now_ns = SECOND_NS;
        assert!(card.control.link_up(now_ns));
        for round in 1..=3 {
            // Frames are under way in both directions.
            assert!(card.deliver(0, PLAIN, &[1; 60]));
            assert!(card.transmit(1, &[vec![2; 60], vec![3; 60]]).is_empty());
            model.state().ask_for_reset();
            assert!(!card.control.link_up(now_ns), "the link goes down with the card");
            assert_eq!(card.control.fault(), Some(Fault::NeedsReset.as_str()));
            assert!(!model.state().is_running());
            assert!(card.queues[0].arm(), "the worker has to look for its rings");
            assert!(comes_back(&mut card, 2, &mut now_ns));
            assert_eq!((card.control.fault(), card.control.stats().resets), (None, round));
            (0..2).for_each(|pair| forwards(&mut card, pair));
            assert!(!card.queues[0].arm());
            assert!(card.deliver(0, PLAIN, &[1; 60]));
            assert!(model.fired(1), "interrupts work again");
            card.queues[0].disarm();
            let mut received = card.receive(0);
            card.cache.free(&mut received);
            // Long enough ago for the next fault to be the first in a row.
            now_ns += 1000 * SECOND_NS;
        }
        drop(card);
        assert_eq!((pool.available(), model.live_regions()), (BUFFERS, 0));
    }
}

#[test]
fn workers_may_take_their_time() {
    let model = model(offer::USUAL | feature::EVENT_IDX, 64, true);
    let mut card = Card::open_with(&model, 2, Memory::get().pool(BUFFERS)).expect("a correct card");
    assert!(card.control.link_up(0));
    model.state().ask_for_reset();
    assert!(!card.control.link_up(SECOND_NS));
    for second in 2..20 {
        assert!(!card.control.link_up(second * SECOND_NS), "no worker has its rings yet");
    }
    assert!(model.state().is_running());
    assert_eq!(card.receive(0).len(), 0);
    assert!(!card.control.link_up(20 * SECOND_NS), "one worker does not have its rings yet");
    assert_eq!(card.receive(1).len(), 0);
    assert!(card.control.link_up(21 * SECOND_NS));
}

#[test]
fn a_card_that_was_reset_may_take_its_time_to_do_what_it_is_told() {
    for rings in RINGS {
        let pool = Memory::get().pool(BUFFERS);
        let model = model(offer::USUAL | rings, 64, true);
        let mut card = Card::open_with(&model, 2, pool).expect("a correct card");
        assert!(card.control.link_up(0));
        let commands = model.state().commands.clone();
        model.state().commands.clear();
        model.state().ask_for_reset();
        assert!(!card.control.link_up(SECOND_NS));
        model.state().stalled = true;
        // It is set up within this second, and has another one.
        for tenth in 11..=20 {
            assert!(!card.control.link_up(tenth * SECOND_NS / 10));
            (0..2).for_each(|pair| assert_eq!(card.receive(pair).len(), 0));
        }
        assert!(model.state().is_running(), "it is not reset before its time is over");
        model.state().resume();
        assert!(comes_back(&mut card, 2, &mut (2 * SECOND_NS)));
        assert_eq!((model.state().commands.clone(), card.control.stats().resets), (commands, 1));
        (0..2).for_each(|pair| forwards(&mut card, pair));
        drop(card);
        assert_eq!((pool.available(), model.live_regions()), (BUFFERS, 0));
    }
}

#[test]
fn a_card_that_never_does_what_it_is_told_is_given_up() {
    let pool = Memory::get().pool(BUFFERS);
    let model = model(offer::USUAL, 64, true);
    let mut card = Card::open_with(&model, 2, pool).expect("a correct card, as yet");
    assert!(card.control.link_up(0));
    model.state().ask_for_reset();
    assert!(!card.control.link_up(0));
    model.state().stalled = true;
    assert!(!comes_back(&mut card, 2, &mut 0));
    assert!(!model.state().is_running(), "left reset");
    assert_eq!((card.control.fault(), card.control.stats().resets), (Some(Fault::NeedsReset.as_str()), 0));
    drop(card);
    assert_eq!((pool.available(), model.live_regions()), (BUFFERS, 0));
}

#[test]
fn a_card_that_does_not_come_back_is_given_up() {
    for lie in [(common::DEVICE_STATUS, 0xff), (common::DEVICE_FEATURE, 0), (common::QUEUE_SIZE, 0)] {
        let pool = Memory::get().pool(BUFFERS);
        let model = model(offer::USUAL, 64, true);
        let mut card = Card::open_with(&model, 1, pool).expect("a correct card, as yet");
        assert!(card.control.link_up(0));
        model.state().ask_for_reset();
        assert!(!card.control.link_up(0));
        model.lie(lie.0, lie.1);
        assert!(!comes_back(&mut card, 1, &mut 0));
        assert_eq!(card.control.fault(), Some(Fault::NeedsReset.as_str()));
        assert_eq!(card.control.stats().resets, 0);
        assert!(!card.queues[0].arm(), "nothing will come: the worker may sleep");
        drop(card);
        // A device that never confirmed its reset keeps what it was given.
        if lie.0 != common::DEVICE_STATUS {
            assert_eq!((pool.available(), model.live_regions()), (BUFFERS, 0));
        }
    }
}

#[test]
fn a_card_that_comes_back_as_another_one_is_given_up() {
    let model = model(offer::USUAL, 64, true);
    let mut card = Card::open_with(&model, 1, Memory::get().pool(BUFFERS)).expect("a correct card, as yet");
    assert!(card.control.link_up(0));
    model.state().ask_for_reset();
    assert!(!card.control.link_up(0));
    model.state().config[5] ^= 1;
    assert!(!comes_back(&mut card, 1, &mut 0));
    assert!(!model.state().is_running(), "left reset");
    model.state().config[5] ^= 1;
    assert!(!comes_back(&mut card, 1, &mut 0), "and for good");
}

#[test]
fn a_card_that_fails_again_and_again_is_given_up() {
    let model = model(offer::USUAL, 64, true);
    let mut card = Card::open_with(&model, 1, Memory::get().pool(BUFFERS)).expect("a correct card, as yet");
    let mut now_ns = 0;
    let mut resets = 0;
    while comes_back(&mut card, 1, &mut now_ns) {
        model.state().ask_for_reset();
        assert!(!card.control.link_up(now_ns));
        resets += 1;
        assert!(resets < 100);
    }
    assert_eq!(card.control.stats().resets, 8);
}

#[test]
fn a_card_that_refuses_its_first_command_is_a_port_that_is_reset_later() {
    for rings in RINGS {
        let pool = Memory::get().pool(BUFFERS);
        let model = model(offer::USUAL | rings, 64, true);
        model.state().answer = Some(1);
        let found = net::find(model.clone(), &options(2)).expect("nothing is wrong so far");
        assert!(found.link_up());
        let info = found.info().clone();
        let ((control, queues), told) = found.begin(0).expect("nothing is wrong so far").finish();
        assert!(told.is_err());
        let mut card = Card { model: model.clone(), control, queues, cache: pool.cache() };
        let mut now_ns = SECOND_NS;
        assert!(!card.control.link_up(now_ns));
        assert_eq!(card.control.fault(), Some(Fault::ControlCommand.as_str()));
        model.state().answer = None;
        assert!(comes_back(&mut card, 2, &mut now_ns));
        assert_eq!((card.control.info(), card.control.fault()), (&info, None));
        (0..2).for_each(|pair| forwards(&mut card, pair));
        drop(card);
        assert_eq!((pool.available(), model.live_regions()), (BUFFERS, 0));
    }
}
