//! `--watch`: how is an answer kept up with the files?
//!
//! ```text
//!   answer ──▶ wait for a change of a named file or directory ──quiet for 50 ms──▶ answer again
//! ```
//!
//! What is watched is directories, since editors put a new file in the old one's place. Nothing that
//! goes wrong ends it: a manifest that is half typed is an answer, too.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use notify::event::EventKind;
use notify::{RecursiveMode, Watcher};

use crate::cli::{Command, ExplainWhat, Source};
use crate::output::{Failure, print};

/// How long nothing has to happen before an answer is worth it.
const QUIET: Duration = Duration::from_millis(50);

/// What one command reads.
pub(super) struct Watched {
    /// Files and directories.
    paths: Vec<PathBuf>,
    /// Why it cannot be watched, if it cannot.
    refused: Option<&'static str>,
}

/// The files of a command that is to be watched; `None` for one that answers once.
pub(super) fn watched(command: &Command) -> Option<Watched> {
    let (source, others, writes): (&Source, Vec<&PathBuf>, bool) = match command {
        Command::Can(can) => (&can.source, Vec::new(), false),
        Command::Explain(explain) => match &explain.what {
            ExplainWhat::Policy(one) | ExplainWhat::Pod(one) => (&one.source, Vec::new(), false),
        },
        Command::Matrix(matrix) => (&matrix.source, Vec::new(), false),
        Command::Lint(lint) => {
            let others = [&lint.config, &lint.baseline].into_iter().flatten().collect();
            (&lint.source, others, lint.fix || lint.write_baseline)
        }
        Command::Exposure(exposure) => (&exposure.source, Vec::new(), false),
        Command::Draw(draw) => (&draw.source, draw.against.iter().collect(), false),
        Command::Generate(generate) => (&generate.source, Vec::new(), true),
        Command::Test(test) => (&test.source, test.file.iter().collect(), test.write),
        _ => return None,
    };
    if !source.watch {
        return None;
    }
    let stdin = source.files.iter().any(|path| path.as_os_str() == "-");
    let refused = match (stdin, writes) {
        (true, _) => Some("stdin ends once; name files or directories"),
        (_, true) => {
            Some("what would be written is written once; leave --watch out, or what writes")
        }
        _ => None,
    };
    let paths = source.files.iter().chain(others).cloned().collect();
    Some(Watched { paths, refused })
}

/// Answers, and again with every change, until somebody ends the program.
pub(super) fn run(
    watched: &Watched,
    mut answer: impl FnMut() -> Result<ExitCode, Failure>,
) -> Result<ExitCode, Failure> {
    if let Some(why) = watched.refused {
        return Err(Failure::new("--watch is not possible here").hint(why));
    }
    let cannot =
        |error: notify::Error| Failure::new(format!("the files cannot be watched: {error}"));
    let (tell, changes) = channel();
    let mut watcher = notify::recommended_watcher(tell).map_err(cannot)?;
    let mut names: BTreeSet<OsString> = BTreeSet::new();
    for path in &watched.paths {
        if path.is_dir() {
            watcher.watch(path, RecursiveMode::Recursive).map_err(cannot)?;
        } else {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.unwrap_or(Path::new("."));
            watcher.watch(parent, RecursiveMode::NonRecursive).map_err(cannot)?;
            names.extend(path.file_name().map(ToOwned::to_owned));
        }
    }
    let directories: Vec<PathBuf> = watched
        .paths
        .iter()
        .filter(|path| path.is_dir())
        .filter_map(|path| path.canonicalize().ok())
        .collect();
    let concerns = |path: &Path| {
        if path.file_name().is_some_and(|name| names.contains(name)) {
            return true;
        }
        // What a directory's reader passes over is no change; the answer itself may be written there.
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let manifest = path.extension().is_none_or(|ending| {
            ["yaml", "yml", "json"].iter().any(|its| ending.eq_ignore_ascii_case(its))
        });
        // What is gone is known by the directory that it was in.
        let there = path.canonicalize().or_else(|_| path.parent().unwrap_or(path).canonicalize());
        let inside = |path: PathBuf| directories.iter().any(|its| path.starts_with(its));
        !hidden && manifest && there.is_ok_and(inside)
    };
    loop {
        clear()?;
        if let Err(failure) = answer() {
            failure.report();
        }
        if !wait(&changes, concerns) {
            return Err(Failure::new("the files are no longer watched"));
        }
    }
}

/// Waits for a change that concerns the answer, and until no more come; whether one came.
fn wait(
    changes: &Receiver<notify::Result<notify::Event>>,
    concerns: impl Fn(&Path) -> bool,
) -> bool {
    let mut changed = false;
    loop {
        let next = if changed {
            changes.recv_timeout(QUIET)
        } else {
            changes.recv().map_err(|_| RecvTimeoutError::Disconnected)
        };
        match next {
            // Reading a file is an event, too, and not one of interest.
            Ok(Ok(event)) if matches!(event.kind, EventKind::Access(_)) => {}
            Ok(Ok(event)) => changed |= event.paths.iter().any(|path| concerns(path)),
            // Events were lost: look again.
            Ok(Err(_)) => changed = true,
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return changed,
        }
    }
}

/// A terminal shows one answer at a time; in a pipe they are told apart by an empty line.
fn clear() -> Result<(), Failure> {
    if std::io::stdout().is_terminal() {
        let mut stdout = std::io::stdout().lock();
        let _ = stdout.write_all(b"\x1b[H\x1b[2J\x1b[3J").and_then(|()| stdout.flush());
        return Ok(());
    }
    print("\n")
}
