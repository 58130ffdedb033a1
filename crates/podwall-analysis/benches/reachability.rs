//! How long does the engine take in a large cluster, and how much does it hold?
//!
//! ```text
//!   ns-0 … ns-999   100 pods each: apps of three replicas, addresses of both families in a quarter
//!     default deny ┐
//!     DNS, metrics │ for all pods of the namespace
//!     app to app   │ in the namespace, to another, to namespaces of a team
//!     blocks       ┘ a /24 of the outside; 0.0.0.0/0 without private addresses
//! ```
//!
//! `cargo bench -p podwall-analysis`; `PODS` and `POLICIES` set the size. Prints medians and the
//! slowest of a hundred; memory as the kernel counts it. `PART` names a file to which times go as the
//! part of a report, in milliseconds. Nothing here can fail: speed is no test.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use podwall_analysis::difference::{Whys, difference};
use podwall_analysis::matrix::{By, matrix};
use podwall_analysis::reachability::Reachability;
use podwall_analysis::reachability::factored::Factored;
use podwall_compile::testing::dice::Dice;
use podwall_policy::address::IpBlock;
use podwall_policy::cluster::Cluster;
use podwall_policy::explain::Question;
use podwall_policy::flow::Party;
use podwall_policy::label::Labels;
use podwall_policy::object::{Name, Namespace, Node, Owner, Pod};
use podwall_policy::policy::{NamespaceScope, Peer, PodScope, Policy, Rule, Tier};
use podwall_policy::port::{ContainerPort, PortMatch, PortRange, PortSpec, Protocol};
use podwall_policy::selector::Selector;

const PER_NAMESPACE: usize = 100;
const REPLICAS: usize = 3;
const PER_NODE: usize = 250;
const TEAMS: usize = 40;

fn main() {
    let size = |name: &str, default| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let (pods, policies) = (size("PODS", 100_000), size("POLICIES", 10_000));
    let mut dice = Dice::seeded(20_261_121);
    println!("{pods} pods, {policies} policies");
    let begin = Instant::now();
    let cluster = cluster(&mut dice, pods, policies);
    let (objects, _) = memory();
    let start = (Instant::now(), cpu());
    let mut engine = Reachability::owning(cluster);
    let built = since(start);
    note("built from objects in memory", "ms", [start.0.elapsed().as_secs_f64() * 1e3; 2], 1);
    let (all, peak) = memory();
    println!(
        "built in {built}; {objects} MiB of objects, {all} MiB with the engine, peak {peak} MiB"
    );
    println!("{:?}", engine.stats());

    let names: Vec<Name> = engine.cluster().pods.keys().cloned().collect();
    queries(&engine, &mut dice, &names);
    changes(&mut engine, &mut dice, &names);
    classes(&engine);
    if pods <= 20_000 {
        for by in [By::Workload, By::Pod] {
            let start = (Instant::now(), cpu());
            let found = matrix(engine.cluster(), by, None);
            let (rows, connections) = (found.rows.len(), found.connections.len());
            println!("matrix by {by:?}: {}, {rows} rows, {connections} connections", since(start));
        }
    }
    differences(engine.cluster(), &mut dice);
    println!("peak {} MiB", memory().1);
    if let Some(file) = std::env::var_os("PART") {
        note("memory at most", "MiB", [memory().1 as f64; 2], 1);
        let points = POINTS.lock().map(|points| points.join(",")).unwrap_or_default();
        let part = format!(
            "{{\"seconds\":{},\"command\":\"cargo bench -p podwall-analysis --bench reachability\",\
             \"points\":[{points}]}}\n",
            begin.elapsed().as_secs()
        );
        if let Err(error) = std::fs::write(&file, part) {
            eprintln!("{}: {error}", file.display());
        }
    }
}

/// Numbers of the report, as JSON.
static POINTS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Keeps a number for the report: its median, and the most.
fn note(what: &str, unit: &str, [median, most]: [f64; 2], samples: usize) {
    let point = format!(
        "{{\"part\":\"engine\",\"what\":\"{what}\",\"unit\":\"{unit}\",\"samples\":{samples},\
         \"value\":{{\"median\":{median},\"low\":{median},\"high\":{most}}}}}"
    );
    if let Ok(mut points) = POINTS.lock() {
        points.push(point);
    }
}

/// Two clusters, engines made anew for both: one policy has another port, then all have.
fn differences(before: &Cluster, dice: &mut Dice) {
    let change = |policy: &mut Policy| {
        let rules = policy.ingress.iter_mut().chain(&mut policy.egress).flatten();
        rules.for_each(|rule| rule.ports = vec![tcp(7777)]);
    };
    let one = dice.below(before.policies.len());
    for (what, all) in [("one policy", false), ("every policy", true)] {
        let mut after = before.clone();
        let policies = after.policies.values_mut().enumerate();
        policies.filter(|(i, _)| all || *i == one).for_each(|(_, policy)| change(policy));
        if all && before.pods.len() > 20_000 {
            break;
        }
        let start = (Instant::now(), cpu());
        let found = difference(before, &after, By::Workload);
        let compared = since(start);
        let start = (Instant::now(), cpu());
        let mut whys = Whys::of(&found);
        let rules: usize =
            found.changes.iter().map(|change| whys.why(change).allowed_by.len()).sum();
        let explained = since(start);
        let (rows, changes) = (found.rows.len(), found.changes.len());
        println!(
            "difference, {what}: {compared}, {rows} rows, {changes} changes; why, {rules} rules: \
             {explained}"
        );
    }
}

fn queries(engine: &Reachability<'_>, dice: &mut Dice, names: &[Name]) {
    let pods = &engine.cluster().pods;
    let question = Question::Port(Protocol::TCP, Some(8080));
    let mut random = || Party::Pod(&pods[dice.pick(names)]);
    let pairs: Vec<_> = (0..10_000).map(|_| (random(), random())).collect();
    // Whom every namespace lets in.
    let of_entry: Vec<&Name> = names.iter().filter(|name| &*name.namespace == "ns-2").collect();
    let near: Vec<_> = (0..10_000)
        .map(|_| (Party::Pod(&pods[*dice.pick(&of_entry)]), Party::Pod(&pods[dice.pick(names)])))
        .collect();
    for (what, pairs) in [("any pair", &pairs), ("from the entry", &near)] {
        let mut allowed = 0;
        let mut times = Vec::new();
        for some in pairs.chunks(100) {
            let start = Instant::now();
            for (src, dst) in some {
                let verdict = engine.verdict(*src, *dst, question);
                allowed += usize::from(verdict == Some(podwall_policy::evaluate::Verdict::Allowed));
            }
            times.push(start.elapsed() / 100);
        }
        say(&format!("can, {what} ({} % pass)", allowed / 100), times);
    }
    let times = near.iter().take(1000).map(|(src, dst)| {
        let start = Instant::now();
        std::hint::black_box(engine.passage(*src, *dst));
        start.elapsed()
    });
    say("all ports of a pair", times.collect());
}

fn changes(engine: &mut Reachability<'_>, dice: &mut Dice, names: &[Name]) {
    let policies: Vec<Policy> = engine.cluster().policies.values().cloned().collect();
    let mut time = |what: &str, change: &mut dyn FnMut(&mut Reachability<'_>, &mut Dice)| {
        let times = (0..100).map(|_| {
            let start = Instant::now();
            change(engine, dice);
            // With the first answer that follows it.
            let pods = &engine.cluster().pods;
            let (src, dst) = (&pods[dice.pick(names)], &pods[dice.pick(names)]);
            std::hint::black_box(engine.passage(Party::Pod(src), Party::Pod(dst)));
            start.elapsed()
        });
        let times = times.collect();
        say(what, times);
    };
    time("a policy's ports change", &mut |engine, dice| {
        let mut policy = dice.pick(&policies).clone();
        let rules = policy.ingress.iter_mut().chain(&mut policy.egress).flatten();
        rules.for_each(|rule| rule.ports = vec![tcp(u16::try_from(dice.below(9999)).unwrap_or(1))]);
        engine.put_policy(policy);
    });
    time("a policy's selectors change", &mut |engine, dice| {
        let mut policy = dice.pick(&policies).clone();
        let other = dice.pick(&policies);
        policy.subject.pods = other.subject.pods.clone();
        policy.ingress = other.ingress.clone();
        engine.put_policy(policy);
    });
    time("a policy goes and comes", &mut |engine, dice| {
        let policy = dice.pick(&policies).clone();
        engine.remove_policy(policy.tier, &policy.name);
        engine.put_policy(policy);
    });
    let everywhere = NamespaceScope::Matching(Selector::everything());
    let mut admin = Policy::network_policy("", "all", Selector::everything());
    admin.tier = Tier::Admin;
    admin.subject.namespaces = everywhere.clone();
    let all = PodScope { namespaces: everywhere.clone(), pods: Selector::everything() };
    admin.ingress = Some(vec![Rule::allow(vec![Peer::Pods(all)], vec![tcp(1)])]);
    time("an Admin policy for all pods comes and goes", &mut |engine, _| {
        engine.put_policy(admin.clone());
        engine.remove_policy(admin.tier, &admin.name);
    });
    // The worst that there is: each shape meets it.
    let mut labelled = admin.clone();
    labelled.subject.pods = Selector::labels([("part-of", "shop")]);
    time("an Admin policy for a label of all pods comes and goes", &mut |engine, _| {
        engine.put_policy(labelled.clone());
        engine.remove_policy(labelled.tier, &labelled.name);
    });
    time("a label of a pod", &mut |engine, dice| {
        let mut pod = engine.cluster().pods[dice.pick(names)].clone();
        let value = format!("a{}", dice.below(40));
        pod.labels = pod.labels.with("app", &value);
        engine.put_pod(pod);
    });
    time("a pod goes and comes", &mut |engine, dice| {
        let pod = engine.cluster().pods[dice.pick(names)].clone();
        engine.remove_pod(&pod.name);
        engine.put_pod(pod);
    });
    time("a label of a namespace", &mut |engine, dice| {
        let name = &dice.pick(names).namespace;
        let labels = [("team", format!("t{}", dice.below(TEAMS)))].into_iter().collect();
        engine.put_namespace(Namespace::new(name.clone(), &labels));
    });
}

fn classes(engine: &Reachability<'_>) {
    let start = (Instant::now(), cpu());
    let mut factored = Factored::new(engine);
    for pod in engine.cluster().pods.values() {
        std::hint::black_box(factored.pod(pod));
    }
    println!("classes of all pods: {}, {:?}", since(start), factored.sizes());
}

fn say(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let (median, most) = (times[times.len() / 2], times[times.len() - 1]);
    note(what, "ms", [median, most].map(|time| time.as_secs_f64() * 1e3), times.len());
    println!("{what}: {median:.1?} (slowest {most:.1?})");
}

/// The time that this process has had a processor, by the kernel's count.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let first = text.split_whitespace().next().and_then(|text| text.parse().ok());
    Duration::from_nanos(first.unwrap_or(0))
}

/// Time by the clock, and on a processor: they differ where others work, too.
fn since((start, before): (Instant, Duration)) -> String {
    format!("{:.2?} ({:.2?} on a processor)", start.elapsed(), cpu().saturating_sub(before))
}

/// Resident memory of this process now and at most, in MiB; 0 where the kernel does not say.
fn memory() -> (usize, usize) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let of = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kilobytes =
            line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<usize>().ok());
        kilobytes.unwrap_or(0) / 1024
    };
    (of("VmRSS:"), of("VmHWM:"))
}

fn tcp(port: u16) -> PortSpec {
    PortSpec { protocol: Protocol::TCP, port: PortMatch::Range(PortRange::one(port)) }
}

fn named(name: &str) -> PortSpec {
    PortSpec { protocol: Protocol::TCP, port: PortMatch::Named(name.into()) }
}

fn cluster(dice: &mut Dice, pods: usize, policies: usize) -> Cluster {
    let mut cluster = Cluster::default();
    let namespaces = pods.div_ceil(PER_NAMESPACE);
    for number in 0..namespaces {
        let labels = [("team", format!("t{}", number % TEAMS))].into_iter().collect();
        cluster.put_namespace(Namespace::new(format!("ns-{number}"), &labels));
    }
    for number in 0..pods.div_ceil(PER_NODE) {
        let high = u8::try_from(number % 250).unwrap_or_default();
        let low = u8::try_from(number / 250).unwrap_or_default();
        cluster.put_node(Node {
            name: format!("node-{number}").into(),
            labels: Labels::default(),
            addresses: vec![IpAddr::from([192, 168, low, high])],
            pod_cidrs: Vec::new(),
            source: None,
        });
    }
    for number in 0..pods {
        cluster.put_pod(pod(number, namespaces));
    }
    for number in 0..policies {
        cluster.put_policy(policy(dice, number, namespaces));
    }
    cluster
}

fn pod(number: usize, namespaces: usize) -> Pod {
    let (namespace, index) = (number % namespaces, number / namespaces);
    let app = index / REPLICAS;
    let labels: Labels = [
        ("app", format!("a{app}")),
        ("part-of", "shop".to_owned()),
        ("tier", ["front", "middle", "store"][app % 3].to_owned()),
        ("pod-template-hash", format!("{:x}", 7919 * (namespace * 100 + app))),
    ]
    .into_iter()
    .collect();
    let mut pod = Pod::new(format!("ns-{namespace}"), format!("a{app}-{index}"), labels);
    pod.node = Some(format!("node-{}", number / PER_NODE).into());
    let byte = |n: usize| u8::try_from(n % 256).unwrap_or_default();
    pod.ips.push(IpAddr::from([10, byte(number / 65_536), byte(number / 256), byte(number)]));
    if namespace % 4 == 0 {
        let low = u16::try_from(number % 65_536).unwrap_or_default();
        let high = u16::try_from(number / 65_536).unwrap_or_default();
        pod.ips.push(IpAddr::from([0xfd00, 0, 0, 0, 0, 0, high, low]));
    }
    pod.owner = Some(Owner { kind: "Deployment".into(), name: format!("a{app}").into() });
    for (name, number) in [("http", 8080), ("metrics", 9090)] {
        let name = Some(Arc::from(name));
        pod.ports.push(ContainerPort { name, number, protocol: Protocol::TCP });
    }
    pod
}

/// The first of a namespace's policies are those that every namespace has.
fn policy(dice: &mut Dice, number: usize, namespaces: usize) -> Policy {
    let (namespace, kind) = (number % namespaces, number / namespaces);
    let own = format!("ns-{namespace}");
    let all = Selector::everything;
    let app = |dice: &mut Dice| Selector::labels([("app", format!("a{}", dice.below(33)))]);
    let scope = |namespaces, pods| Peer::Pods(PodScope { namespaces, pods });
    let space = |name: String| {
        NamespaceScope::Matching(Selector::labels([("kubernetes.io/metadata.name", name)]))
    };
    let team = |dice: &mut Dice| {
        let team = format!("t{}", dice.below(TEAMS));
        NamespaceScope::Matching(Selector::labels([("team", team)]))
    };
    let mut policy = Policy::network_policy(own.clone(), format!("policy-{kind}"), all());
    match kind {
        0 => {
            policy.ingress = Some(Vec::new());
            policy.egress = (namespace % 3 < 2).then(Vec::new);
        }
        1 => {
            let dns = scope(space("ns-0".into()), Selector::labels([("app", "a0")]));
            let udp = PortSpec { protocol: Protocol::UDP, ..tcp(53) };
            let rule = Rule::allow(vec![dns], vec![udp, tcp(53)]);
            policy.egress = (namespace % 3 < 2).then(|| vec![rule]);
        }
        2 => {
            let monitoring = scope(space("ns-5".into()), all());
            policy.ingress = Some(vec![Rule::allow(vec![monitoring], vec![named("metrics")])]);
        }
        3 => {
            policy.subject.pods = Selector::labels([("tier", "front")]);
            let entry = scope(space("ns-2".into()), Selector::labels([("tier", "front")]));
            policy.ingress = Some(vec![Rule::allow(vec![entry], vec![named("http")])]);
        }
        4 => {
            policy.subject.pods = app(dice);
            let private = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"];
            let except = private.iter().filter_map(|net| net.parse().ok());
            let world = "0.0.0.0/0".parse().ok().map(|net| Peer::Block(IpBlock::new(net, except)));
            policy.egress = Some(vec![Rule::allow(world.into_iter().collect(), vec![tcp(443)])]);
        }
        5 => {
            policy.subject.pods = app(dice);
            let net =
                format!("{}.{}.{}.0/24", dice.between(11, 90), dice.below(256), dice.below(256));
            let net = net.parse().ok().map(|net| Peer::Block(IpBlock::new(net, [])));
            policy.ingress = Some(vec![Rule::allow(net.into_iter().collect(), vec![tcp(8080)])]);
        }
        6 => {
            policy.subject.pods = app(dice);
            let friends = scope(team(dice), app(dice));
            policy.ingress = Some(vec![Rule::allow(vec![friends], vec![named("http")])]);
        }
        7 => {
            policy.subject.pods = app(dice);
            let other = scope(space(format!("ns-{}", dice.below(namespaces))), app(dice));
            policy.egress = Some(vec![Rule::allow(vec![other], vec![tcp(8080)])]);
        }
        _ => {
            policy.subject.pods = app(dice);
            let peer = scope(NamespaceScope::Own(own.into()), app(dice));
            let rule = Rule::allow(vec![peer], vec![tcp(8080)]);
            policy.ingress = dice.chance(80).then(|| vec![rule.clone()]);
            policy.egress = dice.chance(40).then(|| vec![rule]);
        }
    }
    policy
}
