//! How do the tables read?
//!
//! ```text
//!   isolated: egress   10.244.1.2   class 3
//!   verdict:  class 3  peer 7  TCP 80   allow (rule 12)
//! ```

use std::fmt::Write as _;
use std::net::IpAddr;

use podwall_compile::tables::{NodeTables, Peer, PeerId, PortKey, SubjectId};

/// A longer list is cut: it is for people.
const SHOWN: usize = 200;

/// The tables as text.
pub(crate) fn text(tables: &NodeTables) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "netfilter programs podwall on LOCAL_IN and POST_ROUTING, IPv4 and IPv6; two copies of:\n\
         {} isolated addresses, {} pods' addresses, {} small and {} large ranges, {} verdicts",
        tables.subjects.len(),
        tables.peers.len(),
        tables.blocks.len(),
        tables.nets.len(),
        tables.verdicts.len()
    );
    if !tables.pod_ranges.is_empty() {
        let ranges: Vec<_> = tables.pod_ranges.ranges().iter().map(ToString::to_string).collect();
        let _ = writeln!(out, "isolated unless they are known: {}", ranges.join(", "));
    }
    let mut section = |title: &str, lines: Vec<String>| {
        let _ = writeln!(out, "\n{title}");
        for line in lines.iter().take(SHOWN) {
            let _ = writeln!(out, "  {line}");
        }
        if lines.len() > SHOWN {
            let _ = writeln!(out, "  … and {} more", lines.len() - SHOWN);
        }
    };
    let subjects = tables.subjects.iter();
    section(
        "isolated",
        subjects
            .map(|((way, ip), class)| match *class {
                SubjectId::OPEN => format!("{way} {ip} open"),
                SubjectId(class) => format!("{way} {ip} class {class}"),
            })
            .collect(),
    );
    let mut peers: Vec<_> = tables.peers.iter().collect();
    peers.sort();
    let pod = |(ip, Peer { own, group }): &(&IpAddr, &Peer)| {
        let own = if *own == PeerId::OTHER { String::new() } else { format!(" peer {}", own.0) };
        format!("{ip} group {}{own}", group.0)
    };
    section("pods", peers.iter().map(pod).collect());
    let blocks = tables.blocks.iter();
    section("ranges", blocks.map(|(range, class)| format!("{range} peer {}", class.0)).collect());
    let nets = tables.nets.iter();
    section(
        "large ranges",
        nets.map(|(range, class)| format!("{range} net {}", class.0)).collect(),
    );
    let verdicts = tables.verdicts.iter().map(|(key, verdict)| {
        let peer = key.peer;
        let ports = match key.ports {
            PortKey::Port(protocol, port) => format!("{protocol} {port}"),
            PortKey::Range(protocol, range) => {
                format!("{protocol} {}-{}", range.first, range.last)
            }
            PortKey::AnyPort(protocol) => format!("{protocol}"),
            PortKey::AnyProtocol => "everything".to_owned(),
        };
        let rule = verdict.rule.map_or_else(String::new, |rule| match tables.rules.get(&rule) {
            Some(rule) => format!(": {rule}"),
            None => format!(": rule {}", rule.0),
        });
        let word = if verdict.allow { "allow" } else { "deny" };
        format!("class {} {peer} {ports} {word}{rule}", key.subject.0)
    });
    section("verdicts", verdicts.collect());
    out
}
