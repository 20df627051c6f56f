//! Child processes with a deadline, which do not outlive this one.

use std::fs::File;
use std::io::{Read, Seek};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How a finished child ended, and what it printed.
#[derive(Debug)]
pub struct Finished {
    /// The command line, for messages.
    pub command: String,
    /// Exit status.
    pub status: ExitStatus,
    /// Standard output, as text.
    pub stdout: String,
    /// Standard error, as text.
    pub stderr: String,
}

impl Finished {
    /// Standard output of a child that succeeded.
    ///
    /// # Errors
    /// Any other end: shows all that the child printed.
    pub fn succeeded(self) -> Result<String> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        bail!("`{}` ended with {}\n{}{}", self.command, self.status, self.stdout, self.stderr)
    }
}

/// A command whose process is killed by the kernel when the thread that spawns it ends.
///
/// `setpriv` asks for the parent-death signal and then becomes the program.
pub fn tethered(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    let _ = command.args(["--pdeathsig", "KILL", "--", program]);
    command
}

/// Runs a command to its end, or kills it after `limit`.
///
/// # Errors
/// It cannot be started, or was killed: shows what it had printed.
pub fn run(command: &mut Command, limit: Duration) -> Result<Finished> {
    let line = command_line(command);
    // Files, not pipes: a child that fills a pipe nobody reads never ends.
    let (mut stdout, mut stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?)
        .spawn()
        .with_context(|| format!("cannot start `{line}`"))?;
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= deadline {
            child.kill()?;
            let _ = child.wait()?;
            bail!(
                "`{line}` was still running after {limit:?}\n{}{}",
                text_of(&mut stdout)?,
                text_of(&mut stderr)?
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    Ok(Finished { command: line, status, stdout: text_of(&mut stdout)?, stderr: text_of(&mut stderr)? })
}

/// The command as a person would type it.
pub fn command_line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn text_of(file: &mut File) -> Result<String> {
    file.rewind()?;
    let mut bytes = Vec::new();
    let _ = file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        let _ = command.args(["-c", script]);
        command
    }

    #[test]
    fn output_and_status_are_reported() {
        let finished = run(&mut shell("echo out; echo err >&2; exit 3"), Duration::from_secs(10)).unwrap();
        assert_eq!((finished.stdout.as_str(), finished.stderr.as_str()), ("out\n", "err\n"));
        let error = finished.succeeded().unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("err"), "{error}");
    }

    #[test]
    fn a_child_that_prints_more_than_a_pipe_holds_ends() {
        let finished = run(&mut shell("head -c 1000000 /dev/zero"), Duration::from_secs(10)).unwrap();
        assert_eq!(finished.succeeded().unwrap().len(), 1_000_000);
    }

    #[test]
    fn a_child_that_overruns_is_killed() {
        let mut command = shell("echo started; exec sleep 100");
        let error = run(&mut command, Duration::from_millis(300)).unwrap_err().to_string();
        assert!(error.contains("still running") && error.contains("started"), "{error}");
    }

    #[test]
    fn command_lines_can_be_pasted_into_a_shell() {
        assert_eq!(command_line(&shell("echo it's")), r"sh -c 'echo it'\''s'");
    }
}
