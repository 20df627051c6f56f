//! The crypto calls over part of a vector: one for each kind of cipher that is present.

use crate::Sa;
use crate::cipher::Cipher;
use crate::sa::ESP_HEADER_BYTES;
use crypto::{Aead, Job, NONCE_BYTES, Suite, TAG_BYTES, cbc_hmac, chacha, gcm};

/// Packets of a call: few enough that what is noted of them stays in the first-level cache.
pub(crate) const CHUNK: usize = 64;

/// What is authenticated of a packet with an extended sequence number: SPI, high and low half.
pub(crate) type ExtendedHeader = [u8; 12];

/// Takes the first `count` of a slice off it.
#[inline(always)]
pub(crate) fn take<'a, T>(slice: &mut &'a mut [T], count: usize) -> &'a mut [T] {
    let (taken, rest) = core::mem::take(slice).split_at_mut(count);
    *slice = rest;
    taken
}

/// A packet, cut where ESP cuts it.
struct Parts<'p> {
    header: &'p [u8],
    iv: &'p [u8],
    text: &'p mut [u8],
    icv: &'p mut [u8],
}

impl<'p> Parts<'p> {
    /// `esp` starts at the SPI. None if it is too short for its SA.
    #[inline(always)]
    fn new(sa: &Sa, esp: &'p mut [u8]) -> Option<Self> {
        let (header, rest) = esp.split_at_mut_checked(ESP_HEADER_BYTES)?;
        let (iv, rest) = rest.split_at_mut_checked(usize::from(sa.iv_bytes))?;
        let (text, icv) = rest.split_at_mut_checked(rest.len().checked_sub(usize::from(sa.icv_bytes))?)?;
        Some(Parts { header, iv, text, icv })
    }

    #[inline(always)]
    fn aead<K>(
        self,
        key: &'p K,
        sa: &Sa,
        number: u64,
        extended: &'p mut ExtendedHeader,
    ) -> Option<Job<'p, K>> {
        let mut nonce = [0; NONCE_BYTES];
        nonce[..4].copy_from_slice(&sa.salt);
        nonce[4..].copy_from_slice(self.iv.first_chunk::<8>()?);
        let aad = if sa.how.esn { extend(sa, number, extended) } else { self.header };
        Some(Job::new(key, &nonce, aad, self.text, self.icv.first_chunk_mut::<TAG_BYTES>()?))
    }

    #[inline(never)]
    fn cbc(
        self,
        key: &'p cbc_hmac::Key,
        sa: &Sa,
        number: u64,
        extended: &'p mut ExtendedHeader,
    ) -> Option<cbc_hmac::Job<'p>> {
        // The high half is authenticated behind everything else (RFC 4303 §2.2.1).
        let trailer = if sa.how.esn { &extend(sa, number, extended)[4..8] } else { &[] };
        cbc_hmac::Job::new(key, self.header, self.iv.first_chunk()?, self.text, trailer, self.icv)
    }
}

#[inline(always)]
fn extend<'p>(sa: &Sa, number: u64, extended: &'p mut ExtendedHeader) -> &'p [u8] {
    extended[..4].copy_from_slice(&sa.spi);
    extended[4..].copy_from_slice(&number.to_be_bytes());
    extended
}

/// A packet of an SA with an AEAD, cut where ESP cuts it.
pub(crate) struct AeadParts<'p> {
    /// SPI and sequence number.
    pub(crate) header: &'p [u8; ESP_HEADER_BYTES],
    /// As a number: not read back from the packet, where it may just have been written.
    pub(crate) iv: u64,
    pub(crate) text: &'p mut [u8],
    pub(crate) icv: &'p mut [u8; TAG_BYTES],
}

/// What an SA with an AEAD says of a job.
#[derive(Clone, Copy)]
pub(crate) struct UsualJob<'p> {
    sa: &'p Sa,
    /// Its first byte in the lowest place.
    salt: u32,
    esn: bool,
}

impl<'p> UsualJob<'p> {
    #[inline(always)]
    pub(crate) fn new(sa: &'p Sa) -> Self {
        Self { sa, salt: u32::from_le_bytes(sa.salt), esn: sa.how.esn }
    }

    #[inline(always)]
    fn job<K>(
        &self,
        key: &'p K,
        number: u64,
        parts: AeadParts<'p>,
        extended: &'p mut ExtendedHeader,
    ) -> Option<Job<'p, K>> {
        let AeadParts { header, iv, text, icv } = parts;
        let iv = u128::from(iv.swap_bytes());
        let nonce = (iv << 32 | u128::from(self.salt)).to_le_bytes();
        let aad = if self.esn { extend(self.sa, number, extended) } else { header };
        Some(Job::new(key, nonce.first_chunk()?, aad, text, icv))
    }
}

/// Jobs of one kind, and whose packets they are of.
struct Column<J> {
    jobs: heapless::Vec<J, CHUNK>,
    places: [u8; CHUNK],
}

impl<J> Column<J> {
    fn new() -> Self {
        Self { jobs: heapless::Vec::new(), places: [0; CHUNK] }
    }

    #[inline(always)]
    fn push(&mut self, place: usize, job: J) {
        if let Some(known) = self.places.get_mut(self.jobs.len()) {
            *known = place as u8;
        }
        let _ = self.jobs.push(job);
    }

    /// A bit for each packet whose job is as `is_authentic` asks.
    #[inline(always)]
    fn bits(&self, is_authentic: impl Fn(&J) -> bool) -> u64 {
        let jobs = self.places.iter().zip(&self.jobs);
        jobs.fold(0, |bits, (place, job)| bits | u64::from(is_authentic(job)) << place)
    }
}

/// The jobs of up to [`CHUNK`] packets.
pub(crate) struct Jobs<'p> {
    gcm: Column<Job<'p, gcm::Key>>,
    chacha: Column<Job<'p, chacha::Key>>,
    cbc: Column<cbc_hmac::Job<'p>>,
}

impl<'p> Jobs<'p> {
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Self { gcm: Column::new(), chacha: Column::new(), cbc: Column::new() }
    }

    /// What [`Jobs::push`] does for an AEAD, with what it asks the SA in `usual`.
    #[inline(always)]
    pub(crate) fn push_usual(
        &mut self,
        place: usize,
        usual: &UsualJob<'p>,
        number: u64,
        parts: AeadParts<'p>,
        extended: &'p mut ExtendedHeader,
    ) -> Option<()> {
        let Cipher::Gcm(key) = &usual.sa.cipher else {
            return self.push_chacha(place, usual, number, parts, extended);
        };
        self.gcm.push(place, usual.job(key, number, parts, extended)?);
        Some(())
    }

    #[inline(never)]
    fn push_chacha(
        &mut self,
        place: usize,
        usual: &UsualJob<'p>,
        number: u64,
        parts: AeadParts<'p>,
        extended: &'p mut ExtendedHeader,
    ) -> Option<()> {
        let Cipher::ChaCha(key) = &usual.sa.cipher else { return None };
        self.chacha.push(place, usual.job(&**key, number, parts, extended)?);
        Some(())
    }

    /// Adds the packet at `place`, whose SPI is at the start of `esp`. None: it is too short for its SA.
    #[inline(always)]
    pub(crate) fn push(
        &mut self,
        place: usize,
        sa: &'p Sa,
        number: u64,
        esp: &'p mut [u8],
        extended: &'p mut ExtendedHeader,
    ) -> Option<()> {
        let parts = Parts::new(sa, esp)?;
        if let Cipher::Gcm(key) = &sa.cipher {
            self.gcm.push(place, parts.aead(key, sa, number, extended)?);
            return Some(());
        }
        self.push_other(place, sa, number, parts, extended)
    }

    #[inline(never)]
    fn push_other(
        &mut self,
        place: usize,
        sa: &'p Sa,
        number: u64,
        parts: Parts<'p>,
        extended: &'p mut ExtendedHeader,
    ) -> Option<()> {
        match &sa.cipher {
            Cipher::Gcm(_) => return None,
            Cipher::ChaCha(key) => self.chacha.push(place, parts.aead(&**key, sa, number, extended)?),
            Cipher::Cbc(cbc) => self.cbc.push(place, parts.cbc(&cbc.key, sa, number, extended)?),
        }
        Some(())
    }

    /// Seals all packets.
    #[inline(always)]
    pub(crate) fn seal(&mut self, suite: &Suite) {
        if !self.gcm.jobs.is_empty() {
            suite.gcm.seal(&mut self.gcm.jobs);
        }
        if !self.chacha.jobs.is_empty() {
            suite.chacha.seal(&mut self.chacha.jobs);
        }
        if !self.cbc.jobs.is_empty() {
            suite.cbc_hmac.seal(&mut self.cbc.jobs);
        }
    }

    /// Opens all packets; a bit for each that is authentic.
    #[inline(always)]
    pub(crate) fn open(&mut self, suite: &Suite) -> u64 {
        let mut authentic = 0;
        if !self.gcm.jobs.is_empty() {
            let _ = suite.gcm.open(&mut self.gcm.jobs);
            authentic |= self.gcm.bits(Job::is_authentic);
        }
        if !self.chacha.jobs.is_empty() {
            let _ = suite.chacha.open(&mut self.chacha.jobs);
            authentic |= self.chacha.bits(Job::is_authentic);
        }
        if !self.cbc.jobs.is_empty() {
            let _ = suite.cbc_hmac.open(&mut self.cbc.jobs);
            authentic |= self.cbc.bits(cbc_hmac::Job::is_authentic);
        }
        authentic
    }
}
