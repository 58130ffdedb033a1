//! What is measured? One file for each part.

pub(crate) mod answers;
pub(crate) mod connections;
pub(crate) mod denied;
pub(crate) mod established;
pub(crate) mod memory;
pub(crate) mod ready;
pub(crate) mod sync;

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use podwall_compile::compiler::compile;
use podwall_compile::tables::NodeTables;

use crate::cluster::{self, NODES, Plan, Seat, Shape};
use crate::engine::{Engine, Installed, Wanted};
use crate::load::{self, Load, Loader};
use crate::rounds::{self, Rounds, compare};
use crate::site::Site;

/// How much is measured.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// How often all paths are built anew.
    pub builds: usize,
    /// How often paths are compared, of each build.
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
    installed: Vec<Installed>,
}

impl Built {
    /// What is pinned would outlive the path.
    fn take_down(self) -> Result<()> {
        self.installed.into_iter().try_for_each(Installed::take_down)
    }
}

/// Builds a path.
pub(crate) fn build(engine: Engine, compiled: &Compiled, pins: &Path) -> Result<Built> {
    // A data plane takes over what it finds in its directory, so each has one of its own.
    static NEXT: AtomicUsize = AtomicUsize::new(0);
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
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let pins = pins.join(format!("bench-{id}"));
        let done = engine.install(node, &wanted, &pins);
        installed.push(done.with_context(|| format!("{engine} on {}", NODES[index]))?);
    }
    Ok(Built { engine, shape: compiled.shape, site: Rc::new(site), installed })
}

/// The engines of the options for each shape, and "conntrack only" twice; a baseline has no
/// policies, whatever its shape says.
fn build_all(options: &Options, compiled: &[Compiled]) -> Result<Vec<Built>> {
    let mut built = Vec::new();
    let bar = rounds::progress(compiled.len() * options.engines.len(), "building paths");
    for (index, compiled) in compiled.iter().enumerate() {
        for engine in &options.engines {
            let times = match engine {
                Engine::Conntrack if index == 0 => 2,
                Engine::Conntrack => 0,
                _ => 1,
            };
            for _ in 0..times {
                built.push(build(*engine, compiled, &options.pins)?);
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    Ok(built)
}

/// A load, and what it is called.
pub(crate) struct Lot {
    pub what: &'static str,
    pub load: Load,
}

/// What one load found on one path.
pub(crate) struct Measured {
    pub what: &'static str,
    pub path: &'static str,
    pub columns: Vec<Column>,
}

/// What one engine made of it.
pub(crate) struct Column {
    pub engine: Engine,
    pub shape: Shape,
    /// One a round.
    pub rates: Vec<f64>,
}

/// Compares all engines with all shapes, on both paths, under all loads. Everything is built anew
/// several times: where the kernel happens to put a path's things makes one of two that are alike
/// faster by a per cent, for as long as it stands.
pub(crate) fn measure(options: &Options, shapes: &[Shape], lots: &[Lot]) -> Result<Vec<Measured>> {
    let compiled: Vec<Compiled> = shapes.iter().copied().map(Compiled::new).collect();
    let mut measured: Vec<Measured> = Vec::new();
    for build in 0..options.builds {
        let built = build_all(options, &compiled)?;
        let mut index = 0;
        for (path, to) in PATHS {
            let paths = paths(&built, to)?;
            for Lot { what, load } in lots {
                let name = format!("{what}, {path}, {} of {}", build + 1, options.builds);
                let bar = rounds::progress(options.rounds, &name);
                let rates = compare(&paths, *load, options.rounds(), &bar)?;
                bar.finish_and_clear();
                if build == 0 {
                    let column = |built: &Built| Column {
                        engine: built.engine,
                        shape: built.shape,
                        rates: Vec::new(),
                    };
                    let columns = built.iter().map(column).collect();
                    measured.push(Measured { what, path, columns });
                }
                for (column, rates) in measured[index].columns.iter_mut().zip(rates) {
                    column.rates.extend(rates);
                }
                index += 1;
            }
        }
        for built in built {
            built.take_down()?;
        }
    }
    Ok(measured)
}

/// The rates of "conntrack only".
pub(crate) fn bases(columns: &[Column]) -> Vec<&[f64]> {
    let of = columns.iter().filter(|column| column.engine == Engine::Conntrack);
    of.map(|column| column.rates.as_slice()).collect()
}

/// What a column is held against: of the baselines, each against the other.
pub(crate) fn against<'a>(column: &Column, bases: &[&'a [f64]]) -> Vec<&'a [f64]> {
    let others = bases.iter().copied().filter(|base| !std::ptr::eq(*base, column.rates.as_slice()));
    others.collect()
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
