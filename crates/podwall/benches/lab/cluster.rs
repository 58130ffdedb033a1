//! What does the lab hold while it is timed?
//!
//! Three nodes, 150 pods in ten namespaces, two of them `tx` and `rx`, between which packets run.
//! Policies as people write them: each selects one application of its namespace (three pods), and
//! names a peer application, sometimes of another namespace, a block with an exception, and ports.

use std::fmt::Write as _;

/// Pods; three nodes share them.
pub(crate) const PODS: usize = 150;
const NAMESPACES: usize = 10;
/// Applications of a namespace.
const APPS: usize = 5;

/// The port that the changing policy opens and closes; nobody else names it.
pub(crate) const PORT: u16 = 9999;
/// The port of the connection that stays allowed.
pub(crate) const STEADY: u16 = 9998;

/// Namespaces and pods.
pub(crate) fn pods() -> String {
    let mut out = String::new();
    for number in 0..NAMESPACES {
        writeln!(
            out,
            "---\napiVersion: v1\nkind: Namespace\n\
             metadata: {{name: ns-{number}, labels: {{team: t{}}}}}",
            number % 3
        )
        .unwrap();
    }
    for number in 0..PODS {
        let name = match number {
            0 => "rx".to_owned(),
            1 => "tx".to_owned(),
            _ => format!("pod-{number}"),
        };
        writeln!(
            out,
            "---\napiVersion: v1\nkind: Pod\n\
             metadata: {{name: {name}, namespace: ns-{}, labels: {{app: {}, bench: b{number}}}}}\n\
             spec: {{nodeName: node-{}, containers: [{{name: c, image: none, \
             ports: [{{name: http, containerPort: 8080}}]}}]}}",
            number % NAMESPACES,
            app(number / NAMESPACES % APPS),
            number % 3 + 1,
        )
        .unwrap();
    }
    out
}

fn app(number: usize) -> String {
    format!("app-{}", number % APPS)
}

/// `count` policies; the same every time.
pub(crate) fn policies(count: usize) -> String {
    (0..count).map(|number| policy(&format!("policy-{number}"), number)).collect()
}

/// The policies that come and go while a connection runs: of the pods that it runs between too.
pub(crate) fn passing(count: usize) -> String {
    (0..count).map(|number| policy(&format!("passing-{number}"), number + 7)).collect()
}

fn policy(name: &str, number: usize) -> String {
    let namespace = number % NAMESPACES;
    let seed = number / NAMESPACES;
    let (own, peer) = (app(seed), app(seed / APPS + 1));
    let other = if number.is_multiple_of(3) {
        format!("namespaceSelector: {{matchLabels: {{team: t{}}}}}, ", number % 3)
    } else {
        String::new()
    };
    let port = 1024 + number * 7 % 8000;
    let block = format!("10.{}.{}.0/24", 64 + number % 128, number % 250);
    let hole = format!("10.{}.{}.{}/32", 64 + number % 128, number % 250, number % 200 + 1);
    let rule = |word: &str| {
        format!(
            "[{{{word}: [{{{other}podSelector: {{matchLabels: {{app: {peer}}}}}}}, \
             {{ipBlock: {{cidr: {block}, except: [{hole}]}}}}], \
             ports: [{{port: {port}}}, {{port: http}}, {{protocol: UDP, port: {}}}]}}]",
            port / 2
        )
    };
    let directions = match number % 10 {
        0..6 => format!("ingress: {}", rule("from")),
        6..8 => format!("policyTypes: [Egress], egress: {}", rule("to")),
        _ => format!("ingress: {}, egress: {}", rule("from"), rule("to")),
    };
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {{name: {name}, namespace: ns-{namespace}}}\n\
         spec: {{podSelector: {{matchLabels: {{app: {own}}}}}, {directions}}}\n"
    )
}

/// What lets `tx` out, and lets in at `rx` what the steady connection needs.
pub(crate) fn steady() -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {{name: tx-out, namespace: ns-1}}\n\
         spec: {{podSelector: {{matchLabels: {{bench: b1}}}}, policyTypes: [Egress], egress: [{{}}]}}\n\
         ---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {{name: rx-steady, namespace: ns-0}}\n\
         spec: {{podSelector: {{matchLabels: {{bench: b0}}}}, ingress: [{{from: \
         [{{namespaceSelector: {{}}, podSelector: {{matchLabels: {{bench: b1}}}}}}], \
         ports: [{{protocol: UDP, port: {STEADY}}}, {{port: {STEADY}}}]}}]}}\n"
    )
}

/// The one policy that changes: packets from `tx` to `rx` on [`PORT`], or on another port.
pub(crate) fn change(open: bool) -> String {
    let port = if open { PORT } else { PORT + 1 };
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
         metadata: {{name: rx-change, namespace: ns-0}}\n\
         spec: {{podSelector: {{matchLabels: {{bench: b0}}}}, ingress: [{{from: \
         [{{namespaceSelector: {{}}, podSelector: {{matchLabels: {{bench: b1}}}}}}], \
         ports: [{{protocol: UDP, port: {port}}}]}}]}}\n"
    )
}
