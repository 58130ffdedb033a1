//! How does the kernel come to be what the objects say?
//!
//! ```text
//!   Touched ─▶ 1 save the state                     a killed worker's successor knows what was meant
//!              2 unplug pods that are gone          no packet from them can be sent any more
//!              3 plug new pods in, links down       their namespaces and addresses exist
//!              4 node by node: compile, one update  policies see old and new pods
//!              5 Services, names                    after the firewall, so nothing runs ahead of it
//!              6 links up, servers                  the pod's first packet meets its policies
//! ```
//!
//! The engine is the one writer of everything in the kernel that belongs to the lab. It fails
//! closed: a pod whose tables could not be written is not switched on.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use podwall_compile::compiler::NodeCompiler;
use podwall_compile::tables::Delta;
use podwall_dataplane::{Config, DataPlane, Nftables};
use podwall_policy::cluster::Cluster;
use podwall_policy::object::{Exposure, Name, Phase, Pod};
use podwall_policy::policy::Tier;
use podwall_policy::port::Protocol;
use thiserror::Error;

use crate::bench::Bench;
use crate::dns::{DnsData, DnsServer, hosts_file, resolv_conf};
use crate::fabric::{Fabric, FabricError, PodPlug};
use crate::netns::NetNs;
use crate::plan;
use crate::rpc::{ExecPlace, LabConfig};
use crate::serve::identity::Identity;
use crate::serve::{self, Served, ServerSet};
use crate::service_nat::ServiceRule;
use crate::services;
use crate::store::{Store, StoreError, Touched, now};
use crate::trial::{Trial, TrialError};

/// Why a request failed.
#[derive(Debug, Error)]
pub enum EngineError {
    /// An object that is not there.
    #[error("{resource} \"{name}\" not found{}{hint}", namespace.as_ref().map(|n| format!(" in namespace {n}")).unwrap_or_default())]
    NotFound {
        /// kubectl's name of the kind.
        resource: String,
        /// The name.
        name: String,
        /// The namespace, for namespaced kinds.
        namespace: Option<String>,
        /// `; did you mean …?`, or nothing.
        hint: String,
    },
    /// A selector that cannot be read.
    #[error("{text:?} is no label selector: {reason}")]
    Selector {
        /// The selector.
        text: String,
        /// Why not.
        reason: String,
    },
    /// A label that cannot be changed.
    #[error("{object}: {reason}")]
    Label {
        /// The object.
        object: String,
        /// Why not.
        reason: String,
    },
    /// What the lab does not do.
    #[error("the lab does not do that: {what}; {instead}")]
    Unsupported {
        /// What.
        what: String,
        /// What to do instead.
        instead: String,
    },
    /// A pod that runs nowhere.
    #[error("pod {pod} does not run: {reason}")]
    NotRunning {
        /// The pod.
        pod: String,
        /// Why.
        reason: String,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The network.
    #[error(transparent)]
    Network(#[from] FabricError),
    /// The firewall of a node.
    #[error("node {node}: {source}; its pods stay as they were, new ones stay off")]
    DataPlane {
        /// The node.
        node: String,
        /// What went wrong.
        source: podwall_dataplane::Error,
    },
    /// The servers.
    #[error("{0}")]
    Servers(String),
    /// Probes that cannot be planned.
    #[error(transparent)]
    Trial(TrialError),
    /// Probes that could not be sent.
    #[error(transparent)]
    Probe(#[from] crate::probe::ProbeError),
}

/// One lab at work. Owned by the worker, behind its lock.
pub struct Engine {
    store: Store,
    fabric: Fabric,
    nodes: BTreeMap<String, NodePart>,
    servers: ServerSet,
    dns: Arc<DnsServer>,
    /// Pods that exist in the kernel, and how they were plugged in.
    plugged: BTreeMap<Name, Plugged>,
    /// Pods that are plugged in and not switched on: their node's tables are not written yet.
    pending: BTreeSet<Name>,
    /// What the Services' rules were made from; rules are written only when it changes.
    service_rules: Option<Vec<ServiceRule>>,
    state: PathBuf,
    started: u64,
    /// What the kernel may not know because following a change failed halfway.
    owed: Touched,
}

/// A node's own instance of compiler and data plane.
struct NodePart {
    compiler: NodeCompiler,
    /// Whether the compiler knows what the others know: a node can come later.
    told: bool,
    plane: Option<Nftables>,
    /// Whether the kernel holds the compiler's tables already.
    loaded: bool,
}

impl NodePart {
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
    fn write(
        &mut self,
        node: &str,
        delta: &Delta,
        takeover: bool,
    ) -> Result<(), podwall_dataplane::Error> {
        let Some(plane) = &mut self.plane else { return Ok(()) };
        let tables = self.compiler.tables();
        let whole = takeover || !self.loaded;
        // Until the kernel has said yes, nobody knows what it holds: then the next write, or this
        // one's second try, is of the whole.
        self.loaded = false;
        if whole {
            plane.replace(tables)?;
        } else if !delta.is_empty() {
            plane.update(delta).or_else(|error| {
                eprintln!("node {node}: {error}; writing its whole tables");
                plane.replace(tables)
            })?;
        }
        self.loaded = true;
        Ok(())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Plugged {
    node: String,
    uid: Arc<str>,
    ips: Vec<IpAddr>,
    host_network: bool,
}

impl Plugged {
    fn of(pod: &Pod) -> Option<Self> {
        (pod.phase == Phase::Alive).then_some(())?;
        Some(Self {
            node: pod.node.as_deref()?.to_owned(),
            uid: pod.uid.clone()?,
            ips: pod.ips.clone(),
            host_network: pod.host_network,
        })
    }
}

// === impl Engine ===

impl Engine {
    /// Makes a lab, or takes over what an earlier worker left.
    pub fn open(config: &LabConfig, inside: &Path) -> Result<Self, EngineError> {
        let state = inside.join("state.json");
        let found = Store::load(&state)?;
        let fresh = found.is_none();
        let store = found.unwrap_or_else(|| Store::new(config.clone()));
        let fabric = Fabric::open(inside, config)?;
        let servers = ServerSet::start().map_err(|e| EngineError::Servers(e.to_string()))?;
        let mut engine = Self {
            store,
            fabric,
            nodes: BTreeMap::new(),
            servers,
            dns: Arc::new(DnsServer::new(DnsData::default())),
            plugged: BTreeMap::new(),
            pending: BTreeSet::new(),
            service_rules: None,
            state,
            started: now(),
            owed: Touched::default(),
        };
        let mut touched = engine.everything();
        if fresh {
            engine.add_builtins(&mut touched)?;
        }
        engine.remove_strays()?;
        engine.enforce_all(&touched, true)?;
        Ok(engine)
    }

    /// The objects.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The objects, to be changed; [`enforce`](Self::enforce) must follow.
    pub fn store_mut(&mut self) -> &mut Store {
        &mut self.store
    }

    /// When this worker took over, in seconds since 1970.
    pub fn started(&self) -> u64 {
        self.started
    }

    /// Brings the kernel up to date with what changed.
    pub fn enforce(&mut self, touched: Touched) -> Result<(), EngineError> {
        let mut all = std::mem::take(&mut self.owed);
        all.merge(touched);
        if all.is_empty() {
            return Ok(());
        }
        // A step that fails leaves the rest to the next change, which walks them all again.
        self.enforce_all(&all, false).inspect_err(|_| self.owed = all)
    }

    /// Forgets what was put into the store since the kernel last followed it.
    pub fn roll_back(&mut self) -> Result<(), EngineError> {
        if let Some(store) = Store::load(&self.state)? {
            self.store = store;
        }
        Ok(())
    }

    fn everything(&self) -> Touched {
        let cluster = self.store.cluster();
        Touched {
            namespaces: cluster.namespaces.keys().cloned().collect(),
            nodes: cluster.nodes.keys().cloned().collect(),
            pods: cluster.pods.keys().cloned().collect(),
            policies: cluster.policies.values().map(|p| p.name.clone()).collect(),
            services: true,
        }
    }

    /// The name server's pod and Service, as every cluster has them.
    fn add_builtins(&mut self, touched: &mut Touched) -> Result<(), EngineError> {
        let text = include_str!("builtin.yaml").to_owned();
        let input = podwall_manifest::Input::Text { name: "<lab>".to_owned(), text };
        let reading = podwall_manifest::read(&[input], &podwall_manifest::Options::default());
        debug_assert!(!reading.has_errors(), "{:?}", reading.diagnostics);
        for object in reading.objects {
            self.store.put(object, touched)?;
        }
        Ok(())
    }

    /// Pods in the kernel that no object stands for: a worker was killed between the two.
    fn remove_strays(&mut self) -> Result<(), EngineError> {
        let wanted: BTreeSet<Arc<str>> = self
            .store
            .cluster()
            .pods
            .values()
            .filter(|pod| Plugged::of(pod).is_some_and(|p| !p.host_network))
            .filter_map(|pod| pod.uid.clone())
            .collect();
        for uid in self.fabric.pods()? {
            if !wanted.contains(uid.as_str()) {
                self.fabric.remove_pod(&uid)?;
            }
        }
        Ok(())
    }

    fn enforce_all(&mut self, touched: &Touched, takeover: bool) -> Result<(), EngineError> {
        self.store.save(&self.state)?;
        for node in &touched.nodes {
            self.ensure_node(node)?;
        }
        let gone = self.unplug(touched)?;
        self.plug(touched)?;
        self.program(touched, takeover)?;
        if touched.services {
            self.wire_services()?;
            self.dns.set(DnsData::of(self.store.cluster()));
        }
        // Those of an earlier request that failed, too.
        for name in self.pending.clone() {
            self.switch_on(&name)?;
            self.pending.remove(&name);
        }
        for name in touched.pods.iter().filter(|name| !gone.contains(*name)) {
            self.serve(name)?;
        }
        self.serve_outside()
    }

    fn ensure_node(&mut self, name: &Arc<str>) -> Result<(), EngineError> {
        let Some(node) = self.store.cluster().nodes.get(name).cloned() else { return Ok(()) };
        self.fabric.ensure_node(&node)?;
        if self.nodes.contains_key(&**name) {
            return Ok(());
        }
        let ns = self.fabric.node(name)?;
        // Closed ports of a node say so every time, not once a second.
        ns.within(serve::lift_icmp_limits).map_err(FabricError::from)?;
        let nobody =
            Served { identity: Identity::Node(name.clone()), ports: BTreeSet::new(), dns: None };
        self.servers.ensure(&ns, &nobody).map_err(|errors| servers_error(&errors))?;
        let plane = if self.store.config.enforce {
            let opened = ns.within(|| Nftables::open(Config::default()));
            let opened = opened.map_err(FabricError::from)?;
            let failed = |source| EngineError::DataPlane { node: name.to_string(), source };
            Some(opened.map_err(failed)?)
        } else {
            None
        };
        let compiler = NodeCompiler::new(Some(name.clone()));
        self.service_rules = None; // it has none yet
        self.nodes
            .insert(name.to_string(), NodePart { compiler, told: false, plane, loaded: false });
        Ok(())
    }

    /// Takes out pods that are gone or became other pods.
    fn unplug(&mut self, touched: &Touched) -> Result<BTreeSet<Name>, EngineError> {
        let mut gone = BTreeSet::new();
        for name in &touched.pods {
            let wanted = self.store.cluster().pods.get(name).and_then(Plugged::of);
            let Some(plugged) = self.plugged.get(name).cloned() else {
                if wanted.is_none() {
                    gone.insert(name.clone());
                }
                continue;
            };
            if wanted.as_ref() == Some(&plugged) {
                continue;
            }
            self.servers.remove(&Identity::Pod(name.clone()));
            if !plugged.host_network {
                self.fabric.remove_pod(&plugged.uid)?;
            }
            self.plugged.remove(name);
            self.pending.remove(name);
            if wanted.is_none() {
                gone.insert(name.clone());
            }
        }
        Ok(gone)
    }

    /// Makes new pods' namespaces and links; nothing can be sent yet.
    fn plug(&mut self, touched: &Touched) -> Result<(), EngineError> {
        for name in &touched.pods {
            let Some(plugged) = self.store.cluster().pods.get(name).and_then(Plugged::of) else {
                continue;
            };
            if self.plugged.contains_key(name) {
                continue;
            }
            if !plugged.host_network {
                self.fabric.plug_pod(&PodPlug {
                    id: plugged.uid.to_string(),
                    node: plugged.node.clone(),
                    ips: plugged.ips.clone(),
                })?;
                self.pending.insert(name.clone());
            }
            self.plugged.insert(name.clone(), plugged);
        }
        Ok(())
    }

    /// Compiles and writes every node's tables: one transaction a node. A node that fails keeps no
    /// other from following.
    fn program(&mut self, touched: &Touched, takeover: bool) -> Result<(), EngineError> {
        let newcomers = self.nodes.values().any(|part| !part.told);
        let everything = if newcomers { self.everything() } else { Touched::default() };
        let cluster = self.store.cluster();
        let mut failed = None;
        for (node, part) in &mut self.nodes {
            part.compile(cluster, if part.told { touched } else { &everything });
            let delta = part.compiler.commit();
            if let Err(source) = part.write(node, &delta, takeover) {
                failed = failed.or(Some(EngineError::DataPlane { node: node.clone(), source }));
            }
        }
        failed.map_or(Ok(()), Err)
    }

    fn wire_services(&mut self) -> Result<(), EngineError> {
        let cluster = self.store.cluster();
        let mut rules = Vec::new();
        for service in cluster.services.values() {
            for port in &service.ports {
                let local = matches!(service.exposure, Exposure::Node { local: true });
                rules.push(ServiceRule {
                    name: service.name.to_string(),
                    cluster_ips: service.cluster_ips.clone(),
                    protocol: port.protocol,
                    port: port.port,
                    node_port: port.node_port,
                    local,
                    endpoints: services::endpoints(cluster, service, port),
                });
            }
        }
        if self.service_rules.as_ref() != Some(&rules) {
            self.fabric.set_services(&rules)?;
            self.service_rules = Some(rules);
        }
        Ok(())
    }

    fn switch_on(&mut self, name: &Name) -> Result<(), EngineError> {
        match self.plugged.get(name) {
            Some(plugged) => Ok(self.fabric.activate_pod(&plugged.uid)?),
            None => Ok(()),
        }
    }

    /// Serves a pod's ports; the name server's pod answers names.
    fn serve(&mut self, name: &Name) -> Result<(), EngineError> {
        let Some(pod) = self.store.cluster().pods.get(name) else { return Ok(()) };
        let Some(plugged) = self.plugged.get(name) else { return Ok(()) };
        let ns = if plugged.host_network {
            self.fabric.node(&plugged.node)?
        } else {
            self.fabric.pod(&plugged.uid)?
        };
        let mut served = Served::of_pod(pod);
        if is_name_server(pod) {
            served = served.with_dns(Arc::clone(&self.dns));
        }
        self.servers.ensure(&ns, &served).map_err(|errors| servers_error(&errors))
    }

    /// The outside answers on every port that anybody may ask it for: those of pods, of Services
    /// and of policies.
    fn serve_outside(&mut self) -> Result<(), EngineError> {
        let ports = outside_ports(self.store.cluster());
        let ns = self.fabric.outside()?;
        self.servers.ensure(&ns, &Served::outside(ports)).map_err(|errors| servers_error(&errors))
    }

    /// Where a program of a pod has to run.
    pub fn exec_place(&self, namespace: &str, name: &str) -> Result<ExecPlace, EngineError> {
        let key = Name::new(namespace, name);
        let cluster = self.store.cluster();
        let pod = cluster.pods.get(&key).ok_or_else(|| EngineError::NotFound {
            resource: "pod".to_owned(),
            name: name.to_owned(),
            namespace: Some(namespace.to_owned()),
            hint: self.pod_hint(namespace, name),
        })?;
        let plugged = self.plugged.get(&key).ok_or_else(|| EngineError::NotRunning {
            pod: key.to_string(),
            reason: match pod.phase {
                Phase::Terminated => "it has ended".to_owned(),
                Phase::Alive => match &pod.node {
                    Some(node) => format!("it wants node {node}, which the lab does not have"),
                    None => "no node of the lab has the labels of its nodeSelector".to_owned(),
                },
            },
        })?;
        let netns = if plugged.host_network {
            self.fabric.node_path(&plugged.node)
        } else {
            self.fabric.pod_path(&plugged.uid)
        };
        let families = self.store.config.families;
        // One, as the kubelet writes it in dual-stack clusters too.
        let servers: Vec<IpAddr> = plan::DNS_SERVICE
            .into_iter()
            .filter(|ip| families.has(podwall_policy::address::Family::of(*ip)))
            .take(1)
            .collect();
        Ok(ExecPlace {
            netns: netns.display().to_string(),
            hostname: name.to_owned(),
            resolv_conf: resolv_conf(namespace, &servers),
            hosts: hosts_file(name, None, &plugged.ips),
        })
    }

    /// What may have been meant by a pod's name: another name, another namespace, one of a
    /// workload's pods.
    fn pod_hint(&self, namespace: &str, name: &str) -> String {
        let pods = &self.store.cluster().pods;
        let here: Vec<&str> =
            pods.keys().filter(|n| *n.namespace == *namespace).map(|n| &*n.name).collect();
        let start = format!("{name}-");
        let elsewhere = pods.keys().find(|n| *n.name == *name);
        match podwall_manifest::nearest(name, &here)
            .or_else(|| here.iter().copied().find(|n| n.starts_with(&start)))
        {
            Some(near) => format!("; did you mean {near}?"),
            None => match elsewhere {
                Some(there) => {
                    format!("; there is one in namespace {} (-n {0})", there.namespace)
                }
                None => String::new(),
            },
        }
    }

    /// What a node's kernel was told, as text.
    pub fn tables(&self, node: &str) -> Result<String, EngineError> {
        let part = self.nodes.get(node).ok_or_else(|| EngineError::NotFound {
            resource: "node".to_owned(),
            name: node.to_owned(),
            namespace: None,
            hint: format!("; nodes are {}", self.store.node_names().join(", ")),
        })?;
        Ok(match &part.plane {
            Some(plane) => format!("# node {node}\n{}", plane.ruleset(part.compiler.tables())),
            None => format!("# node {node}: the firewall is off\n"),
        })
    }

    /// Compares every node's kernel with the model and repairs what differs; what was found.
    pub fn verify(&mut self) -> Result<Vec<String>, EngineError> {
        let mut found = Vec::new();
        for (node, part) in &mut self.nodes {
            let Some(plane) = &mut part.plane else { continue };
            let failed = |source| EngineError::DataPlane { node: node.clone(), source };
            let drift = plane.verify(part.compiler.tables()).map_err(failed)?;
            if !drift.is_empty() {
                found.extend(drift.iter().map(|d| format!("{node}: {d}")));
                plane.replace(part.compiler.tables()).map_err(failed)?;
            }
        }
        Ok(found)
    }

    /// Handles to every place that the trials name, so that packets can be sent without the engine.
    pub fn bench(&mut self, trials: &[Trial]) -> Result<Bench, EngineError> {
        let mut places: HashMap<Identity, Arc<NetNs>> = HashMap::new();
        let mut ports: BTreeSet<(Protocol, u16)> = BTreeSet::new();
        for place in trials.iter().flat_map(Trial::places) {
            if places.contains_key(place) {
                continue;
            }
            let ns = match place {
                Identity::Pod(name) => match self.plugged.get(name) {
                    Some(plugged) => self.fabric.pod(&plugged.uid)?,
                    None => continue,
                },
                Identity::Node(name) => self.fabric.node(name)?,
                Identity::Outside => self.fabric.outside()?,
            };
            places.insert(place.clone(), Arc::new(ns));
        }
        let leads_outside = |t: &&Trial| t.ways.iter().any(|way| way.place == Identity::Outside);
        let outside = trials.iter().filter(leads_outside);
        ports.extend(outside.filter(|t| t.protocol.has_ports()).map(|t| (t.protocol, t.port)));
        if let Some(ns) = places.get(&Identity::Outside) {
            ports.extend(outside_ports(self.store.cluster()));
            self.servers
                .ensure(ns, &Served::outside(ports))
                .map_err(|errors| servers_error(&errors))?;
        }
        Ok(Bench { places })
    }
}

fn servers_error(errors: &[serve::ServeError]) -> EngineError {
    let words: Vec<String> = errors.iter().map(ToString::to_string).collect();
    EngineError::Servers(words.join("; "))
}

/// The pods behind the cluster's name Service.
fn is_name_server(pod: &Pod) -> bool {
    &*pod.name.namespace == "kube-system" && pod.labels.get("k8s-app") == Some("kube-dns")
}

fn outside_ports(cluster: &Cluster) -> BTreeSet<(Protocol, u16)> {
    use podwall_policy::policy::Direction;
    use podwall_policy::port::PortMatch;
    let declared =
        cluster.pods.values().flat_map(|p| p.ports.iter().map(|c| (c.protocol, c.number)));
    let named = cluster
        .policies
        .values()
        .filter_map(|policy| policy.rules(Direction::Egress))
        .flatten()
        .flat_map(|rule| &rule.ports)
        .filter_map(|spec| match spec.port {
            PortMatch::Range(range) => Some((spec.protocol, range.first)),
            PortMatch::Any | PortMatch::Named(_) => None,
        });
    let usual = [(Protocol::TCP, 80), (Protocol::TCP, 443), (Protocol::UDP, 53)];
    declared.chain(named).chain(usual).collect()
}
