//! The real image under QEMU against real peers: `cargo test -p qemu-tests [NAME]`, after `cargo xtask image`.

mod boot;
mod crash;
mod esp;
mod forwarding;
mod guests;
mod hosts;
mod ipsec;
mod lab_itself;
mod malformed;
mod neighbours;
mod node;
mod options;
mod policy;
mod rekeys;
mod routes;
mod services;
mod store;

use std::path::Path;
use std::process::ExitCode;

use qemu_tests::{Test, main as run};

const TESTS: &[Test] = &[
    Test::with_hosts("lab_namespaces_reach_each_other", lab_itself::namespaces_reach_each_other),
    Test::new("boot_on_both_machine_types_and_many_cores", boot::on_both_machine_types_and_many_cores),
    Test::new("boot_on_an_old_processor", boot::on_an_old_processor),
    Test::new("boot_over_the_network", boot::over_the_network),
    Test::new("boot_by_pvh", boot::by_pvh),
    Test::new("boot_without_interval_timer", boot::without_interval_timer),
    Test::new("boot_on_buses_of_other_roots", boot::on_buses_of_other_roots),
    Test::new("crash_every_kind_is_reported_and_survived", crash::every_kind_is_reported_and_survived),
    Test::new("node_default_configuration_in_64_mib", node::default_configuration_in_64_mib),
    Test::new("node_boot_stages_are_reported", node::boot_stages_are_reported),
    Test::new("node_sleeps_when_idle", node::idle_node_sleeps),
    Test::new("node_crash_record_is_told_after_the_restart", node::crash_record_is_told_after_the_restart),
    Test::new("forward_both_families_on_one_core", forwarding::both_families_on_one_core),
    Test::new("forward_both_families_on_two_cores", forwarding::both_families_on_two_cores),
    Test::new("forward_both_families_on_two_workers", forwarding::both_families_on_two_workers),
    Test::new("forward_both_families_on_four_cores", forwarding::both_families_on_four_cores),
    Test::new("forward_expired_hop_limit_is_reported", forwarding::expired_hop_limit_is_reported),
    Test::new("forward_node_answers_echo_requests", forwarding::node_answers_echo_requests),
    Test::new("forward_over_every_variant_of_the_device", options::every_variant_forwards),
    Test::new("mtu_ipv4_is_fragmented_or_refused", forwarding::ipv4_is_fragmented_or_refused),
    Test::new("mtu_ipv6_packet_too_big", forwarding::ipv6_packet_too_big),
    Test::waiting("neighbour_silent_host_expires", neighbours::silent_host_expires),
    Test::new("neighbour_new_address_is_learned", neighbours::new_address_is_learned),
    Test::new("link_down_and_up", neighbours::link_down_and_up),
    Test::new("link_down_under_load", neighbours::link_down_under_load),
    Test::new("link_of_a_card_that_fails_and_is_reset", neighbours::a_card_that_fails_is_reset),
    Test::new("malformed_captured_frames_are_survived", malformed::captured_frames_are_survived),
    Test::new("malformed_mutated_frames_are_survived", malformed::mutated_frames_are_survived),
    Test::new(
        "routes_a_million_are_loaded_looked_up_and_removed",
        routes::a_million_are_loaded_looked_up_and_removed,
    ),
    Test::new("store_survives_a_kill_at_any_moment", store::survives_a_kill_at_any_moment),
    Test::new("guest_is_routed_to", guests::is_routed_to),
    Test::new("store_on_a_disk_of_4_kib_blocks", store::on_a_disk_of_4_kib_blocks),
    Test::with_hosts("ipsec_everything_with_linux", ipsec::everything_with_linux),
    Test::new("esp_packet_by_packet_with_scapy", esp::packet_by_packet),
    Test::new("esp_each_cipher_kernel_passes_traffic", esp::each_passes_traffic),
    Test::new("esp_moved_peer_is_followed", esp::a_moved_peer_is_followed),
    Test::new("esp_path_mtu_of_a_router_is_honoured", esp::a_routers_word_is_honoured),
    Test::new("ipsec_a_thousand_rekeys_lose_no_packet", rekeys::a_thousand_rekeys_lose_no_packet),
    Test::new("store_on_a_slow_disk_does_not_stop_forwarding", store::a_slow_disk_does_not_stop_forwarding),
    Test::with_hosts("hosts_ping_through_the_node", hosts::ping_through_the_node),
    Test::with_hosts("hosts_traceroute_shows_the_node", hosts::traceroute_shows_the_node),
    Test::with_hosts("hosts_tcp_in_bulk", hosts::tcp_in_bulk),
    Test::with_hosts("hosts_tcp_in_bulk_over_two_queues", hosts::tcp_in_bulk_over_two_queues),
    Test::with_hosts("policy_decides_between_hosts", policy::decides_between_hosts),
    Test::with_hosts(
        "services_connections_outlive_appliances_and_backends",
        services::connections_outlive_appliances_and_backends,
    ),
    Test::with_hosts(
        "services_a_backend_that_fails_its_checks_is_avoided",
        services::a_backend_that_fails_its_checks_is_avoided,
    ),
    Test::with_hosts("services_requests_and_bulk_by_every_way", services::requests_and_bulk_by_every_way),
];

fn main() -> ExitCode {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    run(scratch.parent().unwrap_or(scratch), TESTS)
}
