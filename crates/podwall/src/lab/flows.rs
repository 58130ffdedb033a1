//! How does a denied packet read?
//!
//! ```text
//!   06:07:12.301  denied  default/web → default/db  TCP 3306  default/db is isolated for ingress by …
//! ```

use std::io::Write as _;
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use anyhow::Result;
use podwall_lab::client::Client;
use podwall_lab::rpc::Request;
use podwall_local::Flow;

use super::args::{Flows, FlowsOutput};

/// Prints denied packets as they come, until enough are there or somebody ends it.
pub(crate) fn flows(client: &mut Client, args: &Flows) -> Result<ExitCode> {
    let mut left = args.count;
    let mut print = |flow: &Flow| -> Result<bool> {
        if !wanted(flow, args) {
            return Ok(true);
        }
        let mut out = anstream::stdout();
        match args.output {
            FlowsOutput::Json => writeln!(out, "{}", serde_json::to_string(flow)?)?,
            FlowsOutput::Text => writeln!(out, "{}", text(flow))?,
        }
        out.flush()?;
        left = left.map(|left| left.saturating_sub(1));
        Ok(left != Some(0))
    };
    let (mut begun, mut ended) = (false, Ok(()));
    client.follow(&Request::Flows, |flow: Option<Flow>| {
        if !std::mem::replace(&mut begun, true) {
            eprintln!("following denied packets; Ctrl-C ends");
        }
        match flow.map_or(Ok(true), |flow| print(&flow)) {
            Ok(more) => more,
            Err(error) => {
                ended = Err(error);
                false
            }
        }
    })?;
    ended?;
    Ok(ExitCode::SUCCESS)
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
