//! How do engines write policies that have a chain for each pod and each policy?
//!
//! ```text
//!   forward ─▶ one rule for each local pod and direction ─▶ pod's chain
//!   pod's chain ─▶ known connections pass ─▶ one jump for each policy ─▶ not marked: dropped
//!   policy's chain ─▶ peers in a set, port ─▶ mark
//! ```
//!
//! After kube-router's network policy controller (kube-router documentation, "netpol"), with sets
//! for peers as it has them; without its second table of rules for Services and its logging.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::Wanted;
use crate::cluster::{self, LOCAL};

/// The ruleset of a node, for `nft -f`.
pub(super) fn ruleset(wanted: &Wanted<'_>) -> String {
    let mut text = String::from("table ip linear {\n");
    let mut chains: BTreeMap<(usize, &str), Vec<usize>> = BTreeMap::new();
    for plan in wanted.plans {
        let peers = plan.peers.numbers(wanted.pods);
        let mut addresses: Vec<String> =
            peers.iter().map(|number| cluster::address(*number).to_string()).collect();
        addresses.extend(plan.block.map(|(address, length)| format!("{address}/{length}")));
        let number = plan.number;
        if !addresses.is_empty() {
            let all = addresses.join(", ");
            let _ = writeln!(
                text,
                "set peers-{number} {{ type ipv4_addr; flags interval; elements = {{ {all} }}; }}"
            );
        }
        let protocols = ["meta l4proto tcp", "meta l4proto { tcp, udp }"][plan.protocols() - 1];
        let port =
            plan.port.map(|port| format!("{protocols} th dport {port} ")).unwrap_or_default();
        for (wants, direction, side) in
            [(plan.ingress, "in", "saddr"), (plan.egress, "out", "daddr")]
        {
            if !wants {
                continue;
            }
            let _ = writeln!(text, "chain policy-{number}-{direction} {{");
            if !addresses.is_empty() {
                let _ = writeln!(
                    text,
                    "ip {side} @peers-{number} {port}meta mark set meta mark or 0x10000 return"
                );
            }
            text.push_str("}\n");
            for pod in cluster::local_pods(plan, wanted.node) {
                chains.entry((pod, direction)).or_default().push(number);
            }
        }
    }
    let mut jumps = String::new();
    for ((pod, direction), policies) in &chains {
        let _ =
            writeln!(text, "chain pod-{pod}-{direction} {{\nct state established,related return");
        for policy in policies {
            let _ = writeln!(text, "jump policy-{policy}-{direction}");
        }
        text.push_str(
            "meta mark and 0x10000 == 0 drop\nmeta mark set meta mark and 0xfffeffff\n}\n",
        );
    }
    // Every local pod has its rules, isolated or not.
    for pod in (0..2 * LOCAL).filter(|pod| pod % 2 == wanted.node) {
        let address = cluster::address(pod);
        for (direction, side) in [("out", "saddr"), ("in", "daddr")] {
            let target = match chains.contains_key(&(pod, direction)) {
                true => format!("jump pod-{pod}-{direction}"),
                false => "jump open".to_owned(),
            };
            let _ = writeln!(jumps, "ip {side} {address} {target}");
        }
    }
    let _ = write!(
        text,
        "chain open {{ }}\nchain forward {{ type filter hook forward priority 0; policy accept;\n\
         {jumps}}}\n}}\n"
    );
    text
}
