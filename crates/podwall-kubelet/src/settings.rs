//! What was the kubelet told to do?
//!
//! Written to the lab's directory by `podwall lab up`, so that a kubelet which is started again later
//! does the same.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use podwall_lab::plan::Families;
use podwall_lab::rpc::NetworkMode;
use serde::{Deserialize, Serialize};

/// The file, in the lab's directory.
const FILE: &str = "kubelet.json";

/// Where plugins usually are: Debian's package, and everybody else.
pub const PLUGINS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

/// How a lab is the nodes of a cluster; fixed for its life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The lab's name.
    pub lab: String,
    /// Its directory on the host.
    pub dir: PathBuf,
    /// Its nodes, in order of their number, which gives their addresses.
    pub nodes: Vec<String>,
    /// Which families nodes and pods have.
    pub families: Families,
    /// The cluster.
    pub server: Server,
    /// How pods get their network.
    pub cni: Cni,
    /// What enforces on the nodes; `None`: nothing.
    pub agents: Option<Agents>,
    /// Whether to do what a cluster's scheduler and controller manager do: bind pods to nodes, end
    /// namespaces.
    pub controllers: bool,
}

/// An API server, and who we are to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// An absolute path.
    pub kubeconfig: PathBuf,
    /// The context of it; `None`: its current one.
    pub context: Option<String>,
}

/// How pods get their network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cni {
    /// Which of the lab's own lists of plugins, where `config` names none.
    pub network: NetworkMode,
    /// A `.conflist` or `.conf`.
    pub config: Option<PathBuf>,
    /// Where plugins are looked for, in order.
    pub bin: Vec<PathBuf>,
}

/// The nodes' agents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agents {
    /// With which rights they watch.
    pub server: Server,
    /// `auto`, `ebpf`, `nftables`.
    pub dataplane: String,
    /// How much their tables may hold; empty: the defaults.
    pub limits: String,
    /// Any other arguments of `podwall agent`.
    pub arguments: Vec<String>,
}

// === impl Settings ===

impl Settings {
    /// Leaves them in the lab's directory, whole or not at all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self) -> io::Result<()> {
        let path = self.dir.join(FILE);
        let new = path.with_extension("json.new");
        fs::write(&new, serde_json::to_vec(self)?)?;
        fs::rename(new, path)
    }

    /// Those of a lab; `None` if it is no cluster's.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(dir: &Path) -> io::Result<Option<Self>> {
        match fs::read(dir.join(FILE)) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The number of a node, from 1.
    pub(crate) fn number(&self, node: &str) -> u32 {
        let index = self.nodes.iter().position(|name| name == node).unwrap_or_default();
        u32::try_from(index + 1).unwrap_or(1)
    }

    /// A lab's private directory, for processes inside of it.
    pub(crate) fn inside(&self) -> PathBuf {
        self.dir.join("inside")
    }
}
