//! Does lint leave alone what is right, or cannot be known, and find what is nearly right?
//!
//! ```text
//!   tests/good_practice/*.yaml ──▶ nothing (`# also: PW206` apart), as manifests of one folder
//!   small cases below          ──▶ exactly the findings that are written beside them
//! ```

#[path = "support/lint.rs"]
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use podwall_analysis::lint::{Finding, Severity};

use self::support::{findings, in_text, pod, policy, service, told};

#[test]
fn good_practice_is_left_alone() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/good_practice");
    let (mut failures, mut seen) = (String::new(), 0);
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let also = text.lines().find_map(|line| line.strip_prefix("# also: ")).unwrap_or_default();
        let wanted: BTreeSet<&str> = also.split_whitespace().collect();
        let findings = findings(&path);
        let found: BTreeSet<&str> = findings.iter().map(|finding| finding.rule.id).collect();
        if found != wanted {
            failures +=
                &format!("{}: wanted {wanted:?}, found\n{}", path.display(), told(&findings));
        }
        seen += 1;
    }
    assert!(seen >= 5 && failures.is_empty(), "{failures}");
}

/// A Deployment of two pods, with a port `http` 8080.
fn deployment(name: &str) -> String {
    format!(
        "---\n{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: {name}, namespace: shop}}, \
         spec: {{replicas: 2, selector: {{matchLabels: {{app: {name}}}}}, template: {{metadata: \
         {{labels: {{app: {name}}}}}, spec: {{containers: [{{name: c, image: i, ports: [{{name: \
         http, containerPort: 8080}}]}}]}}}}}}}}\n"
    )
}

#[test]
fn what_is_nearly_right_is_found_where_it_stands() {
    let base = [
        deployment("web"),
        deployment("db"),
        deployment("mysql"),
        policy("deny", "podSelector: {}"),
    ]
    .concat();
    let web = "podSelector: {matchLabels: {app: web}}, policyTypes:";
    let ingress = |rules: &str| policy("p", &format!("{web} [Ingress], ingress: [{rules}]"));
    let egress = |rules: &str| policy("p", &format!("{web} [Egress], egress: [{rules}]"));
    let db = "podSelector: {matchLabels: {app: db}}";
    let ns = |name: &str| {
        format!("namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {name}}}}}")
    };
    let kube_dns = "podSelector: {matchLabels: {k8s-app: kube-dns}}";
    let dns = "ports: [{port: 53, protocol: UDP}, {port: 53}]";
    let cases: Vec<(&str, String, &[&str])> = vec![
        (
            "a slip in one of the values of an expression",
            policy(
                "p",
                "podSelector: {matchExpressions: [{key: app, operator: In, values: [mysqll]}]}",
            ),
            &["PW101 spec.podSelector.matchExpressions[0]: fix write mysql instead of mysqll!"],
        ),
        (
            "a selector that contradicts itself",
            policy(
                "p",
                "podSelector: {matchLabels: {app: web}, matchExpressions: [{key: app, operator: \
                 NotIn, values: [web]}]}",
            ),
            &["PW101 spec.podSelector.matchExpressions[0]"],
        ),
        (
            "a peer that contradicts itself, in a namespace that nobody states",
            ingress(&format!(
                "from: [{{{}, podSelector: {{matchExpressions: [{{key: a, operator: Exists}}, {{key: \
                 a, operator: DoesNotExist}}]}}}}]",
                ns("elsewhere")
            )),
            &["PW102 spec.ingress[0].from[0].podSelector.matchExpressions[1]"],
        ),
        (
            "a slip in the name of a namespace that every cluster has",
            ingress(&format!("from: [{{{}}}]", ns("kube-sytem"))),
            &[
                "PW102 spec.ingress[0].from[0].namespaceSelector.matchLabels[kubernetes.io/metadata.name]: \
               fix write kubernetes.io/metadata.name: kube-system",
            ],
        ),
        (
            "a namespace that nobody states, though its name is near one that somebody does",
            ingress(&format!("from: [{{{}}}]", ns("shop2"))),
            &[],
        ),
        (
            "resolver pods in kube-system, as two items",
            egress(&format!("to: [{{{}}}, {{{kube_dns}}}], {dns}", ns("kube-system"))),
            &["PW105 spec.egress[0].to[1]: fix make one item of the two"],
        ),
        (
            "resolver pods of any namespace, as two items",
            egress(&format!("to: [{{namespaceSelector: {{}}}}, {{{kube_dns}}}], {dns}")),
            &["PW105 spec.egress[0].to[1]: fix make one item of the two"],
        ),
        (
            "all pods anywhere, of whom only some are known to let nobody in",
            egress("to: [{namespaceSelector: {}}], ports: [{port: 53, protocol: UDP}, {port: 53}]"),
            &[],
        ),
        (
            "a peer twice, and blocks in one another",
            ingress(&format!(
                "from: [{{{db}}}, {{{db}}}, {{ipBlock: {{cidr: 10.0.0.0/8}}}}, {{ipBlock: {{cidr: \
                 10.1.0.0/16}}}}], ports: [{{port: 80}}]"
            )),
            &[
                "PW304 spec.ingress[0].from[1]: fix remove pods app=db in namespace shop!",
                "PW304 spec.ingress[0].from[3]: fix remove 10.1.0.0/16",
            ],
        ),
        (
            "a port in the range of another",
            ingress("ports: [{port: 80}, {port: 79, endPort: 90}]"),
            &["PW304 spec.ingress[0].ports[0]: fix remove TCP 80"],
        ),
        (
            "a port that another rule allows to more",
            ingress(&format!(
                "{{from: [{{podSelector: {{}}}}], ports: [{{port: 8080}}]}}, {{from: [{{{db}}}], \
                 ports: [{{port: 8080}}, {{port: 9000}}]}}"
            )),
            &["PW304 spec.ingress[1].ports[0]: fix remove TCP 8080"],
        ),
        (
            "each of two equal items is covered by the other; one may go",
            ingress("ports: [{port: 80}, {port: 80}]"),
            &["PW304 spec.ingress[0].ports[1]: fix remove TCP 80!"],
        ),
        (
            "port ranges that overlap in part",
            ingress(&format!(
                "{{from: [{{{db}}}], ports: [{{port: 80, endPort: 90}}]}}, {{from: [{{{db}}}], ports: \
                 [{{port: 85, endPort: 95}}]}}"
            )),
            &["PW304 spec.ingress[1].ports"],
        ),
        (
            "a port for some, and a range for others",
            ingress(&format!(
                "{{from: [{{{db}}}], ports: [{{port: 80}}, {{port: 81}}]}}, {{from: [{{ipBlock: {{cidr: \
                 192.0.2.0/24}}}}], ports: [{{port: 80, endPort: 90}}]}}"
            )),
            &[],
        ),
        (
            "a block of which nothing is left",
            ingress(
                "from: [{ipBlock: {cidr: 192.0.2.0/31, except: [192.0.2.0/32, 192.0.2.1/32]}}]",
            ),
            &["PW505 spec.ingress[0].from[0].ipBlock.cidr"],
        ),
    ];
    let mut failures = String::new();
    for (why, document, wanted) in cases {
        let findings = in_text(&format!("{base}{document}"), false);
        let said = |finding: &Finding| {
            let fix = finding.fix.as_ref().map_or(String::new(), |fix| {
                format!(": fix {}{}", fix.what, if fix.sure { "!" } else { "" })
            });
            format!("{} {}{fix}", finding.rule.id, finding.at.field)
        };
        let mut found: Vec<String> = findings.iter().map(said).collect();
        found.sort();
        if found != wanted {
            failures +=
                &format!("{why}: wanted {wanted:#?}, found {found:#?}\n{}", told(&findings));
        }
        assert!(findings.iter().all(|f| !f.proof.is_empty() && f.help.is_some()), "{why}");
    }
    assert!(failures.is_empty(), "{failures}");
}

#[test]
fn findings_name_workloads_and_not_the_pods_that_they_might_make() {
    let text = [deployment("web"), deployment("db"), pod("shop", "solo", "app: solo", "", "")];
    let text = format!("{}{}", text.concat(), policy("p", "podSelector: {matchLabels: {app: db}}"));
    let found = in_text(&text, false);
    let open = found.iter().find(|finding| finding.rule.id == "PW205").unwrap();
    assert_eq!(open.proof[0], "not selected: shop/Deployment/web, shop/solo");
    assert!(open.message.contains("3 of the 5 pods"), "{}", open.message);
    let alone = in_text(&deployment("web"), false);
    let proof =
        "ingress of shop/Deployment/web: 203.0.113.1 to a pod of shop/Deployment/web is allowed";
    assert!(alone[0].proof[1].starts_with(proof), "{:?}", alone[0].proof);
}

#[test]
fn policies_alone_that_let_no_name_be_looked_up_are_noted_once() {
    let https = "egress: [{to: [{ipBlock: {cidr: 198.51.100.0/24}}], ports: [{port: 443}]}]";
    let web = format!("podSelector: {{matchLabels: {{app: web}}}}, policyTypes: [Egress], {https}");
    let deny = policy("deny", "podSelector: {}, policyTypes: [Ingress, Egress]");
    let of = |documents: &[String]| -> Vec<(&'static str, Severity)> {
        let found = in_text(&documents.concat(), false);
        found.iter().map(|finding| (finding.rule.id, finding.severity)).collect()
    };
    let note = [("PW201", Severity::Note)];
    assert_eq!(of(&[deny.clone(), policy("web", &web)]), note);
    assert_eq!(
        of(&[deny.clone(), policy("web", &web), policy("web-2", &web.replace("443", "80"))]),
        note
    );
    let dns = policy(
        "dns",
        "podSelector: {}, policyTypes: [Egress], egress: [{ports: [{port: 53, protocol: UDP}]}]",
    );
    assert_eq!(of(&[deny.clone(), policy("web", &web), dns]), []);
    assert_eq!(of(&[deny, policy("web", &web.replace("198.51.100.0/24", "198.51.100.7/32"))]), []);
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
            "a headless Service's port, of pods that listen they do not say where",
            vec![
                pod("shop", "web", "app: web", "", ""),
                deny.clone(),
                service(
                    "web",
                    "selector: {app: web}, ",
                    "{port: 80, targetPort: 8080}",
                    ", clusterIP: None",
                ),
                ingress("ports: [{port: 80}]"),
            ],
            vec![],
        ),
        (
            "a headless Service's port, of pods that say they listen at targetPort",
            vec![
                web.clone(),
                deny.clone(),
                service(
                    "web",
                    "selector: {app: web}, ",
                    "{port: 80, targetPort: 8080}",
                    ", clusterIP: None",
                ),
                ingress("ports: [{port: 80}]"),
            ],
            vec!["PW403"],
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
