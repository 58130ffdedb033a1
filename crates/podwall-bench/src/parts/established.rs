//! What does policy cost connections that stand?

use anyhow::Result;

use super::{Lot, Measured, Options, against, bases, measure};
use crate::engine::Engine;
use crate::load::Load;
use crate::results::{Point, Target};
use crate::stats::{estimate, ratio};

const LOTS: [Lot; 4] = [
    Lot { what: "round trips", load: Load::RoundTrips },
    Lot { what: "1 TCP stream", load: Load::Streams(1) },
    Lot { what: "8 TCP streams", load: Load::Streams(8) },
    Lot { what: "UDP packets", load: Load::Datagrams },
];

pub(crate) fn run(options: &Options) -> Result<Vec<Point>> {
    let mut points = Vec::new();
    for Measured { what, path, columns } in measure(options, &[options.largest()], &LOTS)? {
        let bases = bases(&columns);
        let unit = match what {
            "round trips" => "round trips/s",
            "UDP packets" => "packets/s",
            _ => "bytes/s",
        };
        for column in &columns {
            let rates = &column.rates;
            let target = match column.engine {
                Engine::Ebpf => Some(Target::AtLeast(0.99)),
                Engine::Nftables => Some(Target::AtLeast(0.98)),
                _ => None,
            };
            points.push(
                Point::new("established", what, unit, estimate(rates), rates.len())
                    .engine(column.engine)
                    .at("path", path)
                    .ratio(ratio(rates, &against(column, &bases)))
                    .target(target),
            );
        }
    }
    Ok(points)
}
