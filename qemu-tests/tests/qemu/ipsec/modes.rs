//! What else a Linux kernel speaks: transport mode, ESP in UDP, policies, and the MTU of a tunnel.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::gateway::{self, RIGHT};
use qemu_tests::Experiment;
use serde_json::{Value, json};

use super::{BEHIND4, Case, LIMIT, SUITES, Site, check};

/// A second address of the guest behind the tunnel.
const ALSO_BEHIND4: &str = "10.9.0.2";
/// Lines of a bulk change of routes, 80 bytes each.
const LINES: u32 = 4000;
/// Where the guest's NAT may be thought to have moved it.
const MOVED_PORT: u16 = 4555;

/// Transport mode with every suite, plain and in UDP; tunnel mode in UDP, to a port that changes.
pub fn transport_and_nat_t_with_linux(experiment: &Experiment) -> Result<()> {
    let mut site = Site::new(experiment)?;
    let _ = site.guest.sh(&format!(
        r#"i=0; while [ $i -lt {LINES} ]; do
            echo "{{\"op\":\"add\",\"prefix\":\"172.16.$((i / 256)).$((i % 256))/32\",\"via\":[{{\"address\":\"10.1.0.2\"}}]}}"
            i=$((i + 1))
        done > /tmp/lines"#
    ))?;
    let mut number = 100;
    let mut case = |place: usize, esn: bool, transport: bool, port: Option<u16>| {
        number += 1;
        Case { suite: &SUITES[place], esn, outer6: false, transport, port, number }
    };
    let mut cases: Vec<Case> =
        (0..SUITES.len()).map(|place| case(place, place % 2 == 0, true, None)).collect();
    cases.extend([case(0, true, true, Some(4500)), case(4, false, true, Some(4500))]);
    for case in &cases {
        encapsulate(&mut site, case.port)?;
        check_transport(&mut site, case).with_context(|| format!("case {}", case.name()))?;
    }
    let tunnels = [case(0, true, false, Some(4500)), case(5, false, false, Some(4500))];
    for case in &tunnels {
        check(&mut site, case).with_context(|| format!("case {}", case.name()))?;
    }
    check_move(&mut site, tunnels[1]).context("a port that changes")?;
    encapsulate(&mut site, None)?;
    let plain = case(2, true, false, None);
    check_mtu(&mut site, &plain).context("the tunnel's MTU")?;
    experiment.measured(format!("{} arrangements pass traffic", cases.len() + tunnels.len() + 1));
    Ok(())
}

/// Has the guest's kernel take ESP out of UDP at this port, and at no other: somebody must hold a socket that says so.
pub(super) fn encapsulate(site: &mut Site, port: Option<u16>) -> Result<()> {
    let mut script = "[ -e /tmp/holder ] && kill $(cat /tmp/holder); rm -f /tmp/holder\n".to_owned();
    if let Some(port) = port {
        // UDP_ENCAP is option 100 of UDP (17), and ESP in UDP its value 2 (Linux, udp.h).
        script += &format!(
            r#"perl -e 'socket(S, 2, 2, 17) && bind(S, pack("Sna4x8", 2, {port}, "")) && setsockopt(S, 17, 100, pack("i", 2)) || die $!;
                open(F, ">", "/tmp/ready"); close(F); sleep 9999' >/tmp/holder.log 2>&1 &
            echo $! > /tmp/holder
            tries=0; until [ -e /tmp/ready ] || [ $tries = 100 ]; do usleep 50000; tries=$((tries + 1)); done
            rm /tmp/ready || {{ cat /tmp/holder.log >&2; exit 1; }}"#
        );
    }
    site.guest.sh(&script).map(drop)
}

/// Between the node itself and the guest: echo, a document of the API, a body for it.
fn check_transport(site: &mut Site, case: &Case) -> Result<()> {
    site.arrange(case)?;
    let (node, _) = case.ends();
    for size in [56, 1200] {
        let ping = format!("ping -c 3 -W 5 -s {size} {node}");
        let done = site.guest.sh(&ping);
        if done.is_err() {
            let states = site.guest.sh("ip -s xfrm state; cat /proc/net/xfrm_stat")?;
            let (drops, sas) =
                (site.api.get("/v1/drops")?.body, site.api.get("/v1/ipsec/associations")?.body);
            let _ = done.with_context(|| format!("{states}\n{drops}\n{sas}"))?;
        }
    }
    let expected = site.api.get("/openapi.json")?.accepted()?.body;
    let got = ask(site, &node, "GET /openapi.json", None)?;
    ensure!(got.ends_with(&expected), "{} bytes of {} came, or others", got.len(), expected.len());
    let answer = ask(site, &node, "POST /v1/routes", Some("/tmp/lines"))?;
    let added = format!("\"added\":{LINES}");
    ensure!(answer.contains(&added) && answer.contains("\"failed\":0"), "{answer}");
    let (sent, received) = (site.association("out")?, site.association("in")?);
    ensure!(
        sent["packets"].as_u64() >= Some(20) && received["packets"].as_u64() >= Some(100),
        "{sent} {received}"
    );
    ensure!(received["errors"] == json!({}) && sent["errors"] == json!({}), "{received} {sent}");
    Ok(())
}

/// A request of the guest to the node's API, with a file of the guest as its body; the whole answer.
fn ask(site: &mut Site, node: &str, request: &str, body: Option<&str>) -> Result<String> {
    let head = format!("{request} HTTP/1.1\\r\\nHost: n\\r\\nAuthorization: Bearer {}\\r\\n", gateway::TOKEN);
    let body = body.map_or_else(String::new, |file| {
        format!(
            "printf 'Content-Type: application/x-ndjson\\r\\nContent-Length: %d\\r\\n' $(wc -c < {file}) >&3\n\
             file={file}\n"
        )
    });
    // Standard input stays open until the node has closed the connection.
    site.guest.sh(&format!(
        "rm -f /tmp/in; mkfifo /tmp/in; file=/dev/null\n\
         timeout 60 nc {node} 80 < /tmp/in > /tmp/got &\n\
         exec 3> /tmp/in\n\
         printf '{head}' >&3\n\
         {body}\
         printf 'Connection: close\\r\\n\\r\\n' >&3; cat $file >&3\n\
         wait; exec 3>&-; cat /tmp/got"
    ))
}

/// The same SAs, and another UDP port of the guest: as if its NAT had forgotten it.
fn check_move(site: &mut Site, case: Case) -> Result<()> {
    let moved = Case { port: Some(MOVED_PORT), ..case };
    encapsulate(site, moved.port)?;
    let _ = site.guest.sh(&moved.states("update"))?;
    let before = site.association("in")?["packets"].clone();
    // The answer to the first goes where the peer was.
    let _ = site.guest.sh_until("ping -c 1 -W 2 -I 10.9.0.1 10.1.0.2", LIMIT)?;
    let _ = site.guest.sh("ping -c 3 -W 5 -I 10.9.0.1 10.1.0.2")?;
    let (own, told) = (site.association("out")?, site.association("in")?);
    ensure!(own["peer_port"] == MOVED_PORT && told["packets"].as_u64() > before.as_u64(), "{own} {told}");
    site.bulk(BEHIND4)
}

/// What is too long for the tunnel is refused with the MTU that its interface has, and that MTU fits.
fn check_mtu(site: &mut Site, case: &Case) -> Result<()> {
    check(site, case)?;
    let tunnels = site.api.json("/v1/ipsec/tunnels")?;
    let mtu = tunnels["tunnels"][0]["mtu"].as_u64().context("the tunnel has no MTU")?;
    let ping = |site: &Site, bytes: u64| {
        let size = (bytes - 28).to_string();
        site.host.run(&["ping", "-M", "do", "-c1", "-W5", "-s", &size, BEHIND4], LIMIT)
    };
    let refused = ping(site, mtu + 1)?;
    let told = format!("mtu = {mtu}");
    let text = format!("{}{}", refused.stdout, refused.stderr);
    ensure!(text.contains(&told) || text.contains(&told.replace(' ', "")), "no `{told}`: {text}");
    let _ = ping(site, mtu)?.succeeded()?;
    Ok(())
}

/// The node's configuration for policies in place of routes: one address behind the guest is protected, one is passed, one
/// port is closed.
fn policies(case: &Case) -> Value {
    let mut config = case.config();
    config["ipsec"]["tunnels"][0]["route_based"] = json!(false);
    config["ipsec"]["tunnels"][0]["addresses"] = json!([]);
    config["routes"] = json!([{"prefix": "10.9.0.0/16", "via": [{"address": RIGHT.host4}]}]);
    let rule = |name: &str, direction: &str, action: &str, source: &str, destination: &str| json!({"name": name, "direction": direction, "action": action, "source": source, "destination": destination});
    let mut closed = rule("closed", "out", "discard", "10.1.0.0/24", "10.9.0.1/32");
    closed["protocol"] = json!(6);
    closed["destination_ports"] = json!("7003");
    let open = rule("open", "out", "bypass", "10.1.0.0/24", "10.9.0.2/32");
    let mut protected = rule("protected", "out", "protect", "10.1.0.0/24", "10.9.0.0/16");
    protected["tunnel"] = json!("ipsec0");
    let mut wanted = rule("wanted", "in", "protect", "10.9.0.1/32", "10.1.0.0/24");
    wanted["tunnel"] = json!("ipsec0");
    config["ipsec"]["policies"] = json!([closed, open, protected, wanted]);
    config["ipsec"]["must_encrypt"] = json!([]);
    config
}

/// Protect, bypass and discard by selectors; what must come encrypted does not come in otherwise.
pub fn policies_with_linux(experiment: &Experiment) -> Result<()> {
    let mut site = Site::new(experiment)?;
    let suite = &SUITES[0];
    let case = Case { suite, esn: true, outer6: false, transport: false, port: None, number: 90 };
    let guest = case.states("add")
        + &format!(
            "ip addr add {ALSO_BEHIND4}/32 dev behind\n\
             ip xfrm policy add src {BEHIND4} dst 10.1.0.0/24 dir out tmpl src {0} dst {1} proto esp reqid 1 mode tunnel || exit 1\n\
             ip xfrm policy add src 10.1.0.0/24 dst {BEHIND4} dir in tmpl src {1} dst {0} proto esp reqid 1 mode tunnel || exit 1\n",
            RIGHT.host4, RIGHT.node4
        );
    let _ = site.guest.sh(&guest)?;
    let _ = site.api.put("/v1/config", &policies(&case))?.accepted()?;
    site.ping(BEHIND4, 56)?;
    let packets = |site: &Site| Ok::<_, anyhow::Error>(site.association("out")?["packets"].as_u64());
    let encrypted = packets(&site)?;
    ensure!(encrypted >= Some(3), "{encrypted:?}");
    site.ping(ALSO_BEHIND4, 56).context("what is passed")?;
    ensure!(packets(&site)? == encrypted, "what is to pass in the clear was encrypted");
    site.bulk(BEHIND4).context("what is protected")?;
    let discarded = dropped(&site, "ipsec-discarded")?;
    let busybox = site.busybox.display().to_string();
    let _ = site.guest.sh("nc -l -p 7003 >/dev/null 2>&1 & usleep 300000")?;
    let refused = site.host.run(&[&busybox, "nc", "-w", "2", BEHIND4, "7003"], LIMIT)?;
    ensure!(!refused.status.success(), "the closed port is open");
    ensure!(dropped(&site, "ipsec-discarded")? > discarded, "nothing was discarded");
    // The guest forgets its policies, and sends in the clear.
    let before = dropped(&site, "ipsec-unprotected")?;
    let _ = site.guest.sh("ip xfrm policy flush; ping -c 2 -W 1 -I 10.9.0.1 10.1.0.2; true")?;
    std::thread::sleep(Duration::from_millis(200));
    ensure!(dropped(&site, "ipsec-unprotected")? >= before + 2, "what came in the clear was let in");
    Ok(())
}

fn dropped(site: &Site, reason: &str) -> Result<u64> {
    let drops = site.api.json("/v1/drops")?;
    let mut rows = drops["drops"].as_array().into_iter().flatten();
    Ok(rows.find(|row| row["reason"] == reason).and_then(|row| row["packets"].as_u64()).unwrap_or(0))
}
