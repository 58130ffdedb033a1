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

/// Of pods that a policy forbids to send not one packet passes, however early; those that may send are
/// heard.
#[test]
fn not_one_first_packet_passes_that_a_policy_forbids() {
    let Some(bin) = plugins().filter(|_| Nodes::are_possible()) else { return };
    let wanted = env::var("PODWALL_FIRST").ok().and_then(|it| it.parse::<usize>().ok());
    let wanted = wanted.unwrap_or(24);
    let args = ["--nodes", "2", "--network", "bridge", "--ip-family", "v4", "--cni-bin"];
    let nodes = Nodes::up("kubf", &[&args[..], &[&bin]].concat());
    let deny = json!({"podSelector": {"matchLabels": {"app": "bad"}}, "policyTypes": ["Egress"]});
    nodes.cluster.create(&mk_policy("default", "bad-sends-nothing", &deny));
    let allow = json!({"podSelector": {"matchLabels": {"app": "sink"}},
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "good"}}}]}]});
    nodes.cluster.create(&mk_policy("default", "good-is-heard", &allow));
    nodes.cluster.create(&mk_pod("default", "sink", &[("app", "sink")]));
    nodes.cluster.create(&mk_pod("default", "open", &[("app", "open")]));
    nodes.all_run(&["default/sink", "default/open"]);
    nodes.agree("before", &["sink", "open"]);
    // One that policies guard, and one that nobody guards: there the sender's own policy is alone.
    let sinks = ["sink", "open"].map(|name| format!("default/{name}"));
    let counts = sinks.each_ref().map(|name| Sink::open(&nodes, name));
    let to = sinks.each_ref().map(|name| nodes.address(name));

    let (mut tried, mut soonest) = (0, Vec::new());
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
        for good in names.iter().filter(|name| name.starts_with("default/good")) {
            let heard = || {
                let seen = counts.iter().find_map(|sink| sink.seen().get(good).cloned())?;
                Some(seen.into_iter().flatten().min().unwrap_or(0))
            };
            soonest.push(nodes.until(&format!("{good} is heard"), heard));
        }
        // Others come while these go.
        pods.iter().for_each(|pod| {
            let name = pod["metadata"]["name"].as_str().unwrap();
            nodes.kubectl(&["delete", "pod", name, "--wait=false"]);
        });
        tried += wave;
    }
    let bad: Vec<String> = counts.iter().flat_map(|sink| sink.seen().into_keys()).collect();
    let bad: Vec<&String> = bad.iter().filter(|name| name.contains("/bad-")).collect();
    assert!(bad.is_empty(), "of {tried} pods these were heard: {bad:?}");
    soonest.sort_unstable();
    let (middle, last) = (soonest[soonest.len() / 2], soonest[soonest.len() - 1]);
    eprintln!("{tried} pods; allowed ones were heard after {middle} µs, the last after {last} µs");
}
