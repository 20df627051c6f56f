//! IPsec between the node and a Linux kernel: `ip xfrm` at one end, the API at the other.
//!
//! ```text
//!   host            node (eth0: management)            guest: Debian's kernel
//!   10.1.0.2 ---- eth1 10.1.0.1   eth2 10.2.0.1 ---- 10.2.0.2, behind it 10.9.0.1 and 2001:db8:9::1
//! ```
//!
//! One boot serves all cases: each puts a configuration in force and writes the guest's states and policies anew.

mod arrangements;
mod case;
mod large;
mod modes;
mod sequences;
mod several;
mod site;

use anyhow::{Context, Result};
use qemu_tests::Experiment;

use site::Site;

/// Everything that is tried with Linux.
pub fn everything_with_linux(experiment: &Experiment) -> Result<()> {
    let mut site = Site::new(experiment)?;
    large::longer_than_a_buffer(&mut site).context("packets longer than a buffer")?;
    large::the_least_mtu(&mut site).context("the least MTU of IPv6")?;
    several::tunnels_share_a_route(&mut site).context("a route into two tunnels")?;
    let count = arrangements::all(&mut site)?;
    modes::a_port_that_changes(&mut site).context("a port that changes")?;
    modes::the_tunnels_mtu(&mut site).context("the tunnel's MTU")?;
    sequences::numbers_end(&mut site).context("sequence numbers end")?;
    sequences::extended_numbers_go_on(&mut site).context("extended sequence numbers go on")?;
    modes::policies(&mut site).context("policies")?;
    experiment.measured(format!("{count} arrangements pass traffic"));
    Ok(())
}
