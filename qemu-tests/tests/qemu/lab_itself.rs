//! The laboratory's own parts that need root.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::Netns;
use qemu_tests::Experiment;

pub fn namespaces_reach_each_other(_: &Experiment) -> Result<()> {
    let (a, b) = (Netns::new("a")?, Netns::new("b")?);
    a.join(&b, "cable")?;
    a.bring_up("cable", &["192.0.2.1/24", "2001:db8::1/64"])?;
    b.bring_up("cable", &["192.0.2.2/24", "2001:db8::2/64"])?;
    for address in ["192.0.2.2", "2001:db8::2"] {
        let _ = a.run(&["ping", "-c1", "-W5", address], Duration::from_secs(10))?.succeeded()?;
    }
    Netns::sweep()?;
    let path = format!("/run/netns/{}", a.name());
    ensure!(std::fs::exists(&path)?, "a sweep removed a namespace that is in use");
    drop((a, b));
    ensure!(!std::fs::exists(&path)?, "a dropped namespace is still there");
    Ok(())
}
