//! Which configuration a node starts with, and why: the boot module, what the store holds, or none.
//!
//! Whoever spoke last is heard. The store remembers under which boot module it was written; as long as the node is
//! started with that very module, the store is newer and wins. A module that differs was changed since, and wins.
//! `config=module` on the command line lets the module win in any case. A configuration that is not valid never wins.

use crate::platform::Boot;
use crate::running::Source;
use crate::store::{Checksum, Saved};
use alloc::{format, string::String, vec, vec::Vec};
use config::{Config, PortFacts, Problem};
use sha2::{Digest, Sha256};

/// What the node starts with.
pub(crate) struct Start {
    pub config: Config,
    pub generation: u64,
    pub source: Source,
    /// What was decided and why, for the log; faults of what was not taken.
    pub reasons: Vec<String>,
}

/// A boot module that was read: what needs no ports is checked.
pub struct ModuleRead(Result<Config, Vec<Problem>>);

impl Boot {
    /// Reads the module now, on whichever core this runs, so that [`Control::new`](crate::Control::new) need not.
    #[inline(never)]
    pub fn read_ahead(&mut self) {
        self.module_read = self.module.as_ref().map(|module| ModuleRead(config::parse(module)));
    }
}

/// The checksum that stands for a boot module in the store; zero for none.
pub(crate) fn module_checksum(boot: &Boot) -> Checksum {
    boot.module.as_ref().map_or([0; 32], |module| Sha256::digest(module).into())
}

/// Decides. `saved` is the newest document of the store. A module that was read ahead is taken out of `boot`.
pub(crate) fn choose(boot: &mut Boot, saved: Option<&Saved>, ports: &[PortFacts<'_>]) -> Start {
    let mut reasons = Vec::new();
    let mut module_read = boot.module_read.take();
    let store = saved.map(|saved| (Source::Store, saved.generation, &saved.document[..]));
    let module = boot.module.as_ref().map(|module| (Source::Module, 1, &module[..]));
    let order = match (saved, &module) {
        (Some(_), Some(_)) if boot.prefer_module => {
            reasons.push("the boot module goes before the store: the command line says so".into());
            vec![module, store]
        }
        (Some(saved), Some(_)) if saved.module != module_checksum(boot) => {
            reasons.push(
                "the boot module goes before the store: it was changed after the store was written".into(),
            );
            vec![module, store]
        }
        _ => vec![store, module],
    };
    for (source, generation, document) in order.into_iter().flatten() {
        let ahead = if source == Source::Module { module_read.take() } else { None };
        let read = ahead.map_or_else(|| config::parse(document), |ModuleRead(read)| read);
        match read.and_then(|config| fitting(config, ports)) {
            Ok(config) => {
                reasons.push(format!("from the {}, generation {generation}", name(source)));
                return Start { config, generation, source, reasons };
            }
            Err(faults) => {
                reasons.push(format!("the {} is not taken, it is not valid:", name(source)));
                reasons.extend(faults.iter().map(|fault| format!("  {fault}")));
            }
        }
    }
    reasons.push("none is given: the first port asks for an address by DHCP".into());
    let config = Config::without_instructions(ports.first().map(|port| port.name));
    Start { config, generation: 1, source: Source::Default, reasons }
}

/// Holds a configuration against this node.
fn fitting(config: Config, ports: &[PortFacts<'_>]) -> Result<Config, Vec<Problem>> {
    let mut faults = config::validate_ports(&config, ports);
    faults.extend(config::missing_secrets(&config));
    if faults.is_empty() { Ok(config) } else { Err(faults) }
}

fn name(source: Source) -> &'static str {
    match source {
        Source::Store => "store",
        Source::Module => "boot module",
        Source::Default | Source::Api => "node",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: [PortFacts<'_>; 1] = [PortFacts { name: "eth0", max_mtu: 1500 }];

    fn document(hostname: &str) -> Vec<u8> {
        format!("{{\"hostname\":\"{hostname}\"}}").into_bytes()
    }

    fn boot(module: Option<&[u8]>) -> Boot {
        Boot { module: module.map(Into::into), ..Boot::default() }
    }

    fn saved(hostname: &str, boot: &Boot) -> Saved {
        Saved { generation: 7, module: module_checksum(boot), document: document(hostname).into() }
    }

    /// What is chosen, whether or not the module was read ahead.
    fn chosen(boot: &Boot, saved: Option<&Saved>) -> (String, u64, Source) {
        let again =
            || Boot { module: boot.module.clone(), prefer_module: boot.prefer_module, ..Boot::default() };
        let mut ahead = again();
        ahead.read_ahead();
        let start = choose(&mut again(), saved, &PORTS);
        let same = choose(&mut ahead, saved, &PORTS);
        assert_eq!(
            (&start.config, start.generation, &start.reasons),
            (&same.config, same.generation, &same.reasons)
        );
        (start.config.hostname, start.generation, start.source)
    }

    #[test]
    fn nothing_given() {
        let start = choose(&mut boot(None), None, &PORTS);
        assert_eq!((start.source, start.config.interfaces[0].dhcp4), (Source::Default, true));
        assert_eq!(choose(&mut boot(None), None, &[]).config.interfaces, []);
    }

    #[test]
    fn whoever_spoke_last_is_heard() {
        let (old, new) = (boot(Some(&document("module"))), boot(Some(&document("changed"))));
        let store = saved("store", &old);
        assert_eq!(chosen(&old, None), ("module".into(), 1, Source::Module));
        assert_eq!(chosen(&old, Some(&store)), ("store".into(), 7, Source::Store));
        assert_eq!(chosen(&new, Some(&store)), ("changed".into(), 1, Source::Module));
        assert_eq!(chosen(&boot(None), Some(&store)), ("store".into(), 7, Source::Store));
        assert_eq!(chosen(&old, Some(&saved("store", &boot(None)))), ("module".into(), 1, Source::Module));
        let forced = Boot { prefer_module: true, ..boot(Some(&document("module"))) };
        assert_eq!(chosen(&forced, Some(&store)), ("module".into(), 1, Source::Module));
    }

    #[test]
    fn what_is_not_valid_is_not_taken() {
        let mut broken = boot(Some(b"{\"hostname\":1}"));
        let store = saved("store", &boot(None));
        let start = choose(&mut broken, Some(&store), &PORTS);
        assert_eq!(start.source, Source::Store);
        assert!(
            start.reasons.iter().any(|line| line.contains("/hostname: must be a string")),
            "{:?}",
            start.reasons
        );
        let mut elsewhere = boot(Some(b"{\"interfaces\":[{\"name\":\"eth7\"}]}"));
        let start = choose(&mut elsewhere, None, &PORTS);
        assert_eq!(start.source, Source::Default);
        assert!(
            start.reasons.iter().any(|line| line.contains("eth7") || line.contains("eth0")),
            "{:?}",
            start.reasons
        );
    }
}
