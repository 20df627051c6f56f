//! The image that boots.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::cargo;

/// What an image that is shipped must be smaller than.
const LIMIT_BYTES: u64 = 4 << 20;

/// How it is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// As it is shipped.
    Release,
    /// Optimised, but not across crates.
    Dev,
}

/// Builds the image into target/image and says where it is.
pub fn build(profile: Profile) -> Result<PathBuf> {
    build_by(profile, cargo::run)
}

/// [`build`], with `run` to run the compiler and say whether it succeeded.
pub fn build_by(profile: Profile, run: impl FnOnce(Command) -> Result<bool>) -> Result<PathBuf> {
    let (name, directory) = match profile {
        Profile::Release => ("release", "release"),
        Profile::Dev => ("image-dev", "image-dev"),
    };
    // By itself: a workspace build would unify the features of its dependencies with those of the tools.
    let build = ["build", "--package", "kernel", "--features", "image", "--profile", name];
    if !run(cargo::command(build))? {
        bail!("the image does not build");
    }
    let built = cargo::target_directory().join(directory).join("kernel");
    let image = cargo::target_directory().join("image/fairlead.elf");
    fs::create_dir_all(image.with_file_name(""))?;
    let mut bytes = fs::read(&built).with_context(|| format!("no {}", built.display()))?;
    let _ = boot::pack::pack(&mut bytes).with_context(|| format!("cannot pack {}", built.display()))?;
    fs::write(&image, bytes)?;
    Ok(image)
}

/// Refuses an image that is larger than those that are shipped may be.
pub fn check_size(image: &Path) -> Result<()> {
    let bytes = image.metadata()?.len();
    ensure!(bytes < LIMIT_BYTES, "the image is of {bytes} bytes, and must be of fewer than {LIMIT_BYTES}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_of_four_mebibytes_is_too_large() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(LIMIT_BYTES - 1).unwrap();
        check_size(file.path()).unwrap();
        file.as_file().set_len(LIMIT_BYTES).unwrap();
        assert!(check_size(file.path()).is_err());
    }
}
