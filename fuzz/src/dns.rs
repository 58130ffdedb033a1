//! What must hold of every answer of the name server, whatever a pod sends?
//!
//! ```text
//!   bytes ──▶ as a message
//!         └─▶ id, flags, type, a name that exists or nearly, what follows ──▶ as a question
//! ```

use std::sync::LazyLock;

use podwall_lab::dns::{DnsData, Transport, answer};
use podwall_manifest::{Input, Options, read};
use simple_dns::Packet;

/// The most that an answer over UDP holds, with EDNS.
const LONGEST: usize = 1232;

/// Names of every kind, and beside them names that nobody has.
const NAMES: [&str; 16] = [
    "web.demo.svc.cluster.local",
    "_http._tcp.web.demo.svc.cluster.local",
    "many.demo.svc.cluster.local",
    "_peer._udp.many.demo.svc.cluster.local",
    "p7.many.demo.svc.cluster.local",
    "p7.demo.svc.cluster.local",
    "10-244-1-7.demo.pod.cluster.local",
    "7.1.244.10.in-addr.arpa",
    "9.0.96.10.in-addr.arpa",
    "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.4.4.2.0.0.1.0.0.0.0.d.f.ip6.arpa",
    "demo.svc.cluster.local",
    "dns-version.cluster.local",
    "cluster.local",
    "web.demo.svc.cluster.local.demo.svc.cluster.local",
    "example.org",
    "",
];

/// Services of both kinds, and more pods than an answer over UDP holds.
static DATA: LazyLock<DnsData> = LazyLock::new(|| {
    let mut text = String::from(
        "{apiVersion: v1, kind: Namespace, metadata: {name: demo}}\n---\n\
         {apiVersion: v1, kind: Service, metadata: {name: web, namespace: demo}, \
         spec: {selector: {app: many}, clusterIPs: [10.96.0.9, 'fd00:10:96::9'], \
         ports: [{name: http, port: 80}]}}\n---\n\
         {apiVersion: v1, kind: Service, metadata: {name: many, namespace: demo}, \
         spec: {selector: {app: many}, clusterIP: None, \
         ports: [{name: peer, port: 7000, protocol: UDP}]}}\n",
    );
    for pod in 2..250 {
        text += &format!(
            "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: p{pod}, namespace: demo, \
             labels: {{app: many}}}}, spec: {{containers: [{{name: c, image: x}}]}}, \
             status: {{phase: Running, podIP: 10.244.1.{pod}, \
             podIPs: [{{ip: 10.244.1.{pod}}}, {{ip: 'fd00:10:244:1::{pod:x}'}}]}}}}\n"
        );
    }
    let reading = read(&[Input::Text { name: "cluster".into(), text }], &Options::default());
    assert!(!reading.has_errors(), "{:?}", reading.diagnostics);
    DnsData::of(&reading.cluster())
});

/// Asks over UDP and TCP.
pub(crate) fn check(bytes: &[u8]) {
    ask(bytes, false);
    if let Some((question, known)) = question(bytes) {
        assert!(ask(&question, known), "a question is answered");
    }
}

/// A well-formed question of a name, with EDNS and noise behind it as the bytes say; and whether its
/// type is one that every library knows.
fn question(bytes: &[u8]) -> Option<(Vec<u8>, bool)> {
    let ([id, other, flags, kind, name, edns, size, high], rest) = bytes.split_first_chunk()?;
    let records = u8::from(edns & 1 == 1);
    let mut message = vec![*id, *other, flags & 0x07, 0, 0, 1, 0, 0, 0, 0, 0, records];
    let name = NAMES[usize::from(*name) % NAMES.len()];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        message.push(u8::try_from(label.len()).ok()?);
        message.extend(label.bytes());
    }
    // A, AAAA, SRV, PTR, ANY, or whatever.
    let common = [1, 28, 33, 12, 255];
    let kind = *common.get(usize::from(*kind) % 6).unwrap_or(kind);
    message.extend([0, 0, kind, 0, 1]);
    if records > 0 {
        message.extend([0, 0, 41, *high, *size, 0, 0, 0, 0, 0, 0]);
    }
    message.extend(rest);
    Some((message, common.contains(&kind)))
}

/// Whether a message is answered; what an answer must be.
fn ask(message: &[u8], known: bool) -> bool {
    let udp = answer(message, &DATA, Transport::Udp);
    let tcp = answer(message, &DATA, Transport::Tcp);
    assert_eq!(udp.is_some(), tcp.is_some(), "the transport decides whether it is a question");
    let asked = message.get(..3);
    if asked.is_none_or(|header| header[2] & 0x80 != 0) {
        assert!(udp.is_none(), "an answer to an answer makes a loop");
    }
    let (Some(udp), Some(tcp)) = (udp, tcp) else { return false };
    for (answer, most) in [(&udp, LONGEST), (&tcp, usize::from(u16::MAX))] {
        assert!((12..=most).contains(&answer.len()), "{} bytes", answer.len());
        assert_eq!(answer.get(..2), message.get(..2), "an answer has its question's id");
        assert!(answer[2] & 0x80 != 0, "it says that it is an answer");
        let parsed = known.then(|| Packet::parse(answer)).transpose();
        assert!(parsed.is_ok(), "others can read it: {parsed:?}");
    }
    let cut = udp[2] & 0x02 != 0;
    assert_eq!(cut, udp.len() < tcp.len(), "an answer that is cut says so");
    true
}
