//! What may stand in a file of assertions, for editors and other programs?
//!
//! These types are the format's JSON Schema and nothing else; the file itself is read, with places and
//! remedies, by `podwall_manifest::assertions`. A test holds the two together.

use schemars::JsonSchema;
use serde::Deserialize;

/// A file of assertions for `podwall test`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TestFile {
    /// `podwall/v1`; may be left out.
    pub api_version: Option<ApiVersion>,
    /// `PolicyTest`; may be left out.
    pub kind: Option<Kind>,
    /// The namespace of names without one. Default: the one that `-n` names.
    pub namespace: Option<String>,
    /// The assertions.
    pub assertions: Vec<AssertionItem>,
}

/// The version of the format.
#[derive(Debug, Deserialize, JsonSchema)]
pub enum ApiVersion {
    /// This one.
    #[serde(rename = "podwall/v1")]
    V1,
}

/// The kind.
#[derive(Debug, Deserialize, JsonSchema)]
pub enum Kind {
    /// A file of assertions.
    PolicyTest,
}

/// One assertion: a name, and exactly one of the claims.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AssertionItem {
    /// What it is called in reports; without it, its claim in words.
    pub name: Option<String>,
    /// All of it passes: from each of `from` to each of `to`, every port that is named.
    pub allow: Option<BetweenItem>,
    /// Nothing of it passes: from none of `from` to none of `to`, no port that is named.
    pub deny: Option<BetweenItem>,
    /// The listed pass, and nobody else.
    pub only: Option<OnlyItem>,
    /// A NetworkPolicy isolates each of the pods, so that what is not allowed is denied.
    pub isolated: Option<IsolatedItem>,
    /// Nothing passes but what the file's `allow` and `only` let pass.
    pub nowhere_else: Option<NowhereElseItem>,
}

/// Two ends and ports.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BetweenItem {
    /// Who opens connections.
    pub from: PeersItem,
    /// Who is asked.
    pub to: PeersItem,
    /// The destination's ports. Default: every protocol and port.
    pub ports: Option<PortsItem>,
    /// Address families. Default: those that both ends speak.
    pub families: Option<FamiliesItem>,
}

/// Exactly these.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OnlyItem {
    /// The pods that are reached; goes with `from`.
    pub into: Option<PeersItem>,
    /// The pods that reach others; goes with `to`.
    pub out_of: Option<PeersItem>,
    /// Who reaches them; an empty list: nobody.
    pub from: Option<PermittedItem>,
    /// Whom they reach; an empty list: nobody.
    pub to: Option<PermittedItem>,
    /// The ports that it speaks of. Default: every protocol and port.
    pub ports: Option<PortsItem>,
    /// Address families. Default: those that both ends speak.
    pub families: Option<FamiliesItem>,
}

/// Who is isolated.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IsolatedItem {
    /// The pods.
    pub pods: PeersItem,
    /// In which direction. Default: both.
    pub direction: Option<DirectionItem>,
}

/// A direction, seen from the pods.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum DirectionItem {
    /// Into the pods.
    Ingress,
    /// Out of the pods.
    Egress,
    /// Both.
    Both,
}

/// Who is reached from, or reaches, nowhere else: one of the two fields.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NowhereElseItem {
    /// The pods that are reached.
    pub into: Option<PeersItem>,
    /// The pods that reach others.
    pub out_of: Option<PeersItem>,
    /// Address families. Default: those that both ends speak.
    pub families: Option<FamiliesItem>,
}

/// One peer, or a list.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum PeersItem {
    /// One.
    One(PeerItem),
    /// Several.
    Many(#[schemars(length(min = 1))] Vec<PeerItem>),
}

/// Somebody.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum PeerItem {
    /// `NAMESPACE/POD`, `NAMESPACE/KIND/NAME`, `NAMESPACE/svc/NAME`, an address, a CIDR, `internet`,
    /// `anybody`, `NAMESPACE/*` for the pods of a namespace, `*` for all pods.
    Name(String),
    /// Pods by labels.
    Pods(PodsItem),
    /// Addresses outside.
    Block(BlockItem),
}

/// Pods by labels, which are written as `kubectl -l` takes them; `namespace` or `namespaces`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PodsItem {
    /// A namespace by name.
    pub namespace: Option<String>,
    /// Namespaces by labels.
    pub namespaces: Option<String>,
    /// The pods' labels. Default: all pods.
    pub pods: Option<String>,
}

/// Addresses outside.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BlockItem {
    /// A CIDR.
    pub cidr: String,
    /// Without these.
    pub except: Option<Vec<String>>,
}

/// The list of an `only`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum PermittedItem {
    /// One.
    One(PermittedPeer),
    /// Several, or nobody.
    Many(Vec<PermittedPeer>),
}

/// One of the list of an `only`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum PermittedPeer {
    /// With the ports of the whole claim.
    Peer(PeerItem),
    /// With ports of its own.
    WithPorts(PeerWithPorts),
    /// Pods by labels, with ports of their own.
    PodsWithPorts(PodsWithPorts),
    /// Addresses, with ports of their own.
    BlockWithPorts(BlockWithPorts),
}

/// A peer and its ports.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PeerWithPorts {
    /// Who.
    pub peer: PeerItem,
    /// What.
    pub ports: Option<PortsItem>,
}

/// Pods by labels and their ports.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PodsWithPorts {
    /// A namespace by name.
    pub namespace: Option<String>,
    /// Namespaces by labels.
    pub namespaces: Option<String>,
    /// The pods' labels.
    pub pods: Option<String>,
    /// What.
    pub ports: PortsItem,
}

/// Addresses and their ports.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BlockWithPorts {
    /// A CIDR.
    pub cidr: String,
    /// Without these.
    pub except: Option<Vec<String>>,
    /// What.
    pub ports: PortsItem,
}

/// `all`, `any` (at least one, whichever), a port, or a list of ports.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum PortsItem {
    /// One.
    One(PortItem),
    /// Several.
    Many(#[schemars(length(min = 1))] Vec<PortItem>),
}

/// A port.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum PortItem {
    /// Of TCP.
    Number(#[schemars(range(min = 1, max = 65535))] u16),
    /// `8000-8080`, `UDP 53`, `UDP`, `ICMP`, or the name of a container's or a Service's port.
    Text(String),
}

/// One address family, or a list.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum FamiliesItem {
    /// One.
    One(FamilyItem),
    /// Several.
    Many(Vec<FamilyItem>),
}

/// An address family.
#[derive(Debug, Deserialize, JsonSchema)]
pub enum FamilyItem {
    /// IPv4.
    IPv4,
    /// IPv6.
    IPv6,
}

#[cfg(test)]
mod tests {
    use super::*;
    use podwall_manifest::read_assertions;

    /// The schema's types and the reader must take the same files.
    #[test]
    fn the_schema_and_the_reader_agree() {
        let one = |claim: &str| format!("assertions:\n- {claim}\n");
        let good = [
            include_str!("../../../../examples/three-tier/assertions.yaml").to_owned(),
            one("allow: {from: web, to: [shop/svc/db, 10.0.0.0/8], ports: [443, UDP 53, ICMP]}"),
            one("deny: {from: internet, to: shop/*, families: IPv6}"),
            one("deny: {from: anybody, to: a, families: [IPv4, IPv6], ports: all}"),
            one(
                "only: {into: {namespace: shop, pods: app=db}, from: [web, {peer: ops, ports: 22}]}",
            ),
            one("only: {outOf: web, to: [], ports: any}"),
            one("only: {outOf: web, to: {cidr: 10.0.0.0/8, except: [10.1.0.0/16], ports: 443}}"),
            one("only: {into: web, from: {namespaces: team=a, pods: app=x, ports: [1-2]}}"),
            one("isolated: {pods: a, direction: both}"),
            one("nowhereElse: {into: {namespaces: team=a}}"),
        ];
        for text in good {
            let read = read_assertions("t", text.as_bytes());
            assert!(read.is_ok(), "{text}: {read:?}");
            let typed = serde_saphyr::from_str::<TestFile>(&text);
            assert!(typed.is_ok(), "{text}: {typed:?}");
        }
        let bad = [
            "assertion: []".to_owned(),
            one("alow: {from: a, to: b}"),
            one("allow: {from: a}"),
            one("allow: {from: a, to: b, port: 1}"),
            one("allow: {from: {labels: a}, to: b}"),
            one("isolated: {pods: a, direction: in}"),
            one("only: {into: a, from: [{peer: b, port: 1}]}"),
            "kind: Pod\nassertions: []".to_owned(),
        ];
        for text in bad {
            assert!(read_assertions("t", text.as_bytes()).is_err(), "{text}");
            assert!(serde_saphyr::from_str::<TestFile>(&text).is_err(), "{text}");
        }
    }
}
