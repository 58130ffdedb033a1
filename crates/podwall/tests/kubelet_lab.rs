//! Does a lab do for a cluster what nodes do?
//!
//! ```text
//!   kubectl ──▶ API server ──▶ kubelet of the lab ──▶ CNI plugins ──▶ packets, judged by the evaluator
//! ```

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says by panic what is wrong"
)]

mod kubelet;
mod support;
mod traffic;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use kubelet::{Nodes, all_do, called, is_ready, mk_pod};
use serde_json::Value;
use support::podwall;
use traffic::Traffic;

#[test]
#[ignore = "no test: a program that the others run in pods"]
fn traffic_program() {
    traffic::program();
}

/// a may reach b, c may not.
const APP: &str = "
apiVersion: v1
kind: Pod
metadata: {name: a, labels: {app: a}}
spec: {nodeSelector: {kubernetes.io/hostname: node-1}, containers: [{name: c, image: none}]}
---
apiVersion: v1
kind: Pod
metadata: {name: b, labels: {app: b}}
spec: {nodeName: node-1, containers: [{name: c, image: none, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: c, labels: {app: c}}
spec: {nodeName: node-2, containers: [{name: c, image: none}]}
---
apiVersion: v1
kind: Service
metadata: {name: b}
spec: {selector: {app: b}, clusterIP: 10.96.7.7, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: to-b}
spec:
  podSelector: {matchLabels: {app: b}}
  ingress: [{from: [{podSelector: {matchLabels: {app: a}}}]}]
";

/// What kubectl makes runs, is told of as a kubelet tells, and goes.
fn workflow(network: &str, range: &str) {
    if !Nodes::are_possible() {
        return;
    }
    let nodes = Nodes::up("kub", &["--nodes", "2", "--network", network]);
    nodes.cluster.apply(APP);
    nodes.all_run(&["default/a", "default/b", "default/c"]);
    let a = nodes.pod("default/a").unwrap();
    assert_eq!(a["spec"]["nodeName"], "node-1", "its nodeSelector's");
    let status = &a["status"];
    assert_eq!((&status["phase"], &status["hostIP"]), (&"Running".into(), &"172.18.0.2".into()));
    assert!(status["podIP"].as_str().unwrap().starts_with(range), "{status}");
    assert_eq!(status["podIPs"].as_array().unwrap().len(), 2, "both families: {status}");
    let container = &status["containerStatuses"][0];
    assert!(container["ready"] == true && container["containerID"].is_string(), "{status}");
    let conditions = status["conditions"].as_array().unwrap();
    for kind in ["Initialized", "Ready", "ContainersReady", "PodScheduled"] {
        assert!(conditions.iter().any(|it| it["type"] == kind && it["status"] == "True"), "{kind}");
    }
    let node = nodes.cluster.get("/api/v1/nodes/node-2");
    assert_eq!(node["spec"]["podCIDR"], "10.244.2.0/24");
    assert!(is_ready(&node), "{node}");
    assert_eq!(node["status"]["addresses"][1]["address"], "fd00:172:18::3");

    nodes.agree_that(network, &[], |packets| {
        let denied = packets.iter().filter(|packet| packet.passed() == Some(false)).count();
        denied > 0 && denied < packets.len()
    });
    for family in ["v4", "v6"] {
        let args = ["c", "b", "--port", "8080", "--ip-family", family];
        nodes.agree_that(network, &args, all_do(false));
    }
    let answer = nodes.lab.exec("a", &["curl", "-s", "-m", "5", "10.96.7.7"]).ok();
    assert!(answer.contains("pod: b\n"), "through the Service: {answer}");

    // Labels by kubectl reach the agents, too.
    nodes.kubectl(&["label", "pod", "c", "app=a", "--overwrite"]);
    nodes.agree_that("relabelled", &["c", "b", "--port", "8080"], all_do(true));

    // The same name is another pod, and nothing of the first is left.
    let before = a["metadata"]["uid"].as_str().unwrap().to_owned();
    nodes.kubectl(&["delete", "pod", "a", "--timeout=60s"]);
    assert!(nodes.pod("default/a").is_none());
    nodes.until("its namespace is gone", || (!nodes.namespaces().contains(&before)).then_some(()));
    nodes.until("the lab forgets it", || {
        (!nodes.lab.pods().contains_key("default/a")).then_some(())
    });
    nodes.cluster.apply(APP);
    nodes.all_run(&["default/a"]);
    assert_ne!(nodes.pod("default/a").unwrap()["metadata"]["uid"], before);
    nodes.agree("made again", &["a", "b"]);

    for (verb, word) in [(&["delete", "pod", "a"][..], "kubectl"), (&["flows"], "agents")] {
        let said = nodes.lab.run(verb[0], &verb[1..], None);
        assert!(said.code == Some(1) || said.code == Some(2), "{said}");
        assert!(said.err.contains(word), "{said}");
    }
    podwall(&["lab", "down", &nodes.lab.name], None).ok();
    assert_eq!(nodes.cluster.get("/api/v1/nodes")["items"].as_array().unwrap().len(), 0);
    assert!(nodes.pods().is_empty(), "pods of nodes that are gone");
}

#[test]
fn kubectl_and_the_bridge_plugin() {
    workflow("bridge", "10.244.1.");
}

#[test]
fn kubectl_and_the_ptp_plugin() {
    workflow("ptp", "10.244.1.");
}

/// Many at once, a namespace's end, and what terminated pods leave.
#[test]
fn fifty_pods_at_once_and_the_end_of_their_namespace() {
    if !Nodes::are_possible() {
        return;
    }
    let nodes = Nodes::up("kub", &["--nodes", "3", "--network", "ptp", "--ip-family", "v4"]);
    nodes.kubectl(&["create", "namespace", "many"]);
    let names: Vec<String> = (0..50).map(|n| format!("p{n}")).collect();
    let pods: Vec<Value> = names.iter().map(|name| mk_pod("many", name, &[("n", name)])).collect();
    nodes.cluster.create_all(&pods);
    let all: Vec<String> = names.iter().map(|name| format!("many/{name}")).collect();
    nodes.all_run(&all.iter().map(String::as_str).collect::<Vec<_>>());
    let pods = nodes.pods();
    let mut ips: Vec<&str> =
        pods.iter().map(|pod| pod["status"]["podIP"].as_str().unwrap()).collect();
    ips.sort_unstable();
    ips.dedup();
    assert_eq!(ips.len(), 50, "each its own address");
    for node in ["node-1", "node-2", "node-3"] {
        let here = pods.iter().filter(|pod| pod["spec"]["nodeName"] == node).count();
        assert!((15..=18).contains(&here), "{here} pods on {node}");
    }
    let args = ["many/p0", "-n", "many", "--port", "80", "--no-outside"];
    nodes.agree_that("many", &args, |packets| {
        packets.iter().filter(|packet| packet.passed() == Some(true)).count() >= 49
    });

    // A pod that somebody says has ended loses its network and keeps its object.
    let ended = nodes.pod("many/p7").unwrap();
    let uid = ended["metadata"]["uid"].as_str().unwrap().to_owned();
    nodes.cluster.set_status(&ended, &serde_json::json!({"status": {"phase": "Succeeded"}}));
    nodes.until("it has no network", || (!nodes.namespaces().contains(&uid)).then_some(()));
    assert!(nodes.pod("many/p7").is_some_and(|pod| pod["status"]["phase"] == "Succeeded"));

    nodes.kubectl(&["delete", "namespace", "many", "--timeout=60s"]);
    assert!(nodes.pods().iter().all(|pod| !called(pod).starts_with("many/")));
    nodes.until("no network is left", || nodes.namespaces().is_empty().then_some(()));
}

/// A plugin that fails leaves the pod waiting, with the reason; DEL follows each ADD.
#[test]
fn a_pod_waits_for_a_plugin_that_fails_and_says_why() {
    if !Nodes::are_possible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (log, works) = (dir.path().join("log"), dir.path().join("works"));
    let script = format!(
        "#!/bin/sh\n\
         echo \"$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $CNI_ARGS\" >> {log}\n\
         [ -e {works} ] || [ $CNI_COMMAND = DEL ] || {{\n\
           echo '{{\"cniVersion\": \"1.0.0\", \"code\": 11, \"msg\": \"not today\"}}'; exit 1; }}\n\
         exec $(dirname $(PATH=/usr/lib/cni:/opt/cni/bin command -v bridge))/bridge\n",
        log = log.display(),
        works = works.display()
    );
    let plugin = dir.path().join("moody");
    fs::write(&plugin, script).unwrap();
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
    let config = dir.path().join("10-moody.conflist");
    let list = r#"{"cniVersion": "1.0.0", "name": "moody", "plugins": [
        {"type": "moody", "bridge": "cni0", "isDefaultGateway": true, "ipam": {"type": "host-local"}}]}"#;
    fs::write(&config, list).unwrap();
    let bin = format!("{}:/usr/lib/cni:/opt/cni/bin", dir.path().display());
    let config = config.display().to_string();
    let args = ["--nodes", "1", "--network", "bridge", "--no-agents", "--cni-conf", &config];
    let nodes = Nodes::up("kub", &[&args[..], &["--cni-bin", &bin]].concat());
    nodes.cluster.create(&mk_pod("default", "p", &[]));
    let waiting = nodes.until("it says why it waits", || {
        let pod = nodes.pod("default/p")?;
        let state = pod.pointer("/status/containerStatuses/0/state/waiting")?;
        state["message"].as_str()?.contains("not today").then_some(pod.clone())
    });
    assert_eq!(waiting["status"]["phase"], "Pending");
    nodes.until("there is an event", || {
        let events = nodes.cluster.get("/api/v1/namespaces/default/events");
        let events = events["items"].as_array()?.clone();
        events.iter().any(|it| it["reason"] == "FailedCreatePodSandBox").then_some(())
    });
    fs::write(&works, "").unwrap();
    nodes.all_run(&["default/p"]);
    let uid = waiting["metadata"]["uid"].as_str().unwrap();
    nodes.kubectl(&["delete", "pod", "p", "--timeout=60s"]);

    let calls = fs::read_to_string(&log).unwrap();
    let calls: Vec<&str> = calls.lines().collect();
    let verbs: Vec<&str> = calls.iter().map(|call| call.split(' ').next().unwrap()).collect();
    assert!(verbs.len() >= 4 && verbs.len().is_multiple_of(2), "{verbs:?}");
    assert!(verbs.chunks(2).all(|pair| pair == ["ADD", "DEL"]), "{verbs:?}");
    let id = uid.replace('-', "");
    let said = format!(
        "eth0 IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=p;\
         K8S_POD_INFRA_CONTAINER_ID={id};K8S_POD_UID={uid}"
    );
    assert!(calls.iter().all(|call| call.ends_with(&said)), "{calls:?} do not end with {said}");
}

/// What runs goes on when the kubelet is killed; the next one finds it, and what has gone meanwhile.
#[test]
fn a_kubelet_that_was_killed_has_a_successor_that_knows() {
    if !Nodes::are_possible() {
        return;
    }
    let nodes = Nodes::up("kub", &["--nodes", "2", "--network", "bridge", "--ip-family", "v4"]);
    nodes.cluster.apply(APP);
    nodes.all_run(&["default/a", "default/b", "default/c"]);
    let (a, gone) = (nodes.pod("default/a").unwrap(), nodes.pod("default/c").unwrap());
    nodes.kill_kubelet();
    // Forced, as nobody is there to end it.
    nodes.cluster.delete(&gone);
    nodes.cluster.create(&mk_pod("default", "late", &[("app", "a")]));
    // Any command.
    nodes.lab.get_json(&["pods"]);
    nodes.all_run(&["default/late"]);
    let uid = gone["metadata"]["uid"].as_str().unwrap();
    nodes.until("what is gone has no network", || {
        (!nodes.namespaces().iter().any(|known| known == uid)).then_some(())
    });
    assert_eq!(nodes.pod("default/a").unwrap()["status"]["podIP"], a["status"]["podIP"]);
    nodes.until("the lab forgets it", || {
        (!nodes.lab.pods().contains_key("default/c")).then_some(())
    });
    nodes.agree("after the kubelet", &[]);
    nodes.kubectl(&["delete", "pod", "a", "--timeout=60s"]);
}

/// Agents are killed again and again: nothing forbidden passes, what is allowed stands.
#[test]
fn killed_agents_come_back_and_leave_nothing_open_meanwhile() {
    if !Nodes::are_possible() {
        return;
    }
    let nodes = Nodes::up("kub", &["--nodes", "2", "--network", "bridge", "--ip-family", "v4"]);
    nodes.cluster.apply(APP);
    nodes.all_run(&["default/a", "default/b", "default/c"]);
    nodes.agree("before", &[]);
    let lab = &nodes.lab.name;
    let b = format!("{}:7000", nodes.address("default/b"));
    let thief = format!("tcp-{}", nodes.address("default/c"));
    let serve = Traffic::start(lab, "b", "serve 7000");
    let allowed = Traffic::start(lab, "a", &format!("tcp {b}"));
    let knocks = Traffic::start(lab, "c", &format!("knock {b}"));
    let floods = Traffic::start(lab, "c", &format!("udp {b}"));
    for _ in 0..5 {
        let killed = nodes.kill_agents();
        assert_eq!(killed.len(), 2, "one a node");
        nodes.until("both agents are back", || {
            let others = nodes.agents().into_iter().filter(|pid| !killed.contains(pid));
            (others.count() == 2).then_some(())
        });
        allowed.more("answered", 20);
        knocks.more("tried", 3);
        floods.more("sent", 20);
    }
    assert_eq!(knocks.stop()["connected"], 0);
    assert_eq!(floods.stop()["answered"], 0);
    assert_eq!(allowed.stop()["broken"], 0);
    let seen = serve.stop();
    assert!(
        !seen.contains_key(&thief) && !seen.contains_key(&thief.replace("tcp", "udp")),
        "{seen:?}"
    );
    // And they know again what is new, once the lab knows it, too.
    nodes.kubectl(&["label", "pod", "c", "app=a", "--overwrite"]);
    nodes.agree_that("after", &["c", "b"], all_do(true));
}
