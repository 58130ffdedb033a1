//! Servers in namespaces of their own, asked by ordinary clients.

use super::identity::{Answer, probe_payload, read_probe};
use super::sctp_wire::{ABORT, Chunk, INIT, INIT_ACK, Init, Packet};
use super::*;
use crate::dns::DnsData;
use podwall_policy::label::Labels;
use podwall_policy::object::Name;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

/// A namespace, or nothing without root.
pub(crate) fn namespace() -> Option<NetNs> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: needs root");
        return None;
    }
    Some(NetNs::unnamed().unwrap())
}

/// Runs `ip` in a namespace.
pub(crate) fn ip(ns: &NetNs, arguments: &str) {
    let status = ns.within(|| Command::new("ip").args(arguments.split_whitespace()).status());
    assert!(status.unwrap().unwrap().success(), "ip {arguments}");
}

fn web() -> Served {
    let ports = [(Protocol::TCP, 80), (Protocol::UDP, 80), (Protocol::SCTP, 80)];
    Served { identity: Identity::pod("demo", "web"), ports: ports.into(), dns: None }
}

fn talk(ns: &NetNs, to: &str, request: &[u8]) -> String {
    ns.within(|| {
        let mut stream = TcpStream::connect(to).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(request).unwrap();
        if request.is_empty() {
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        }
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    })
    .unwrap()
}

fn ask_udp(ns: &NetNs, to: &str, payload: &[u8]) -> Option<Vec<u8>> {
    let to: SocketAddr = to.parse().unwrap();
    ns.within(|| {
        let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
        let socket = UdpSocket::bind((any, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        // Connected: an answer from another address than the one asked would not arrive.
        socket.connect(to).unwrap();
        socket.send(payload).unwrap();
        let mut buffer = [0; 2048];
        socket.recv(&mut buffer).ok().map(|n| buffer[..n].to_vec())
    })
    .unwrap()
}

#[test]
fn tcp_answers_http_and_plain_clients_in_both_families() {
    let Some(ns) = namespace() else { return };
    let servers = ServerSet::start().unwrap();
    servers.ensure(&ns, &web()).unwrap();
    for address in ["127.0.0.1:80", "[::1]:80"] {
        let text = talk(&ns, address, b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n");
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain"), "{head}");
        let answer = Answer::parse(body).unwrap();
        assert_eq!(answer.identity, Identity::pod("demo", "web"));
        assert_eq!(answer.asked, address.parse().unwrap());
        assert_eq!(answer.client.ip(), answer.asked.ip());
        for request in [b"hello\n".as_slice(), b""] {
            assert_eq!(Answer::parse(&talk(&ns, address, request)).unwrap().asked, answer.asked);
        }
    }
}

#[test]
fn one_connection_takes_many_requests() {
    let Some(ns) = namespace() else { return };
    let servers = ServerSet::start().unwrap();
    servers.ensure(&ns, &web()).unwrap();
    let requests = b"GET / HTTP/1.1\r\n\r\nPOST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nbodyHEAD / \
                     HTTP/1.1\r\nConnection: close\r\n\r\n";
    let text = talk(&ns, "127.0.0.1:80", requests);
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 3, "{text}");
    assert_eq!(text.matches("pod: web").count(), 2, "HEAD has no body");
}

#[test]
fn a_silent_client_is_answered_too() {
    let Some(ns) = namespace() else { return };
    let servers = ServerSet::start().unwrap();
    servers.ensure(&ns, &web()).unwrap();
    let text = ns.within(|| {
        let mut stream = TcpStream::connect("127.0.0.1:80").unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    });
    assert!(text.unwrap().starts_with("pod: web\n"));
}

#[test]
fn udp_echoes_and_tells_probes_who_is_here() {
    let Some(ns) = namespace() else { return };
    ip(&ns, "addr add 10.9.0.1/32 dev lo");
    ip(&ns, "addr add 10.9.0.2/32 dev lo");
    // A route, since an IPv6 address gets its own only later, from a work queue of the kernel.
    ip(&ns, "-6 route add local fd09::2/128 dev lo");
    let servers = ServerSet::start().unwrap();
    servers.ensure(&ns, &web()).unwrap();
    for address in ["10.9.0.1:80", "10.9.0.2:80", "[fd09::2]:80", "127.0.0.1:80"] {
        assert_eq!(ask_udp(&ns, address, b"ping").as_deref(), Some(&b"ping"[..]), "{address}");
        let reply = ask_udp(&ns, address, &probe_payload(5)).unwrap();
        let (token, text) = read_probe(&reply).unwrap();
        let answer = Answer::parse(std::str::from_utf8(text).unwrap()).unwrap();
        assert_eq!((token, answer.asked), (5, address.parse().unwrap()));
    }
}

#[test]
fn the_outside_answers_on_every_address_it_owns() {
    let Some(ns) = namespace() else { return };
    ip(&ns, "route add local 203.0.113.0/24 dev lo");
    ip(&ns, "route add local 2001:db8:1::/48 dev lo");
    let servers = ServerSet::start().unwrap();
    let ports = Protocol::WITH_PORTS.map(|protocol| (protocol, 443));
    servers.ensure(&ns, &Served::outside(ports)).unwrap();
    for address in ["203.0.113.7:443", "203.0.113.200:443", "[2001:db8:1::7]:443"] {
        let reply = ask_udp(&ns, address, &probe_payload(5)).unwrap();
        let text = std::str::from_utf8(read_probe(&reply).unwrap().1).unwrap();
        assert_eq!(Answer::parse(text).unwrap().asked, address.parse().unwrap());
        let text = talk(&ns, address, b"x");
        let answer = Answer::parse(&text).unwrap();
        assert_eq!((answer.identity, answer.asked), (Identity::Outside, address.parse().unwrap()));
        let (_, kind, _) = init(&ns, address).unwrap();
        assert_eq!(kind, INIT_ACK);
    }
}

/// Sends an INIT: the tag, kind of chunk and cookie's answer that came back.
fn init(ns: &NetNs, to: &str) -> Option<(u32, u8, Option<Answer>)> {
    let to: SocketAddr = to.parse().unwrap();
    ns.within(|| {
        let socket = socket::raw_socket(to.is_ipv6(), Protocol::SCTP).unwrap();
        nix::sys::socket::connect(
            std::os::fd::AsRawFd::as_raw_fd(&socket),
            &socket::address(SocketAddr::new(to.ip(), 0)),
        )
        .unwrap();
        let value = Init { tag: 4242, tsn: 1, parameters: vec![] }.to_bytes();
        let packet = Packet {
            source: 40_000,
            destination: to.port(),
            tag: 0,
            chunks: vec![Chunk { kind: INIT, flags: 0, value: &value }],
        };
        nix::unistd::write(&socket, &packet.to_bytes()).unwrap();
        let mut buffer = [0; 2048];
        for _ in 0..2000 {
            if let Ok((length, _, _)) = socket::receive(&socket, &mut buffer) {
                let bytes = &buffer[..length];
                let bytes = if to.is_ipv6() { bytes } else { split_ipv4(bytes).unwrap().1 };
                let packet = Packet::parse(bytes).unwrap();
                // Over loopback our own INIT comes back first.
                if packet.destination == 40_000 {
                    let chunk = packet.chunks[0];
                    let said =
                        Init::parse(chunk.value).and_then(|i| i.cookie()).and_then(read_cookie);
                    return Some((packet.tag, chunk.kind, said));
                }
            } else {
                thread::sleep(Duration::from_millis(5));
            }
        }
        None
    })
    .unwrap()
}

#[test]
fn sctp_is_answered_by_raw_packets_in_both_families() {
    let Some(ns) = namespace() else { return };
    let servers = ServerSet::start().unwrap();
    servers.ensure(&ns, &web()).unwrap();
    for address in ["127.0.0.1", "[::1]"] {
        let (tag, kind, said) = init(&ns, &format!("{address}:80")).unwrap();
        assert_eq!((tag, kind), (4242, INIT_ACK));
        let said = said.unwrap();
        assert_eq!(said.identity, Identity::pod("demo", "web"));
        assert_eq!(said.asked, format!("{address}:80").parse().unwrap());
        let (tag, kind, _) = init(&ns, &format!("{address}:81")).unwrap();
        assert_eq!((tag, kind), (4242, ABORT));
    }
}

#[test]
fn ports_change_live_and_are_free_when_they_are_closed() {
    let Some(ns) = namespace() else { return };
    let servers = ServerSet::start().unwrap();
    servers.ensure(&ns, &web()).unwrap();
    let mut kept = ns.within(|| TcpStream::connect("127.0.0.1:80")).unwrap().unwrap();
    let mut served = web();
    served.ports.remove(&(Protocol::UDP, 80));
    served.ports.extend([(Protocol::TCP, 81), (Protocol::SCTP, 81)]);
    servers.ensure(&ns, &served).unwrap();
    assert_eq!(ask_udp(&ns, "127.0.0.1:80", b"ping"), None, "refused");
    assert!(talk(&ns, "127.0.0.1:81", b"x").contains("port: 81/TCP"));
    assert_eq!(init(&ns, "127.0.0.1:81").unwrap().1, INIT_ACK);
    kept.write_all(b"x").unwrap();
    let mut text = String::new();
    kept.read_to_string(&mut text).unwrap();
    assert!(text.contains("port: 80/TCP"), "an untouched port keeps its connections");
    for _ in 0..20 {
        servers.remove(&served.identity);
        let free = ns.within(|| socket::tcp_listener(80).is_ok()).unwrap();
        assert!(free);
        servers.ensure(&ns, &served).unwrap();
    }
    servers.remove(&served.identity);
    assert!(servers.served().is_empty());
    assert!(servers.state().hosts.is_empty());
}

#[test]
fn pods_of_one_network_namespace_share_it_and_a_conflict_is_told() {
    let Some(ns) = namespace() else { return };
    let servers = ServerSet::start().unwrap();
    servers.ensure(&ns, &web()).unwrap();
    let mut other = web();
    other.identity = Identity::pod("demo", "other");
    other.ports.insert((Protocol::SCTP, 90));
    let errors = servers.ensure(&ns, &other).unwrap_err();
    let text: Vec<_> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(text.len(), 3, "{text:?}");
    assert!(text.iter().all(|t| t.starts_with("pod demo/other cannot serve")), "{text:?}");
    assert_eq!(init(&ns, "127.0.0.1:90").unwrap().2.unwrap().identity, other.identity);
    servers.remove(&web().identity);
    assert_eq!(init(&ns, "127.0.0.1:80").unwrap().1, ABORT);
    servers.ensure(&ns, &other).unwrap();
    assert_eq!(init(&ns, "127.0.0.1:80").unwrap().2.unwrap().identity, other.identity);
}

#[test]
fn a_pod_that_declares_nothing_serves_80() {
    let pod = Pod::new("demo", "a", Labels::default());
    let ports = Served::of_pod(&pod).ports;
    assert_eq!(ports, Protocol::WITH_PORTS.map(|p| (p, 80)).into());
}

#[test]
fn names_resolve_by_the_system_s_resolver() {
    let Some(ns) = namespace() else { return };
    let mut data = DnsData::default();
    data.add_pod(Name::new("demo", "backend"), vec!["10.1.2.3".parse().unwrap()]);
    data.add_pod(Name::new("demo", "six"), vec!["fd00::6".parse().unwrap()]);
    let many: Vec<IpAddr> = (0..200).map(|i| [10, 0, 1, i].into()).collect();
    data.add_pod(Name::new("demo", "many"), many);
    let servers = ServerSet::start().unwrap();
    let dns = Arc::new(DnsServer::new(data));
    let served = Served {
        identity: Identity::pod("kube-system", "kube-dns-0"),
        ports: BTreeSet::new(),
        dns: None,
    };
    servers.ensure(&ns, &served.with_dns(dns.clone())).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let conf = directory.path().join("resolv.conf");
    std::fs::write(&conf, crate::dns::resolv_conf("demo", &["127.0.0.1".parse().unwrap()]))
        .unwrap();
    let resolve = |name: &str| {
        // A mount namespace of its own, so that the file is only this program's.
        let script =
            format!("mount --bind {} /etc/resolv.conf && getent ahosts {name}", conf.display());
        let run = || Command::new("unshare").args(["-m", "sh", "-c", &script]).output();
        let output = ns.within(run).unwrap().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let first = |line: &str| line.split_whitespace().next().map(ToOwned::to_owned);
        text.lines().filter(|l| l.contains("STREAM")).filter_map(first).collect::<Vec<_>>()
    };
    for name in ["backend", "backend.demo", "backend.demo.svc", "backend.demo.svc.cluster.local"] {
        assert_eq!(resolve(name), ["10.1.2.3"], "{name}");
    }
    assert_eq!(resolve("six"), ["fd00::6"]);
    assert_eq!(resolve("many").len(), 200, "over TCP");
    assert!(resolve("nobody").is_empty());
    let mut data = DnsData::default();
    data.add_pod(Name::new("demo", "nobody"), vec!["10.1.2.9".parse().unwrap()]);
    dns.set(data);
    assert_eq!(resolve("nobody"), ["10.1.2.9"], "followed live");
    // A probe of the DNS ports learns who is there.
    assert!(talk(&ns, "127.0.0.1:53", b"GET / HTTP/1.0\r\n\r\n").contains("pod: kube-dns-0"));
    let reply = ask_udp(&ns, "127.0.0.1:53", &probe_payload(5)).unwrap();
    assert!(read_probe(&reply).is_some());
}

#[test]
fn a_hundred_and_fifty_pods_cost_a_thread_and_some_descriptors() {
    let Some(first) = namespace() else { return };
    let servers = ServerSet::start().unwrap();
    let mut pods = vec![first];
    pods.extend((1..150).map(|_| NetNs::unnamed().unwrap()));
    let start = std::time::Instant::now();
    for (number, ns) in pods.iter().enumerate() {
        let served = Served { identity: Identity::pod("demo", format!("p{number}")), ..web() };
        servers.ensure(ns, &served).unwrap();
    }
    eprintln!("150 pods served after {:?}", start.elapsed());
    assert!(talk(&pods[149], "[::1]:80", b"x").contains("pod: p149\n"));
}
