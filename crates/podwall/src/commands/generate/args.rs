//! What `podwall generate` takes.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::cli::{Source, with_codes};

const EXAMPLES: &str = "\
Examples:
  $ podwall generate flows.csv -f shop/ > policies.yaml     from files
  $ hubble observe -o json --last 100000 > flows.jsonl
  $ podwall generate flows.jsonl --out policies/            on the cluster of kubectl
  $ podwall flows -o json | podwall generate - --include-denied
  $ podwall generate --from-matrix -f policies/ --out fewer/";

/// Policies that allow what was seen, or fewer that say the same.
#[derive(Args, Debug)]
#[command(
    long_about = "\
Policies that allow what was seen, or fewer that say the same.

From flows: JSON lines of `podwall flows`, of Hubble's exporter or of `hubble observe -o json`, or CSV \
with the columns src,dst,protocol,port (count, time and verdict, too). For each workload that was seen \
there is a policy, its peers are known by labels that last, Services by their pods, and each namespace \
with flows denies the rest. The engine says whether every flow passes with the result. What is allowed \
beyond what was seen, what could not be placed and who was never seen is reported to stderr.

With --from-matrix the policies among the objects are written anew: as few policies, rules, peers and \
ports as say the same, for all pods there may ever be. That is proved.",
    after_long_help = with_codes(EXAMPLES)
)]
pub(crate) struct Generate {
    /// Files of flows; - is stdin.
    #[arg(value_name = "FLOWS", required_unless_present = "from_matrix")]
    pub(crate) flows: Vec<PathBuf>,
    /// Write the policies among the objects anew, as few as say the same.
    #[arg(long, conflicts_with = "flows")]
    pub(crate) from_matrix: bool,
    /// How flows are written; else the first line tells.
    #[arg(long, value_name = "FORMAT", help_heading = "Flows")]
    pub(crate) format: Option<FlowsFormat>,
    /// Take denied packets for wanted, too.
    #[arg(long, help_heading = "Flows")]
    pub(crate) include_denied: bool,
    /// The directions that policies restrict.
    #[arg(
        long,
        value_name = "DIRECTIONS",
        value_delimiter = ',',
        default_value = "ingress,egress",
        help_heading = "Flows"
    )]
    pub(crate) directions: Vec<Way>,
    /// The directions in which a namespace denies what no policy allows: ingress,egress or none. The
    /// default is that of --directions.
    #[arg(long, value_name = "DIRECTIONS", value_delimiter = ',', help_heading = "Flows")]
    pub(crate) default_deny: Option<Vec<Deny>>,
    /// Whether workloads that open connections may look up names: always, or only if that was seen.
    #[arg(long, value_name = "WHEN", default_value = "always", help_heading = "Flows")]
    pub(crate) dns: Dns,
    /// Widen IPv4 addresses outside, where several were seen, to prefixes of this length.
    #[arg(
        long,
        value_name = "LENGTH",
        value_parser = clap::value_parser!(u8).range(8..=32),
        help_heading = "Flows"
    )]
    pub(crate) aggregate: Option<u8>,
    /// The same for IPv6.
    #[arg(
        long,
        value_name = "LENGTH",
        value_parser = clap::value_parser!(u8).range(16..=128),
        help_heading = "Flows"
    )]
    pub(crate) aggregate_v6: Option<u8>,
    /// Only for this namespace; may be given several times. Without it all with flows but kube-system.
    #[arg(long = "in", value_name = "NAMESPACE")]
    pub(crate) namespaces: Vec<String>,
    /// Take the policies that these namespaces have for gone.
    #[arg(long, help_heading = "Flows")]
    pub(crate) replace: bool,
    /// Write a file for each policy, DIR/NAMESPACE/NAME.yaml.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// With --out: write over files that are there.
    #[arg(long, requires = "out")]
    pub(crate) force: bool,
    /// How to answer.
    #[arg(short = 'o', long, value_name = "FORMAT", default_value = "yaml")]
    pub(crate) output: Output,
    #[command(flatten)]
    pub(crate) source: Source,
}

/// How flows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FlowsFormat {
    /// `podwall flows -o json`
    Podwall,
    /// Hubble's exporter
    Hubble,
    /// A header and lines
    Csv,
}

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Way {
    /// Into pods
    Ingress,
    /// Out of pods
    Egress,
}

/// A direction, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Deny {
    /// Into pods
    Ingress,
    /// Out of pods
    Egress,
    /// Neither
    None,
}

/// When DNS is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dns {
    /// For each workload that was seen to open connections
    Always,
    /// Where it was seen
    Seen,
}

/// Formats of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// The policies as YAML with remarks; the report goes to stderr.
    Yaml,
    /// Policies and report; `podwall schema generate` describes them.
    Json,
}
