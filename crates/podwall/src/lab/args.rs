//! What can be said to `podwall lab`? Verbs and flags are kubectl's wherever kubectl has them.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use podwall_lab::rpc::{Choice, Limits};

/// `podwall lab …`
#[derive(Debug, Args)]
pub(crate) struct LabArgs {
    /// Which lab; several can exist at a time
    #[arg(long = "lab", visible_alias = "name", value_name = "NAME", global = true, env = "PODWALL_LAB", default_value = podwall_lab::client::DEFAULT_LAB)]
    pub lab: String,
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a lab: nodes, name server, outside world, and what the manifests say
    #[command(after_long_help = UP_EXAMPLES)]
    Up(Up),
    /// Make the lab what manifests say; returns when the kernel enforces it
    #[command(after_long_help = APPLY_EXAMPLES)]
    Apply(Apply),
    /// Remove objects
    Delete(Delete),
    /// List objects
    Get(Get),
    /// Tell all about objects
    Describe(Describe),
    /// Change labels of objects
    #[command(after_long_help = LABEL_EXAMPLES)]
    Label(Label),
    /// Make one pod
    Run(Run),
    /// Run a program of this machine in a pod
    #[command(after_long_help = EXEC_EXAMPLES)]
    Exec(Exec),
    /// Send packets and compare them with what the engine says
    #[command(after_long_help = PROBE_EXAMPLES)]
    Probe(Probe),
    /// Follow denied packets as they come: who, whom, and by which policies
    #[command(after_long_help = FLOWS_EXAMPLES)]
    Flows(crate::flows::Flows),
    /// Count packets: how many each rule allowed, and how many no rule allows
    #[command(after_long_help = COUNTERS_EXAMPLES)]
    Counters(Counters),
    /// Show what a node's kernel holds, or compare it with the model
    Tables(Tables),
    /// List labs
    List,
    /// Remove the lab and everything in it
    Down(Down),
}

const UP_EXAMPLES: &str = "\
Examples:
  podwall lab up -f app.yaml                    three nodes, pods on point-to-point routes
  podwall lab up --network bridge --nodes 2     pods of a node on one Linux bridge
  podwall lab up --lab two --ip-family v6       a second lab, IPv6 only
  podwall lab up --kubeconfig ~/.kube/config    be the nodes of a cluster; then kubectl apply

Works as root and, where the kernel allows user namespaces, as an ordinary user.
No images are pulled: every declared container port is served by the lab itself
(TCP: a small HTTP answer, UDP: echo, SCTP: raw packets), 80 where a pod declares none.";

const APPLY_EXAMPLES: &str = "\
Examples:
  podwall lab apply -f policies/                a directory; one broken file refuses it whole
  podwall lab apply -n demo -f - < policy.yaml  standard input, into namespace demo";

const LABEL_EXAMPLES: &str = "\
Examples:
  podwall lab label pod web-pod tier=front
  podwall lab label namespace app name=app
  podwall lab label pods --all -n demo old-     remove the label `old`";

const EXEC_EXAMPLES: &str = "\
Examples:
  podwall lab exec web-pod -- curl -s -m 2 app-service:5000
  podwall lab exec -n demo frontend -- ping -c 1 10.244.1.2
  podwall lab exec web-pod -- sh                a shell in the pod's network

The program is this machine's own; it runs in the pod's network namespace with the pod's
resolv.conf, hosts and hostname.";

const PROBE_EXAMPLES: &str = "\
Examples:
  podwall lab probe                             all pairs, every port that any pod serves
  podwall lab probe web-pod db-pod --port 3306
  podwall lab probe internet web-pod --port 80  from outside
  podwall lab probe -o json > result.json

Exit code 0: packets did what the engine says. 1: they differ somewhere. 2: could not be tried.";

const FLOWS_EXAMPLES: &str = "\
Examples:
  podwall lab flows                             until Ctrl-C
  podwall lab flows db-pod -o json              one JSON object a line, for one pod
  podwall lab flows --count 1                   wait for the first

The kernel reports some dozens a second of each pod and counts the rest.";

const COUNTERS_EXAMPLES: &str = "\
Examples:
  podwall lab counters                          rules and isolated pods of namespace default
  podwall lab counters -A -o json               of all namespaces, for programs

A packet counts for each direction that is asked: where it leaves a pod that policies isolate for
egress, and where it enters one that they isolate for ingress. Packets in the original direction of
a connection count, with eBPF the first ones and those after each change; replies pass
uncounted. A rule's number starts when it comes to a node, and
again when its last peer or pod is gone from there and comes back.";

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Network {
    /// A veth and a host route a pod, as the ptp plugin and AWS VPC CNI do
    Ptp,
    /// A Linux bridge a node, as the bridge plugin and Flannel do
    Bridge,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum IpFamily {
    /// IPv4 and IPv6
    Dual,
    /// IPv4 alone
    #[value(alias = "ipv4", alias = "4")]
    V4,
    /// IPv6 alone
    #[value(alias = "ipv6", alias = "6")]
    V6,
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// The lab's name (the same as --lab)
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// Manifests: files, directories, `-` for standard input
    #[arg(short = 'f', long = "filename", value_name = "PATH")]
    pub files: Vec<PathBuf>,
    /// Namespace of objects that state none
    #[arg(short = 'n', long, default_value = "default", value_name = "NS")]
    pub namespace: String,
    /// How many nodes; Node objects in the manifests add to them or name them
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=200))]
    pub nodes: u32,
    /// How pods are attached to their node
    #[arg(long, value_enum, default_value_t = Network::Ptp)]
    pub network: Network,
    /// Which address families the lab speaks
    #[arg(long, value_enum, default_value_t = IpFamily::Dual)]
    pub ip_family: IpFamily,
    /// An outside address that probes try besides those that policies name; repeatable
    #[arg(long, value_name = "IP")]
    pub external: Vec<IpAddr>,
    /// Leave the firewall off: what a CNI plugin without policies does
    #[arg(long)]
    pub no_enforce: bool,
    /// What enforces: auto (eBPF where the kernel can), ebpf, nftables
    #[arg(long, env = "PODWALL_DATAPLANE", default_value_t = Choice::Auto, value_name = "WHICH")]
    pub dataplane: Choice,
    /// How much a node's tables may hold: locals=N, peers=N, blocks=N, verdicts=N, with commas
    #[arg(long, env = "PODWALL_LIMITS", default_value_t = Limits::default(), hide_default_value = true, value_name = "TABLE=N,…")]
    pub limits: Limits,
    #[command(flatten)]
    pub cluster: OfCluster,
}

// How a lab is the nodes of a cluster.
#[derive(Debug, Args)]
#[command(next_help_heading = "Nodes of a cluster")]
pub(crate) struct OfCluster {
    /// Be the nodes of this cluster: run the pods that kubectl makes there, with real CNI plugins and
    /// an agent on each node
    #[arg(long, value_name = "FILE", conflicts_with_all = ["files", "no_enforce"])]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig
    #[arg(long, value_name = "NAME", requires = "kubeconfig")]
    pub context: Option<String>,
    /// Where CNI plugins are, in order
    #[arg(long, value_name = "DIR[:DIR]", requires = "kubeconfig", default_values_os_t = podwall_kubelet::PLUGINS.map(PathBuf::from), value_delimiter = ':')]
    pub cni_bin: Vec<PathBuf>,
    /// A .conflist or .conf in place of the lab's own: bridge or ptp with host-local, then podwall-cni
    #[arg(long, value_name = "FILE", requires = "kubeconfig")]
    pub cni_conf: Option<PathBuf>,
    /// No agents: nothing is enforced
    #[arg(long, requires = "kubeconfig")]
    pub no_agents: bool,
    /// The agents' kubeconfig, where they are to have other rights
    #[arg(long, value_name = "FILE", requires = "kubeconfig")]
    pub agent_kubeconfig: Option<PathBuf>,
    /// Another argument of each agent; repeatable
    #[arg(long, value_name = "ARG", requires = "kubeconfig", allow_hyphen_values = true)]
    pub agent_arg: Vec<String>,
    /// Leave it to the cluster's own controllers to bind pods to nodes and to end namespaces
    #[arg(long, requires = "kubeconfig")]
    pub no_controllers: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Apply {
    /// Manifests: files, directories, `-` for standard input
    #[arg(short = 'f', long = "filename", value_name = "PATH", required = true)]
    pub files: Vec<PathBuf>,
    /// Namespace of objects that state none
    #[arg(short = 'n', long, default_value = "default", value_name = "NS")]
    pub namespace: String,
}

// No doc comment: clap would take it for the help of every verb that has these.
// What is read of the objects of a kind.
#[derive(Debug, Args)]
pub(crate) struct Listed {
    /// Namespace
    #[arg(short = 'n', long, default_value = "default", value_name = "NS")]
    pub namespace: String,
    /// Every namespace
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Objects with these labels
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
}

impl Listed {
    /// The one namespace that is meant; `None`: every one.
    pub(crate) fn namespace(&self) -> Option<&str> {
        (!self.all_namespaces).then_some(&self.namespace)
    }
}

// What is changed of the objects of a kind: no slip of the pen may mean all of them.
#[derive(Debug, Args)]
pub(crate) struct Chosen {
    /// Namespace
    #[arg(short = 'n', long, default_value = "default", value_name = "NS")]
    pub namespace: String,
    /// Objects with these labels
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
    /// All of the kind in the namespace
    #[arg(long)]
    pub all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// KIND NAME…, KIND/NAME…, or KIND with -l or --all
    #[arg(value_name = "KIND[/NAME]")]
    pub what: Vec<String>,
    /// Remove the objects that these manifests name
    #[arg(short = 'f', long = "filename", value_name = "PATH")]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub chosen: Chosen,
    /// A missing object is no error
    #[arg(long)]
    pub ignore_not_found: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum GetOutput {
    /// A table
    Table,
    /// A table with addresses, nodes and selectors
    Wide,
    /// The objects as JSON
    Json,
    /// The objects as YAML
    Yaml,
    /// KIND/NAME lines
    Name,
}

#[derive(Debug, Args)]
pub(crate) struct Get {
    /// KIND[,KIND…] [NAME…], KIND/NAME, or `all`
    #[arg(value_name = "KIND[/NAME]", required = true)]
    pub what: Vec<String>,
    #[command(flatten)]
    pub listed: Listed,
    /// How to print
    #[arg(short = 'o', long, value_enum, default_value_t = GetOutput::Table)]
    pub output: GetOutput,
    /// Add a column with the labels
    #[arg(long)]
    pub show_labels: bool,
    /// Leave the heading out
    #[arg(long)]
    pub no_headers: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Describe {
    /// KIND [NAME…] or KIND/NAME
    #[arg(value_name = "KIND[/NAME]", required = true)]
    pub what: Vec<String>,
    #[command(flatten)]
    pub listed: Listed,
}

#[derive(Debug, Args)]
pub(crate) struct Label {
    /// KIND NAME… KEY=VALUE… KEY-
    #[arg(value_name = "ARG", required = true)]
    pub what: Vec<String>,
    #[command(flatten)]
    pub chosen: Chosen,
    /// Allow a value that is there to be changed
    #[arg(long)]
    pub overwrite: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The pod's name
    pub name: String,
    /// Namespace
    #[arg(short = 'n', long, default_value = "default", value_name = "NS")]
    pub namespace: String,
    /// Written into the object; nothing is pulled
    #[arg(long, default_value = "none")]
    pub image: String,
    /// Labels, `KEY=VALUE,…`; kubectl's default is `run=NAME`
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub labels: Option<String>,
    /// A TCP port that the pod serves; repeatable
    #[arg(long)]
    pub port: Vec<u16>,
    /// The node to run on
    #[arg(long)]
    pub node: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// The pod, `POD` or `pod/POD`
    pub pod: String,
    /// Namespace
    #[arg(short = 'n', long, default_value = "default", value_name = "NS")]
    pub namespace: String,
    /// Accepted as kubectl has it; the lab's pods have one container
    #[arg(short = 'c', long)]
    pub container: Option<String>,
    /// Accepted as kubectl has it; standard input is always passed on
    #[arg(short = 'i', long)]
    pub stdin: bool,
    /// Accepted as kubectl has it; the terminal is always passed on
    #[arg(short = 't', long)]
    pub tty: bool,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProbeOutput {
    /// Tables for people
    Text,
    /// Every probe
    Json,
    /// A test report
    Junit,
}

#[derive(Debug, Args)]
pub(crate) struct Probe {
    /// Who sends: a pod, a node, an address, `internet`; all pods where left out
    #[arg(value_name = "SRC")]
    pub source: Option<String>,
    /// Who is asked, also a Service (svc/NAME, NAMESPACE/svc/NAME) or a node by its node port;
    /// everybody where left out
    #[arg(value_name = "DST")]
    pub destination: Option<String>,
    /// Namespace of peers without one
    #[arg(short = 'n', long, default_value = "default", value_name = "NS")]
    pub namespace: String,
    /// Ports; every port that the destination offers where left out
    #[arg(long, value_delimiter = ',')]
    pub port: Vec<u16>,
    /// Protocols: TCP, UDP, SCTP, ICMP
    #[arg(long, value_delimiter = ',')]
    pub protocol: Vec<String>,
    /// How to print
    #[arg(short = 'o', long, value_enum, default_value_t = ProbeOutput::Text)]
    pub output: ProbeOutput,
    /// Leave the outside world out of "all"
    #[arg(long)]
    pub no_outside: bool,
    /// The family to use where pods have both; dual tries each
    #[arg(long, value_enum)]
    pub ip_family: Option<IpFamily>,
}

#[derive(Debug, Args)]
pub(crate) struct Counters {
    /// Namespace
    #[arg(short = 'n', long, default_value = "default", value_name = "NS")]
    pub namespace: String,
    /// Every namespace
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// How to print
    #[arg(short = 'o', long, value_enum, default_value_t = CountersOutput::Text)]
    pub output: CountersOutput,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum CountersOutput {
    /// Tables for people
    Text,
    /// One JSON object
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct Tables {
    /// The node; every node where left out
    pub node: Option<String>,
    /// Compare the kernel with the model on every node and repair what differs
    #[arg(long)]
    pub verify: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Down {
    /// The lab's name (the same as --lab)
    #[arg(value_name = "NAME")]
    pub name: Option<String>,
    /// Every lab of this user
    #[arg(long)]
    pub all: bool,
}
