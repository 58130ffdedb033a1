//! What can be typed?
//!
//! The texts here are the program's manual: `--help`, the man pages and the completions are made
//! from them. The examples are those of the tests (`tests/data/three-tier`), so they stay true.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use podwall_policy::port::Protocol;

use crate::output::{Failure, print};

/// Exit codes, for the end of each long help.
const EXIT_CODES: &str = "\
Exit codes:
  0  yes: allowed, clean, done
  1  no: denied, or something was found
  2  could not be answered: bad input, no such object
  3  unknown: it depends on a fact that no object states";

const OVERVIEW: &str = "\
Podwall answers who can reach whom under Kubernetes NetworkPolicies, and why.

  podwall can SRC DST        can this pod reach that one, and which rule says so
  podwall explain policy P   what a policy selects and allows, in words
  podwall explain pod P      which policies apply to a pod, and what follows
  podwall matrix             every pair, and the outside
  podwall diff A B           what a change opens and closes
  podwall exposure           what anybody could reach, pods that do not exist included
  podwall lint               what is probably not meant, with proof and fix
  podwall test FILE          do the assertions of a file hold?
  podwall generate FLOWS     policies that allow what was seen, and no more
  podwall draw               a picture of it: a page, SVG, DOT, Mermaid
  podwall lab                a cluster on this machine, to try policies on packets
  podwall demo               what policies do to real packets, in a few seconds
  podwall agent              follow a cluster and enforce its policies on this node
  podwall status [POD]       how this node's agent is, what is in force for a pod
  podwall flows              packets that this node denies, as they come

Objects come from files: podwall can web db --port 3306 -f manifests/
or from a running lab:   podwall can web db --port 3306 --lab NAME
else from the cluster that kubectl talks to: podwall can web db --port 3306
Exit codes: 0 yes, 1 no, 2 could not be answered, 3 unknown.
More: podwall --help, podwall COMMAND --help
";

/// Who can reach whom under Kubernetes NetworkPolicies, and why.
#[derive(Debug, Parser)]
#[command(
    name = "podwall",
    version,
    max_term_width = 80,
    after_help = EXIT_CODES,
    long_about = "\
Who can reach whom under Kubernetes NetworkPolicies, and why.

Podwall reads manifests, a lab, or a cluster, and answers with the one engine that also programs \
the kernel: allowed, denied, or unknown with the name of the missing fact, and always with the \
policy, the rule and its place in the file.

A peer is written
  web                   pod web in the namespace that -n names, or default
  shop/web              pod web in namespace shop
  shop/Deployment/cart  the pods of a workload (deploy, sts, ds, … as kubectl has them)
  shop/svc/cart         a Service: its ports are translated to its pods
  10.0.0.7              the pod, node or Service with that address, else somebody outside
  10.0.0.0/24           addresses outside
  internet              any address outside"
)]
pub(crate) struct Cli {
    /// When to use colours; `auto` looks at the terminal, NO_COLOR and CLICOLOR_FORCE.
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        default_value = "auto",
        hide_default_value = true
    )]
    pub(crate) color: Color,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Color {
    /// On a terminal.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Can(Can),
    Explain(Explain),
    Matrix(Matrix),
    Diff(crate::commands::diff::args::Diff),
    Exposure(crate::commands::exposure::Exposure),
    Lint(Lint),
    Test(crate::commands::test::args::Test),
    Generate(crate::commands::generate::args::Generate),
    Draw(crate::commands::draw::args::Draw),
    Agent(crate::agent::AgentArgs),
    Status(crate::node::StatusArgs),
    Flows(crate::node::FlowsArgs),
    /// A cluster of network namespaces on this machine: real policies, real packets
    Lab(crate::lab::args::LabArgs),
    /// Show in a few seconds what policies do to real packets
    Demo,
    #[command(name = crate::demo::TRAFFIC_COMMAND, hide = true)]
    DemoTraffic {
        /// HOST:PORT
        target: String,
    },
    Schema(Schema),
    Completions(Completions),
    Man(Man),
}

/// Where the objects come from: files, else a lab, else the cluster of the kubeconfig.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Objects")]
pub(crate) struct Source {
    /// Manifests: a file, a directory, or - for stdin. May be given several times.
    #[arg(short = 'f', long = "filename", value_name = "PATH")]
    pub(crate) files: Vec<PathBuf>,
    /// A running lab.
    #[arg(long, value_name = "NAME", conflicts_with = "files")]
    pub(crate) lab: Option<String>,
    /// The kubeconfig of the cluster that is asked where neither files nor a lab are given; without
    /// it KUBECONFIG, ~/.kube/config, or a pod's own account.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["files", "lab"])]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["files", "lab"])]
    pub(crate) context: Option<String>,
    /// The namespace of names that are asked for without one: else the context's, else default.
    /// Manifests without one are in default.
    #[arg(short = 'n', long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// Answer again whenever one of the files changes, until it is interrupted.
    #[arg(long, requires = "files")]
    pub(crate) watch: bool,
    /// Go on without what cannot be read, and say what was left out.
    #[arg(long)]
    pub(crate) keep_going: bool,
}

/// Text or JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs; `podwall schema` describes it.
    Json,
}

/// Can one peer reach another, and which rules say so?
#[derive(Args, Debug)]
#[command(
    long_about = "\
Can one peer reach another, and which rules say so?

Both sides are asked: the source's egress policies and the destination's ingress policies, over \
each address family that both speak. Where a rule nearly matches, the answer says what it lacks.

Without --port the answer says on which ports anything passes. The port of a Service is the \
Service's own; the answer shows the port on each pod behind it. A workload or a Service is \
reached if each of its pods is; the internet is reached if any address of it is, and the answer \
says which are.",
    after_long_help = with_codes(CAN_EXAMPLES)
)]
pub(crate) struct Can {
    /// Who opens the connection: NAMESPACE/POD, NAMESPACE/KIND/NAME, an address, or internet.
    #[arg(value_name = "SRC")]
    pub(crate) src: String,
    /// Who is asked: the same, or NAMESPACE/svc/NAME.
    #[arg(value_name = "DST")]
    pub(crate) dst: String,
    /// The destination's port, by number or by name.
    #[arg(short = 'p', long, value_name = "NUMBER|NAME")]
    pub(crate) port: Option<String>,
    /// TCP, UDP, SCTP or ICMP. TCP where only a port is given.
    #[arg(long, value_name = "PROTOCOL", value_parser = protocol)]
    pub(crate) protocol: Option<Protocol>,
    /// Over IPv4 only.
    #[arg(short = '4', long = "ipv4", conflicts_with = "ipv6")]
    pub(crate) ipv4: bool,
    /// Over IPv6 only.
    #[arg(short = '6', long = "ipv6")]
    pub(crate) ipv6: bool,
    /// How to turn the answer round: the smallest change, as a patch, and what else it would do.
    #[arg(long)]
    pub(crate) fix: bool,
    /// How to answer.
    #[arg(short = 'o', long, value_name = "FORMAT", default_value = "text")]
    pub(crate) output: CanFormat,
    #[command(flatten)]
    pub(crate) source: Source,
}

/// Formats of `can`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CanFormat {
    /// For people.
    Text,
    /// For programs; `podwall schema can` describes it.
    Json,
    /// The best fix alone, as a unified diff for `git apply` or `patch -p1`.
    Patch,
}

/// The end of a long help: examples, then exit codes.
pub(crate) fn with_codes(examples: &str) -> String {
    format!("{examples}\n\n{EXIT_CODES}")
}

const CAN_EXAMPLES: &str = "\
Examples:
  $ podwall can web-pod app-pod --port 5000 -f three-tier/
  allowed: default/web-pod can reach default/app-pod on TCP 5000

  Out of default/web-pod (egress): allowed
    isolated by web-policy
    allowed by rule 1 of web-policy (three-tier/web-policy.yaml:21:7)
  …

  $ podwall can frontend demo/api --port 443 -f restrict-egress/
  denied: default/frontend cannot reach demo/api on TCP 443

  Out of default/frontend (egress): denied
    isolated by restrict-egress
    - namespace demo has no label env=prod; rule 1 of restrict-egress would
      allow it (restrict-egress/all.yaml:13:5)
  …

  $ podwall can internet web-pod --port 80 -o json -f three-tier/ | jq .outside
  { \"allowed\": [ \"0.0.0.0/0\" ], \"denied\": [ \"::/0\" ], \"unknown\": [] }";

const POLICY_EXAMPLES: &str = "\
Examples:
  $ podwall explain policy db-policy -f three-tier/
  policy default/db-policy (three-tier/db-policy.yaml:1:1)
    selects pods app=database in namespace default
    now 1 of 3 pods: default/db-pod

  ingress
    - rule 1 of db-policy allows from pods app=app-server in namespace default,
      on TCP 3306 (three-tier/db-policy.yaml:13:7)
      now: default/app-pod
  …

  $ podwall explain policy shop/orders-out -o json -f shop/";

const POD_EXAMPLES: &str = "\
Examples:
  $ podwall explain pod web-pod -f three-tier/
  pod default/web-pod (three-tier/pods.yaml:1:1)
    labels app=web

  ingress
    isolated by web-policy
    - rule 1 of web-policy allows from 0.0.0.0/0, on TCP 80 …
    can come in now, both sides taken together:
      TCP 80 from default/db-pod; 0.0.0.0/0
      nothing from default/app-pod
  …

  $ podwall explain pod shop/Deployment/cart -f shop/";

const MATRIX_EXAMPLES: &str = "\
Examples:
  $ podwall matrix -f three-tier/
  From the row to the column:
                        1     2   3    4    5
  1 default/app-pod        3306   .    .    .
  2 default/db-pod      .        80  all  all
  3 default/web-pod  5000     .        .    .
  4 0.0.0.0/0           .     .  80
  5 ::/0                .     .   .

  $ podwall matrix --by pod --port 443 -o csv -f shop/
  src,dst,verdict,protocol,from,to
  …

  $ podwall matrix -o json -f shop/ | jq '.connections[] | select(.all)'";

/// What does a policy say, or what do all policies say of a pod?
#[derive(Args, Debug)]
#[command(after_long_help = with_codes(POLICY_EXAMPLES))]
pub(crate) struct Explain {
    /// Of what.
    #[command(subcommand)]
    pub(crate) what: ExplainWhat,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ExplainWhat {
    /// What a policy selects, and what it allows, in words.
    #[command(after_long_help = with_codes(POLICY_EXAMPLES))]
    Policy(ExplainOne),
    /// Which policies select a pod, who can come in, and where it can go.
    #[command(after_long_help = with_codes(POD_EXAMPLES))]
    Pod(ExplainOne),
}

#[derive(Args, Debug)]
pub(crate) struct ExplainOne {
    /// NAMESPACE/NAME; NAME alone is in the namespace that -n names.
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// How to answer.
    #[arg(short = 'o', long, value_name = "FORMAT", default_value = "text")]
    pub(crate) output: Format,
    #[command(flatten)]
    pub(crate) source: Source,
}

/// Who can reach whom: every pair, and the outside.
#[derive(Args, Debug)]
#[command(
    long_about = "\
Who can reach whom: every pair, and the outside.

Addresses outside are cut where the policies' ipBlocks cut them, and put together again where \
nothing treats them differently; a pod's own address is never among them. Between workloads the \
matrix shows what passes between at least one pair of pods, with ~ where the pairs differ. What \
depends on a missing fact is shown as ?, with the fact.

A matrix is an answer in itself: the exit code is 0 whatever it shows.",
    after_long_help = with_codes(MATRIX_EXAMPLES)
)]
pub(crate) struct Matrix {
    /// One row for each workload, or for each pod.
    #[arg(long, value_name = "WHAT", default_value = "workload")]
    pub(crate) by: By,
    /// Only this port.
    #[arg(short = 'p', long, value_name = "NUMBER")]
    pub(crate) port: Option<u16>,
    /// Only this protocol; TCP where only a port is given.
    #[arg(long, value_name = "PROTOCOL", value_parser = protocol)]
    pub(crate) protocol: Option<Protocol>,
    /// How to answer.
    #[arg(short = 'o', long, value_name = "FORMAT", default_value = "text")]
    pub(crate) output: MatrixFormat,
    #[command(flatten)]
    pub(crate) source: Source,
}

/// What a row of the matrix stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum By {
    /// The pods of a workload together; pods without one alone.
    Workload,
    /// Each pod alone.
    Pod,
}

/// Formats of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum MatrixFormat {
    /// For people: a grid where it fits, else a list.
    Text,
    /// For programs; `podwall schema matrix` describes it.
    Json,
    /// src,dst,verdict,protocol,from,to: a line for each range of ports.
    Csv,
    /// A table in Markdown.
    Md,
}

const LINT_EXAMPLES: &str = "\
Examples:
  $ podwall lint -f shop/
  warning[PW101]: this policy selects no pod: none in namespace shop has
      app=ngnix
     --> shop/web.yaml:8:7
  …

  $ podwall lint -o sarif -f shop/ > podwall.sarif";

/// What in these policies is probably not what was meant?
#[derive(Args, Debug)]
#[command(
    long_about = "\
What in these policies is probably not what was meant?

Each finding has a rule (docs/lint.md describes them), the place, a proof (the pods that were looked \
at, or a flow with the engine's verdict), what to do next and, where it is clear, a fix. What is \
not known is not held against a policy: files need not state every namespace and pod.",
    after_long_help = with_codes(LINT_EXAMPLES)
)]
pub(crate) struct Lint {
    /// How to answer.
    #[arg(short = 'o', long, value_name = "FORMAT", default_value = "text")]
    pub(crate) output: LintFormat,
    /// Nothing less than this: note, warning or error.
    #[arg(long, value_name = "SEVERITY", default_value = "note")]
    pub(crate) level: Level,
    /// Mend what is clear, in the files; only what is left is printed.
    #[arg(long)]
    pub(crate) fix: bool,
    /// What may stay, with reasons. The default is .podwall-lint.yaml, if it is there.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Pass over what this file lists.
    #[arg(long, value_name = "FILE")]
    pub(crate) baseline: Option<PathBuf>,
    /// Write what is found now to the baseline's file.
    #[arg(long, requires = "baseline")]
    pub(crate) write_baseline: bool,
    #[command(flatten)]
    pub(crate) source: Source,
}

/// Severities of findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Level {
    /// Everything.
    Note,
    /// What is probably wrong.
    Warning,
    /// What cannot have the effect that it says.
    Error,
}

/// Formats of findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LintFormat {
    /// For people, as a compiler prints them.
    Text,
    /// For programs; `podwall schema lint` describes it.
    Json,
    /// SARIF 2.1.0, for code scanning.
    Sarif,
    /// Workflow commands of GitHub Actions: marks in a pull request.
    Github,
    /// JUnit's XML.
    Junit,
}

/// The JSON Schema of an answer.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  $ podwall schema can > can.schema.json
  $ podwall schema matrix")]
pub(crate) struct Schema {
    /// Of which answer.
    #[arg(value_name = "ANSWER", value_parser = clap::builder::PossibleValuesParser::new(podwall_render::json::SCHEMAS))]
    pub(crate) of: String,
}

/// A script that completes commands and options in a shell.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  $ podwall completions bash > /etc/bash_completion.d/podwall
  $ podwall completions zsh > \"${fpath[1]}/_podwall\"
  $ podwall completions fish > ~/.config/fish/completions/podwall.fish")]
pub(crate) struct Completions {
    /// The shell.
    #[arg(value_name = "SHELL")]
    pub(crate) shell: clap_complete::Shell,
}

/// Man pages: the overview to stdout, or all pages to a directory.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  $ podwall man | man -l -
  $ podwall man --dir /usr/local/share/man/man1")]
pub(crate) struct Man {
    /// Write podwall.1, podwall-can.1, … to this directory.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) dir: Option<PathBuf>,
}

/// Reads the command line. `Err` if there is nothing more to do than what was printed.
pub(crate) fn parse() -> Result<Cli, Failure> {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let plugin = arguments
        .first()
        .and_then(|name| Path::new(name).file_name())
        .is_some_and(|name| name.to_string_lossy().starts_with("kubectl-podwall"));
    if arguments.len() == 1 {
        print(&if plugin { as_plugin(OVERVIEW) } else { OVERVIEW.to_owned() })?;
        std::process::exit(0);
    }
    let mut command = Cli::command();
    if plugin {
        command = examples_as_plugin(command).bin_name("kubectl podwall");
    }
    let parsed = command
        .try_get_matches_from_mut(arguments)
        .and_then(|matches| <Cli as clap::FromArgMatches>::from_arg_matches(&matches));
    parsed.map_err(|error| {
        // Help and versions go to stdout with 0, mistakes to stderr with 2. Nobody is left to tell
        // if printing fails.
        let _ = error.print();
        std::process::exit(error.exit_code());
    })
}

/// A text in which the program is called as kubectl's plugin.
fn as_plugin(text: &str) -> String {
    let commands = ["  podwall ", "$ podwall ", ": podwall ", ":   podwall "];
    commands.into_iter().fold(text.to_owned(), |text, command| {
        text.replace(command, &command.replace("podwall", "kubectl podwall"))
    })
}

/// The examples of a command and of those below it, as one types them for kubectl's plugin.
fn examples_as_plugin(command: clap::Command) -> clap::Command {
    let examples = command.get_after_long_help().map(|text| as_plugin(&text.to_string()));
    let command = match examples {
        Some(examples) => command.after_long_help(examples),
        None => command,
    };
    command.mut_subcommands(examples_as_plugin)
}

/// A protocol in any case.
fn protocol(text: &str) -> Result<Protocol, String> {
    match text.to_ascii_uppercase().as_str() {
        "ICMP" | "ICMPV6" => Ok(Protocol::ICMP),
        name => Protocol::from_api(name).ok_or_else(|| "it is TCP, UDP, SCTP or ICMP".to_owned()),
    }
}
