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

#[cfg(test)]
mod tests {
    /// What is refused as a whole is never written and read again.
    #[test]
    fn kept_inputs_have_sections_that_are_accepted_and_some_that_are_not() {
        let accepted = |name: &str| {
            let path = crate::corpus::directory().join("config_json").join(name);
            let data = std::fs::read(path).unwrap();
            super::run(&data);
            config::parse(&data).map_err(|problems| format!("{name}: {problems:?}"))
        };
        let _ = accepted("full.json").unwrap();
        let ipsec = accepted("ipsec.json").unwrap().ipsec;
        assert!(!ipsec.tunnels.is_empty() && !ipsec.associations.is_empty() && !ipsec.policies.is_empty());
        let refused = accepted("ipsec-wrong.json").unwrap_err();
        assert!(refused.contains("/ipsec/associations/1/spi"), "{refused}");
    }
}
