//! A virtual machine: QEMU with the image, for as long as the value lives.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::console::tail;
use crate::host::Accelerator;
use crate::{Api, Console, Nic, Qmp, process};

/// What a machine is made of. Every setter returns the builder.
#[derive(Clone, Debug)]
pub struct VmBuilder {
    name: String,
    logs: PathBuf,
    image: Option<PathBuf>,
    config: Option<Value>,
    initrd: Option<PathBuf>,
    command_line: Vec<String>,
    nics: Vec<Nic>,
    drives: Vec<PathBuf>,
    machine: String,
    cpu: Option<String>,
    smp: u16,
    memory_mib: u32,
    extra: Vec<String>,
}

impl VmBuilder {
    /// Boots this ELF image (`-kernel`); without one the machine starts from its disks or network.
    #[must_use]
    pub fn image(mut self, image: &Path) -> Self {
        self.image = Some(image.to_owned());
        self
    }

    /// Hands the node this configuration as its boot module.
    #[must_use]
    pub fn config(mut self, config: Value) -> Self {
        self.config = Some(config);
        self
    }

    /// Hands another system than the node this file as its initial file system.
    #[must_use]
    pub fn initrd(mut self, file: &Path) -> Self {
        self.initrd = Some(file.to_owned());
        self
    }

    /// Adds a word to the kernel command line.
    #[must_use]
    pub fn argument(mut self, word: &str) -> Self {
        self.command_line.push(word.to_owned());
        self
    }

    /// Adds an interface.
    #[must_use]
    pub fn nic(mut self, nic: Nic) -> Self {
        self.nics.push(nic);
        self
    }

    /// Adds a virtio-blk disk with the contents of a raw file.
    #[must_use]
    pub fn drive(mut self, file: &Path) -> Self {
        self.drives.push(file.to_owned());
        self
    }

    /// The machine type (default `q35`).
    #[must_use]
    pub fn machine(mut self, machine: &str) -> Self {
        self.machine = machine.to_owned();
        self
    }

    /// The processor model (default: all that the accelerator has).
    #[must_use]
    pub fn cpu(mut self, cpu: &str) -> Self {
        self.cpu = Some(cpu.to_owned());
        self
    }

    /// The number of cores (default 1).
    #[must_use]
    pub fn smp(mut self, cores: u16) -> Self {
        self.smp = cores;
        self
    }

    /// The amount of memory (default 256).
    #[must_use]
    pub fn memory_mib(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// Adds an argument of QEMU itself.
    #[must_use]
    pub fn qemu_argument(mut self, argument: impl Into<String>) -> Self {
        self.extra.push(argument.into());
        self
    }

    /// QEMU's arguments, apart from those that say where console and control channel go. Writes the configuration
    /// into the directory of the logs.
    ///
    /// # Errors
    /// The configuration cannot be written, or a path is not UTF-8.
    pub fn qemu_arguments(&self) -> Result<Vec<String>> {
        let [accel_flag, accelerator, cpu_flag, cpu] = Accelerator::of_this_machine().qemu_arguments();
        let mut arguments: Vec<String> = [accel_flag, accelerator, cpu_flag].map(String::from).into();
        arguments.push(self.cpu.clone().unwrap_or_else(|| cpu.to_owned()));
        let mut add = |flag: &str, value: String| arguments.extend([flag.to_owned(), value]);
        add("-machine", self.machine.clone());
        add("-smp", self.smp.to_string());
        add("-m", format!("{}M", self.memory_mib));
        // `-nic none`, not `-nodefaults`: the serial port and the chipset stay.
        add("-nic", "none".into());
        add("-vga", "none".into());
        add("-display", "none".into());
        add("-device", "virtio-rng-pci".into());
        if let Some(image) = &self.image {
            add("-kernel", path_argument(image)?);
            if !self.command_line.is_empty() {
                add("-append", self.command_line.join(" "));
            }
        }
        if let Some(config) = &self.config {
            let file = self.logs.join(format!("{}.config.json", self.name));
            fs::write(&file, serde_json::to_vec_pretty(config)?)?;
            add("-initrd", path_argument(&file)?);
        }
        if let Some(file) = &self.initrd {
            add("-initrd", path_argument(file)?);
        }
        for (index, file) in self.drives.iter().enumerate() {
            add("-drive", format!("if=none,id=disk{index},format=raw,file={}", path_argument(file)?));
            add("-device", format!("virtio-blk-pci,drive=disk{index}"));
        }
        for (index, nic) in self.nics.iter().enumerate() {
            arguments.extend(nic.qemu_arguments(index, &self.name, &self.logs));
        }
        arguments.extend(self.extra.iter().cloned());
        Ok(arguments)
    }

    /// Starts the machine.
    ///
    /// # Errors
    /// A log cannot be written, or QEMU cannot be started or ends before its control channel answers: shows what it said.
    pub fn start(self) -> Result<Vm> {
        fs::create_dir_all(&self.logs)?;
        let log = |suffix: &str| self.logs.join(format!("{}.{suffix}", self.name));
        let sockets = tempfile::Builder::new().prefix("fairlead-vm-").tempdir()?;
        let control = sockets.path().join("qmp");
        let mut command = process::tethered("qemu-system-x86_64");
        let _ = command
            .args(self.qemu_arguments()?)
            .args([
                "-chardev",
                "stdio,id=console,signal=off",
                "-serial",
                "chardev:console",
                "-monitor",
                "none",
            ])
            .args(["-qmp", &format!("unix:{},server=on,wait=off", path_argument(&control)?)])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(log("qemu.log"))?);
        fs::write(log("command"), process::command_line(&command))?;
        let mut child = Running(command.spawn().context("cannot start QEMU")?);
        let output = child.0.stdout.take().context("QEMU has no output")?;
        let console = Console::read_from(output, &log("console.log"))?;
        let stderr = log("qemu.log");
        let qmp = Qmp::connect(&control, || child.is_alive().with_context(|| said(&stderr)))
            .with_context(|| said(&stderr))?;
        let mut vm = Vm { child, console, qmp, forwarded_port: None, _sockets: sockets };
        if self.nics.iter().any(Nic::is_user) {
            vm.forwarded_port = Some(forwarded_port(&vm.qmp.monitor("info usernet")?)?);
        }
        Ok(vm)
    }
}

/// A running machine. Dropping it is pulling the plug.
#[derive(Debug)]
pub struct Vm {
    child: Running,
    console: Console,
    qmp: Qmp,
    forwarded_port: Option<u16>,
    _sockets: TempDir,
}

impl Vm {
    /// A machine called `name`, whose console log, configuration and captures go to the directory `logs` and stay there.
    pub fn builder(name: &str, logs: &Path) -> VmBuilder {
        VmBuilder {
            name: name.to_owned(),
            logs: logs.to_owned(),
            image: None,
            config: None,
            initrd: None,
            command_line: Vec::new(),
            nics: Vec::new(),
            drives: Vec::new(),
            machine: "q35".to_owned(),
            cpu: None,
            smp: 1,
            memory_mib: 256,
            extra: Vec::new(),
        }
    }

    /// Its serial console.
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// Its control channel.
    pub fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }

    /// Its management API, over the user-mode network.
    ///
    /// # Errors
    /// The machine has no user-mode interface.
    pub fn api(&self, token: &str) -> Result<Api> {
        let port = self.forwarded_port.context("the machine has no user-mode interface")?;
        Ok(Api::new(format!("http://127.0.0.1:{port}"), token))
    }

    /// The guest's first core.
    ///
    /// # Errors
    /// QEMU does not answer, or names no thread for it.
    pub fn first_core(&mut self) -> Result<Core> {
        let cores = self.qmp.execute("query-cpus-fast", &json!({}))?;
        let thread = cores[0]["thread-id"].as_u64().with_context(|| format!("no thread in {cores}"))?;
        Ok(Core { stat: format!("/proc/{}/task/{thread}/stat", self.child.0.id()) })
    }

    /// Processor time that QEMU has used since it was started, guest and emulation together.
    ///
    /// # Errors
    /// The times of its process cannot be read.
    pub fn cpu_time(&self) -> Result<Duration> {
        cpu_time_of(&fs::read_to_string(format!("/proc/{}/stat", self.child.0.id()))?)
    }

    /// Waits for QEMU to end by itself.
    ///
    /// # Errors
    /// QEMU still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Some(status) = self.child.0.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        bail!("QEMU still runs after {limit:?}")
    }
}

/// A core of a machine, which is a thread of QEMU's.
#[derive(Debug)]
pub struct Core {
    stat: String,
}

impl Core {
    /// Processor time that it has used, emulation included, in hundredths of a second. A core that never halts has all
    /// the time that passes, unless the machine below has other things to do.
    ///
    /// # Errors
    /// Its times cannot be read, as when QEMU has ended.
    pub fn time(&self) -> Result<Duration> {
        cpu_time_of(&fs::read_to_string(&self.stat)?)
    }
}

/// A child that dies with its value.
#[derive(Debug)]
struct Running(Child);

impl Running {
    fn is_alive(&mut self) -> Result<()> {
        let ended = self.0.try_wait()?;
        ensure!(ended.is_none(), "QEMU ended: {}", ended.unwrap_or_default());
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if the process is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A path as part of a QEMU option, where a comma would start the next property.
fn path_argument(path: &Path) -> Result<String> {
    let text = path.to_str().context("QEMU needs paths in UTF-8")?;
    Ok(text.replace(',', ",,"))
}

fn said(stderr: &Path) -> String {
    format!("QEMU said: {}", tail(&fs::read_to_string(stderr).unwrap_or_default(), 10))
}

/// The port of this host in the monitor's `info usernet`: `TCP[HOST_FORWARD]  12  127.0.0.1 34567  10.0.2.15 80 ...`.
fn forwarded_port(usernet: &str) -> Result<u16> {
    let line = usernet.lines().find(|line| line.contains("HOST_FORWARD")).context("QEMU forwards no port")?;
    let port = line.split_ascii_whitespace().nth(3).context("unknown format of `info usernet`")?;
    port.parse().with_context(|| format!("no port in `{line}`"))
}

/// User and system time out of /proc/PID/stat or the like of a thread, which counts hundredths of a second (`proc_pid_stat(5)`).
fn cpu_time_of(stat: &str) -> Result<Duration> {
    let after_name = stat.rsplit_once(')').context("no process name")?.1;
    let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
    let (user, system) = (fields.get(11).context("no utime")?, fields.get(12).context("no stime")?);
    Ok(Duration::from_millis(10 * (user.parse::<u64>()? + system.parse::<u64>()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forwarded_port_is_read_from_the_monitor() {
        let usernet = "Hub -1 (net0):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ\r\n  \
                       TCP[HOST_FORWARD]  13       127.0.0.1 34567       10.0.2.15    80     0     0\r\n";
        assert_eq!(forwarded_port(usernet).unwrap(), 34567);
        assert!(forwarded_port("Hub -1").is_err());
    }

    #[test]
    fn processor_time_is_read_behind_any_process_name() {
        let stat = "12 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 3";
        assert_eq!(cpu_time_of(stat).unwrap(), Duration::from_secs(2));
    }

    #[test]
    fn arguments_say_what_was_asked_for() {
        let logs = tempfile::tempdir().unwrap();
        let builder = Vm::builder("gw", logs.path())
            .image(Path::new("/images/fair,lead.elf"))
            .config(serde_json::json!({"hostname": "gw"}))
            .argument("log=debug")
            .argument("token=t")
            .machine("pc")
            .cpu("Haswell")
            .smp(2)
            .memory_mib(64);
        let arguments = builder.qemu_arguments().unwrap().join(" ");
        for expected in [
            "-cpu Haswell -machine pc -smp 2 -m 64M ",
            "-kernel /images/fair,,lead.elf -append log=debug token=t -initrd ",
        ] {
            assert!(arguments.contains(expected), "{arguments}");
        }
        let module = fs::read_to_string(logs.path().join("gw.config.json")).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&module).unwrap()["hostname"], "gw");
    }

    /// A boot sector that writes "ok" to COM1 and halts: enough to try everything about a machine but the image.
    fn boot_sector() -> Vec<u8> {
        let mut sector = vec![
            0xba, 0xf8, 0x03, // mov dx, 0x3f8
            0xb0, b'o', 0xee, // mov al, 'o'; out dx, al
            0xb0, b'k', 0xee, // mov al, 'k'; out dx, al
            0xb0, b'\n', 0xee, // mov al, '\n'; out dx, al
            0xfa, 0xf4, // cli; hlt
        ];
        sector.resize(510, 0);
        sector.extend([0x55, 0xaa]);
        sector
    }

    #[test]
    fn a_machine_runs_prints_resets_and_can_be_unplugged() {
        let logs = tempfile::tempdir().unwrap();
        let disk = logs.path().join("disk");
        fs::write(&disk, boot_sector()).unwrap();
        let wire = crate::FrameSocket::new().unwrap();
        let mut vm = Vm::builder("probe", logs.path())
            .machine("pc")
            .memory_mib(16)
            .qemu_argument("-drive")
            .qemu_argument(format!("if=ide,format=raw,file={}", disk.display()))
            .nic(Nic::user(0))
            .nic(wire.nic().option("packed=on"))
            .start()
            .unwrap();
        let limit = Duration::from_secs(60);
        assert_eq!(vm.console().wait_for("^ok$", limit).unwrap(), "ok");
        vm.qmp().system_reset().unwrap();
        let _ = vm.console().wait_for("^ok$", limit).unwrap();
        vm.qmp().set_link("nic1", false).unwrap();
        assert!(vm.qmp().set_link("nic7", false).is_err());
        assert!(vm.api("token").unwrap().base().starts_with("http://127.0.0.1:"));
        assert!(vm.cpu_time().unwrap() > Duration::ZERO);
        assert!(
            vm.first_core().unwrap().time().unwrap() <= vm.cpu_time().unwrap() + Duration::from_millis(20)
        );
        assert!(logs.path().join("probe.nic1.pcap").exists());
        let _ = vm.qmp().execute("quit", &serde_json::json!({})).unwrap();
        assert!(vm.wait(limit).unwrap().success());
    }

    #[test]
    fn a_machine_that_cannot_start_says_why() {
        let logs = tempfile::tempdir().unwrap();
        let error = Vm::builder("broken", logs.path()).machine("no-such-machine").start().unwrap_err();
        assert!(format!("{error:#}").contains("no-such-machine"), "{error:#}");
    }
}
