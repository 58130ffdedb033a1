//! What does policy cost?
//!
//! ```text
//!   podwall-bench connections established denied ready sync memory
//!     └─ paths of network namespaces, one for each engine ─▶ loads, interleaved ─▶ parts/*.json
//!   podwall-bench answers
//!     └─ manifests of clusters ─▶ the program's commands, a process each ─▶ parts/answers.json
//!   podwall-bench report ─▶ bench.json, bench.md, plots
//! ```
//!
//! Needs root, but for answers; makes namespaces of its own and touches nothing else. What is compared with what, and
//! why so, is in each part's module and in docs/performance.md.

mod cluster;
mod engine;
mod load;
mod parts;
mod report;
mod results;
mod rounds;
mod site;
mod stats;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, Subcommand};

use crate::cluster::Shape;
use crate::engine::Engine;
use crate::parts::{Options, answers};
use crate::results::{Part, Point};

/// Measures what policy costs, and writes it down.
#[derive(Debug, Parser)]
#[command(name = "podwall-bench", version)]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// New connections a second, by policies and by known addresses.
    Connections(Flags),
    /// Round trips, TCP streams and UDP packets of connections that stand.
    Established(Flags),
    /// A flood of denied packets, and good traffic beside it.
    Denied(Flags),
    /// From a change to the first packet that follows it.
    Ready(Flags),
    /// From an empty kernel to enforced.
    Sync(Flags),
    /// Bytes for a pod of another node and for a policy.
    Memory(Flags),
    /// All of the above, one after another.
    All(Flags),
    /// Time and memory of the commands that answer, on manifests of clusters.
    Answers(answers::Flags),
    /// Writes the manifests of such a cluster.
    Manifests {
        /// How many pods.
        pods: usize,
        /// What to write.
        form: answers::manifests::Form,
        /// Where to; it must not exist yet.
        to: PathBuf,
    },
    /// Puts together what the parts have left: JSON, Markdown, plots.
    Report {
        /// Where the parts are, and where the report goes.
        #[arg(long, default_value = "bench-results")]
        out: PathBuf,
        /// Where `cargo bench` has left its estimates, to be added.
        #[arg(long)]
        criterion: Option<PathBuf>,
    },
    /// One full sync in this process; what `sync` and `memory` start.
    #[command(hide = true)]
    Once { engine: String, pods: usize, policies: usize },
    /// One command; what `answers` starts.
    #[command(hide = true)]
    Timed {
        limit: u64,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

#[derive(Args, Clone, Debug)]
struct Flags {
    /// How often all paths are built anew.
    #[arg(long, default_value_t = 3)]
    builds: usize,
    /// How often paths are compared, of each build.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// How long each at a time, in milliseconds.
    #[arg(long, default_value_t = 50)]
    slice: u64,
    /// How many policies there are, ascending.
    #[arg(long, value_delimiter = ',', default_value = "0,1,100,1000,10000")]
    policies: Vec<usize>,
    /// How many addresses are known, ascending; at least 500.
    #[arg(long, value_delimiter = ',', default_value = "1000,10000,100000")]
    addresses: Vec<usize>,
    /// What is compared; conntrack alone always is.
    #[arg(long, value_delimiter = ',', default_value = "ebpf,nftables,linear,nfqueue")]
    engines: Vec<String>,
    /// How many single changes of each kind are timed.
    #[arg(long, default_value_t = 400)]
    changes: usize,
    /// A look in a minute or two: one build, a tenth of the cluster.
    #[arg(long)]
    quick: bool,
    /// Where results go.
    #[arg(long, default_value = "bench-results")]
    out: PathBuf,
}

type Run = fn(&Options) -> Result<Vec<Point>>;

const PARTS: [(&str, Run); 6] = [
    ("connections", parts::connections::run),
    ("established", parts::established::run),
    ("denied", parts::denied::run),
    ("ready", parts::ready::run),
    ("sync", parts::sync::run),
    ("memory", parts::memory::run),
];

fn main() -> Result<()> {
    let (wanted, flags) = match Cli::parse().what {
        What::Report { out, criterion } => return report::write(&out, criterion.as_deref()),
        What::Once { engine, pods, policies } => {
            let pins = site::private_mounts()?;
            let once = parts::sync::once(engine_named(&engine)?, &Shape { pods, policies }, &pins)?;
            println!("{}", serde_json::to_string(&once)?);
            return Ok(());
        }
        What::Answers(flags) => {
            one("answers", &flags.out, || answers::run(&flags))?;
            return report::write(&flags.out, None);
        }
        What::Manifests { pods, form, to } => {
            return answers::manifests::write(answers::size_of(pods), form, &to);
        }
        What::Timed { limit, command } => {
            println!("{}", serde_json::to_string(&answers::timed(limit, &command)?)?);
            return Ok(());
        }
        What::Connections(flags) => ("connections", flags),
        What::Established(flags) => ("established", flags),
        What::Denied(flags) => ("denied", flags),
        What::Ready(flags) => ("ready", flags),
        What::Sync(flags) => ("sync", flags),
        What::Memory(flags) => ("memory", flags),
        What::All(flags) => ("all", flags),
    };
    let options = options(&flags)?;
    for (name, run) in PARTS {
        if wanted != "all" && wanted != name {
            continue;
        }
        one(name, &flags.out, || run(&options))?;
    }
    report::write(&flags.out, None)
}

/// Runs a part and writes its file.
fn one(name: &str, out: &Path, run: impl FnOnce() -> Result<Vec<Point>>) -> Result<()> {
    let machine = report::machine::machine();
    let start = Instant::now();
    let points = run().with_context(|| format!("the part {name}"))?;
    let seconds = start.elapsed().as_secs_f64();
    let missed = points.iter().filter(|point| point.met() == Some(false)).count();
    println!("{name}: {} numbers in {seconds:.0} s, {missed} targets missed", points.len());
    let command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    let part = Part { machine, seconds, command: format!("podwall-bench {command}"), points };
    results::save(out, name, &part)
}

fn engine_named(word: &str) -> Result<Engine> {
    let found = Engine::ALL.into_iter().find(|engine| engine.word() == word);
    found.with_context(|| {
        let all = Engine::ALL.map(Engine::word).join(", ");
        format!("{word:?} is no engine; there are {all}")
    })
}

fn options(flags: &Flags) -> Result<Options> {
    let mut engines = vec![Engine::Conntrack];
    for word in &flags.engines {
        let engine = engine_named(word)?;
        if !engines.contains(&engine) {
            engines.push(engine);
        }
    }
    if flags.addresses.iter().any(|n| !(500..=200_000).contains(n)) {
        bail!("--addresses: between 500 and 200,000; the two nodes alone have 500 pods");
    }
    let share = if flags.quick { 4 } else { 1 };
    let most = |all: &[usize], limit: usize| -> Vec<usize> {
        let limit = if flags.quick { limit } else { usize::MAX };
        all.iter().copied().filter(|n| *n <= limit).collect()
    };
    Ok(Options {
        builds: if flags.quick { 1 } else { flags.builds.max(1) },
        rounds: flags.rounds.max(1),
        slice: Duration::from_millis(flags.slice.max(1)),
        policies: most(&flags.policies, 1000),
        addresses: most(&flags.addresses, 10_000),
        engines,
        changes: (flags.changes / share).max(2),
        pins: site::private_mounts()?,
    })
}
