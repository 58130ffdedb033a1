//! What is measured? One file for each part.

pub(crate) mod connections;
pub(crate) mod denied;
pub(crate) mod established;
pub(crate) mod memory;
pub(crate) mod ready;
pub(crate) mod sync;

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use indicatif::ProgressBar;
use podwall_compile::compiler::compile;
use podwall_compile::tables::NodeTables;

use crate::cluster::{self, NODES, Plan, Seat, Shape};
use crate::engine::{Engine, Installed, Wanted};
use crate::load::{self, Loader};
use crate::rounds::{self, Rounds};
use crate::site::Site;

/// How much is measured.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// How often paths are compared.
    pub rounds: usize,
    /// How long each at a time.
    pub slice: Duration,
    /// How many policies there are, ascending.
    pub policies: Vec<usize>,
    /// How many addresses are known, ascending.
    pub addresses: Vec<usize>,
    pub engines: Vec<Engine>,
    /// How many single changes are timed.
    pub changes: usize,
    /// Where programs are pinned.
    pub pins: PathBuf,
}

impl Options {
    pub(crate) fn rounds(&self) -> Rounds {
        Rounds { count: self.rounds, slice: self.slice }
    }

    /// The largest cluster.
    pub(crate) fn largest(&self) -> Shape {
        Shape {
            pods: self.addresses.last().copied().unwrap_or(1000),
            policies: self.policies.last().copied().unwrap_or(1),
        }
    }
}

/// A cluster, compiled for both nodes.
pub(crate) struct Compiled {
    pub shape: Shape,
    plans: Vec<Plan>,
    tables: [Arc<NodeTables>; 2],
}

impl Compiled {
    pub(crate) fn new(shape: Shape) -> Self {
        let cluster = cluster::cluster(&shape);
        let tables = NODES.map(|node| Arc::new(compile(&cluster, Some(node))));
        Self { shape, plans: cluster::plans(&shape), tables }
    }
}

/// A path with an engine that enforces a cluster's policies.
pub(crate) struct Built {
    pub engine: Engine,
    pub shape: Shape,
    pub site: Rc<Site>,
    /// Kept: an engine's process stays alive beside what it has in the kernel.
    _installed: Vec<Installed>,
}

/// Builds a path.
pub(crate) fn build(engine: Engine, compiled: &Compiled, pins: &Path, id: usize) -> Result<Built> {
    let site = Site::new()?;
    let cpu = load_cpu()?;
    let mut installed = Vec::new();
    for (index, node) in site.nodes.iter().enumerate() {
        let wanted = Wanted {
            tables: &compiled.tables[index],
            plans: &compiled.plans,
            pods: compiled.shape.pods,
            node: index,
            cpu,
        };
        let pins = pins.join(format!("bench-{id}-{index}"));
        let done = engine.install(node, &wanted, &pins);
        installed.push(done.with_context(|| format!("{engine} on {}", NODES[index]))?);
    }
    Ok(Built { engine, shape: compiled.shape, site: Rc::new(site), _installed: installed })
}

/// The engines of the options for each shape, and "conntrack only" twice; a baseline has no
/// policies, whatever its shape says.
pub(crate) fn build_all(options: &Options, shapes: &[Shape]) -> Result<Vec<Built>> {
    let mut built = Vec::new();
    let bar = rounds::progress(shapes.len() * options.engines.len(), "building paths");
    for (index, shape) in shapes.iter().enumerate() {
        let compiled = Compiled::new(*shape);
        for engine in &options.engines {
            let times = match engine {
                Engine::Conntrack if index == 0 => 2,
                Engine::Conntrack => 0,
                _ => 1,
            };
            for _ in 0..times {
                built.push(build(*engine, &compiled, &options.pins, built.len())?);
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(built)
}

/// The processor that carries loads.
pub(crate) fn load_cpu() -> Result<usize> {
    load::cpus().first().copied().context("no processor")
}

/// The paths to one server.
pub(crate) fn paths(built: &[Built], to: Seat) -> Result<Vec<rounds::Path>> {
    let cpu = load_cpu()?;
    built
        .iter()
        .map(|built| {
            Ok(rounds::Path {
                name: format!("{}, {} policies", built.engine, built.shape.policies),
                site: Rc::clone(&built.site),
                loader: Loader::new(&built.site, Seat::Client, to, cpu)?,
            })
        })
        .collect()
}

/// The two paths of a packet.
pub(crate) const PATHS: [(&str, Seat); 2] = [("one node", Seat::Near), ("two nodes", Seat::Far)];

/// The rates of "conntrack only".
pub(crate) fn bases<'a>(built: &[Built], rates: &'a [Vec<f64>]) -> Vec<&'a [f64]> {
    let of = built.iter().zip(rates).filter(|(built, _)| built.engine == Engine::Conntrack);
    of.map(|(_, rates)| rates.as_slice()).collect()
}

/// Progress that says what is compared.
pub(crate) fn bar(options: &Options, what: &str) -> ProgressBar {
    rounds::progress(options.rounds, what)
}
