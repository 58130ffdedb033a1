//! How do agents of a real cluster meet real packets?
//!
//! ```text
//!   Cluster (kube-apiserver, etcd) ◀── kubectl ── test ──▶ fabric: n1 ── pods     eBPF
//!        └────────▶ podwall agent of n1, of n2                     n2 ── pods     nftables
//!
//!   agree: every pod sends to every other and to the outside; what arrives is what the evaluator
//!          says of the objects as kubectl prints them
//! ```
//!
//! The network is the lab's fabric without the lab: nobody but the agents writes policies to the
//! kernel. Traffic within a node is judged by one data plane, traffic between nodes by both.

#![allow(dead_code, reason = "each file of tests uses the part that it needs")]

pub(crate) mod traffic;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use podwall_cluster::{Agent, AgentToStart, Cluster, mk_node, mk_pod, running};
use podwall_lab::fabric::{Fabric, PodPlug};
use podwall_lab::netns::NetNs;
use podwall_lab::plan::{self, Families};
use podwall_lab::probe::{self, Place, ProbeOptions, ProbeResult, ProbeTask};
use podwall_lab::rpc::{LabConfig, NetworkMode};
use podwall_lab::serve::identity::Identity;
use podwall_manifest::{Input, Options, read, render_all};
use podwall_policy::address::Family;
use podwall_policy::evaluate::{Verdict, evaluate};
use podwall_policy::flow::{Flow, Party};
use podwall_policy::object::Node;
use podwall_policy::port::Protocol;
use serde_json::{Value, json};

/// The nodes, and what enforces on each.
pub(crate) const NODES: [(&str, &str); 2] = [("n1", "ebpf"), ("n2", "nftables")];

/// How long agents have to catch up with the cluster, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// An address of nobody in the cluster.
const OUTSIDE: [&str; 2] = ["203.0.113.9", "2001:db8::9"];

/// A cluster whose nodes and pods are network namespaces.
pub(crate) struct World {
    fabric: Fabric,
    /// Keeps the fabric's own namespace.
    _home: NetNs,
    pods: BTreeMap<String, Pod>,
    outside: Arc<Place>,
    used: BTreeSet<IpAddr>,
    /// Objects that the evaluator must not see, as `NAMESPACE/NAME`.
    planted: BTreeSet<String>,
    /// What it sees instead of them.
    meant: Vec<String>,
    // Last: it takes away the namespaces' names.
    pub(crate) cluster: Cluster,
}

/// A pod that has a network.
pub(crate) struct Pod {
    pub(crate) node: String,
    pub(crate) ips: Vec<IpAddr>,
    place: Arc<Place>,
}

/// Whether such a world can be made; says loudly if not.
pub(crate) fn possible() -> bool {
    let root = std::fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0);
    if !root {
        eprintln!("SKIPPED: needs root");
    }
    root && Cluster::is_possible()
}

fn called(object: &Value) -> String {
    let part = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
    format!("{}/{}", part("namespace"), part("name"))
}

impl World {
    /// A cluster with two nodes and nothing on them.
    pub(crate) fn new() -> Self {
        let cluster = Cluster::start();
        let config = LabConfig {
            mirrors: None,
            name: String::new(),
            nodes: NODES.iter().map(|(node, _)| (*node).to_owned()).collect(),
            network: NetworkMode::Ptp,
            families: Families::Dual,
            externals: Vec::new(),
            enforce: false,
            dataplane: String::new(),
            limits: String::new(),
        };
        let home = NetNs::unnamed().unwrap();
        let mut fabric = home.within(|| Fabric::open(cluster.dir(), &config)).unwrap().unwrap();
        for (number, (name, _)) in (1..).zip(NODES) {
            let node = Node {
                name: name.into(),
                labels: Default::default(),
                addresses: plan::node_addresses(number, Families::Dual),
                pod_cidrs: plan::pod_cidrs(number, Families::Dual),
                source: None,
            };
            fabric.ensure_node(&node).unwrap();
            let cidrs: Vec<String> = node.pod_cidrs.iter().map(ToString::to_string).collect();
            let cidrs: Vec<&str> = cidrs.iter().map(String::as_str).collect();
            let object = mk_node(name, &node.addresses, &cidrs);
            cluster.create(&object);
            cluster.set_status(&object, &json!({ "status": object["status"] }));
        }
        let outside = Arc::new(Place {
            identity: Identity::Outside,
            namespace: Arc::new(fabric.outside().unwrap()),
            filters_itself: false,
        });
        Self {
            fabric,
            _home: home,
            pods: BTreeMap::new(),
            outside,
            used: BTreeSet::new(),
            planted: BTreeSet::new(),
            meant: Vec::new(),
            cluster,
        }
    }

    /// The agent of a node, not started yet.
    pub(crate) fn agent(&self, node: &str) -> AgentToStart {
        self.agent_of(None, node)
    }

    /// The same by another program.
    pub(crate) fn agent_of(&self, program: Option<&OsStr>, node: &str) -> AgentToStart {
        let (_, dataplane) = NODES.iter().find(|(name, _)| *name == node).unwrap();
        let program = program.unwrap_or(OsStr::new(env!("CARGO_BIN_EXE_podwall")));
        self.cluster
            .agent(program, node)
            .netns(&self.fabric.node_path(node))
            .dataplane(dataplane)
            .pins(&self.cluster.pins().join(node))
    }

    /// The agents of all nodes, ready.
    pub(crate) fn agents(&self) -> Vec<Agent> {
        let agents: Vec<Agent> = NODES.iter().map(|(node, _)| self.agent(node).start()).collect();
        agents.iter().for_each(Agent::until_ready);
        agents
    }

    /// Runs a pod: its network first, as a CNI plugin would, then its object, its address last.
    pub(crate) fn run(&mut self, namespace: &str, name: &str, app: &str, node: &str) {
        self.run_with(namespace, name, &[("app", app)], node);
    }

    /// The same with any labels.
    pub(crate) fn run_with(
        &mut self,
        namespace: &str,
        name: &str,
        labels: &[(&str, &str)],
        node: &str,
    ) {
        let ips = self.plug(namespace, name, node);
        self.state(namespace, name, labels, node, &ips);
    }

    /// The object and the address of a pod that has its network already.
    pub(crate) fn state(
        &self,
        namespace: &str,
        name: &str,
        labels: &[(&str, &str)],
        node: &str,
        ips: &[IpAddr],
    ) {
        self.cluster.run_pod(&mk_pod(namespace, name, labels, node), ips);
    }

    /// Runs a pod that kubectl created: binds it to a node, as the scheduler does.
    pub(crate) fn bind(&mut self, namespace: &str, name: &str, node: &str) {
        let ips = self.plug(namespace, name, node);
        let pod = mk_pod(namespace, name, &[], node);
        let binding = json!({ "apiVersion": "v1", "kind": "Binding",
            "metadata": { "namespace": namespace, "name": name },
            "target": { "kind": "Node", "name": node } });
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/binding");
        self.cluster.request("POST", &path, &binding).unwrap();
        self.cluster.set_status(&pod, &running(&ips));
    }

    /// A pod's network, without its object. Its addresses.
    pub(crate) fn plug(&mut self, namespace: &str, name: &str, node: &str) -> Vec<IpAddr> {
        let number = (1..).zip(NODES).find(|(_, (known, _))| *known == node).unwrap().0;
        let cidrs = plan::pod_cidrs(number, Families::Dual);
        let ips: Vec<IpAddr> = cidrs
            .into_iter()
            .map(|cidr| plan::free_pod_address(cidr, &self.used).unwrap())
            .collect();
        self.used.extend(&ips);
        let id = format!("{namespace}.{name}");
        let plug = PodPlug { id: id.clone(), node: node.to_owned(), ips: ips.clone() };
        self.fabric.plug_pod(&plug).unwrap();
        self.fabric.activate_pod(&id).unwrap();
        let place = Arc::new(Place {
            identity: Identity::pod(namespace, name),
            namespace: Arc::new(self.fabric.pod(&id).unwrap()),
            filters_itself: false,
        });
        let pod = Pod { node: node.to_owned(), ips: ips.clone(), place };
        self.pods.insert(format!("{namespace}/{name}"), pod);
        ips
    }

    /// Deletes a pod with kubectl, and its network. Its addresses are free again.
    pub(crate) fn remove(&mut self, namespace: &str, name: &str) {
        let now = ["--force", "--grace-period=0"];
        let args = [&["delete", "pod", "-n", namespace, name][..], &now].concat();
        self.cluster.kubectl(&args, None);
        self.fabric.remove_pod(&format!("{namespace}.{name}")).unwrap();
        for ip in self.pods.remove(&format!("{namespace}/{name}")).unwrap().ips {
            self.used.remove(&ip);
        }
    }

    /// Writes an object past the server's checks. The evaluator takes `meant` for it, or nothing.
    pub(crate) fn plant(&mut self, object: &Value, meant: Option<&str>) {
        self.cluster.plant(object);
        self.planted.insert(called(object));
        self.meant.extend(meant.map(str::to_owned));
    }

    /// A pod, as `NAMESPACE/NAME`.
    pub(crate) fn pod(&self, name: &str) -> &Pod {
        self.pods.get(name).unwrap_or_else(|| panic!("no pod {name}"))
    }

    /// What the evaluator makes of the cluster as kubectl prints it.
    fn judge(&self) -> podwall_policy::cluster::Cluster {
        let kinds = "namespaces,nodes,pods,networkpolicies";
        let text = self.cluster.kubectl(&["get", kinds, "-A", "-o", "json"], None);
        let mut list: Value = serde_json::from_str(&text).unwrap();
        let items = list["items"].as_array_mut().unwrap();
        items.retain(|object| !self.planted.contains(&called(object)));
        let texts = [list.to_string()].into_iter().chain(self.meant.iter().cloned());
        let inputs: Vec<Input> =
            texts.map(|text| Input::Text { name: "kubectl get".into(), text }).collect();
        let reading = read(&inputs, &Options::default());
        assert!(!reading.has_errors(), "{}", render_all(&reading.diagnostics, false));
        reading.cluster()
    }

    /// Sends every pod's packets to all others and the outside, and the outside's to all pods, and
    /// compares with the evaluator. How many passed, and how many did not; or all that disagree.
    fn compare(&self, ports: &[(Protocol, u16)]) -> Result<(usize, usize), Vec<String>> {
        let judge = self.judge();
        let mut ends: Vec<(&Arc<Place>, Vec<IpAddr>)> =
            self.pods.values().map(|pod| (&pod.place, pod.ips.clone())).collect();
        ends.push((&self.outside, OUTSIDE.map(|ip| ip.parse().unwrap()).to_vec()));
        let mut tasks = Vec::new();
        for (from, sources) in &ends {
            for (to, targets) in &ends {
                if Arc::ptr_eq(from, to) {
                    continue;
                }
                for (source, target) in sources.iter().zip(targets) {
                    let [src, dst] = [*source, *target].map(|ip| Party::at(&judge, ip));
                    let flow = Flow { src, dst, family: Family::of(*target) };
                    let evaluation = evaluate(&judge, &flow);
                    for (protocol, port) in ports {
                        let passes = match evaluation.verdict(*protocol, *port) {
                            Verdict::Allowed => true,
                            Verdict::Denied => false,
                            Verdict::Unknown => panic!("all facts are known: {flow:?}"),
                        };
                        tasks.push(ProbeTask {
                            source: Arc::clone(from),
                            source_address: Some(*source),
                            destination: *target,
                            protocol: *protocol,
                            port: *port,
                            arrives_at: vec![Arc::clone(to)],
                            expect: Some(passes),
                        });
                    }
                }
            }
        }
        let options = ProbeOptions { quiet: Duration::from_millis(100), ..Default::default() };
        let results = probe::run(tasks.clone(), &options, |_| {}).unwrap();
        let mut counts = (0, 0);
        let mut wrong = Vec::new();
        for (task, result) in tasks.iter().zip(&results) {
            let passed = result.got_through();
            *(if passed { &mut counts.0 } else { &mut counts.1 }) += 1;
            if Some(passed) != task.expect {
                let ProbeTask { source, source_address, destination, protocol, port, .. } = task;
                wrong.push(format!(
                    "{} ({source_address:?}) → {destination} {protocol} {port}: {result}",
                    source.identity
                ));
            }
        }
        if wrong.is_empty() { Ok(counts) } else { Err(wrong) }
    }

    /// Whether packets from one pod to another arrive: one for each pair of addresses.
    pub(crate) fn passes(
        &self,
        from: &str,
        to: &str,
        (protocol, port): (Protocol, u16),
    ) -> Vec<bool> {
        let [from, to] = [from, to].map(|name| self.pod(name));
        let tasks = from.ips.iter().zip(&to.ips).map(|(source, target)| ProbeTask {
            source: Arc::clone(&from.place),
            source_address: Some(*source),
            destination: *target,
            protocol,
            port,
            arrives_at: vec![Arc::clone(&to.place)],
            expect: None,
        });
        let options = ProbeOptions { quiet: Duration::from_millis(100), ..Default::default() };
        let results = probe::run(tasks.collect(), &options, |_| {}).unwrap();
        results.iter().map(ProbeResult::got_through).collect()
    }

    /// Waits until all packets do what the evaluator says of the cluster as it is. How many passed,
    /// and how many did not.
    #[track_caller]
    pub(crate) fn agree(&self, title: &str, ports: &[(Protocol, u16)]) -> (usize, usize) {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.compare(ports) {
                Ok(counts) => {
                    println!("{title}: {} packets passed, {} did not", counts.0, counts.1);
                    return counts;
                }
                Err(wrong) if Instant::now() > end => {
                    let some = wrong[..wrong.len().min(20)].join("\n");
                    panic!("{title}: {} packets disagree:\n{some}", wrong.len());
                }
                Err(_) => thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}
