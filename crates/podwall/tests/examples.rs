//! Do the examples show what they say?
//!
//! ```text
//!   examples/*/expect.txt ── state PATH …                     which manifests are in force from here
//!                         ── SRC DST PROTO/PORT VERDICT       can -f …   and   lab probe …
//!                         ── exec NS/POD CODE : CMD …         lab exec …
//!                         ── lab                              a new lab from here
//! ```
//!
//! A verdict is `allowed`, `denied` or `unknown`; `unknown/denied` where files lack a fact that a
//! lab has. `#` begins a comment. Every failure of every example is told, not the first one.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says by panic what is wrong")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use support::{Lab, podwall, root};

/// How many labs packets are tried in at a time.
const LABS: usize = 3;

/// What one line of an `expect.txt` says.
enum Line {
    /// The manifests in force: paths as the command line takes them.
    State(Vec<String>),
    /// Who reaches whom.
    Reach(Reach),
    /// What a program in a pod ends with.
    Exec { pod: String, code: i32, command: Vec<String> },
    /// What follows begins in an empty lab.
    Lab,
}

struct Reach {
    src: String,
    dst: String,
    protocol: String,
    port: String,
    /// From files.
    of_files: String,
    /// In a lab, by engine and packets.
    in_lab: String,
}

/// A line and where it stands, for messages.
struct Expectation {
    at: String,
    text: String,
    line: Line,
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").canonicalize().unwrap()
}

/// Every example by its name, in order.
fn folders() -> Vec<(String, PathBuf)> {
    let mut found: Vec<(String, PathBuf)> = fs::read_dir(examples())
        .unwrap()
        .map(Result::unwrap)
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.path()))
        .collect();
    found.sort();
    assert!(found.len() >= 12, "where are the examples? here are {found:?}");
    found
}

/// The lines of an example's `expect.txt`.
fn expectations(name: &str, folder: &Path) -> Vec<Expectation> {
    let file = folder.join("expect.txt");
    let text = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    let mut found = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.split_once('#').map_or(line, |(before, _)| before).trim();
        if line.is_empty() {
            continue;
        }
        let at = format!("{name}/expect.txt:{}", index + 1);
        let parsed = parse(line, folder).unwrap_or_else(|| panic!("{at}: cannot read `{line}`"));
        found.push(Expectation { at, text: line.to_owned(), line: parsed });
    }
    found
}

fn parse(line: &str, folder: &Path) -> Option<Line> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let owned = |words: &[&str]| words.iter().map(ToString::to_string).collect::<Vec<String>>();
    match words[..] {
        ["lab"] => Some(Line::Lab),
        ["state", ref paths @ ..] if !paths.is_empty() => {
            let whole = paths.iter().map(|path| folder.join(path));
            Some(Line::State(whole.map(|path| path.to_str().unwrap().to_owned()).collect()))
        }
        ["exec", pod, code, ":", ref command @ ..] if !command.is_empty() && pod.contains('/') => {
            let (pod, code) = (pod.to_owned(), code.parse().ok()?);
            Some(Line::Exec { pod, code, command: owned(command) })
        }
        [src, dst, what, verdict] => {
            let (protocol, port) = what.split_once('/')?;
            let (of_files, in_lab) = verdict.split_once('/').unwrap_or((verdict, verdict));
            let known = |verdict| ["allowed", "denied", "unknown"].contains(&verdict);
            if !known(of_files) || !known(in_lab) || in_lab == "unknown" {
                return None;
            }
            let [src, dst, protocol, port, of_files, in_lab] =
                [src, dst, protocol, port, of_files, in_lab].map(str::to_owned);
            Some(Line::Reach(Reach { src, dst, protocol, port, of_files, in_lab }))
        }
        _ => None,
    }
}

/// `-f` before each.
fn with_f(paths: &[String]) -> Vec<&str> {
    paths.iter().flat_map(|path| ["-f", path.as_str()]).collect()
}

fn report(failures: &[String], tried: usize) {
    assert!(failures.is_empty(), "{} of {tried} lines:\n{}", failures.len(), failures.join("\n"));
    assert!(tried > 0, "nothing was tried");
}

#[test]
fn every_example_explains_itself() {
    for (name, folder) in folders() {
        let readme = folder.join("README.md");
        let text =
            fs::read_to_string(&readme).unwrap_or_else(|e| panic!("{}: {e}", readme.display()));
        assert!(text.starts_with("# "), "{name}/README.md has no heading");
        assert!(text.contains("podwall can"), "{name}/README.md has no command to try");
        assert!(text.contains("podwall lab"), "{name}/README.md does not say how to send packets");
        let lines = expectations(&name, &folder);
        assert!(matches!(lines.first().map(|l| &l.line), Some(Line::State(_))), "{name}: no state");
        assert!(lines.iter().any(|l| matches!(l.line, Line::Reach(_))), "{name}: no verdict");
    }
}

#[test]
fn files_give_the_verdicts_that_examples_say() {
    let (mut failures, mut tried) = (Vec::new(), 0);
    for (name, folder) in folders() {
        let mut paths = Vec::new();
        for Expectation { at, text, line } in expectations(&name, &folder) {
            let reach = match line {
                Line::State(new) => {
                    paths = new;
                    continue;
                }
                Line::Exec { .. } | Line::Lab => continue,
                Line::Reach(reach) => reach,
            };
            let mut args = vec!["can", &reach.src, &reach.dst, "--port", &reach.port];
            args.extend(["--protocol", &reach.protocol, "-o", "json"]);
            args.extend(with_f(&paths));
            let ran = podwall(&args, None);
            let code =
                ["allowed", "denied", "", "unknown"].iter().position(|v| *v == reach.of_files);
            let verdict = serde_json::from_str::<serde_json::Value>(&ran.out)
                .map(|answer| answer["verdict"].as_str().unwrap_or_default().to_owned());
            tried += 1;
            if verdict.ok().as_ref() != Some(&reach.of_files)
                || ran.code.and_then(|c| usize::try_from(c).ok()) != code
            {
                failures.push(format!("{at}: {text}\n  {ran}"));
            }
        }
    }
    report(&failures, tried);
}

#[test]
fn packets_do_what_examples_say() {
    if !root() {
        return;
    }
    let folders = folders();
    let next = AtomicUsize::new(0);
    let told = Mutex::new((Vec::new(), 0));
    // A lab mostly waits for what must not come.
    thread::scope(|scope| {
        for _ in 0..LABS {
            scope.spawn(|| {
                while let Some((name, folder)) = folders.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (failures, tried) = in_lab(name, folder);
                    let mut told = told.lock().unwrap();
                    told.0.extend(failures);
                    told.1 += tried;
                }
            });
        }
    });
    let (failures, tried) = told.into_inner().unwrap();
    report(&failures, tried);
}

/// What an example's expectations come to in labs of their own: what failed, and how many were tried.
fn in_lab(name: &str, folder: &Path) -> (Vec<String>, usize) {
    let (mut failures, mut tried) = (Vec::new(), 0);
    let mut lab = Lab::up("examples", &[]);
    let mut paths: Vec<String> = Vec::new();
    for Expectation { at, text, line } in expectations(name, folder) {
        tried += 1;
        match line {
            Line::State(new) => {
                // What stays is left alone: pods live on while policies come and go.
                let gone: Vec<String> =
                    paths.iter().filter(|path| !new.contains(path)).cloned().collect();
                if !gone.is_empty() {
                    lab.delete(&with_f(&gone));
                }
                lab.run("apply", &with_f(&new), None).ok();
                paths = new;
            }
            Line::Lab => {
                lab = Lab::up("examples", &[]);
                paths.clear();
            }
            Line::Reach(reach) => {
                let args =
                    [&reach.src, &reach.dst, "--port", &reach.port, "--protocol", &reach.protocol];
                let packets = lab.probe_json(&args);
                let right = packets.iter().filter(|p| p.agrees && p.engine == reach.in_lab).count();
                if packets.is_empty() || right < packets.len() {
                    let told: Vec<String> = packets.iter().map(ToString::to_string).collect();
                    failures.push(format!("{at}: {text}\n  {}", told.join("\n  ")));
                }
            }
            Line::Exec { pod, code, command } => {
                let command: Vec<&str> = command.iter().map(String::as_str).collect();
                let ran = lab.exec(&pod, &command);
                if ran.code != Some(code) {
                    failures.push(format!("{at}: {text}\n  {ran}"));
                }
            }
        }
    }
    (failures, tried)
}
