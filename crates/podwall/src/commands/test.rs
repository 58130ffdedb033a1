//! `podwall test FILE`.

pub(crate) mod args;
mod packets;

use std::fs::OpenOptions;
use std::io::{IsTerminal as _, Read, Write as _};
use std::path::Path;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};
use podwall_analysis::assertions::{Status, check, mutate, write};
use podwall_manifest::assertions::{AssertionFile, MOST_BYTES, read_assertions};
use podwall_manifest::render_all;
use podwall_render::text::test::{PacketNote, with_packets};
use podwall_render::{checks, json, text};

use self::args::{Test, TestFormat};
use crate::output::{FAILED, Failure, NO, UNKNOWN, YES, print, remark};
use crate::source::{Objects, load};

pub(crate) fn run(command: &Test) -> Result<ExitCode, Failure> {
    if command.write {
        return first_file(command);
    }
    let path = command.file.as_deref().unwrap_or(Path::new("-"));
    if path.as_os_str() == "-" && command.source.files.iter().any(|it| it.as_os_str() == "-") {
        return Err(Failure::new("stdin cannot be both the assertions and the manifests"));
    }
    let file = read(path)?;
    let objects = load(&command.source)?;
    if command.mutate {
        return mutations(command, &objects, &file);
    }
    let cluster = &objects.cluster;
    let outcomes = check(cluster, &file, &objects.namespace);
    let notes: Option<Vec<PacketNote>> = match &command.source.lab {
        Some(lab) if !command.without_packets => {
            Some(packets::send(lab, cluster, &file, &objects.namespace)?)
        }
        _ => None,
    };
    let notes = notes.as_deref();
    let statuses: Vec<Status> = outcomes
        .iter()
        .enumerate()
        .map(|(i, outcome)| with_packets(outcome.status, notes.and_then(|notes| notes.get(i))))
        .collect();
    print(&match command.output {
        TestFormat::Text => text::test::test(cluster, &outcomes, notes),
        TestFormat::Json => {
            json::pretty(&json::test::test(cluster, &outcomes, notes, &objects.left_out))?
        }
        TestFormat::Junit => checks::junit(&[text::test::suite(cluster, &outcomes, notes)]),
        TestFormat::Tap => checks::tap(&[text::test::suite(cluster, &outcomes, notes)]),
    })?;
    Ok(code(&statuses))
}

/// Bad input before failures before what is unknown.
fn code(statuses: &[Status]) -> ExitCode {
    ExitCode::from(match () {
        () if statuses.contains(&Status::Broken) => FAILED,
        () if statuses.contains(&Status::Fails) => NO,
        () if statuses.contains(&Status::Unknown) => UNKNOWN,
        () => YES,
    })
}

/// Reads the assertions; what is wrong with them is shown in full.
fn read(path: &Path) -> Result<AssertionFile, Failure> {
    let mut bytes = Vec::new();
    let limit = MOST_BYTES as u64 + 1;
    let (name, done) = if path.as_os_str() == "-" {
        ("<stdin>".to_owned(), std::io::stdin().lock().take(limit).read_to_end(&mut bytes))
    } else {
        let opened = std::fs::File::open(path);
        let done = opened.and_then(|file| file.take(limit).read_to_end(&mut bytes));
        (path.display().to_string(), done)
    };
    done.map_err(|error| {
        Failure::new(format!("cannot read the assertions {name}: {error}"))
            .hint("podwall test --write FILE makes a first one")
    })?;
    read_assertions(&name, &bytes).map_err(|wrong| {
        remark(&render_all(&wrong, true));
        Failure::new("the assertions have errors, so none is asked")
            .hint("docs/test.md has the format; podwall schema test-file its schema")
    })
}

/// How far a long answer has come, for a person at a terminal; nobody else hears of it.
struct Bar(ProgressBar);

impl Bar {
    fn new(what: &'static str) -> Self {
        let bar = match std::io::stderr().is_terminal() {
            true => ProgressBar::no_length(),
            false => ProgressBar::hidden(),
        };
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}, {eta} left");
        Self(match style {
            Ok(style) => bar.with_style(style).with_message(what),
            Err(_) => bar,
        })
    }

    fn at(&self, done: usize, all: usize) {
        self.0.set_length(all as u64);
        self.0.set_position(done as u64);
    }

    fn end(&self) {
        self.0.finish_and_clear();
    }
}

/// `--write`
fn first_file(command: &Test) -> Result<ExitCode, Failure> {
    let objects = load(&command.source)?;
    let bar = Bar::new("workloads");
    let written = write::write(&objects.cluster, &mut |done, all| bar.at(done, all));
    bar.end();
    let path = match &command.file {
        Some(path) if path.as_os_str() != "-" => path,
        _ => {
            print(&written.text)?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    let made = OpenOptions::new().write(true).create_new(true).open(path);
    made.and_then(|mut file| file.write_all(written.text.as_bytes())).map_err(|error| {
        let failure = Failure::new(format!("cannot write {}: {error}", path.display()));
        match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                failure.hint("a file that is there is not written over; name another")
            }
            _ => failure,
        }
    })?;
    let assertions = podwall_render::words::count(written.assertions, "assertion");
    remark(&format!("{}: {assertions}\n", path.display()));
    for line in &written.left_out {
        remark(&format!("not claimed: {line}\n"));
    }
    Ok(ExitCode::SUCCESS)
}

/// `--mutate`
fn mutations(command: &Test, objects: &Objects, file: &AssertionFile) -> Result<ExitCode, Failure> {
    let before = check(&objects.cluster, file, &objects.namespace);
    let statuses: Vec<Status> = before.iter().map(|outcome| outcome.status).collect();
    if statuses.contains(&Status::Broken) || !statuses.contains(&Status::Holds) {
        print(&text::test::test(&objects.cluster, &before, None))?;
        return Err(Failure::new("only assertions that hold can notice a change")
            .hint("mend the file first; without --mutate it is only asked"));
    }
    let bar = Bar::new("changes");
    let progress = &mut |done, all| bar.at(done, all);
    let found = mutate::mutate(&objects.cluster, file, &objects.namespace, progress);
    bar.end();
    let titles: Vec<String> = file.assertions.iter().map(podwall_render::claims::title).collect();
    print(&match command.output {
        TestFormat::Text => text::mutate::mutate(&found, &titles),
        TestFormat::Json => json::pretty(&json::mutate::mutate(&found, &titles))?,
        TestFormat::Junit => checks::junit(&[text::mutate::suite(&found, &titles)]),
        TestFormat::Tap => checks::tap(&[text::mutate::suite(&found, &titles)]),
    })?;
    let unnoticed = found.unnoticed().next().is_some();
    Ok(ExitCode::from(if unnoticed { NO } else { YES }))
}
