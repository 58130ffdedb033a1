//! `podwall explain policy NAME`, `podwall explain pod NAME`.

use std::process::ExitCode;

use podwall_analysis::explain;
use podwall_analysis::exposure::paths_into;
use podwall_analysis::peer::{self, Peer};
use podwall_render::{json, text};

use crate::cli::{Explain, ExplainOne, ExplainWhat, Format};
use crate::output::{Failure, print};
use crate::source::{load, load_with_entrances};

pub(crate) fn run(command: &Explain) -> Result<ExitCode, Failure> {
    match &command.what {
        ExplainWhat::Policy(one) => policy(one),
        ExplainWhat::Pod(one) => pod(one),
    }
}

fn policy(one: &ExplainOne) -> Result<ExitCode, Failure> {
    let objects = load(&one.source)?;
    let policy = peer::policy(&objects.cluster, &one.name, &objects.namespace)?;
    let answer = explain::policy(&objects.cluster, policy);
    print(&match one.output {
        Format::Text => text::explain::policy(&answer),
        Format::Json => json::pretty(&json::explain::policy(&answer, &objects.left_out))?,
    })?;
    Ok(ExitCode::SUCCESS)
}

fn pod(one: &ExplainOne) -> Result<ExitCode, Failure> {
    let objects = load_with_entrances(&one.source)?;
    let cluster = &objects.cluster;
    let pod = match peer::resolve(cluster, &one.name, &objects.namespace)? {
        Peer::Pod(pod) => pod,
        // Policies cannot tell the pods of a workload apart; the first speaks for them.
        Peer::Workload(workload) if !workload.pods.is_empty() => workload.pods[0],
        other => {
            return Err(Failure::new(format!("{other} is not a pod"))
                .hint("write NAMESPACE/POD, or NAMESPACE/KIND/NAME for the pods of a workload"));
        }
    };
    let answer = explain::pod(cluster, pod);
    let paths = paths_into(cluster, &[pod]);
    print(&match one.output {
        Format::Text => text::explain::pod(&answer, &paths),
        Format::Json => {
            json::pretty(&json::explain::pod(cluster, &answer, &paths, &objects.left_out))?
        }
    })?;
    Ok(ExitCode::SUCCESS)
}
