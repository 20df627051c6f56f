//! Probes through a worker of the dataplane, and what they do to the table.

use super::World;
use crate::testing::Machine;
use serde_json::{Value, json};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;

fn objects() -> Value {
    let annotations = json!({
        "fairlead.dev/health-check": "tcp", "fairlead.dev/health-check-interval": "100ms",
        "fairlead.dev/health-check-fall": "2", "fairlead.dev/health-check-panic-percent": "0",
    });
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "annotations": annotations},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
        },
        {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "web", "labels": {"kubernetes.io/service-name": "web"}},
            "ports": [{"port": 8080}],
            "endpoints": [{"addresses": ["10.0.0.2"]}, {"addresses": ["10.0.0.3"]}],
        },
    ]})
}

/// Half a second, in which the host takes every connection and ends it when its client does.
fn serve(world: &mut World, listening: SocketHandle) {
    for _ in 0..500 {
        world.step();
        match world.host.state(listening) {
            State::CloseWait => world.host.socket(listening).close(),
            State::Closed => world.host.listen_again(listening),
            _ => {}
        }
    }
}

/// Of each backend its state, its slots, whether it is up and why it was not.
fn backends(world: &mut World) -> Vec<(String, u64, String, String)> {
    let (status, shown) = world.ask("10.0.0.1", "GET", "/v1/services", "");
    assert_eq!(status, 200, "{shown}");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let row = |backend: &Value| {
        let health = &backend["health"];
        let slots = backend["slots"].as_u64().unwrap();
        (text(&backend["state"]), slots, text(&health["status"]), text(&health["last_failure"]["why"]))
    };
    shown["services"][0]["backends"].as_array().unwrap().iter().map(row).collect()
}

#[test]
fn who_does_not_answer_has_no_slots_until_nobody_is_left() {
    let config = json!({"interfaces": [{"name": "eth0", "addresses": ["10.0.0.1/24"]}]});
    let mut world = World::new(&Machine::default(), Some(config), "10.0.0.2/24", "10.0.0.1");
    let listening = world.host.listen(8080);
    let (status, answer) = world.ask("10.0.0.1", "PUT", "/v1/resources", &objects().to_string());
    assert_eq!(status, 200, "{answer}");
    (0..3).for_each(|_| serve(&mut world, listening));
    let row = |state: &str, slots, status: &str, why: &str| (state.into(), slots, status.into(), why.into());
    let gone = row("draining", 0, "down", "no answer in time");
    assert_eq!(backends(&mut world), [row("active", 65_537, "up", ""), gone.clone()]);

    world.host.socket(listening).abort();
    world.run(1000);
    let all = backends(&mut world);
    assert_eq!(all.iter().map(|backend| backend.2.as_str()).collect::<Vec<_>>(), ["down", "down"]);
    assert_eq!((all[0].3.as_str(), all[0].1 + all[1].1), ("connection refused", 65_537), "{all:?}");
    assert!(all.iter().all(|backend| backend.0 == "active"));

    world.host.listen_again(listening);
    (0..2).for_each(|_| serve(&mut world, listening));
    assert_eq!(backends(&mut world), [row("active", 65_537, "up", "connection refused"), gone]);
}
