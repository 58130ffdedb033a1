//! What does the agent of this node say?
//!
//! ```text
//!   podwall status [POD] ─┐
//!   podwall flows ────────┴─▶ the agent's socket (root only) ─▶ words or JSON
//! ```

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use anyhow::Context as _;
use clap::Args;
use podwall_local::{Client, ClientError, PodState, Request, SOCKET, Side, Status, Verified};
use serde::Serialize;

use crate::cli::Format;
use crate::flows::{Flows, Printer};
use crate::output::{Failure, NO, YES, print};

/// An answer that lists a large node's tables may take some seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the agent is asked.
#[derive(Args, Debug)]
pub(crate) struct Agent {
    /// The socket of the agent
    #[arg(long, value_name = "FILE", default_value = SOCKET)]
    socket: PathBuf,
}

/// How this node's agent is, and what is in force for a pod of it.
#[derive(Args, Debug)]
#[command(long_about = "\
How this node's agent is, and what is in force for a pod of it.

Asks the agent on this node over its socket, which is for root. With a pod: its addresses, the \
policies that isolate it, and the entries that the kernel holds for it. With --verify: whether the \
kernel agrees with the model; what differs is said, and put right.

Exit codes: 0 everything is in force; 1 it is not, or the kernel differed; 2 could not be answered.")]
pub(crate) struct StatusArgs {
    /// A pod of this node
    #[arg(value_name = "POD", conflicts_with_all = ["verify", "full"])]
    pod: Option<String>,
    /// Namespace of a pod without one
    #[arg(short = 'n', long, default_value = "default", value_name = "NS")]
    namespace: String,
    /// Hold the kernel against the model, and put right what differs
    #[arg(long)]
    verify: bool,
    /// With --verify: every entry of every table
    #[arg(long, requires = "verify")]
    full: bool,
    /// How to print
    #[arg(short = 'o', long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    agent: Agent,
}

/// Denied packets of this node as they come, with pods, policies and reasons.
#[derive(Args, Debug)]
#[command(long_about = "\
Denied packets of this node as they come, with pods, policies and reasons.

Asks the agent on this node over its socket, which is for root. The kernel reports so many a second \
and counts the rest, which /metrics has.")]
pub(crate) struct FlowsArgs {
    #[command(flatten)]
    which: Flows,
    #[command(flatten)]
    agent: Agent,
}

impl Agent {
    fn connect(&self) -> Result<Client, Failure> {
        Client::connect(&self.socket, PATIENCE).map_err(failure)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "given to map_err")]
fn failure(error: ClientError) -> Failure {
    let words = Failure::new(error.to_string());
    match error {
        ClientError::NoAgent { .. } => words
            .hint("is `podwall agent` running on this node? in its pod the socket is the same")
            .hint("--socket names another"),
        ClientError::Permission { .. } => words.hint("ask as root"),
        _ => words,
    }
}

/// `podwall flows`.
pub(crate) fn flows(args: &FlowsArgs) -> Result<ExitCode, Failure> {
    let flows = args.agent.connect()?.flows().map_err(failure)?;
    let mut printer = Printer::begin(&args.which);
    for flow in flows {
        if !printer.print(&flow.map_err(failure)?)? {
            return Ok(ExitCode::SUCCESS);
        }
    }
    Err(Failure::new("the agent has ended"))
}

/// `podwall status`.
pub(crate) fn status(args: &StatusArgs) -> Result<ExitCode, Failure> {
    let mut client = args.agent.connect()?;
    if args.verify {
        let found: Verified = client.ask(&Request::Verify { full: args.full }).map_err(failure)?;
        show(args, &found, verified)?;
        return Ok(code(found.drift.is_empty()));
    }
    if let Some(pod) = &args.pod {
        let (namespace, name) = pod.split_once('/').unwrap_or((&args.namespace, pod));
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        let found: PodState = client.ask(&Request::Pod { namespace, name }).map_err(failure)?;
        show(args, &found, pod_state)?;
        return Ok(code(found.enforced));
    }
    let found: Status = client.ask(&Request::Status).map_err(failure)?;
    show(args, &found, agent)?;
    Ok(code(found.enforced))
}

fn code(yes: bool) -> ExitCode {
    ExitCode::from(if yes { YES } else { NO })
}

fn show<T: Serialize>(args: &StatusArgs, what: &T, text: fn(&T) -> String) -> Result<(), Failure> {
    match args.output {
        Format::Text => print(&text(what)),
        Format::Json => {
            let json = serde_json::to_string_pretty(what).context("cannot write JSON")?;
            print(&format!("{json}\n"))
        }
    }
}

const BOLD: Style = Style::new().bold();
const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default();

fn word(good: bool, yes: &str, no: &str) -> String {
    if good { format!("{GOOD}{yes}{GOOD:#}") } else { format!("{BAD}{no}{BAD:#}") }
}

fn line(out: &mut String, name: &str, value: impl std::fmt::Display) {
    let _ = writeln!(out, "  {name:<17}{value}");
}

fn agent(now: &Status) -> String {
    let mut out =
        format!("{BOLD}agent of the node {}{BOLD:#}, version {}\n", now.node, now.version);
    let out_ = &mut out;
    let enforced = match (now.synced, now.enforced) {
        (true, true) => word(true, "yes", ""),
        (true, false) => word(false, "", "no: the kernel has not taken the last change"),
        (false, _) => {
            word(false, "", "not yet: the API server has not listed everything to the end")
        }
    };
    line(out_, "in force", enforced);
    let instead = now.instead.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
    line(out_, "data plane", format!("{}{instead}", now.dataplane));
    line(
        out_,
        "pods here",
        format!("{}, of which policies isolate {}", now.local_pods, now.isolated_pods),
    );
    let known: Vec<String> =
        now.objects.iter().map(|it| format!("{} {}", it.count, it.kind)).collect();
    line(out_, "known", known.join(", "));
    let heard = now.heard.iter().map(|(kind, ago)| match ago {
        Some(ago) => format!("{kind} {ago} s ago"),
        None => format!("{kind} never"),
    });
    line(out_, "last heard", heard.collect::<Vec<_>>().join(", "));
    let tables = now.tables.iter().map(|it| format!("{} {}/{}", it.table, it.entries, it.limit));
    line(out_, "tables", tables.collect::<Vec<_>>().join(", "));
    line(
        out_,
        "changes",
        format!(
            "{} taken, {} refused; the kernel differed and was put right {} times",
            now.changes, now.failures, now.drifts
        ),
    );
    line(
        out_,
        "from the plugin",
        format!("{} pods, {} of their links guarded", now.attachments, now.guarded),
    );
    if !now.pod_ranges.is_empty() {
        let ranges = now.pod_ranges.join(", ");
        line(out_, "pod ranges", format!("{ranges}: isolated in them who is not known"));
    }
    if !now.released.is_empty() {
        let list: Vec<String> = now.released.iter().map(ToString::to_string).collect();
        line(out_, "let go", format!("{}: no pod has claimed them in time", list.join(", ")));
    }
    for it in &now.unusable {
        let words = format!("{BAD}{} {}{BAD:#}: {}", it.kind, it.name, it.reason);
        line(out_, "unusable", words);
    }
    out
}

fn pod_state(pod: &PodState) -> String {
    let mut out = format!("{BOLD}{}/{}{BOLD:#}\n", pod.namespace, pod.name);
    let addresses: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
    let from = match pod.known_from.as_str() {
        "cni" => "from the CNI plugin",
        _ => "from its status",
    };
    let addresses = match addresses.is_empty() {
        true => "none yet".to_owned(),
        false => format!("{} ({from})", addresses.join(", ")),
    };
    line(&mut out, "addresses", addresses);
    line(&mut out, "in force", word(pod.enforced, "yes", "not yet"));
    let link = pod.guarded_link.as_ref();
    let guarded = link.map(|link| format!("at {link} forged source addresses are dropped"));
    line(&mut out, "guarded", guarded.unwrap_or_else(|| "no".to_owned()));
    for (name, side) in [("ingress", &pod.ingress), ("egress", &pod.egress)] {
        line(&mut out, name, isolated(side));
        for entry in &side.entries {
            let _ = writeln!(out, "    {entry}");
        }
    }
    out
}

fn isolated(side: &Side) -> String {
    match (side.isolated, side.isolated_by.is_empty()) {
        (false, _) => "open: no policy isolates it".to_owned(),
        (true, false) => format!("isolated by {}", side.isolated_by.join(", ")),
        (true, true) => "isolated with no rule".to_owned(),
    }
}

fn verified(found: &Verified) -> String {
    let millis = Duration::from_micros(found.took);
    if found.drift.is_empty() {
        return format!("the kernel agrees with the model ({millis:.1?})\n");
    }
    let mut out = format!("the kernel differed, and is put right ({millis:.1?}):\n");
    for drift in &found.drift {
        let _ = writeln!(out, "  {drift}");
    }
    out
}
