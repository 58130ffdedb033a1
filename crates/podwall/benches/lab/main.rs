//! How long does a lab take, from outside?
//!
//! ```text
//!   podwall lab up / apply / down      as a user would, timed around the process
//!   worker.sock ── Request ──▶ reply   one change through a connection that stays
//!   this program in two pods           one packet every 100 µs: what did packets see of it?
//! ```
//!
//! It drives the `podwall` program that is built (`PODWALL`, else the one beside this one), makes
//! labs of its own name and removes them. Root, or a kernel with user namespaces. `scripts/bench`
//! runs it with everything else; `-- --help` says what it takes.

#![expect(clippy::unwrap_used, reason = "a bench ends at the first surprise")]

mod cluster;
mod connection;
mod packets;
mod report;
mod rounds;
mod spread;

use std::path::PathBuf;
use std::time::Instant;

const HELP: &str = "\
lab [--rounds N] [--changes N] [--policies N] [--networks ptp,bridge] [--out DIR]

  --rounds N     how often a lab is made and filled (3)
  --changes N    how many single changes are timed in the last round (100)
  --policies N   how many policies are in place (1000)
  --networks L   ptp, bridge, or both (ptp,bridge)
  --out DIR      where parts/labs.json goes (bench-results)
  --lab NAME     what the labs are called (bench-PID)";

/// What the command line says.
struct Options {
    rounds: usize,
    changes: usize,
    policies: usize,
    networks: Vec<String>,
    out: PathBuf,
    lab: String,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["send", target] => return packets::send(target),
        ["receive", port] => return packets::receive(port),
        ["talk", target] => return packets::talk(target),
        ["answer", port] => return packets::answer(port),
        _ => {}
    }
    let options = options(&arguments);
    let start = Instant::now();
    let measured = rounds::run(&options);
    report::write(&options, &measured, start.elapsed().as_secs_f64());
}

fn options(arguments: &[String]) -> Options {
    let mut options = Options {
        rounds: 3,
        changes: 100,
        policies: 1000,
        networks: vec!["ptp".into(), "bridge".into()],
        out: "bench-results".into(),
        lab: format!("bench-{}", std::process::id()),
    };
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap_or_else(|| usage(word)).clone();
        let number = |text: String| text.parse::<usize>().unwrap_or_else(|_| usage(&text));
        match word.as_str() {
            "--rounds" => options.rounds = number(value()).max(1),
            "--changes" => options.changes = number(value()).max(1),
            "--policies" => options.policies = number(value()).max(1),
            "--networks" => options.networks = value().split(',').map(Into::into).collect(),
            "--out" => options.out = value().into(),
            "--lab" => options.lab = value(),
            _ => usage(word),
        }
    }
    options
}

fn usage(word: &str) -> ! {
    eprintln!("lab: {word:?} is not understood\n{HELP}");
    std::process::exit(2);
}
