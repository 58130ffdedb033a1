//! What does a flood of denied packets cost, and what is left for the others?
//!
//! The flood alone tells the processor's time for a denied packet, from the sender's system call to
//! the verdict. Then a second processor carries new connections, with the flood beside them and
//! without, in turns.

use anyhow::{Context as _, Result};

use super::{Compiled, Options, build, load_cpu};
use crate::cluster::Seat;
use crate::engine::Engine;
use crate::load::{self, Load, Loader};
use crate::results::{Point, Target};
use crate::rounds::progress;
use crate::stats::{estimate, ratio};

const PART: &str = "denied";

pub(crate) fn run(options: &Options) -> Result<Vec<Point>> {
    let cpus = load::cpus();
    let good = load_cpu()?;
    let bad = *cpus.get(1).context("this part needs two processors")?;
    let compiled = Compiled::new(options.largest());
    let mut engines = options.engines.clone();
    engines.push(Engine::Rule);
    let mut paths = Vec::new();
    for engine in engines {
        let built = build(engine, &compiled, &options.pins)?;
        let wanted = Loader::new(&built.site, Seat::Client, Seat::Near, good)?;
        let flood = Loader::flooder(&built.site, Seat::Stranger, Seat::Near, bad)?;
        paths.push((built, wanted, flood));
    }
    let mut alone = vec![Vec::new(); paths.len()];
    let mut without = vec![Vec::new(); paths.len()];
    let mut beside = vec![Vec::new(); paths.len()];
    let bar = progress(options.rounds, "flood of denied SYNs");
    for round in 0..options.rounds {
        for turn in 0..paths.len() {
            let index = (round + turn) % paths.len();
            let (built, wanted, flood) = &paths[index];
            built.site.forget_connections()?;
            alone[index].push(1e6 / flood.run(Load::Flood, options.slice)?);
            without[index].push(wanted.run(Load::Connections, options.slice)?);
            flood.start(Load::Flood, options.slice * 3 / 2)?;
            beside[index].push(wanted.run(Load::Connections, options.slice)?);
            flood.finish()?;
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let rule = paths.iter().position(|(built, ..)| built.engine == Engine::Rule);
    let rule = rule.context("the yardstick")?;
    let mut points = Vec::new();
    for (index, (built, ..)) in paths.iter().enumerate() {
        let point = |what: &str, unit: &str, values: &[f64]| {
            Point::new(PART, what, unit, estimate(values), values.len()).engine(built.engine)
        };
        let own = matches!(built.engine, Engine::Ebpf | Engine::Nftables);
        let target = own.then_some(Target::AtLeast(0.9));
        if built.engine != Engine::Conntrack {
            points.push(
                point("processor for a denied packet, against one rule", "µs", &alone[index])
                    .ratio(ratio(&alone[index], &[&alone[rule]])),
            );
        }
        points.push(
            point(
                "new connections beside a flood, against without",
                "connections/s",
                &beside[index],
            )
            .ratio(ratio(&beside[index], &[&without[index]]))
            .target(target),
        );
        points.push(
            point(
                "new connections beside a flood, against one rule beside it",
                "connections/s",
                &beside[index],
            )
            .ratio(ratio(&beside[index], &[&beside[rule]]))
            .target(target),
        );
    }
    Ok(points)
}
