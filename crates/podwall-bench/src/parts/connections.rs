//! How many new connections a second, with how many policies and how many known addresses?

use anyhow::Result;

use super::{Built, Options, PATHS, bar, bases, build_all, paths};
use crate::cluster::Shape;
use crate::engine::Engine;
use crate::load::Load;
use crate::results::{Point, Target};
use crate::rounds::compare;
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
        // A linear ruleset and a queue do not look at addresses that no policy of theirs names.
        let few = Options {
            engines: options
                .engines
                .iter()
                .copied()
                .filter(|e| !matches!(e, Engine::Linear | Engine::Queue))
                .collect(),
            ..options.clone()
        };
        points.extend(sweep(&few, &shapes, "addresses")?);
    }
    Ok(points)
}

fn sweep(options: &Options, shapes: &[Shape], axis: &str) -> Result<Vec<Point>> {
    let built = build_all(options, shapes)?;
    let mut points = Vec::new();
    for (path, to) in PATHS {
        let paths = paths(&built, to)?;
        let bar = bar(options, &format!("connections, {path}, by {axis}"));
        let rates = compare(&paths, Load::Connections, options.rounds(), &bar)?;
        bar.finish_and_clear();
        let bases = bases(&built, &rates);
        for (built, rates) in built.iter().zip(&rates) {
            let what = format!("new connections by {axis}");
            let mut point = Point::new(PART, &what, "connections/s", estimate(rates), rates.len())
                .engine(built.engine)
                .at("path", path)
                .target(target(built));
            if built.engine == Engine::Conntrack {
                // One of the two against the other: what cannot be told apart.
                let other = bases.iter().find(|base| **base != rates.as_slice());
                point = point.at("policies", 0);
                if let Some(other) = other {
                    point = point.ratio(ratio(rates, &[other]));
                }
            } else {
                point = point
                    .at("policies", built.shape.policies)
                    .at("addresses", built.shape.pods)
                    .ratio(ratio(rates, &bases));
            }
            points.push(point);
        }
        points.extend(flatness(path, axis, &built, &rates));
    }
    Ok(points)
}

fn target(built: &Built) -> Option<Target> {
    match built.engine {
        Engine::Ebpf => Some(Target::AtLeast(0.98)),
        Engine::Nftables => Some(Target::AtLeast(0.96)),
        _ => None,
    }
}

/// The largest against the smallest that has a policy at all.
fn flatness(path: &str, axis: &str, built: &[Built], rates: &[Vec<f64>]) -> Vec<Point> {
    let mut points = Vec::new();
    for engine in Engine::ALL {
        let mut of: Vec<(&Built, &Vec<f64>)> = built
            .iter()
            .zip(rates)
            .filter(|(b, _)| b.engine == engine && b.shape.policies > 0)
            .collect();
        of.sort_by_key(|(b, _)| (b.shape.pods, b.shape.policies));
        let [(_, first), .., (_, last)] = of.as_slice() else { continue };
        if engine == Engine::Conntrack {
            continue;
        }
        let own = matches!(engine, Engine::Ebpf | Engine::Nftables);
        points.push(
            Point::new(
                PART,
                &format!("most {axis} against fewest"),
                "connections/s",
                estimate(last),
                last.len(),
            )
            .engine(engine)
            .at("path", path)
            .ratio(ratio(last, &[first]))
            .target(own.then_some(Target::AtLeast(0.98))),
        );
    }
    points
}
