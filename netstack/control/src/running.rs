//! The running configuration: its generation, a change that waits for confirmation, and the one to return to.

use alloc::{format, string::String};
use config::Config;
use serde::Serialize;
use sha2::{Digest, Sha256};

/// Where the running configuration came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Source {
    /// Nobody gave one.
    Default,
    /// The boot module, or the file the process was started with.
    Module,
    /// The store.
    Store,
    /// The API.
    Api,
}

/// The configuration in force.
pub(crate) struct Running {
    config: Config,
    generation: u64,
    source: Source,
    pending: Option<Pending>,
    /// Generation that the store holds.
    pub saved_generation: Option<u64>,
}

struct Pending {
    previous: Config,
    previous_source: Source,
    deadline_ns: u64,
}

impl Running {
    /// What the node starts with.
    pub fn new(config: Config, generation: u64, source: Source) -> Self {
        let saved_generation = (source == Source::Store).then_some(generation);
        Self { config, generation, source, pending: None, saved_generation }
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn source(&self) -> Source {
        self.source
    }

    /// Names this very configuration, also among those of earlier starts of the node, which had the same generations.
    pub fn etag(&self) -> String {
        let digest = Sha256::digest(self.config.to_json());
        let [a, b, c, d, ..] = digest.0;
        format!("\"{}-{a:02x}{b:02x}{c:02x}{d:02x}\"", self.generation)
    }

    /// Whether an `If-Match` field (RFC 9110 §13.1.1) allows a change.
    pub fn matches(&self, if_match: &str) -> bool {
        let etag = self.etag();
        if_match.split(',').map(str::trim).any(|tag| tag == "*" || tag == etag)
    }

    /// Puts `config` in force; until `confirm_by_ns`, if given, the present one can come back.
    pub fn replace(&mut self, config: Config, confirm_by_ns: Option<u64>) {
        let previous = core::mem::replace(&mut self.config, config);
        let previous_source = core::mem::replace(&mut self.source, Source::Api);
        self.generation += 1;
        self.pending = confirm_by_ns.map(|deadline_ns| Pending { previous, previous_source, deadline_ns });
    }

    /// When an unconfirmed change is taken back.
    pub fn confirm_by_ns(&self) -> Option<u64> {
        self.pending.as_ref().map(|pending| pending.deadline_ns)
    }

    /// Keeps an unconfirmed change. False: there is none.
    pub fn confirm(&mut self) -> bool {
        self.pending.take().is_some()
    }

    /// The configuration to return to, if an unconfirmed change is there.
    pub fn previous(&self) -> Option<&Config> {
        self.pending.as_ref().map(|pending| &pending.previous)
    }

    /// Returns to the configuration before an unconfirmed change, as a new generation.
    pub fn roll_back(&mut self) {
        if let Some(pending) = self.pending.take() {
            self.config = pending.previous;
            self.source = pending.previous_source;
            self.generation += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(hostname: &str) -> Config {
        Config { hostname: hostname.into(), ..Config::default() }
    }

    #[test]
    fn changes_wait_for_confirmation() {
        let mut running = Running::new(named("a"), 5, Source::Store);
        assert!(!running.confirm());
        running.replace(named("b"), Some(100));
        assert_eq!(
            (running.generation(), running.confirm_by_ns(), running.source()),
            (6, Some(100), Source::Api)
        );
        running.roll_back();
        assert_eq!(
            (running.config().hostname.as_str(), running.generation(), running.source()),
            ("a", 7, Source::Store)
        );
        running.roll_back();
        assert_eq!(running.generation(), 7);
        running.replace(named("c"), Some(100));
        assert!(running.confirm());
        assert_eq!((running.config().hostname.as_str(), running.confirm_by_ns()), ("c", None));
    }

    #[test]
    fn etags_tell_configurations_apart() {
        let running = Running::new(named("a"), 1, Source::Default);
        let other = Running::new(named("b"), 1, Source::Default);
        assert_ne!(running.etag(), other.etag());
        assert!(running.matches(&running.etag()) && running.matches("*"));
        assert!(running.matches(&format!("\"x\", {}", running.etag())));
        assert!(!running.matches(&other.etag()) && !running.matches("\"1\""));
    }
}
