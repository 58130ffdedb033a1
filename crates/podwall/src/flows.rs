//! How does a denied packet read?
//!
//! ```text
//!   06:07:12.301  denied  default/web → default/db  TCP 3306  default/db is isolated for ingress by …
//! ```

use std::io::Write as _;

use anstyle::{AnsiColor, Style};
use anyhow::Result;
use clap::{Args, ValueEnum};
use podwall_local::Flow;

/// Which denied packets to print, and how.
#[derive(Debug, Args)]
pub(crate) struct Flows {
    /// Only packets from or to this pod
    #[arg(value_name = "POD")]
    pub(crate) pod: Option<String>,
    /// Namespace of a pod without one
    #[arg(short = 'n', long, default_value = "default", value_name = "NS")]
    pub(crate) namespace: String,
    /// End after so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// How to print
    #[arg(short = 'o', long, value_enum, default_value_t = FlowsOutput::Text)]
    pub(crate) output: FlowsOutput,
}

/// How to print denied packets.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum FlowsOutput {
    /// A line for people
    Text,
    /// A JSON object a line
    Json,
}

/// Prints denied packets as they come, until enough are there.
pub(crate) struct Printer<'a> {
    args: &'a Flows,
    left: Option<u64>,
}

impl<'a> Printer<'a> {
    /// Says that it begins.
    pub(crate) fn begin(args: &'a Flows) -> Self {
        eprintln!("following denied packets; Ctrl-C ends");
        Self { args, left: args.count }
    }

    /// Prints one, if it is wanted; whether more are.
    pub(crate) fn print(&mut self, flow: &Flow) -> Result<bool> {
        if !wanted(flow, self.args) {
            return Ok(true);
        }
        let mut out = anstream::stdout();
        match self.args.output {
            FlowsOutput::Json => writeln!(out, "{}", serde_json::to_string(flow)?)?,
            FlowsOutput::Text => writeln!(out, "{}", text(flow))?,
        }
        out.flush()?;
        self.left = self.left.map(|left| left.saturating_sub(1));
        Ok(self.left != Some(0))
    }
}

fn wanted(flow: &Flow, args: &Flows) -> bool {
    let Some(pod) = &args.pod else { return true };
    let name = if pod.contains('/') { pod.clone() } else { format!("{}/{pod}", args.namespace) };
    [&flow.src, &flow.dst].into_iter().flatten().any(|party| *party == name)
}

fn text(flow: &Flow) -> String {
    let red = Style::new().fg_color(Some(AnsiColor::Red.into()));
    let party = |name: &Option<String>, address| match name {
        Some(name) => name.clone(),
        None => format!("{address}"),
    };
    let port = if flow.port == 0 { String::new() } else { format!(" {}", flow.port) };
    format!(
        "{}  {red}{}{red:#}  {} → {}  {}{port}  {}",
        time(flow.time),
        flow.verdict,
        party(&flow.src, flow.src_address),
        party(&flow.dst, flow.dst_address),
        flow.protocol,
        flow.reason
    )
}

/// The time of day, UTC.
fn time(micros: u64) -> String {
    let (seconds, millis) = (micros / 1_000_000, micros / 1000 % 1000);
    let day = seconds % 86_400;
    format!("{:02}:{:02}:{:02}.{millis:03}", day / 3600, day / 60 % 60, day % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_one_line_with_everything_that_matters() {
        let flow = Flow {
            time: 1_000_000 * (23 * 3600 + 59 * 60 + 7) + 45_600,
            node: "node-1".to_owned(),
            verdict: "denied".to_owned(),
            direction: "ingress".to_owned(),
            src: None,
            dst: Some("default/db".to_owned()),
            src_address: "203.0.113.7".parse().unwrap(),
            dst_address: "10.244.1.2".parse().unwrap(),
            protocol: "TCP".to_owned(),
            src_port: 40_000,
            port: 3306,
            isolated_by: vec!["default/db-policy".to_owned()],
            reason: "because".to_owned(),
        };
        let line = anstream::adapter::strip_str(&text(&flow)).to_string();
        assert_eq!(line, "23:59:07.045  denied  203.0.113.7 → default/db  TCP 3306  because");
    }
}
