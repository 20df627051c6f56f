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
#![forbid(unsafe_code)]

pub mod corpus;
pub mod mutate;

mod boot_info;
mod config_json;

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
    Target { name: "boot_info", run: boot_info::run },
    Target { name: "config_json", run: config_json::run },
];

/// Feeds the target of that name, as libFuzzer's binaries do.
///
/// # Panics
/// If there is none, and with every find.
pub fn run(name: &str, data: &[u8]) {
    let Some(target) = target(name) else { panic!("there is no target {name}") };
    (target.run)(data);
}

/// The target of that name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
