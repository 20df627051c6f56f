//! One line of a bulk change of routes. What is accepted survives being written and read again.

/// Reads `data` as a route.
pub fn run(data: &[u8]) {
    let Ok(route) = config::parse_route(data) else { return };
    let Ok(text) = serde_json::to_vec(&route) else { panic!("an accepted route cannot be written") };
    assert_eq!(config::parse_route(&text), Ok(route), "a route changes when it is written and read");
}
