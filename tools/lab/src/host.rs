//! What this machine allows an experiment to use.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::process;

/// Set in the environment of a program that [`in_user_namespace_command`] started again.
const INSIDE: &str = "FAIRLEAD_USER_NAMESPACE";

/// What executes guest code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// Hardware virtualisation.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

impl Accelerator {
    /// The one to use here. A `/dev/kvm` that opens is not enough: without vmx or svm in CPUID what stands behind
    /// it cannot run a guest kernel that uses SSE.
    pub fn of_this_machine() -> Self {
        let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let kvm_opens = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
        if kvm_opens && has_hardware_virtualisation(&flags) { Self::Kvm } else { Self::Tcg }
    }

    /// QEMU's arguments for the accelerator and the fullest processor it can give.
    pub fn qemu_arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }
}

fn has_hardware_virtualisation(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    flags.split_ascii_whitespace().any(|flag| flag == "vmx" || flag == "svm")
}

/// Whether this program runs as root, whatever root may do here.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether this program runs in a user namespace that [`in_user_namespace_command`] made.
pub fn in_user_namespace() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Whether network namespaces and TAP devices can be made as things are. Root of a container may lack the capabilities.
pub fn can_make_hosts() -> bool {
    static CAN: OnceLock<bool> = OnceLock::new();
    *CAN.get_or_init(|| is_root() && succeeds(unshare(&[], MAKE_HOSTS)))
}

/// Whether network namespaces and TAP devices can be made in a user namespace here, which takes no privileges.
pub fn user_namespaces_work() -> bool {
    succeeds(in_namespace(MAKE_HOSTS))
}

/// Makes one of each that experiments need.
const MAKE_HOSTS: &str = "ip tuntap add dev probe mode tap && ip netns add probe";

fn succeeds(mut probe: Command) -> bool {
    process::run(&mut probe, Duration::from_secs(10)).is_ok_and(|finished| finished.status.success())
}

/// A command that starts this program again, with the same arguments, as root of a user namespace of its own with its
/// own network and mounts.
///
/// # Errors
/// The path of this program is unknown.
pub fn in_user_namespace_command() -> Result<Command> {
    let mut command = in_namespace(r#"exec "$0" "$@""#);
    let _ = command.arg(std::env::current_exe()?).args(std::env::args_os().skip(1)).env(INSIDE, "1");
    Ok(command)
}

/// Becomes this program in a user namespace; returns only if that cannot be done.
///
/// # Errors
/// Always, since success does not return: why the program could not be started again.
pub fn enter_user_namespace() -> Result<std::convert::Infallible> {
    use std::os::unix::process::CommandExt;
    bail!("cannot enter a user namespace: {}", in_user_namespace_command()?.exec())
}

fn in_namespace(then: &str) -> Command {
    unshare(&["--user", "--map-root-user"], then)
}

/// A script with its own network and mounts. `ip netns` keeps its names in /run, which belongs to the real root: there is
/// another /run here.
fn unshare(flags: &[&str], then: &str) -> Command {
    let mut command = Command::new("unshare");
    let script = format!("mount -t tmpfs tmpfs /run && ip link set lo up && {then}");
    let _ = command.args(flags).args(["--net", "--mount", "--", "sh", "-c", &script]);
    command
}

/// Where a program is, on PATH or where administrators' programs live (a plain user's PATH lacks sbin on Debian).
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from);
    let mut directories = std::env::split_paths(&path).chain(usual);
    directories.find_map(|directory| {
        let candidate = directory.join(name);
        candidate.is_file().then_some(candidate)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvm_needs_vmx_or_svm_as_a_whole_flag() {
        assert!(has_hardware_virtualisation("processor : 0\nflags\t\t: fpu svm sse2\n"));
        assert!(has_hardware_virtualisation("flags\t\t: fpu vmx\n"));
        assert!(!has_hardware_virtualisation("flags\t\t: fpu svm_lock avx\nvmx flags : ept\n"));
        assert!(!has_hardware_virtualisation(""));
    }

    #[test]
    fn programs_are_found_where_they_are() {
        assert!(find_program("sh").is_some());
        assert!(find_program("no-such-program-anywhere").is_none());
    }

    #[test]
    fn without_capabilities_the_probe_says_no() {
        let probe = unshare(&[], MAKE_HOSTS);
        let mut deprived = Command::new("setpriv");
        let _ = deprived.args(["--bounding-set=-all", "--inh-caps=-all", "--"]);
        let _ = deprived.arg(probe.get_program()).args(probe.get_args());
        assert!(!succeeds(deprived));
    }
}
