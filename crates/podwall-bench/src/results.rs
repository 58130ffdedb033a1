//! What was found, in a form that a machine reads.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::stats::Estimate;

/// One number of the report. Its schema is stable: fields are added, not changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Point {
    /// The part of the benchmark: `connections`, `established`, …
    pub part: String,
    /// What was measured, in words.
    pub what: String,
    /// `conntrack`, `ebpf`, …; empty where it does not matter.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub engine: String,
    /// What was varied: `policies`, `addresses`, `path` …
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub at: BTreeMap<String, String>,
    /// The value.
    pub value: Estimate,
    /// Its unit, in words: `connections/s`, `ms`, `MiB`.
    pub unit: String,
    /// How many single measurements are in it.
    pub samples: usize,
    /// The ratio to conntrack alone, or to what `what` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<Estimate>,
    /// What is to be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
}

/// What is to be reached, by the ratio if the point has one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Target {
    AtLeast(f64),
    AtMost(f64),
}

/// Where and with what it was measured.
pub(crate) type Machine = BTreeMap<String, String>;

/// The file of one part.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Part {
    #[serde(default)]
    pub machine: Machine,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// The options that it ran with.
    pub command: String,
    pub points: Vec<Point>,
}

impl Point {
    pub(crate) fn new(part: &str, what: &str, unit: &str, value: Estimate, samples: usize) -> Self {
        Self {
            part: part.into(),
            what: what.into(),
            engine: String::new(),
            at: BTreeMap::new(),
            value,
            unit: unit.into(),
            samples,
            ratio: None,
            target: None,
        }
    }

    pub(crate) fn engine(mut self, engine: Engine) -> Self {
        self.engine = engine.to_string();
        self
    }

    pub(crate) fn at(mut self, key: &str, value: impl Into<String>) -> Self {
        self.at.insert(key.into(), value.into());
        self
    }

    pub(crate) fn at_number(self, key: &str, value: usize) -> Self {
        self.at(key, value.to_string())
    }

    pub(crate) fn ratio(mut self, ratio: Estimate) -> Self {
        self.ratio = Some(ratio);
        self
    }

    pub(crate) fn target(mut self, target: Option<Target>) -> Self {
        self.target = target;
        self
    }

    /// Whether the target is met: by the median.
    pub(crate) fn met(&self) -> Option<bool> {
        let found = self.ratio.unwrap_or(self.value).median;
        Some(match self.target? {
            Target::AtLeast(least) => found >= least,
            Target::AtMost(most) => found <= most,
        })
    }
}

/// The directory that parts are written to.
pub(crate) fn directory(out: &Path) -> PathBuf {
    out.join("parts")
}

/// Writes the file of a part.
pub(crate) fn save(out: &Path, name: &str, part: &Part) -> Result<()> {
    let directory = directory(out);
    fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    let file = directory.join(format!("{name}.json"));
    fs::write(&file, serde_json::to_string_pretty(part)? + "\n")
        .with_context(|| file.display().to_string())
}

/// Reads the files of all parts that have run.
pub(crate) fn load(out: &Path) -> Result<BTreeMap<String, Part>> {
    let directory = directory(out);
    let mut parts = BTreeMap::new();
    for entry in fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        let Some(name) = path.file_stem().and_then(|s| s.to_str()) else { continue };
        if path.extension().is_some_and(|e| e == "json") {
            let part = serde_json::from_slice(&fs::read(&path)?)
                .with_context(|| path.display().to_string())?;
            parts.insert(name.to_owned(), part);
        }
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_held_against_the_ratio_if_there_is_one() {
        let estimate = |median| Estimate { median, low: median, high: median };
        let point = Point::new("p", "w", "u", estimate(100.0), 3);
        assert_eq!(point.met(), None);
        let point = point.target(Some(Target::AtLeast(0.98)));
        assert_eq!(point.met(), Some(true));
        assert_eq!(point.clone().ratio(estimate(0.97)).met(), Some(false));
        assert_eq!(point.target(Some(Target::AtMost(5.0))).met(), Some(false));
    }
}
