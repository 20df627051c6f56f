//! A cable between two machines: each one's interface sends its frames straight to the other's.

use anyhow::Result;
use tempfile::TempDir;

use crate::Nic;

/// The names of both ends' sockets, in a directory that goes with the cable.
#[derive(Debug)]
pub struct Cable(TempDir);

impl Cable {
    /// Makes one.
    ///
    /// # Errors
    /// No directory for its sockets can be made.
    pub fn new() -> Result<Self> {
        Ok(Self(tempfile::Builder::new().prefix("fairlead-cable-").tempdir()?))
    }

    /// The ends for the one machine and for the other. Frames sent before both machines run are lost.
    pub fn ends(&self) -> [Nic; 2] {
        let [a, b] = ["a", "b"].map(|end| self.0.path().join(end));
        [Nic::dgram(&a, &b), Nic::dgram(&b, &a)]
    }
}
