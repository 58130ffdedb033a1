//! What do the numbers of the tables mean to people?
//!
//! ```text
//!   addresses ─▶ pods          classes ─▶ policies          rules ─▶ policy, direction, place
//! ```

use std::net::IpAddr;

use podwall_compile::compiler::NodeCompiler;
use podwall_compile::tables::{NodeTables, Packet, PortKey, SubjectId, Verdict, VerdictKey};
use podwall_dataplane::{Account, Counters, Denied};
use podwall_local::{Flow, Side};
use podwall_policy::object::Name;
use podwall_policy::policy::{Direction, RuleRef};

/// Packets by what decided them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counted {
    /// By the rule that allowed them.
    pub(crate) rules: Vec<(RuleRef, u64)>,
    /// Those that none allowed, by the policies that isolate.
    pub(crate) denied: Vec<(Direction, Vec<Name>, u64)>,
    /// Those whose source address is not their pod's.
    pub(crate) forged: u64,
}

/// Who stands for whom in tables.
fn direction_of(tables: &NodeTables, subject: SubjectId) -> Option<Direction> {
    let mut all = tables.subjects.iter().filter(|(_, class)| **class == subject);
    all.next().map(|((direction, _), _)| *direction)
}

/// What decided packets; what decided none is left out.
pub(crate) fn counted(tables: &NodeTables, counters: &Counters) -> Counted {
    let rules = counters.rules.iter().filter(|(_, count)| **count > 0);
    let denied = counters.defaults.iter().filter(|(_, count)| **count > 0);
    Counted {
        rules: rules
            .filter_map(|(id, count)| Some((tables.rules.get(id)?.clone(), *count)))
            .collect(),
        denied: denied
            .filter_map(|(subject, count)| {
                let names = tables.names_behind(*subject).cloned().collect();
                Some((direction_of(tables, *subject)?, names, *count))
            })
            .collect(),
        forged: 0,
    }
}

/// A dropped packet in words, by what the cluster is at this moment.
pub(crate) fn flow(node: &str, compiler: &NodeCompiler, denied: &Denied) -> Flow {
    let tables = compiler.tables();
    let who = |address| compiler.pod_at(address).map(ToString::to_string);
    let (way, local) = (denied.direction, denied.local());
    let whose = who(local).unwrap_or_else(|| local.to_string());
    let subject = tables.subject(way, local);
    let isolated_by: Vec<String> = subject
        .map(|subject| tables.names_behind(subject).map(ToString::to_string).collect())
        .unwrap_or_default();
    let packet = Packet {
        src: denied.src,
        dst: denied.dst,
        protocol: denied.protocol,
        port: denied.port,
        from_node: false,
        to_node: false,
    };
    let decision = tables.decide(&packet);
    let now = match way {
        Direction::Egress => decision.egress,
        Direction::Ingress => decision.ingress,
    };
    let rule = denied.rule.and_then(|rule| tables.rules.get(&rule));
    let reason = match (now, rule) {
        (None, _) => format!("nothing isolates {whose} for {way} any more"),
        (Some(Verdict { allow: true, .. }), _) => "allowed by now".to_owned(),
        (Some(_), Some(rule)) => format!("{rule} denies it"),
        (Some(_), None) if isolated_by.is_empty() => {
            format!("no pod is known to have the address {local}: it is isolated until one is")
        }
        (Some(_), None) => {
            let by = isolated_by.join(", ");
            format!("{whose} is isolated for {way} by {by}, no rule allows it")
        }
    };
    let (src, dst) = (who(denied.src), who(denied.dst));
    denied.in_words(node, Account { src, dst, isolated_by, reason })
}

/// What is in force for a pod in one direction.
pub(crate) fn side(tables: &NodeTables, addresses: &[IpAddr], direction: Direction) -> Side {
    let class = |address: &IpAddr| tables.subject(direction, *address);
    let Some(subject) = addresses.iter().find_map(class) else { return Side::default() };
    Side {
        isolated: true,
        isolated_by: tables.names_behind(subject).map(ToString::to_string).collect(),
        entries: tables.verdicts_of(subject).map(|(key, it)| entry(tables, key, *it)).collect(),
    }
}

fn entry(tables: &NodeTables, key: &VerdictKey, verdict: Verdict) -> String {
    let ports = match key.ports {
        PortKey::Port(protocol, port) => format!("{protocol} {port}"),
        PortKey::Range(protocol, range) => format!("{protocol} {}-{}", range.first, range.last),
        PortKey::AnyPort(protocol) => format!("{protocol}, any port"),
        PortKey::AnyProtocol => "everything".to_owned(),
    };
    let word = if verdict.allow { "allow" } else { "deny" };
    let rule = verdict.rule.and_then(|rule| tables.rules.get(&rule));
    let rule = rule.map_or_else(String::new, |rule| format!(" by {rule}"));
    format!("{}, {ports}: {word}{rule}", key.peer)
}
