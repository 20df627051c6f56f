//! Workload `aead`: AES-GCM, ChaCha20-Poly1305 and AES-CBC with HMAC alone, each kernel, packets of one size in batches, under 1 and under 10,000
//! keys.
//!
//! With feature `peers` other people's ciphers are measured in the same run.

mod cbc;
#[cfg(feature = "peers")]
mod peers;
mod ports;

use core::arch::x86_64::{_mm_lfence, _rdtsc};
use crypto::chacha::{self, ChaChaPoly};
use crypto::gcm::{self, Gcm};
use crypto::{Aead, Job};
use ports::Ports;
use serde::Serialize;

/// Bytes of text in a packet.
const TEXT_BYTES: [usize; 6] = [64, 256, 1_024, 1_424, 2_048, 9_000];
/// Text bytes that stay in the first-level cache with everything else.
const BATCH_BYTES: usize = 32 << 10;
/// As many packets as a vector of the dataplane has.
const MOST_PACKETS: usize = 256;
const MANY_KEYS: usize = 10_000;
/// The best round of those that fit into so many TSC clocks counts: neighbours of a machine disturb most.
const CLOCKS: u64 = 1_000_000_000;
/// Packets of one round.
const ROUND_PACKETS: usize = 2_048;

/// Aims, in TSC clocks a byte, for AES-128 and AES-256 (0 for none).
const AIMS: [(usize, f64, f64); 5] =
    [(64, 0.80, 1.0), (256, 0.36, 0.0), (1_024, 0.22, 0.0), (1_424, 0.20, 0.24), (2_048, 0.19, 0.0)];

/// Packets, as every contender takes them.
pub struct Packets {
    nonces: Vec<[u8; 12]>,
    /// Frames, each `stride` bytes, as ESP has them: headers with the AAD, IV, text, tag.
    frames: Vec<u8>,
    stride: usize,
    text_bytes: usize,
    /// Which key each has: the next of a random order, each round anew.
    keys: Vec<usize>,
}

/// Of ESP in a tunnel over IPv4 and Ethernet: where SPI and sequence number are, and where the text starts.
const AAD_AT: usize = 34;
const TEXT_AT: usize = 50;

impl Packets {
    /// Frames lie as far apart as buffers do, at the least.
    fn new(packets: usize, text_bytes: usize) -> Self {
        // An odd number of cache lines, lest all frames fall into a few sets of the cache.
        let stride = ((TEXT_AT + text_bytes + 16).div_ceil(64) | 1).max(37) * 64;
        Self {
            nonces: (0..packets).map(|i| std::array::from_fn(|j| (i * 13 + j) as u8)).collect(),
            frames: vec![0x5a; packets * stride + 64],
            stride,
            text_bytes,
            keys: vec![0; packets],
        }
    }

    /// AAD, text and tag of each packet.
    fn parts(frames: &mut [u8], stride: usize, text: usize) -> impl Iterator<Item = Parts<'_>> {
        let skip = frames.as_ptr().align_offset(64);
        frames[skip..].chunks_exact_mut(stride).map(move |frame| {
            let (head, rest) = frame.split_at_mut(TEXT_AT);
            let (text, rest) = rest.split_at_mut(text);
            (&head[AAD_AT..AAD_AT + 8], text, rest.first_chunk_mut().expect("room for a tag"))
        })
    }
}

type Parts<'a> = (&'a [u8], &'a mut [u8], &'a mut [u8; 16]);

/// Something that seals or opens a batch.
trait Contender {
    fn name(&self) -> String;
    /// TSC clocks for the batch.
    fn run(&self, packets: &mut Packets) -> u64;
}

struct Own<A: Aead> {
    cipher: A,
    keys: Vec<A::Key>,
    /// To open: the same keys in another place, so that sealing does not warm the ones that are measured.
    sealing_keys: Option<Vec<A::Key>>,
    name: String,
}

impl<A: Aead> Own<A> {
    fn jobs<'a>(keys: &'a [A::Key], packets: &'a mut Packets) -> Vec<Job<'a, A::Key>> {
        Packets::parts(&mut packets.frames, packets.stride, packets.text_bytes)
            .zip(packets.nonces.iter().zip(&packets.keys))
            .map(|((aad, text, tag), (nonce, &key))| Job::new(&keys[key], nonce, aad, text, tag))
            .collect()
    }
}

impl<A: Aead> Contender for Own<A> {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn run(&self, packets: &mut Packets) -> u64 {
        if let Some(keys) = &self.sealing_keys {
            self.cipher.seal(&mut Self::jobs(keys, packets));
            let mut jobs = Self::jobs(&self.keys, packets);
            let mut rejected = 0;
            let clocks = time(|| rejected = self.cipher.open(&mut jobs));
            assert_eq!(rejected, 0);
            return clocks;
        }
        let mut jobs = Self::jobs(&self.keys, packets);
        time(|| self.cipher.seal(&mut jobs))
    }
}

/// A cipher with its length of key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cipher {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20Poly1305,
    Aes128CbcSha256,
}

impl Cipher {
    const ALL: [Self; 4] = [Self::Aes128Gcm, Self::Aes256Gcm, Self::ChaCha20Poly1305, Self::Aes128CbcSha256];

    fn name(self) -> &'static str {
        match self {
            Self::Aes128Gcm => "AES-128-GCM",
            Self::Aes256Gcm => "AES-256-GCM",
            Self::ChaCha20Poly1305 => "ChaCha20-Poly1305",
            Self::Aes128CbcSha256 => "AES-128-CBC-SHA256",
        }
    }

    fn key_bytes(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => 32,
            Self::Aes128CbcSha256 => 16 + 32,
        }
    }

    /// What the execution ports allow a 512-bit kernel of AES-GCM, in clocks per four blocks.
    fn port_limit(self, ports: &Ports) -> Option<f64> {
        match self {
            Self::Aes128Gcm => Some(ports.gcm128),
            Self::Aes256Gcm => Some(ports.gcm256),
            Self::ChaCha20Poly1305 | Self::Aes128CbcSha256 => None,
        }
    }

    /// In TSC clocks a byte.
    fn aim(self, text_bytes: usize) -> Option<f64> {
        let aim = AIMS.iter().find(|aim| aim.0 == text_bytes)?;
        let aim = match self {
            Self::Aes128Gcm => aim.1,
            Self::Aes256Gcm => aim.2,
            Self::ChaCha20Poly1305 | Self::Aes128CbcSha256 => 0.0,
        };
        (aim > 0.0).then_some(aim)
    }
}

/// What one contender costs.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Which.
    pub cipher: &'static str,
    /// Whose, and whether it opens instead of seals.
    pub contender: String,
    /// Keys in random order.
    pub keys: usize,
    /// Bytes of text in a packet.
    pub text_bytes: usize,
    /// In the best round.
    pub clocks_per_packet: f64,
    /// What the execution ports allow a 512-bit kernel.
    pub port_limit_clocks_per_packet: Option<f64>,
}

/// Measures the contenders that are meant, and prints what they cost.
pub fn run(meant: impl Fn(&str) -> bool) -> Vec<Row> {
    if !names().iter().any(|name| meant(name)) {
        return Vec::new();
    }
    let wanted = |contender: &str| meant(&full_name(contender));
    let ports = Ports::measure();
    match ports {
        Some(ports) => println!(
            "aead: 512-bit vaesenc {:.3}, vpclmulqdq {:.3} clocks; 10 + 4 of them {:.2}, 14 + 4 {:.2}",
            ports.vaesenc, ports.vpclmulqdq, ports.gcm128, ports.gcm256
        ),
        None => println!("aead: no port limit, this CPU has no AVX-512 VAES"),
    }
    let mut rows = Vec::new();
    for cipher in Cipher::ALL {
        for keys in [1, MANY_KEYS] {
            let contenders = contenders(cipher, keys, &wanted);
            if contenders.is_empty() {
                continue;
            }
            // CBC takes whole blocks.
            let is_cbc = cipher == Cipher::Aes128CbcSha256;
            for text_bytes in TEXT_BYTES.into_iter().filter(|bytes| !is_cbc || bytes.is_multiple_of(16)) {
                let shape = Shape { cipher, keys, text_bytes };
                rows.extend(measure(&contenders, shape, ports));
            }
        }
    }
    rows
}

/// What the packets of a measurement have in common.
#[derive(Clone, Copy)]
struct Shape {
    cipher: Cipher,
    keys: usize,
    text_bytes: usize,
}

/// The names of all contenders that this machine and build have.
pub fn names() -> Vec<String> {
    let ciphers = [Cipher::Aes128Gcm, Cipher::ChaCha20Poly1305, Cipher::Aes128CbcSha256];
    let all = ciphers.into_iter().flat_map(|cipher| contenders(cipher, 1, &|_| true));
    let mut names: Vec<String> = Vec::new();
    for name in all.map(|contender| full_name(&contender.name())) {
        // Other people's have one name for both.
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn full_name(contender: &str) -> String {
    format!("aead/{contender}")
}

fn contenders(cipher: Cipher, keys: usize, wanted: &impl Fn(&str) -> bool) -> Vec<Box<dyn Contender>> {
    let byte = |i: usize, j: usize| (i.wrapping_mul(2_654_435_761) >> (j % 24)) as u8 ^ j as u8;
    let key = |i: usize| (0..cipher.key_bytes()).map(|j| byte(i, j)).collect();
    let bytes: Vec<Vec<u8>> = (0..keys).map(key).collect();
    let mut contenders: Vec<Box<dyn Contender>> = Vec::new();
    if cipher == Cipher::Aes128CbcSha256 {
        return cbc::all(&bytes, wanted);
    }
    if cipher == Cipher::ChaCha20Poly1305 {
        let key = |key: &Vec<u8>| chacha::Key::new(key.first_chunk().expect("32 bytes"));
        for own in chacha::Kernel::ALL.into_iter().rev().filter_map(ChaChaPoly::with_kernel) {
            let name = format!("chacha-{}", own.kernel_name());
            contenders.extend(own_contenders(own, &name, || bytes.iter().map(key).collect(), wanted));
        }
    } else {
        let key = |key: &Vec<u8>| gcm::Key::new(key).expect("16 or 32 bytes");
        for own in gcm::Kernel::ALL.into_iter().rev().filter_map(Gcm::with_kernel) {
            let keys = || bytes.iter().map(key).collect();
            contenders.extend(own_contenders(own, own.kernel_name(), keys, wanted));
        }
    }
    #[cfg(feature = "peers")]
    contenders.extend(peers::all(cipher, &bytes).into_iter().filter(|peer| wanted(&peer.name())));
    contenders
}

/// A kernel that seals, and that opens.
fn own_contenders<A: Aead + Copy + 'static>(
    cipher: A,
    name: &str,
    keys: impl Fn() -> Vec<A::Key>,
    wanted: &impl Fn(&str) -> bool,
) -> Vec<Box<dyn Contender>> {
    let mut all: Vec<Box<dyn Contender>> = Vec::new();
    for open in [false, true] {
        let name = format!("{name}{}", if open { "-open" } else { "" });
        if wanted(&name) {
            all.push(Box::new(Own { cipher, keys: keys(), sealing_keys: open.then(&keys), name }));
        }
    }
    all
}

/// Measures all contenders in turn, so that a disturbance hits all alike, and prints a line for each.
fn measure(contenders: &[Box<dyn Contender>], shape: Shape, ports: Option<Ports>) -> Vec<Row> {
    let Shape { cipher, keys, text_bytes } = shape;
    let batch = (BATCH_BYTES / text_bytes).clamp(4, MOST_PACKETS);
    let batches = ROUND_PACKETS.div_ceil(batch);
    // So many in a row that a contender has been through its keys, which the one before put out of the cache.
    let rounds = 1 + 3 * keys / ROUND_PACKETS;
    let mut packets = Packets::new(batch, text_bytes);
    let mut best = vec![u64::MAX; contenders.len()];
    let mut random = 88_172_645_463_325_252_u64;
    let start = clocks();
    while clocks() - start < CLOCKS {
        for (contender, best) in contenders.iter().zip(&mut best) {
            for _ in 0..rounds {
                *best = round(contender.as_ref(), &mut packets, batches, keys, &mut random).min(*best);
            }
        }
    }
    // Blocks of the longer of the two: the text and the tag's mask, or the text, AAD and lengths.
    let quarters = (text_bytes.div_ceil(16) + 2) as f64 / 4.0;
    let limit = ports.and_then(|ports| Some(quarters * cipher.port_limit(&ports)?));
    let per_byte = |clocks: Option<f64>| clocks.map_or("-".to_owned(), |clocks| format!("{clocks:.3}"));
    println!(
        "aead {} {text_bytes} B, {keys} keys: port limit {}, aim {} clocks per byte",
        cipher.name(),
        per_byte(limit.map(|limit| limit / text_bytes as f64)),
        per_byte(cipher.aim(text_bytes)),
    );
    let row = |(contender, clocks): (String, u64)| {
        let clocks_per_packet = clocks as f64 / (batches * batch) as f64;
        let per_byte = clocks_per_packet / text_bytes as f64;
        println!("   {contender:20} {per_byte:7.3} clocks per byte {clocks_per_packet:9.1} per packet");
        let (cipher, port_limit_clocks_per_packet) = (cipher.name(), limit);
        Row { cipher, contender, keys, text_bytes, clocks_per_packet, port_limit_clocks_per_packet }
    };
    contenders.iter().map(|contender| contender.name()).zip(best).map(row).collect()
}

/// Clocks of so many batches, with keys in an order of `random`.
fn round(
    contender: &dyn Contender,
    packets: &mut Packets,
    batches: usize,
    keys: usize,
    random: &mut u64,
) -> u64 {
    let mut clocks = 0;
    for _ in 0..batches {
        for key in &mut packets.keys {
            *random ^= *random << 13;
            *random ^= *random >> 7;
            *random ^= *random << 17;
            *key = (*random % keys as u64) as usize;
        }
        clocks += contender.run(packets);
    }
    clocks
}

/// The time stamp counter, read after everything before it is done.
fn clocks() -> u64 {
    // SAFETY: every x86-64 CPU has LFENCE and RDTSC, and Linux leaves the latter to user space.
    unsafe {
        _mm_lfence();
        let clocks = _rdtsc();
        _mm_lfence();
        clocks
    }
}

/// Clocks that `work` takes.
fn time(work: impl FnOnce()) -> u64 {
    let start = clocks();
    work();
    clocks() - start
}
