//! What did packets do, beside what the engine says?

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Instant;

use anstyle::{AnsiColor, Style};
use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use podwall_lab::client::Client;
use podwall_lab::rpc::{ProbeRequest, Request};
use podwall_lab::trial::Finding;
use serde_json::json;

use super::args::{Probe, ProbeOutput};
use super::lifecycle;

/// How many destinations a grid may have before it is left out; 80 columns hold no more.
const GRID_COLUMNS: usize = 14;

/// Sends packets and reports.
pub(crate) fn probe(client: &mut Client, args: &Probe) -> Result<ExitCode> {
    let request = ProbeRequest {
        sources: args.source.iter().cloned().collect(),
        destinations: args.destination.iter().cloned().collect(),
        namespace: args.namespace.clone(),
        ports: args.port.clone(),
        protocols: args.protocol.clone(),
        outside: !args.no_outside,
        family: args.ip_family.map(lifecycle::families),
        patience_ms: 0,
    };
    let started = Instant::now();
    let findings = send(client, request)?;
    let seconds = started.elapsed().as_secs_f64();
    let wrong = findings.iter().filter(|f| !f.agrees).count();
    let text = match args.output {
        ProbeOutput::Json => {
            let value =
                json!({"probes": findings, "total": findings.len(), "disagreements": wrong});
            serde_json::to_string_pretty(&value)? + "\n"
        }
        ProbeOutput::Junit => junit(&findings, seconds),
        ProbeOutput::Text => report(&findings, seconds),
    };
    write!(anstream::stdout(), "{text}")?;
    if findings.is_empty() {
        eprintln!("nothing to try: the lab has no two peers that this asks about");
        return Ok(ExitCode::from(2));
    }
    Ok(ExitCode::from(u8::from(wrong > 0)))
}

/// Sends the packets, with a bar on a terminal.
pub(crate) fn send(client: &mut Client, request: ProbeRequest) -> Result<Vec<Finding>> {
    let bar = if std::io::stderr().is_terminal() {
        let style = ProgressStyle::with_template("probing {bar:40} {pos}/{len} {elapsed}")?;
        ProgressBar::new(0).with_style(style)
    } else {
        ProgressBar::hidden()
    };
    let findings = client.call_with_progress(&Request::Probe(request), |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    Ok(findings?)
}

fn report(findings: &[Finding], seconds: f64) -> String {
    let mut out = String::new();
    let mut by_port: BTreeMap<(&str, u16), Vec<&Finding>> = BTreeMap::new();
    for finding in findings {
        by_port.entry((&finding.protocol, finding.port)).or_default().push(finding);
    }
    for ((protocol, port), list) in &by_port {
        let head = if *port == 0 { (*protocol).to_owned() } else { format!("{protocol} {port}") };
        let destinations: BTreeSet<&str> = list.iter().map(|f| f.dst.as_str()).collect();
        let sources: BTreeSet<&str> = list.iter().map(|f| f.src.as_str()).collect();
        if destinations.len() <= GRID_COLUMNS && destinations.len() * sources.len() > 1 {
            let columns: Vec<(String, Vec<&Finding>)> = destinations
                .into_iter()
                .map(|d| (d.to_owned(), list.iter().filter(|f| f.dst == d).copied().collect()))
                .collect();
            let _ = writeln!(out, "{head}");
            out.push_str(&grid(&sources.into_iter().collect::<Vec<_>>(), &columns));
            out.push('\n');
        } else if list.len() <= 12 {
            for finding in list {
                let _ = writeln!(
                    out,
                    "{} → {} {head}: {}; the engine says {}",
                    finding.src,
                    finding.dst,
                    words(finding),
                    finding.engine
                );
            }
        } else {
            let dropped = list.iter().filter(|f| f.passed == Some(false)).count();
            let through = list.iter().filter(|f| f.passed == Some(true)).count();
            let _ = writeln!(out, "{head}: {through} got through, {dropped} were dropped");
        }
    }
    out.push_str(&verdict(findings, seconds));
    out
}

/// What packets did in one trial.
fn words(finding: &Finding) -> String {
    if finding.detail.is_empty() {
        finding.packets.clone()
    } else if finding.detail.starts_with(&finding.packets) {
        finding.detail.clone() // "answered by pod default/web in 0.4 ms"
    } else {
        format!("{} ({})", finding.packets, finding.detail)
    }
}

/// The last lines: whether packets and engine agree, and where not.
pub(crate) fn verdict(findings: &[Finding], seconds: f64) -> String {
    let wrong: Vec<&Finding> = findings.iter().filter(|f| !f.agrees).collect();
    let (green, red) = (colour(AnsiColor::Green), colour(AnsiColor::Red));
    let total = findings.len();
    if wrong.is_empty() {
        return format!(
            "{green}{total} packet{} did what the engine says{green:#} ({seconds:.1} s)\n",
            if total == 1 { "" } else { "s" }
        );
    }
    let mut out = format!(
        "{red}{} of {total} packets did not do what the engine says:{red:#}\n",
        wrong.len()
    );
    for finding in wrong.iter().take(40) {
        let _ = writeln!(
            out,
            "  {} → {} {} {}: the engine says {}, packets: {}",
            finding.src,
            finding.dst,
            finding.protocol,
            finding.port,
            finding.engine,
            words(finding)
        );
    }
    if wrong.len() > 40 {
        let _ = writeln!(out, "  … and {} more; -o json has them all", wrong.len() - 40);
    }
    out
}

/// Rows are sources, columns destinations; numbers instead of names keep 80 columns.
pub(crate) fn grid(sources: &[&str], columns: &[(String, Vec<&Finding>)]) -> String {
    let mut out = String::new();
    let width = sources.iter().map(|s| s.chars().count()).max().unwrap_or(0).max(4);
    let heads: Vec<String> = columns.iter().map(|(head, _)| short(head)).collect();
    let widths: Vec<usize> = heads.iter().map(|h| h.chars().count().max(3)).collect();
    let total = width + 2 + widths.iter().map(|w| w + 2).sum::<usize>();
    if total <= 80 {
        let _ = write!(out, "  {:width$}", "");
        for (head, w) in heads.iter().zip(&widths) {
            let _ = write!(out, "  {head:>w$}");
        }
        out.push('\n');
    } else {
        for (i, (head, _)) in columns.iter().enumerate() {
            let _ = writeln!(out, "  ({}) {head}", i + 1);
        }
        let _ = write!(out, "  {:width$}", "");
        for i in 1..=columns.len() {
            let _ = write!(out, "  {:>3}", format!("({i})"));
        }
        out.push('\n');
    }
    for source in sources {
        let _ = write!(out, "  {source:width$}");
        for ((_, findings), w) in columns.iter().zip(&widths) {
            let w = if total <= 80 { *w } else { 3 };
            let (mark, style) = cell(findings.iter().find(|f| f.src == *source).copied());
            let _ = write!(
                out,
                "  {:pad$}{style}{mark}{style:#}",
                "",
                pad = w.saturating_sub(mark.chars().count())
            );
        }
        out.push('\n');
    }
    out
}

/// A pod of the default namespace needs no namespace to be known by.
fn short(name: &str) -> String {
    name.strip_prefix("default/").unwrap_or(name).to_owned()
}

/// Where no packet was sent.
pub(crate) const NOTHING_TRIED: (&str, Style) = ("·", Style::new());

/// `✓` got through, `✗` dropped, `?` nobody knows.
pub(crate) fn mark(passed: Option<bool>) -> (&'static str, Style) {
    match passed {
        Some(true) => ("✓", colour(AnsiColor::Green)),
        Some(false) => ("✗", colour(AnsiColor::Red)),
        None => ("?", colour(AnsiColor::Yellow)),
    }
}

/// A cell of the grid: with `!` where the engine says otherwise.
fn cell(finding: Option<&Finding>) -> (String, Style) {
    let (mark, style) = finding.map_or(NOTHING_TRIED, |f| mark(f.passed));
    match finding {
        Some(finding) if !finding.agrees => (format!("!{mark}"), colour(AnsiColor::Magenta).bold()),
        _ => (mark.to_owned(), style),
    }
}

fn colour(ink: AnsiColor) -> Style {
    Style::new().fg_color(Some(ink.into()))
}

/// A JUnit report: one test a packet.
fn junit(findings: &[Finding], seconds: f64) -> String {
    let wrong = findings.iter().filter(|f| !f.agrees).count();
    let mut out = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n  <testsuite name=\"podwall lab \
         probe\" tests=\"{}\" failures=\"{wrong}\" time=\"{seconds:.3}\">\n",
        findings.len()
    );
    for finding in findings {
        let name = escape(&format!("{} {} {}", finding.dst, finding.protocol, finding.port));
        let class = escape(&finding.src);
        let _ = write!(out, "    <testcase classname=\"{class}\" name=\"{name}\"");
        if finding.agrees {
            out.push_str("/>\n");
        } else {
            let message =
                escape(&format!("the engine says {}, packets: {}", finding.engine, words(finding)));
            let _ = write!(out, ">\n      <failure message=\"{message}\"/>\n    </testcase>\n");
        }
    }
    out.push_str("  </testsuite>\n</testsuites>\n");
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_finding(src: &str, dst: &str, packets: &str, engine: &str) -> Finding {
        let expected = engine == "allowed";
        Finding {
            src: src.to_owned(),
            dst: dst.to_owned(),
            src_address: "10.244.1.2".parse().unwrap(),
            dst_address: "10.244.1.3".parse().unwrap(),
            protocol: "TCP".to_owned(),
            port: 80,
            engine: engine.to_owned(),
            packets: packets.to_owned(),
            passed: Some(packets == "answered"),
            detail: String::new(),
            agrees: (packets == "answered") == expected,
        }
    }

    #[test]
    fn the_report_is_a_grid_and_names_every_disagreement() {
        let findings = [
            mk_finding("default/a", "default/b", "answered", "allowed"),
            mk_finding("default/b", "default/a", "dropped", "denied"),
            mk_finding("default/a", "shop/<c>", "answered", "denied"),
        ];
        let text = anstream::adapter::strip_str(&report(&findings, 0.25)).to_string();
        assert!(text.contains("  default/a    ·    ✓        !✓"), "{text}");
        assert!(text.contains("1 of 3 packets did not do what the engine says"), "{text}");
        assert!(
            text.contains("default/a → shop/<c> TCP 80: the engine says denied, packets: answered"),
            "{text}"
        );
        let xml = junit(&findings, 0.25);
        assert!(xml.contains("tests=\"3\" failures=\"1\""), "{xml}");
        assert!(xml.contains("name=\"shop/&lt;c&gt; TCP 80\""), "{xml}");
    }
}
