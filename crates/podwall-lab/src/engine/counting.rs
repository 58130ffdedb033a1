//! Which policies and pods do the nodes' counters belong to?

use std::collections::{BTreeMap, BTreeSet};

use podwall_compile::tables::{RuleId, SubjectId};
use podwall_policy::cluster::Cluster;
use podwall_policy::object::Name;
use podwall_policy::policy::{Direction, Tier};

use super::error::Failures;
use super::node::NodeFirewall;
use super::{Engine, EngineError, filling};
use crate::counters::{Counters, IsolatedCount, RuleCount};

/// Allowed and denied packets of a policy's rule.
type ByRule = BTreeMap<(Name, Direction, u32), [u64; 2]>;

// === impl Engine ===

impl Engine {
    /// Packets by rule and by isolated pods, of all nodes.
    pub fn counters(&mut self) -> Result<Counters, EngineError> {
        let cluster = self.store.cluster();
        let (mut rules, mut failures) = (every_rule(cluster), Failures::default());
        let mut out = Counters { enforced: self.store.config.enforce, ..Counters::default() };
        for (node, firewall) in &mut self.nodes {
            let counted = count(node, firewall, cluster, &mut rules);
            out.isolated.extend(failures.note(counted).unwrap_or_default());
        }
        failures.result()?;
        let rule = |((policy, direction, rule), [allowed, denied]): (_, [u64; 2])| {
            let (policy, direction): (Name, Direction) = (policy, direction);
            RuleCount {
                namespace: policy.namespace.to_string(),
                policy: policy.name.to_string(),
                direction: direction.to_string(),
                rule,
                allowed,
                denied,
            }
        };
        out.rules = rules.into_iter().map(rule).collect();
        Ok(out)
    }

    /// What the user was not told yet of what the last change did.
    pub fn take_warnings(&mut self) -> Vec<String> {
        self.nodes.values_mut().flat_map(NodeFirewall::take_warnings).collect()
    }
}

/// Every rule at zero: one that no packet can meet stands in no node's tables.
fn every_rule(cluster: &Cluster) -> ByRule {
    let mut rules = ByRule::new();
    for ((_, name), policy) in cluster.policies.iter().filter(|((t, _), _)| is_counted(*t)) {
        for direction in Direction::BOTH {
            for (_, number) in policy.rules(direction).unwrap_or_default().iter().zip(1..) {
                rules.insert((name.clone(), direction, number), [0, 0]);
            }
        }
    }
    rules
}

fn is_counted(tier: Tier) -> bool {
    tier == Tier::NetworkPolicy
}

fn count(
    node: &str,
    firewall: &mut NodeFirewall,
    cluster: &Cluster,
    rules: &mut ByRule,
) -> Result<Vec<IsolatedCount>, EngineError> {
    let Some((counters, fill)) = firewall.counted()? else { return Ok(Vec::new()) };
    let tables = firewall.tables();
    let denying: BTreeSet<RuleId> =
        tables.verdicts.values().filter(|v| !v.allow).filter_map(|v| v.rule).collect();
    for (id, packets) in counters.rules {
        let Some(rule) = tables.rules.get(&id) else { continue };
        let key = (rule.policy.clone(), rule.direction, rule.number);
        rules.entry(key).or_default()[usize::from(denying.contains(&id))] += packets;
    }
    let mut isolated = Vec::new();
    for (class, denied) in counters.defaults {
        // Classes that do not fit are counted as the closed one.
        let counted_as = |wanted: SubjectId| match fill.isolated.contains_key(&wanted) {
            true => SubjectId::CLOSED,
            false => wanted,
        };
        let pods = filling::pods(tables, cluster, |_, wanted| counted_as(wanted) == class);
        let of_class = tables.subjects.iter().filter(|(_, wanted)| counted_as(**wanted) == class);
        let (mut directions, mut policies) = (BTreeSet::new(), BTreeSet::new());
        for ((direction, _), wanted) in of_class {
            directions.insert(direction.to_string());
            policies.extend(tables.names_behind(*wanted).map(ToString::to_string));
        }
        isolated.push(IsolatedCount {
            node: node.to_owned(),
            pods: pods.into_iter().collect(),
            directions: directions.into_iter().collect(),
            isolated_by: policies.into_iter().collect(),
            denied,
        });
    }
    isolated.sort_by(|a, b| (&a.pods, &a.directions).cmp(&(&b.pods, &b.directions)));
    Ok(isolated)
}
