//! What `podwall diff` takes.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::cli::{By, Source, with_codes};

const EXAMPLES: &str = "\
Examples:
  $ podwall diff old/ new/
  New exposure to addresses outside
    + 0.0.0.0/0 except 10.0.0.0/8 -> shop/StatefulSet/db: TCP 5432
        allowed by ingress rule 2 of shop/db (new/policies.yaml:35:5)
  …

  $ podwall diff main..                      this branch's files against main's
  $ podwall diff main...HEAD -f deploy/ -o md    as a pull request shows it
  $ podwall diff HEAD~1..HEAD -f policies/ --with workloads/
  $ podwall diff policies/ --cluster         what would applying them change?
  $ podwall diff policies/ --cluster --prune and if the others went?
  $ podwall diff old/ new/ --cluster         two sets, asked of the cluster's pods";

/// What does a change of policies open and close?
#[derive(Args, Debug)]
#[command(
    long_about = "\
What does a change of policies open and close?

Connections are compared, not texts: what appears, changes and disappears, new exposure first, with \
the rules that did it. Other names, another order, other files, rules or CIDRs split or merged are \
no change. Where nothing differs the answer says what that covers: all pods there are, every address \
outside, every protocol and port, both address families; and whether it holds for pods that may \
come, too.

SETS is one of
  A B            files or directories; - is stdin
  REV1..REV2     two revisions of the git repository here; REV.. compares
                 with the files as they are now, REV1...REV2 with what REV2
                 branched off from. -f names files and directories, else all
                 below this one are read. Nothing is checked out
  B              with --cluster or --lab: what is there, and what would be
                 if B were applied

Where a set has policies only, it is asked of the pods and namespaces of --with, of the cluster or lab \
that is named beside two sets, or else of the other set.",
    after_long_help = with_codes(EXAMPLES)
)]
pub(crate) struct Diff {
    /// A B, or REV1..REV2, or B.
    #[arg(value_name = "SETS", required = true, num_args = 1..=2)]
    pub(crate) sets: Vec<String>,
    /// With revisions: only this file or directory. May be given several times.
    #[arg(short = 'f', long = "filename", value_name = "PATH")]
    pub(crate) files: Vec<PathBuf>,
    /// Pods, workloads, namespaces and nodes from here, where a set does not have them.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["cluster", "kubeconfig", "context", "lab"])]
    pub(crate) with: Vec<PathBuf>,
    /// The cluster that kubectl talks to.
    #[arg(long, conflicts_with = "lab")]
    pub(crate) cluster: bool,
    /// A running lab.
    #[arg(long, value_name = "NAME")]
    pub(crate) lab: Option<String>,
    /// The cluster of this kubeconfig; no --cluster is needed.
    #[arg(long, value_name = "FILE", conflicts_with = "lab")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The cluster of this context of the kubeconfig; no --cluster is needed.
    #[arg(long, value_name = "NAME", conflicts_with = "lab")]
    pub(crate) context: Option<String>,
    /// With one set: policies that it does not have go, in the namespaces that it has policies for.
    #[arg(long)]
    pub(crate) prune: bool,
    /// Workloads, or each pod.
    #[arg(long, value_name = "WHAT", default_value = "workload")]
    pub(crate) by: By,
    /// Pods that may come count, too: 1 if one would be treated otherwise, 3 if that is not known.
    #[arg(long)]
    pub(crate) strict: bool,
    /// How to answer.
    #[arg(short = 'o', long, value_name = "FORMAT", default_value = "text")]
    pub(crate) output: DiffFormat,
    /// Go on without what cannot be read, and say what was left out.
    #[arg(long)]
    pub(crate) keep_going: bool,
}

impl Diff {
    /// Whether objects of a cluster or lab are asked for.
    pub(crate) fn is_live(&self) -> bool {
        let named = self.kubeconfig.is_some() || self.context.is_some();
        self.cluster || named || self.lab.is_some()
    }

    /// These files, as other commands take them.
    pub(crate) fn source(&self, files: Vec<PathBuf>) -> Source {
        Source { files, keep_going: self.keep_going, ..Source::default() }
    }

    /// The cluster or lab, as other commands take it.
    pub(crate) fn live(&self) -> Source {
        Source {
            lab: self.lab.clone(),
            kubeconfig: self.kubeconfig.clone(),
            context: self.context.clone(),
            ..self.source(Vec::new())
        }
    }
}

/// Formats of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DiffFormat {
    /// For people.
    Text,
    /// For programs; `podwall schema diff` describes it.
    Json,
    /// A comment on a pull request.
    Md,
    /// SARIF 2.1.0, for code scanning.
    Sarif,
}
