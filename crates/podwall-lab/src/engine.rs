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
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::Duration;

use podwall_policy::object::{Exposure, Name, Phase, Pod};
use podwall_policy::port::Protocol;

use crate::bench::Bench;
use crate::dns::{DnsData, DnsServer};
use crate::fabric::{Fabric, FabricError, PodPlug};
use crate::flows::{Hub, Report};
use crate::netns::NetNs;
use crate::rpc::{DataPlaneInForce, LabConfig};
use crate::serve::identity::Identity;
use crate::serve::{self, Served, ServerSet};
use crate::service_nat::ServiceRule;
use crate::services;
use crate::store::{Store, Touched, now};
use crate::trial::Trial;

mod counting;
mod error;
mod exec_place;
mod filling;
mod node;
mod serving;

pub use error::EngineError;

use error::Failures;
use node::NodeFirewall;
use serving::servers_error;

/// How often a takeover is tried again, and after what time: a worker that was killed lets go of its
/// lock before it lets go of its pods' ports.
const TAKEOVER_TRIES: u32 = 10;
const TAKEOVER_PAUSE: Duration = Duration::from_millis(50);

/// One lab at work. Owned by the worker, behind its lock.
pub struct Engine {
    store: Store,
    fabric: Fabric,
    nodes: BTreeMap<String, NodeFirewall>,
    servers: ServerSet,
    dns: Arc<DnsServer>,
    /// Pods that exist in the kernel, and how they were plugged in.
    plugged: BTreeMap<Name, Plugged>,
    /// Pods that are plugged in and not switched on: their node's tables are not written yet.
    pending: BTreeSet<Name>,
    /// What the Services' rules were made from; rules are written only when it changes.
    service_rules: Option<Vec<ServiceRule>>,
    /// Ports that probes have asked the outside for. They stay open: packets are sent without the
    /// engine, which cannot know when the last one was.
    asked_outside: BTreeSet<(Protocol, u16)>,
    state: PathBuf,
    /// Where the nodes' eBPF programs are pinned; ends with the lab.
    pins: PathBuf,
    started: u64,
    /// What the kernel may not know because following a change failed halfway.
    owed: Touched,
    hub: Hub,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Plugged {
    node: String,
    uid: Arc<str>,
    ips: Vec<IpAddr>,
    host_network: bool,
}

impl Plugged {
    /// `None` for a pod that does not run, or not yet: one whose network is made by others has no
    /// address before.
    fn of(pod: &Pod) -> Option<Self> {
        (pod.phase == Phase::Alive && !pod.ips.is_empty()).then_some(())?;
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
            asked_outside: BTreeSet::new(),
            state,
            pins: inside.join("bpf"),
            started: now(),
            owed: Touched::default(),
            hub: Hub::default(),
        };
        let mut touched = engine.everything();
        if engine.store.mirrors() {
            // Whoever makes the pods' networks removes them, too.
        } else {
            if fresh {
                engine.add_builtins(&mut touched)?;
            }
            engine.remove_strays()?;
        }
        engine.store.save(&engine.state)?;
        let mut done = engine.take_steps(&touched);
        for _ in 0..TAKEOVER_TRIES {
            if fresh || done.is_ok() {
                break;
            }
            thread::sleep(TAKEOVER_PAUSE);
            done = engine.take_steps(&touched);
        }
        match done {
            // Without a worker nobody could remove what stands in the way; so the lab goes on with
            // what the kernel has, and the next change tries the rest again.
            Err(error) if !fresh => {
                eprintln!("not everything could be taken over: {error}");
                engine.owed = touched;
            }
            done => done?,
        }
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

    /// Saves what changed and brings the kernel up to date with it. What cannot be saved has not
    /// happened: the next worker would not know of it.
    pub fn enforce(&mut self, touched: Touched) -> Result<(), EngineError> {
        // Also where the kernel has nothing to follow: a workload without pods is an object too.
        if let Err(error) = self.store.save(&self.state) {
            let mut failures = Failures::default();
            failures.note(Err::<(), _>(error.into()));
            failures.note(self.roll_back());
            return failures.result();
        }
        let mut all = std::mem::take(&mut self.owed);
        all.merge(touched);
        if all.is_empty() {
            return Ok(());
        }
        // A step that fails leaves the rest to the next change, which walks them all again.
        self.take_steps(&all).inspect_err(|_| self.owed = all)
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

    /// Steps 2 to 6 of the module's picture, for what was touched. Each can be taken again. What
    /// fails keeps nothing else from following, but what would be unsafe without it.
    fn take_steps(&mut self, touched: &Touched) -> Result<(), EngineError> {
        let mut failures = Failures::default();
        for node in &touched.nodes {
            failures.note(self.ensure_node(node));
        }
        let Some(gone) = failures.note(self.unplug(touched)) else {
            // A pod that is still there may send: the tables must not forget its addresses.
            return failures.result();
        };
        for name in &touched.pods {
            failures.note(self.plug(name));
        }
        self.program(touched, &mut failures);
        if touched.services {
            failures.note(self.wire_services());
            self.dns.set(DnsData::of(self.store.cluster()));
        }
        // Those of an earlier request that failed, too.
        for name in self.pending.clone() {
            failures.note(self.switch_on(&name));
        }
        for name in touched.pods.iter().filter(|name| !gone.contains(*name)) {
            failures.note(self.serve(name));
        }
        failures.note(self.serve_outside());
        failures.result()
    }

    /// Everything that any node drops from now on.
    pub(crate) fn flows(&mut self) -> Result<Receiver<Report>, EngineError> {
        for (name, firewall) in &mut self.nodes {
            if self.hub.reads(name) {
                continue;
            }
            if let Some(denials) = firewall.denials()? {
                self.hub.read(name.as_str().into(), denials);
            }
        }
        Ok(self.hub.follow())
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
        let choice = self.store.config.firewall().map_err(node::failed(name))?;
        let limits = self.store.config.limits().map_err(node::failed(name))?;
        let pins = self.pins.join(&**name);
        let firewall = NodeFirewall::open(name, &ns, choice, limits, pins)?;
        self.service_rules = None; // it has none yet
        self.nodes.insert(name.to_string(), firewall);
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
            if !plugged.host_network && !self.store.mirrors() {
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

    /// Makes a new pod's namespace and link; nothing can be sent yet.
    fn plug(&mut self, name: &Name) -> Result<(), EngineError> {
        let Some(plugged) = self.store.cluster().pods.get(name).and_then(Plugged::of) else {
            return Ok(());
        };
        // A node that could not be made has said so.
        if self.plugged.contains_key(name) || !self.nodes.contains_key(&plugged.node) {
            return Ok(());
        }
        if self.store.mirrors() {
            // Nothing to serve in while it does not exist, and nothing to make.
            if !plugged.host_network && self.fabric.pod(&plugged.uid).is_err() {
                return Ok(());
            }
        } else if !plugged.host_network {
            self.fabric.plug_pod(&PodPlug {
                id: plugged.uid.to_string(),
                node: plugged.node.clone(),
                ips: plugged.ips.clone(),
            })?;
            self.pending.insert(name.clone());
        }
        self.plugged.insert(name.clone(), plugged);
        Ok(())
    }

    /// Compiles and writes every node's tables: one transaction a node.
    fn program(&mut self, touched: &Touched, failures: &mut Failures) {
        let newcomers = self.nodes.values().any(NodeFirewall::is_new);
        let everything = if newcomers { self.everything() } else { Touched::default() };
        let cluster = self.store.cluster();
        for firewall in self.nodes.values_mut() {
            let touched = if firewall.is_new() { &everything } else { touched };
            failures.note(firewall.follow(cluster, touched));
        }
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
            // If a node fails, those before it have the new rules and those after it the old ones.
            self.service_rules = None;
            self.fabric.set_services(&rules)?;
            self.service_rules = Some(rules);
        }
        Ok(())
    }

    /// Switches a pod on, if its node's tables are in force; else it waits for them.
    fn switch_on(&mut self, name: &Name) -> Result<(), EngineError> {
        if let Some(plugged) = self.plugged.get(name) {
            if !self.nodes.get(&plugged.node).is_some_and(NodeFirewall::is_in_force) {
                return Ok(());
            }
            self.fabric.activate_pod(&plugged.uid)?;
        }
        self.pending.remove(name);
        Ok(())
    }

    /// The data plane of each node; none in a lab without a firewall.
    pub fn dataplanes(&self) -> Vec<DataPlaneInForce> {
        self.nodes.values().filter_map(NodeFirewall::in_force).collect()
    }

    /// The nodes that have a firewall.
    pub(crate) fn node_names(&self) -> BTreeSet<String> {
        self.nodes.keys().cloned().collect()
    }

    /// Does on a node what its data plane can do while nothing changes; how long to wait before the
    /// next call, if there is more to do.
    pub(crate) fn settle(&mut self, node: &str) -> Option<Duration> {
        self.nodes.get_mut(node)?.settle()
    }

    /// What a node's kernel was told, as text.
    pub fn tables(&self, node: &str) -> Result<String, EngineError> {
        let firewall = self.nodes.get(node).ok_or_else(|| EngineError::NotFound {
            resource: "node".to_owned(),
            name: node.to_owned(),
            namespace: None,
            hint: format!("; nodes are {}", self.store.node_names().join(", ")),
        })?;
        Ok(firewall.ruleset(self.store.cluster()))
    }

    /// Compares every node's kernel with the model and repairs what differs; what was found.
    pub fn verify(&mut self) -> Result<Vec<String>, EngineError> {
        let (mut found, mut failures) = (Vec::new(), Failures::default());
        for firewall in self.nodes.values_mut() {
            found.extend(failures.note(firewall.verify()).unwrap_or_default());
        }
        failures.result().map(|()| found)
    }

    /// Handles to every place that the trials name, so that packets can be sent without the engine.
    pub fn bench(&mut self, trials: &[Trial]) -> Result<Bench, EngineError> {
        let mut places: HashMap<Identity, Arc<NetNs>> = HashMap::new();
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
        let asked = outside.filter(|t| t.protocol.has_ports()).map(|t| (t.protocol, t.port));
        self.asked_outside.extend(asked);
        if places.contains_key(&Identity::Outside) {
            self.serve_outside()?;
        }
        Ok(Bench { places })
    }
}
