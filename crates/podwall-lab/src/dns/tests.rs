//! Answers are read by another implementation of DNS than the one that writes them.

use super::*;
use podwall_policy::cluster::Cluster;
use podwall_policy::label::Labels;
use podwall_policy::object::{Exposure, Name, Pod, Service, ServicePort, TargetPort};
use podwall_policy::port::{ContainerPort, Protocol};
use proptest::prelude::*;
use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name as DnsName, Packet, PacketFlag, QTYPE, Question, RCODE, TYPE};

fn pod(namespace: &str, name: &str, app: &str, ips: &[&str]) -> Pod {
    let mut pod = Pod::new(namespace, name, [("app", app)].into_iter().collect());
    pod.ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
    pod.ports =
        vec![ContainerPort { name: Some("web".into()), number: 8080, protocol: Protocol::TCP }];
    pod
}

fn service(name: &str, app: &str, ips: &[&str]) -> Service {
    Service {
        name: Name::new("demo", name),
        selector: Some([("app", app)].into_iter().collect::<Labels>()),
        cluster_ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        headless: ips.is_empty(),
        exposure: Exposure::Cluster,
        external: podwall_policy::object::External::default(),
        ports: vec![ServicePort {
            name: Some("http".into()),
            protocol: Protocol::TCP,
            port: 80,
            target: TargetPort::Name("web".into()),
            node_port: None,
        }],
        source: None,
    }
}

fn data() -> DnsData {
    let mut cluster = Cluster::default();
    cluster.put_pod(pod("demo", "frontend", "front", &["10.244.1.5", "fd00::5"]));
    cluster.put_pod(pod("demo", "db-0", "db", &["10.244.1.6"]));
    cluster.put_pod(pod("demo", "db-1", "db", &["10.244.2.6"]));
    cluster.put_service(service("backend", "front", &["10.96.0.7"]));
    cluster.put_service(service("db", "db", &[]));
    let mut data = DnsData::of(&cluster);
    data.add_external("Example.COM.", vec!["203.0.113.7".parse().unwrap()]);
    data
}

fn query(name: &str, kind: QTYPE) -> Vec<u8> {
    let mut packet = Packet::new_query(0);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = DnsName::new(name).unwrap();
    packet.questions.push(Question::new(name, kind, CLASS::IN.into(), false));
    packet.build_bytes_vec().unwrap()
}

/// The code and the records in text.
fn ask(name: &str, kind: TYPE) -> (RCODE, Vec<String>) {
    let reply = answer(&query(name, kind.into()), &data(), Transport::Udp).unwrap();
    let reply = Packet::parse(&reply).unwrap();
    assert!(reply.has_flags(PacketFlag::RESPONSE | PacketFlag::RECURSION_DESIRED));
    assert_eq!(reply.questions.len(), 1);
    assert_eq!(reply.questions[0].qname.to_string(), name);
    // A "no" and an empty "yes" say how long they hold; a full "yes" does not.
    assert_eq!(reply.name_servers.len(), usize::from(reply.answers.is_empty()));
    let text = |record: &simple_dns::ResourceRecord<'_>| {
        assert_eq!(record.name.to_string(), name);
        match &record.rdata {
            RData::A(a) => std::net::Ipv4Addr::from(a.address).to_string(),
            RData::AAAA(a) => std::net::Ipv6Addr::from(a.address).to_string(),
            RData::SRV(srv) => format!("{} {}", srv.port, srv.target),
            RData::PTR(name) => name.0.to_string(),
            other => format!("{other:?}"),
        }
    };
    (reply.rcode(), reply.answers.iter().map(text).collect())
}

fn ok(records: &[&str]) -> (RCODE, Vec<String>) {
    (RCODE::NoError, records.iter().map(|r| (*r).to_owned()).collect())
}

#[test]
fn services_resolve_to_their_cluster_ips_and_headless_ones_to_their_pods() {
    assert_eq!(ask("backend.demo.svc.cluster.local", TYPE::A), ok(&["10.96.0.7"]));
    assert_eq!(ask("BackEnd.demo.svc.Cluster.local", TYPE::A), ok(&["10.96.0.7"]));
    assert_eq!(ask("db.demo.svc.cluster.local", TYPE::A), ok(&["10.244.1.6", "10.244.2.6"]));
    assert_eq!(ask("db-1.db.demo.svc.cluster.local", TYPE::A), ok(&["10.244.2.6"]));
    assert_eq!(ask("10-244-2-6.db.demo.svc.cluster.local", TYPE::A), ok(&["10.244.2.6"]));
}

#[test]
fn a_name_without_an_address_of_the_family_exists_and_is_empty() {
    assert_eq!(ask("backend.demo.svc.cluster.local", TYPE::AAAA), ok(&[]));
    assert_eq!(ask("demo.svc.cluster.local", TYPE::A), ok(&[]));
    assert_eq!(ask("cluster.local", TYPE::A), ok(&[]));
    assert_eq!(ask("backend.demo.svc.cluster.local", TYPE::MX), ok(&[]));
}

#[test]
fn a_pod_answers_to_its_name_where_no_service_has_it() {
    assert_eq!(ask("frontend.demo.svc.cluster.local", TYPE::A), ok(&["10.244.1.5"]));
    assert_eq!(ask("frontend.demo.svc.cluster.local", TYPE::AAAA), ok(&["fd00::5"]));
    assert_eq!(ask("10-244-1-5.demo.pod.cluster.local", TYPE::A), ok(&["10.244.1.5"]));
    assert_eq!(ask("fd00--5.demo.pod.cluster.local", TYPE::AAAA), ok(&["fd00::5"]));
}

#[test]
fn named_ports_have_srv_records() {
    let srv = ask("_http._tcp.backend.demo.svc.cluster.local", TYPE::SRV);
    assert_eq!(srv, ok(&["80 backend.demo.svc.cluster.local"]));
    let srv = ask("_http._tcp.db.demo.svc.cluster.local", TYPE::SRV);
    let hosts = ["8080 db-0.db.demo.svc.cluster.local", "8080 db-1.db.demo.svc.cluster.local"];
    assert_eq!(srv, ok(&hosts));
    let (code, _) = ask("_http._udp.backend.demo.svc.cluster.local", TYPE::SRV);
    assert_eq!(code, RCODE::NameError);
}

#[test]
fn unknown_names_do_not_exist_inside_and_outside() {
    for name in [
        "backend.other.svc.cluster.local",
        "nobody.demo.svc.cluster.local",
        "other.svc.cluster.local",
        "backend.demo",
        "backend",
        "www.example.org",
        "db-0.backend.demo.svc.cluster.local",
        "300-1-1-1.demo.pod.cluster.local",
        "9.9.9.9.in-addr.arpa",
    ] {
        assert_eq!(ask(name, TYPE::A), (RCODE::NameError, vec![]), "{name}");
    }
    assert_eq!(ask("example.com", TYPE::A), ok(&["203.0.113.7"]));
}

#[test]
fn addresses_lead_back_to_names() {
    let ptr = |name: &str| ask(name, TYPE::PTR);
    assert_eq!(ptr("7.0.96.10.in-addr.arpa"), ok(&["backend.demo.svc.cluster.local"]));
    assert_eq!(ptr("6.1.244.10.in-addr.arpa"), ok(&["db-0.db.demo.svc.cluster.local"]));
    let v6 = format!("5.{}0.0.d.f.ip6.arpa", "0.".repeat(27));
    assert_eq!(ptr(&v6), ok(&["frontend.demo.svc.cluster.local"]));
}

fn many() -> DnsData {
    let mut data = DnsData::default();
    let addresses = (0..200).map(|i| IpAddr::from([10, 0, 0, i])).collect();
    data.add_pod(Name::new("demo", "many"), addresses);
    data
}

#[test]
fn an_answer_too_long_for_udp_is_marked_and_whole_over_tcp() {
    let bytes = query("many.demo.svc.cluster.local", TYPE::A.into());
    let udp = answer(&bytes, &many(), Transport::Udp).unwrap();
    assert!(udp.len() <= 512);
    let udp = Packet::parse(&udp).unwrap();
    assert!(udp.has_flags(PacketFlag::TRUNCATION));
    let tcp = answer(&bytes, &many(), Transport::Tcp).unwrap();
    assert_eq!(Packet::parse(&tcp).unwrap().answers.len(), 200);
}

#[test]
fn edns_raises_the_limit_and_is_answered() {
    let mut packet = Packet::parse_query("many.demo.svc.cluster.local");
    *packet.opt_mut() =
        Some(simple_dns::rdata::OPT { opt_codes: vec![], udp_packet_size: 4096, version: 0 });
    let bytes = packet.build_bytes_vec().unwrap();
    let mut few = DnsData::default();
    let addresses = (0..60).map(|i| IpAddr::from([10, 0, 0, i])).collect();
    few.add_pod(Name::new("demo", "many"), addresses);
    let reply = answer(&bytes, &few, Transport::Udp).unwrap();
    let reply = Packet::parse(&reply).unwrap();
    assert_eq!((reply.answers.len(), reply.opt().is_some()), (60, true));
    let plain = query("many.demo.svc.cluster.local", TYPE::A.into());
    let reply = answer(&plain, &few, Transport::Udp).unwrap();
    let reply = Packet::parse(&reply).unwrap();
    assert_eq!((reply.answers.len(), reply.opt().is_some()), (0, false));
}

trait ParseQuery {
    fn parse_query(name: &str) -> Packet<'_>;
}

impl ParseQuery for Packet<'_> {
    fn parse_query(name: &str) -> Packet<'_> {
        let mut packet = Packet::new_query(0);
        let question =
            Question::new(DnsName::new(name).unwrap(), TYPE::A.into(), CLASS::IN.into(), false);
        packet.questions.push(question);
        packet
    }
}

#[test]
fn what_is_no_query_is_refused_or_met_with_silence() {
    let mut bytes = query("backend.demo.svc.cluster.local", TYPE::A.into());
    let code = |bytes: &[u8]| answer(bytes, &data(), Transport::Udp).map(|reply| reply[3] & 15);
    assert_eq!(code(&bytes), Some(0));
    assert_eq!(code(&bytes[..bytes.len() - 1]), Some(1), "cut short");
    assert_eq!(code(&bytes[..11]), None);
    let mut chaos = bytes.clone();
    *chaos.last_mut().unwrap() = 3;
    assert_eq!(code(&chaos), Some(5), "another class");
    let mut update = bytes.clone();
    update[2] |= 5 << 3;
    assert_eq!(code(&update), Some(4), "another operation");
    bytes[2] |= 0x80;
    assert_eq!(code(&bytes), None, "an answer");
}

#[test]
fn a_pod_resolves_as_the_kubelet_sets_it_up() {
    let text = resolv_conf("demo", &["10.96.0.10".parse().unwrap(), "fd00::a".parse().unwrap()]);
    assert_eq!(
        text,
        "search demo.svc.cluster.local svc.cluster.local cluster.local\n\
         nameserver 10.96.0.10\nnameserver fd00::a\noptions ndots:5 timeout:1 attempts:2\n"
    );
    assert_eq!(resolv_conf("demo", &[]), "");
    let hosts = hosts_file("web-0", None, &["10.0.0.1".parse().unwrap()]);
    assert!(hosts.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
    assert!(hosts.ends_with("\n10.0.0.1\tweb-0\n"));
}

proptest! {
    #[test]
    fn hostile_bytes_are_answered_or_not_but_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        query_flags in any::<bool>(),
    ) {
        let mut bytes = bytes;
        if query_flags && bytes.len() > 12 {
            bytes[2..6].copy_from_slice(&[1, 0, 0, 1]);
        }
        let reply = answer(&bytes, &data(), Transport::Udp);
        if let Some(reply) = reply {
            prop_assert!(reply.len() <= 1232 && reply[2] & 0x80 != 0);
            // An answer to an answer would be a loop.
            prop_assert_eq!(answer(&reply, &data(), Transport::Udp), None);
        }
    }

    #[test]
    fn a_damaged_query_never_panics(at in 0usize..46, byte in any::<u8>()) {
        let mut bytes = query("backend.demo.svc.cluster.local", TYPE::A.into());
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = answer(&bytes, &many(), Transport::Tcp);
    }
}
