//! How many new connections a second, with how many policies and how many known addresses?

use anyhow::Result;

use super::{Column, Lot, Measured, Options, against, bases, measure};
use crate::cluster::Shape;
use crate::engine::Engine;
use crate::load::Load;
use crate::results::{Point, Target};
use crate::stats::{estimate, ratio};

const PART: &str = "connections";

pub(crate) fn run(options: &Options) -> Result<Vec<Point>> {
    let largest = options.largest();
    let shapes = options.policies.iter().map(|policies| Shape { policies: *policies, ..largest });
    let mut points = sweep(options, &shapes.collect::<Vec<_>>(), "policies")?;
    // The largest was measured just now.
    let fewer = options.addresses.iter().filter(|pods| **pods < largest.pods);
    let shapes: Vec<Shape> = fewer.map(|pods| Shape { pods: *pods, ..largest }).collect();
    if !shapes.is_empty() {
        // A linear ruleset, a queue and the guard do not look at addresses that no policy of theirs names.
        let few = Options {
            engines: options
                .engines
                .iter()
                .copied()
                .filter(|e| !matches!(e, Engine::Linear | Engine::Queue | Engine::Guard))
                .collect(),
            ..options.clone()
        };
        points.extend(sweep(&few, &shapes, "addresses")?);
    }
    Ok(points)
}

fn sweep(options: &Options, shapes: &[Shape], axis: &str) -> Result<Vec<Point>> {
    let lots = [Lot { what: "new connections", load: Load::Connections }];
    let measured = measure(options, shapes, &lots)?;
    let mut points = Vec::new();
    for Measured { what, path, columns } in &measured {
        let bases = bases(columns);
        for column in columns {
            let rates = &column.rates;
            let what = format!("{what} by {axis}");
            let mut point = Point::new(PART, &what, "connections/s", estimate(rates), rates.len())
                .engine(column.engine)
                .at("path", *path)
                .target(target(column));
            if column.engine == Engine::Conntrack {
                point = point.at_number("policies", 0);
            } else {
                point = point
                    .at_number("policies", column.shape.policies)
                    .at_number("addresses", column.shape.pods);
            }
            points.push(point.ratio(ratio(rates, &against(column, &bases))));
        }
        points.extend(flatness(path, &format!("{what}, most {axis} against fewest"), columns));
    }
    Ok(points)
}

fn target(column: &Column) -> Option<Target> {
    match column.engine {
        Engine::Ebpf => Some(Target::AtLeast(0.98)),
        Engine::Nftables => Some(Target::AtLeast(0.96)),
        _ => None,
    }
}

/// The largest against the smallest that has a policy at all.
fn flatness(path: &str, what: &str, columns: &[Column]) -> Vec<Point> {
    let mut points = Vec::new();
    for engine in Engine::ALL.into_iter().filter(|engine| *engine != Engine::Conntrack) {
        let mut of: Vec<&Column> =
            columns.iter().filter(|c| c.engine == engine && c.shape.policies > 0).collect();
        of.sort_by_key(|column| (column.shape.pods, column.shape.policies));
        let [first, .., last] = of.as_slice() else { continue };
        let own = matches!(engine, Engine::Ebpf | Engine::Nftables);
        points.push(
            Point::new(PART, what, "connections/s", estimate(&last.rates), last.rates.len())
                .engine(engine)
                .at("path", path)
                .ratio(ratio(&last.rates, &[&first.rates]))
                .target(own.then_some(Target::AtLeast(0.98))),
        );
    }
    points
}
