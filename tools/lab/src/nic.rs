//! One network interface of a machine: where its frames go and which device the guest sees.

use std::path::{Path, PathBuf};

/// The frames' other end.
#[derive(Clone, Debug)]
enum Backend {
    /// QEMU's user-mode network 10.0.2.0/24, and the port of this host that is forwarded to one of 10.0.2.15.
    User { forward: Option<Forward> },
    /// A TAP device that QEMU makes and that vanishes with it.
    Tap { name: String },
    /// A pair of Unix datagram sockets, one frame per datagram.
    Dgram { local: PathBuf, remote: PathBuf },
}

/// A TCP port of localhost, and the guest's port that it leads to.
#[derive(Clone, Copy, Debug)]
struct Forward {
    host_port: u16,
    guest_port: u16,
}

/// A virtio-net device and its backend. Interfaces appear to the guest in the order in which they are added.
#[derive(Clone, Debug)]
pub struct Nic {
    backend: Backend,
    queues: u16,
    options: Vec<String>,
    backend_options: Vec<String>,
    boot_rom: bool,
    capture: bool,
}

impl Nic {
    /// QEMU's user-mode network: the guest may be 10.0.2.15/24, the host is 10.0.2.2, and DHCP answers. Port 80 of
    /// the guest is reachable at `host_port` of localhost; 0 leaves the choice to the system.
    pub fn user(host_port: u16) -> Self {
        Self::user_to(host_port, 80)
    }

    /// [`Nic::user`] for an API at another port of the guest.
    pub fn user_to(host_port: u16, guest_port: u16) -> Self {
        Self::over(Backend::User { forward: Some(Forward { host_port, guest_port }) })
    }

    /// QEMU's user-mode network without a port of the host.
    pub fn user_unreachable() -> Self {
        Self::over(Backend::User { forward: None })
    }

    /// A TAP device of that name, made in QEMU's own network namespace (needs root there).
    pub fn tap(name: impl Into<String>) -> Self {
        Self::over(Backend::Tap { name: name.into() })
    }

    /// Frames over Unix datagram sockets: QEMU binds `local` and sends to `remote`.
    pub fn dgram(local: impl Into<PathBuf>, remote: impl Into<PathBuf>) -> Self {
        Self::over(Backend::Dgram { local: local.into(), remote: remote.into() })
    }

    fn over(backend: Backend) -> Self {
        Self {
            backend,
            queues: 1,
            options: Vec::new(),
            backend_options: Vec::new(),
            boot_rom: false,
            capture: true,
        }
    }

    /// Gives the device `pairs` queue pairs; only TAP can serve more than one.
    #[must_use]
    pub fn queues(mut self, pairs: u16) -> Self {
        self.queues = pairs;
        self
    }

    /// Adds a property of the virtio-net device: `packed=on`, `host_mtu=9000`, `mac=...`.
    #[must_use]
    pub fn option(mut self, property: &str) -> Self {
        self.options.push(property.to_owned());
        self
    }

    /// Adds a property of the backend: `tftp=DIRECTORY`, `bootfile=NAME`, `sndbuf=BYTES`.
    #[must_use]
    pub fn backend_option(mut self, property: &str) -> Self {
        self.backend_options.push(property.to_owned());
        self
    }

    /// Keeps the iPXE boot ROM on the device.
    #[must_use]
    pub fn boot_rom(mut self) -> Self {
        self.boot_rom = true;
        self
    }

    /// Does without a capture of the frames: for bulk traffic.
    #[must_use]
    pub fn without_capture(mut self) -> Self {
        self.capture = false;
        self
    }

    /// Whether the management interface can be reached over this one from the host.
    pub(crate) fn is_user(&self) -> bool {
        matches!(self.backend, Backend::User { forward: Some(_) })
    }

    /// QEMU's arguments for interface number `index`, whose frames are captured into the directory `logs`.
    pub(crate) fn qemu_arguments(&self, index: usize, machine: &str, logs: &Path) -> Vec<String> {
        let mut netdev = match &self.backend {
            Backend::User { forward: Some(Forward { host_port, guest_port }) } => {
                format!("user,id=net{index},hostfwd=tcp:127.0.0.1:{host_port}-10.0.2.15:{guest_port}")
            }
            Backend::User { forward: None } => format!("user,id=net{index}"),
            Backend::Tap { name } => {
                let queues = if self.queues > 1 { format!(",queues={}", self.queues) } else { String::new() };
                format!("tap,id=net{index},ifname={name},script=no,downscript=no{queues}")
            }
            Backend::Dgram { local, remote } => format!(
                "dgram,id=net{index},local.type=unix,local.path={},remote.type=unix,remote.path={}",
                local.display(),
                remote.display()
            ),
        };
        for option in &self.backend_options {
            netdev += &format!(",{option}");
        }
        let mut device = format!("virtio-net-pci,id=nic{index},netdev=net{index}");
        if !self.options.iter().any(|option| option.starts_with("mac=")) {
            device += &format!(",mac={}", default_mac(index));
        }
        if self.queues > 1 {
            // One vector per queue, one for configuration changes, one for the control queue.
            device += &format!(",mq=on,vectors={}", 2 * self.queues + 2);
        }
        if !self.boot_rom {
            device += ",romfile=";
        }
        for option in &self.options {
            device += &format!(",{option}");
        }
        let mut arguments = vec!["-netdev".into(), netdev, "-device".into(), device];
        if self.capture {
            let file = logs.join(format!("{machine}.nic{index}.pcap"));
            arguments.push("-object".into());
            arguments.push(format!("filter-dump,id=dump{index},netdev=net{index},file={}", file.display()));
        }
        arguments
    }
}

/// The address of interface `index` when the caller does not say another: locally administered, QEMU's prefix.
pub(crate) fn default_mac(index: usize) -> String {
    format!("52:54:00:fa:1e:{index:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_multiqueue_tap_gets_queues_on_both_sides_and_a_vector_for_each() {
        let nic = Nic::tap("t0").queues(2).option("packed=on").without_capture();
        assert_eq!(
            nic.qemu_arguments(3, "gw", Path::new("/logs")).join(" "),
            "-netdev tap,id=net3,ifname=t0,script=no,downscript=no,queues=2 \
             -device virtio-net-pci,id=nic3,netdev=net3,mac=52:54:00:fa:1e:03,mq=on,vectors=6,romfile=,packed=on"
        );
    }

    #[test]
    fn a_given_address_replaces_the_default_and_frames_are_captured() {
        let arguments =
            Nic::dgram("/a", "/b").option("mac=52:54:00:00:00:01").qemu_arguments(0, "gw", Path::new("/l"));
        assert!(arguments[1].ends_with("local.path=/a,remote.type=unix,remote.path=/b"), "{arguments:?}");
        assert_eq!(arguments[3].matches("mac=").count(), 1, "{arguments:?}");
        assert_eq!(arguments[5], "filter-dump,id=dump0,netdev=net0,file=/l/gw.nic0.pcap");
    }
}
