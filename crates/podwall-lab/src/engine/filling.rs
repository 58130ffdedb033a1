//! What does not fit into a node's tables, in words?

use std::collections::BTreeSet;
use std::net::IpAddr;

use podwall_compile::tables::{NodeTables, SubjectId};
use podwall_dataplane::{Fill, Why};
use podwall_policy::cluster::Cluster;
use podwall_policy::flow::Party;
use podwall_policy::policy::Direction;

/// A longer list is cut: it is for people.
const SHOWN: usize = 8;

/// A line for each thing that was left out; none if everything fits.
pub(super) fn words(fill: &Fill, tables: &NodeTables, cluster: &Cluster) -> Vec<String> {
    let mut lines = Vec::new();
    for direction in Direction::BOTH {
        for why in [Why::Verdicts, Why::Addresses] {
            let concerned = |class: &SubjectId| fill.isolated.get(class) == Some(&why);
            let pods = pods(tables, cluster, |way, class| way == direction && concerned(&class));
            if pods.is_empty() {
                continue;
            }
            let reason = match why {
                Why::Verdicts => "their verdicts do not fit",
                Why::Addresses => "an address that does not fit could pass",
            };
            let pods = list(pods.iter());
            lines.push(format!("isolated for {direction} with no rule, since {reason}: {pods}"));
        }
    }
    if !fill.addresses.is_empty() {
        let names: BTreeSet<String> =
            fill.addresses.iter().map(|address| name(cluster, *address)).collect();
        lines.push(format!("taken for strangers, since they do not fit: {}", list(names.iter())));
    }
    if !fill.ranges.is_empty() {
        let ranges = list(fill.ranges.iter());
        lines.push(format!("ranges taken for no rule's, since they do not fit: {ranges}"));
    }
    lines
}

/// The pods of some classes.
pub(super) fn pods(
    tables: &NodeTables,
    cluster: &Cluster,
    wanted: impl Fn(Direction, SubjectId) -> bool,
) -> BTreeSet<String> {
    let subjects = tables.subjects.iter();
    let of = subjects.filter(|((direction, _), class)| wanted(*direction, **class));
    of.map(|((_, address), _)| name(cluster, *address)).collect()
}

fn name(cluster: &Cluster, address: IpAddr) -> String {
    match Party::at(cluster, address) {
        Party::Pod(pod) => pod.name.to_string(),
        Party::Node(node) => node.name.to_string(),
        Party::Address(address) => address.to_string(),
    }
}

fn list<T: ToString>(all: impl ExactSizeIterator<Item = T>) -> String {
    let more = all.len().saturating_sub(SHOWN);
    let mut text: Vec<String> = all.take(SHOWN).map(|it| it.to_string()).collect();
    if more > 0 {
        text.push(format!("… and {more} more"));
    }
    text.join(", ")
}
