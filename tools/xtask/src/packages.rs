//! Programs of the machine that a verb needs: found, or installed with apt where that is allowed.
//!
//! Debian 12's own QEMU 7.2 will do. But a machine that already has a part of QEMU from backports (qemu-utils, say)
//! cannot take 7.2 beside it: there QEMU comes from backports too, and if no source lists that suite, one is added
//! that copies where the machine gets Debian itself from.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use lab::host;

use crate::cargo;

/// Where an added source is written.
const ADDED_SOURCE: &str = "/etc/apt/sources.list.d/fairlead-backports.sources";

/// What a source may call a release instead of its codename.
const NAMES: [&str; 3] = ["stable", "oldstable", "oldoldstable"];

/// A program and the package that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The emulator, with the boot ROMs of its network cards.
    Qemu,
    /// Network namespaces and devices.
    Ip,
    /// Echo requests.
    Ping,
    /// TCP and UDP in bulk.
    Iperf3,
    /// Hop by hop.
    Traceroute,
    /// Servers, and clients with many connections.
    Python,
    /// HTTP requests over many connections.
    Wrk,
    /// An ESP of its own, in Python.
    Scapy,
}

impl Program {
    /// All that the demo uses.
    pub const DEMO: &[Self] =
        &[Self::Qemu, Self::Ip, Self::Ping, Self::Iperf3, Self::Traceroute, Self::Python, Self::Wrk];
    /// All that the QEMU tests use.
    pub const ALL: &[Self] = &[
        Self::Qemu,
        Self::Ip,
        Self::Ping,
        Self::Iperf3,
        Self::Traceroute,
        Self::Python,
        Self::Wrk,
        Self::Scapy,
    ];

    fn executable(self) -> &'static str {
        match self {
            Self::Qemu => "qemu-system-x86_64",
            Self::Ip => "ip",
            Self::Ping => "ping",
            Self::Iperf3 => "iperf3",
            Self::Traceroute => "traceroute",
            Self::Python => "python3",
            Self::Wrk => "wrk",
            Self::Scapy => "scapy",
        }
    }

    fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Qemu => &["qemu-system-x86", "ipxe-qemu"],
            Self::Ip => &["iproute2"],
            Self::Ping => &["iputils-ping"],
            Self::Iperf3 => &["iperf3"],
            Self::Traceroute => &["traceroute"],
            Self::Python => &["python3"],
            Self::Wrk => &["wrk"],
            Self::Scapy => &["python3-scapy", "python3-cryptography"],
        }
    }
}

/// Makes sure that these programs are there, installing what is missing if this user may.
pub fn ensure(programs: &[Program]) -> Result<()> {
    let missing: Vec<Program> = programs
        .iter()
        .copied()
        .filter(|program| host::find_program(program.executable()).is_none())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|program| program.executable()).collect();
    println!("missing on this machine: {}", names.join(", "));
    if host::find_program("apt-get").is_none() {
        bail!(
            "please install {}: this is not a Debian system, so nothing is installed for you",
            names.join(", ")
        );
    }
    let script = Plan::new(&missing, &installed()?, &Sources::read(Path::new("/etc"))?)?.script();
    let user = User::of_this_process();
    let by_hand = user.line(&script);
    let mut command = match user {
        User::Root => Command::new("sh"),
        User::Sudoer { asked: false } => {
            let mut sudo = Command::new("sudo");
            let _ = sudo.args(["-n", "sh"]);
            sudo
        }
        User::Sudoer { asked: true } | User::Plain => {
            bail!("they can be installed with this line:\n  {by_hand}")
        }
    };
    println!("installing them: {script}");
    let _ = command.args(["-c", &script]);
    if !cargo::run(command)? {
        bail!("the installation failed; to try it by hand: {by_hand}");
    }
    Ok(())
}

/// Who runs this, as far as packages go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum User {
    Root,
    /// Has sudo, which may ask for a password.
    Sudoer {
        asked: bool,
    },
    /// Has no sudo.
    Plain,
}

impl User {
    fn of_this_process() -> Self {
        if host::is_root() && !host::in_user_namespace() {
            return Self::Root;
        }
        match host::find_program("sudo") {
            Some(_) => Self::Sudoer { asked: !may_sudo() },
            None => Self::Plain,
        }
    }

    /// The line that does what the script says, for this user to type.
    fn line(self, script: &str) -> String {
        match self {
            Self::Root => format!("sh -c '{script}'"),
            Self::Sudoer { .. } => format!("sudo sh -c '{script}'"),
            Self::Plain => format!("su -c '{script}'"),
        }
    }
}

/// Makes sure that cargo-deny is in the cargo home.
pub fn ensure_cargo_deny() -> Result<()> {
    if lab::process::run(&mut cargo::command(["deny", "--version"]), std::time::Duration::from_secs(60))
        .is_ok_and(|finished| finished.status.success())
    {
        return Ok(());
    }
    println!("missing on this machine: cargo-deny; building it once into the cargo home (some minutes)");
    if !cargo::run(cargo::command(["install", "--locked", "--quiet", "cargo-deny"]))? {
        bail!("cargo-deny could not be installed");
    }
    Ok(())
}

fn may_sudo() -> bool {
    let mut probe = Command::new("sudo");
    lab::process::run(probe.args(["-n", "true"]), std::time::Duration::from_secs(10))
        .is_ok_and(|finished| finished.status.success())
}

/// Installed packages of QEMU and their versions.
fn installed() -> Result<BTreeMap<String, String>> {
    let mut query = Command::new("dpkg-query");
    let _ = query.args(["--show", "--showformat=${db:Status-Status} ${Package} ${Version}\\n", "qemu-*"]);
    // The query fails where nothing matches: then nothing is installed.
    let finished = lab::process::run(&mut query, std::time::Duration::from_secs(60))?;
    Ok(parse_installed(&finished.stdout))
}

fn parse_installed(listing: &str) -> BTreeMap<String, String> {
    let words = listing.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let installed = words.filter_map(|words| match words[..] {
        ["installed", package, version] => Some((package.to_owned(), version.to_owned())),
        _ => None,
    });
    installed.collect()
}

/// What has to be done to get programs.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    /// Text of a source to be added first.
    source: Option<String>,
    /// Suite that QEMU's packages come from, if not the default.
    suite: Option<String>,
    qemu_packages: Vec<&'static str>,
    packages: Vec<&'static str>,
}

impl Plan {
    fn new(missing: &[Program], installed: &BTreeMap<String, String>, sources: &Sources) -> Result<Self> {
        let all = |qemu: bool| {
            let chosen = missing.iter().filter(|program| (**program == Program::Qemu) == qemu);
            chosen.flat_map(|program| program.packages()).copied().collect::<Vec<_>>()
        };
        let (qemu_packages, packages) = (all(true), all(false));
        let from_backports = installed.values().any(|version| version.contains("~bpo"));
        if qemu_packages.is_empty() || !from_backports {
            return Ok(Self { source: None, suite: None, qemu_packages, packages });
        }
        let suite = format!("{}-backports", sources.codename);
        let source = if sources.lists_backports() { None } else { Some(sources.source_of(&suite)?) };
        Ok(Self { source, suite: Some(suite), qemu_packages, packages })
    }

    /// One line for a shell; it contains no single quote.
    fn script(&self) -> String {
        let mut commands = Vec::new();
        if let Some(source) = &self.source {
            let lines: Vec<String> = source.lines().map(|line| format!("\"{line}\"")).collect();
            commands.push(format!("printf \"%s\\n\" {} > {ADDED_SOURCE}", lines.join(" ")));
        }
        commands.push("apt-get update".to_owned());
        let install = "DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends";
        if !self.qemu_packages.is_empty() {
            let suite = self.suite.as_ref().map(|suite| format!(" -t {suite}")).unwrap_or_default();
            commands.push(format!("{install}{suite} {}", self.qemu_packages.join(" ")));
        }
        if !self.packages.is_empty() {
            commands.push(format!("{install} {}", self.packages.join(" ")));
        }
        commands.join(" && ")
    }
}

/// The package sources of this machine.
#[derive(Debug, Default)]
struct Sources {
    codename: String,
    entries: Vec<Entry>,
}

/// One source: what apt calls a stanza, or one line of the older format.
#[derive(Debug, Default, PartialEq, Eq)]
struct Entry {
    uris: String,
    suites: Vec<String>,
    components: Vec<String>,
    signed_by: Option<String>,
}

impl Sources {
    /// Reads what is under `etc`.
    fn read(etc: &Path) -> Result<Self> {
        let release = fs::read_to_string(etc.join("os-release")).context("which Debian is this?")?;
        let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
        let codename = codename.context("os-release names no VERSION_CODENAME")?.trim_matches('"').to_owned();
        let mut files = vec![etc.join("apt/sources.list")];
        if let Ok(directory) = fs::read_dir(etc.join("apt/sources.list.d")) {
            files.extend(directory.flatten().map(|entry| entry.path()));
        }
        let mut entries = Vec::new();
        for file in files {
            let text = fs::read_to_string(&file).unwrap_or_default();
            match file.extension().and_then(|extension| extension.to_str()) {
                Some("sources") => entries.extend(parse_stanzas(&text)),
                Some("list") => entries.extend(text.lines().filter_map(parse_line)),
                _ => (),
            }
        }
        Ok(Self { codename, entries })
    }

    /// Whether backports come from a source of this machine, by the codename or by the name that its own source uses.
    fn lists_backports(&self) -> bool {
        let names = NAMES.iter().copied().filter(|name| self.own().is_some_and(|own| own.has(name)));
        let mut suites = names.chain([self.codename.as_str()]).map(|name| format!("{name}-backports"));
        suites.any(|suite| self.entries.iter().any(|entry| entry.has(&suite)))
    }

    /// The source that Debian itself comes from. Other archives have suites of these names too.
    fn own(&self) -> Option<&Entry> {
        let own = |name: &str| {
            self.entries.iter().find(|entry| entry.has(name) && entry.has_main() && entry.is_debians())
        };
        let any = || self.entries.iter().find(|entry| entry.has(&self.codename) && entry.has_main());
        own(&self.codename).or_else(|| NAMES.iter().find_map(|name| own(name))).or_else(any)
    }

    /// A source of another suite of the archive that this machine gets Debian itself from.
    fn source_of(&self, suite: &str) -> Result<String> {
        let own = self.own().with_context(|| format!("no package source lists {}", self.codename))?;
        let signed_by = own.signed_by.as_ref().map(|key| format!("Signed-By: {key}\n")).unwrap_or_default();
        Ok(format!("Types: deb\nURIs: {}\nSuites: {suite}\nComponents: main\n{signed_by}", own.uris))
    }
}

impl Entry {
    fn has(&self, suite: &str) -> bool {
        self.suites.iter().any(|listed| listed == suite)
    }

    fn has_main(&self) -> bool {
        self.components.iter().any(|component| component == "main")
    }

    /// Mirrors keep the archive in a directory, or a list of them in a file, of its name.
    fn is_debians(&self) -> bool {
        self.uris.split_ascii_whitespace().any(|uri| {
            uri.trim_end_matches('/').rsplit('/').next().is_some_and(|last| last.starts_with("debian"))
        })
    }
}

/// The enabled binary sources of a deb822 file (sources.list(5)).
fn parse_stanzas(text: &str) -> Vec<Entry> {
    let without_comments: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let stanzas = without_comments.split(|line| line.trim().is_empty());
    stanzas.filter_map(parse_stanza).collect()
}

fn parse_stanza(lines: &[&str]) -> Option<Entry> {
    let field = |name: &str| {
        let mut fields = lines.iter().filter_map(|line| line.split_once(':'));
        fields.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    };
    let enabled = field("Enabled").is_none_or(|value| value != "no" && value != "false");
    if !enabled || !field("Types")?.split_ascii_whitespace().any(|kind| kind == "deb") {
        return None;
    }
    Some(Entry {
        uris: field("URIs")?.to_owned(),
        suites: field("Suites")?.split_ascii_whitespace().map(str::to_owned).collect(),
        components: field("Components")
            .unwrap_or_default()
            .split_ascii_whitespace()
            .map(str::to_owned)
            .collect(),
        // An embedded key has an empty first line: then apt's own keys have to do.
        signed_by: field("Signed-By").filter(|value| !value.is_empty()).map(str::to_owned),
    })
}

/// One line of the older format: `deb [signed-by=FILE] URI SUITE COMPONENTS`.
fn parse_line(line: &str) -> Option<Entry> {
    let mut rest = line.trim().strip_prefix("deb")?.strip_prefix([' ', '\t'])?.trim_start();
    let mut signed_by = None;
    if let Some((options, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        let mut options = options.split_ascii_whitespace();
        signed_by = options.find_map(|option| option.strip_prefix("signed-by=")).map(str::to_owned);
        rest = after;
    }
    let mut words = rest.split_ascii_whitespace();
    let (uris, suites) = (words.next()?.to_owned(), vec![words.next()?.to_owned()]);
    Some(Entry { uris, suites, components: words.map(str::to_owned).collect(), signed_by })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(sources: &[(&str, &str)]) -> Sources {
        let etc = tempfile::tempdir().unwrap();
        fs::create_dir_all(etc.path().join("apt/sources.list.d")).unwrap();
        fs::write(etc.path().join("os-release"), "NAME=\"Debian\"\nVERSION_CODENAME=bookworm\n").unwrap();
        for (file, text) in sources {
            fs::write(etc.path().join("apt").join(file), text).unwrap();
        }
        Sources::read(etc.path()).unwrap()
    }

    const STANZAS: &str = "\
Types: deb
# a mirror
URIs: http://mirror.test/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian.gpg

Types: deb
URIs: http://mirror.test/debian
Suites: bookworm-backports
Components: main
Enabled: no
";

    fn backported() -> BTreeMap<String, String> {
        parse_installed("installed qemu-utils 1:10.0.2+ds-2~bpo12+1\nnot-installed qemu-user \n")
    }

    #[test]
    fn a_plain_machine_gets_debians_own_packages() {
        let sources = machine(&[("sources.list.d/debian.sources", STANZAS)]);
        let plan = Plan::new(Program::ALL, &BTreeMap::new(), &sources).unwrap();
        assert_eq!(
            plan.script(),
            "apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
             qemu-system-x86 ipxe-qemu && DEBIAN_FRONTEND=noninteractive apt-get install --yes \
             --no-install-recommends iproute2 iputils-ping iperf3 traceroute python3 wrk python3-scapy \
             python3-cryptography"
        );
        let own = parse_installed("installed qemu-utils 1:7.2+dfsg-7+deb12u18\n");
        assert_eq!(Plan::new(Program::ALL, &own, &sources).unwrap().suite, None);
    }

    #[test]
    fn a_machine_with_backported_parts_gets_backports_from_its_own_mirror() {
        let sources = machine(&[("sources.list.d/debian.sources", STANZAS)]);
        let plan = Plan::new(&[Program::Qemu], &backported(), &sources).unwrap();
        assert_eq!(
            plan.source.as_deref().unwrap(),
            "Types: deb\nURIs: http://mirror.test/debian\nSuites: bookworm-backports\nComponents: main\n\
             Signed-By: /usr/share/keyrings/debian.gpg\n"
        );
        let script = plan.script();
        assert!(script.starts_with("printf \"%s\\n\" \"Types: deb\" \"URIs: "), "{script}");
        assert!(
            script.contains("--no-install-recommends -t bookworm-backports qemu-system-x86 "),
            "{script}"
        );
        assert!(!script.contains('\''), "{script}");
    }

    #[test]
    fn a_machine_that_lists_backports_gets_no_second_source() {
        let line = "deb [arch=amd64 signed-by=/k.gpg] http://mirror.test/debian bookworm-backports main\n";
        let sources = machine(&[("sources.list.d/debian.sources", STANZAS), ("sources.list", line)]);
        let plan = Plan::new(&[Program::Qemu, Program::Ip], &backported(), &sources).unwrap();
        assert_eq!((plan.source, plan.suite.as_deref()), (None, Some("bookworm-backports")));
    }

    #[test]
    fn backports_do_not_matter_where_qemu_is_there() {
        let sources = machine(&[("sources.list", "deb http://mirror.test/debian bookworm main\n")]);
        let plan = Plan::new(&[Program::Iperf3], &backported(), &sources).unwrap();
        assert_eq!((plan.source, plan.suite, plan.packages), (None, None, vec!["iperf3"]));
    }

    #[test]
    fn the_older_source_format_is_read() {
        let entry = parse_line("deb [signed-by=/k.gpg] http://mirror.test/debian bookworm main").unwrap();
        assert_eq!((entry.suites, entry.signed_by.as_deref()), (vec!["bookworm".into()], Some("/k.gpg")));
        assert_eq!(parse_line("deb-src http://mirror.test/debian bookworm main"), None);
        assert_eq!(parse_line("# deb http://mirror.test/debian bookworm main"), None);
    }

    #[test]
    fn sources_may_name_the_release_by_its_rank() {
        let browser = ("sources.list.d/browser.list", "deb http://browser.test/deb/ stable main\n");
        for rank in ["stable", "oldstable"] {
            let line = format!("deb http://mirror.test/debian/ {rank} main\n");
            let sources = machine(&[browser, ("sources.list", &line)]);
            let plan = Plan::new(&[Program::Qemu], &backported(), &sources).unwrap();
            let source = plan.source.unwrap();
            let expected = "URIs: http://mirror.test/debian/\nSuites: bookworm-backports\n";
            assert!(source.contains(expected), "{source}");
            let listed = format!("{line}deb http://mirror.test/debian/ {rank}-backports main\n");
            let sources = machine(&[browser, ("sources.list", &listed)]);
            assert_eq!(Plan::new(&[Program::Qemu], &backported(), &sources).unwrap().source, None);
        }
        let sources = machine(&[browser]);
        assert!(Plan::new(&[Program::Qemu], &backported(), &sources).is_err());
    }

    #[test]
    fn the_line_to_type_is_one_that_its_user_can_run() {
        assert_eq!(User::Root.line("true"), "sh -c 'true'");
        assert_eq!(User::Sudoer { asked: true }.line("true"), "sudo sh -c 'true'");
        assert_eq!(User::Plain.line("true"), "su -c 'true'");
    }
}
