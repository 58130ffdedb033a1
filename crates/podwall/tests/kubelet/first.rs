//! What does a pod send before anybody knows it, and does it arrive?
//!
//! ```text
//!   namespace ─▶ sender ─▶ CNI ADD (…, podwall-cni) ─▶ sink counts, by who sent it
//!   bad: a policy forbids it          not one packet
//!   good: a policy allows it          soon after ADD
//! ```
//!
//! `PODWALL_FIRST=N` tries N pods.

use std::collections::BTreeMap;
use std::env;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use podwall_cluster::mk_policy;
use podwall_lab::netns::NetNs;
use serde_json::{Value, json};

use super::socket::plugins;
use super::{Nodes, mk_pod};

const PORT: u16 = 9000;

/// What a sink saw of one pod: its name, its packets, and of each the time since its last plugin had
/// returned (`None`: it had not).
type Seen = BTreeMap<String, Vec<Option<u64>>>;

/// Counts what arrives in a pod, until it is dropped.
struct Sink {
    seen: Arc<Mutex<Seen>>,
    over: Arc<AtomicBool>,
}

impl Sink {
    fn open(nodes: &Nodes, pod: &str) -> Self {
        let uid = nodes.pod(pod).unwrap()["metadata"]["uid"].as_str().unwrap().to_owned();
        let ns = NetNs::open(&nodes.inside().join(format!("ns/pod-{uid}"))).unwrap();
        let socket = ns.within(|| UdpSocket::bind(("0.0.0.0", PORT))).unwrap().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let (seen, over) = (Arc::<Mutex<Seen>>::default(), Arc::new(AtomicBool::new(false)));
        let (all, end) = (Arc::clone(&seen), Arc::clone(&over));
        thread::spawn(move || {
            let mut buffer = [0; 512];
            while !end.load(Ordering::Relaxed) {
                let Ok((n, _)) = socket.recv_from(&mut buffer) else { continue };
                let text = std::str::from_utf8(&buffer[..n]).unwrap();
                let words: Vec<&str> = text.split(' ').collect();
                assert!(words.len() == 5 && words[0] == "first", "{text}");
                let since = words[4].parse().ok();
                all.lock().unwrap().entry(words[1].to_owned()).or_default().push(since);
            }
        });
        Self { seen, over }
    }

    fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// A pod that sends to an address from the first moment.
fn mk_sender(name: &str, app: &str, to: &str) -> Value {
    let mut pod = mk_pod("default", name, &[("app", app)]);
    let what = format!("blast {to}:{PORT}");
    pod["metadata"]["annotations"] = json!({"lab.podwall.dev/first": what});
    pod
}

/// The lab's sender is as early as it says: before the last plugin has returned. Without it, nothing
/// that is found of first packets would mean anything.
#[test]
fn a_pod_sends_before_its_network_is_said_to_be_made() {
    if !Nodes::are_possible() {
        return;
    }
    let args = ["--nodes", "1", "--network", "bridge", "--ip-family", "v4", "--no-agents"];
    let nodes = Nodes::up("kubf", &args);
    nodes.cluster.create(&mk_pod("default", "sink", &[]));
    nodes.all_run(&["default/sink"]);
    let (sink, to) = (Sink::open(&nodes, "default/sink"), nodes.address("default/sink"));
    let names: Vec<String> = (0..8).map(|n| format!("early-{n}")).collect();
    let pods: Vec<Value> = names.iter().map(|name| mk_sender(name, "early", &to)).collect();
    nodes.cluster.create_all(&pods);
    nodes.until("all have sent, early and late", || {
        let seen = sink.seen();
        let late = |packets: &Vec<Option<u64>>| packets.iter().any(Option::is_some);
        (seen.len() == names.len() && seen.values().all(late)).then_some(())
    });
    let seen = sink.seen();
    // More than one: the moment between the plugin's return and its note may be one packet.
    let early = |packets: &Vec<Option<u64>>| packets.iter().filter(|it| it.is_none()).count();
    let most = seen.values().map(early).max().unwrap_or_default();
    assert!(most > 2, "the pods sent at most {most} packets before their last plugin returned");

    let broken = json!({"lab.podwall.dev/first": "blast web"});
    let mut pod = mk_pod("default", "broken", &[]);
    pod["metadata"]["annotations"] = broken;
    nodes.cluster.create(&pod);
    nodes.until("what is wrong with an annotation is said", || {
        let pod = nodes.pod("default/broken")?;
        let state = pod.pointer("/status/containerStatuses/0/state/waiting/message")?;
        state.as_str()?.contains("ADDRESS:PORT").then_some(())
    });
}

/// What is tried with waves of pods that send from the first moment: `bad` ones that a policy forbids to
/// send, `good` ones that may.
struct Trial {
    /// What was heard of whom.
    seen: Seen,
    /// The good ones, with what they met: where the other was, and whether a policy guarded it.
    good: BTreeMap<String, &'static str>,
}

impl Trial {
    /// Tries so many pods, in waves: others come while these go.
    fn run(nodes: &Nodes, wanted: usize) -> Self {
        let deny =
            json!({"podSelector": {"matchLabels": {"app": "bad"}}, "policyTypes": ["Egress"]});
        nodes.cluster.create(&mk_policy("default", "bad-sends-nothing", &deny));
        let allow = json!({"podSelector": {"matchLabels": {"app": "sink"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "good"}}}]}]});
        nodes.cluster.create(&mk_policy("default", "good-is-heard", &allow));
        nodes.cluster.create(&mk_pod("default", "sink", &[("app", "sink")]));
        nodes.cluster.create(&mk_pod("default", "open", &[("app", "open")]));
        // One that policies guard, and one that nobody guards: there the sender's own policy is alone.
        let sinks = ["sink", "open"].map(|name| format!("default/{name}"));
        nodes.all_run(&sinks.each_ref().map(String::as_str));
        let node = |pod: &str| nodes.pod(pod).unwrap()["spec"]["nodeName"].clone();
        let places = sinks.each_ref().map(|name| node(name));
        let counts = sinks.each_ref().map(|name| Sink::open(nodes, name));
        let to = sinks.each_ref().map(|name| nodes.address(name));
        let mut good = BTreeMap::new();
        let mut tried = 0;
        while tried < wanted {
            let wave = 12.min(wanted - tried);
            let name = |app: &str, n: usize| format!("{app}-{}", tried + n);
            let app = |n: usize| if n.is_multiple_of(2) { "bad" } else { "good" };
            let mk = |n: usize| mk_sender(&name(app(n), n), app(n), &to[n / 2 % 2]);
            let pods: Vec<Value> = (0..wave).map(mk).collect();
            nodes.cluster.create_all(&pods);
            let names: Vec<String> =
                (0..wave).map(|n| format!("default/{}", name(app(n), n))).collect();
            nodes.all_run(&names.iter().map(String::as_str).collect::<Vec<_>>());
            for n in (0..wave).filter(|n| app(*n) == "good") {
                let sink = n / 2 % 2;
                let meets = match (node(&names[n]) == places[sink], sink) {
                    (true, 0) => "a guarded pod of its node",
                    (true, _) => "an open pod of its node",
                    (false, 0) => "a guarded pod of another node",
                    (false, _) => "an open pod of another node",
                };
                let heard = || counts[sink].seen().contains_key(&names[n]).then_some(());
                nodes.until(&format!("{} is heard", names[n]), heard);
                good.insert(names[n].clone(), meets);
            }
            pods.iter().for_each(|pod| {
                let name = pod["metadata"]["name"].as_str().unwrap();
                nodes.kubectl(&["delete", "pod", name, "--wait=false"]);
            });
            tried += wave;
        }
        Self { seen: counts.iter().flat_map(Sink::seen).collect(), good }
    }

    /// How long after the last plugin's return the first packet was sent that was heard.
    fn print(&self, title: &str) {
        let mut groups: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for (name, meets) in &self.good {
            // Heard before it returned is heard at once.
            let since = self.seen[name].iter().map(|it| it.unwrap_or(0)).min().unwrap();
            groups.entry(meets).or_default().push(since);
        }
        for (meets, mut all) in groups {
            all.sort_unstable();
            let [middle, most, last] = [50, 95, 100].map(|part| all[(all.len() - 1) * part / 100]);
            let soon = all.iter().filter(|since| **since <= 5000).count();
            eprintln!(
                "{title}, {meets}: {} pods, median {middle} µs, 95 % {most} µs, last {last} µs, \
                 {soon} within 5 ms",
                all.len()
            );
        }
    }
}

/// How many pods are tried.
fn wanted() -> usize {
    env::var("PODWALL_FIRST").ok().and_then(|it| it.parse().ok()).unwrap_or(24)
}

const NETWORK: [&str; 6] = ["--nodes", "2", "--network", "bridge", "--ip-family", "v4"];

/// Of pods that a policy forbids to send not one packet passes, however early; those that may send are
/// heard.
#[test]
fn not_one_first_packet_passes_that_a_policy_forbids() {
    let Some(bin) = plugins().filter(|_| Nodes::are_possible()) else { return };
    let nodes = Nodes::up("kubf", &[&NETWORK[..], &["--cni-bin", &bin]].concat());
    let trial = Trial::run(&nodes, wanted());
    let bad: Vec<&String> = trial.seen.keys().filter(|name| name.contains("/bad-")).collect();
    assert!(bad.is_empty(), "of {} pods these were heard: {bad:?}", wanted());
    trial.print("with agents");
}

/// What of the time until the first packet is the network's own: `--ignored --nocapture`.
#[test]
#[ignore = "a measurement: nothing is enforced"]
fn the_same_first_packets_where_nobody_enforces() {
    if Nodes::are_possible() {
        let nodes = Nodes::up("kubf", &[&NETWORK[..], &["--no-agents"]].concat());
        Trial::run(&nodes, wanted()).print("without agents");
    }
}
