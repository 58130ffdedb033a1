//! What people do with kubectl is what packets meet.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends at the first surprise")]

mod world;

use podwall_cluster::mk_namespace;
use podwall_policy::port::Protocol;
use world::{NODES, World, possible};

const PORTS: [(Protocol, u16); 3] =
    [(Protocol::TCP, 80), (Protocol::TCP, 5432), (Protocol::UDP, 53)];

fn mk_policy(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {{namespace: {namespace}, name: {name}}}\nspec: {spec}\n"
    )
}

#[test]
fn each_step_with_kubectl_decides_the_next_packets() {
    if !possible() {
        return;
    }
    let mut world = World::new();
    let agents = world.agents();
    world.cluster.create(&mk_namespace("shop", &[("team", "a")]));
    world.cluster.create(&mk_namespace("tools", &[("team", "b")]));
    for (node, _) in NODES {
        for app in ["web", "db"] {
            world.run("shop", &format!("{app}-{node}"), app, node);
        }
        world.run("tools", &format!("ops-{node}"), "ops", node);
    }
    let all = world.agree("no policy", &PORTS);
    assert_eq!(all.1, 0);

    world.cluster.apply(&mk_policy(
        "shop",
        "db",
        "{podSelector: {matchLabels: {app: db}}, ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 5432}]}]}",
    ));
    let (_, closed) = world.agree("a policy for db", &PORTS);
    assert!(closed > 0 && closed < all.0);

    // One pod of another label, one namespace of another label, in two directions.
    world.cluster.kubectl(&["label", "pod", "-n", "shop", "web-n1", "app=db", "--overwrite"], None);
    let (_, more) = world.agree("a pod is relabelled", &PORTS);
    assert!(more > closed);
    world.cluster.apply(&mk_policy(
        "shop",
        "team",
        "{podSelector: {}, policyTypes: [Ingress, Egress], \
         ingress: [{from: [{namespaceSelector: {matchLabels: {team: b}}}]}], \
         egress: [{to: [{namespaceSelector: {}}]}, {to: [{ipBlock: {cidr: 203.0.113.0/24}}]}]}",
    ));
    let (open, _) = world.agree("policies in both directions", &PORTS);
    world.cluster.kubectl(&["label", "namespace", "tools", "team=c", "--overwrite"], None);
    let (less, _) = world.agree("a namespace is relabelled", &PORTS);
    assert!(less < open);

    // A pod goes; another gets its addresses, and nothing of its rights.
    world.remove("shop", "web-n2");
    world.run("tools", "heir", "ops", "n2");
    world.agree("an address has another owner", &PORTS);
    world.cluster.kubectl(&["delete", "networkpolicy", "-n", "shop", "--all"], None);
    let (_, closed) = world.agree("no policy any more", &PORTS);
    assert_eq!(closed, 0);
    for agent in &agents {
        assert!(agent.metric("podwall_kernel_errors_total") == 0.0, "{}", agent.log());
    }
}

/// The documents that the project was founded on; whole manifests of them stand in this directory.
const SEEDS: &str = "../podwall-manifest/tests/seeds";

/// The pods that they speak of, and others beside them.
const CAST: [(&str, &str, &[(&str, &str)]); 12] = [
    ("default", "frontend", &[("app", "frontend"), ("role", "frontend")]),
    ("default", "backend", &[("app", "backend")]),
    ("default", "my-app", &[("app", "my-app")]),
    ("default", "shop-web", &[("app", "web")]),
    ("default", "app-server", &[("app", "app-server")]),
    ("default", "database", &[("app", "database")]),
    ("prod", "anybody", &[("app", "anybody")]),
    ("my-namespace", "one", &[("app", "frontend")]),
    ("app", "member", &[("app", "web")]),
    ("demo-network", "frontend", &[("app", "frontend")]),
    ("demo-network", "backend", &[("app", "backend")]),
    ("demo-network", "database", &[("app", "database")]),
];

#[test]
fn the_founding_documents_manifests_hold_as_kubectl_applies_them() {
    if !possible() {
        return;
    }
    let mut world = World::new();
    let _agents = world.agents();
    for (name, labels) in [
        ("prod", &[("env", "prod")][..]),
        ("my-namespace", &[]),
        ("app", &[("name", "app")]),
        ("demo-network", &[]),
    ] {
        world.cluster.create(&mk_namespace(name, labels));
    }
    for (number, (namespace, name, labels)) in CAST.into_iter().enumerate() {
        world.run_with(namespace, name, labels, NODES[number % 2].0);
    }
    let ports = [80, 443, 3306, 5000].map(|port| (Protocol::TCP, port));
    let ports = [&ports[..], &[(Protocol::UDP, 53)]].concat();
    for document in ["000", "001", "002", "003", "004"] {
        let mut files: Vec<String> = std::fs::read_dir(SEEDS)
            .unwrap()
            .map(|entry| entry.unwrap().path().to_str().unwrap().to_owned())
            .filter(|path| path.contains(&format!("/{document}-")))
            .collect();
        files.sort();
        // One after another, as people read: what each adds to those before it.
        let (mut policies, mut pods) = (0, Vec::new());
        for file in &files {
            let said = world.cluster.kubectl(&["apply", "-f", file], None);
            for line in said.lines() {
                match line.split(['/', ' ']).collect::<Vec<_>>()[..] {
                    ["networkpolicy.networking.k8s.io", ..] => policies += 1,
                    ["pod", name, ..] => pods.push(name.to_owned()),
                    _ => panic!("{file}: {said}"),
                }
            }
        }
        for pod in &pods {
            world.bind("default", pod, "n1");
        }
        let title = format!("document {document}: {policies} policies, {} pods", pods.len());
        let (open, closed) = world.agree(&title, &ports);
        assert!(open > 0 && closed > 0);
        for pod in &pods {
            world.remove("default", pod);
        }
        world.cluster.kubectl(&["delete", "networkpolicies", "-A", "--all"], None);
    }
}
