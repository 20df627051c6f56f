//! A configuration document. What is accepted survives being written and read again, and differs from nothing.

/// Reads `data` as a configuration.
pub fn run(data: &[u8]) {
    let Ok(config) = config::parse(data) else { return };
    let Ok(text) = serde_json::to_vec(&config) else { panic!("an accepted configuration cannot be written") };
    match config::parse(&text) {
        Ok(again) => {
            assert_eq!(again, config, "a configuration changes when it is written and read");
            assert_eq!(config::diff(&config, &again), [], "a configuration differs from itself");
        }
        Err(problems) => panic!("an accepted configuration is refused when read again: {problems:?}"),
    }
}
