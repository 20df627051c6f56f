//! A virtual IP over three backends, one of which dies in the middle while a client's connections go on.
//!
//! The appliance is a machine of this act alone, and client and backends are network namespaces (`lab::farm`): without them
//! the act says that it is not shown.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::farm::{Farm, apply, wait_until_it_answers};
use lab::gateway::TOKEN;
use lab::{Vm, host};

use super::Check;
use super::acts::{LIMIT, NEEDS_NAMESPACES, check, not_shown};
use super::stage::Stage;
use crate::cargo;

/// Long-lived connections of the client.
const CONNECTIONS: u64 = 1000;
/// How long each may take to answer.
const ANSWER: Duration = Duration::from_secs(15);

/// Plays it.
pub fn balancing(_: &Stage) -> Result<Vec<Check>> {
    if !host::can_make_hosts() {
        return Ok(vec![not_shown("a virtual IP over backends of which one dies", NEEDS_NAMESPACES)]);
    }
    let target = cargo::target_directory();
    let mut farm = Farm::new(1, 3)?;
    let machine = Vm::builder("balancer", &target.join("demo"));
    let machine = machine.image(&target.join("image/fairlead.elf")).config(Farm::config(0));
    let vm = farm.plug(0, machine).start()?;
    let api = vm.api(TOKEN)?;
    api.wait_until_healthy(LIMIT)?;
    farm.join()?;
    apply(&api, &Farm::objects("nat", &[0, 1, 2], &[]))?;
    wait_until_it_answers(&farm)?;

    let mut connections = farm.connections()?;
    let opened = connections.open(CONNECTIONS);
    let spread = opened.and_then(|answer| {
        let servers = answer["servers"].as_object().context("no backend answers")?;
        let shares: Vec<String> = servers.values().map(ToString::to_string).collect();
        ensure!(servers.len() == 3, "not all backends serve: {answer}");
        Ok(format!("{} connections each", shares.join(", ")))
    });
    let spread = check(format!("{CONNECTIONS} connections to a virtual IP over three backends"), spread);

    farm.kill_backend(1)?;
    apply(&api, &Farm::objects("nat", &[0, 2], &[]))?;
    let outlived = connections.round(ANSWER).and_then(|round| {
        let others = round.broken - round.lost_of[1].min(round.broken);
        ensure!(others == 0 && round.alive > 0, "{}", round.report);
        Ok(format!("{} go on, the dead one's {} are gone, 0 of the others", round.alive, round.broken))
    });
    let again = farm.connections()?.open(200);
    let again = again.and_then(|answer| {
        ensure!(answer["servers"]["backend1"].is_null(), "the dead backend is still chosen: {answer}");
        Ok("200 of 200, by the two that live".to_owned())
    });
    let requests = farm.requests(32, 2).and_then(|requests| {
        ensure!(requests.answered > 0 && requests.failed == 0, "{requests:?}");
        Ok(format!("{:.0} a second, {} failed", requests.per_second, requests.failed))
    });
    Ok(vec![
        spread,
        check("a backend dies: connections", outlived),
        check("new connections after that", again),
        check("HTTP requests to the virtual IP", requests),
    ])
}
