//! Do the reasons tell a tired engineer at once what is wrong?
//!
//! One test a realistic mistake: the cluster, what was asked, and the words of the answer.

#[cfg(test)]
mod support;

use podwall_policy::cluster::Cluster;
use podwall_policy::evaluate::Verdict;
use podwall_policy::policy::{Direction, Peer};
use podwall_policy::port::{PortSpec, Protocol};
use podwall_policy::selector::{Operator, Selector};
use support::*;

const TCP: Protocol = Protocol::TCP;
const UDP: Protocol = Protocol::UDP;

/// demo/db serves pg = TCP 5432; shop/web asks it from namespace shop (env=prod).
fn pods() -> Cluster {
    mk_cluster![
        mk_namespace("demo", "env=prod,team=data"),
        mk_namespace("shop", "env=prod"),
        mk_pod("demo/db", "app=db", &["10.1.0.1"]).serving("pg", TCP, 5432),
        mk_pod("shop/web", "app=web,env=dev", &["10.2.5.1"]),
        mk_pod("kube-system/proxy", "app=proxy", &["192.168.0.2"]).on("n2").host_network(),
        mk_pod("shop/job", "app=job", &["10.2.5.9"]).terminated(),
        mk_node("n1", &["192.168.0.1"]),
        mk_node("n2", &["192.168.0.2"]),
    ]
}

/// db lets in these peers on these ports; src is denied, and these are the reasons of rule 1.
fn reasons(
    peers: impl Into<Vec<Peer>>,
    ports: impl Into<Vec<PortSpec>>,
    src: &str,
    ask: (Protocol, u16),
) -> Vec<String> {
    let cluster = with(&pods(), mk_policy("demo/p", "app=db").ingress([mk_rule(peers, ports)]));
    of(&cluster, src, "demo/db", Direction::Ingress, ask)
}

fn of(
    cluster: &Cluster,
    src: &str,
    dst: &str,
    direction: Direction,
    ask: (Protocol, u16),
) -> Vec<String> {
    let why = why(cluster, src, dst, direction, ask);
    assert_eq!(why.verdict, Verdict::Denied);
    assert_eq!(why.near_misses.len(), 1, "{why:?}");
    why.near_misses[0].reasons.iter().map(ToString::to_string).collect()
}

/// web may go to these ports of anybody.
fn out(ports: impl Into<Vec<PortSpec>>, dst: &str, ask: (Protocol, u16)) -> Vec<String> {
    let cluster = with(&pods(), mk_policy("shop/p", "app=web").egress([mk_rule([], ports)]));
    of(&cluster, "shop/web", dst, Direction::Egress, ask)
}

#[test]
fn a_wrong_label_value() {
    assert_eq!(
        reasons([within("env=prod", "app=website")], [], "shop/web", tcp(5432)),
        ["pod shop/web has label app=web, not app=website"]
    );
    assert_eq!(
        reasons(
            [within("env=prod", mk_selector("").and("app", mk_in(&["a", "b"])))],
            [],
            "shop/web",
            tcp(1)
        ),
        ["pod shop/web has label app=web (wanted: app in (a,b))"]
    );
    assert_eq!(
        reasons(
            [within("", mk_selector("").and("app", mk_not_in(&["web"])))],
            [],
            "shop/web",
            tcp(1)
        ),
        ["pod shop/web has label app=web, which the selector excludes (app notin (web))"]
    );
    assert_eq!(
        reasons(
            [within("", Selector::everything().and("tier", Operator::Exists))],
            [],
            "shop/web",
            tcp(1)
        ),
        ["pod shop/web has no label tier (wanted: tier with any value)"]
    );
}

#[test]
fn a_label_looked_for_on_the_wrong_object() {
    assert_eq!(
        reasons([within("app=web", "")], [], "shop/web", tcp(1)),
        ["namespace shop has no label app=web; pod shop/web does: a namespaceSelector looks at \
          the namespace's labels only"]
    );
    assert_eq!(
        reasons([within("", "env=prod")], [], "shop/web", tcp(1)),
        ["pod shop/web has label env=dev, not env=prod; namespace shop does: a podSelector looks \
          at the pod's labels only"]
    );
}

#[test]
fn a_namespace_selected_by_a_label_that_nobody_set() {
    assert_eq!(
        reasons([within("name=shop", "")], [], "shop/web", tcp(1)),
        ["namespace shop has no label name=shop; the label that every namespace has is \
          kubernetes.io/metadata.name=shop"]
    );
    assert_eq!(
        reasons([within("team=shop-owners", "")], [], "shop/web", tcp(1)),
        ["namespace shop has no label team=shop-owners"]
    );
}

#[test]
fn a_pod_selector_that_means_the_own_namespace_only() {
    assert_eq!(
        reasons([own("demo", "app=web")], [], "shop/web", tcp(5432)),
        ["pod shop/web is not in namespace demo: without a namespaceSelector a podSelector means \
          pods of the policy's own namespace"]
    );
}

#[test]
fn a_wrong_port() {
    assert_eq!(
        reasons([], [port(TCP, 5433), port_range(TCP, 8000, 8999)], "shop/web", tcp(5432)),
        ["its ports are TCP 5433, TCP 8000-8999, not TCP 5432"]
    );
    assert_eq!(
        reasons([], [port(TCP, 5432)], "shop/web", PING),
        ["its ports are TCP 5432, not ICMP: only a rule without ports covers other protocols"]
    );
    // A name that is another number than the one asked for.
    assert_eq!(
        reasons([], [named_port(TCP, "pg")], "shop/web", tcp(5433)),
        ["its ports are TCP \"pg\" (on this destination: TCP 5432), not TCP 5433"]
    );
}

#[test]
fn a_wrong_protocol() {
    assert_eq!(
        out([port(TCP, 53)], "demo/db", udp(53)),
        ["its ports are TCP 53, not UDP 53: the protocol differs"]
    );
}

#[test]
fn a_port_name_that_is_not_there() {
    assert_eq!(
        reasons([], [named_port(TCP, "postgres")], "shop/web", tcp(5432)),
        ["pod demo/db has no TCP port named \"postgres\" (it names \"pg\" = TCP 5432)"]
    );
    assert_eq!(
        reasons([], [named_port(UDP, "pg")], "shop/web", udp(5432)),
        ["pod demo/db has no UDP port named \"pg\" (it names \"pg\" = TCP 5432)"]
    );
    assert_eq!(
        out([named_port(TCP, "http")], "198.51.100.9", tcp(80)),
        ["the port name \"http\" means nothing on 198.51.100.9: names are looked up in a pod's \
          container ports"]
    );
    let silent = with(&pods(), mk_pod("demo/db", "app=db", &["10.1.0.1"]));
    let rule = mk_rule([], [named_port(TCP, "pg")]);
    let silent = with(&silent, mk_policy("demo/p", "").ingress([rule]));
    assert_eq!(
        of(&silent, "shop/web", "demo/db", Direction::Ingress, tcp(5432)),
        ["pod demo/db has no TCP port named \"pg\" (it names no port)"]
    );
}

#[test]
fn an_address_in_the_exception_or_outside_of_the_block() {
    assert_eq!(
        reasons([block("10.2.0.0/16", &["10.2.5.0/24"])], [], "shop/web", tcp(1)),
        ["10.2.5.1 (pod shop/web) is in the ipBlock's except 10.2.5.0/24"]
    );
    assert_eq!(
        reasons([block("10.3.0.0/16", &[])], [], "shop/web", tcp(1)),
        ["10.2.5.1 (pod shop/web) is outside of ipBlock 10.3.0.0/16"]
    );
    assert_eq!(
        reasons([block("10.3.0.0/16", &[])], [], "198.51.100.9", tcp(1)),
        ["198.51.100.9 is outside of ipBlock 10.3.0.0/16"]
    );
    assert_eq!(
        reasons([block("fd00::/8", &[])], [], "shop/web", tcp(1)),
        ["ipBlock fd00::/8 never covers IPv4 traffic"]
    );
}

#[test]
fn a_source_that_is_no_pod_or_none_any_more() {
    assert_eq!(
        reasons([within("", "app=proxy")], [], "kube-system/proxy", tcp(1)),
        [
            "pod kube-system/proxy uses its node's network (hostNetwork): no selector matches it, an \
          ipBlock with the node's address would"
        ]
    );
    assert_eq!(
        reasons([within("", "")], [], "node/n2", tcp(1)),
        ["node n2 is not a pod: podSelector and namespaceSelector match pods only, an address \
          needs an ipBlock"]
    );
    assert_eq!(
        reasons([within("", "")], [], "198.51.100.9", tcp(1)),
        ["198.51.100.9 is not a pod: podSelector and namespaceSelector match pods only, an \
          address needs an ipBlock"]
    );
    assert_eq!(
        reasons([within("", "app=job")], [], "shop/job", tcp(1)),
        ["pod shop/job has ended (Succeeded or Failed): rules no longer match it nor its former \
          address"]
    );
}

#[test]
fn everything_that_is_wrong_is_named_and_the_nearest_peer_speaks() {
    assert_eq!(
        reasons([within("team=data", "app=api")], [port(TCP, 80)], "shop/web", tcp(5432)),
        [
            "namespace shop has no label team=data",
            "pod shop/web has label app=web, not app=api",
            "its ports are TCP 80, not TCP 5432",
        ]
    );
    let peers = [within("team=data", "app=api"), within("env=prod", "app=api")];
    assert_eq!(
        reasons(peers, [], "shop/web", tcp(5432)),
        ["pod shop/web has label app=web, not app=api"]
    );
    // The rule that lacks least comes first.
    let far = mk_rule([within("team=data", "app=api")], []);
    let near = mk_rule([within("env=prod", "app=api")], []);
    let cluster = with(&pods(), mk_policy("demo/p", "app=db").ingress([far, near]));
    let why = why(&cluster, "shop/web", "demo/db", Direction::Ingress, tcp(1));
    let order: Vec<u32> = why.near_misses.iter().map(|miss| miss.rule.number).collect();
    assert_eq!(order, [2, 1]);
}
