//! The command line: words `key=value`, divided by spaces.
//!
//! | word | meaning |
//! |---|---|
//! | `log=error\|warn\|info\|debug\|trace` | lines below this level are not kept, whatever the configuration says |
//! | `token=TEXT` | the API's token |
//! | `config=module` | the boot module's configuration goes before the one in the store |
//! | `config={...}` | this configuration (JSON, to the end of the line) in place of a boot module |
//! | `crypto=NAME` | the implementation of AES-GCM, in place of the best one that the CPU runs |
//! | `cores=N` | use at most so many cores |
//! | `rings=packed` | packed virtqueues where a card offers them; split ones otherwise |
//! | `crash=KIND@CORE` | crash on purpose, unless the run before crashed, see [`Crash`] |

use core::num::NonZeroUsize;
use log::LevelFilter;

/// What the command line asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CommandLine<'a> {
    /// Least level of lines that are kept.
    pub log: Option<LevelFilter>,
    /// The API's token.
    pub token: Option<&'a str>,
    /// Whether the boot module's configuration goes before the one in the store.
    pub prefer_module: bool,
    /// A configuration, as JSON.
    pub config: Option<&'a str>,
    /// The implementation of AES-GCM.
    pub crypto: Option<crypto::gcm::Kernel>,
    /// Most cores to use.
    pub cores: Option<NonZeroUsize>,
    /// Packed virtqueues where a card offers them.
    pub packed_rings: bool,
    /// Crash on purpose.
    pub crash: Option<Crash>,
    /// The first word that means nothing.
    pub unknown: Option<&'a str>,
}

/// A crash on purpose: how the tests see that each kind is reported and survived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crash {
    /// How to crash.
    pub kind: CrashKind,
    /// Number of the core that is to crash.
    pub core: usize,
}

/// Ways to crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashKind {
    /// `panic`: a Rust panic.
    Panic,
    /// `stack`: recursion without end.
    Stack,
    /// `read`: reads address zero.
    Read,
    /// `write`: writes to code.
    Write,
    /// `execute`: executes data.
    Execute,
    /// `double`: leaves no stack for the exception of a stack overflow, so that the fault is a double one.
    Double,
}

impl<'a> CommandLine<'a> {
    /// Reads a command line. Bytes that are not text end it.
    pub fn parse(bytes: &'a [u8]) -> Self {
        let text = match core::str::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => core::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
        };
        let mut line = Self::default();
        let mut rest = text.trim();
        while !rest.is_empty() {
            let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
            if word.starts_with("config={") {
                line.config = rest.strip_prefix("config=");
                break;
            }
            if line.word(word).is_none() && line.unknown.is_none() {
                line.unknown = Some(word);
            }
            rest = after.trim_start();
        }
        line
    }

    /// Takes one word in; `None` if it means nothing.
    fn word(&mut self, word: &'a str) -> Option<()> {
        let (key, value) = word.split_once('=')?;
        match key {
            "log" => self.log = Some(value.parse().ok()?),
            "token" => self.token = Some(value).filter(|token| !token.is_empty()),
            "config" if value == "module" => self.prefer_module = true,
            "crypto" => self.crypto = Some(value.parse().ok()?),
            "cores" => self.cores = Some(value.parse().ok()?),
            "rings" if value == "packed" => self.packed_rings = true,
            "crash" => self.crash = Some(crash(value)?),
            _ => return None,
        }
        Some(())
    }
}

fn crash(value: &str) -> Option<Crash> {
    let (kind, core) = value.split_once('@')?;
    let kind = match kind {
        "panic" => CrashKind::Panic,
        "stack" => CrashKind::Stack,
        "read" => CrashKind::Read,
        "write" => CrashKind::Write,
        "execute" => CrashKind::Execute,
        "double" => CrashKind::Double,
        _ => return None,
    };
    Some(Crash { kind, core: core.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_word() {
        let line = CommandLine::parse(
            b" log=debug token=s3cret config=module crypto=aesni cores=2 rings=packed crash=stack@1 ",
        );
        assert_eq!(
            line,
            CommandLine {
                log: Some(LevelFilter::Debug),
                token: Some("s3cret"),
                prefer_module: true,
                config: None,
                crypto: Some(crypto::gcm::Kernel::AesNi),
                cores: NonZeroUsize::new(2),
                packed_rings: true,
                crash: Some(Crash { kind: CrashKind::Stack, core: 1 }),
                unknown: None,
            }
        );
        assert_eq!(CommandLine::parse(b""), CommandLine::default());
    }

    #[test]
    fn an_inline_configuration_goes_to_the_end() {
        let line = CommandLine::parse(br#"log=warn config={"hostname": "gw 1"}"#);
        assert_eq!(line.config, Some(r#"{"hostname": "gw 1"}"#));
        assert_eq!(line.log, Some(LevelFilter::Warn));
    }

    #[test]
    fn words_without_meaning_are_named() {
        for word in [
            "quiet",
            "log=loud",
            "cores=0",
            "crypto=rot13",
            "crash=panic",
            "crash=boom@1",
            "config=http://x",
            "rings=x",
            "a=b",
        ] {
            let text = format!("{word} log=info other");
            let line = CommandLine::parse(text.as_bytes());
            assert_eq!(line.unknown, Some(word));
            assert_eq!(line.log, Some(LevelFilter::Info));
        }
        assert_eq!(CommandLine::parse(b"log=info \xff\xff").log, Some(LevelFilter::Info));
    }
}
