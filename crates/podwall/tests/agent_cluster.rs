//! What people do with kubectl is what packets meet.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends at the first surprise")]

mod world;

use std::process::Command;

use podwall_cluster::{Agent, Cluster, mk_namespace, mk_pod};
use podwall_policy::port::Protocol;
use serde_json::json;
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

type Labels = &'static [(&'static str, &'static str)];

/// The pods that they speak of, and others beside them: namespace, name, labels.
const CAST: [(&str, &str, Labels); 12] = [
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

#[test]
fn an_object_that_cannot_be_read_harms_no_other() {
    if !possible() {
        return;
    }
    let mut world = World::new();
    let mut agents = world.agents();
    world.cluster.create(&mk_namespace("shop", &[]));
    for (node, _) in NODES {
        for app in ["web", "db", "cache"] {
            world.run("shop", &format!("{app}-{node}"), app, node);
        }
    }
    world.agree("before", &PORTS);
    let said = |agent: &Agent| {
        for kind in ["NetworkPolicy", "Pod"] {
            let name = format!("podwall_unusable_objects{{kind=\"{kind}\"}}");
            agent.until("it says so", |agent| agent.metric(&name) >= 1.0);
        }
        assert!(agent.log().contains("shop/broken") && agent.log().contains("shop/odd"));
        assert!(agent.is_ready(), "{}", agent.log());
    };
    // Past the server's checks. Whom the policy selects is isolated; nobody has the pod's address.
    let cache = "podSelector: {matchLabels: {app: cache}}, policyTypes: [Ingress]";
    let broken = json!({ "podSelector": { "matchLabels": { "app": "cache" } },
        "policyTypes": ["Ingress"], "ingress": [{ "from": [{ "ipBlock": { "cidr": "nonsense" } }] }] });
    let broken = podwall_cluster::mk_policy("shop", "broken", &broken);
    let meant = mk_policy("shop", "broken", &format!("{{{cache}}}"));
    world.plant(&broken, Some(&meant));
    let mut pod = mk_pod("shop", "odd", &[("app", "web")], "n1");
    pod["status"] = json!({ "phase": "Running", "podIPs": [{ "ip": "nowhere" }] });
    world.plant(&pod, None);
    agents.iter().for_each(said);
    world.agree("with broken objects", &PORTS);

    // Later changes are heard, and an agent that finds the broken ones in its first list works.
    world.cluster.apply(&mk_policy("shop", "db", "{podSelector: {matchLabels: {app: db}}}"));
    world.agree("a change among broken objects", &PORTS);
    agents.clear();
    let agents = world.agents();
    agents.iter().for_each(said);
    world.agree("listed with broken objects", &PORTS);
}

/// What the agents' account may do: no more and no less.
#[test]
fn an_agent_may_read_what_it_needs_and_write_events_and_nothing_else() {
    if !possible() {
        return;
    }
    let cluster = Cluster::start();
    let kubeconfig = cluster.agent_kubeconfig();
    let kubeconfig = kubeconfig.to_str().unwrap();
    let as_agent = |args: &[&str]| {
        let args = [&["--kubeconfig", kubeconfig][..], args].concat();
        cluster.try_kubectl(&args, None)
    };
    // Every verb on every kind that the server has.
    let kinds = cluster.kubectl(&["api-resources", "-o", "name"], None);
    let kinds: Vec<&str> = kinds.lines().collect();
    assert!(kinds.len() > 40, "{kinds:?}");
    let read = ["namespaces", "nodes", "pods", "networkpolicies.networking.k8s.io"];
    let review = |verb: &str, kind: &str| {
        let (resource, group) = kind.split_once('.').unwrap_or((kind, ""));
        let asked = json!({ "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": { "user": "system:serviceaccount:podwall:podwall",
                      "groups": ["system:serviceaccounts", "system:serviceaccounts:podwall", "system:authenticated"],
                      "resourceAttributes": { "verb": verb, "group": group, "resource": resource } } });
        cluster.create(&asked)["status"]["allowed"] == true
    };
    let verbs = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];
    for kind in &kinds {
        for verb in verbs {
            let reads = read.contains(kind) && ["get", "list", "watch"].contains(&verb);
            let reports = ["events", "events.events.k8s.io"].contains(kind)
                && ["create", "patch"].contains(&verb);
            // Asking what one may do is everybody's right (system:basic-user).
            let asks = kind.starts_with("selfsubject") && verb == "create";
            assert_eq!(review(verb, kind), reads || reports || asks, "{verb} {kind}");
        }
    }
    assert!(!review("*", "*"));
    for parts in ["pods/status", "pods/exec", "pods/log", "nodes/status", "nodes/proxy"] {
        assert!(!review("get", parts) && !review("create", parts) && !review("patch", parts));
    }
    // Its very token, not only what is said of it.
    for allowed in
        [&["get", "pods", "-A"][..], &["get", "networkpolicies", "-A"], &["get", "nodes"]]
    {
        as_agent(allowed).unwrap();
    }
    for refused in [
        &["get", "secrets", "-A"][..],
        &["get", "configmaps", "-A"],
        &["label", "namespace", "podwall", "a=b"],
        &["create", "namespace", "mine"],
        &["delete", "networkpolicies", "-n", "podwall", "--all"],
    ] {
        let said = as_agent(refused);
        let forbidden = said.as_ref().err().is_some_and(|words| words.contains("Forbidden"));
        // Nothing to delete: kubectl lists first, which is allowed.
        assert!(forbidden || refused[0] == "delete", "{refused:?}: {said:?}");
    }
    // And the agent itself says that it is enough.
    let check = Command::new(env!("CARGO_BIN_EXE_podwall"))
        .args(["agent", "--check", "--kubeconfig", kubeconfig])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&check.stdout);
    for kind in ["namespaces", "pods", "networkpolicies"] {
        assert!(said.lines().any(|line| line.starts_with("ok") && line.contains(kind)), "{said}");
    }
}
