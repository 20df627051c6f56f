//! A Debian kernel in a machine of its own: a peer that nobody here wrote, with IPsec, VLANs and all that the kernel
//! of this host may lack.
//!
//! 1. [`System::prepare`] takes Debian's kernel and busybox from the archive into a cache (`parts`), finds the modules
//!    that are wanted and those that they need (`modules`), and packs an initial file system (`cpio`) with the host's
//!    own iproute2. Nothing is installed, and no privileges are needed.
//! 2. [`Guest::start`] boots it. Its init script loads the modules and obeys a virtio serial port.
//! 3. [`Guest::sh`] runs a script in it and gives what it printed.

mod cpio;
mod modules;
mod parts;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::{Vm, VmBuilder};

/// Modules that are loaded, besides what they need: devices, VLANs, ESP and every algorithm of it that Debian's kernel has.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_console",
    "virtio_net",
    "virtio_rng",
    "dummy",
    "8021q",
    "xfrm_user",
    "xfrm_interface",
    "esp4",
    "esp6",
    "gcm",
    "ctr",
    "ghash_generic",
    "chacha20poly1305",
    "chacha_x86_64",
    "poly1305_x86_64",
    "chacha_generic",
    "poly1305_generic",
    "authenc",
    "authencesn",
    "seqiv",
    "drbg",
    "echainiv",
    "sha512_generic",
    "aesni_intel",
];

/// The line that ends a script.
const END: &str = "# that is all 7c5d1f";

/// How long a guest may take from its start until it obeys.
const BOOT_LIMIT: Duration = Duration::from_secs(120);

/// How long one script may take.
const SCRIPT_LIMIT: Duration = Duration::from_secs(120);

const INIT: &str = include_str!("init.sh");

/// A kernel and an initial file system, ready to boot.
#[derive(Clone, Debug)]
pub struct System {
    kernel: PathBuf,
    initramfs: PathBuf,
    busybox: PathBuf,
}

impl System {
    /// Prepares both in the directory `cache`, which keeps what was downloaded for the next time.
    ///
    /// # Errors
    /// A package cannot be downloaded or lacks what guests need, this machine has no `ip` or `perl`, or `cache` cannot be
    /// written.
    pub fn prepare(cache: &Path) -> Result<Self> {
        fs::create_dir_all(cache)?;
        let root = parts::unpacked(cache)?;
        let kernel = parts::kernel_of(&root)?;
        let mut archive = cpio::Archive::default();
        for directory in ["proc", "sys", "dev", "tmp", "run"] {
            archive.directory(directory);
        }
        archive.file("init", 0o755, INIT.replace("@END@", END).as_bytes());
        archive.file("bin/busybox", 0o755, &fs::read(root.join("bin/busybox"))?);
        let found = modules::closure(&root.join("lib/modules"), MODULES)?;
        let order: String = found.iter().map(|module| format!("{}.ko\n", module.name)).collect();
        archive.file("modules/order", 0o644, order.as_bytes());
        for module in &found {
            archive.file(&format!("modules/{}.ko", module.name), 0o644, &module.object);
        }
        let mut programs = BTreeMap::new();
        for (name, path) in [("ip", "usr/sbin/ip"), ("perl", "usr/bin/perl")] {
            programs.extend(parts::program(name, path)?);
        }
        for (file, contents) in &programs {
            archive.file(file, 0o755, contents);
        }
        // Under another name first: tests of several processes may prepare the same cache.
        let mut packed = tempfile::NamedTempFile::new_in(cache)?;
        packed.write_all(&archive.finish())?;
        let initramfs = cache.join("initramfs.cpio");
        let _ = packed.persist(&initramfs)?;
        Ok(Self { kernel, initramfs, busybox: root.join("bin/busybox") })
    }
}

impl System {
    /// The busybox in it, which runs on this machine as well.
    pub fn busybox(&self) -> &Path {
        &self.busybox
    }
}

/// A running guest that obeys.
#[derive(Debug)]
pub struct Guest {
    vm: Vm,
    shell: BufReader<UnixStream>,
    _socket: TempDir,
}

/// What a script did.
#[derive(Debug)]
pub struct Ran {
    /// Its exit status.
    pub status: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

impl Guest {
    /// Boots `system` in this machine and waits until it obeys.
    ///
    /// # Errors
    /// The machine does not start, or the guest does not report in time that it is ready.
    pub fn start(system: &System, machine: VmBuilder) -> Result<Self> {
        let socket = tempfile::Builder::new().prefix("fairlead-guest-").tempdir()?;
        let path = socket.path().join("shell");
        let vm = machine
            .image(&system.kernel)
            .initrd(&system.initramfs)
            .argument("console=ttyS0 quiet panic=-1 mitigations=off")
            .qemu_argument("-chardev")
            .qemu_argument(format!("socket,id=shell,path={},server=on,wait=off", path.display()))
            .qemu_argument("-device")
            .qemu_argument("virtio-serial-pci")
            .qemu_argument("-device")
            .qemu_argument("virtserialport,chardev=shell,name=shell")
            .start()?;
        let stream = UnixStream::connect(&path).context("no shell port")?;
        stream.set_read_timeout(Some(BOOT_LIMIT))?;
        let mut shell = BufReader::new(stream);
        let mut greeting = String::new();
        let _ = shell
            .read_line(&mut greeting)
            .with_context(|| format!("the guest is silent\n{}", vm.console().tail()))?;
        ensure!(greeting == "ready\n", "the guest says `{greeting}`\n{}", vm.console().tail());
        shell.get_ref().set_read_timeout(Some(SCRIPT_LIMIT))?;
        Ok(Self { vm, shell, _socket: socket })
    }

    /// Its machine.
    pub fn vm(&mut self) -> &mut Vm {
        &mut self.vm
    }

    /// Runs a script of busybox's shell to its end.
    ///
    /// # Errors
    /// The script contains its own end, or the guest does not report its end in time.
    pub fn run(&mut self, script: &str) -> Result<Ran> {
        self.run_to_the_end(script)
            .with_context(|| format!("in the guest: {script}\n{}", self.vm.console().tail()))
    }

    /// Standard output of a script that succeeds.
    ///
    /// # Errors
    /// As [`Guest::run`], or the script fails: shows all it printed.
    pub fn sh(&mut self, script: &str) -> Result<String> {
        let ran = self.run(script)?;
        if ran.status == 0 {
            return Ok(ran.stdout);
        }
        bail!("`{script}` ended with {} in the guest\n{}{}", ran.status, ran.stdout, ran.stderr)
    }

    /// Runs a script again and again until it succeeds; its standard output then.
    ///
    /// # Errors
    /// As [`Guest::sh`] at the last attempt, once `limit` is over.
    pub fn sh_until(&mut self, script: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            match self.sh(script) {
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
                done => return done,
            }
        }
    }

    fn run_to_the_end(&mut self, script: &str) -> Result<Ran> {
        ensure!(!script.lines().any(|line| line == END), "a script cannot contain its own end");
        self.shell.get_mut().write_all(format!("{script}\n{END}\n").as_bytes())?;
        let mut header = String::new();
        let _ = self.shell.read_line(&mut header)?;
        let numbers: Vec<usize> =
            header.split_ascii_whitespace().map(str::parse).collect::<Result<_, _>>().context("no status")?;
        let [status, stdout, stderr] = numbers[..] else { bail!("the guest answers `{header}`") };
        Ok(Ran { status: i32::try_from(status)?, stdout: self.text(stdout)?, stderr: self.text(stderr)? })
    }

    fn text(&mut self, length_bytes: usize) -> Result<String> {
        let mut bytes = vec![0; length_bytes];
        self.shell.read_exact(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}
