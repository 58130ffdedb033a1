//! Manifests for tests of lint, and what is found in them.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::collections::BTreeMap;
use std::path::Path;

use podwall_analysis::lint::{Finding, Input, lint};
use podwall_manifest::{Input as File, Options, Typed, read, render_all};

pub(crate) fn findings(path: &Path) -> Vec<Finding> {
    of(File::Path(path.to_owned()), false)
}

/// What is found in a text, of which it may be known that it is all there is.
pub(crate) fn in_text(text: &str, complete: bool) -> Vec<Finding> {
    of(File::Text { name: "x.yaml".into(), text: text.into() }, complete)
}

pub(crate) fn of(input: File, complete: bool) -> Vec<Finding> {
    let reading = read(&[input], &Options::default());
    assert!(!reading.has_errors(), "{}", render_all(&reading.diagnostics, false));
    let mut written = BTreeMap::new();
    for object in &reading.objects {
        if let Typed::Policy(policy) = &object.typed {
            written.insert(policy.name.clone(), &object.raw);
        }
    }
    let cluster = reading.cluster();
    lint(&Input { cluster: &cluster, written: &written, complete })
}

pub(crate) fn told(findings: &[Finding]) -> String {
    findings.iter().map(|f| format!("  {} {}: {}\n", f.rule.id, f.at.field, f.message)).collect()
}

pub(crate) fn pod(namespace: &str, name: &str, labels: &str, ports: &str, ip: &str) -> String {
    let status =
        if ip.is_empty() { "{}".into() } else { format!("{{podIPs: [{{ip: \"{ip}\"}}]}}") };
    format!(
        "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: {namespace}, labels: \
         {{{labels}}}}}, spec: {{containers: [{{name: c, image: x, ports: [{ports}]}}]}}, status: \
         {status}}}\n"
    )
}

pub(crate) fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: {name}, \
         namespace: shop}}, spec: {{{spec}}}}}\n"
    )
}

pub(crate) fn service(name: &str, selector: &str, ports: &str, ip: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: shop}}, spec: \
         {{{selector}ports: [{ports}]{ip}}}}}\n"
    )
}
