//! What do `podwall lab …` commands and the lab's worker say to each other?
//!
//! ```text
//!   command ── one Request, one line of JSON ──▶ worker
//!           ◀── Event lines (progress) … one Reply line ──
//! ```
//!
//! A Unix socket in the lab's directory; whoever may open it may steer the lab, so the directory
//! belongs to the user alone. Both ends are the same program of the same version: a worker of
//! another version is replaced, not spoken to.

use std::net::IpAddr;

pub use podwall_dataplane::{Choice, Limits};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::plan::Families;

/// How a lab is made; fixed for its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabConfig {
    /// Its name.
    pub name: String,
    /// The names of its nodes, in order of their number.
    pub nodes: Vec<String>,
    /// How pods are attached to their node.
    pub network: NetworkMode,
    /// Which address families it speaks.
    pub families: Families,
    /// Outside addresses that probes include besides those that policies name.
    pub externals: Vec<IpAddr>,
    /// Whether the firewall is on: off shows what a CNI plugin without policies does.
    pub enforce: bool,
    /// Which data plane enforces: `auto`, `ebpf`, `nftables`.
    #[serde(default)]
    pub dataplane: String,
    /// How much its tables may hold, as [`Limits`] are written; empty: the defaults.
    #[serde(default)]
    pub limits: String,
    /// The API server whose objects these are, in words. Somebody mirrors them into the lab
    /// ([`Request::Mirror`]), makes the pods' networks, and has agents enforce; the lab makes nodes,
    /// serves, and tries.
    #[serde(default)]
    pub mirrors: Option<String>,
}

impl LabConfig {
    /// The data plane, if the firewall is on.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn firewall(&self) -> Result<Option<Choice>, podwall_dataplane::Error> {
        let word = if self.dataplane.is_empty() { "auto" } else { &self.dataplane };
        self.enforce.then(|| word.parse()).transpose()
    }

    /// How much the tables may hold.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn limits(&self) -> Result<Limits, podwall_dataplane::Error> {
        self.limits.parse()
    }
}

/// How pods are attached to their node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkMode {
    /// A veth and a host route a pod, as the `ptp` plugin and AWS VPC CNI do.
    #[default]
    Ptp,
    /// A Linux bridge a node, as the `bridge` plugin and Flannel do.
    Bridge,
}

/// An object to be applied: checked by the command, and by the worker again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The whole object.
    pub raw: Value,
    /// Where it and its rules stand, as `Object::places` has it.
    pub places: Value,
}

/// Names one object or all of a kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Query {
    /// The kind as in manifests: `Pod`.
    pub kind: String,
    /// `None`: all namespaces (or a cluster-scoped kind).
    pub namespace: Option<String>,
    /// `None`: all of them.
    pub name: Option<String>,
    /// `-l`, as `kubectl` takes it.
    pub selector: Option<String>,
}

/// One probe's question. All fields but the source are optional: what is left out is "all".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeRequest {
    /// Peers as the command line writes them; empty: all pods (and the outside).
    pub sources: Vec<String>,
    /// The same for destinations.
    pub destinations: Vec<String>,
    /// Namespace of peers without one.
    pub namespace: String,
    /// Ports; empty: every port that any pod serves.
    pub ports: Vec<u16>,
    /// Protocols by name; empty: those that pods serve.
    pub protocols: Vec<String>,
    /// Whether the outside takes part in "all".
    pub outside: bool,
    /// The family to use where pods have both; `None`: the first that they have.
    pub family: Option<Families>,
    /// A file's worth of extra waiting for slow machines, in milliseconds; 0 takes the default.
    pub patience_ms: u64,
}

/// What a command asks of the worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Request {
    /// Is it there, and of which version?
    Hello,
    /// End, so that a worker of another version can take over. The kernel goes on enforcing.
    Retire,
    /// Make what these manifests say. Refused as a whole if any has an error.
    Apply {
        /// The objects; namespaces are filled in.
        objects: Vec<Manifest>,
    },
    /// Remove objects.
    Delete {
        /// Which.
        queries: Vec<Query>,
        /// A missing object is no error.
        ignore_not_found: bool,
    },
    /// Read objects.
    Get {
        /// Which.
        query: Query,
    },
    /// Change labels: `Some` sets, `None` removes.
    Label {
        /// Which objects.
        query: Query,
        /// Key and value.
        labels: Vec<(String, Option<String>)>,
        /// Whether a value that is there may be changed.
        overwrite: bool,
    },
    /// Make the lab's objects those of another cluster, in a lab that mirrors one. A pod with
    /// addresses has its network already. The answer lists what could not be taken.
    Mirror {
        /// New and changed objects.
        put: Vec<Value>,
        /// Objects that are gone; gone before others are put.
        gone: Vec<Query>,
        /// Whether `put` is all that there is: what else is there goes.
        all: bool,
    },
    /// Everything that is known, for questions (`--lab NAME`).
    Cluster,
    /// How to run a program in a pod.
    Exec {
        /// The pod's namespace.
        namespace: String,
        /// The pod.
        pod: String,
    },
    /// Send packets.
    Probe(ProbeRequest),
    /// Follow denied packets; ends when the command hangs up.
    Flows,
    /// Packets by rule, and those that no rule allowed.
    Counters,
    /// The tables in force on a node, as text.
    Tables {
        /// The node.
        node: String,
    },
    /// Compare the kernel with the model on every node and repair what differs.
    Verify,
}

/// One line from the worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Event {
    /// How far a long request has come.
    Progress {
        /// Done so far.
        done: u64,
        /// Of how many.
        total: u64,
    },
    /// Something that the user should know although the request goes on; one line or more.
    Warning {
        /// For people.
        message: String,
    },
    /// One of many answers.
    Item {
        /// Its shape depends on the request.
        body: Value,
    },
    /// The request's answer; the last line.
    Reply {
        /// Its shape depends on the request.
        body: Value,
    },
    /// The request was refused or failed; the last line.
    Error {
        /// For people.
        message: String,
        /// Whether an object that was asked for is not there, and nothing else is wrong.
        #[serde(default, rename = "notFound")]
        not_found: bool,
    },
}

/// What became of one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The kind as kubectl prints it: `pod`, `networkpolicy.networking.k8s.io`.
    pub object: String,
    /// `created`, `configured`, `unchanged`, `deleted`, `labeled`.
    pub what: String,
}

/// The answer to [`Request::Delete`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// What was removed.
    pub changes: Vec<Change>,
    /// A sentence for each object that was not there; the others are removed all the same.
    pub missing: Vec<String>,
}

/// One object as [`Request::Get`] answers it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    /// The object, with what the lab decided.
    pub object: Value,
    /// When it was made, in seconds since 1970.
    pub created: u64,
}

/// The answer to [`Request::Hello`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The worker's version and build.
    pub version: String,
    /// The lab.
    pub config: LabConfig,
    /// What enforces, by node; none if the firewall is off.
    #[serde(default)]
    pub dataplanes: Vec<DataPlaneInForce>,
}

/// What enforces on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataPlaneInForce {
    /// The node.
    pub node: String,
    /// `ebpf` or `nftables`.
    pub dataplane: String,
    /// Why it is not `ebpf` although `auto` prefers that.
    pub instead: Option<String>,
}

/// The answer to [`Request::Exec`]: where a program has to run. Paths are valid inside the lab's
/// mount namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecPlace {
    /// The network namespace's file.
    pub netns: String,
    /// The pod's host name.
    pub hostname: String,
    /// Text of `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// Text of `/etc/hosts`.
    pub hosts: String,
}
