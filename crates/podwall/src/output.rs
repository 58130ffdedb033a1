//! How does an answer leave the program, and how does a failure?
//!
//! Text carries escape codes until it is written; [`anstream`] takes them out for a pipe, for
//! `NO_COLOR` and for terminals without colours, and leaves them in for `CLICOLOR_FORCE`.

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use podwall_analysis::error::AskError;
use podwall_policy::evaluate::Verdict;
use podwall_render::page::Page;

/// Yes, or nothing found.
pub(crate) const YES: u8 = 0;
/// No, or something found.
pub(crate) const NO: u8 = 1;
/// Could not be answered.
pub(crate) const FAILED: u8 = 2;
/// Depends on a missing fact.
pub(crate) const UNKNOWN: u8 = 3;

const ERROR: Style = AnsiColor::Red.on_default().bold();

/// A question that could not be answered; exit code 2.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What is wrong and where, in one sentence.
    what: String,
    /// Why, and what to do next; a line each.
    next: Vec<String>,
}

impl Failure {
    /// A failure in one sentence.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), next: Vec::new() }
    }

    /// Adds a line about why, or about what to do next.
    pub(crate) fn hint(mut self, line: impl Into<String>) -> Self {
        self.next.push(line.into());
        self
    }

    /// Prints it to stderr and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        if !self.what.is_empty() {
            let mut page = Page::default();
            page.para(&format!("{ERROR}error:{ERROR:#} "), 2, &self.what);
            for line in self.next.iter().flat_map(|line| line.lines()) {
                page.para("  ", 4, line);
            }
            let text = page.into_text();
            // Nobody is left to tell if this fails.
            let _ = anstream::stderr().lock().write_all(text.as_bytes());
        }
        ExitCode::from(FAILED)
    }
}

impl From<anyhow::Error> for Failure {
    /// Each cause after the first is a line of its own.
    fn from(error: anyhow::Error) -> Self {
        let causes = error.chain().skip(1).map(ToString::to_string);
        Self { what: error.to_string(), next: causes.collect() }
    }
}

impl From<AskError> for Failure {
    fn from(error: AskError) -> Self {
        let failure = Self::new(error.to_string());
        match error.hint() {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

impl From<podwall_render::json::NoJson> for Failure {
    fn from(error: podwall_render::json::NoJson) -> Self {
        Self::new(format!("the answer cannot be written as JSON: {}", error.0))
    }
}

/// Writes an answer to stdout. A reader that has seen enough (`| head`) is no failure.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes a remark to stderr.
pub(crate) fn remark(text: &str) {
    // An answer is worth more than a remark that cannot be written.
    let _ = anstream::stderr().lock().write_all(text.as_bytes());
}

/// The exit code of a verdict.
pub(crate) fn code(verdict: Verdict) -> ExitCode {
    ExitCode::from(match verdict {
        Verdict::Allowed => YES,
        Verdict::Denied => NO,
        Verdict::Unknown => UNKNOWN,
    })
}
