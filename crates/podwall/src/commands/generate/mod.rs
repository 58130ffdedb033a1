//! `podwall generate`.
//!
//! ```text
//!   flows ─┐
//!   objects┴─▶ policies ─▶ stdout or --out        report ─▶ stderr, or both as JSON
//! ```

pub(crate) mod args;
mod fewer;
mod files;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use podwall_analysis::generate::{Generated, Input, Options, generate};
use podwall_manifest::flows::{FlowFormat, FlowLog, read_flows};
use podwall_manifest::{Object, Typed, render_all};
use podwall_policy::evaluate::Verdict;
use podwall_policy::label::Labels;
use podwall_policy::object::Name;
use podwall_policy::policy::Direction;
use podwall_render::{json, manifest, text};

use self::args::{Deny, Dns, FlowsFormat, Generate, Output, Way};
use crate::output::{Failure, NO, UNKNOWN, YES, print, remark};
use crate::source::load;

pub(crate) fn run(command: &Generate) -> Result<ExitCode, Failure> {
    if command.from_matrix {
        return fewer::run(command);
    }
    let options = options(command);
    let stdin = |path: &&PathBuf| path.as_os_str() == "-";
    let asked = command.flows.iter().chain(&command.source.files).filter(stdin).count();
    if asked > 1 {
        return Err(Failure::new("stdin can be read once: as flows, or as manifests"));
    }
    let log = read(command)?;
    let objects = load(&command.source)?;
    let selectors = selectors(&objects.objects);
    let options = Options { namespace: objects.namespace.clone(), ..options };
    for name in &options.namespaces {
        if !objects.cluster.namespaces.contains_key(&**name) {
            return Err(Failure::new(format!("there is no namespace {name} among the objects")));
        }
    }
    let input = Input { cluster: &objects.cluster, selectors: &selectors, log: &log };
    let made = generate(&input, &options);
    answer(command, &made, &log, &objects.left_out)?;
    Ok(code(&made))
}

fn options(command: &Generate) -> Options {
    let directions: BTreeSet<Direction> = command
        .directions
        .iter()
        .map(|way| match way {
            Way::Ingress => Direction::Ingress,
            Way::Egress => Direction::Egress,
        })
        .collect();
    let deny = command.default_deny.as_ref().map(|list| {
        let direction = |deny: &Deny| match deny {
            Deny::Ingress => Some(Direction::Ingress),
            Deny::Egress => Some(Direction::Egress),
            Deny::None => None,
        };
        list.iter().filter_map(direction).collect()
    });
    Options {
        default_deny: deny.unwrap_or_else(|| directions.clone()),
        directions,
        dns: command.dns == Dns::Always,
        aggregate: [command.aggregate, command.aggregate_v6],
        namespaces: command.namespaces.clone(),
        replace: command.replace,
        ..Options::default()
    }
}

/// Reads all files of flows; what is wrong with them is shown in full.
fn read(command: &Generate) -> Result<FlowLog, Failure> {
    let format = command.format.map(|format| match format {
        FlowsFormat::Podwall => FlowFormat::Podwall,
        FlowsFormat::Hubble => FlowFormat::Hubble,
        FlowsFormat::Csv => FlowFormat::Csv,
    });
    let mut log = FlowLog::new(command.include_denied);
    for path in &command.flows {
        let name =
            if path.as_os_str() == "-" { "<stdin>".into() } else { path.display().to_string() };
        let unreadable =
            |error: std::io::Error| Failure::new(format!("cannot read the flows {name}: {error}"));
        let mut input: Box<dyn BufRead> = if path.as_os_str() == "-" {
            Box::new(std::io::stdin().lock())
        } else {
            Box::new(BufReader::new(File::open(path).map_err(unreadable)?))
        };
        read_flows(&mut log, &name, &mut input, format).map_err(unreadable)?;
    }
    if log.broken > 0 {
        remark(&render_all(&log.diagnostics, true));
        let hidden = log.broken - log.diagnostics.len() as u64;
        if hidden > 0 {
            remark(&format!("and {hidden} more lines\n"));
        }
        if !command.source.keep_going {
            return Err(Failure::new("the flows have errors, so no policy is made of them")
                .hint("mend them, or add --keep-going to take what could be read")
                .hint("docs/generate.md has the formats; --format says which it is"));
        }
    }
    if log.flows.is_empty() {
        let denied = log.left.get(&podwall_manifest::flows::Left::Denied).copied().unwrap_or(0);
        let files: Vec<String> =
            command.flows.iter().map(|path| path.display().to_string()).collect();
        let failure =
            Failure::new(format!("there are no flows to make policies of in {}", files.join(", ")));
        return Err(match denied {
            0 => failure.hint("a flow is a line; docs/generate.md has the formats"),
            _ => failure.hint(format!(
                "all {denied} records are of denied packets; --include-denied takes them for wanted"
            )),
        });
    }
    Ok(log)
}

/// What workloads say of their own pods' labels.
fn selectors(objects: &[Object]) -> BTreeMap<(Arc<str>, Name), Labels> {
    let mut out = BTreeMap::new();
    for object in objects {
        let Typed::Workload(workload) = &object.typed else { continue };
        let Some(selector) = object.raw.pointer("/spec/selector") else { continue };
        let labels = match &*workload.kind {
            "ReplicationController" => Some(selector),
            "Job" | "CronJob" => None,
            _ => selector.get("matchLabels"),
        };
        let Some(labels) = labels.and_then(|labels| labels.as_object()) else { continue };
        let labels: Labels = labels
            .iter()
            .filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
            .collect();
        out.insert((workload.kind.clone(), workload.name.clone()), labels);
    }
    out
}

fn answer(
    command: &Generate,
    made: &Generated,
    log: &FlowLog,
    left_out: &[String],
) -> Result<(), Failure> {
    if let Some(folder) = &command.out {
        files::write(folder, &made.policies, &|_| None, command.force)?;
    }
    if command.output == Output::Json {
        return print(&json::pretty(&json::generate::generate(made, log.broken, left_out))?);
    }
    if command.out.is_none() {
        print(&manifest::yaml(&made.policies, &|_| None))?;
    }
    remark(&text::generate::report(made, log.broken));
    Ok(())
}

/// What does not pass before what is unknown before what was not placed.
fn code(made: &Generated) -> ExitCode {
    ExitCode::from(match text::generate::verdict(&made.report) {
        Verdict::Unknown => UNKNOWN,
        Verdict::Allowed if made.report.unplaced.is_empty() => YES,
        Verdict::Denied | Verdict::Allowed => NO,
    })
}
