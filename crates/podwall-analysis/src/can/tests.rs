//! Services, workloads, the outside, and questions without an answer.

use podwall_policy::address::IpBlock;
use podwall_policy::object::{Service, TargetPort};
use podwall_policy::port::PortRange;

use super::*;
use crate::peer::resolve;
use podwall_policy::label::Labels;
use podwall_policy::object::Name;
use podwall_policy::policy::{Peer as RulePeer, Policy, Rule};
use podwall_policy::port::{ContainerPort, PortMatch, PortSpec};
use podwall_policy::selector::Selector;

/// `client`, and `web-1` and `web-2` that call their port http and listen on 8080 and 9090,
/// behind Service `web`.
fn cluster() -> Cluster {
    let mut cluster = Cluster::default();
    cluster.put_pod(Pod::new("default", "client", Labels::default()));
    for (name, number) in [("web-1", 8080), ("web-2", 9090)] {
        let labels = [("app", "web"), ("pod", name)].into_iter().collect();
        let mut pod = Pod::new("default", name, labels);
        let name = Some("http".into());
        pod.ports.push(ContainerPort { name, number, protocol: Protocol::TCP });
        cluster.put_pod(pod);
    }
    let port = |port, target| ServicePort {
        name: None,
        protocol: Protocol::TCP,
        port,
        target,
        node_port: None,
    };
    cluster.put_service(Service {
        name: Name::new("default", "web"),
        selector: Some([("app", "web")].into_iter().collect()),
        cluster_ips: vec!["10.96.0.1".parse().unwrap()],
        headless: false,
        exposure: Exposure::Cluster,
        external: podwall_policy::object::External::default(),
        ports: vec![port(80, TargetPort::Name("http".into())), port(81, TargetPort::Number(7))],
        source: None,
    });
    cluster
}

fn shut(cluster: &mut Cluster, pod: &str, but: &[u16]) {
    let mut policy = Policy::network_policy("default", pod, Selector::labels([("pod", pod)]));
    let ports = but.iter().map(|port| PortSpec {
        protocol: Protocol::TCP,
        port: PortMatch::Range(PortRange::one(*port)),
    });
    policy.ingress = Some(ports.map(|port| Rule::allow(Vec::new(), vec![port])).collect());
    cluster.put_policy(policy);
}

fn ask(cluster: &Cluster, src: &str, dst: &str, port: Option<PortAsk>) -> Verdict {
    let src = resolve(cluster, src, "default").unwrap();
    let dst = resolve(cluster, dst, "default").unwrap();
    can(cluster, &src, &dst, &Ask { port, ..Ask::default() }).unwrap().verdict
}

#[test]
fn a_service_port_is_translated_on_each_pod() {
    let mut cluster = cluster();
    shut(&mut cluster, "web-1", &[8080]);
    shut(&mut cluster, "web-2", &[9090]);
    let (src, dst) = (resolve(&cluster, "client", "default"), resolve(&cluster, "10.96.0.1", ""));
    let port = Some(PortAsk::Number(80));
    let answer =
        can(&cluster, &src.unwrap(), &dst.unwrap(), &Ask { port, ..Ask::default() }).unwrap();
    let backends: Vec<_> = answer.translations[0]
        .backends
        .iter()
        .map(|(pod, port, verdict)| (&*pod.name.name, *port, *verdict))
        .collect();
    let allowed = Verdict::Allowed;
    assert_eq!(backends, [("web-1", 8080, allowed), ("web-2", 9090, allowed)]);
    assert_eq!(answer.verdict, allowed);
    assert_eq!(answer.passes.to_string(), "nothing", "no port is open on both pods");
}

/// A headless Service was answered for as if its ports were translated.
#[test]
fn a_headless_service_translates_no_port() {
    let mut cluster = cluster();
    let mut service = cluster.services.values().next().unwrap().clone();
    service.headless = true;
    service.cluster_ips.clear();
    service.ports =
        vec![ServicePort { target: TargetPort::Number(8080), ..service.ports.remove(0) }];
    cluster.put_service(service.clone());
    for pod in ["web-1", "web-2"] {
        shut(&mut cluster, pod, &[8080]);
    }
    let port = |number| Some(PortAsk::Number(number));
    assert_eq!(ask(&cluster, "client", "svc/web", port(80)), Verdict::Denied);
    assert_eq!(ask(&cluster, "client", "svc/web", port(8080)), Verdict::Allowed);
    assert_eq!(ask(&cluster, "client", "svc/web", None), Verdict::Allowed, "asks for targetPort");
    let (src, dst) =
        (resolve(&cluster, "client", "default"), resolve(&cluster, "svc/web", "default"));
    let (src, dst) = (src.unwrap(), dst.unwrap());
    for (port, note) in
        [(Some(80), "ask for --port 8080"), (Some(8080), "own port"), (None, "targetPort")]
    {
        let ask = Ask { port: port.map(PortAsk::Number), ..Ask::default() };
        let answer = can(&cluster, &src, &dst, &ask).unwrap();
        assert!(answer.notes[0].contains("headless") && answer.notes[0].contains(note));
        assert_eq!(answer.translations.is_empty(), port.is_some());
    }
    service.ports.clear();
    cluster.put_service(service);
    assert_eq!(
        ask(&cluster, "client", "svc/web", None),
        Verdict::Allowed,
        "it need not state ports"
    );
    assert_eq!(ask(&cluster, "client", "svc/web", port(81)), Verdict::Denied);
}

#[test]
fn one_pod_that_is_shut_closes_the_service() {
    let mut cluster = cluster();
    shut(&mut cluster, "web-2", &[]);
    let port = |number| Some(PortAsk::Number(number));
    assert_eq!(ask(&cluster, "client", "svc/web", port(80)), Verdict::Denied);
    assert_eq!(ask(&cluster, "client", "web-1", port(8080)), Verdict::Allowed);
}

#[test]
fn without_a_port_one_open_port_of_a_service_is_enough() {
    let mut cluster = cluster();
    for pod in ["web-1", "web-2"] {
        shut(&mut cluster, pod, &[7]);
    }
    assert_eq!(ask(&cluster, "client", "svc/web", None), Verdict::Allowed);
    assert_eq!(ask(&cluster, "client", "svc/web", Some(PortAsk::Number(80))), Verdict::Denied);
    let name = Some(PortAsk::Name("http".into()));
    assert_eq!(ask(&cluster, "client", "web-1", name), Verdict::Denied);
}

#[test]
fn the_internet_is_reached_if_any_address_of_it_is() {
    let mut cluster = cluster();
    let mut policy = Policy::network_policy("default", "out", Selector::everything());
    let block = IpBlock::new("192.0.2.0/24".parse().unwrap(), ["192.0.2.128/25".parse().unwrap()]);
    policy.egress = Some(vec![Rule::allow(vec![RulePeer::Block(block)], Vec::new())]);
    cluster.put_policy(policy);
    let (src, dst) = (resolve(&cluster, "client", "default"), resolve(&cluster, "internet", ""));
    let answer = can(&cluster, &src.unwrap(), &dst.unwrap(), &Ask::default()).unwrap();
    assert_eq!(answer.verdict, Verdict::Allowed);
    assert_eq!(outside::cidrs(&answer.outside(Verdict::Allowed)), ["192.0.2.0/25"]);
    let denied = answer.outside(Verdict::Denied);
    assert!(denied.contains("192.0.2.200".parse().unwrap()));
    assert!(denied.contains("2001:db8::1".parse().unwrap()));
    assert_eq!(ask(&cluster, "client", "192.0.2.200", None), Verdict::Denied);
}

#[test]
fn questions_without_an_answer_are_refused_in_words() {
    let cluster = cluster();
    let error = |src: &str, dst: &str, ask: Ask| {
        let src = resolve(&cluster, src, "default").unwrap();
        let dst = resolve(&cluster, dst, "default").unwrap();
        can(&cluster, &src, &dst, &ask).unwrap_err().to_string()
    };
    let port = |port| Ask { port: Some(port), ..Ask::default() };
    let icmp = Ask { protocol: Some(Protocol::ICMP), ..port(PortAsk::Number(1)) };
    assert_eq!(error("client", "web-1", icmp), "ICMP has no ports");
    assert_eq!(
        error("client", "web-1", port(PortAsk::Name("htpp".into()))),
        "default/web-1 has no port named \"htpp\""
    );
    assert_eq!(
        error("client", "svc/web", port(PortAsk::Number(443))),
        "Service default/web has no port TCP 443"
    );
    assert!(error("svc/web", "client", Ask::default()).contains("opens no connections"));
    let v6 = Ask { family: Some(Family::V6), ..Ask::default() };
    assert!(error("client", "192.0.2.1", v6).contains("no IPv6 address in common"));
}

#[test]
fn alike_pods_are_asked_once_and_counted() {
    let mut cluster = cluster();
    for i in 0..50 {
        let mut pod = Pod::new("default", format!("r-{i}"), Labels::default());
        let name = "r".into();
        pod.owner = Some(podwall_policy::object::Owner { kind: "ReplicaSet".into(), name });
        cluster.put_pod(pod);
    }
    let src = resolve(&cluster, "rs/r", "default").unwrap();
    let dst = resolve(&cluster, "web-1", "default").unwrap();
    let answer = can(&cluster, &src, &dst, &Ask::default()).unwrap();
    assert_eq!(answer.cases.iter().map(|case| case.pairs).collect::<Vec<_>>(), [50]);
}
