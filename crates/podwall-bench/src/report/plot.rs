//! The curves as pictures.
//!
//! Policies and addresses grow by tens, so the points stand at equal distances, each with what it
//! stands for beneath it, and their intervals as bars.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::markdown::number;
use crate::results::{Part, Point};
use crate::stats::Estimate;

/// A plot that was drawn.
pub(super) struct Plot {
    pub part: String,
    pub what: String,
    pub title: String,
    /// Its file, relative to the report.
    pub file: String,
}

/// What a curve goes along.
const AXES: [&str; 2] = ["policies", "addresses"];

/// Draws a plot for every table whose points lie along an axis.
pub(super) fn draw(out: &Path, parts: &BTreeMap<String, Part>) -> Result<Vec<Plot>> {
    let mut plots = Vec::new();
    for (name, part) in parts {
        let mut groups: Vec<(String, String, Vec<&Point>)> = Vec::new();
        for point in &part.points {
            let path = point.at.get("path").cloned().unwrap_or_default();
            match groups.iter_mut().find(|(w, p, _)| *w == point.what && *p == path) {
                Some((.., points)) => points.push(point),
                None => groups.push((point.what.clone(), path, vec![point])),
            }
        }
        for (what, path, points) in groups {
            let Some(axis) = axis_of(&points) else { continue };
            let title = [what.as_str(), path.as_str()]
                .into_iter()
                .filter(|t| !t.is_empty())
                .collect::<Vec<_>>();
            let title = title.join(", ");
            let file = format!("{}.svg", slug(&format!("{name} {title}")));
            curves(&out.join(&file), &title, axis, &points)
                .map_err(|error| anyhow!("{file}: {error}"))?;
            plots.push(Plot { part: name.clone(), what, title, file });
        }
    }
    Ok(plots)
}

/// The axis along which there are most values; at least two.
fn axis_of(points: &[&Point]) -> Option<&'static str> {
    let steps = |axis: &str| {
        let mut values: Vec<&String> = points.iter().filter_map(|p| p.at.get(axis)).collect();
        values.sort();
        values.dedup();
        values.len()
    };
    let best = AXES.into_iter().max_by_key(|axis| (steps(axis), axis.len()))?;
    (steps(best) >= 2).then_some(best)
}

fn slug(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let words: String = text.chars().map(plain).collect();
    words.split('-').filter(|word| !word.is_empty()).collect::<Vec<_>>().join("-")
}

/// What is drawn of a point: its ratio, else its value.
fn drawn(point: &Point) -> Estimate {
    point.ratio.unwrap_or(point.value)
}

const COLOURS: [RGBColor; 5] = [
    RGBColor(230, 150, 0),
    RGBColor(120, 60, 160),
    RGBColor(220, 50, 32),
    RGBColor(0, 160, 200),
    RGBColor(60, 60, 60),
];

/// An engine's colour, the same in every plot.
fn colour(name: &str, index: usize) -> RGBColor {
    match name {
        "conntrack" => RGBColor(130, 130, 130),
        "ebpf" => RGBColor(0, 90, 181),
        "nftables" => RGBColor(0, 130, 90),
        _ => COLOURS[index % COLOURS.len()],
    }
}

fn curves(
    file: &Path,
    title: &str,
    axis: &str,
    points: &[&Point],
) -> Result<(), Box<dyn std::error::Error>> {
    let value = |point: &Point| point.at.get(axis).and_then(|v| v.parse::<u64>().ok());
    let mut steps: Vec<u64> = points.iter().filter_map(|p| value(p)).collect();
    steps.sort_unstable();
    steps.dedup();
    let mut lines: BTreeMap<String, Vec<(f64, Estimate)>> = BTreeMap::new();
    for point in points {
        // A baseline without a place on this axis is the line at 1.
        let Some(at) = value(point).and_then(|v| steps.iter().position(|s| *s == v)) else {
            continue;
        };
        let name = match point.at.get("quantile") {
            Some(quantile) => format!("{} {quantile}", point.engine),
            None => point.engine.clone(),
        };
        lines.entry(name).or_default().push((at as f64, drawn(point)));
    }
    let ratio = points.iter().any(|point| point.ratio.is_some());
    let highest = lines.values().flatten().map(|(_, e)| e.high).fold(0.0, f64::max);
    let top = if ratio { highest.max(1.05) } else { highest * 1.1 };
    let last = steps.len().saturating_sub(1) as f64;

    let area = SVGBackend::new(file, (760, 420)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(42)
        .y_label_area_size(64)
        .build_cartesian_2d(-0.3..last + 0.3, 0.0..top)?;
    let unit = points.first().map(|p| p.unit.clone()).unwrap_or_default();
    let label = |x: &f64| {
        let near = (x - x.round()).abs() < 0.01 && *x > -0.01;
        let step = near.then(|| steps.get(x.round() as usize)).flatten();
        step.map(|s| number(*s as f64).split('.').next().unwrap_or_default().to_owned())
            .unwrap_or_default()
    };
    let labels = ((last + 0.6) * 10.0) as usize;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .set_tick_mark_size(LabelAreaPosition::Bottom, 0)
        .x_labels(labels.max(2))
        .x_label_formatter(&label)
        .x_desc(axis)
        .y_desc(if ratio { "ratio".to_owned() } else { unit })
        .y_label_formatter(&|y| number(*y))
        .light_line_style(RGBColor(240, 240, 240))
        .draw()?;
    if ratio {
        let one = [(-0.3, 1.0), (last + 0.3, 1.0)];
        chart.draw_series(LineSeries::new(one, RGBColor(160, 160, 160)))?;
    }
    for (index, (name, line)) in lines.iter_mut().enumerate() {
        line.sort_by(|a, b| a.0.total_cmp(&b.0));
        let colour = colour(name, index);
        // Side by side, where they would hide each other.
        let shift = index as f64 * 0.03 - 0.06;
        let place = |(x, e): &(f64, Estimate)| (x + shift, e.median);
        chart
            .draw_series(LineSeries::new(line.iter().map(place), colour.stroke_width(2)))?
            .label(name.clone())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(3)));
        chart.draw_series(line.iter().map(|(x, e)| {
            ErrorBar::new_vertical(x + shift, e.low, e.median, e.high, colour.filled(), 6)
        }))?;
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(RGBColor(200, 200, 200))
        .position(SeriesLabelPosition::LowerLeft)
        .draw()?;
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Engine;

    #[test]
    fn every_curve_has_a_picture_with_its_engines_and_steps() {
        let dir = std::env::temp_dir().join(format!("podwall-plot-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let e = |median| Estimate { median, low: median - 0.01, high: median + 0.01 };
        let mut part = Part::default();
        for (policies, ratio) in [(1, 0.99), (100, 0.98), (10_000, 0.97)] {
            for engine in [Engine::Ebpf, Engine::Linear] {
                part.points.push(
                    Point::new("connections", "by policies", "1/s", e(1000.0), 3)
                        .engine(engine)
                        .at("path", "one node")
                        .at_number("policies", policies)
                        .ratio(e(ratio)),
                );
            }
        }
        let parts = [("connections".to_owned(), part)].into_iter().collect();
        let plots = draw(&dir, &parts).unwrap();
        let files: Vec<&str> = plots.iter().map(|plot| plot.file.as_str()).collect();
        assert_eq!(files, ["connections-by-policies-one-node.svg"]);
        let svg = std::fs::read_to_string(dir.join(files[0])).unwrap();
        std::fs::remove_dir_all(&dir).unwrap();
        for word in ["ebpf", "linear", "10,000", "100", "ratio", "policies"] {
            assert!(svg.contains(word), "no {word} in the plot");
        }
    }
}
