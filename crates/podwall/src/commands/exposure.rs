//! `podwall exposure`.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use podwall_analysis::exposure::{self, Breadth, Outcome, Path, Way};
use podwall_analysis::peer::{self, Peer};
use podwall_policy::address::AddressSet;
use podwall_policy::policy;
use podwall_render::{json, text};

use crate::cli::{Source, with_codes};
use crate::output::{Failure, NO, UNKNOWN, YES, print};
use crate::source::load_with_entrances;

const EXAMPLES: &str = "\
Examples:
  $ podwall exposure -f three-tier/
  $ podwall exposure --direction ingress --only internet -f shop/
  $ podwall exposure --direction ingress --fail-on internet,cluster -f shop/
  $ podwall exposure -n shop -o json | jq '.workloads[].ways[] | select(.all)'";

/// What could any pod, another node or the internet reach, beyond the pods that exist?
#[derive(Args, Debug)]
#[command(
    long_about = "\
What could any pod, another node or the internet reach, beyond the pods that exist?

For each workload: who could come in and where it could go, if anybody made pods with the labels and \
namespaces that it takes. Exposure is what the workload's own policies leave open; what the other \
end's policies hold back is no protection, since a namespace without policies can be made. What a \
pod needs only a label for is said: whoever may make pods chooses their labels.

Services (NodePort, LoadBalancer, externalIPs), Ingresses and Gateways with their routes are paths from \
outside to the pods: each is followed to the pods' ports, with the address that policies see, and \
whether it works.

The most dangerous workloads stand first. Exposure is an answer in itself: the exit code is 0 \
whatever it shows. With --fail-on it is 1 if one of those ways is among what is printed, and 3 if \
one may be, for want of a fact.",
    after_long_help = with_codes(EXAMPLES)
)]
pub(crate) struct Exposure {
    /// Only who could come in, or only where workloads could go.
    #[arg(long, value_name = "DIRECTION")]
    direction: Option<Direction>,
    /// Only these ways. Several by commas.
    #[arg(long, value_name = "WHO", value_delimiter = ',')]
    only: Vec<Reach>,
    /// Exit with 1 if one of these ways is open. Several by commas.
    #[arg(long, value_name = "WHO", value_delimiter = ',')]
    fail_on: Vec<Reach>,
    /// The pods that serve Ingresses and Gateways: NAMESPACE/POD or NAMESPACE/KIND/NAME. Without it
    /// they are found by the labels of well-known controllers.
    #[arg(long, value_name = "PEER")]
    ingress_controller: Option<String>,
    /// How to answer.
    #[arg(short = 'o', long, value_name = "FORMAT", default_value = "text")]
    output: Format,
    // -n limits the answer to a namespace.
    #[command(flatten)]
    pub(crate) source: Source,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Direction {
    /// Who could come in.
    Ingress,
    /// Where they could go.
    Egress,
}

/// How many could be at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Reach {
    /// Addresses of the internet.
    Internet,
    /// Any pod of any namespace.
    Cluster,
    /// Pods of any namespace that have certain labels.
    Labels,
    /// Namespaces that have certain labels.
    Namespaces,
    /// Addresses outside, none of the internet.
    Outside,
    /// Another node.
    Node,
    /// Any pod of one namespace.
    Namespace,
    /// Pods of one namespace that have certain labels.
    Pods,
    /// A path through a Service, an Ingress or a Gateway that works.
    Paths,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// For programs; `podwall schema exposure` describes it.
    Json,
    /// A line for each way and range of ports.
    Csv,
    /// A table in Markdown.
    Md,
}

pub(crate) fn run(command: &Exposure) -> Result<ExitCode, Failure> {
    let objects = load_with_entrances(&command.source)?;
    let directions = match command.direction {
        Some(Direction::Ingress) => vec![policy::Direction::Ingress],
        Some(Direction::Egress) => vec![policy::Direction::Egress],
        None => vec![policy::Direction::Ingress, policy::Direction::Egress],
    };
    let controller = match &command.ingress_controller {
        Some(text) => peer::resolve(&objects.cluster, text, &objects.namespace)?,
        None => Peer::Outside { text: String::new(), addresses: AddressSet::empty() },
    };
    let controller = controller.pods(&objects.cluster);
    if let (Some(text), true) = (&command.ingress_controller, controller.is_empty()) {
        return Err(Failure::new(format!("--ingress-controller {text} has no pods"))
            .hint("it is a pod or a workload: NAMESPACE/POD or NAMESPACE/KIND/NAME"));
    }
    let mut answer = exposure::exposure(&objects.cluster, &controller);
    for workload in &mut answer.workloads {
        workload.ways.retain(|way| directions.contains(&way.direction));
    }
    if !directions.contains(&policy::Direction::Ingress) {
        answer.workloads.iter_mut().for_each(|workload| workload.paths.clear());
        answer.loose.clear();
    }
    if let Some(namespace) = &command.source.namespace {
        answer
            .workloads
            .retain(|its| its.pods.first().is_some_and(|pod| *pod.name.namespace == **namespace));
        answer.loose.retain(|path| *path.service.namespace == **namespace);
        if answer.workloads.is_empty() {
            return Err(Failure::new(format!("no running pods in namespace {namespace}"))
                .hint("-n names the namespace whose workloads are shown; without it all are"));
        }
    }
    let summary = text::exposure::summary(&answer, &directions);
    if !command.only.is_empty() {
        for workload in &mut answer.workloads {
            workload.ways.retain(|way| is_one_of(&command.only, way));
            if !command.only.contains(&Reach::Paths) {
                workload.paths.clear();
            }
        }
        answer.workloads.retain(|its| !its.ways.is_empty() || !its.paths.is_empty());
        if !command.only.contains(&Reach::Paths) {
            answer.loose.clear();
        }
    }
    print(&match command.output {
        Format::Text => text::exposure::exposure(&answer, &summary, &directions),
        Format::Json => json::pretty(&json::exposure::exposure(&answer, &objects.left_out))?,
        Format::Csv => text::exposure::csv(&answer),
        Format::Md => text::exposure::markdown(&answer),
    })?;
    let feared = answer.workloads.iter().flat_map(|workload| &workload.ways);
    let feared: Vec<&Way> = feared.filter(|way| is_one_of(&command.fail_on, way)).collect();
    let paths = answer.workloads.iter().flat_map(|workload| &workload.paths);
    let paths: Vec<&Path> = paths.filter(|_| command.fail_on.contains(&Reach::Paths)).collect();
    let unknown = |path: &&Path| matches!(path.outcome, Outcome::Unknown(_));
    Ok(ExitCode::from(match () {
        () if feared.iter().any(|way| way.passes()) => NO,
        () if paths.iter().any(|path| text::paths::works(path)) => NO,
        () if !feared.is_empty() || paths.iter().any(unknown) => UNKNOWN,
        () => YES,
    }))
}

fn is_one_of(list: &[Reach], way: &Way) -> bool {
    let reach = match way.breadth() {
        Breadth::Internet => Reach::Internet,
        Breadth::Cluster => Reach::Cluster,
        Breadth::Labels => Reach::Labels,
        Breadth::Namespaces => Reach::Namespaces,
        Breadth::Outside => Reach::Outside,
        Breadth::Node => Reach::Node,
        Breadth::Namespace => Reach::Namespace,
        Breadth::Pods => Reach::Pods,
    };
    list.contains(&reach)
}
