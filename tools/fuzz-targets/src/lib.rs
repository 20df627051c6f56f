//! Fuzz targets: for each parser that the wire or the API reaches, a function that takes any bytes and panics if the
//! parser does wrong.
//!
//! Main path:
//! 1. [`TARGETS`] names every target;
//! 2. each target's module is what the bytes mean and what must hold for them;
//! 3. on the stable toolchain, [`corpus`] and [`mutate`] feed them: `cargo run -p fuzz-targets -- replay`, `mutate SECONDS`;
//! 4. on nightly, `fuzz/` feeds the same functions from libFuzzer: `cargo xtask fuzz TARGET`.
//!
//! It does not look for slowness, and knows nothing of coverage.
#![deny(unsafe_code)]

pub mod corpus;
pub mod mutate;

pub mod acpi;
mod books;
pub mod boot_info;
pub mod command_line;
pub mod config_json;
pub mod conversation;
pub mod crash_record;
pub mod dhcp;
pub mod discovery;
pub mod esp;
pub mod flows;
pub mod frame;
pub mod http;
mod input;
pub mod node;
pub mod object;
pub mod pci;
pub mod resources;
pub mod rewrite;
mod rig;
pub mod route_line;
pub mod selector;
pub mod store_slots;
mod transport;
pub mod tunnels;
pub mod virtio_net;

#[allow(unsafe_code, dead_code, unused_imports, reason = "the model is that of the drivers' own tests")]
#[path = "../../../drivers/tests/virtio/model/mod.rs"]
mod model;

// The router with two ports is that of the dataplane's own tests.
#[path = "../../../netstack/dataplane/tests/dataplane/common/mod.rs"]
mod testbed;

// The node with its router is that of the router's own tests.
#[path = "../../../netstack/router/tests/common/mod.rs"]
mod memory_node;

/// One parser under test.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, which is also that of its corpus and of its libFuzzer binary.
    pub name: &'static str,
    /// Feeds it any bytes; a panic is a find.
    pub run: fn(&[u8]),
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target { name: "acpi", run: acpi::run },
    Target { name: "boot_info", run: boot_info::run },
    Target { name: "command_line", run: command_line::run },
    Target { name: "config_json", run: config_json::run },
    Target { name: "conversation", run: conversation::run },
    Target { name: "crash_record", run: crash_record::run },
    Target { name: "dhcp", run: dhcp::run },
    Target { name: "discovery", run: discovery::run },
    Target { name: "esp", run: esp::run },
    Target { name: "flows", run: flows::run },
    Target { name: "frame", run: frame::run },
    Target { name: "http", run: http::run },
    Target { name: "node", run: node::run },
    Target { name: "object", run: object::run },
    Target { name: "pci", run: pci::run },
    Target { name: "resources", run: resources::run },
    Target { name: "rewrite", run: rewrite::run },
    Target { name: "route_line", run: route_line::run },
    Target { name: "selector", run: selector::run },
    Target { name: "store_slots", run: store_slots::run },
    Target { name: "tunnels", run: tunnels::run },
    Target { name: "virtio_net", run: virtio_net::run },
];

/// The target of that name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    /// `fuzz/` is a workspace of its own that nothing here builds: a target that is missing there would never be fuzzed.
    #[test]
    fn every_target_has_its_program_for_libfuzzer_and_its_row_in_the_readme() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz");
        let read = |path: &str| fs::read_to_string(fuzz.join(path)).expect(path);
        let names: Vec<&str> = super::TARGETS.iter().map(|target| target.name).collect();
        assert!(names.is_sorted(), "{names:?}");

        let entries = fs::read_dir(fuzz.join("fuzz_targets")).expect("fuzz/fuzz_targets");
        let files = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"));
        let mut files: Vec<String> = files.collect();
        files.sort();
        assert_eq!(files, names.iter().map(|name| format!("{name}.rs")).collect::<Vec<_>>());
        for name in &names {
            let program = read(&format!("fuzz_targets/{name}.rs"));
            assert!(program.contains(&format!("fuzz_targets::{name}::run(data)")), "{name}: {program}");
        }

        let manifest = read("Cargo.toml");
        let mut programs: Vec<String> =
            manifest.split("[[bin]]").skip(1).map(|text| text.trim().lines().take(2).collect()).collect();
        programs.sort();
        let expected = names.iter().map(|name| format!("name = \"{name}\"path = \"fuzz_targets/{name}.rs\""));
        assert_eq!(programs, expected.collect::<Vec<_>>());

        let readme = read("README.md");
        let table = readme.split("| target | |").nth(1).and_then(|text| text.split("\n\n").next());
        let rows =
            table.unwrap_or_default().lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        assert_eq!(rows.collect::<Vec<_>>(), names);
    }
}
