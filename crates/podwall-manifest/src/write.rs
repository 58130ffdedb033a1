//! How is a policy written down?
//!
//! ```text
//!   Policy ──▶ tree of the API's fields ─┬─ block:  the lines of a manifest
//!   Rule, Peer, PortSpec ──▶ subtrees ───┼─ flow:   {ports: [{port: 80}]}, for a list in that style
//!                                        └─ JSON:   for `kubectl patch`
//! ```
//!
//! The reader's counterpart: what is written here is read as the same policy, and defaults of the
//! API that people leave out (`protocol: TCP`) are spelled out, since a reader of a change should not
//! have to know them.

use std::fmt::Write as _;

use ipnet::IpNet;
use podwall_policy::policy::{Direction, NamespaceScope, Peer, PodScope, Policy, Rule};
use podwall_policy::port::{PortMatch, PortSpec};
use podwall_policy::selector::{Operator, Selector};

/// A field's value, in the order in which people write the fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tree {
    /// A mapping.
    Map(Vec<(String, Tree)>),
    /// A list.
    List(Vec<Tree>),
    /// A string.
    Text(String),
    /// A number.
    Number(u16),
}

impl Tree {
    fn map<const N: usize>(fields: [(&str, Self); N]) -> Self {
        Self::Map(fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }

    fn text(text: &(impl ToString + ?Sized)) -> Self {
        Self::Text(text.to_string())
    }

    /// The lines of a manifest, without indentation of their own.
    pub fn block(&self) -> Vec<String> {
        match self {
            Self::Map(fields) if !fields.is_empty() => {
                fields.iter().flat_map(|(key, value)| field(key, value)).collect()
            }
            Self::List(items) if !items.is_empty() => items
                .iter()
                .flat_map(|item| {
                    let lines = item.block().into_iter().enumerate();
                    lines.map(|(i, line)| format!("{} {line}", if i == 0 { '-' } else { ' ' }))
                })
                .collect(),
            _ => vec![self.flow()],
        }
    }

    /// All on one line.
    pub fn flow(&self) -> String {
        let join = |items: Vec<String>| items.join(", ");
        match self {
            Self::Map(fields) => {
                let fields = fields.iter().map(|(k, v)| format!("{}: {}", scalar(k), v.flow()));
                format!("{{{}}}", join(fields.collect()))
            }
            Self::List(items) => format!("[{}]", join(items.iter().map(Self::flow).collect())),
            Self::Text(text) => scalar(text),
            Self::Number(number) => number.to_string(),
        }
    }

    /// The same as JSON.
    pub fn json(&self) -> serde_json::Value {
        match self {
            Self::Map(fields) => {
                fields.iter().map(|(key, value)| (key.clone(), value.json())).collect()
            }
            Self::List(items) => items.iter().map(Self::json).collect(),
            Self::Text(text) => text.as_str().into(),
            Self::Number(number) => (*number).into(),
        }
    }
}

fn field(key: &str, value: &Tree) -> Vec<String> {
    let key = scalar(key);
    match value {
        Tree::Map(fields) if !fields.is_empty() => {
            let lines = value.block().into_iter().map(|line| format!("  {line}"));
            [format!("{key}:")].into_iter().chain(lines).collect()
        }
        // As kubectl writes lists: their dashes stand below the key.
        Tree::List(items) if !items.is_empty() && !items.iter().all(is_scalar) => {
            [format!("{key}:")].into_iter().chain(value.block()).collect()
        }
        _ => vec![format!("{key}: {}", value.flow())],
    }
}

fn is_scalar(tree: &Tree) -> bool {
    matches!(tree, Tree::Text(_) | Tree::Number(_))
}

/// A string as YAML: plain where nobody could take it for something else, else in quotes.
pub fn scalar(text: &str) -> String {
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "._/-".contains(c));
    let word = text.to_ascii_lowercase();
    let is_word = matches!(
        word.as_str(),
        "true" | "false" | "null" | "yes" | "no" | "on" | "off" | "y" | "n" | "nan" | "inf"
    );
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic()) && !is_word;
    // What begins with a digit may be a number, a date or a time; an address is none of these.
    if plain && (starts || text.parse::<IpNet>().is_ok()) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => _ = write!(out, "\\u{:04x}", c as u32),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A NetworkPolicy as a document of a manifest, without `---`, ending with a newline.
pub fn policy(policy: &Policy) -> String {
    let mut text = tree(policy).block().join("\n");
    text.push('\n');
    text
}

/// A NetworkPolicy in the API's fields.
pub fn tree(policy: &Policy) -> Tree {
    let mut spec = vec![("podSelector".to_owned(), selector(&policy.subject.pods))];
    let stated = [Direction::Ingress, Direction::Egress].map(|d| (d, policy.rules(d)));
    let types = stated.iter().filter(|(_, rules)| rules.is_some());
    let name = |d: Direction| if d == Direction::Ingress { "Ingress" } else { "Egress" };
    let types = types.map(|(direction, _)| Tree::text(name(*direction))).collect();
    spec.push(("policyTypes".to_owned(), Tree::List(types)));
    for (direction, rules) in stated {
        // An empty list says nothing that policyTypes does not.
        if let Some(rules) = rules.filter(|rules| !rules.is_empty()) {
            let rules = rules.iter().map(|of| rule(of, direction)).collect();
            spec.push((direction.to_string(), Tree::List(rules)));
        }
    }
    Tree::map([
        ("apiVersion", Tree::text("networking.k8s.io/v1")),
        ("kind", Tree::text("NetworkPolicy")),
        (
            "metadata",
            Tree::map([
                ("name", Tree::text(&*policy.name.name)),
                ("namespace", Tree::text(&*policy.name.namespace)),
            ]),
        ),
        ("spec", Tree::Map(spec)),
    ])
}

/// One rule.
pub fn rule(rule: &Rule, direction: Direction) -> Tree {
    let peers = if direction == Direction::Ingress { "from" } else { "to" };
    let mut fields = Vec::new();
    if !rule.peers.is_empty() {
        fields.push((peers.to_owned(), Tree::List(rule.peers.iter().map(peer).collect())));
    }
    if !rule.ports.is_empty() {
        fields.push(("ports".to_owned(), Tree::List(rule.ports.iter().map(port).collect())));
    }
    Tree::Map(fields)
}

/// One item of `from` or `to`.
pub fn peer(peer: &Peer) -> Tree {
    match peer {
        Peer::Pods(PodScope { namespaces: NamespaceScope::Own(_), pods }) => {
            Tree::map([("podSelector", selector(pods))])
        }
        Peer::Pods(PodScope { namespaces: NamespaceScope::Matching(namespaces), pods }) => {
            let namespaces = ("namespaceSelector", selector(namespaces));
            if pods.is_everything() {
                Tree::map([namespaces])
            } else {
                Tree::map([namespaces, ("podSelector", selector(pods))])
            }
        }
        Peer::Block(block) => {
            let text = |net: &IpNet| Tree::text(net);
            let cidr = ("cidr", text(&block.cidr));
            let block = if block.except.is_empty() {
                Tree::map([cidr])
            } else {
                Tree::map([cidr, ("except", Tree::List(block.except.iter().map(text).collect()))])
            };
            Tree::map([("ipBlock", block)])
        }
    }
}

/// One item of `ports`.
pub fn port(port: &PortSpec) -> Tree {
    let protocol = ("protocol", Tree::text(&port.protocol));
    match &port.port {
        PortMatch::Any => Tree::map([protocol]),
        PortMatch::Named(name) => Tree::map([protocol, ("port", Tree::text(&**name))]),
        PortMatch::Range(range) if range.first == range.last => {
            Tree::map([protocol, ("port", Tree::Number(range.first))])
        }
        PortMatch::Range(range) => Tree::map([
            protocol,
            ("port", Tree::Number(range.first)),
            ("endPort", Tree::Number(range.last)),
        ]),
    }
}

/// A label selector.
pub fn selector(selector: &Selector) -> Tree {
    let mut labels = Vec::new();
    let mut expressions = Vec::new();
    for requirement in &selector.requirements {
        let key = || requirement.key.to_string();
        let expression = |operator: &str, values: Option<Vec<Tree>>| {
            let mut fields = vec![
                ("key".to_owned(), Tree::Text(key())),
                ("operator".to_owned(), Tree::text(operator)),
            ];
            fields.extend(values.map(|values| ("values".to_owned(), Tree::List(values))));
            Tree::Map(fields)
        };
        match &requirement.operator {
            // The same key twice has no place in a mapping.
            Operator::Equals(value) if labels.iter().any(|(known, _)| *known == key()) => {
                expressions.push(expression("In", Some(vec![Tree::text(&**value)])));
            }
            Operator::Equals(value) => labels.push((key(), Tree::text(&**value))),
            Operator::In(values) => {
                expressions.push(expression(
                    "In",
                    Some(values.iter().map(|value| Tree::text(&**value)).collect()),
                ));
            }
            Operator::NotIn(values) => {
                expressions.push(expression(
                    "NotIn",
                    Some(values.iter().map(|value| Tree::text(&**value)).collect()),
                ));
            }
            Operator::Exists => expressions.push(expression("Exists", None)),
            Operator::DoesNotExist => expressions.push(expression("DoesNotExist", None)),
        }
    }
    let mut fields = Vec::new();
    if !labels.is_empty() {
        fields.push(("matchLabels".to_owned(), Tree::Map(labels)));
    }
    if !expressions.is_empty() {
        fields.push(("matchExpressions".to_owned(), Tree::List(expressions)));
    }
    Tree::Map(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Input, Options, read};
    use podwall_policy::address::IpBlock;
    use podwall_policy::port::{PortRange, Protocol};

    /// All that a policy can say, and names that need quotes.
    fn rich() -> Policy {
        let selector = Selector::labels([("a.b/c", "no"), ("app", "web"), ("n", "1")])
            .and("tier", Operator::In(["x".into(), "y".into()].into()))
            .and("old", Operator::NotIn(["true".into()].into()))
            .and("team", Operator::Exists)
            .and("gone", Operator::DoesNotExist);
        let mut policy = Policy::network_policy("shop", "all.of-it", selector.clone());
        let pods = |namespaces, pods| Peer::Pods(PodScope { namespaces, pods });
        let block = |cidr: &str, except: &[&str]| {
            let except = except.iter().map(|net| net.parse().unwrap());
            Peer::Block(IpBlock::new(cidr.parse().unwrap(), except))
        };
        let port = |protocol, port| PortSpec { protocol, port };
        let range = |first, last| PortMatch::Range(PortRange::new(first, last).unwrap());
        policy.ingress = Some(vec![
            Rule::allow(
                vec![
                    pods(NamespaceScope::Own("shop".into()), Selector::everything()),
                    pods(NamespaceScope::Matching(Selector::everything()), selector.clone()),
                    pods(NamespaceScope::Matching(selector), Selector::everything()),
                    block("10.0.0.0/8", &["10.1.0.0/16", "10.2.0.0/16"]),
                    block("::/0", &[]),
                ],
                vec![
                    port(Protocol::TCP, range(80, 80)),
                    port(Protocol::UDP, range(1, 65535)),
                    port(Protocol::SCTP, PortMatch::Any),
                    port(Protocol::TCP, PortMatch::Named("http".into())),
                ],
            ),
            Rule::allow(Vec::new(), Vec::new()),
        ]);
        policy.egress = Some(Vec::new());
        policy
    }

    fn again(text: String) -> Policy {
        let reading = read(&[Input::Text { name: "x".into(), text }], &Options::default());
        assert!(!reading.has_errors(), "{:?}", reading.diagnostics);
        let mut policy = reading.cluster().policies.into_values().next().unwrap();
        policy.source = None;
        for rule in policy.ingress.iter_mut().chain(&mut policy.egress).flatten() {
            rule.source = None;
        }
        policy
    }

    #[test]
    fn what_is_written_is_read_as_the_same_policy_in_each_style() {
        let rich = rich();
        assert_eq!(again(policy(&rich)), rich, "{}", policy(&rich));
        assert_eq!(again(tree(&rich).flow()), rich);
        assert_eq!(again(tree(&rich).json().to_string()), rich);
        let mut shut = Policy::network_policy("shop", "shut", Selector::everything());
        shut.ingress = Some(Vec::new());
        assert_eq!(again(policy(&shut)), shut);
    }

    #[test]
    fn a_manifest_looks_as_people_write_it() {
        let mut policy =
            Policy::network_policy("shop", "db", Selector::labels([("app", "database")]));
        let web = PodScope {
            namespaces: NamespaceScope::Own("shop".into()),
            pods: Selector::labels([("app", "web")]),
        };
        let mysql =
            PortSpec { protocol: Protocol::TCP, port: PortMatch::Range(PortRange::one(3306)) };
        policy.ingress = Some(vec![Rule::allow(vec![Peer::Pods(web)], vec![mysql])]);
        assert_eq!(
            super::policy(&policy),
            "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: db
  namespace: shop
spec:
  podSelector:
    matchLabels:
      app: database
  policyTypes: [Ingress]
  ingress:
  - from:
    - podSelector:
        matchLabels:
          app: web
    ports:
    - protocol: TCP
      port: 3306
"
        );
    }

    #[test]
    fn strings_that_look_like_something_else_are_quoted() {
        for (text, written) in [
            ("web", "web"),
            ("1", "\"1\""),
            ("yes", "\"yes\""),
            ("0x1", "\"0x1\""),
            ("1_000", "\"1_000\""),
            ("2024-01-01", "\"2024-01-01\""),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.0.0.1", "\"10.0.0.1\""),
            ("::/0", "\"::/0\""),
            ("-a", "\"-a\""),
            ("a: \"b\"\\\n", "\"a: \\\"b\\\"\\\\\\u000a\""),
        ] {
            assert_eq!(scalar(text), written);
        }
    }
}
