//! Kernel modules and what they need, in an order in which they can be loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process;

/// A module as the kernel takes it.
#[derive(Debug)]
pub(super) struct Module {
    /// Its name, with underscores.
    pub name: String,
    /// The object file, not compressed.
    pub object: Vec<u8>,
}

/// The wanted modules and all that they need, each behind what it needs. Wanted ones that are built into the kernel,
/// or belong to another version of it, are left out.
pub(super) fn closure(directory: &Path, wanted: &[&str]) -> Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    collect(directory, &mut files)?;
    let mut order = Order { files, seen: BTreeSet::new(), modules: Vec::new() };
    for name in wanted {
        order.add(name)?;
    }
    Ok(order.modules)
}

struct Order {
    files: BTreeMap<String, PathBuf>,
    seen: BTreeSet<String>,
    modules: Vec<Module>,
}

impl Order {
    fn add(&mut self, name: &str) -> Result<()> {
        let Some(file) = self.files.get(name) else { return Ok(()) };
        if !self.seen.insert(name.to_owned()) {
            return Ok(());
        }
        let object = read(file)?;
        for needed in needs(&object) {
            self.add(&needed)?;
        }
        self.modules.push(Module { name: name.to_owned(), object });
        Ok(())
    }
}

/// File names use hyphens and underscores as they please; the kernel takes them for the same.
fn collect(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("no {}", directory.display()))? {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            collect(&path, files)?;
        } else if let Some((name, _)) =
            path.file_name().and_then(|name| name.to_str()).and_then(|n| n.split_once(".ko"))
        {
            let _ = files.insert(name.replace('-', "_"), path);
        }
    }
    Ok(())
}

fn read(file: &Path) -> Result<Vec<u8>> {
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => Ok(fs::read(file)?),
        Some("xz") => {
            let unpacked = tempfile::NamedTempFile::new()?;
            let mut command = Command::new("sh");
            let _ = command
                .args(["-c", r#"xz --decompress --stdout "$0" > "$1""#])
                .arg(file)
                .arg(unpacked.path());
            let _ = process::run(&mut command, Duration::from_secs(60))?.succeeded()?;
            Ok(fs::read(unpacked.path())?)
        }
        _ => bail!("a module of unknown form: {}", file.display()),
    }
}

/// What the module's `.modinfo` says after `depends=`: names with commas between them, up to a zero byte.
fn needs(object: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = object.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let list = object[at + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(list);
    names.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_needs_comes_before_it() {
        let directory = tempfile::tempdir().unwrap();
        let module = |path: &str, needs: &str| {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("\x7fELF\0license=GPL\0depends={needs}\0name=x\0")).unwrap();
        };
        module("net/esp4.ko", "xfrm_algo,crypto-base");
        module("crypto/xfrm_algo.ko", "crypto-base");
        module("crypto/crypto-base.ko", "");
        module("net/unwanted.ko", "");
        let order = closure(directory.path(), &["esp4", "built_in", "xfrm_algo"]).unwrap();
        let names: Vec<&str> = order.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names, ["crypto_base", "xfrm_algo", "esp4"]);
    }
}
