//! What the objects of a reading come to: types, defaults, pods of workloads.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::net::IpAddr;

use podwall_manifest::{Input, Options, Reading, Typed, object_from_json, read, render_all};
use podwall_policy::cluster::Cluster;
use podwall_policy::label::METADATA_NAME;
use podwall_policy::object::{Exposure, Name, Phase, Pod, Replicas, TargetPort};
use podwall_policy::policy::{NamespaceScope, Peer, Policy, Tier};
use podwall_policy::port::Protocol;

fn text(text: &str) -> Reading {
    let input = Input::Text { name: "t.yaml".into(), text: text.into() };
    let reading = read(&[input], &Options::default());
    assert!(!reading.has_errors(), "{}", render_all(&reading.diagnostics, false));
    reading
}

fn cluster(yaml: &str) -> Cluster {
    text(yaml).cluster()
}

/// The policy with this `spec`, indented by two.
fn policy(spec: &str) -> Policy {
    let head =
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec:\n";
    let cluster = cluster(&format!("{head}{spec}"));
    cluster.policies[&(Tier::NetworkPolicy, Name::new("default", "p"))].clone()
}

fn pod_names(cluster: &Cluster) -> Vec<String> {
    cluster.pods.keys().map(ToString::to_string).collect()
}

#[test]
fn policy_types_default_to_ingress_and_to_egress_where_it_has_a_rule() {
    for (spec, ingress, egress) in [
        ("  podSelector: {}", Some(0), None),
        ("  ingress: []", Some(0), None),
        ("  ingress: [{}]", Some(1), None),
        ("  egress: [{}]", Some(0), Some(1)),
        ("  egress: []", Some(0), None),
        ("  policyTypes: []\n  egress: [{}]", Some(0), Some(1)),
        ("  policyTypes: [Egress]", None, Some(0)),
        ("  policyTypes: [Egress]\n  ingress: [{}]", None, Some(0)),
        ("  policyTypes: [Ingress]\n  egress: [{}]", Some(0), None),
        ("  policyTypes: [Ingress, Egress]", Some(0), Some(0)),
    ] {
        let policy = policy(spec);
        assert_eq!(policy.ingress.map(|r| r.len()), ingress, "{spec}");
        assert_eq!(policy.egress.map(|r| r.len()), egress, "{spec}");
    }
}

#[test]
fn a_rule_keeps_its_peers_ports_and_place() {
    let policy = policy(
        "  podSelector: {matchLabels: {app: web}}\n  ingress:\n  - {}\n  - from:\n    \
         - podSelector: {matchLabels: {a: b}}\n    - namespaceSelector: {}\n    \
         - podSelector: {}\n      namespaceSelector: {matchLabels: {env: prod}}\n    \
         - ipBlock: {cidr: 10.1.2.3/8, except: [10.1.0.0/16]}\n    ports:\n    - port: 80\n    \
         - {protocol: UDP}\n    - {port: 8000, endPort: 8999}\n    - {port: http, protocol: SCTP}\n",
    );
    assert_eq!(policy.subject.to_string(), "pods app=web in namespace default");
    assert_eq!(policy.source.unwrap().to_string(), "t.yaml:1:1");
    let rules = policy.ingress.unwrap();
    assert!(rules[0].peers.is_empty() && rules[0].ports.is_empty());
    assert_eq!(rules[0].source.as_ref().unwrap().to_string(), "t.yaml:7:5");
    assert_eq!(rules[1].source.as_ref().unwrap().to_string(), "t.yaml:8:5");
    let peers: Vec<_> = rules[1].peers.iter().map(ToString::to_string).collect();
    assert_eq!(
        peers,
        [
            "pods a=b in namespace default",
            "all pods in all namespaces",
            "all pods in namespaces env=prod",
            "10.0.0.0/8 except 10.1.0.0/16"
        ]
    );
    let ports: Vec<_> = rules[1].ports.iter().map(ToString::to_string).collect();
    assert_eq!(ports, ["TCP 80", "UDP (any port)", "TCP 8000-8999", "SCTP \"http\""]);
}

#[test]
fn null_is_the_same_as_absent() {
    let policy = policy(
        "  podSelector: null\n  policyTypes: ~\n  ingress:\n  - from:\n    ports: null\n  - from:\n    \
         - {podSelector: {}, ipBlock: null, namespaceSelector: }\n    ports:\n    \
         - {port: null, protocol: ~, endPort: null}\n",
    );
    let rules = policy.ingress.unwrap();
    assert!(rules[0].peers.is_empty() && rules[0].ports.is_empty());
    let Peer::Pods(scope) = &rules[1].peers[0] else { panic!() };
    assert_eq!(scope.namespaces, NamespaceScope::Own("default".into()));
    assert_eq!(rules[1].ports[0].to_string(), "TCP (any port)");
}

#[test]
fn namespaces_are_stated_or_implied() {
    let cluster = cluster(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: x}\nspec: {containers: [{name: \
         a}]}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: ns, labels: {env: \
         prod, empty: }}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: b}\nspec: {containers: \
         [{name: a}]}\n",
    );
    let names: Vec<_> = cluster.namespaces.values().map(|n| (&*n.name, n.labels_known)).collect();
    assert_eq!(names, [("default", false), ("ns", true), ("x", false)]);
    let y = &cluster.namespaces["ns"].labels;
    assert_eq!(
        (y.get("env"), y.get("empty"), y.get(METADATA_NAME)),
        (Some("prod"), Some(""), Some("ns"))
    );
}

#[test]
fn the_default_namespace_can_be_another() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a}]}\n";
    let input = Input::Text { name: "t".into(), text: text.into() };
    let options = Options { default_namespace: "team".into(), ..Options::default() };
    let reading = read(&[input], &options);
    assert_eq!(reading.objects[0].key.to_string(), "Pod team/a");
    assert_eq!(reading.objects[0].raw.pointer("/metadata/namespace").unwrap(), "team");
    assert_eq!(pod_names(&reading.cluster()), ["team/a"]);
}

fn one_pod(fields: &str) -> Pod {
    let cluster = cluster(&format!("apiVersion: v1\nkind: Pod\n{fields}"));
    cluster.pods.into_values().next().unwrap()
}

#[test]
fn a_pods_facts_are_read() {
    let pod = one_pod(
        "metadata: {name: a, uid: u-1, labels: {app: web}}\nspec:\n  hostNetwork: true\n  nodeName: \
         n1\n  initContainers:\n  - {name: i, restartPolicy: Always, ports: [{containerPort: 1, \
         name: admin}]}\n  containers:\n  - name: c\n    ports: [{containerPort: 53, protocol: UDP, \
         name: dns}, {containerPort: 53}]\nstatus:\n  phase: Failed\n  podIP: 10.0.0.1\n  podIPs: \
         [{ip: 10.0.0.1}, {ip: 'fd00::1'}, {ip: 10.0.0.2}]\n",
    );
    assert_eq!((pod.uid.as_deref(), pod.node.as_deref()), (Some("u-1"), Some("n1")));
    assert!(pod.host_network);
    assert_eq!(pod.phase, Phase::Terminated);
    let ips: Vec<IpAddr> = ["10.0.0.1", "fd00::1"].iter().map(|ip| ip.parse().unwrap()).collect();
    assert_eq!(pod.ips, ips);
    let ports: Vec<_> =
        pod.ports.iter().map(|p| (p.name.as_deref(), p.number, p.protocol)).collect();
    assert_eq!(
        ports,
        [
            (Some("admin"), 1, Protocol::TCP),
            (Some("dns"), 53, Protocol::UDP),
            (None, 53, Protocol::TCP)
        ]
    );
}

#[test]
fn a_pod_without_status_is_alive_and_has_no_address() {
    let pod = one_pod("metadata: {name: a}\nspec: {containers: [{name: a}]}\n");
    assert_eq!((pod.phase, pod.ips.len(), pod.host_network), (Phase::Alive, 0, false));
    let pod = one_pod(
        "metadata: {name: a}\nspec: {containers: [{name: a}]}\nstatus: {phase: Pending, podIP: ''}",
    );
    assert_eq!((pod.phase, pod.ips.len()), (Phase::Alive, 0));
}

fn workload(kind: &str, name: &str, extra: &str, metadata: &str) -> String {
    format!(
        "---\napiVersion: apps/v1\nkind: {kind}\nmetadata: {{name: {name}{metadata}}}\nspec:\n{extra}  \
         selector: {{matchLabels: {{app: {name}}}}}\n  template:\n    metadata: {{labels: {{app: \
         {name}}}}}\n    spec: {{containers: [{{name: c, ports: [{{containerPort: 80}}]}}]}}\n"
    )
}

#[test]
fn a_workload_without_pods_is_expanded_under_names_that_do_not_change() {
    let yaml = workload("Deployment", "web", "  replicas: 2\n", "")
        + &workload("StatefulSet", "db", "  replicas: 2\n", "")
        + &workload("ReplicaSet", "none", "  replicas: 0\n", "")
        + &workload("DaemonSet", "agent", "", "");
    let first = cluster(&yaml);
    let names = pod_names(&first);
    assert_eq!(names.len(), 5, "{names:?}");
    assert!(names.contains(&"default/db-0".to_string()) && names.contains(&"default/db-1".into()));
    assert_eq!(first.workloads.len(), 4);
    let web: Vec<&Pod> =
        first.pods.values().filter(|p| p.labels.get("app") == Some("web")).collect();
    let hash = web[0].labels.get("pod-template-hash").unwrap();
    for pod in &web {
        let parts: Vec<&str> = pod.name.name.split('-').collect();
        assert_eq!((parts[0], parts[1], parts[2].len()), ("web", hash, 5));
        let owner = pod.owner.as_ref().unwrap();
        assert_eq!((&*owner.kind, &*owner.name), ("Deployment", "web"));
        assert_eq!(pod.ports[0].number, 80);
    }
    assert_eq!(pod_names(&cluster(&yaml)), names);
    let renumbered = format!("# a comment\n\n{yaml}");
    assert_eq!(pod_names(&cluster(&renumbered)), names, "names do not depend on lines");
}

#[test]
fn a_daemon_set_has_a_pod_on_every_node() {
    let nodes = "---\napiVersion: v1\nkind: Node\nmetadata: {name: n1}\n---\napiVersion: v1\nkind: \
                 Node\nmetadata: {name: n2}\n";
    let cluster = cluster(&(workload("DaemonSet", "agent", "", "") + nodes));
    let nodes: Vec<_> = cluster.pods.values().map(|p| p.node.as_deref().unwrap()).collect();
    assert_eq!(nodes.len(), 2);
    assert!(nodes.contains(&"n1") && nodes.contains(&"n2"));
}

fn owned_pod(name: &str, kind: &str, owner: &str, labels: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{{labels}}}, \
         ownerReferences: [{{apiVersion: apps/v1, kind: {kind}, name: {owner}, uid: u, controller: \
         true}}]}}\nspec: {{containers: [{{name: c}}]}}\n"
    )
}

fn owner_of(cluster: &Cluster, pod: &str) -> String {
    let owner = cluster.pods[&Name::new("default", pod)].owner.as_ref().unwrap();
    format!("{}/{}", owner.kind, owner.name)
}

#[test]
fn pods_that_are_there_are_not_made_again() {
    let replica_set = workload(
        "ReplicaSet",
        "web-7c",
        "",
        ", ownerReferences: [{kind: Deployment, name: web, controller: true}]",
    );
    let deployment = workload("Deployment", "web", "  replicas: 3\n", "");
    // Pod → ReplicaSet → Deployment, all stated.
    let all = cluster(
        &(deployment.clone()
            + &replica_set
            + &owned_pod("web-7c-abcde", "ReplicaSet", "web-7c", "")),
    );
    assert_eq!(pod_names(&all), ["default/web-7c-abcde"]);
    assert_eq!(owner_of(&all, "web-7c-abcde"), "Deployment/web");
    // The ReplicaSet is not stated; its name tells.
    let gap = cluster(
        &(deployment.clone()
            + &owned_pod("web-7c-abcde", "ReplicaSet", "web-7c", "pod-template-hash: 7c")),
    );
    assert_eq!(pod_names(&gap), ["default/web-7c-abcde"]);
    assert_eq!(owner_of(&gap, "web-7c-abcde"), "Deployment/web");
    // No pod: the ReplicaSet is expanded in the Deployment's stead.
    let no_pods = cluster(&(deployment + &replica_set));
    assert_eq!(no_pods.pods.len(), 1);
    assert_eq!(owner_of(&no_pods, &no_pods.pods.keys().next().unwrap().name), "Deployment/web");
}

#[test]
fn a_jobs_pods_belong_to_its_cron_job() {
    let cron = "---\napiVersion: batch/v1\nkind: CronJob\nmetadata: {name: nightly}\nspec: \
                {jobTemplate: {spec: {template: {spec: {containers: [{name: c}]}}}}}\n";
    let job = "---\napiVersion: batch/v1\nkind: Job\nmetadata: {name: nightly-28000000, \
               ownerReferences: [{kind: CronJob, name: nightly}]}\nspec: {template: {spec: \
               {containers: [{name: c}]}}}\n";
    let pod = owned_pod("nightly-28000000-abcde", "Job", "nightly-28000000", "");
    for yaml in [format!("{cron}{job}{pod}"), format!("{cron}{pod}")] {
        let cluster = cluster(&yaml);
        assert_eq!(pod_names(&cluster), ["default/nightly-28000000-abcde"]);
        assert_eq!(owner_of(&cluster, "nightly-28000000-abcde"), "CronJob/nightly");
    }
    assert_eq!(cluster(cron).pods.len(), 1);
    let suspended = cron.replace("spec: {jobTemplate", "spec: {suspend: true, jobTemplate");
    let cluster = cluster(&suspended);
    assert_eq!(cluster.pods.len(), 0);
    let workload = cluster.workloads.values().next().unwrap();
    assert_eq!(workload.replicas, Replicas::Count(0));
}

#[test]
fn owners_that_go_in_a_circle_end() {
    let a = workload("ReplicaSet", "a", "", ", ownerReferences: [{kind: ReplicaSet, name: b}]");
    let b = workload("ReplicaSet", "b", "", ", ownerReferences: [{kind: ReplicaSet, name: a}]");
    let pod = owned_pod("p", "ReplicaSet", "a", "");
    let cluster = cluster(&(a + &b + &pod));
    assert_eq!(pod_names(&cluster), ["default/p"]);
}

#[test]
fn replicas_without_number_or_measure_end() {
    let cluster = cluster(&workload("Deployment", "many", "  replicas: 2147483647\n", ""));
    assert_eq!(cluster.pods.len(), 5_000);
    assert!(matches!(
        cluster.workloads.values().next().unwrap().replicas,
        Replicas::Count(2_147_483_647)
    ));
}

#[test]
fn a_services_ports_and_addresses_are_read() {
    let cluster = cluster(
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec:\n  type: NodePort\n  \
         externalTrafficPolicy: Local\n  selector: {app: web}\n  clusterIP: 10.96.0.1\n  clusterIPs: \
         [10.96.0.1, 'fd00::1']\n  ports:\n  - {name: a, port: 80, nodePort: 30080}\n  - {name: b, \
         port: 53, protocol: UDP, targetPort: dns}\n---\napiVersion: v1\nkind: Service\nmetadata: \
         {name: b}\nspec: {clusterIP: None}\n",
    );
    let a = &cluster.services[&Name::new("default", "a")];
    assert_eq!(a.cluster_ips.len(), 2);
    assert_eq!(a.exposure, Exposure::Node { local: true });
    assert_eq!(a.ports[0].target, TargetPort::Number(80));
    assert_eq!(a.ports[0].node_port, Some(30080));
    assert_eq!(a.ports[1].target, TargetPort::Name("dns".into()));
    let b = &cluster.services[&Name::new("default", "b")];
    assert!(b.headless && b.selector.is_none());
}

#[test]
fn an_object_with_an_error_is_left_out_and_named() {
    let text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: good}\n---\napiVersion: v1\nkind: \
                Namespace\nmetadata: {name: Bad}\n---\nkind: {\n";
    let reading = read(&[Input::Text { name: "t".into(), text: text.into() }], &Options::default());
    assert!(reading.has_errors());
    assert_eq!(reading.objects.len(), 1);
    let left_out: Vec<_> = reading.left_out.iter().map(ToString::to_string).collect();
    assert_eq!(left_out[0], "Namespace Bad (t:5:1)");
    assert!(left_out[1].starts_with("a document (t:"), "{}", left_out[1]);
}

#[test]
fn an_object_from_json_has_paths_instead_of_lines() {
    let json = serde_json::json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "p"},
        "spec": {"ingress": [{"ports": [{"port": 0}]}]}
    });
    let errors = object_from_json(&json, "lab demo", &Options::default()).unwrap_err();
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].field.as_deref(), Some("spec.ingress[0].ports[0].port"));
    assert_eq!(errors[0].object.as_deref(), Some("NetworkPolicy default/p"));
    for json in [
        serde_json::json!(null),
        serde_json::json!({}),
        serde_json::json!([1]),
        serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap"}),
    ] {
        assert!(
            !object_from_json(&json, "x", &Options::default()).unwrap_err().is_empty(),
            "{json}"
        );
    }
    let json =
        serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}});
    let object = object_from_json(&json, "x", &Options::default()).unwrap();
    assert!(matches!(object.typed, Typed::Namespace(_)));
}
