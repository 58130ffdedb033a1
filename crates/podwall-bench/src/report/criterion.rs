//! What has `cargo bench` found of tables, readers and data planes?

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::machine::machine;
use crate::results::{Part, Point};
use crate::stats::Estimate;

/// Reads `GROUP/NAME/new/estimates.json`, all below a directory.
pub(super) fn read(directory: &Path) -> Part {
    let mut points = Vec::new();
    collect(directory, directory, &mut points);
    points.sort_by(|a: &Point, b| a.what.cmp(&b.what));
    Part { machine: machine(), seconds: 0.0, command: "cargo bench".to_owned(), points }
}

fn collect(root: &Path, directory: &Path, points: &mut Vec<Point>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(root, &path, points);
        } else if path.ends_with("new/estimates.json") {
            let text = fs::read(&path).unwrap_or_default();
            let json: Value = serde_json::from_slice(&text).unwrap_or_default();
            let microseconds = |pointer: &str| {
                json.pointer(pointer).and_then(Value::as_f64).map_or(f64::NAN, |ns| ns / 1e3)
            };
            let value = Estimate {
                median: microseconds("/median/point_estimate"),
                low: microseconds("/median/confidence_interval/lower_bound"),
                high: microseconds("/median/confidence_interval/upper_bound"),
            };
            let name = path.parent().and_then(Path::parent).unwrap_or(root);
            let name = name.strip_prefix(root).unwrap_or(name).display().to_string();
            points.push(Point::new("tables", "medians", "µs", value, 1).at("what", name));
        }
    }
}
