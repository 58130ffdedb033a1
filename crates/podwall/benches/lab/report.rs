//! What was measured, where, and was it good enough?

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::Options;
use crate::rounds::podwall;
use crate::spread::{Spread, words};

/// One line of the report.
pub(crate) struct Measure {
    key: String,
    network: String,
    words: String,
    /// At most this: seconds of the median, or a count.
    target: Option<f64>,
    found: Found,
}

/// What came out.
pub(crate) enum Found {
    /// Times, one a repetition.
    Times(Spread),
    /// How often something happened, and beside what.
    Count(u64, String),
    /// How many a second.
    Rate(f64),
    /// Seconds as `cargo bench` has estimated them: median, and the ends of its 95 % interval.
    Estimate(f64, f64, f64),
}

impl Measure {
    pub(crate) fn new(
        key: &str,
        network: &str,
        words: String,
        target: Option<f64>,
        found: Found,
    ) -> Self {
        Self { key: key.into(), network: network.into(), words, target, found }
    }

    fn median(&self) -> Option<f64> {
        match &self.found {
            Found::Times(spread) => Some(spread.median()),
            Found::Count(count, _) => Some(*count as f64),
            Found::Rate(_) | Found::Estimate(..) => None,
        }
    }

    fn met(&self) -> Option<bool> {
        Some(self.median()? <= self.target?)
    }

    fn json(&self) -> Value {
        let found = match &self.found {
            Found::Times(spread) => json!({"seconds": spread.json()}),
            Found::Count(count, note) => json!({"count": count, "note": note}),
            Found::Rate(rate) => json!({"perSecond": rate}),
            Found::Estimate(median, low, high) => {
                json!({"seconds": {"median": median, "low": low, "high": high}})
            }
        };
        let (Self { key, network, words, target, .. }, met) = (self, self.met());
        json!({"key": key, "network": network, "what": words, "target": target, "met": met,
            "found": found})
    }

    fn row(&self) -> String {
        let (median, spread) = match &self.found {
            Found::Times(s) => (
                words(s.median()),
                format!(
                    "{} … {}, p99 {} of {}",
                    words(s.quantile(0.0)),
                    words(s.quantile(1.0)),
                    words(s.quantile(0.99)),
                    s.len()
                ),
            ),
            Found::Count(count, note) => (count.to_string(), note.clone()),
            Found::Rate(rate) => (format!("{rate:.0} /s"), String::new()),
            Found::Estimate(median, low, high) => {
                (words(*median), format!("{} … {}", words(*low), words(*high)))
            }
        };
        let target = match (self.target, &self.found) {
            (None, _) => String::new(),
            (Some(target), Found::Count(..)) => format!("{target}"),
            (Some(target), _) => words(target),
        };
        let mark = match self.met() {
            None => "",
            Some(true) => "met",
            Some(false) => "**missed**",
        };
        let Self { words: what, network, .. } = self;
        format!("| {what} | {network} | {median} | {spread} | {target} | {mark} |\n")
    }
}

/// Writes `bench.json` and `bench.md`.
pub(crate) fn write(options: &Options, measured: &[Measure]) {
    let estimates = options.criterion.as_deref().map(estimates).unwrap_or_default();
    let all = || measured.iter().chain(&estimates);
    let machine = machine();
    let results: Vec<Value> = all().map(Measure::json).collect();
    let json = json!({"machine": machine, "results": results});
    let mut text = String::from("# Benches\n\n");
    for (key, value) in machine.as_object().into_iter().flatten() {
        writeln!(text, "- {key}: {}", value.as_str().unwrap_or_default()).unwrap();
    }
    text += "\n| what | network | median | spread | target | |\n|---|---|---|---|---|---|\n";
    text.extend(all().map(Measure::row));
    fs::create_dir_all(&options.out).unwrap();
    let json = serde_json::to_string_pretty(&json).unwrap() + "\n";
    fs::write(options.out.join("bench.json"), json).unwrap();
    fs::write(options.out.join("bench.md"), &text).unwrap();
    println!("{text}\nwritten to {}/bench.md and bench.json", options.out.display());
}

/// What `cargo bench` left: `GROUP/NAME/new/estimates.json`.
fn estimates(directory: &Path) -> Vec<Measure> {
    let mut found = Vec::new();
    collect(directory, directory, &mut found);
    found.sort_by(|a, b| a.key.cmp(&b.key));
    found
}

fn collect(root: &Path, directory: &Path, found: &mut Vec<Measure>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(root, &path, found);
        } else if path.ends_with("new/estimates.json") {
            let text = fs::read(&path).unwrap_or_default();
            let json: Value = serde_json::from_slice(&text).unwrap_or_default();
            let seconds = |pointer: &str| {
                json.pointer(pointer).and_then(Value::as_f64).map_or(f64::NAN, |ns| ns / 1e9)
            };
            let name = path.parent().and_then(Path::parent).unwrap_or(root);
            let name = name.strip_prefix(root).unwrap_or(name).display().to_string();
            let estimate = Found::Estimate(
                seconds("/median/point_estimate"),
                seconds("/median/confidence_interval/lower_bound"),
                seconds("/median/confidence_interval/upper_bound"),
            );
            found.push(Measure::new(&name, "", name.clone(), None, estimate));
        }
    }
}

/// Where it was measured.
fn machine() -> Value {
    let line = |file: &str, name: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let said = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output();
        let text = output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned());
        text.unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    json!({
        "processor": format!("{}, {cores} cores", line("/proc/cpuinfo", "model name")),
        "memory": line("/proc/meminfo", "MemTotal"),
        "kernel": said("uname", &["-sr"]),
        "load at the end": load.split(' ').take(3).collect::<Vec<_>>().join(" "),
        "podwall": said(&podwall().display().to_string(), &["--version"]),
        "commit": said("git", &["describe", "--always", "--dirty"]),
        "rustc": said("rustc", &["--version"]),
    })
}
