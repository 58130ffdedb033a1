//! What does a file of assertions claim?
//!
//! ```text
//!   apiVersion: podwall/v1           both lines may be left out; with them the file can lie
//!   kind: PolicyTest                 among manifests, whose reader passes it over
//!   namespace: shop                  of names without one
//!   assertions:
//!   - name: …                        each has one claim:
//!     allow: {from, to, ports}         it passes
//!     deny: {from, to, ports}          it does not
//!     only: {into | outOf, from | to}  exactly these pass
//!     isolated: {pods, direction}      a policy isolates them
//!     nowhereElse: {into | outOf}      nothing but what the file's other assertions let pass
//! ```
//!
//! Names are looked up later, in the objects that the assertions are asked of. A file has no includes
//! and no variables: what it claims is what stands there.

mod peers;
mod ports;

use std::sync::Arc;

use podwall_policy::address::Family;
use podwall_policy::policy::Direction;
use podwall_policy::source::Source;

use crate::diagnostic::{Code, Diagnostic, Findings};
use crate::names::short;
use crate::node::{Map, Node, Value};
use crate::text::{At, Text};
use crate::walk::{Path, Unknown, Walk};
use crate::yaml;

pub use self::peers::{PeerKind, PeerSpec, Permitted};
pub use self::ports::Ports;

/// The version that a file may state.
pub const API_VERSION: &str = "podwall/v1";
/// The kind that a file may state.
pub const KIND: &str = "PolicyTest";

/// A larger file is refused, in bytes.
pub const MOST_BYTES: usize = 4 << 20;

/// How many nodes aliases may add.
const ALIASED: usize = 100_000;

/// How many findings are kept.
const FINDINGS: usize = 1_000;

/// A checked file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssertionFile {
    /// The file, as the user named it.
    pub file: Arc<str>,
    /// In the order of the file, at least one.
    pub assertions: Vec<Assertion>,
}

/// One assertion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assertion {
    /// What its author calls it.
    pub name: Option<String>,
    /// Where it starts.
    pub source: Source,
    /// The namespace of names without one, if the file states it.
    pub namespace: Option<String>,
    /// Address families that it speaks of; empty: those that the ends speak.
    pub families: Vec<Family>,
    /// What it claims.
    pub claim: Claim,
}

/// What an assertion claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// All of it passes, from each to each.
    Allow(Between),
    /// Nothing of it passes, from any to any.
    Deny(Between),
    /// These pass, and nobody else.
    Only(Only),
    /// Each of the pods is isolated in each of the directions.
    Isolated {
        /// Who.
        pods: Vec<PeerSpec>,
        /// Egress, ingress or both.
        directions: Vec<Direction>,
    },
    /// Nothing passes but what other assertions of the file let pass.
    NowhereElse {
        /// Into the pods, or out of them.
        direction: Direction,
        /// Who.
        pods: Vec<PeerSpec>,
    },
}

/// Two ends and ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Between {
    /// Who opens connections; never empty.
    pub from: Vec<PeerSpec>,
    /// Who is asked; never empty.
    pub to: Vec<PeerSpec>,
    /// The destination's ports.
    pub ports: Ports,
}

/// Exactly these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Only {
    /// Ingress: into the pods. Egress: out of them.
    pub direction: Direction,
    /// Whose connections are listed; never empty.
    pub pods: Vec<PeerSpec>,
    /// Who may; may be empty.
    pub peers: Vec<Permitted>,
    /// The ports that it speaks of. `All`: every port, of which a peer without ports of its own has
    /// all.
    pub ports: Ports,
}

/// Reads a file of assertions.
///
/// # Errors
/// Everything that is wrong with it, by line.
pub fn read_assertions(name: &str, bytes: &[u8]) -> Result<AssertionFile, Vec<Diagnostic>> {
    let mut findings = Findings::new(FINDINGS);
    let content = match std::str::from_utf8(bytes) {
        _ if bytes.len() > MOST_BYTES => {
            let limit = MOST_BYTES >> 20;
            return Err(whole(name, Code::Limit, format!("this file is larger than {limit} MiB")));
        }
        Ok(content) => content.strip_prefix('\u{feff}').unwrap_or(content),
        Err(error) => {
            let at = error.valid_up_to();
            return Err(whole(name, Code::Encoding, format!("byte {at} is not UTF-8")));
        }
    };
    let text = Text::new(name.into(), content);
    let mut assertions = Vec::new();
    let mut aliased = ALIASED;
    for part in text.documents() {
        let (nodes, broken) = yaml::parse(part, &mut aliased);
        let mut walk = Walk { text: &text, findings: &mut findings, object: None };
        for node in &nodes {
            document(&mut walk, node, &mut assertions);
        }
        if let Some(broken) = broken {
            walk.broken(broken);
        }
    }
    if assertions.is_empty() && findings.errors() == 0 {
        return Err(whole(name, Code::NothingToRead, "this file holds no assertion".to_owned()));
    }
    let failed = findings.errors() > 0;
    let diagnostics = findings.finish();
    if failed { Err(diagnostics) } else { Ok(AssertionFile { file: name.into(), assertions }) }
}

/// A finding about the file as a whole.
fn whole(name: &str, code: Code, message: String) -> Vec<Diagnostic> {
    let mut diagnostic = Diagnostic::error(code, message);
    let source = Source::new(name, 0, 0);
    diagnostic.place = Some(crate::diagnostic::Place { source, length: 1, text: None });
    diagnostic.help("a file of assertions starts with `assertions:`");
    vec![diagnostic]
}

fn document(walk: &mut Walk<'_>, node: &Node<'_>, out: &mut Vec<Assertion>) {
    let root = Path::root("");
    let map = match &node.value {
        Value::Null => return,
        Value::Map(map) => map,
        _ => {
            walk.wrong_type(node, &Path::root("assertions"), "a mapping with `assertions:`");
            return;
        }
    };
    // Keys that stand twice, wherever they are.
    node.each_twice(&mut |twice| {
        let place = walk.place(twice.first);
        let message = format!("key `{}` stands there twice", short(&twice.key));
        walk.error(Code::DuplicateKey, twice.again, &root, message)
            .note("the first is here", Some(place));
    });
    let known = ["apiVersion", "kind", "metadata", "namespace", "assertions"];
    walk.fields(map, &root, &known, Unknown::Refuse, |field| match field {
        "tests" | "asserts" | "test" => Some("did you mean `assertions`?"),
        "allow" | "deny" | "only" | "isolated" | "nowhereElse" => {
            Some("put it into the list `assertions:`")
        }
        "spec" | "metadata" => Some("is this a manifest? give it with -f"),
        _ => None,
    });
    if let Some(entry) = map.get("apiVersion") {
        walk.one_of(&entry.value, &Path::root("apiVersion"), &[API_VERSION]);
    }
    if let Some(entry) = map.get("kind") {
        walk.one_of(&entry.value, &Path::root("kind"), &[KIND]);
    }
    let namespace = map
        .get("namespace")
        .and_then(|entry| walk.text(&entry.value, &Path::root("namespace")).map(str::to_owned));
    let path = Path::root("assertions");
    let Some(entry) = map.get("assertions") else {
        walk.missing_unless_typo(
            map,
            "assertions",
            node.at,
            &path,
            "write `assertions:` and a list",
        );
        return;
    };
    for (i, item) in walk.list(&entry.value, &path).unwrap_or_default().iter().enumerate() {
        out.extend(assertion(walk, item, &path.index(i), namespace.as_deref()));
    }
}

const CLAIMS: [&str; 5] = ["allow", "deny", "only", "isolated", "nowhereElse"];

fn assertion(
    walk: &mut Walk<'_>,
    node: &Node<'_>,
    path: &Path<'_>,
    namespace: Option<&str>,
) -> Option<Assertion> {
    if node.is_null() {
        walk.wrong_type(node, path, "a mapping");
    }
    let map = walk.map(node, path)?;
    let known = ["name", "allow", "deny", "only", "isolated", "nowhereElse"];
    walk.fields(map, path, &known, Unknown::Refuse, |field| match field {
        "from" | "to" | "ports" | "into" | "outOf" | "families" | "pods" => {
            Some("it belongs under allow, deny, only, isolated or nowhereElse")
        }
        "onlyFrom" | "onlyThese" | "only-these" => Some("did you mean `only`?"),
        _ => None,
    });
    let name = map.get("name").and_then(|entry| walk.text(&entry.value, &path.field("name")));
    let claims: Vec<_> = map.entries.iter().filter(|e| CLAIMS.contains(&&*e.key)).collect();
    let [only] = claims[..] else {
        match claims.get(1) {
            Some(second) => {
                let message = "an assertion has one claim, this one has two";
                walk.error(Code::Conflict, second.at, path, message)
                    .help("write them as two assertions, each after its own `- `");
            }
            None => {
                let message = format!("`{path}` claims nothing");
                walk.error(Code::MissingField, node.at, path, message)
                    .help("write one of allow, deny, only, isolated, nowhereElse");
            }
        }
        return None;
    };
    let path = path.field(&only.key);
    let mut families = Vec::new();
    let claim = match &*only.key {
        "allow" => Claim::Allow(between(walk, &only.value, only.at, &path, &mut families)?),
        "deny" => Claim::Deny(between(walk, &only.value, only.at, &path, &mut families)?),
        "only" => only_these(walk, &only.value, only.at, &path, &mut families)?,
        "isolated" => isolated(walk, &only.value, only.at, &path)?,
        _ => nowhere_else(walk, &only.value, only.at, &path, &mut families)?,
    };
    Some(Assertion {
        name: name.map(str::to_owned),
        source: walk.text.source(node.at),
        namespace: namespace.map(str::to_owned),
        families,
        claim,
    })
}

/// The mapping of a claim, which must be one.
fn body<'n, 't>(
    walk: &mut Walk<'_>,
    node: &'n Node<'t>,
    path: &Path<'_>,
    known: &[&str],
) -> Option<&'n Map<'t>> {
    if node.is_null() {
        walk.wrong_type(node, path, "a mapping");
    }
    let map = walk.map(node, path)?;
    walk.fields(map, path, known, Unknown::Refuse, |field| match field {
        "port" => Some("did you mean `ports`?"),
        "family" => Some("did you mean `families`?"),
        "protocol" => Some("write it before the port: `ports: UDP 53`"),
        _ => None,
    });
    Some(map)
}

fn between(
    walk: &mut Walk<'_>,
    node: &Node<'_>,
    at: At,
    path: &Path<'_>,
    families: &mut Vec<Family>,
) -> Option<Between> {
    let map = body(walk, node, path, &["from", "to", "ports", "families"])?;
    let from = peers::some(walk, map, "from", at, path);
    let to = peers::some(walk, map, "to", at, path);
    let ports = ports::of(walk, map, path);
    *families = read_families(walk, map, path);
    Some(Between { from: from?, to: to?, ports: ports? })
}

/// Which of `into` and `outOf` the mapping has: the direction and the pods.
fn subject(
    walk: &mut Walk<'_>,
    map: &Map<'_>,
    at: At,
    path: &Path<'_>,
) -> Option<(Direction, Vec<PeerSpec>)> {
    let direction = match (map.get("into"), map.get("outOf")) {
        (Some(_), None) => Direction::Ingress,
        (None, Some(_)) => Direction::Egress,
        (Some(_), Some(second)) => {
            let message = "`into` and `outOf` are two claims";
            walk.error(Code::Conflict, second.at, path, message)
                .help("write them as two assertions");
            return None;
        }
        (None, None) => {
            let message = format!("`{path}` says neither `into` nor `outOf` whom");
            walk.error(Code::MissingField, at, path, message)
                .help("write `into:` for who may come in, `outOf:` for where they may go");
            return None;
        }
    };
    let field = if direction == Direction::Ingress { "into" } else { "outOf" };
    Some((direction, peers::some(walk, map, field, at, path)?))
}

fn only_these(
    walk: &mut Walk<'_>,
    node: &Node<'_>,
    at: At,
    path: &Path<'_>,
    families: &mut Vec<Family>,
) -> Option<Claim> {
    let known = ["into", "outOf", "from", "to", "ports", "families"];
    let map = body(walk, node, path, &known)?;
    let (direction, pods) = subject(walk, map, at, path)?;
    let (field, other) = match direction {
        Direction::Ingress => ("from", "to"),
        Direction::Egress => ("to", "from"),
    };
    if let Some(entry) = map.get(other) {
        let message = format!("`{other}` does not go with this direction");
        walk.error(Code::Conflict, entry.at, &path.field(other), message)
            .help("`into` goes with `from`, `outOf` with `to`");
        return None;
    }
    let ports = ports::of(walk, map, path);
    let Some(entry) = map.get(field) else {
        let path = path.field(field);
        walk.missing(at, &path).help(format!("write `{field}: []` for nobody"));
        return None;
    };
    let peers = peers::permitted(walk, &entry.value, &path.field(field))?;
    *families = read_families(walk, map, path);
    Some(Claim::Only(Only { direction, pods, peers, ports: ports? }))
}

fn isolated(walk: &mut Walk<'_>, node: &Node<'_>, at: At, path: &Path<'_>) -> Option<Claim> {
    let map = body(walk, node, path, &["pods", "direction"])?;
    let pods = peers::some(walk, map, "pods", at, path);
    let directions = match map.get("direction") {
        None => Direction::BOTH.to_vec(),
        Some(entry) => {
            let path = path.field("direction");
            match walk.one_of(&entry.value, &path, &["ingress", "egress", "both"])? {
                "ingress" => vec![Direction::Ingress],
                "egress" => vec![Direction::Egress],
                _ => Direction::BOTH.to_vec(),
            }
        }
    };
    Some(Claim::Isolated { pods: pods?, directions })
}

fn nowhere_else(
    walk: &mut Walk<'_>,
    node: &Node<'_>,
    at: At,
    path: &Path<'_>,
    families: &mut Vec<Family>,
) -> Option<Claim> {
    let map = body(walk, node, path, &["into", "outOf", "families"])?;
    let (direction, pods) = subject(walk, map, at, path)?;
    *families = read_families(walk, map, path);
    Some(Claim::NowhereElse { direction, pods })
}

fn read_families(walk: &mut Walk<'_>, map: &Map<'_>, path: &Path<'_>) -> Vec<Family> {
    let Some(entry) = map.get("families") else { return Vec::new() };
    let path = path.field("families");
    let one = |walk: &mut Walk<'_>, node: &Node<'_>, path: &Path<'_>| {
        let family = walk.one_of(node, path, &["IPv4", "IPv6"])?;
        Some(if family == "IPv4" { Family::V4 } else { Family::V6 })
    };
    match &entry.value.value {
        Value::List(items) => {
            let items = items.iter().enumerate();
            items.filter_map(|(i, item)| one(walk, item, &path.index(i))).collect()
        }
        _ => one(walk, &entry.value, &path).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests;
