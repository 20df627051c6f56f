//! `fairlead lb plan`: tables of files, and what going from some files to others would move.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use maglev::{Change, Seed, Shares, Table};
use serde::Serialize;
use services::{Backend, Compiled, Exposure, Pool, PoolKey, Scope, Site, State};

use super::{PlanArgs, files};
use crate::cli::Format;
use crate::failure::{Failure, Result};
use crate::output;

/// Tables of all pools, and what changes.
#[derive(Debug, Serialize)]
struct Plan {
    pools: Vec<PoolPlan>,
    /// With `--to` only: over all pools of both sides.
    #[serde(skip_serializing_if = "Option::is_none")]
    change: Option<Moves>,
}

/// One pool, as it is or, with `--to`, as it would become.
#[derive(Debug, Serialize)]
struct PoolPlan {
    namespace: String,
    service: String,
    port: u16,
    #[serde(skip_serializing_if = "String::is_empty")]
    port_name: String,
    protocol: String,
    family: &'static str,
    scope: &'static str,
    frontends: Vec<String>,
    table_slots: u32,
    backends: Vec<BackendPlan>,
    /// The largest share over the mean one; without weights it is near 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    imbalance: Option<f64>,
    /// Why there is no table.
    #[serde(skip_serializing_if = "Option::is_none")]
    no_table: Option<String>,
    /// With `--to`: whether the pool stays, comes or goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    fate: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    change: Option<Moves>,
}

/// One backend and its share.
#[derive(Debug, Serialize)]
struct BackendPlan {
    address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    state: &'static str,
    weight: u32,
    slots: u32,
    share: f64,
}

/// What a change moves: numbers of slots, and shares from 0 to 1.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Moves {
    slots: u64,
    moved: u64,
    moved_share: f64,
    /// Slots of backends that are there before and after and get new flows.
    survivors: u64,
    /// Of those, the ones that go to another backend.
    survivors_moved: u64,
    survivors_moved_share: f64,
    /// Of those, the ones that go to a backend which was there before.
    needless: u64,
}

impl Moves {
    fn add(&mut self, change: Change) {
        self.slots += u64::from(change.slots);
        self.moved += u64::from(change.moved);
        self.survivors += u64::from(change.survivors);
        self.survivors_moved += u64::from(change.survivors_moved);
        self.needless += u64::from(change.needless);
        let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        self.moved_share = share(self.moved, self.slots);
        self.survivors_moved_share = share(self.survivors_moved, self.survivors);
    }
}

/// Shows the tables of files, and what a change would move.
pub fn plan(format: Format, args: &PlanArgs) -> Result<()> {
    let site = Site { node: args.on_node.clone(), zone: args.in_zone.clone(), ..Site::default() };
    let before = files::read(&args.file, &site)?;
    let plan = if args.to.is_empty() {
        Plan { pools: (0..before.pools.len()).map(|index| describe(&before, index)).collect(), change: None }
    } else {
        compare(&before, &files::read(&args.to, &site)?)
    };
    let value = serde_json::to_value(&plan).map_err(|error| Failure::operation(error.to_string()))?;
    output::show(format, &value, |_| text(&plan))
}

fn table(pool: &Pool) -> std::result::Result<Table, maglev::Error> {
    pool.table(&Seed::default())
}

fn why_no_table(pool: &Pool, error: &maglev::Error) -> String {
    let gets_none = |backend: &Backend| backend.state != State::Active;
    match pool.key.scope {
        Scope::Local if pool.backends.is_empty() => "no endpoint is on the node that --on-node names".into(),
        _ if pool.backends.iter().all(gets_none) => "no endpoint is ready".into(),
        _ => error.to_string(),
    }
}

fn describe(compiled: &Compiled, index: usize) -> PoolPlan {
    let pool = &compiled.pools[index];
    let frontends = compiled.frontends.iter().filter(|frontend| frontend.pool == index);
    let table = table(pool);
    let shares = table.as_ref().map_or(vec![0; pool.backends.len()], |table| {
        Shares::of(table, pool.backends.len()).slots().to_vec()
    });
    let slots = pool.table_size.slots();
    let active = || pool.backends.iter().zip(&shares).filter(|(backend, _)| gets_flows(backend));
    let mean = f64::from(slots) / active().count().max(1) as f64;
    let largest = active().map(|(_, share)| *share).max();
    PoolPlan {
        namespace: pool.key.namespace.clone(),
        service: pool.key.service.clone(),
        port: pool.key.port,
        port_name: pool.port_name.clone(),
        protocol: pool.key.protocol.to_string(),
        family: pool.key.family.name(),
        scope: pool.key.scope.name(),
        frontends: frontends.map(frontend_text).collect(),
        table_slots: slots,
        backends: pool
            .backends
            .iter()
            .zip(&shares)
            .map(|(b, share)| backend_plan(b, *share, slots))
            .collect(),
        imbalance: table.is_ok().then(|| largest.map_or(0.0, |largest| f64::from(largest) / mean)),
        no_table: table.err().map(|error| why_no_table(pool, &error)),
        fate: None,
        change: None,
    }
}

fn gets_flows(backend: &Backend) -> bool {
    backend.state == State::Active && backend.weight > 0
}

fn backend_plan(backend: &Backend, share: u32, slots: u32) -> BackendPlan {
    BackendPlan {
        address: backend.name(),
        node: backend.node.clone(),
        state: backend.state.name(),
        weight: backend.weight,
        slots: share,
        share: f64::from(share) / f64::from(slots),
    }
}

fn frontend_text(frontend: &services::Frontend) -> String {
    let exposure = match frontend.exposure {
        Exposure::ClusterIp => "cluster",
        Exposure::ExternalIp => "external",
        Exposure::LoadBalancer => "balancer",
        Exposure::NodePort => "node",
    };
    match frontend.address {
        Some(address) => format!("{exposure} {}", std::net::SocketAddr::new(address, frontend.port)),
        None => format!("{exposure} port {}", frontend.port),
    }
}

/// The pools after a change, then those that are gone, with what moves.
fn compare(before: &Compiled, after: &Compiled) -> Plan {
    let old: BTreeMap<&PoolKey, &Pool> = before.pools.iter().map(|pool| (&pool.key, pool)).collect();
    let new: BTreeSet<&PoolKey> = after.pools.iter().map(|pool| &pool.key).collect();
    let mut all = Moves::default();
    let mut pools = Vec::new();
    for (index, pool) in after.pools.iter().enumerate() {
        let mut plan = describe(after, index);
        match old.get(&pool.key) {
            None => plan.fate = Some("comes"),
            Some(old) => {
                let change = change(old, pool);
                all.add(change);
                let mut moves = Moves::default();
                moves.add(change);
                plan.fate = Some("stays");
                plan.change = Some(moves);
            }
        }
        pools.push(plan);
    }
    for (index, pool) in before.pools.iter().enumerate().filter(|(_, pool)| !new.contains(&pool.key)) {
        let change = lost(pool);
        all.add(change);
        let mut plan = describe(before, index);
        plan.fate = Some("goes");
        pools.push(plan);
    }
    Plan { pools, change: Some(all) }
}

/// What moves between two states of a pool. A backend survives if it has a share in both.
fn change(old: &Pool, new: &Pool) -> Change {
    let places: BTreeMap<_, u32> =
        new.backends.iter().zip(0..).filter(|(b, _)| gets_flows(b)).map(|(b, i)| (b.address, i)).collect();
    match (table(old), table(new)) {
        (Ok(before), Ok(after)) => Change::between(&before, &after, |index| {
            old.backends.get(index as usize).and_then(|backend| places.get(&backend.address).copied())
        }),
        (Ok(_), Err(_)) => lost(old),
        // Nothing was served that could move.
        (Err(_), _) => Change::default(),
    }
}

/// Every slot loses its backend, if it had one.
fn lost(pool: &Pool) -> Change {
    let slots = table(pool).map_or(0, |table| table.slots());
    Change { slots, moved: slots, ..Change::default() }
}

fn text(plan: &Plan) -> String {
    let mut text: String = plan.pools.iter().map(pool_text).collect();
    match &plan.change {
        Some(change) => {
            let _ = writeln!(text, "in all, {}", moves_text(change));
        }
        None if plan.pools.is_empty() => text.push_str("no service has ports to balance\n"),
        None => {}
    }
    text
}

fn pool_text(pool: &PoolPlan) -> String {
    let PoolPlan { namespace, service, port, protocol, family, scope, .. } = pool;
    let name = if pool.port_name.is_empty() { String::new() } else { format!(" ({})", pool.port_name) };
    let fate = pool.fate.filter(|fate| *fate != "stays").map(|fate| format!(": {fate}")).unwrap_or_default();
    let mut text = format!("{namespace}/{service} port {port}{name} {protocol} {family} {scope}{fate}\n");
    if !pool.frontends.is_empty() {
        let _ = writeln!(text, "  at {}", pool.frontends.join(", "));
    }
    if let Some(reason) = &pool.no_table {
        let _ = writeln!(text, "  no table: {reason}");
    }
    let row = |backend: &BackendPlan| {
        vec![
            format!("  {}", backend.address),
            backend.node.clone().unwrap_or_default(),
            backend.state.to_owned(),
            backend.weight.to_string(),
            backend.slots.to_string(),
            format!("{:.3} %", backend.share * 100.0),
        ]
    };
    if !pool.backends.is_empty() {
        let headings = ["  backend", "node", "state", "weight", "slots", "share"];
        let rows = pool.backends.iter().map(row).collect();
        text.push_str(&output::table(&headings, &["weight", "slots", "share"], rows));
    }
    if let Some(imbalance) = pool.imbalance {
        let _ = writeln!(text, "  {} slots, largest share {imbalance:.4} of the mean", pool.table_slots);
    }
    if let Some(change) = &pool.change {
        let _ = writeln!(text, "  {}", moves_text(change));
    }
    text.push('\n');
    text
}

fn moves_text(moves: &Moves) -> String {
    format!(
        "{} of {} slots move ({:.3} %); of the {} slots of surviving backends {} ({:.3} %)",
        moves.moved,
        moves.slots,
        moves.moved_share * 100.0,
        moves.survivors,
        moves.survivors_moved,
        moves.survivors_moved_share * 100.0
    )
}
