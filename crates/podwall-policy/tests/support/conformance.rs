//! How are the conformance cases read?
//!
//! ```text
//!   a line of JSON ── steps ──▶ Step { cluster, pods in grid order, expected grids }
//! ```
//!
//! An own small walk of the policy JSON: the real reader of manifests is a layer further down, and
//! a judge should not lean on what it judges. It panics on whatever it does not know, so no case
//! is passed over in silence.

use std::net::IpAddr;
use std::path::PathBuf;

use podwall_policy::address::IpBlock;
use podwall_policy::cluster::Cluster;
use podwall_policy::label::Labels;
use podwall_policy::object::{Name, Namespace, Pod};
use podwall_policy::policy::{NamespaceScope, Peer, PodScope, Policy, Rule};
use podwall_policy::port::{ContainerPort, PortMatch, PortRange, PortSpec, Protocol};
use podwall_policy::selector::{Operator, Selector};
use serde_json::{Map, Value};

/// One step of a case: a cluster and what is expected of it.
pub struct Step {
    /// `case 17 step 2: description`.
    pub title: String,
    pub cluster: Cluster,
    /// The pods in the order of the grids.
    pub pods: Vec<Name>,
    pub expected: Vec<Expected>,
}

/// The grids of one port: `grid[source][destination]`, true is allowed.
pub struct Expected {
    pub protocol: Protocol,
    pub port: u16,
    pub ingress: Vec<Vec<bool>>,
    pub egress: Vec<Vec<bool>>,
    pub combined: Vec<Vec<bool>>,
}

/// All steps of all cases; `None`, loudly, if the folder is not here. In CI that is a failure.
pub fn steps() -> Option<Vec<Step>> {
    let dir = std::env::var_os("PODWALL_CONFORMANCE").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance"),
        PathBuf::from,
    );
    let file = dir.join("cyclonus_cases.jsonl");
    let Ok(text) = std::fs::read_to_string(&file) else {
        let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        assert!(!ci, "no conformance cases at {}: CI must have them", file.display());
        eprintln!("SKIPPED: no conformance cases at {}", file.display());
        return None;
    };
    Some(text.lines().flat_map(|line| case(&serde_json::from_str(line).unwrap())).collect())
}

fn case(case: &Value) -> Vec<Step> {
    let what = case["description"].as_str().unwrap();
    let of = |(i, step): (usize, &Value)| -> Step {
        let title = format!("case {} step {}: {what}", case["index"], i + 1);
        self::step(title, step)
    };
    case["steps"].as_array().unwrap().iter().enumerate().map(of).collect()
}

fn step(title: String, step: &Value) -> Step {
    let mut cluster = Cluster::default();
    for (name, of) in step["namespaces"].as_object().unwrap() {
        cluster.put_namespace(Namespace::new(name.as_str(), &labels(of)));
    }
    let expected: Vec<Expected> = list(&step["expected"]).iter().map(expected).collect();
    let served: Vec<ContainerPort> = step["expected"]
        .as_array()
        .unwrap()
        .iter()
        .zip(&expected)
        .map(|(json, e)| ContainerPort {
            name: Some(text(&json["port"]["name"]).into()),
            number: e.port,
            protocol: e.protocol,
        })
        .collect();
    let mut pods = Vec::new();
    for json in step["pods"].as_array().unwrap() {
        let mut pod =
            Pod::new(text(&json["namespace"]), text(&json["name"]), labels(&json["labels"]));
        pod.ips = vec![text(&json["ip"]).parse::<IpAddr>().unwrap()];
        pod.ports = served.clone();
        pods.push(pod.name.clone());
        cluster.put_pod(pod);
    }
    for json in list(&step["policies"]) {
        cluster.put_policy(policy(json));
    }
    Step { title, cluster, pods, expected }
}

fn expected(json: &Value) -> Expected {
    let grid = |name: &str| -> Vec<Vec<bool>> {
        let cell = |c| match c {
            '.' => true,
            'X' => false,
            other => panic!("{other} in a grid"),
        };
        list(&json[name]).iter().map(|row| text(row).chars().map(cell).collect()).collect()
    };
    Expected {
        protocol: Protocol::from_api(text(&json["port"]["protocol"])).unwrap(),
        port: number(&json["port"]["port"]),
        ingress: grid("ingress"),
        egress: grid("egress"),
        combined: grid("combined"),
    }
}

fn policy(json: &Value) -> Policy {
    let object = fields(json, &["kind", "apiVersion", "metadata", "spec"]);
    assert!(object.get("kind").is_none_or(|kind| text(kind) == "NetworkPolicy"));
    let meta = &object["metadata"];
    let (namespace, name) = (text(&meta["namespace"]), text(&meta["name"]));
    let spec = fields(&json["spec"], &["podSelector", "policyTypes", "ingress", "egress"]);
    let mut policy = Policy::network_policy(namespace, name, selector(&spec["podSelector"]));
    let rules = |key: &str, peers: &str| -> Vec<Rule> {
        list(spec.get(key).unwrap_or(&Value::Null))
            .iter()
            .map(|json| rule(json, peers, namespace))
            .collect()
    };
    for of in spec["policyTypes"].as_array().unwrap() {
        match text(of) {
            "Ingress" => policy.ingress = Some(rules("ingress", "from")),
            "Egress" => policy.egress = Some(rules("egress", "to")),
            other => panic!("policyTypes: {other}"),
        }
    }
    policy
}

fn rule(json: &Value, peers: &str, own: &str) -> Rule {
    let json = fields(json, &["ports", peers]);
    let items = |key: &str| list(json.get(key).unwrap_or(&Value::Null));
    Rule::allow(
        items(peers).iter().map(|json| peer(json, own)).collect(),
        items("ports").iter().map(port).collect(),
    )
}

fn peer(json: &Value, own: &str) -> Peer {
    let json = fields(json, &["podSelector", "namespaceSelector", "ipBlock"]);
    if let Some(block) = json.get("ipBlock") {
        let block = fields(block, &["cidr", "except"]);
        let except = list(block.get("except").unwrap_or(&Value::Null));
        return Peer::Block(IpBlock::new(
            text(&block["cidr"]).parse().unwrap(),
            except.iter().map(|net| text(net).parse().unwrap()),
        ));
    }
    Peer::Pods(PodScope {
        namespaces: json.get("namespaceSelector").map_or_else(
            || NamespaceScope::Own(own.into()),
            |json| NamespaceScope::Matching(selector(json)),
        ),
        pods: json.get("podSelector").map_or_else(Selector::everything, selector),
    })
}

fn port(json: &Value) -> PortSpec {
    let json = fields(json, &["protocol", "port", "endPort"]);
    let protocol = json.get("protocol").map_or("TCP", text);
    let port = match json.get("port").unwrap_or(&Value::Null) {
        Value::Null => PortMatch::Any,
        Value::String(name) => PortMatch::Named(name.as_str().into()),
        first => {
            let last = json.get("endPort").unwrap_or(first);
            PortMatch::Range(PortRange::new(number(first), number(last)).unwrap())
        }
    };
    PortSpec { protocol: Protocol::from_api(protocol).unwrap(), port }
}

fn selector(json: &Value) -> Selector {
    let json = fields(json, &["matchLabels", "matchExpressions"]);
    let pairs = json.get("matchLabels").map(labels).unwrap_or_default();
    let mut selector = Selector::labels(pairs.iter());
    for json in list(json.get("matchExpressions").unwrap_or(&Value::Null)) {
        let values = list(&json["values"]).iter().map(|v| text(v).into()).collect();
        let operator = match text(&json["operator"]) {
            "In" => Operator::In(values),
            "NotIn" => Operator::NotIn(values),
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            other => panic!("operator {other}"),
        };
        selector = selector.and(text(&json["key"]), operator);
    }
    selector
}

/// The object, if it has no field that this walk does not know.
fn fields<'a>(json: &'a Value, known: &[&str]) -> &'a Map<String, Value> {
    let object = json.as_object().unwrap();
    for key in object.keys() {
        assert!(known.contains(&key.as_str()), "unknown field {key}");
    }
    object
}

fn labels(json: &Value) -> Labels {
    list_of_pairs(json).into_iter().collect()
}

fn list_of_pairs(json: &Value) -> Vec<(&str, &str)> {
    json.as_object().unwrap().iter().map(|(k, v)| (k.as_str(), text(v))).collect()
}

/// The items of a list; a null is empty.
fn list(json: &Value) -> &[Value] {
    if json.is_null() { &[] } else { json.as_array().unwrap() }
}

fn text(json: &Value) -> &str {
    json.as_str().unwrap()
}

fn number(json: &Value) -> u16 {
    json.as_u64().unwrap().try_into().unwrap()
}
