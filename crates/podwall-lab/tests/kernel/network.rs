//! Cases: packets go where a cluster's packets go, with the addresses that they have there.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use podwall_lab::fabric::PodPlug;
use podwall_lab::holder::{Holder, StartOptions};
use podwall_lab::link::Links;
use podwall_lab::plan::{self, Families};
use podwall_lab::rpc::NetworkMode::{self, Bridge, Ptp};
use podwall_lab::service_nat::ServiceRule;
use podwall_policy::address::Family;
use podwall_policy::port::Protocol;

use crate::cluster::{Cluster, at, in_lab, in_lab_of, ip, saw};
use crate::holder::eventually;
use crate::runner::Case;

pub(crate) const CASES: &[Case] = &[
    ("ptp_everybody_reaches_everybody_with_the_addresses_of_a_cluster", |t| reach(t, Ptp)),
    ("bridge_everybody_reaches_everybody_with_the_addresses_of_a_cluster", |t| reach(t, Bridge)),
    ("ptp_a_lab_of_one_family_has_no_other", |t| one_family(t, Ptp)),
    ("bridge_a_lab_of_one_family_has_no_other", |t| one_family(t, Bridge)),
    ("ptp_a_pod_has_the_addresses_of_its_object_and_no_other", |t| addresses(t, Ptp)),
    ("bridge_a_pod_has_the_addresses_of_its_object_and_no_other", |t| addresses(t, Bridge)),
    ("ptp_services_lead_to_pods", |t| services(t, Ptp)),
    ("bridge_services_lead_to_pods", |t| services(t, Bridge)),
    ("ptp_node_ports_follow_both_policies", |t| node_ports(t, Ptp)),
    ("bridge_node_ports_follow_both_policies", |t| node_ports(t, Bridge)),
    ("ptp_the_node_sees_packets_between_two_of_its_pods", |t| seen(t, Ptp)),
    ("bridge_the_node_sees_packets_between_two_of_its_pods", |t| seen(t, Bridge)),
    ("ptp_a_pod_may_have_an_address_of_another_nodes_range", |t| stray(t, Ptp)),
    ("bridge_a_pod_may_have_an_address_of_another_nodes_range", |t| stray(t, Bridge)),
    ("ptp_what_a_killed_process_left_is_taken_over", |t| takeover(t, Ptp)),
    ("bridge_what_a_killed_process_left_is_taken_over", |t| takeover(t, Bridge)),
    ("ptp_a_pod_sends_nothing_before_it_is_switched_on", |t| off(t, Ptp)),
    ("bridge_a_pod_sends_nothing_before_it_is_switched_on", |t| off(t, Bridge)),
    ("ptp_the_first_packet_to_and_from_a_new_pod_arrives", |t| first(t, Ptp)),
    ("bridge_the_first_packet_to_and_from_a_new_pod_arrives", |t| first(t, Bridge)),
    ("ptp_a_pod_that_is_taken_out_leaves_nothing", |t| removed(t, Ptp)),
    ("bridge_a_pod_that_is_taken_out_leaves_nothing", |t| removed(t, Bridge)),
    ("ptp_many_pods", |t| many(t, Ptp)),
    ("bridge_many_pods", |t| many(t, Bridge)),
];

fn reach(temp: &Path, network: NetworkMode) {
    in_lab(temp, network, |cluster| {
        for place in ["a1", "a2", "b1", "n2", "outside"] {
            cluster.serve(place, 80);
        }
        for family in Family::BOTH {
            // At once, and without a second try: the network is ready when it says so.
            for (from, to) in [("a1", "a2"), ("a1", "b1"), ("b1", "a1"), ("a1", "a1"), ("n3", "b1")]
            {
                assert_eq!(cluster.ask(from, None, at(to, family, 80)), saw(to, from, family));
            }
            assert_eq!(cluster.ask("a1", None, at("n2", family, 80)), saw("n2", "a1", family));
            let own = match network {
                Ptp => "n1",
                Bridge => "gateway1",
            };
            assert_eq!(cluster.ask("n1", None, at("a1", family, 80)), saw("a1", own, family));
            // Out: as the node. In: as oneself.
            let out = cluster.ask("a1", None, at("outside", family, 80));
            assert_eq!(out, saw("outside", "n1", family));
            let client = Some(ip("client", family));
            let inward = cluster.ask("outside", client, at("b1", family, 80));
            assert_eq!(inward, saw("b1", "client", family));
            assert_eq!(cluster.ask_udp("a1", at("b1", family, 80)), saw("b1", "a1", family));
        }
    });
}

fn one_family(temp: &Path, network: NetworkMode) {
    for (families, family) in [(Families::V4, Family::V4), (Families::V6, Family::V6)] {
        in_lab_of(temp, network, families, |cluster| {
            for place in ["a2", "b1", "outside"] {
                cluster.serve(place, 80);
            }
            for to in ["a2", "b1"] {
                assert_eq!(cluster.ask("a1", None, at(to, family, 80)), saw(to, "a1", family));
            }
            let out = cluster.ask("a1", None, at("outside", family, 80));
            assert_eq!(out, saw("outside", "n1", family));
            let links = Links::of(&cluster.ns("a1")).expect("links");
            let eth0 = links.index("eth0").expect("eth0");
            let addresses = links.addresses().expect("addresses");
            for (dev, address) in addresses {
                // An IPv6 address of its own choice would be one that no policy knows of.
                let known = Family::of(address.addr()) == family;
                assert!(dev != eth0 || known, "{address}");
            }
        });
    }
}

fn addresses(temp: &Path, network: NetworkMode) {
    in_lab(temp, network, |cluster| {
        let links = Links::of(&cluster.ns("a1")).expect("links");
        let eth0 = links.index("eth0").expect("eth0");
        let found = links.addresses().expect("addresses").into_iter();
        let found: Vec<IpAddr> =
            found.filter(|(dev, _)| *dev == eth0).map(|(_, net)| net.addr()).collect();
        assert_eq!(found, Family::BOTH.map(|family| ip("a1", family)));
    });
}

fn rule(service: &str, port: u16, endpoints: &[(&str, &str)]) -> ServiceRule {
    let both = |place: &str| Family::BOTH.map(|family| ip(place, family)).to_vec();
    ServiceRule {
        name: format!("default/{service}"),
        cluster_ips: both("service"),
        protocol: Protocol::TCP,
        port,
        node_port: None,
        local: false,
        endpoints: endpoints
            .iter()
            .flat_map(|(pod, node)| {
                both(pod).into_iter().map(|address| (address, 8080, Arc::from(*node)))
            })
            .collect(),
    }
}

fn services(temp: &Path, network: NetworkMode) {
    in_lab(temp, network, |cluster| {
        for place in ["a1", "b1"] {
            cluster.serve(place, 8080);
        }
        cluster.serve("outside", 81);
        let udp = ServiceRule { protocol: Protocol::UDP, ..rule("dns", 53, &[("b1", "n2")]) };
        let sctp = ServiceRule { protocol: Protocol::SCTP, ..rule("raw", 38412, &[("b1", "n2")]) };
        cluster
            .fabric
            .set_services(&[
                sctp,
                rule("one", 80, &[("b1", "n2")]),
                udp,
                rule("self", 90, &[("a1", "n1")]),
                rule("two", 100, &[("a1", "n1"), ("b1", "n2")]),
                rule("none", 110, &[]),
            ])
            .expect("services");
        for family in Family::BOTH {
            let service = |port| at("service", family, port);
            for client in ["a1", "a2"] {
                assert_eq!(cluster.ask(client, None, service(80)), saw("b1", client, family));
                assert_eq!(cluster.ask_udp(client, service(53)), saw("b1", client, family));
            }
            assert_eq!(cluster.ask("n3", None, service(80)), saw("b1", "n3", family));
            // On one node, between two of its pods.
            assert_eq!(cluster.ask("a2", None, service(90)), saw("a1", "a2", family));
            // A pod that reaches itself comes as its node.
            let own = match network {
                Ptp => "n1",
                Bridge => "gateway1",
            };
            assert_eq!(cluster.ask("a1", None, service(90)), saw("a1", own, family));
            let answers: std::collections::BTreeSet<String> =
                (0..40).map(|_| cluster.ask("a2", None, service(100))).collect();
            let both = ["a1", "b1"].map(|pod| saw(pod, "a2", family));
            assert_eq!(answers, both.into_iter().collect(), "each endpoint gets its share");
            for client in ["a1", "n1"] {
                let kind = cluster.refusal(client, service(110));
                assert_eq!(kind, std::io::ErrorKind::ConnectionRefused, "{client} {family}");
                // A port that the Service does not have is nobody's, the outside's neither.
                assert!(!cluster.connects(client, service(81)), "{client} {family}");
            }
        }
    });
}

fn node_ports(temp: &Path, network: NetworkMode) {
    in_lab(temp, network, |cluster| {
        for place in ["a1", "b1"] {
            cluster.serve(place, 8080);
        }
        let cluster_wide =
            ServiceRule { node_port: Some(30080), ..rule("web", 80, &[("b1", "n2")]) };
        let local = ServiceRule {
            node_port: Some(30081),
            local: true,
            ..rule("kept", 81, &[("b1", "n2")])
        };
        cluster.fabric.set_services(&[cluster_wide, local]).expect("services");
        for family in Family::BOTH {
            let client = Some(ip("client", family));
            // Cluster: any node serves, and is the client that the pod sees.
            let asked = cluster.ask("outside", client, at("n3", family, 30080));
            assert_eq!(asked, saw("b1", "n3", family));
            let own = match network {
                Ptp => ip("n2", family),
                Bridge => plan::pod_cidrs(2, Families::Dual)
                    .iter()
                    .filter(|cidr| Family::of(cidr.addr()) == family)
                    .map(|cidr| cidr.hosts().find(|h| *h != cidr.network()).expect("host"))
                    .next()
                    .expect("gateway"),
            };
            let asked = cluster.ask("outside", client, at("n2", family, 30080));
            assert_eq!(asked, format!("b1 {own}"));
            // Local: the pod sees the client; a node without a pod is silent.
            let asked = cluster.ask("outside", client, at("n2", family, 30081));
            assert_eq!(asked, saw("b1", "client", family));
            assert!(cluster.is_silent("outside", at("n3", family, 30081)));
            // From inside of the cluster, any node will do for any policy.
            for (port, client) in [(30080, "a1"), (30080, "n1"), (30081, "a1"), (30081, "n1")] {
                let answer = cluster.ask(client, None, at("n1", family, port));
                assert!(answer.starts_with("b1 "), "{client} {port}: {answer}");
            }
        }
    });
}

fn seen(temp: &Path, network: NetworkMode) {
    in_lab(temp, network, |cluster| {
        cluster.serve("a2", 80);
        cluster.serve("b1", 80);
        cluster.nft(
            "n1",
            "add table inet t; add chain inet t c { type filter hook postrouting priority 95; }; \
             add rule inet t c ip daddr 10.244.1.12 drop; \
             add rule inet t c ip6 daddr fd00:10:244:1::12 drop",
        );
        for family in Family::BOTH {
            assert!(cluster.is_silent("a1", at("a2", family, 80)), "{family}");
            assert_eq!(cluster.ask("a1", None, at("b1", family, 80)), saw("b1", "a1", family));
        }
    });
}

fn stray(temp: &Path, network: NetworkMode) {
    in_lab(temp, network, |cluster| {
        let addresses = ["10.244.1.200", "fd00:10:244:1::200"].map(|t| t.parse().expect("address"));
        cluster.pod("s", "n2", addresses.to_vec());
        for place in ["s", "a1", "b1", "outside"] {
            cluster.serve(place, 80);
        }
        for (family, address) in Family::BOTH.into_iter().zip(addresses) {
            let stray = SocketAddr::new(address, 80);
            for client in ["a1", "b1", "n3"] {
                let answer = cluster.ask(client, None, stray);
                assert_eq!(answer, saw("s", client, family), "{client}");
            }
            let client = ip("client", family);
            assert_eq!(cluster.ask("outside", Some(client), stray), saw("s", "client", family));
            for server in ["a1", "b1"] {
                let answer = cluster.ask("s", None, at(server, family, 80));
                assert_eq!(answer, format!("{server} {address}"));
            }
            let out = cluster.ask("s", None, at("outside", family, 80));
            assert_eq!(out, saw("outside", "n2", family));
        }
    });
}

fn takeover(temp: &Path, network: NetworkMode) {
    let dir = temp.join("labs/a");
    let holder = Holder::start(&dir, StartOptions::default()).expect("start");
    let inside = holder.inside();
    // Killed at ever later moments of its work; each successor goes on from what is there.
    for step in 0..12u64 {
        let note = temp.join("pid");
        holder
            .detach(&[], || {
                // The directory is the host's, so the number must be the host's too: a marker
                // file is enough, the process is found by its parent's namespace.
                std::fs::write(&note, "").expect("write");
                drop(Cluster::open(&inside, network));
                loop {
                    nix::unistd::pause();
                }
            })
            .expect("detach");
        eventually("it runs", || note.exists());
        std::fs::remove_file(&note).expect("remove");
        std::thread::sleep(Duration::from_millis(step * 6));
        // Everything in the lab but its init is the process that works.
        let status = holder.run(|| {
            let own = nix::unistd::getpid();
            for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if let Ok(pid) = name.parse::<i32>()
                    && pid != 1
                    && pid != own.as_raw()
                {
                    let _ = kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
                }
            }
            0
        });
        assert!(status.expect("run").success());
    }
    let status = holder.run(|| {
        let mut cluster = Cluster::open(&inside, network);
        assert_eq!(cluster.fabric.pods().expect("pods").len(), 3);
        for place in ["a2", "b1"] {
            cluster.serve(place, 80);
        }
        for family in Family::BOTH {
            for place in ["a2", "b1"] {
                let answer = cluster.ask("a1", None, at(place, family, 80));
                assert_eq!(answer, saw(place, "a1", family));
            }
        }
        cluster.fabric.remove_pod("a1").expect("remove");
        0
    });
    assert!(status.expect("run").success());
    holder.stop().expect("stop");
}

fn off(temp: &Path, network: NetworkMode) {
    in_lab(temp, network, |cluster| {
        let ips = vec![
            "10.244.1.50".parse().expect("address"),
            "fd00:10:244:1::50".parse().expect("address"),
        ];
        let plug = PodPlug { id: "late".to_owned(), node: "n1".to_owned(), ips };
        cluster.fabric.plug_pod(&plug).expect("plug");
        cluster.serve("a1", 80);
        for family in Family::BOTH {
            let reached = cluster.ask("late", None, at("a1", family, 80));
            assert!(!reached.starts_with("a1"), "{reached}");
        }
        cluster.fabric.activate_pod("late").expect("activate");
        for (family, own) in Family::BOTH.into_iter().zip(&plug.ips) {
            let reached = cluster.ask("late", None, at("a1", family, 80));
            assert_eq!(reached, format!("a1 {own}"));
        }
    });
}

fn first(temp: &Path, network: NetworkMode) {
    in_lab(temp, network, |cluster| {
        cluster.serve("b1", 80);
        for n in 0..20u8 {
            let (name, other) = (format!("p{n}"), format!("q{n}"));
            for (pod, host) in [(&name, 100 + n), (&other, 150 + n)] {
                let plug = PodPlug {
                    id: pod.clone(),
                    node: "n1".to_owned(),
                    ips: vec![format!("fd00:10:244:1::{host}").parse().expect("address")],
                };
                cluster.fabric.plug_pod(&plug).expect("plug");
                cluster.serve(pod, 80);
                cluster.fabric.activate_pod(pod).expect("activate");
            }
            let answer = cluster.ask_once(&name, at("b1", Family::V6, 80)).expect("answer");
            assert_eq!(answer, format!("b1 fd00:10:244:1::{}", 100 + n));
            let to = SocketAddr::new(
                format!("fd00:10:244:1::{}", 150 + n).parse().expect("address"),
                80,
            );
            assert!(cluster.ask_once("b1", to).is_ok(), "{n}");
        }
    });
}

fn removed(temp: &Path, network: NetworkMode) {
    in_lab(temp, network, |cluster| {
        let links = Links::of(&cluster.ns("n1")).expect("links");
        let before = links.all().expect("links").len();
        let routes = links.routes().expect("routes");
        let address: IpAddr = "10.244.2.99".parse().expect("address");
        cluster.pod("gone", "n1", vec![address]);
        assert_eq!(links.all().expect("links").len(), before + 1);
        cluster.fabric.remove_pod("gone").expect("remove");
        cluster.fabric.remove_pod("gone").expect("twice is fine");
        assert_eq!(links.all().expect("links").len(), before);
        assert_eq!(links.routes().expect("routes"), routes);
        let others = Links::of(&cluster.ns("n2")).expect("links").routes().expect("routes");
        assert!(!others.iter().any(|(to, ..)| to.addr() == address), "{others:?}");
        assert_eq!(cluster.fabric.pods().expect("pods").len(), 3);
    });
}

/// Address of pod number `n` of [`many`], on one of three nodes.
fn numbered(n: u8, family: Family) -> IpAddr {
    let node = n % 3 + 1;
    match family {
        Family::V4 => IpAddr::from([10, 244, node, 100 + n / 3]),
        Family::V6 => format!("fd00:10:244:{node}::1:{n:x}").parse().expect("address"),
    }
}

fn many(temp: &Path, network: NetworkMode) {
    const PODS: u8 = 150;
    in_lab(temp, network, |cluster| {
        let since = Instant::now();
        for n in 0..PODS {
            let ips = Family::BOTH.map(|family| numbered(n, family)).to_vec();
            cluster.pod(&format!("pod{n}"), &format!("n{}", n % 3 + 1), ips);
        }
        eprintln!("150 pods: {:?}", since.elapsed());
        assert_eq!(cluster.fabric.pods().expect("pods").len(), 153);
        // Everybody at once, to everybody: more neighbours than the kernel's tables remember
        // (gc_thresh3, 1024 for all namespaces of the machine together).
        let sockets: Vec<UdpSocket> = (0..PODS)
            .map(|n| {
                let bind = || UdpSocket::bind((std::net::Ipv6Addr::UNSPECIFIED, 9));
                cluster.ns(&format!("pod{n}")).within(bind).expect("within").expect("bind")
            })
            .collect();
        for family in Family::BOTH {
            for socket in &sockets {
                for to in 0..PODS {
                    let to = SocketAddr::new(mapped(numbered(to, family)), 9);
                    socket.send_to(b"!", to).expect("send");
                }
            }
            for (n, socket) in sockets.iter().enumerate() {
                socket.set_read_timeout(Some(Duration::from_secs(3))).expect("timeout");
                for got in 0..PODS {
                    let received = socket.recv(&mut [0; 8]);
                    assert!(received.is_ok(), "pod{n} got {got} of {PODS} by {family}");
                }
            }
        }
    });
}

/// An address as a socket of both families takes it.
fn mapped(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
        v6 => v6,
    }
}
