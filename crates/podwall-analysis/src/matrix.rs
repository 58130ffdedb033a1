//! Who can reach whom?
//!
//! ```text
//!   rows: workloads or pods, then classes of addresses outside
//!   connection (row, row): what passes, what is open for want of a fact
//! ```
//!
//! Between workloads a connection says what passes between at least one pair of their pods; it is
//! marked where the pairs differ. Over two families what passes must pass over both; where they
//! differ the connection says what each lets pass. Pods that have ended are left out, and so are
//! addresses of a family that no pod speaks.

use std::collections::{BTreeMap, HashMap};

use podwall_policy::address::{AddressRange, Family};
use podwall_policy::cluster::Cluster;
use podwall_policy::object::{Phase, Pod};
use podwall_policy::port::PortSet;
use podwall_policy::reason::MissingFact;

use crate::blocks::Blocks;
use crate::kinds::{Kinds, Likes, pairs};
use crate::outside::{self, Class};
use crate::podclass::Keys;
use crate::reachability::factored::{Cell, Factored};
use crate::reachability::{Passage, Reachability};

/// What a row stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// One pod.
    Pod,
    /// The pods of a workload; a pod without one stands alone.
    Workload,
}

/// Every pair.
#[derive(Clone, Debug)]
pub struct Matrix<'a> {
    /// Pods or workloads by name, then addresses outside.
    pub rows: Vec<Row<'a>>,
    /// What passes or may pass, by source and destination; pairs between which nothing can pass are
    /// not there.
    pub connections: Vec<Connection>,
}

/// One row, and column.
#[derive(Clone, Debug)]
pub enum Row<'a> {
    /// Pods, never empty.
    Pods {
        /// `NAMESPACE/POD` or `NAMESPACE/KIND/NAME`.
        label: String,
        /// The pods.
        pods: Vec<&'a Pod>,
    },
    /// Addresses outside that are treated alike.
    Outside(Class),
}

/// What passes from one row to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Index of the source's row.
    pub src: usize,
    /// Index of the destination's row.
    pub dst: usize,
    /// What certainly passes, between at least one pair of pods.
    pub passes: PortSet,
    /// Whether some pairs of pods let less pass.
    pub partly: bool,
    /// What depends on missing facts.
    pub open: PortSet,
    /// Those facts.
    pub missing: Vec<MissingFact>,
    /// What passes over each family, where that differs.
    pub families: Vec<(Family, PortSet)>,
}

impl Connection {
    /// Whether anything passes over any family.
    pub fn passes_any(&self) -> bool {
        !self.passes.is_empty() || self.families.iter().any(|(_, set)| !set.is_empty())
    }
}

/// All pairs of a cluster; with `only`, of these ports.
pub fn matrix<'a>(cluster: &'a Cluster, by: By, only: Option<&PortSet>) -> Matrix<'a> {
    matrix_of(cluster, &Reachability::of(cluster), by, only)
}

/// The same, with the cluster's engine at hand.
pub(crate) fn matrix_of<'a>(
    cluster: &'a Cluster,
    engine: &Reachability<'a>,
    by: By,
    only: Option<&PortSet>,
) -> Matrix<'a> {
    let mut factored = Factored::new(engine);
    let blocks = outside::blocks(cluster);
    let outside = outside::classes(&blocks, &outside::taken(cluster));
    let mut rows = pod_rows(cluster, by);
    let inside = rows.len();
    rows.extend(outside.into_iter().map(Row::Outside));
    let blocks = Blocks::new(blocks);
    let at_nodes = Keys::new(cluster, blocks.clone());
    let anywhere = Keys::without_nodes(blocks);
    let likes: Vec<Likes<'_>> =
        rows.iter().map(|row| Likes::of(&mut factored, row, &anywhere, &at_nodes)).collect();
    let mut possible = vec![false; rows.len()];
    let mut connections = Vec::new();
    let mut kinds = Kinds::of(&likes, inside);
    for src in 0..rows.len() {
        for dst in kinds.worth_asking(&mut factored, &likes, src, &mut possible) {
            let (sum, possible_here) = between(&mut factored, &likes, src, dst, only);
            possible[src] |= possible_here;
            possible[dst] |= possible_here;
            connections.extend(sum.filter(|c| c.passes_any() || !c.open.is_empty()));
        }
    }
    let (matrix, possible) = merge_outside(Matrix { rows, connections }, inside, possible);
    keep(matrix, |row| row < inside || possible[row])
}

/// What passes from one row to another, and whether they have a family in common at all.
pub(crate) fn between<'e>(
    factored: &mut Factored<'e>,
    likes: &[Likes<'e>],
    src: usize,
    dst: usize,
    only: Option<&PortSet>,
) -> (Option<Connection>, bool) {
    let mut sum: Option<Connection> = None;
    let mut last: Option<Cell> = None;
    let mut possible = false;
    pairs(&likes[src], &likes[dst], src == dst, |from, to| {
        let cell = factored.cell(from, to);
        possible |= cell != Cell::IMPOSSIBLE;
        if cell <= Cell::NOTHING && (sum.is_none() || last == Some(cell)) {
            last = Some(cell);
            return; // most pairs
        }
        if sum.is_none() && last.is_some() {
            add(&mut sum, src, dst, Passage::default(), only);
        }
        last = Some(cell);
        add(&mut sum, src, dst, factored.passage(cell, from, to), only);
    });
    (sum, possible)
}

/// What the row of a pod is called.
pub(crate) fn pod_label(pod: &Pod, by: By) -> String {
    match &pod.owner {
        Some(owner) if by == By::Workload => {
            format!("{}/{}/{}", pod.name.namespace, owner.kind, owner.name)
        }
        _ => pod.name.to_string(),
    }
}

/// A row for each pod or workload, in order of their names.
pub(crate) fn pod_rows(cluster: &Cluster, by: By) -> Vec<Row<'_>> {
    let mut rows: BTreeMap<String, Vec<&Pod>> = BTreeMap::new();
    for pod in cluster.pods.values().filter(|pod| pod.phase == Phase::Alive) {
        let label = pod_label(pod, by);
        rows.entry(label).or_default().push(pod);
    }
    rows.into_iter().map(|(label, pods)| Row::Pods { label, pods }).collect()
}

fn add(
    sum: &mut Option<Connection>,
    src: usize,
    dst: usize,
    cell: Passage,
    only: Option<&PortSet>,
) {
    let cut = |set: PortSet| match only {
        Some(only) => set.intersection(only),
        None => set,
    };
    let passes = cut(cell.passes);
    let families: Vec<(Family, PortSet)> =
        cell.families.into_iter().map(|(family, set)| (family, cut(set))).collect();
    // Cut to the asked ports the families may agree after all.
    let families =
        if families.iter().all(|(_, set)| *set == passes) { Vec::new() } else { families };
    let open = cut(cell.open);
    let missing = if open.is_empty() { Vec::new() } else { cell.missing };
    match sum {
        None => {
            *sum = Some(Connection { src, dst, passes, partly: false, open, missing, families });
        }
        Some(sum) => {
            sum.partly |= sum.passes != passes || sum.families != families;
            sum.passes = sum.passes.union(&passes);
            sum.open = sum.open.union(&open).difference(&sum.passes);
            sum.missing.extend(missing);
            sum.missing.sort();
            sum.missing.dedup();
            for (family, set) in families {
                match sum.families.iter_mut().find(|(of, _)| *of == family) {
                    Some((_, all)) => *all = all.union(&set),
                    None => sum.families.push((family, set)),
                }
            }
        }
    }
}

/// Puts rows of addresses together that have the same connections; with them whether a row has a
/// family in common with anybody, which is the same for all addresses of a family.
fn merge_outside(
    matrix: Matrix<'_>,
    inside: usize,
    possible: Vec<bool>,
) -> (Matrix<'_>, Vec<bool>) {
    let Matrix { mut rows, connections } = matrix;
    let mut contents: HashMap<Content<'_>, usize> = HashMap::new();
    let mut seen: Vec<Seen> = vec![Vec::new(); rows.len() - inside];
    for connection in &connections {
        for (own, other, out) in
            [(connection.src, connection.dst, true), (connection.dst, connection.src, false)]
        {
            if own >= inside {
                let next = contents.len();
                let content = *contents.entry(Content::of(connection)).or_insert(next);
                seen[own - inside].push((out, other, content));
            }
        }
    }
    let mut into: Vec<usize> = (0..rows.len()).collect();
    let mut first: HashMap<(Family, &Seen), usize> = HashMap::new();
    let mut merged: BTreeMap<usize, Vec<AddressRange>> = BTreeMap::new();
    for (row, seen) in (inside..).zip(&seen) {
        let Row::Outside(class) = &rows[row] else { continue };
        let at = *first.entry((class.family, seen)).or_insert(row);
        into[row] = at;
        merged.entry(at).or_default().extend(class.addresses.ranges());
    }
    for (row, ranges) in merged {
        if let Row::Outside(class) = &mut rows[row] {
            class.addresses = ranges.into_iter().collect();
        }
    }
    let kept: Vec<bool> = into.iter().enumerate().map(|(i, to)| i == *to).collect();
    drop((contents, first));
    let mut connections = connections;
    connections.retain(|c| kept[c.src] && kept[c.dst]);
    let possible = possible.into_iter().zip(&kept).filter(|(_, kept)| **kept).map(|(p, _)| p);
    let possible = possible.collect();
    (reindex(Matrix { rows, connections }, &kept), possible)
}

/// What a row of addresses has: in which direction, with whom, and the number of what passes.
type Seen = Vec<(bool, usize, usize)>;

/// What a connection says, whoever the ends are.
#[derive(PartialEq, Eq, Hash)]
struct Content<'c> {
    passes: &'c PortSet,
    partly: bool,
    open: &'c PortSet,
    missing: &'c [MissingFact],
    families: &'c [(Family, PortSet)],
}

impl<'c> Content<'c> {
    fn of(connection: &'c Connection) -> Self {
        let Connection { passes, partly, open, missing, families, .. } = connection;
        Self { passes, partly: *partly, open, missing, families }
    }
}

fn keep(matrix: Matrix<'_>, wanted: impl Fn(usize) -> bool) -> Matrix<'_> {
    let kept: Vec<bool> = (0..matrix.rows.len()).map(wanted).collect();
    reindex(matrix, &kept)
}

fn reindex<'a>(matrix: Matrix<'a>, kept: &[bool]) -> Matrix<'a> {
    let mut next = 0;
    let index: Vec<Option<usize>> = kept
        .iter()
        .map(|kept| {
            next += usize::from(*kept);
            kept.then(|| next - 1)
        })
        .collect();
    let rows =
        matrix.rows.into_iter().zip(kept).filter(|(_, kept)| **kept).map(|(row, _)| row).collect();
    let connections = matrix
        .connections
        .into_iter()
        .filter_map(|c| Some(Connection { src: index[c.src]?, dst: index[c.dst]?, ..c }))
        .collect();
    Matrix { rows, connections }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::can::{Ask, PortAsk, can};
    use crate::outside::describe;
    use crate::peer::resolve;
    use podwall_policy::address::IpBlock;
    use podwall_policy::evaluate::Verdict;
    use podwall_policy::label::Labels;
    use podwall_policy::object::{Namespace, Owner};
    use podwall_policy::policy::{Peer, Policy, Rule};
    use podwall_policy::port::{PortMatch, PortRange, PortSpec, Protocol};
    use podwall_policy::selector::Selector;

    fn tcp(port: u16) -> PortSpec {
        PortSpec { protocol: Protocol::TCP, port: PortMatch::Range(PortRange::one(port)) }
    }

    fn block(cidr: &str, except: &[&str]) -> Peer {
        let except = except.iter().map(|net| net.parse().unwrap());
        Peer::Block(IpBlock::new(cidr.parse().unwrap(), except))
    }

    /// Two replicas of `web` that let 10.0.0.0/24 without its upper half in on 80, and a lone `db`
    /// that is open; addresses are stated, so that nothing is unknown.
    fn cluster() -> Cluster {
        let mut cluster = Cluster::default();
        cluster.put_namespace(Namespace::new("default", &Labels::default()));
        for (name, ip) in [("web-1", "10.9.0.1"), ("web-2", "10.9.0.2"), ("db", "10.9.0.3")] {
            let app = name.split('-').next().unwrap();
            let mut pod = Pod::new("default", name, [("app", app)].into_iter().collect());
            pod.ips.push(ip.parse().unwrap());
            if app == "web" {
                pod.owner = Some(Owner { kind: "Deployment".into(), name: "web".into() });
            }
            cluster.put_pod(pod);
        }
        let mut policy =
            Policy::network_policy("default", "in", Selector::labels([("app", "web")]));
        let from = block("10.0.0.0/24", &["10.0.0.128/25"]);
        policy.ingress = Some(vec![Rule::allow(vec![from], vec![tcp(80)])]);
        cluster.put_policy(policy);
        cluster
    }

    fn label(row: &Row<'_>) -> String {
        match row {
            Row::Pods { label, .. } => label.clone(),
            Row::Outside(class) => describe(&class.addresses),
        }
    }

    fn lines(matrix: &Matrix<'_>) -> Vec<String> {
        let name = |row: usize| label(&matrix.rows[row]);
        let line = |c: &Connection| format!("{} > {}: {}", name(c.src), name(c.dst), c.passes);
        matrix.connections.iter().map(line).collect()
    }

    #[test]
    fn replicas_are_one_row_and_the_outside_is_cut_where_blocks_cut_it() {
        let cluster = cluster();
        let found = matrix(&cluster, By::Workload, None);
        assert_eq!(
            lines(&found),
            [
                "default/Deployment/web > default/db: everything",
                "default/Deployment/web > 0.0.0.0/0 except 10.0.0.0/25: everything",
                "default/Deployment/web > 10.0.0.0/25: everything",
                "default/db > 0.0.0.0/0 except 10.0.0.0/25: everything",
                "default/db > 10.0.0.0/25: everything",
                "0.0.0.0/0 except 10.0.0.0/25 > default/db: everything",
                "10.0.0.0/25 > default/Deployment/web: TCP 80",
                "10.0.0.0/25 > default/db: everything",
            ],
            "the exception is like the rest, IPv6 is spoken by nobody, web is shut to itself"
        );
    }

    #[test]
    fn asked_for_one_port_only_that_port_is_shown() {
        let cluster = cluster();
        let only = PortSet::range(Protocol::TCP, PortRange::one(443));
        let found = matrix(&cluster, By::Pod, Some(&only));
        assert!(!found.connections.is_empty());
        assert!(found.connections.iter().all(|c| c.passes == only), "{:?}", lines(&found));
    }

    #[test]
    fn replicas_that_differ_are_marked() {
        let mut cluster = cluster();
        let other: Labels = [("app", "other")].into_iter().collect();
        let name = podwall_policy::object::Name::new("default", "web-2");
        cluster.pods.get_mut(&name).unwrap().labels = other; // relabelled: no longer isolated
        let found = matrix(&cluster, By::Workload, None);
        let to_web = |c: &&Connection| {
            label(&found.rows[c.src]) == "default/db" && label(&found.rows[c.dst]).ends_with("web")
        };
        let connection = found.connections.iter().find(to_web).unwrap();
        assert!(connection.partly && connection.passes.is_everything());
    }

    #[test]
    fn an_unknown_address_names_the_pod_that_is_asked_about() {
        let mut cluster = cluster();
        for pod in cluster.pods.values_mut().filter(|pod| pod.name.name.starts_with("web")) {
            pod.ips.clear();
        }
        let mut policy = Policy::network_policy("default", "db", Selector::labels([("app", "db")]));
        policy.ingress = Some(vec![Rule::allow(vec![block("10.9.0.0/24", &[])], Vec::new())]);
        cluster.put_policy(policy);
        let found = matrix(&cluster, By::Pod, None);
        for pod in ["default/web-1", "default/web-2"] {
            let to_db = |c: &&Connection| {
                label(&found.rows[c.src]) == pod && label(&found.rows[c.dst]) == "default/db"
            };
            let connection = found.connections.iter().find(to_db).unwrap();
            assert!(connection.passes.is_empty() && connection.open.is_everything());
            assert!(connection.missing.iter().all(|fact| fact.to_string().contains(pod)));
            assert!(!connection.missing.is_empty());
        }
    }

    /// The matrix asks classes of a narrowed cluster, `can` the whole: they must agree.
    #[test]
    fn the_matrix_and_can_agree_on_every_pair_and_port() {
        let mut cluster = cluster();
        let mut policy = Policy::network_policy("default", "out", Selector::everything());
        policy.egress = Some(vec![
            Rule::allow(vec![block("10.9.0.0/31", &[])], vec![tcp(80)]),
            Rule::allow(vec![block("192.0.2.0/24", &["192.0.2.7/32"])], vec![tcp(443)]),
        ]);
        cluster.put_policy(policy);
        let found = matrix(&cluster, By::Pod, None);
        let mut seen = [0, 0];
        for (s, src) in found.rows.iter().enumerate() {
            for (d, dst) in found.rows.iter().enumerate() {
                let outside = |row: &Row<'_>| matches!(row, Row::Outside(_));
                if s == d || (outside(src) && outside(dst)) {
                    continue;
                }
                let peer = |row: &Row<'_>| match row {
                    Row::Pods { label, .. } => label.clone(),
                    Row::Outside(class) => class.example.to_string(),
                };
                let (from, to) = (peer(src), peer(dst));
                for port in [80, 443, 22] {
                    let ask = Ask { port: Some(PortAsk::Number(port)), ..Ask::default() };
                    let from = resolve(&cluster, &from, "default").unwrap();
                    let to = resolve(&cluster, &to, "default").unwrap();
                    let verdict = can(&cluster, &from, &to, &ask).unwrap().verdict;
                    let passes = found.connections.iter().any(|c| {
                        c.src == s && c.dst == d && c.passes.contains(Protocol::TCP, port)
                    });
                    assert_eq!(verdict == Verdict::Allowed, passes, "{from} to {to} on {port}");
                    seen[usize::from(passes)] += 1;
                }
            }
        }
        assert!(seen[0] > 5 && seen[1] > 5, "both outcomes must be reached: {seen:?}");
    }
}
