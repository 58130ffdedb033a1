//! Cases 31 to 36: nodes, pods on the node's network, and a pod's way to itself.

use podwall_policy::cluster::Cluster;
use podwall_policy::evaluate::Exempt;
use podwall_policy::policy::Direction;

use crate::support::*;
use crate::{mk_cluster, no, unknown, yes};

/// Nodes n1 (three addresses) and n2; demo/web on n1, demo/db on n2, ops/agent-N on the network of
/// node N. Every pod of demo is shut in both directions.
fn shut() -> Cluster {
    mk_cluster![
        mk_node("n1", &["192.168.0.1", "172.20.0.1", "fd00:aaaa::1"]),
        mk_node("n2", &["192.168.0.2", "fd00:aaaa::2"]),
        mk_namespace("ops", "env=ops"),
        mk_pod("demo/web", "app=web", &["10.1.0.1", "fd00:1::1"]),
        mk_pod("demo/db", "app=db", &["10.2.0.1", "fd00:2::1"]).on("n2"),
        mk_pod("ops/agent-1", "app=agent", &["192.168.0.1", "fd00:aaaa::1"]).host_network(),
        mk_pod("ops/agent-2", "app=agent", &["192.168.0.2", "fd00:aaaa::2"])
            .on("n2")
            .host_network(),
        mk_policy("demo/shut", "").ingress([]).egress([]),
    ]
}

#[test]
fn case_31_the_own_node_is_always_let_in() {
    // Whatever address of the node it comes from, in both families, and its hostNetwork pods.
    yes!(shut(); "node/n1" -> "demo/web" tcp(8080), "192.168.0.1" -> "demo/web" PING,
        "172.20.0.1" -> "demo/web" tcp(1), "fd00:aaaa::1" -> "demo/web" tcp(1),
        "ops/agent-1" -> "demo/web" tcp(9100), "node/n2" -> "demo/db" tcp(1));
    let side = evaluations(&shut(), "172.20.0.1", "demo/web").remove(0).ingress;
    assert_eq!(side.exempt, Some(Exempt::OwnNode));
    // A pod that is not scheduled may come to run there or not.
    let mut unscheduled = mk_pod("demo/web", "app=web", &["10.1.0.1", "fd00:1::1"]);
    unscheduled.node = None;
    unknown!(with(&shut(), unscheduled); "node/n1" -> "demo/web" tcp(80), "ops/agent-2" -> "demo/web" tcp(80));
}

#[test]
fn case_32_other_nodes_are_not_exempt() {
    no!(shut(); "node/n2" -> "demo/web" tcp(8080), "192.168.0.2" -> "demo/web" tcp(8080),
        "fd00:aaaa::2" -> "demo/web" tcp(8080), "node/n1" -> "demo/db" tcp(1),
        "ops/agent-2" -> "demo/web" tcp(8080), "ops/agent-1" -> "demo/db" tcp(8080));
    let rule = mk_rule([block("192.168.0.2/32", &[])], [port(tcp(0).0, 8080)]);
    let cluster = with(&shut(), mk_policy("demo/nodes", "app=web").ingress([rule]));
    yes!(cluster; "192.168.0.2" -> "demo/web" tcp(8080));
    no!(cluster; "192.168.0.2" -> "demo/web" tcp(8081));
    // A rule sees the address that the node uses, not any other of its addresses.
    let rule = mk_rule([block("172.20.0.0/16", &[])], []);
    let cluster = with(&shut(), mk_policy("demo/nodes", "app=db").ingress([rule]));
    yes!(cluster; "172.20.0.1" -> "demo/db" tcp(1));
    no!(cluster; "192.168.0.1" -> "demo/db" tcp(1));
}

#[test]
fn case_33_host_network_pods_are_their_node() {
    // No policy selects them.
    let cluster = with(&shut(), mk_policy("ops/shut", "").ingress([]).egress([]));
    yes!(cluster; "198.51.100.9" -> "ops/agent-1" tcp(9100), "ops/agent-1" -> "198.51.100.9" tcp(443));
    let both = evaluations(&cluster, "ops/agent-1", "198.51.100.9").remove(0);
    assert_eq!(both.egress.exempt, Some(Exempt::HostNetwork));
    // No selector matches them, as source or destination; a block with the node's address does.
    let selector = mk_rule([within("env=ops", "app=agent")], []);
    let by_selector =
        with(&shut(), mk_policy("demo/p", "").ingress([selector.clone()]).egress([selector]));
    no!(by_selector; "ops/agent-2" -> "demo/web" tcp(80), "demo/web" -> "ops/agent-2" tcp(80));
    let blocks = || mk_rule([block("192.168.0.0/24", &[]), block("fd00:aaaa::/64", &[])], []);
    let by_block = with(&shut(), mk_policy("demo/p", "").ingress([blocks()]).egress([blocks()]));
    yes!(by_block; "ops/agent-2" -> "demo/web" tcp(80), "demo/web" -> "ops/agent-2" tcp(80));
    // One that states no address has its node's.
    let silent = with(&by_block, mk_pod("ops/agent-2", "app=agent", &[]).on("n2").host_network());
    yes!(silent; "ops/agent-2" -> "demo/web" tcp(80), "demo/web" -> "ops/agent-2" tcp(80));
    let unscheduled = {
        let mut pod = mk_pod("ops/agent-2", "app=agent", &[]).host_network();
        pod.node = None;
        with(&shut(), pod)
    };
    unknown!(unscheduled; "ops/agent-2" -> "demo/web" tcp(80));
}

#[test]
fn case_34_a_pod_always_reaches_itself() {
    yes!(shut(); "demo/web" -> "demo/web" tcp(80), "demo/web" -> "10.1.0.1" PING,
        "10.1.0.1" -> "demo/web" udp(9), "demo/web" -> "fd00:1::1" tcp(80),
        "demo/web" -> "127.0.0.1" tcp(80), "demo/web" -> "::1" tcp(80));
    let both = evaluations(&shut(), "demo/web", "127.0.0.1").remove(0);
    assert_eq!(both.egress.exempt, Some(Exempt::Itself));
    // A pod of the same name elsewhere, and one with the same labels, are others.
    let cluster = with(&shut(), mk_pod("ops/web", "app=web", &["10.1.0.7"]));
    let cluster = with(&cluster, mk_pod("demo/web-2", "app=web", &["10.1.0.8"]));
    no!(cluster; "demo/web" -> "ops/web" tcp(80), "demo/web" -> "demo/web-2" tcp(80));
}

#[test]
fn case_35_the_way_to_the_own_node_is_subject_to_egress() {
    no!(shut(); "demo/web" -> "node/n1" tcp(10250), "demo/web" -> "192.168.0.1" tcp(10250),
        "demo/web" -> "ops/agent-1" tcp(9100));
    let rule = mk_rule([block("192.168.0.1/32", &[])], [port(tcp(0).0, 10250)]);
    let cluster = with(&shut(), mk_policy("demo/kubelet", "app=web").egress([rule]));
    yes!(cluster; "demo/web" -> "192.168.0.1" tcp(10250));
    no!(cluster; "demo/web" -> "192.168.0.1" tcp(22), "demo/web" -> "192.168.0.2" tcp(10250));
}

#[test]
fn case_36_dns_must_be_allowed_like_anything_else() {
    let mut cluster = with(
        &shut(),
        mk_pod("kube-system/dns", "k8s-app=kube-dns", &["10.2.0.53", "fd00:2::53"]).on("n2"),
    );
    cluster.put_namespace(mk_namespace("kube-system", ""));
    no!(cluster; "demo/web" -> "kube-system/dns" udp(53), "demo/web" -> "169.254.20.10" udp(53));
    let dns = within("kubernetes.io/metadata.name=kube-system", "k8s-app=kube-dns");
    let udp_only = mk_rule([dns.clone()], [port(udp(0).0, 53)]);
    let cluster = with(&cluster, mk_policy("demo/dns", "").egress([udp_only]));
    yes!(cluster; "demo/web" -> "kube-system/dns" udp(53));
    no!(cluster; "demo/web" -> "kube-system/dns" tcp(53));
    // A DNS cache on the node has a link-local address: no pod, so a block must name it.
    let rule =
        mk_rule([dns, block("169.254.20.10/32", &[])], [port(udp(0).0, 53), port(tcp(0).0, 53)]);
    let cluster = with(&cluster, mk_policy("demo/dns", "").egress([rule]));
    yes!(cluster; "demo/web" -> "kube-system/dns" tcp(53), "demo/web" -> "169.254.20.10" udp(53));
    let why = why(&cluster, "demo/web", "kube-system/dns", Direction::Egress, tcp(53));
    assert_eq!(why.allowed_by[0].to_string(), "demo/dns egress rule 1");
}
