//! The crypto calls over part of a vector: one for each kind of cipher that is present.

use crate::Sa;
use crate::cipher::Cipher;
use crate::sa::ESP_HEADER_BYTES;
use buffer::Buf;
use crypto::gcm::Gcm;
use crypto::{Aead, Job, NONCE_BYTES, TAG_BYTES, cbc_hmac, chacha, gcm};

/// Packets of a call: few enough that what is noted of them stays in the first-level cache.
pub(crate) const CHUNK: usize = 64;

/// One packet's part of a call.
#[derive(Clone, Copy)]
pub(crate) struct Task<'a> {
    pub(crate) sa: &'a Sa,
    /// The extended sequence number.
    pub(crate) number: u64,
    /// SPI, high half and low half of an extended sequence number.
    aad: [u8; 12],
    /// Offset of the SPI.
    pub(crate) esp: u16,
}

impl<'a> Task<'a> {
    #[inline(always)]
    pub(crate) fn new(sa: &'a Sa, number: u64, esp: u16) -> Self {
        let mut aad = [0; 12];
        aad[..4].copy_from_slice(&sa.spi);
        aad[4..].copy_from_slice(&number.to_be_bytes());
        Self { sa, number, aad, esp }
    }
}

/// A packet, cut where ESP cuts it.
struct Parts<'p> {
    header: &'p [u8],
    iv: &'p [u8],
    text: &'p mut [u8],
    icv: &'p mut [u8],
}

/// None if it is too short for its SA.
#[inline(always)]
fn parts<'p>(packet: &'p mut Buf, task: &Task<'_>) -> Option<Parts<'p>> {
    let sa = task.sa;
    let (_, esp) = packet.data_mut().split_at_mut_checked(usize::from(task.esp))?;
    let (header, rest) = esp.split_at_mut_checked(ESP_HEADER_BYTES)?;
    let (iv, rest) = rest.split_at_mut_checked(usize::from(sa.iv_bytes))?;
    let (text, icv) = rest.split_at_mut_checked(rest.len().checked_sub(usize::from(sa.icv_bytes))?)?;
    Some(Parts { header, iv, text, icv })
}

impl<'p> Parts<'p> {
    #[inline(always)]
    fn aead<K>(self, key: &'p K, task: &'p Task<'_>) -> Option<Job<'p, K>> {
        let mut nonce = [0; NONCE_BYTES];
        nonce[..4].copy_from_slice(&task.sa.salt);
        nonce[4..].copy_from_slice(self.iv.first_chunk::<8>()?);
        let aad = if task.sa.how.esn { &task.aad[..] } else { self.header };
        Some(Job::new(key, &nonce, aad, self.text, self.icv.first_chunk_mut::<TAG_BYTES>()?))
    }

    fn cbc(self, key: &'p cbc_hmac::Key, task: &'p Task<'_>) -> Option<cbc_hmac::Job<'p>> {
        // The high half is authenticated behind everything else (RFC 4303 §2.2.1).
        let trailer = if task.sa.how.esn { &task.aad[4..8] } else { &[] };
        cbc_hmac::Job::new(key, self.header, self.iv.first_chunk()?, self.text, trailer, self.icv)
    }
}

type Jobs<J> = heapless::Vec<J, CHUNK>;

/// Seals (`SEAL`) or opens the packets that have a task. Returns which of them were sealed or found authentic, a bit for
/// each.
pub(crate) fn run<const SEAL: bool>(gcm: &Gcm, packets: &mut [Buf], tasks: &[Option<Task<'_>>]) -> u64 {
    let mut gcm_jobs: Jobs<Job<'_, gcm::Key>> = Jobs::new();
    let mut indexes = [0u8; CHUNK];
    let mut others = false;
    for (index, (packet, task)) in packets.iter_mut().zip(tasks).enumerate() {
        let Some(task) = task else { continue };
        let Cipher::Gcm(key) = &task.sa.cipher else {
            others = true;
            continue;
        };
        if let Some(job) = parts(packet, task).and_then(|parts| parts.aead(key, task)) {
            indexes[gcm_jobs.len()] = index as u8;
            let _ = gcm_jobs.push(job);
        }
    }
    let mut done = finish::<SEAL, _>(gcm, &mut gcm_jobs, &indexes);
    drop(gcm_jobs);
    if others {
        done |= run_chacha::<SEAL>(packets, tasks) | run_cbc::<SEAL>(packets, tasks);
    }
    done
}

/// Works the jobs of an AEAD off.
#[inline(always)]
fn finish<const SEAL: bool, A: Aead>(aead: &A, jobs: &mut [Job<'_, A::Key>], indexes: &[u8; CHUNK]) -> u64 {
    if jobs.is_empty() {
        return 0;
    }
    let mut done = 0;
    if SEAL {
        aead.seal(jobs);
        for index in &indexes[..jobs.len()] {
            done |= 1 << index;
        }
    } else {
        let _ = aead.open(jobs);
        for (index, job) in indexes.iter().zip(jobs) {
            done |= u64::from(job.is_authentic()) << index;
        }
    }
    done
}

#[inline(never)]
fn run_chacha<const SEAL: bool>(packets: &mut [Buf], tasks: &[Option<Task<'_>>]) -> u64 {
    let mut jobs: Jobs<Job<'_, chacha::Key>> = Jobs::new();
    let mut indexes = [0u8; CHUNK];
    for (index, (packet, task)) in packets.iter_mut().zip(tasks).enumerate() {
        let Some(task) = task else { continue };
        let Cipher::ChaCha(key) = &task.sa.cipher else { continue };
        if let Some(job) = parts(packet, task).and_then(|parts| parts.aead(&**key, task)) {
            indexes[jobs.len()] = index as u8;
            let _ = jobs.push(job);
        }
    }
    finish::<SEAL, _>(&chacha::ChaChaPoly, &mut jobs, &indexes)
}

#[inline(never)]
fn run_cbc<const SEAL: bool>(packets: &mut [Buf], tasks: &[Option<Task<'_>>]) -> u64 {
    let mut jobs: Jobs<cbc_hmac::Job<'_>> = Jobs::new();
    let mut indexes = [0u8; CHUNK];
    for (index, (packet, task)) in packets.iter_mut().zip(tasks).enumerate() {
        let Some(task) = task else { continue };
        let Cipher::Cbc(cbc) = &task.sa.cipher else { continue };
        if let Some(job) = parts(packet, task).and_then(|parts| parts.cbc(&cbc.key, task)) {
            indexes[jobs.len()] = index as u8;
            let _ = jobs.push(job);
        }
    }
    if SEAL {
        cbc_hmac::seal(&mut jobs);
        indexes[..jobs.len()].iter().fold(0, |done, index| done | 1 << index)
    } else {
        let _ = cbc_hmac::open(&mut jobs);
        indexes.iter().zip(&jobs).fold(0, |done, (index, job)| done | u64::from(job.is_authentic()) << index)
    }
}
