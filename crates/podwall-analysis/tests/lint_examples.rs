//! Does each rule find its wrong example, leave its right one alone, and stand in the docs?
//!
//! ```text
//!   docs/lint/PW101/wrong.yaml ──▶ findings of PW101 and of nothing else   (`# also: PW206` apart)
//!                  /right.yaml ──▶ no finding of any rule
//!   docs/lint.md               ──▶ a section for each rule, with these very files
//! ```
//!
//! `PODWALL_DOCS=overwrite` writes the files into the page anew; read the difference.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use podwall_analysis::lint::{Finding, Input, RULES, lint};
use podwall_manifest::{Input as File, Options, Typed, read, render_all};

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

fn findings(path: &Path) -> Vec<Finding> {
    of(File::Path(path.to_owned()), false)
}

/// What is found in a text, of which it may be known that it is all there is.
fn in_text(text: &str, complete: bool) -> Vec<Finding> {
    of(File::Text { name: "x.yaml".into(), text: text.into() }, complete)
}

fn of(input: File, complete: bool) -> Vec<Finding> {
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

fn told(findings: &[Finding]) -> String {
    findings.iter().map(|f| format!("  {} {}: {}\n", f.rule.id, f.at.field, f.message)).collect()
}

#[test]
fn wrong_examples_are_found_and_nothing_else_is() {
    let mut failures = String::new();
    for rule in &RULES {
        let path = docs().join("lint").join(rule.id).join("wrong.yaml");
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let also = text.lines().find_map(|line| line.strip_prefix("# also: ")).unwrap_or_default();
        let wanted: BTreeSet<&str> = also.split_whitespace().chain([rule.id]).collect();
        let findings = findings(&path);
        let found: BTreeSet<&str> = findings.iter().map(|finding| finding.rule.id).collect();
        if found != wanted {
            failures += &format!("{}: wanted {wanted:?}, found\n{}", rule.id, told(&findings));
        }
        for finding in &findings {
            assert!(!finding.proof.is_empty(), "{}: a claim without a proof", finding.identity());
            assert!(finding.help.is_some(), "{}: what next?", finding.identity());
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

#[test]
fn right_examples_are_left_alone() {
    let mut failures = String::new();
    for rule in &RULES {
        let path = docs().join("lint").join(rule.id).join("right.yaml");
        let findings = findings(&path);
        if !findings.is_empty() {
            failures += &format!("{}: found\n{}", rule.id, told(&findings));
        }
    }
    assert!(failures.is_empty(), "{failures}");
}

#[test]
fn the_page_has_a_section_for_each_rule_with_its_examples() {
    let path = docs().join("lint.md");
    let page = fs::read_to_string(&path).unwrap();
    let mut fresh = String::new();
    let mut lines = page.lines().peekable();
    let mut shown = BTreeSet::new();
    while let Some(line) = lines.next() {
        fresh += &format!("{line}\n");
        let Some(file) = line.strip_prefix("<!-- ").and_then(|l| l.strip_suffix(" -->")) else {
            continue;
        };
        let example = fs::read_to_string(docs().join(file)).unwrap();
        shown.insert(file.to_owned());
        let example: String = example
            .lines()
            .filter(|line| !line.starts_with("# also: "))
            .map(|line| format!("{line}\n"))
            .collect();
        fresh += &format!("```yaml\n{example}```\n");
        if lines.next_if(|line| *line == "```yaml").is_some() {
            while lines.next().is_some_and(|line| line != "```") {}
        }
    }
    if std::env::var_os("PODWALL_DOCS").is_some_and(|value| value == "overwrite") {
        fs::write(&path, &fresh).unwrap();
    } else {
        assert!(fresh == page, "docs/lint.md is not what PODWALL_DOCS=overwrite would write");
    }
    for rule in &RULES {
        let heading = format!("\n### {}\n\n**{}**, {}. ", rule.id, rule.name, rule.severity);
        assert!(page.contains(&heading), "docs/lint.md lacks {heading:?}");
        for example in ["wrong", "right"] {
            let file = format!("lint/{}/{example}.yaml", rule.id);
            assert!(shown.contains(&file), "docs/lint.md does not show {file}");
        }
    }
}

/// Policies as their documentation shows them, and no pods.
const POLICIES: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: default-deny, namespace: shop}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {role: db}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from:
    - ipBlock: {cidr: 172.17.0.0/16, except: [172.17.1.0/24]}
    - namespaceSelector: {matchLabels: {project: myproject}}
    - podSelector: {matchLabels: {role: frontend}}
    ports: [{protocol: TCP, port: 6379}]
  egress:
  - to:
    - ipBlock: {cidr: 10.0.0.0/24}
    ports: [{protocol: TCP, port: 5978}]
  - to:
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}
      podSelector: {matchLabels: {k8s-app: kube-dns}}
    ports: [{protocol: UDP, port: 53}, {protocol: TCP, port: 53}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: metrics, namespace: shop}
spec:
  podSelector: {}
  policyTypes: [Ingress]
  ingress:
  - from:
    - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}
    ports: [{port: metrics}]
";

#[test]
fn good_policies_without_any_pods_are_left_alone() {
    let findings = in_text(POLICIES, false);
    assert!(findings.is_empty(), "{}", told(&findings));
}

#[test]
fn what_files_do_not_state_is_held_against_them_only_where_all_is_known() {
    let pods = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\napiVersion: v1\n\
                kind: Pod\nmetadata: {name: db, namespace: shop, labels: {role: db}}\nspec: \
                {containers: [{name: db, image: x, ports: [{name: metrics, containerPort: 9100}]}]}\n";
    let ids = |findings: Vec<Finding>| -> Vec<(&str, String)> {
        findings.iter().map(|f| (f.rule.id, f.about.clone())).collect()
    };
    let nobody = ("PW102", "role=frontend".to_owned());
    let text = format!("{POLICIES}{pods}");
    assert_eq!(ids(in_text(&text, false)), std::slice::from_ref(&nobody));
    let complete = ids(in_text(&text, true));
    assert!(complete.contains(&nobody), "{complete:?}");
    let monitoring = "namespaces kubernetes.io/metadata.name=monitoring".to_owned();
    assert!(complete.contains(&("PW102", monitoring)), "{complete:?}");
}

#[test]
fn two_of_a_kind_are_asked_as_two_pods_and_not_as_one_that_reaches_itself() {
    let text = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: peers, namespace: shop}
spec:
  replicas: 2
  selector: {matchLabels: {app: peers}}
  template:
    metadata: {labels: {app: peers}}
    spec: {containers: [{name: c, image: x}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: peers, namespace: shop}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
  ingress:
  - from:
    - podSelector: {matchLabels: {app: peers}}
    ports: [{port: 7000}]
";
    let found = in_text(text, false);
    let ids: Vec<&str> = found.iter().map(|finding| finding.rule.id).collect();
    assert_eq!(ids, ["PW208"], "{}", told(&found));
    assert!(found[0].proof[0].contains("denied on TCP 7000"), "{:?}", found[0].proof);
}

#[test]
fn what_is_reported_as_useless_may_go_all_at_once() {
    // Each of two equal rules is covered by the other; only one may be reported.
    let rule = "  - from: [{podSelector: {matchLabels: {app: web}}}]\n    ports: [{port: 80}]\n";
    let text = format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: all, namespace: \
         shop}}\nspec:\n  podSelector: {{}}\n  policyTypes: [Ingress]\n  ingress:\n{rule}{rule}"
    );
    let found = in_text(&text, false);
    let at: Vec<String> = found.iter().map(|f| format!("{} {}", f.rule.id, f.at.field)).collect();
    assert_eq!(at, ["PW301 spec.ingress[1]"]);
}

#[test]
fn halves_of_a_block_cover_the_whole() {
    let text = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: all, namespace: shop}
spec:
  podSelector: {}
  policyTypes: [Ingress]
  ingress:
  - from: [{ipBlock: {cidr: 10.0.0.0/8}}]
    ports: [{port: 80}]
  - from: [{ipBlock: {cidr: 10.0.0.0/9}}, {ipBlock: {cidr: 10.128.0.0/9}}]
    ports: [{port: 80, endPort: 90}]
";
    let found = in_text(text, false);
    let at: Vec<String> = found.iter().map(|f| format!("{} {}", f.rule.id, f.at.field)).collect();
    assert_eq!(at, ["PW301 spec.ingress[0]"], "{}", told(&found));
}

fn pod(namespace: &str, name: &str, labels: &str, ports: &str, ip: &str) -> String {
    let status =
        if ip.is_empty() { "{}".into() } else { format!("{{podIPs: [{{ip: \"{ip}\"}}]}}") };
    format!(
        "---\n{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: {namespace}, labels: \
         {{{labels}}}}}, spec: {{containers: [{{name: c, image: x, ports: [{ports}]}}]}}, status: \
         {status}}}\n"
    )
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: {name}, \
         namespace: shop}}, spec: {{{spec}}}}}\n"
    )
}

fn service(name: &str, selector: &str, ports: &str, ip: &str) -> String {
    format!(
        "---\n{{apiVersion: v1, kind: Service, metadata: {{name: {name}, namespace: shop}}, spec: \
         {{{selector}ports: [{ports}]{ip}}}}}\n"
    )
}

#[test]
fn what_is_right_or_cannot_be_known_is_left_alone() {
    let deny = policy("default-deny", "podSelector: {}, policyTypes: [Ingress]");
    let web = pod("shop", "web", "app: web", "{name: http, containerPort: 8080}", "");
    let ns = "---\n{apiVersion: v1, kind: Namespace, metadata: {name: mon, labels: {name: mon}}}\n";
    let ingress = |rule: &str| {
        policy(
            "p",
            &format!(
                "podSelector: {{matchLabels: {{app: web}}}}, policyTypes: [Ingress], ingress: [{{{rule}}}]"
            ),
        )
    };
    let egress = |rules: &str| {
        policy(
            "p",
            &format!(
                "podSelector: {{matchLabels: {{app: web}}}}, policyTypes: [Egress], egress: [{rules}]"
            ),
        )
    };
    let dns = "{ports: [{protocol: UDP, port: 53}, {port: 53}]}";
    let mon = |name: &str, app: &str| pod("mon", name, &format!("app: {app}"), "", "");
    let mon_deny = deny.replace("namespace: shop", "namespace: mon");
    let either = "from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: mon}}}, \
                  {podSelector: {matchLabels: {app: web}}}]";
    let own = pod("shop", "web", "app: web", "", "10.1.0.1");
    let node = "---\n{apiVersion: v1, kind: Node, metadata: {name: n1}, status: {addresses: [{type: \
                InternalIP, address: 192.168.7.1}]}}\n";
    let block = |cidr: &str| format!("from: [{{ipBlock: {{cidr: \"{cidr}\"}}}}]");
    let resolver = pod("kube-system", "dns", "k8s-app: kube-dns", "", "");
    let cases: Vec<(&str, Vec<String>, Vec<&str>)> = vec![
        (
            "a default deny waits for pods: the namespace has only one on the host's network",
            vec![deny.clone(), web.replace("spec: {", "spec: {hostNetwork: true, ")],
            vec![],
        ),
        (
            "namespaces that carry the label by somebody's hand",
            vec![
                web.clone(),
                deny.clone(),
                ns.into(),
                ingress("from: [{namespaceSelector: {matchLabels: {name: mon2}}}]"),
            ],
            vec![],
        ),
        (
            "all pods of the own namespace, which has none but on the host's network",
            vec![
                web.replace("spec: {", "spec: {hostNetwork: true, "),
                policy(
                    "all",
                    "podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {}}]}]",
                ),
            ],
            vec![],
        ),
        (
            "monitoring or web: as one item they would select nothing",
            vec![
                web.clone(),
                deny.clone(),
                mon("prometheus", "prometheus"),
                mon_deny.clone(),
                ingress(either),
            ],
            vec![],
        ),
        (
            "monitoring or web: as one item they would select all of monitoring",
            vec![web.clone(), deny.clone(), mon("web", "web"), mon_deny.clone(), ingress(either)],
            vec![],
        ),
        (
            "policyTypes left out, where a default deny isolates for ingress anyhow",
            vec![
                web.clone(),
                deny.clone(),
                egress(&format!("{dns}, {{ports: [{{port: 443}}]}}"))
                    .replace("policyTypes: [Egress], ", ""),
            ],
            vec![],
        ),
        (
            "an empty `from` and nothing else is one mistake",
            vec![web.clone(), deny.clone(), ingress("from: []")],
            vec!["PW204"],
        ),
        (
            "a default deny for egress leaves ingress open",
            vec![web.clone(), policy("out", "podSelector: {}, policyTypes: [Egress]")],
            vec!["PW206"],
        ),
        (
            "DNS by UDP alone is a note",
            vec![
                web.clone(),
                deny.clone(),
                resolver,
                egress("{ports: [{protocol: UDP, port: 53}, {port: 443}]}"),
            ],
            vec!["PW201"],
        ),
        (
            "a default deny beside a policy that isolates anyhow",
            vec![
                web.clone(),
                policy("deny", "podSelector: {matchLabels: {app: web}}, policyTypes: [Ingress]"),
                policy(
                    "all",
                    "podSelector: {}, policyTypes: [Ingress], ingress: [{ports: [{port: 80}]}]",
                ),
            ],
            vec![],
        ),
        (
            "a port that the pod declares, though a Service has it too",
            vec![
                pod("shop", "web", "app: web", "{containerPort: 80}", ""),
                deny.clone(),
                service("web", "selector: {app: web}, ", "{port: 80, targetPort: 8080}", ""),
                ingress("ports: [{port: 80}]"),
            ],
            vec![],
        ),
        (
            "a port of pods behind a Service that has another",
            vec![
                web.clone(),
                deny.clone(),
                service("web", "selector: {app: web}, ", "{port: 81, targetPort: 8080}", ""),
                ingress("ports: [{port: 80}]"),
            ],
            vec![],
        ),
        (
            "a Service without a selector has no pods",
            vec![
                web.clone(),
                deny.clone(),
                service("web", "", "{port: 80, targetPort: 8080}", ""),
                ingress("ports: [{port: 80}]"),
            ],
            vec![],
        ),
        (
            "the whole of IPv4 in a cluster of IPv4: a note that its pods are in it",
            vec![own.clone(), deny.clone(), ingress(&block("0.0.0.0/0"))],
            vec!["PW501"],
        ),
        (
            "a Service's address as a source",
            vec![
                web.clone(),
                deny.clone(),
                service("web", "selector: {app: web}, ", "{port: 8080}", ", clusterIP: 10.96.0.9"),
                ingress(&block("10.96.0.0/16")),
            ],
            vec![],
        ),
        (
            "HTTPS to the outside leaves metadata alone",
            vec![
                web.clone(),
                deny.clone(),
                egress(&format!(
                    "{dns}, {{to: [{{ipBlock: {{cidr: 0.0.0.0/1}}}}, {{ipBlock: {{cidr: 128.0.0.0/1}}}}], ports: [{{port: 443}}]}}"
                )),
            ],
            vec![],
        ),
        (
            "metadata comes in from nobody",
            vec![web.clone(), deny.clone(), ingress(&block("169.254.0.0/16"))],
            vec![],
        ),
        (
            "a Service with an empty selector has no pods",
            vec![
                web.clone(),
                deny.clone(),
                service("web", "selector: {}, ", "{port: 80, targetPort: 8080}", ""),
                ingress("ports: [{port: 80}]"),
            ],
            vec![],
        ),
        (
            "one of two pods is behind the Service; the other may listen on its port",
            vec![
                web.replace("app: web}", "app: web, track: old}"),
                web.replace("name: web,", "name: web-2,"),
                deny.clone(),
                service("web", "selector: {track: old}, ", "{port: 80, targetPort: 8080}", ""),
                ingress("ports: [{port: 80}]"),
            ],
            vec![],
        ),
        (
            "a name for a label, of a namespace that nobody states",
            vec![
                web.clone(),
                deny.clone(),
                ingress("from: [{namespaceSelector: {matchLabels: {name: kube-system}}}]"),
            ],
            vec!["PW103"],
        ),
        (
            "all pods of all namespaces is said plainly",
            vec![web.clone(), deny.clone(), ingress("from: [{namespaceSelector: {}}]")],
            vec![],
        ),
    ];
    let mut failures = String::new();
    for (why, documents, wanted) in cases {
        let found = in_text(&documents.concat(), false);
        let ids: Vec<&str> = found.iter().map(|finding| finding.rule.id).collect();
        if ids != wanted {
            failures += &format!("{why}: wanted {wanted:?}, found\n{}", told(&found));
        }
    }
    assert!(failures.is_empty(), "{failures}");
    // Nodes can be allowed in no other way: a note.
    let told_as = |findings: &[Finding]| -> Vec<(&str, &str)> {
        findings.iter().map(|f| (f.rule.id, f.severity.as_str())).collect()
    };
    let all = in_text(&[own.clone(), deny.clone(), ingress(&block("0.0.0.0/0"))].concat(), false);
    assert_eq!(told_as(&all), [("PW501", "note")], "{}", told(&all));
    let nodes =
        in_text(&[own, deny, node.into(), ingress(&block("192.168.7.0/24"))].concat(), false);
    assert_eq!(told_as(&nodes), [("PW501", "note")], "{}", told(&nodes));
}
