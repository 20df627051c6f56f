//! What must never come twice under one key: sequence numbers and IVs.

use crate::common::*;
use buffer::BufferPool;
use ipsec::{Algorithm, Claimant, Database, Entropy, Long, SaParameters};
use std::collections::BTreeSet;

/// Offset of ESP in an outer packet over IPv4.
const ESP: usize = 20;

fn sequence_of(outer: &[u8]) -> u32 {
    u32::from_be_bytes(outer[ESP + 4..ESP + 8].try_into().expect("four bytes"))
}

fn iv_of(outer: &[u8], algorithm: Algorithm) -> Vec<u8> {
    outer[ESP + 8..ESP + 8 + algorithm.iv_bytes()].to_vec()
}

/// RFC 4106 §3.1: a nonce that two packets share gives both away. Four workers encrypt by one SA, in vectors of several sizes,
/// one of them packets longer than a buffer too.
#[test]
fn workers_share_an_sa_and_no_number_or_iv_comes_twice() {
    const WORKERS: usize = 4;
    for algorithm in [Algorithm::Aes256Gcm, Algorithm::ChaCha20Poly1305, ALGORITHMS[3]] {
        let pair = Pair::new(parameters(algorithm, false));
        let pool: &BufferPool = BufferPool::from_heap(4000);
        let work = |worker: usize| {
            let (pair, mut long, mut seen) = (&pair, Long::new(), Vec::new());
            let claimant = if worker == 3 { Claimant::NOBODY } else { Claimant::new() };
            move || {
                let (mut cache, suite, sa) = (pool.cache(), pair.snapshot.suite(), pair.outbound());
                for round in 0..200 {
                    let count = [1, 7, 64, 67][(round + worker) % 4];
                    let given = inner(false, round);
                    let mut packets: Vec<_> =
                        (0..count).map(|_| cache.copy(&given).expect("buffers are left")).collect();
                    let mut results = vec![Ok(()); count];
                    ipsec::encapsulate(
                        suite,
                        &claimant,
                        &mut packets,
                        &vec![Some(sa); count],
                        0,
                        &mut results,
                    );
                    assert!(results.iter().all(Result::is_ok));
                    let of = |outer: &[u8]| (sequence_of(outer), iv_of(outer, algorithm));
                    seen.extend(packets.iter().map(|packet| of(packet.data())));
                    packets.into_iter().for_each(|packet| cache.free_one(packet));
                    if worker == 0 {
                        let mut packet = cache.copy(&inner(false, 3000)).expect("buffers are left");
                        seen.push(of(long
                            .encapsulate(suite, &claimant, &mut packet, sa, 0)
                            .expect("it is sealed")));
                        cache.free_one(packet);
                    }
                }
                seen
            }
        };
        let all = std::thread::scope(|scope| {
            let workers: [_; WORKERS] = std::array::from_fn(|worker| scope.spawn(work(worker)));
            workers.map(|worker| worker.join().expect("no panic")).concat()
        });
        let numbers: BTreeSet<u32> = all.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers.len(), all.len(), "{algorithm:?}");
        // Few are wasted: what one worker had reserved when the next came.
        assert!(numbers.last().is_some_and(|last| *last as usize <= all.len() + 64), "{algorithm:?}");
        let ivs: BTreeSet<&Vec<u8>> = all.iter().map(|(_, iv)| iv).collect();
        assert_eq!(ivs.len(), all.len(), "{algorithm:?}");
        assert_eq!(pair.outbound().counters().packets, all.len() as u64);
    }
}

/// The IVs of the first packets of an SA.
fn ivs(parameters: SaParameters, entropy: Entropy) -> Vec<Vec<u8>> {
    let algorithm = parameters.algorithm;
    let mut database = Database::new(crypto::gcm::Gcm::best());
    let sa = database.add(parameters, &entropy, 0).expect("a valid SA");
    let mut cache = BufferPool::from_heap(100).cache();
    let mut packets: Vec<_> = (0..64).map(|_| cache.copy(&inner(false, 8)).expect("buffers")).collect();
    let results = seal_all(&database.snapshot(), &mut packets, &[Some(&*sa); 64]);
    assert_eq!(results, [Ok(()); 64]);
    packets.iter().map(|packet| iv_of(packet.data(), algorithm)).collect()
}

/// After a restart the same key and the same numbers come with other IVs, because the entropy is another.
#[test]
fn an_sa_that_is_made_again_has_other_ivs() {
    let first = Entropy { iv_base: 0x0123_4567_89ab_cdef, iv_key: [1; 16] };
    let second = Entropy { iv_base: 0xfedc_ba98_7654_3210, iv_key: [2; 16] };
    for algorithm in ALGORITHMS {
        let all = [first, second].map(|entropy| ivs(parameters(algorithm, false), entropy)).concat();
        let different: BTreeSet<&Vec<u8>> = all.iter().collect();
        assert_eq!(different.len(), all.len(), "{algorithm:?}");
    }
}

/// RFC 3602 §2: nobody who has seen an IV of CBC can tell the next. So they depend on a key that is in no packet, in all bytes.
#[test]
fn ivs_of_cbc_cannot_be_told_before() {
    let base = 7;
    for algorithm in &ALGORITHMS[3..] {
        let of = |iv_key| ivs(parameters(*algorithm, false), Entropy { iv_base: base, iv_key });
        let (one, other) = (of([1; 16]), of([2; 16]));
        assert!(one.iter().zip(&other).all(|(one, other)| one != other), "they depend on no key");
        for at in 0..16 {
            let values: BTreeSet<u8> = one.iter().map(|iv| iv[at]).collect();
            assert!(values.len() > 32, "{algorithm:?}: byte {at} has {} values in 64", values.len());
        }
    }
}
