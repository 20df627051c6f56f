//! ICMP errors about the packets of flows reach who sent those, as that knows them: "too big" above all.

use super::support::*;
use crate::common::*;
use services::Forwarding;

const SYN: What = What::Tcp(2);
const ACK: What = What::Tcp(16);

fn service(forwarding: Forwarding, places: &Places, port: u16) -> Testbed {
    let bed = Testbed::new();
    let backends = places.backends.map(|address| end(address, port).to_string());
    publish(&bed.shared, &compiled(forwarding, places.vip, &[&backends[0], &backends[1]]));
    bed
}

#[test]
fn about_answers_they_reach_the_flows_backend() {
    for places in [V4, V6] {
        for known in [true, false] {
            let mut bed = service(Forwarding::Nat, &places, 8080);
            for number in 0..20 {
                let (client, vip) = (end(places.client, 4000 + number), end(places.vip, 80));
                bed.send(0, &frame(0, client, vip, SYN, 0));
                let backend = ends(&bed.only_sent(1)).1;
                if !known {
                    // Another node has the flow: the tables know whose answer it was.
                    give_flows(&bed.shared, 1000);
                }
                let about = frame(0, vip, client, ACK, 0);
                bed.send(0, &too_big(0, places.routers[0], places.vip, &about[14..], 1400));
                let (to, mtu, quoted) = read_too_big(&bed.only_sent(1));
                assert_eq!((to, mtu), (backend.ip(), 1400));
                assert_eq!(quoted, frame(0, backend, client, ACK, 0)[14..], "as the backend sent it");
            }
            bed.assert_balanced();
        }
    }
}

#[test]
fn about_questions_they_reach_the_client() {
    for places in [V4, V6] {
        for forwarding in [Forwarding::Nat, Forwarding::FullNat] {
            let mut bed = service(forwarding, &places, 8080);
            let (client, vip) = (end(places.client, 4000), end(places.vip, 80));
            bed.send(0, &frame(0, client, vip, SYN, 0));
            let (source, backend) = ends(&bed.only_sent(1));
            let about = frame(1, source, backend, ACK, 40);
            let source = source.ip().to_string();
            bed.send(1, &too_big(1, places.routers[1], &source, &about[14..], 1300));
            let (to, mtu, quoted) = read_too_big(&bed.only_sent(0));
            assert_eq!((to, mtu), (client.ip(), 1300));
            assert_eq!(quoted, frame(1, client, vip, ACK, 40)[14..], "as the client sent it");
            bed.assert_balanced();
        }
    }
}

#[test]
fn of_full_nat_they_reach_the_backend_too() {
    for places in [V4, V6] {
        let mut bed = service(Forwarding::FullNat, &places, 8080);
        let (client, vip) = (end(places.client, 4000), end(places.vip, 80));
        bed.send(0, &frame(0, client, vip, SYN, 0));
        let (source, backend) = ends(&bed.only_sent(1));
        let about = frame(0, vip, client, ACK, 0);
        bed.send(0, &too_big(0, places.routers[0], places.vip, &about[14..], 1400));
        let (to, _, quoted) = read_too_big(&bed.only_sent(1));
        assert_eq!((to, ends_of_start(&quoted)), (backend.ip(), (backend, source)));
        bed.assert_balanced();
    }
}

#[test]
fn backends_that_answer_themselves_get_them_as_they_are() {
    for places in [V4, V6] {
        for forwarding in [Forwarding::Direct, Forwarding::Ipip, Forwarding::Gue] {
            for known in [true, false] {
                let mut bed = service(forwarding, &places, 80);
                let (client, vip) = (end(places.client, 4000), end(places.vip, 80));
                bed.send(0, &frame(0, client, vip, SYN, 0));
                let there = bed.only_sent(1);
                if !known {
                    give_flows(&bed.shared, 1000);
                }
                let about = frame(0, vip, client, ACK, 0);
                let error = too_big(0, places.routers[0], places.vip, &about[14..], 1400);
                bed.send(0, &error);
                let sent = bed.only_sent(1);
                let overhead = match forwarding {
                    Forwarding::Direct => 0,
                    Forwarding::Ipip => places.ip_bytes,
                    _ => places.ip_bytes + 8,
                };
                assert_eq!(sent[14 + overhead..], one_hop_on(&error));
                // To the backend that the flow has.
                let addresses = places.ip_bytes - 8 * (places.ip_bytes / 20);
                let outer = 14 + addresses..14 + places.ip_bytes;
                assert!(overhead == 0 || sent[outer.clone()] == there[outer], "another backend's");
                bed.assert_balanced();
            }
        }
    }
}

#[test]
fn about_echo_and_strangers_they_pass_as_they_are() {
    for places in [V4, V6] {
        let mut bed = service(Forwarding::Nat, &places, 8080);
        let (client, elsewhere) = (end(places.client, 4000), end(places.backends[0], 9999));
        let about = frame(1, client, elsewhere, ACK, 40);
        let error = too_big(1, places.routers[1], places.client, &about[14..], 1300);
        bed.send(1, &error);
        assert_eq!(bed.only_sent(0)[14..], one_hop_on(&error));
        bed.assert_balanced();
    }
}
