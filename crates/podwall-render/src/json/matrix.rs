//! The JSON of `podwall matrix`.

use schemars::JsonSchema;
use serde::Serialize;

use podwall_analysis::matrix::{Connection, Matrix, Row};
use podwall_analysis::outside;
use podwall_policy::address::Family;
use podwall_policy::port::PortSet;

use super::PortsJson;

/// The answer to `podwall matrix`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MatrixJson {
    /// `NAMESPACE/POD`, `NAMESPACE/KIND/NAME`, and addresses outside as disjoint CIDRs.
    pub peers: Vec<String>,
    /// What certainly passes; what is not there does not, or is in `unknown`.
    pub connections: Vec<ConnectionJson>,
    /// What depends on missing facts.
    pub unknown: Vec<UnknownJson>,
    /// What was left out of the input because it could not be read (`--keep-going`).
    pub left_out: Vec<String>,
}

/// What passes from one peer to another. Between workloads: between at least one pair of pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionJson {
    /// Who opens the connection; one of `peers`.
    pub src: String,
    /// Who is asked; one of `peers`.
    pub dst: String,
    /// What passes over every address family that both speak.
    #[serde(flatten)]
    pub ports: PortsJson,
    /// True where some pairs of pods of these workloads let less pass; else absent.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schemars(default)]
    pub partly: bool,
    /// What passes over each family, where that differs; else absent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(default)]
    pub families: Vec<FamilyPortsJson>,
}

/// What passes over one address family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FamilyPortsJson {
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// What passes.
    #[serde(flatten)]
    pub ports: PortsJson,
}

impl From<&(Family, PortSet)> for FamilyPortsJson {
    fn from((family, set): &(Family, PortSet)) -> Self {
        Self { family: family.to_string(), ports: set.into() }
    }
}

/// What depends on missing facts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnknownJson {
    /// Who opens the connection.
    pub src: String,
    /// Who is asked.
    pub dst: String,
    /// What may pass.
    #[serde(flatten)]
    pub ports: PortsJson,
    /// The facts that would decide.
    pub missing: Vec<String>,
}

/// What a row is called in JSON and CSV: one name, or each of its CIDRs.
pub(crate) fn names(row: &Row<'_>) -> Vec<String> {
    match row {
        Row::Pods { label, .. } => vec![label.clone()],
        Row::Outside(class) => outside::cidrs(&class.addresses),
    }
}

/// The answer as JSON structures.
pub fn matrix(matrix: &Matrix<'_>, left_out: &[String]) -> MatrixJson {
    let mut out = MatrixJson {
        peers: matrix.rows.iter().flat_map(names).collect(),
        connections: Vec::new(),
        unknown: Vec::new(),
        left_out: left_out.to_vec(),
    };
    for connection in &matrix.connections {
        for src in names(&matrix.rows[connection.src]) {
            for dst in names(&matrix.rows[connection.dst]) {
                add(&mut out, connection, &src, &dst);
            }
        }
    }
    out
}

fn add(out: &mut MatrixJson, connection: &Connection, src: &str, dst: &str) {
    let (src, dst) = (src.to_owned(), dst.to_owned());
    let ports = |set: &PortSet| PortsJson::from(set);
    if !connection.open.is_empty() {
        out.unknown.push(UnknownJson {
            src: src.clone(),
            dst: dst.clone(),
            ports: ports(&connection.open),
            missing: connection.missing.iter().map(ToString::to_string).collect(),
        });
    }
    if connection.passes_any() {
        out.connections.push(ConnectionJson {
            src,
            dst,
            ports: ports(&connection.passes),
            partly: connection.partly,
            families: connection.families.iter().map(FamilyPortsJson::from).collect(),
        });
    }
}
