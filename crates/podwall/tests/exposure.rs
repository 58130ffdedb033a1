//! Does `podwall exposure` reach its users: exit codes, formats, filters, paths; and is
//! docs/exposure.md true?
//!
//! With `PODWALL_BLESS=1` the page is written anew; read the difference.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value as Json;

const SCENE: &str = "crates/podwall/tests/data/entrances";
const TIERS: &str = "examples/three-tier";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_podwall"))
        .args(arguments)
        .current_dir(root())
        .env("NO_COLOR", "1")
        .output()
        .unwrap()
}

fn exposure(files: &str, arguments: &[&str]) -> Output {
    run(&[&["exposure", "-f", files], arguments].concat())
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn json(output: &Output) -> Json {
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn exposure_is_an_answer_and_fails_only_where_it_is_told_to() {
    assert_eq!(code(&exposure(TIERS, &[])), 0);
    assert_eq!(code(&exposure(TIERS, &["--fail-on", "internet"])), 1);
    assert_eq!(code(&exposure(TIERS, &["--direction", "egress", "--fail-on", "internet"])), 0);
    assert_eq!(code(&exposure(SCENE, &["--fail-on", "paths"])), 1);
    assert_eq!(code(&exposure(SCENE, &["--direction", "egress", "--fail-on", "paths"])), 0);
    // The controller is isolated by nothing.
    let unknown = ["--direction", "egress", "--only", "cluster", "--fail-on", "cluster"];
    assert_eq!(code(&exposure("examples/egress-ip-blocks/restrict-egress.yaml", &unknown)), 0);
    let blocks = ["exposure", "-f", "examples/egress-ip-blocks/pods.yaml", "-f"];
    let blocks = [&blocks[..], &["examples/egress-ip-blocks/restrict-egress.yaml"], &unknown];
    assert_eq!(code(&run(&blocks.concat())), 1, "pods without policies go anywhere");
    assert_eq!(code(&exposure("nowhere", &[])), 2);
    assert_eq!(code(&exposure(TIERS, &["-n", "nowhere"])), 2);
    assert_eq!(code(&exposure(TIERS, &["--ingress-controller", "default/nobody"])), 2);
}

#[test]
fn filters_leave_out_what_was_not_asked_for() {
    let only = |arguments: &[&str]| {
        let answer = json(&exposure(SCENE, &[&["-o", "json"], arguments].concat()));
        answer["workloads"].as_array().unwrap().clone()
    };
    let all = only(&[]);
    assert_eq!(all.len(), 5);
    let shop = only(&["-n", "shop"]);
    assert_eq!(shop.len(), 4);
    let ways = |workloads: &[Json]| -> Vec<Json> {
        workloads.iter().flat_map(|its| its["ways"].as_array().unwrap().clone()).collect()
    };
    let labels = only(&["--only", "labels"]);
    assert_eq!(labels.len(), 1, "only web trusts a label");
    let ways_by_label = ways(&labels);
    assert_eq!(ways_by_label[0]["pods"]["podSelector"], "role=monitoring");
    assert_eq!(ways_by_label[0]["pods"]["namespaceSelector"], "");
    assert_eq!(ways_by_label[0]["pods"]["today"], 0);
    assert_eq!(ways_by_label[0]["ports"][0]["from"], 9090);
    assert!(ways_by_label[0]["rules"][0]["source"].as_str().unwrap().contains("shop.yaml:"));
    let out = ways(&only(&["--direction", "egress"]));
    assert!(!out.is_empty() && out.iter().all(|way| way["direction"] == "egress"));
    assert!(labels.iter().all(|its| its["paths"].as_array().unwrap().is_empty()));
    assert!(only(&["--only", "paths"]).iter().all(|its| its["ways"] == Json::Array(Vec::new())));
}

#[test]
fn each_path_says_whom_policies_see_and_whether_it_works() {
    let answer = json(&exposure(SCENE, &["-o", "json"]));
    let mut found: Vec<String> = Vec::new();
    for workload in answer["workloads"].as_array().unwrap() {
        for path in workload["paths"].as_array().unwrap() {
            let word = |key: &str| path[key].as_str().unwrap().to_owned();
            found.push(format!(
                "{} {} {} {} {}",
                workload["workload"].as_str().unwrap(),
                word("via"),
                word("name"),
                word("seen"),
                word("outcome")
            ));
        }
    }
    found.sort();
    assert_eq!(
        found,
        [
            "shop/Deployment/api gateway infra/edge unknown unknown",
            "shop/Deployment/api ingress shop/shop controller denied",
            "shop/Deployment/edge loadBalancer shop/edge client open",
            "shop/Deployment/edge nodePort shop/edge client open",
            "shop/Deployment/web ingress shop/shop controller open",
            "shop/StatefulSet/db nodePort shop/db node denied",
        ]
    );
    let loose = &answer["loosePaths"][0];
    assert_eq!(loose["outcome"], "broken");
    assert!(loose["why"].as_str().unwrap().contains("ReferenceGrant"));
    let named = ["-o", "json", "--ingress-controller", "ingress-nginx/deploy/controller"];
    let named = json(&exposure(SCENE, &named));
    let unknown = |answer: &Json| answer.to_string().matches("\"unknown\"").count();
    assert!(unknown(&named) < unknown(&answer), "the Gateway's controller was named");
}

/// `command` of these objects, as words with one space between.
fn words_of(command: &[&str], objects: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("objects.yaml");
    std::fs::write(&path, objects).unwrap();
    let ran = run(&[command, &["-f", path.to_str().unwrap()]].concat());
    let all = text(&ran) + &String::from_utf8(ran.stderr).unwrap();
    all.split_whitespace().collect::<Vec<_>>().join(" ")
}

const WEB: &str = "
{apiVersion: v1, kind: Pod, metadata: {name: web, labels: {app: web}}, spec: {containers: [{name: c, image: i, ports: [{containerPort: 8080}, {containerPort: 8081}]}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: lb}, spec: {type: LoadBalancer, loadBalancerSourceRanges: [198.51.100.0/24], selector: {app: web}, ports: [{name: a, port: 80, targetPort: 8080}, {name: b, port: 81, targetPort: 8081}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: hand}, spec: {type: NodePort, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: far}, spec: {type: ExternalName, externalName: db.example.com}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: web}, spec: {podSelector: {}, policyTypes: [Ingress], ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}, {ipBlock: {cidr: 192.0.2.0/24}}], ports: [{port: 8080}]}, {from: [{ipBlock: {cidr: 203.0.113.0/24}}], ports: [{port: 8081}]}]}}
";

/// The same fact twice, a Service without a selector as a fact, `of 1 workload` where there are more,
/// ranges of a load balancer that were left out.
#[test]
fn facts_are_said_once_and_workloads_are_counted_before_they_are_filtered() {
    let all = words_of(&["exposure"], WEB);
    assert!(!all.contains("such a pod gets, the IPv4"), "{all}");
    assert!(all.contains("unknown is which pods are behind the Service"), "{all}");
    assert!(all.contains("(loadBalancerSourceRanges 198.51.100.0/24)"), "{all}");
    let only = text(&exposure(TIERS, &["--direction", "ingress", "--only", "internet"]));
    assert!(only.starts_with("In: of 3 workloads open are 1 to the internet"), "{only}");
}

#[test]
fn paths_are_those_of_the_port_that_was_asked_for() {
    let asked = words_of(&["can", "internet", "svc/lb", "--port", "81"], WEB);
    assert!(asked.contains("TCP 81") && !asked.contains("port TCP 80 "), "{asked}");
    let named = words_of(&["can", "internet", "svc/lb", "--port", "a"], WEB);
    assert!(named.contains("port TCP 80 ") && !named.contains("TCP 81"), "{named}");
    let far = words_of(&["can", "web", "svc/far", "--port", "5432"], WEB);
    assert!(far.contains("of type ExternalName"), "{far}");
}

#[test]
fn the_schema_fits_what_is_printed() {
    let schema = json(&run(&["schema", "exposure"]));
    let answer = json(&exposure(SCENE, &["-o", "json"]));
    let fits = |object: &Json, of: &Json| {
        let known = of["properties"].as_object().unwrap();
        for key in object.as_object().unwrap().keys() {
            assert!(known.contains_key(key), "{key} is not in the schema");
        }
        for key in of["required"].as_array().unwrap() {
            assert!(object.get(key.as_str().unwrap()).is_some(), "{key} is missing");
        }
    };
    fits(&answer, &schema);
    let of = |name: &str| &schema["$defs"][name];
    for workload in answer["workloads"].as_array().unwrap() {
        fits(workload, of("ExposedJson"));
        workload["ways"].as_array().unwrap().iter().for_each(|way| fits(way, of("WayJson")));
        workload["paths"].as_array().unwrap().iter().for_each(|path| fits(path, of("PathJson")));
    }
}

#[test]
fn tables_have_a_line_for_each_way() {
    let csv = text(&exposure(TIERS, &["-o", "csv", "--only", "internet"]));
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 2, "{csv}");
    assert!(lines[1].starts_with(
        "default/web-pod,ingress,internet,the internet (0.0.0.0/0),allowed,TCP,80,80,"
    ));
    let table = text(&exposure(SCENE, &["-o", "md"]));
    assert!(table.contains("| **shop/Deployment/web** | ingress |"), "{table}");
    assert!(table.contains("| workload | path from outside | outcome |"), "{table}");
}

#[test]
fn what_cannot_be_read_is_said_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.yaml");
    std::fs::write(
        &file,
        "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {name: x}\nspec: {rules: 7}\n",
    )
    .unwrap();
    let output = exposure(file.to_str().unwrap(), &[]);
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(code(&output), 2);
    assert!(said.contains("x.yaml:4:15"), "{said}");
    assert_eq!(code(&run(&["matrix", "-f", file.to_str().unwrap()])), 0, "others pass it over");
}

/// What a command of the page prints, with its exit code if that is not 0.
fn shown(line: &str) -> String {
    let arguments: Vec<&str> = line.split_whitespace().skip(2).collect();
    let output = run(&arguments);
    let lead = if code(&output) == 0 { String::new() } else { format!("? {}\n", code(&output)) };
    lead + &text(&output) + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn every_example_of_the_page_is_true() {
    let path = root().join("docs/exposure.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let mut blocks = page.split("```");
    let mut fresh = blocks.next().unwrap().to_owned();
    while let (Some(block), Some(rest)) = (blocks.next(), blocks.next()) {
        let body = block.strip_prefix("console\n").unwrap();
        let commands = body.lines().filter(|line| line.starts_with("$ "));
        let ran: Vec<String> = commands.map(|line| format!("{line}\n{}", shown(line))).collect();
        fresh += &format!("```console\n{}```{rest}", ran.join("\n"));
    }
    if std::env::var_os("PODWALL_BLESS").is_some() {
        std::fs::write(&path, &fresh).unwrap();
    }
    assert_eq!(page, fresh, "PODWALL_BLESS=1 writes the page anew");
}

/// A verdict about addresses is not the whole answer where policies see another address.
#[test]
fn can_and_explain_show_the_paths_that_exposure_shows() {
    let whole = json(&exposure(SCENE, &["-o", "json"]));
    let workloads = whole["workloads"].as_array().unwrap();
    assert!(workloads.iter().any(|its| its["paths"].as_array().unwrap().len() > 1));
    for workload in workloads {
        let label = workload["workload"].as_str().unwrap();
        let explained = json(&run(&["explain", "pod", label, "-f", SCENE, "-o", "json"]));
        assert_eq!(explained["paths"], workload["paths"], "{label}");
        let asked = json(&run(&["can", "internet", label, "-f", SCENE, "-o", "json"]));
        assert_eq!(asked["paths"], workload["paths"], "{label}");
    }
    let denied = run(&["can", "internet", "shop/deploy/web", "--port", "8080", "-f", SCENE]);
    assert_eq!(code(&denied), 1);
    let said = text(&denied);
    assert!(said.contains("Paths from outside, on which policies see another address"), "{said}");
    assert!(said.contains("open to whoever reaches the controller"), "{said}");
    // Another port is not on the path, and who is inside takes none.
    let other = text(&run(&["can", "internet", "shop/deploy/web", "--port", "81", "-f", SCENE]));
    assert!(!other.contains("Paths from outside"), "{other}");
    let inside = ["can", "shop/deploy/api", "shop/deploy/web", "-o", "json", "-f", SCENE];
    assert!(json(&run(&inside)).get("paths").is_none());
}
