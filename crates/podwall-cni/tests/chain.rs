//! Does the plugin work behind the real ones? Each node and each pod is a network namespace.

#![expect(clippy::unwrap_used, reason = "helpers of tests; only what fails a test")]

mod support;

use std::net::IpAddr;
use std::thread;

use podwall_local::{Attachment, Request};
use serde_json::{Value, json};

use support::FakeAgent;
use support::node::{Namespace, Node, Pod, forwarding, possible, socket};

fn attachments(asked: &[Request]) -> Vec<Attachment> {
    asked
        .iter()
        .filter_map(|request| match request {
            Request::Attach { attachment, .. } => Some(attachment.clone()),
            _ => None,
        })
        .collect()
}

fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().unwrap().iter();
    ips.map(|ip| ip["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap())
        .collect()
}

const FOUR: &[&str] = &["10.9.0.0/24"];
const SIX: &[&str] = &["fd00:9::/64"];
const DUAL: &[&str] = &["10.9.0.0/24", "fd00:9::/64"];

#[test]
fn the_agent_learns_of_each_pod_what_the_kernel_says() {
    if !possible() {
        return;
    }
    let before = forwarding().unwrap();
    for kind in ["bridge", "ptp"] {
        for (version, subnets) in
            [("0.3.0", FOUR), ("0.3.1", DUAL), ("0.4.0", SIX), ("1.0.0", DUAL), ("1.0.0", FOUR)]
        {
            let dir = tempfile::tempdir().unwrap();
            let agent = FakeAgent::content(&socket(&dir));
            let ours = json!({"type": "podwall-cni", "socket": socket(&dir), "timeout": "5s"});
            let node = Node::new(kind, version, subnets, &ours);
            let pod = Pod::new("web");
            let what = format!("{kind} {version} {subnets:?}");
            let result = node.add(&pod).unwrap_or_else(|said| panic!("{what}: {said:?}"));
            assert_eq!(result["cniVersion"], version, "{what}");

            let [attached] = &attachments(&agent.asked())[..] else { panic!("{what}") };
            assert_eq!(attached.addresses, addresses(&result), "{what}");
            assert_eq!(attached.addresses.len(), subnets.len(), "{what}");
            assert_eq!(
                (&*attached.namespace, &*attached.pod, &*attached.network),
                ("shop", "web", "net")
            );
            assert_eq!(attached.uid.as_deref(), Some("uid-web"));

            // What `ip` says of both sides.
            let inside = pod.namespace.ip("link show eth0");
            let link = attached.link.as_ref().unwrap();
            assert_eq!(link.mac.as_deref(), inside[0]["address"].as_str(), "{what}");
            assert_eq!(Some(u64::from(link.index)), inside[0]["link_index"].as_u64(), "{what}");
            let host = node.namespace.ip(&format!("link show {}", link.name));
            assert_eq!(host[0]["ifindex"].as_u64(), Some(u64::from(link.index)), "{what}");

            if version >= "0.4.0" {
                node.check(&pod, &result).unwrap_or_else(|said| panic!("{what}: {said:?}"));
                let asked = agent.asked();
                let Some(Request::Check { attachment }) = asked.last() else { panic!("{asked:?}") };
                assert_eq!(attachment, attached);
            }
            node.del(&pod, Some(&result)).unwrap_or_else(|said| panic!("{what}: {said:?}"));
            node.del(&pod, Some(&result)).unwrap_or_else(|said| panic!("{what}: {said:?}"));
            let asked = agent.asked();
            let sandbox = attached.sandbox.clone();
            assert_eq!(asked.last(), Some(&Request::Detach { sandbox }), "{what}");
        }
    }
    assert_eq!(forwarding().unwrap(), before);
}

#[test]
fn fifty_pods_at_once_are_told_apart() {
    if !possible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let agent = FakeAgent::content(&socket(&dir));
    let ours = json!({"type": "podwall-cni", "socket": socket(&dir), "timeout": "60s"});
    let node = Node::new("bridge", "1.0.0", DUAL, &ours);
    // Two that make the bridge at the same time are the bridge plugin's own business.
    let first = Pod::new("first");
    node.add(&first).unwrap();
    let pods: Vec<Pod> = (0..50).map(|number| Pod::new(&format!("p{number}"))).collect();
    let results: Vec<Value> = thread::scope(|scope| {
        let threads: Vec<_> = pods.iter().map(|pod| scope.spawn(|| node.add(pod))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect()
    });
    let attached = attachments(&agent.asked());
    assert_eq!(attached.len(), 51);
    let mut links = Vec::new();
    for (pod, result) in pods.iter().zip(&results) {
        let one = attached.iter().find(|one| one.pod == pod.name).unwrap();
        assert_eq!(one.addresses, addresses(result));
        let inside = pod.namespace.ip("link show eth0");
        let link = one.link.as_ref().unwrap();
        assert_eq!(Some(u64::from(link.index)), inside[0]["link_index"].as_u64());
        links.push(link.index);
    }
    links.sort_unstable();
    links.dedup();
    assert_eq!(links.len(), pods.len());
}

#[test]
fn an_add_that_the_agent_refuses_fails_the_chain_and_can_be_undone() {
    if !possible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let agent = FakeAgent::listen(&socket(&dir), |request| {
        Some(match request {
            Request::Attach { .. } => support::no("kernel"),
            other => support::yes(other),
        })
    });
    let ours = json!({"type": "podwall-cni", "socket": socket(&dir)});
    let node = Node::new("ptp", "1.0.0", FOUR, &ours);
    let pod = Pod::new("web");
    let said = node.add(&pod).unwrap_err();
    assert_eq!((said.code(), said.message()), (101, "so says the agent".to_owned()));
    node.del(&pod, None).unwrap();
    assert!(matches!(agent.asked().last(), Some(Request::Detach { .. })));
}

#[test]
fn without_the_guard_no_link_is_asked_for() {
    if !possible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let agent = FakeAgent::content(&socket(&dir));
    let ours = json!({"type": "podwall-cni", "socket": socket(&dir), "guard": false});
    let node = Node::new("ptp", "1.0.0", FOUR, &ours);
    node.add(&Pod::new("web")).unwrap();
    assert_eq!(attachments(&agent.asked())[0].link, None);
}

#[test]
fn an_interface_without_a_side_on_the_host_is_not_guarded_and_that_is_said() {
    if !possible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let agent = FakeAgent::content(&socket(&dir));
    let pod = Pod::new("web");
    pod.namespace.ip("link add eth0 type bridge");
    let config = json!({"cniVersion": "1.0.0", "name": "net", "type": "podwall-cni",
        "socket": socket(&dir), "prevResult": {"ips": [{"address": "10.9.0.2/24"}]}});
    let variables = [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", "c"),
        ("CNI_NETNS", &pod.namespace.path()),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b"),
    ];
    let said = support::run(&support::program(), &variables, &config.to_string());
    assert!(said.ok, "{said:?}");
    assert!(said.stderr.contains("its source addresses are not guarded"), "{said:?}");
    assert_eq!(attachments(&agent.asked())[0].link, None);
}

#[test]
fn a_pair_whose_other_side_is_in_a_third_namespace_is_not_taken_for_the_hosts() {
    if !possible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let agent = FakeAgent::content(&socket(&dir));
    let (node, third, pod) = (Namespace::new(), Namespace::new(), Pod::new("web"));
    // In the node, a pair of the same numbers to a pod of its own: the numbers alone would agree.
    let other = Pod::new("other");
    for (host, pod) in [(&third, &pod), (&node, &other)] {
        pod.namespace.ip(&format!(
            "link add eth0 index 7 type veth peer name host index 9 netns {}",
            host.path()
        ));
    }
    // And the node knows the pod's namespace, by another pair.
    pod.namespace.ip(&format!("link add net1 type veth peer name host1 netns {}", node.path()));
    assert!(node.ip("link show host1")[0]["link_netnsid"].is_number());
    let ask = |node: &Namespace, pod: &Pod| {
        let config = json!({"cniVersion": "1.0.0", "name": "net", "type": "podwall-cni",
            "socket": socket(&dir), "prevResult": {"ips": [{"address": "10.9.0.2/24"}]}});
        let path = pod.namespace.path();
        let variables = [
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "c"),
            ("CNI_NETNS", &path),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b"),
        ];
        node.within(|| support::run(&support::program(), &variables, &config.to_string()))
    };
    // Here both sides of a pair of these numbers are the node's, and the pod's namespace is unknown.
    let both = Namespace::new();
    both.ip("link add host index 9 type veth peer name side index 7");
    for node in [&node, &both] {
        let said = ask(node, &pod);
        assert_eq!(said.code(), 5, "{said:?}");
        assert!(said.message().contains("not in the host's network namespace"), "{said:?}");
    }
    assert!(agent.asked().is_empty());
    assert!(ask(&node, &other).ok);
    assert_eq!(attachments(&agent.asked())[0].link.as_ref().unwrap().index, 9);
}
