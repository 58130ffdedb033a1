//! What does policy cost connections that stand?

use anyhow::Result;

use super::{Options, PATHS, bar, bases, build_all, paths};
use crate::engine::Engine;
use crate::load::Load;
use crate::results::{Point, Target};
use crate::rounds::compare;
use crate::stats::{estimate, ratio};

const LOADS: [(&str, Load, &str); 4] = [
    ("round trips", Load::RoundTrips, "round trips/s"),
    ("1 TCP stream", Load::Streams(1), "bytes/s"),
    ("8 TCP streams", Load::Streams(8), "bytes/s"),
    ("UDP packets", Load::Datagrams, "packets/s"),
];

pub(crate) fn run(options: &Options) -> Result<Vec<Point>> {
    let built = build_all(options, &[options.largest()])?;
    let mut points = Vec::new();
    for (path, to) in PATHS {
        let paths = paths(&built, to)?;
        for (what, load, unit) in LOADS {
            let bar = bar(options, &format!("{what}, {path}"));
            let rates = compare(&paths, load, options.rounds(), &bar)?;
            bar.finish_and_clear();
            let bases = bases(&built, &rates);
            for (built, rates) in built.iter().zip(&rates) {
                let base: Vec<&[f64]> = match built.engine {
                    Engine::Conntrack => {
                        bases.iter().copied().filter(|base| *base != rates.as_slice()).collect()
                    }
                    _ => bases.clone(),
                };
                let target = match built.engine {
                    Engine::Ebpf => Some(Target::AtLeast(0.99)),
                    Engine::Nftables => Some(Target::AtLeast(0.98)),
                    _ => None,
                };
                points.push(
                    Point::new("established", what, unit, estimate(rates), rates.len())
                        .engine(built.engine)
                        .at("path", path)
                        .ratio(ratio(rates, &base))
                        .target(target),
                );
            }
        }
    }
    Ok(points)
}
