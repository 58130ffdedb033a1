//! What was measured of labs, in the form that the whole report is made of.
//!
//! `podwall-bench report` puts `parts/labs.json` together with the other parts; the fields are those
//! of its `results::Point`.

use std::fs;

use serde_json::{Value, json};

use crate::Options;
use crate::spread::{Spread, words};

/// One number of the report.
pub(crate) struct Measure {
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
}

impl Measure {
    pub(crate) fn new(network: &str, words: String, target: Option<f64>, found: Found) -> Self {
        Self { network: network.into(), words, target, found }
    }

    fn json(&self) -> Value {
        let alike = |value: f64| json!({"median": value, "low": value, "high": value});
        let (value, unit, samples, scale) = match &self.found {
            Found::Times(spread) => {
                let at = |share| spread.quantile(share) * 1e3;
                let value = json!({"median": at(0.5), "low": at(0.0), "high": at(1.0)});
                (value, "ms", spread.len(), 1e3)
            }
            Found::Count(count, _) => (alike(*count as f64), "lost", 1, 1.0),
            Found::Rate(rate) => (alike(*rate), "pairs/s", 1, 1.0),
        };
        let mut point = json!({"part": "labs", "what": self.words, "value": value, "unit": unit,
            "samples": samples, "at": {"network": self.network}});
        if let Found::Count(_, of) = &self.found {
            point["at"]["of"] = json!(of);
        }
        if let Some(target) = self.target {
            point["target"] = json!({"atMost": target * scale});
        }
        point
    }

    fn line(&self) -> String {
        let found = match &self.found {
            Found::Times(s) => format!(
                "{} ({} … {}, p99 {} of {})",
                words(s.median()),
                words(s.quantile(0.0)),
                words(s.quantile(1.0)),
                words(s.quantile(0.99)),
                s.len()
            ),
            Found::Count(count, of) => format!("{count} of {of}"),
            Found::Rate(rate) => format!("{rate:.0} a second"),
        };
        format!("{:6} {}: {found}", self.network, self.words)
    }
}

/// Writes `parts/labs.json`, and shows what is in it.
pub(crate) fn write(options: &Options, measured: &[Measure], seconds: f64) {
    let points: Vec<Value> = measured.iter().map(Measure::json).collect();
    let command = format!("lab {}", std::env::args().skip(1).collect::<Vec<_>>().join(" "));
    let part = json!({"machine": {}, "seconds": seconds, "command": command, "points": points});
    let directory = options.out.join("parts");
    fs::create_dir_all(&directory).unwrap();
    let file = directory.join("labs.json");
    fs::write(&file, serde_json::to_string_pretty(&part).unwrap() + "\n").unwrap();
    for measure in measured {
        println!("{}", measure.line());
    }
}
