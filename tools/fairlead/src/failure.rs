//! What can go wrong, told so that a person knows what failed, why, and what to do; and the exit code of each.

use std::fmt::Write;
use std::io;
use std::process::ExitCode;

use crate::output::{Colour, paint};

/// The result of a command.
pub type Result<T> = std::result::Result<T, Failure>;

/// Why a command failed. The exit codes are documented in docs/cli.md.
#[derive(Debug)]
pub enum Failure {
    /// Exit code 1: the operation itself failed.
    Operation(Message),
    /// Exit code 2, which is also clap's: wrong usage of the command.
    Usage(Message),
    /// Exit code 3: the configuration, or another document a person wrote, is not valid.
    Invalid(Message),
    /// Exit code 4: the node cannot be reached or does not answer.
    Unreachable(Message),
    /// Exit code 5: the node refuses the token, or none was given.
    Unauthorized(Message),
    /// Exit code 0: whoever read our output has stopped reading.
    BrokenPipe,
}

/// One failure in words.
#[derive(Debug, Default)]
pub struct Message {
    /// What failed and why, in one line without a final full stop.
    pub what: String,
    /// Places and reasons, one a line; may be empty.
    pub details: Vec<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Message {
    /// A message of one line.
    pub fn new(what: impl Into<String>) -> Message {
        Message { what: what.into(), ..Message::default() }
    }

    /// Adds what the person can do.
    pub fn hint(mut self, hint: impl Into<String>) -> Message {
        self.hint = Some(hint.into());
        self
    }

    /// Adds lines of detail.
    pub fn details(mut self, details: Vec<String>) -> Message {
        self.details = details;
        self
    }
}

impl Failure {
    /// An operation that failed, in one line.
    pub fn operation(what: impl Into<String>) -> Failure {
        Failure::Operation(Message::new(what))
    }

    /// The code the process ends with.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::Operation(_) => 1,
            Failure::Usage(_) => 2,
            Failure::Invalid(_) => 3,
            Failure::Unreachable(_) => 4,
            Failure::Unauthorized(_) => 5,
            Failure::BrokenPipe => 0,
        })
    }

    /// The text for standard error, with a final newline.
    pub fn report(&self) -> String {
        let message = match self {
            Failure::Operation(m)
            | Failure::Usage(m)
            | Failure::Invalid(m)
            | Failure::Unreachable(m)
            | Failure::Unauthorized(m) => m,
            Failure::BrokenPipe => return String::new(),
        };
        let mut text = format!("{} {}\n", paint(Colour::Red, "error:"), message.what);
        for detail in &message.details {
            for line in detail.lines() {
                let _ = writeln!(text, "  {line}");
            }
        }
        if let Some(hint) = &message.hint {
            let _ = writeln!(text, "{} {hint}", paint(Colour::Cyan, "hint:"));
        }
        text
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::BrokenPipe,
            _ => Failure::operation(error.to_string()),
        }
    }
}
