//! How does one node's firewall follow the cluster?
//!
//! ```text
//!   Touched ─▶ compiler ── Delta ──▶ data plane ──▶ the node's kernel
//!              what should be        what is there
//! ```
//!
//! A cluster's node has an agent; here it is this pair, one for each node. It remembers how far each
//! half has come, so that a change which failed halfway is made up for by the next one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use podwall_compile::compiler::NodeCompiler;
use podwall_compile::tables::{Delta, NodeTables};
use podwall_dataplane::{
    self as dataplane, Choice, Chosen, Config, Counters, DataPlane, Denials, Fill, Limits, Log,
    ebpf,
};
use podwall_policy::cluster::Cluster;
use podwall_policy::policy::Tier;

use super::{EngineError, filling};
use crate::fabric::FabricError;
use crate::netns::NetNs;
use crate::rpc::DataPlaneInForce;
use crate::store::Touched;

/// The firewall of one node. Owned by the engine; what it wrote is the kernel's and outlives it.
pub(super) struct NodeFirewall {
    node: Arc<str>,
    compiler: NodeCompiler,
    /// Whether the compiler has been told of the cluster: a node can come later than its objects.
    told: bool,
    /// `None` in a lab without a firewall.
    plane: Option<Box<dyn DataPlane>>,
    /// Why it is not the data plane that `auto` prefers.
    instead: Option<String>,
    /// Whether the kernel is known to hold the compiler's tables. Not so at first: an earlier
    /// worker may have left others.
    loaded: bool,
    /// How full the tables were when somebody was told last.
    fill: Fill,
    /// What nobody was told yet.
    warnings: Vec<String>,
}

/// What nftables reports of the packets that it drops: enough for a person to read.
const LOG: Log = Log { group: 4242, per_second: 100, burst: 100 };

// === impl NodeFirewall ===

impl NodeFirewall {
    /// The firewall of a node's namespace, or none; enforces nothing there yet. eBPF programs are
    /// pinned in `pins`.
    pub(super) fn open(
        node: &Arc<str>,
        ns: &NetNs,
        choice: Option<Choice>,
        limits: Limits,
        pins: PathBuf,
    ) -> Result<Self, EngineError> {
        let open = |choice: Choice| {
            let config = ebpf::Config { pins, limits, ..ebpf::Config::default() };
            let nftables = Config { log: Some(LOG), limits, ..Config::default() };
            let opened = ns.within(|| choice.open(config, nftables));
            opened.map_err(FabricError::from)?.map_err(failed(node))
        };
        let chosen = choice.map(open).transpose()?;
        let instead = chosen.as_ref().and_then(Chosen::reason);
        Ok(Self {
            node: Arc::clone(node),
            compiler: NodeCompiler::new(Some(Arc::clone(node))),
            told: false,
            plane: chosen.map(|chosen| chosen.plane),
            instead,
            loaded: false,
            fill: Fill::default(),
            warnings: Vec::new(),
        })
    }

    /// Whether it knows nothing of the cluster yet, and has to be told of everything.
    pub(super) fn is_new(&self) -> bool {
        !self.told
    }

    /// Whether the kernel is known to hold what was compiled last.
    pub(super) fn is_in_force(&self) -> bool {
        self.loaded || self.plane.is_none()
    }

    /// Compiles what was touched and writes what that changes, in one transaction.
    pub(super) fn follow(
        &mut self,
        cluster: &Cluster,
        touched: &Touched,
    ) -> Result<(), EngineError> {
        self.compile(cluster, touched);
        let delta = self.compiler.commit();
        self.write(&delta).map_err(failed(&self.node))?;
        self.warn(cluster);
        Ok(())
    }

    /// Tells the compiler what changed.
    fn compile(&mut self, cluster: &Cluster, touched: &Touched) {
        let compiler = &mut self.compiler;
        self.told = true;
        for name in &touched.namespaces {
            match cluster.namespaces.get(name) {
                Some(namespace) => compiler.put_namespace(namespace.clone()),
                None => compiler.remove_namespace(name),
            }
        }
        for name in &touched.policies {
            match cluster.policies.get(&(Tier::NetworkPolicy, name.clone())) {
                Some(policy) => compiler.put_policy(policy.clone()),
                None => compiler.remove_policy(Tier::NetworkPolicy, name),
            }
        }
        for name in &touched.pods {
            match cluster.pods.get(name) {
                Some(pod) => compiler.put_pod(pod),
                None => compiler.remove_pod(name),
            }
        }
    }

    /// Writes a change, or everything where the kernel may hold something else.
    fn write(&mut self, delta: &Delta) -> Result<(), podwall_dataplane::Error> {
        let Some(plane) = &mut self.plane else { return Ok(()) };
        let refused =
            dataplane::follow(&mut **plane, &mut self.loaded, self.compiler.tables(), delta)?;
        if let Some(error) = refused {
            eprintln!("node {}: {error}; its whole tables were written", self.node);
        }
        Ok(())
    }

    /// See [`DataPlane::settle`].
    pub(super) fn settle(&mut self) -> Option<Duration> {
        let plane = self.plane.as_mut().filter(|_| self.loaded)?;
        plane.settle().unwrap_or_else(|error| {
            // Everything is enforced all the same; packets only cost more.
            eprintln!("node {}: connections that stand are judged further on: {error}", self.node);
            None
        })
    }

    /// Notes for the user what does not fit since this change, or fits again.
    fn warn(&mut self, cluster: &Cluster) {
        let Some(plane) = &self.plane else { return };
        let fill = plane.fill();
        let differs = fill.isolated != self.fill.isolated
            || fill.addresses != self.fill.addresses
            || fill.ranges != self.fill.ranges;
        let node = &self.node;
        if differs && fill.overflows() {
            let mut text = format!("warning: node {node}: its tables are full: {fill}");
            for line in filling::words(&fill, self.compiler.tables(), cluster) {
                text += &format!("\n  {line}");
            }
            text += "\n  `podwall lab up --limits` makes a lab with more room";
            self.warnings.push(text);
        } else if differs {
            self.warnings.push(format!("note: node {node}: everything fits into its tables again"));
        }
        self.fill = fill;
    }

    /// What nobody was told yet.
    pub(super) fn take_warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// What it counted and what its tables are; `None` in a lab without a firewall.
    pub(super) fn counted(&mut self) -> Result<Option<(Counters, Fill)>, EngineError> {
        let Some(plane) = &mut self.plane else { return Ok(None) };
        let counters = plane.counters().map_err(failed(&self.node))?;
        Ok(Some((counters, plane.fill())))
    }

    /// What should be in force.
    pub(super) fn tables(&self) -> &NodeTables {
        self.compiler.tables()
    }

    /// Follows what it drops; `None` in a lab without a firewall.
    pub(super) fn denials(&mut self) -> Result<Option<Denials>, EngineError> {
        let plane = self.plane.as_mut();
        plane.map(|plane| plane.denials()).transpose().map_err(failed(&self.node))
    }

    /// The data plane in force; `None` in a lab without a firewall.
    pub(super) fn in_force(&self) -> Option<DataPlaneInForce> {
        let plane = self.plane.as_ref()?;
        Some(DataPlaneInForce {
            node: self.node.to_string(),
            dataplane: plane.name().to_owned(),
            instead: self.instead.clone(),
        })
    }

    /// What the kernel was told, as text.
    pub(super) fn ruleset(&self, cluster: &Cluster) -> String {
        match &self.plane {
            Some(plane) => {
                let why = self.instead.as_ref().map(|why| format!(" ({why})"));
                let (tables, fill) = (self.compiler.tables(), plane.fill());
                let mut out = format!(
                    "# node {}: {}{}\n# {fill}\n",
                    self.node,
                    plane.name(),
                    why.unwrap_or_default()
                );
                for line in filling::words(&fill, tables, cluster) {
                    out += &format!("# {line}\n");
                }
                out + &plane.text(tables)
            }
            None => format!("# node {}: the firewall is off\n", self.node),
        }
    }

    /// Compares the kernel with the model and repairs what differs; what was found.
    pub(super) fn verify(&mut self) -> Result<Vec<String>, EngineError> {
        let Some(plane) = &mut self.plane else { return Ok(Vec::new()) };
        let tables = self.compiler.tables();
        let drift = plane.verify(tables).map_err(failed(&self.node))?;
        if !drift.is_empty() {
            plane.replace(tables).map_err(failed(&self.node))?;
        }
        Ok(drift.iter().map(|d| format!("{}: {d}", self.node)).collect())
    }
}

pub(super) fn failed(node: &str) -> impl FnOnce(podwall_dataplane::Error) -> EngineError + '_ {
    move |source| EngineError::DataPlane { node: node.to_owned(), source }
}
