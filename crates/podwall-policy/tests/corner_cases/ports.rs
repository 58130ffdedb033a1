//! Cases 15 to 24: ports and protocols.

use podwall_policy::cluster::Cluster;
use podwall_policy::object::Pod;
use podwall_policy::policy::{Direction, Rule};
use podwall_policy::port::{PortRange, PortSpec, Protocol};

use crate::support::*;
use crate::{mk_cluster, no, yes};

const TCP: Protocol = Protocol::TCP;
const UDP: Protocol = Protocol::UDP;
const SCTP: Protocol = Protocol::SCTP;

/// demo/client and demo/server, which serves http = TCP 8080, dns = UDP 53 and TCP 5353.
fn pair() -> Cluster {
    let server = mk_pod("demo/server", "app=server", &["10.1.0.2"])
        .serving("http", TCP, 8080)
        .serving("dns", UDP, 53)
        .serving("dns", TCP, 5353);
    mk_cluster![mk_pod("demo/client", "app=client", &["10.1.0.1"]), server]
}

/// The server lets in anybody on these ports.
fn ports(ports: impl Into<Vec<PortSpec>>) -> Cluster {
    with(&pair(), mk_policy("demo/p", "app=server").ingress([mk_rule([], ports)]))
}

#[test]
fn case_15_no_ports_mean_every_port_of_every_protocol() {
    let all = ports([]);
    yes!(all; "demo/client" -> "demo/server" tcp(1), "demo/client" -> "demo/server" udp(65535),
        "demo/client" -> "demo/server" sctp(7), "demo/client" -> "demo/server" PING,
        "demo/client" -> "demo/server" (Protocol(47), 0));
}

#[test]
fn case_16_a_protocol_alone_means_all_its_ports() {
    let cluster = ports([any_port(UDP)]);
    yes!(cluster; "demo/client" -> "demo/server" udp(0), "demo/client" -> "demo/server" udp(65535));
    no!(cluster; "demo/client" -> "demo/server" tcp(53), "demo/client" -> "demo/server" sctp(53),
        "demo/client" -> "demo/server" PING);
}

#[test]
fn case_17_an_unset_protocol_means_tcp() {
    // The type has no unset protocol: whoever builds it must write the API's default. What it then
    // means is TCP and nothing else.
    assert_eq!(Protocol::from_api("TCP"), Some(TCP));
    assert_eq!(Protocol::from_api(""), None, "an empty text is not quietly TCP");
    assert_eq!(Protocol::from_api("tcp"), None, "the API takes upper case only");
    let cluster = ports([port(TCP, 53)]);
    yes!(cluster; "demo/client" -> "demo/server" tcp(53));
    no!(cluster; "demo/client" -> "demo/server" udp(53));
}

#[test]
fn case_18_a_rule_for_one_protocol_opens_no_other_and_still_isolates() {
    for (of, others) in [(UDP, [TCP, SCTP]), (SCTP, [TCP, UDP]), (TCP, [UDP, SCTP])] {
        let cluster = ports([port(of, 80)]);
        let ingress = evaluations(&cluster, "demo/client", "demo/server").remove(0).ingress;
        assert!(ingress.is_isolated());
        assert_eq!(ingress.allowed.to_string(), format!("{of} 80"));
        for other in others {
            no!(cluster; "demo/client" -> "demo/server" (other, 80));
        }
    }
}

#[test]
fn case_19_a_name_is_looked_up_on_each_destination() {
    // Ingress: each subject has its own numbers for the name.
    let second = mk_pod("demo/second", "app=server", &["10.1.0.3"]).serving("http", TCP, 9090);
    let third = mk_pod("demo/third", "app=server", &["10.1.0.4"]).serving("other", TCP, 8080);
    let named = ports([named_port(TCP, "http")]);
    let cluster = with(&with(&named, second), third);
    yes!(cluster; "demo/client" -> "demo/server" tcp(8080), "demo/client" -> "demo/second" tcp(9090));
    no!(cluster; "demo/client" -> "demo/server" tcp(9090), "demo/client" -> "demo/second" tcp(8080),
        "demo/client" -> "demo/third" tcp(8080), "demo/client" -> "demo/third" tcp(9090));
    // Egress: each peer has.
    let rule = mk_rule([own("demo", "app=server")], [named_port(TCP, "http")]);
    let mut out = with(&cluster, mk_policy("demo/out", "app=client").egress([rule]));
    out.policies.retain(|(_, name), _| *name.name == *"out");
    yes!(out; "demo/client" -> "demo/server" tcp(8080), "demo/client" -> "demo/second" tcp(9090));
    no!(out; "demo/client" -> "demo/server" tcp(9090), "demo/client" -> "demo/second" tcp(8080),
        "demo/client" -> "demo/third" tcp(8080));
    // The name must be for that protocol; containers may reuse it for another.
    let dns = ports([named_port(UDP, "dns")]);
    yes!(dns; "demo/client" -> "demo/server" udp(53));
    no!(dns; "demo/client" -> "demo/server" tcp(5353), "demo/client" -> "demo/server" udp(5353),
        "demo/client" -> "demo/server" tcp(53));
    no!(ports([named_port(SCTP, "dns")]); "demo/client" -> "demo/server" sctp(53));
    // Two containers with one name and protocol: both numbers.
    let twice = |pod: Pod| pod.serving("http", TCP, 8080).serving("http", TCP, 8081);
    let cluster = with(&named, twice(mk_pod("demo/server", "app=server", &["10.1.0.2"])));
    yes!(cluster; "demo/client" -> "demo/server" tcp(8080), "demo/client" -> "demo/server" tcp(8081));
    no!(cluster; "demo/client" -> "demo/server" tcp(8082));
    // A name that nobody has matches nothing, not everything.
    let nobody = ports([named_port(TCP, "htttp")]);
    let side = evaluations(&nobody, "demo/client", "demo/server").remove(0).ingress;
    assert!(side.denied.is_everything());
}

#[test]
fn case_20_a_name_without_a_pod_matches_nothing_and_without_peers_any_pod_that_has_it() {
    let out = |rule: Rule| with(&pair(), mk_policy("demo/out", "app=client").egress([rule]));
    let no_peers = out(mk_rule([], [named_port(TCP, "http")]));
    yes!(no_peers; "demo/client" -> "demo/server" tcp(8080));
    no!(no_peers; "demo/client" -> "demo/server" tcp(80), "demo/client" -> "198.51.100.9" tcp(8080),
        "demo/client" -> "198.51.100.9" tcp(80));
    // A block that covers the pod: there is a pod to look the name up on.
    let covered = out(mk_rule([block("10.1.0.0/16", &[])], [named_port(TCP, "http")]));
    yes!(covered; "demo/client" -> "demo/server" tcp(8080));
    no!(covered; "demo/client" -> "10.1.0.99" tcp(8080));
    // A numeric port beside it still counts for addresses.
    let mixed = out(mk_rule([], [named_port(TCP, "http"), port(TCP, 443)]));
    yes!(mixed; "demo/client" -> "198.51.100.9" tcp(443));
    no!(mixed; "demo/client" -> "198.51.100.9" tcp(8080));
    // A hostNetwork pod's ports are the node's, not looked up.
    let host = mk_pod("demo/server", "app=server", &["192.168.0.1"]).host_network();
    let host = with(&no_peers, host.serving("http", TCP, 8080));
    no!(host; "demo/client" -> "demo/server" tcp(8080));
}

#[test]
fn case_21_end_port_is_inclusive() {
    let cluster = ports([port_range(TCP, 8000, 8999)]);
    yes!(cluster; "demo/client" -> "demo/server" tcp(8000), "demo/client" -> "demo/server" tcp(8500),
        "demo/client" -> "demo/server" tcp(8999));
    no!(cluster; "demo/client" -> "demo/server" tcp(7999), "demo/client" -> "demo/server" tcp(9000),
        "demo/client" -> "demo/server" udp(8500));
    yes!(ports([port_range(TCP, 80, 80)]); "demo/client" -> "demo/server" tcp(80));
    let to_the_end = ports([port_range(TCP, 60000, 65535)]);
    yes!(to_the_end; "demo/client" -> "demo/server" tcp(65535));
    no!(to_the_end; "demo/client" -> "demo/server" tcp(0));
    assert_eq!(PortRange::new(81, 80), None, "a range that is turned round cannot be built");
    // A name cannot carry an endPort: the types have no such thing.
}

#[test]
fn case_22_one_number_for_two_protocols_is_two_items() {
    let both = ports([port(TCP, 53), port(UDP, 53)]);
    yes!(both; "demo/client" -> "demo/server" tcp(53), "demo/client" -> "demo/server" udp(53));
    no!(both; "demo/client" -> "demo/server" sctp(53));
    let side = evaluations(&both, "demo/client", "demo/server").remove(0).ingress;
    assert_eq!(side.allowed.to_string(), "TCP 53; UDP 53");
}

#[test]
fn case_23_a_port_is_the_pods_not_the_services() {
    // A Service maps 80 to the pod's 8080: a flow is what is there after that.
    let service_port = ports([port(TCP, 80)]);
    no!(service_port; "demo/client" -> "demo/server" tcp(8080));
    yes!(ports([port(TCP, 8080)]); "demo/client" -> "demo/server" tcp(8080));
    let why = why(&service_port, "demo/client", "demo/server", Direction::Ingress, tcp(8080));
    assert_eq!(why.near_misses[0].reasons[0].to_string(), "its ports are TCP 80, not TCP 8080");
}

#[test]
fn case_24_other_protocols_pass_by_rules_without_ports_only() {
    for rule in [port(TCP, 80), any_port(TCP), any_port(UDP), any_port(SCTP)] {
        let cluster = ports([rule]);
        no!(cluster; "demo/client" -> "demo/server" PING,
            "demo/client" -> "demo/server" (Protocol::ICMPV6, 0),
            "demo/client" -> "demo/server" (Protocol(50), 0));
    }
    yes!(ports([]); "demo/client" -> "demo/server" PING);
    yes!(pair(); "demo/client" -> "demo/server" PING);
    // Errors that belong to a connection are not asked here: the kernel knows them as related.
}
