//! Where the guest's programs come from: kernel and busybox from the archive of the host's Debian, `ip` and Perl,
//! which can set any option of a socket, from the host itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::{host, process};

/// How long a download may take.
const DOWNLOAD_LIMIT: Duration = Duration::from_secs(300);

/// The root of the unpacked packages in `cache`; downloads what is not there yet.
pub(super) fn unpacked(cache: &Path) -> Result<PathBuf> {
    let root = cache.join("root");
    if root.exists() {
        return Ok(root);
    }
    let packages = tempfile::tempdir_in(cache)?;
    let kernel = kernel_package()?;
    let mut download = Command::new("apt-get");
    let _ = download.args(["download", &kernel, "busybox-static"]).current_dir(packages.path());
    let _ = process::run(&mut download, DOWNLOAD_LIMIT)?
        .succeeded()
        .context("cannot download the guest's kernel; `apt-get update` may help")?;
    let unpacking = packages.path().join("root");
    for entry in fs::read_dir(packages.path())? {
        let package = entry?.path();
        if package.extension().is_some_and(|extension| extension == "deb") {
            let mut unpack = Command::new("dpkg");
            let _ = unpack.arg("--extract").arg(&package).arg(&unpacking);
            let _ = process::run(&mut unpack, DOWNLOAD_LIMIT)?.succeeded()?;
        }
    }
    match fs::rename(&unpacking, &root) {
        // Somebody else was faster, with the same packages.
        Err(_) if root.exists() => Ok(root),
        done => done.map(|()| root).context("cannot keep the guest's programs"),
    }
}

/// The newest kernel for virtual machines of the suites that this host gets packages from: what the metapackage names.
fn kernel_package() -> Result<String> {
    let mut show = Command::new("apt-cache");
    let _ = show.args(["show", "--no-all-versions", "linux-image-cloud-amd64"]);
    let text = process::run(&mut show, DOWNLOAD_LIMIT)?
        .succeeded()
        .context("no package list; run `apt-get update`")?;
    named_kernel(&text).context("linux-image-cloud-amd64 names no kernel")
}

fn named_kernel(metapackage: &str) -> Option<String> {
    let depends = metapackage.lines().find_map(|line| line.strip_prefix("Depends: "))?;
    let kernels = depends.split([',', ' ']).map(str::trim);
    kernels.into_iter().find(|word| word.starts_with("linux-image-")).map(str::to_owned)
}

/// The kernel in the unpacked root.
pub(super) fn kernel_of(root: &Path) -> Result<PathBuf> {
    let boot = fs::read_dir(root.join("boot"))?;
    let kernel = boot
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz")));
    kernel.context("the kernel's package has no kernel")
}

/// A program of the host with its libraries and loader, as paths within the guest and contents.
pub(super) fn program(name: &str, path: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let program = host::find_program(name).with_context(|| format!("no {name} on this machine"))?;
    let mut list = Command::new("ldd");
    let libraries = process::run(list.arg(&program), Duration::from_secs(30))?.succeeded()?;
    let libraries = library_paths(&libraries);
    ensure!(!libraries.is_empty(), "{name} needs no libraries?");
    let mut files = vec![(path.to_owned(), fs::read(&program)?)];
    for path in libraries {
        let contents = fs::read(&path).with_context(|| format!("no library {path}"))?;
        files.push((path.trim_start_matches('/').to_owned(), contents));
    }
    Ok(files)
}

/// The paths in the output of ldd(1): `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)`, `/lib64/ld-linux... (0x...)`.
fn library_paths(listing: &str) -> Vec<String> {
    let paths = listing.split_ascii_whitespace().filter(|word| word.starts_with('/'));
    paths.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metapackage_names_the_kernel() {
        let text = "Package: linux-image-cloud-amd64\nVersion: 6.1.1\nDepends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.1)\n";
        assert_eq!(named_kernel(text).as_deref(), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(named_kernel("Package: x\n"), None);
    }

    #[test]
    fn libraries_are_read_from_ldd() {
        let text = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x2)\n\t/lib64/ld.so.2 (0x3)\n";
        assert_eq!(library_paths(text), ["/lib/x/libc.so.6", "/lib64/ld.so.2"]);
    }
}
