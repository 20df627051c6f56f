//! A guest with Debian's kernel at the far end of a cable: two hosts, one of which is in a VLAN of that cable.
//!
//! ```text
//!   left station                     node                                  guest
//!   10.1.0.2 2001:db8:1::2 ---- eth1      eth2     2001:db8:2::/64   ==== eth0                 ---+-- 10.9.0.1
//!                                         eth2.200 2001:db8:200::/64 ==== VLAN 200, namespace  ---+   2001:db8:9::1
//! ```
//!
//! Both take IPv6 addresses and their router from what the node advertises, and both are next hops to the same networks.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::gateway::{self, LEFT, RIGHT};
use lab::guest::Guest;
use lab::{Cable, Nic, Station, frame};
use qemu_tests::Experiment;
use serde_json::{Value, json};

/// How long a host may take to have what a router advertises: it asks after at most a second, and the router answers within half a second.
const LIMIT: Duration = Duration::from_secs(30);
/// Runs a program on the host in the VLAN.
const IN_VLAN: &str = "nsenter --net=/run/netns/vlan";
/// Flows of each family that the two next hops share.
const FLOWS: u16 = 64;
/// Of so many neither gets fewer by chance once in a billion runs.
const FEW: u64 = 8;

pub fn is_routed_to(experiment: &Experiment) -> Result<()> {
    let cable = Cable::new()?;
    let [node_end, guest_end] = cable.ends();
    let left = Station::new(lab::FrameSocket::new()?, 1, LEFT.host4, LEFT.host6);
    let machine = experiment.machine("gateway").config(config());
    let machine = machine.nic(Nic::user(0).without_capture()).nic(left.wire().nic()).nic(node_end);
    let _node = experiment.start(machine)?;
    let mut guest =
        experiment.guest(experiment.bare_machine("guest").nic(guest_end.option("mac=52:54:00:fa:1f:02")))?;
    set_up(&mut guest)?;
    hosts_reach_each_other(&mut guest)?;
    // One packet each: busybox waits a second between two.
    for node in RIGHT.nodes().into_iter().chain(LEFT.nodes()) {
        let _ = pinged(&mut guest, &format!("ping -c 1 -W 5 {node}"))?;
        let _ = pinged(&mut guest, &format!("{IN_VLAN} ping -c 1 -W 5 {node}"))?;
    }
    next_hops_share_flows(experiment, &left, &mut guest)?;
    scripts_tell_what_happened(&mut guest)
}

fn config() -> Value {
    let mut config = gateway::config();
    let advertisements = json!({ "max_interval_seconds": 4, "router_lifetime_seconds": 1800 });
    config["interfaces"][2]["router_advertisements"] = advertisements.clone();
    let tagged = json!({
        "name": "eth2.200", "parent": RIGHT.interface, "vlan": 200,
        "addresses": ["10.2.200.1/24", "2001:db8:200::1/64"], "router_advertisements": advertisements,
    });
    config["interfaces"].as_array_mut().into_iter().for_each(|list| list.push(tagged.clone()));
    let both = |one: String, other: &str| json!([{ "address": one }, { "address": other }]);
    config["routes"] = json!([
        { "prefix": "10.9.0.0/24", "via": both(RIGHT.host4.to_string(), "10.2.200.2") },
        { "prefix": "2001:db8:9::/64", "via": both(RIGHT.host6.to_string(), "2001:db8:200::2") },
    ]);
    config
}

/// Makes two hosts of the guest. Their ways out in IPv6 are left to the router to tell.
fn set_up(guest: &mut Guest) -> Result<()> {
    // One program for each host: under emulation it takes longer to start one than to configure a host.
    let _ = guest.sh(&format!(
        "ip -batch - <<END && ip -batch - <<END && ip -n vlan -batch - <<END\n\
         link add link eth0 name tagged type vlan id 200\nnetns add vlan\nlink set tagged netns vlan\nEND\n{}END\n{}END",
        host("eth0", &RIGHT.host4.to_string(), &RIGHT.host6.to_string(), &RIGHT.node4.to_string()),
        host("tagged", "10.2.200.2", "2001:db8:200::2", "10.2.200.1"),
    ))?;
    Ok(())
}

/// What `ip` is to do for a host at its device.
fn host(device: &str, address4: &str, address6: &str, router: &str) -> String {
    format!(
        "link set lo up\naddr add 10.9.0.1/32 dev lo\naddr add 2001:db8:9::1/128 dev lo\n\
         link set {device} up\naddr add {address4}/24 dev {device}\naddr add {address6}/64 dev {device} nodad\n\
         route add default via {router}\n"
    )
}

/// What a ping says that loses nothing.
fn pinged(guest: &mut Guest, ping: &str) -> Result<String> {
    let report = guest.sh(ping)?;
    ensure!(report.contains(" 0% packet loss"), "`{ping}`: {report}");
    Ok(report)
}

/// From the address that one host has made of what it was told to that of the other, both ways, and in IPv4.
fn hosts_reach_each_other(guest: &mut Guest) -> Result<()> {
    let mut advertised = |ip: &str, device: &str, network: &str| -> Result<String> {
        let script = format!(
            "{ip} -6 route show default | grep -q 'proto ra' && {ip} -6 -o addr show dev {device} dynamic -tentative | grep ' {network}:'"
        );
        let shown = guest.sh_until(&script, LIMIT)?;
        let address = shown.split_ascii_whitespace().find_map(|word| word.strip_suffix("/64"));
        Ok(address.with_context(|| format!("no address: {shown}"))?.to_owned())
    };
    let untagged = advertised("ip", "eth0", "2001:db8:2")?;
    let tagged = advertised("ip -n vlan", "tagged", "2001:db8:200")?;
    for ping in [
        format!("ping -c 1 -W 5 -s 1000 -I {untagged} {tagged}"),
        format!("{IN_VLAN} ping -c 1 -W 5 -s 1000 -I {tagged} {untagged}"),
        format!("ping -c 1 -W 5 -s 1000 -I {} 10.2.200.2", RIGHT.host4),
        format!("{IN_VLAN} ping -c 1 -W 5 -s 1000 {}", RIGHT.host4),
    ] {
        let report = pinged(guest, &ping)?;
        // One router on the way: 64 became 63.
        ensure!(report.contains("ttl=63"), "`{ping}`: {report}");
    }
    Ok(())
}

/// A datagram of each flow arrives at one of two hosts that have the same address, and each has some.
fn next_hops_share_flows(experiment: &Experiment, left: &Station, guest: &mut Guest) -> Result<()> {
    let families = [("10.9.0.1", "Udp: ", "snmp"), ("2001:db8:9::1", "Udp6NoPorts", "snmp6")];
    for ((address, row, file), node) in families.into_iter().zip(LEFT.nodes()) {
        let before = refused(guest, row, file)?;
        let ends = left.ends(left.resolve(node)?, address.parse()?, 64);
        for flow in 0..FLOWS {
            left.wire().send(&frame::udp(&ends, 5000 + flow, 7, b"flow"))?;
        }
        let begin = std::time::Instant::now();
        let got = loop {
            let now = refused(guest, row, file)?;
            let got = [now[0] - before[0], now[1] - before[1]];
            if got[0] + got[1] >= u64::from(FLOWS) || begin.elapsed() > LIMIT {
                break got;
            }
        };
        ensure!(got[0] + got[1] == u64::from(FLOWS), "{got:?} of {FLOWS} flows to {address} arrive");
        ensure!(got.iter().all(|got| *got >= FEW), "{got:?} flows to {address} by two equal next hops");
        experiment.measured(format!("{} and {} flows to {address} by two next hops", got[0], got[1]));
    }
    Ok(())
}

/// Datagrams that came to each host for a port where nobody listens, by the kernel's own count.
fn refused(guest: &mut Guest, row: &str, file: &str) -> Result<[u64; 2]> {
    let mut count = |prefix: &str| -> Result<u64> {
        let rows = guest.sh(&format!("{prefix} cat /proc/net/{file}"))?;
        // One line has the count behind its name; or the last of two lines has all counts, this one behind InDatagrams.
        let row =
            rows.lines().rfind(|line| line.starts_with(row)).with_context(|| format!("no {row}: {rows}"))?;
        let words: Vec<&str> = row.split_ascii_whitespace().collect();
        let word = if file == "snmp" { words.get(2) } else { words.get(1) };
        word.and_then(|word| word.parse().ok()).with_context(|| format!("no count: {row}"))
    };
    Ok([count("")?, count(IN_VLAN)?])
}

/// Scripts tell what happened in the guest.
fn scripts_tell_what_happened(guest: &mut Guest) -> Result<()> {
    let failed = guest.run("echo no >&2; exit 7")?;
    ensure!((failed.status, failed.stderr.as_str()) == (7, "no\n"), "{failed:?}");
    let modules = guest.sh("cat /proc/modules")?;
    for module in ["esp4", "esp6", "gcm", "chacha20poly1305", "seqiv", "echainiv", "authencesn"] {
        ensure!(
            modules.lines().any(|line| line.starts_with(&format!("{module} "))),
            "no {module}: {modules}"
        );
    }
    Ok(())
}
