//! What does an agent need while a large cluster comes to be?
//!
//! By hand, as root: `PODWALL_KUBE_ASSETS=$(scripts/kube-apiserver) cargo test -p podwall --test
//! agent_scale -- --ignored --nocapture`

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends at the first surprise")]

mod world;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use podwall_cluster::{Agent, mk_namespace, mk_pod, mk_policy};
use serde_json::{Value, json};
use world::{NODES, World, possible};

const PODS: u16 = 5_000;
const POLICIES: u16 = 2_000;
const NAMESPACES: u16 = 50;
/// Pods of each node that has an agent; the others are on nodes without.
const LOCAL: u16 = 100;

fn namespace(number: u16) -> String {
    format!("team-{}", number % NAMESPACES)
}

fn app(number: u16) -> String {
    format!("app-{}", number / NAMESPACES % 20)
}

fn mk_numbered_pod(number: u16) -> (Value, Vec<IpAddr>) {
    let node = match number {
        n if n < LOCAL => "n1".to_owned(),
        n if n < 2 * LOCAL => "n2".to_owned(),
        n => format!("other-{}", n / LOCAL),
    };
    let [high, low] = number.to_be_bytes();
    let ips = vec![
        Ipv4Addr::new(10, 245, high, low).into(),
        Ipv6Addr::new(0xfd00, 0x10, 0x245, 0, 0, 0, 0, number).into(),
    ];
    let name = format!("pod-{number}");
    let (app, tier) = (app(number), format!("tier-{}", number % 7));
    let pod = mk_pod(&namespace(number), &name, &[("app", &app), ("tier", &tier)], &node);
    (pod, ips)
}

/// Who may reach an app of a namespace: another app of it, a tier of another, some blocks.
fn mk_numbered_policy(number: u16) -> Value {
    let selected = json!({ "matchLabels": { "app": app(number) } });
    let spec = json!({ "podSelector": selected, "ingress": [{
        "from": [
            { "podSelector": { "matchLabels": { "app": app(number + 7 * NAMESPACES) } } },
            { "namespaceSelector": { "matchLabels": { "number": (number % 10).to_string() } },
              "podSelector": { "matchLabels": { "tier": format!("tier-{}", number % 7) } } },
            { "ipBlock": { "cidr": format!("198.18.{}.0/24", number % 250) } }],
        "ports": [{ "port": 80 }, { "port": 8000 + number % 100, "protocol": "UDP" }] }] });
    mk_policy(&namespace(number), &format!("policy-{number}"), &spec)
}

/// What agents told of their latencies, to see what a phase adds: how many took at most so long.
type Buckets = Vec<(String, f64)>;

fn buckets(agent: &Agent) -> Buckets {
    let (_, text) = agent.http("/metrics").unwrap();
    text.lines()
        .filter_map(|line| line.strip_prefix("podwall_policy_ready_seconds_bucket{le=\""))
        .filter_map(|rest| rest.split_once("\"} "))
        .map(|(le, count)| (le.to_owned(), count.parse().unwrap()))
        .collect()
}

/// The upper bound of the bucket that holds this part of the latencies since `before`.
fn quantile(before: &Buckets, now: &Buckets, part: f64) -> String {
    let since = |at: usize| now[at].1 - before.get(at).map_or(0.0, |(_, count)| *count);
    let all = since(now.len() - 1);
    let found = (0..now.len()).find(|at| since(*at) >= all * part).unwrap();
    format!("≤ {} s", now[found].0)
}

/// Prints a phase, and gives what the next one begins with.
fn report(title: &str, agents: &[Agent], before: &[Buckets]) -> Vec<Buckets> {
    let mut after = Vec::new();
    for (index, (agent, (_, dataplane))) in agents.iter().zip(NODES).enumerate() {
        let none = Buckets::new();
        let (then, now) = (before.get(index).unwrap_or(&none), buckets(agent));
        let [rss, peak] = ["VmRSS", "VmHWM"].map(|line| agent.memory(line) / 1024);
        let [half, most, all] = [0.5, 0.99, 1.0].map(|part| quantile(then, &now, part));
        println!(
            "{title}: {dataplane}: {rss} MiB now, {peak} MiB at most; from the event to the kernel: \
             median {half}, 99 % {most}, all {all}; {} changes so far",
            agent.metric("podwall_changes_total"),
        );
        after.push(now);
    }
    after
}

fn until_known(agents: &[Agent], kind: &str, count: u16) {
    let name = format!("podwall_objects{{kind=\"{kind}\"}}");
    for agent in agents {
        agent.until("it knows all", |agent| agent.metric(&name) >= f64::from(count));
    }
}

#[test]
#[ignore = "measures for minutes; run by hand"]
fn a_node_while_five_thousand_pods_and_two_thousand_policies_are_created() {
    if !possible() {
        return;
    }
    let world = World::new();
    let agents = world.agents();
    let before = report("nothing", &agents, &[]);
    let namespaces: Vec<Value> = (0..NAMESPACES)
        .map(|n| mk_namespace(&namespace(n), &[("number", &(n % 10).to_string())]))
        .collect();
    world.cluster.create_all(&namespaces);

    let start = Instant::now();
    let pods: Vec<(Value, Vec<IpAddr>)> = (0..PODS).map(mk_numbered_pod).collect();
    world.cluster.run_pods(&pods);
    let created = start.elapsed();
    until_known(&agents, "Pod", PODS);
    println!(
        "{PODS} pods created in {created:.1?}, known everywhere {:.0?} later",
        start.elapsed() - created
    );
    let before = report("pods", &agents, &before);

    let start = Instant::now();
    let policies: Vec<Value> = (0..POLICIES).map(mk_numbered_policy).collect();
    world.cluster.create_all(&policies);
    let created = start.elapsed();
    until_known(&agents, "NetworkPolicy", POLICIES);
    println!(
        "{POLICIES} policies created in {created:.1?}, known everywhere {:.0?} later",
        start.elapsed() - created
    );
    report("policies", &agents, &before);

    // A new agent finds it all at once.
    drop(agents);
    let start = Instant::now();
    let agents = world.agents();
    println!("agents started anew are ready after {:.1?}", start.elapsed());
    report("started anew", &agents, &[]);
    for agent in &agents {
        println!("{}", agent.log());
        assert!(agent.metric("podwall_kernel_errors_total") == 0.0, "{}", agent.log());
    }
}
