//! How long do answers take, and how much memory, from the start of the process to its end?
//!
//! ```text
//!   manifests of a cluster ──▶ podwall can, exposure, diff … ── a process each ──▶ time, most memory
//! ```
//!
//! Three sizes: a hundred workloads, 10,000 pods, 100,000 pods. A command that takes longer than the
//! limit is stopped, and the report says so. Needs no root.

pub(crate) mod manifests;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use serde::{Deserialize, Serialize};

use self::manifests::{Form, Size};
use crate::results::{Point, Target};
use crate::rounds::progress;
use crate::stats::estimate;

/// What is measured, and with what.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Flags {
    /// The program; else the one beside this.
    #[arg(long)]
    podwall: Option<PathBuf>,
    /// Pods of the clusters; of five pods there is one policy, of a hundred thousand one of ten.
    #[arg(long, value_delimiter = ',', default_value = "300,10000,100000")]
    pods: Vec<usize>,
    /// How often each command runs; a fifth of it from 10,000 pods on, once from 100,000.
    #[arg(long, default_value_t = 15)]
    runs: usize,
    /// After how many seconds a command is stopped.
    #[arg(long, default_value_t = 60)]
    limit: u64,
    /// Only these commands, by name.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Where results go.
    #[arg(long, default_value = "bench-results")]
    pub(crate) out: PathBuf,
}

/// A command by name: its words, in which names of [`FILES`] stand for the files.
const COMMANDS: [(&str, &str); 15] = [
    ("can", "can ns-1/deploy/a1 ns-0/deploy/a0 --port 8080 -f bundle.yaml"),
    ("can, a file for each object", "can ns-1/deploy/a1 ns-0/deploy/a0 --port 8080 -f repository"),
    ("can, as kubectl prints pods", "can ns-1/deploy/a1 ns-0/deploy/a0 --port 8080 -f dump.yaml"),
    ("can --fix", "can --fix ns-1/deploy/a1 ns-0/deploy/a0 --port 8080 -f bundle.yaml"),
    ("explain", "explain policy ns-1/policy-6 -f bundle.yaml"),
    ("exposure", "exposure -f bundle.yaml"),
    ("lint", "lint -f bundle.yaml"),
    ("diff", "diff bundle.yaml changed.yaml"),
    ("test", "test assertions.yaml -f bundle.yaml"),
    ("test --mutate", "test --mutate assertions.yaml -f bundle.yaml"),
    ("test --write", "test --write -f bundle.yaml"),
    ("generate", "generate flows.csv -f bundle.yaml"),
    ("generate --from-matrix", "generate --from-matrix -f bundle.yaml"),
    ("matrix", "matrix -f bundle.yaml -o csv"),
    ("draw", "draw --out - -f bundle.yaml"),
];

const FILES: [(&str, Form); 6] = [
    ("bundle.yaml", Form::Bundle),
    ("repository", Form::Repository),
    ("dump.yaml", Form::Dump),
    ("changed.yaml", Form::Changed),
    ("assertions.yaml", Form::Assertions),
    ("flows.csv", Form::Flows),
];

/// What one process took.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Took {
    seconds: f64,
    /// The most memory that it had, in MiB.
    peak: f64,
    /// `None` if it was stopped.
    code: Option<i32>,
}

pub(crate) fn run(flags: &Flags) -> Result<Vec<Point>> {
    let podwall = match &flags.podwall {
        Some(podwall) => podwall.clone(),
        None => std::env::current_exe()?.with_file_name("podwall"),
    };
    ensure!(podwall.is_file(), "{}: build podwall first, or name it", podwall.display());
    let mut points = Vec::new();
    for pods in &flags.pods {
        let size = size_of(*pods);
        let directory =
            std::env::temp_dir().join(format!("podwall-answers-{}", std::process::id()));
        std::fs::create_dir(&directory).with_context(|| directory.display().to_string())?;
        let measured = measure(flags, size, &podwall, &directory);
        std::fs::remove_dir_all(&directory)?;
        points.extend(measured?);
    }
    Ok(points)
}

/// A cluster of so many pods.
pub(crate) fn size_of(pods: usize) -> Size {
    Size { pods, policies: if pods < 100_000 { pods / 5 } else { pods / 10 } }
}

fn measure(flags: &Flags, size: Size, podwall: &Path, directory: &Path) -> Result<Vec<Point>> {
    let runs = match size.pods {
        0..10_000 => flags.runs,
        10_000..100_000 => flags.runs / 5,
        _ => 1,
    };
    for (name, form) in FILES {
        manifests::write(size, form, &directory.join(name))?;
    }
    let wanted = |name: &str| flags.only.is_empty() || flags.only.iter().any(|only| only == name);
    let commands = COMMANDS.iter().filter(|(name, _)| wanted(name));
    let bar = progress(commands.clone().count(), &format!("answers, {} pods", size.pods));
    let mut points = Vec::new();
    for (name, words) in commands {
        let mut found: Vec<Took> = Vec::new();
        for _ in 0..runs.max(1) {
            let took = fresh(podwall, words, directory, flags.limit)?;
            found.push(took);
            if took.code.is_none() {
                break;
            }
        }
        bar.inc(1);
        let outcome = match found.last().and_then(|took| took.code) {
            None => format!("stopped after {} s", flags.limit),
            Some(2) => "refused: the input is over a limit".to_owned(),
            Some(code) => format!("exit code {code}"),
        };
        let (time, memory) = targets(name, size.pods);
        let mut point = |what: &str, unit: &str, target, value: &dyn Fn(&Took) -> f64| {
            let values: Vec<f64> = found.iter().map(value).collect();
            points.push(
                Point::new("answers", what, unit, estimate(&values), values.len())
                    .at("command", *name)
                    .at_number("pods", size.pods)
                    .at_number("policies", size.policies)
                    .at("outcome", outcome.clone())
                    .target(target),
            );
        };
        point("time of a process", "s", time, &|took| took.seconds);
        point("memory of a process at its peak", "MiB", memory, &|took| took.peak);
    }
    bar.finish_and_clear();
    Ok(points)
}

/// What time and memory are to be, where the issue says it.
fn targets(name: &str, pods: usize) -> (Option<Target>, Option<Target>) {
    let most = |most| Some(Target::AtMost(most));
    match (name, pods) {
        (_, ..1000) => (most(0.02), None),
        ("exposure", 10_000) => (most(1.0), None),
        ("can", 100_000) => (most(5.0), most(1e9 / 1048576.0)),
        ("diff", 100_000) => (most(10.0), None),
        _ => (None, None),
    }
}

/// Has a process of this program start the command, so that nobody else's memory is counted.
fn fresh(podwall: &Path, words: &str, directory: &Path, limit: u64) -> Result<Took> {
    let this = std::env::current_exe()?;
    let mut command = Command::new(this);
    command.arg("timed").arg(limit.to_string()).arg(podwall).args(words.split(' '));
    let output = command.current_dir(directory).output()?;
    if !output.status.success() {
        bail!("{words}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).context("what the process took")
}

/// Runs a command once, at most so many seconds.
pub(crate) fn timed(limit: u64, command: &[String]) -> Result<Took> {
    let [program, words @ ..] = command else { bail!("no command") };
    let limit = Duration::from_secs(limit);
    let mut process = Command::new(program);
    process.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let start = Instant::now();
    let mut child = process.spawn().with_context(|| program.clone())?;
    // Short ones are waited for closely, long ones are not disturbed.
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        let passed = start.elapsed();
        if passed > limit {
            child.kill()?;
            child.wait()?;
            break None;
        }
        sleep((passed / 100).clamp(Duration::from_micros(50), Duration::from_millis(20)));
    };
    let seconds = start.elapsed().as_secs_f64();
    let peak = getrusage(UsageWho::RUSAGE_CHILDREN)?.max_rss() as f64 / 1024.0;
    Ok(Took { seconds, peak, code: status.and_then(|status| status.code()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_timed_and_one_that_takes_too_long_is_stopped() {
        let command = |words: &str| words.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let took = timed(60, &command("false")).unwrap();
        assert_eq!(took.code, Some(1));
        assert!(took.peak > 0.1 && took.seconds < 60.0, "{took:?}");
        let took = timed(0, &command("sleep 60")).unwrap();
        assert_eq!(took.code, None);
    }

    #[test]
    fn the_manifests_say_what_their_size_says() {
        let directory = tempfile::tempdir().unwrap();
        let size = Size { pods: 300, policies: 60 };
        for (name, form) in FILES {
            manifests::write(size, form, &directory.path().join(name)).unwrap();
        }
        let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
        let kinds = |text: &str, kind: &str| text.matches(&format!("\nkind: {kind}\n")).count();
        let bundle = read("bundle.yaml");
        assert_eq!(kinds(&bundle, "NetworkPolicy"), 60);
        assert_eq!(kinds(&bundle, "Deployment"), 102);
        assert_eq!(bundle.matches("  replicas: 3\n").count(), 99);
        assert_eq!(read("dump.yaml").matches("  kind: Pod\n").count(), 300);
        assert_ne!(bundle, read("changed.yaml"));
        assert_eq!(bundle.lines().count(), read("changed.yaml").lines().count());
    }
}
