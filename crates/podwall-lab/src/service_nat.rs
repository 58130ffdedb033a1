//! How does a Service's address lead to a pod?
//!
//! ```text
//!   prerouting, output   (address, protocol, port) ─▶ a chain a Service port ─▶ one endpoint: dnat
//!   postrouting          what came by a node port, hairpin, what leaves for the outside: masquerade
//! ```
//!
//! This is the lab's kube-proxy: an own table, far from the firewall's. Destination NAT comes before
//! the firewall looks, source NAT after it, as in a cluster.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;

use podwall_policy::address::Family;
use podwall_policy::port::Protocol;

use crate::fabric::OUTSIDE;

/// The table's name.
const TABLE: &str = "podwall_lab";

/// The mark of packets whose source has to become the node's, as kube-proxy uses it.
const MASQUERADE: &str = "0x4000";

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRule {
    /// The Service, for comments.
    pub name: String,
    /// Its addresses; none for a headless Service.
    pub cluster_ips: Vec<IpAddr>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port of its addresses.
    pub port: u16,
    /// The port of every node, if it has one.
    pub node_port: Option<u16>,
    /// `externalTrafficPolicy: Local`.
    pub local: bool,
    /// Address, port and node of each pod behind it, of both families.
    pub endpoints: Vec<(IpAddr, u16, Arc<str>)>,
}

/// The node's whole table, as `nft -f` takes it; replaces an earlier one in one transaction.
pub fn ruleset(rules: &[ServiceRule], node: &str) -> String {
    let mut out = String::new();
    write_ruleset(&mut out, rules, node).map_or_else(|_| String::new(), |()| out)
}

fn write_ruleset(out: &mut String, rules: &[ServiceRule], node: &str) -> std::fmt::Result {
    writeln!(out, "add table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{")?;
    let (mut by_address, mut refused) = (Vec::new(), Vec::new());
    let (mut by_node_port, mut by_inner_port) = (Vec::new(), Vec::new());
    let mut chains = 0;
    for rule in rules {
        let protocol = rule.protocol.to_string().to_lowercase();
        for family in Family::BOTH {
            let all: Vec<_> =
                rule.endpoints.iter().filter(|(ip, _, _)| Family::of(*ip) == family).collect();
            let here: Vec<_> = all.iter().filter(|(_, _, n)| **n == *node).copied().collect();
            let address = rule.cluster_ips.iter().find(|ip| Family::of(**ip) == family);
            if let Some(address) = address {
                if all.is_empty() {
                    refused.push((family, format!("{address} . {protocol} . {}", rule.port)));
                } else {
                    chains += 1;
                    let key = format!("{address} . {protocol} . {}", rule.port);
                    by_address.push((family, format!("{key} : goto service_{chains}")));
                    service_chain(out, chains, &rule.name, &protocol, family, &all, false)?;
                }
            }
            let Some(node_port) = rule.node_port else { continue };
            let endpoints = if rule.local { &here } else { &all };
            let mut lead = |endpoints: &[_]| -> Result<String, std::fmt::Error> {
                if endpoints.is_empty() {
                    return Ok("drop".to_owned());
                }
                chains += 1;
                service_chain(out, chains, &rule.name, &protocol, family, endpoints, !rule.local)?;
                Ok(format!("goto service_{chains}"))
            };
            let verdict = lead(endpoints)?;
            // The policy is for traffic from outside; the node and its pods may use every pod.
            let inner = if rule.local { lead(&all)? } else { verdict.clone() };
            by_node_port.push((family, format!("{protocol} . {node_port} : {verdict}")));
            by_inner_port.push((family, format!("{protocol} . {node_port} : {inner}")));
        }
    }
    for (family, suffix, kind) in [(Family::V4, "4", "ipv4_addr"), (Family::V6, "6", "ipv6_addr")] {
        let of = |list: &[(Family, String)]| -> String {
            let lines = list.iter().filter(|(f, _)| *f == family).map(|(_, text)| text.as_str());
            let lines: Vec<&str> = lines.collect();
            if lines.is_empty() {
                String::new()
            } else {
                format!("elements = {{\n      {}\n    }}", lines.join(",\n      "))
            }
        };
        let elements = of(&by_address);
        writeln!(
            out,
            "  map services{suffix} {{\n    type {kind} . inet_proto . inet_service : verdict\n    {elements}\n  }}"
        )?;
        for (map, list) in [("nodeports", &by_node_port), ("inner", &by_inner_port)] {
            let elements = of(list);
            writeln!(
                out,
                "  map {map}{suffix} {{\n    type inet_proto . inet_service : verdict\n    {elements}\n  }}"
            )?;
        }
        let elements = of(&refused);
        writeln!(
            out,
            "  set refused{suffix} {{\n    type {kind} . inet_proto . inet_service\n    {elements}\n  }}"
        )?;
    }
    let services = "ip daddr . meta l4proto . th dport vmap @services4
    ip6 daddr . meta l4proto . th dport vmap @services6";
    // Of the node itself, with the loopback addresses that kube-proxy leaves alone too.
    let node_ports = |from: &str, map: &str| {
        format!(
            "{from}meta nfproto ipv4 fib daddr type local ip daddr != 127.0.0.0/8 \
             meta l4proto . th dport vmap @{map}4
    {from}meta nfproto ipv6 fib daddr type local ip6 daddr != ::1 \
             meta l4proto . th dport vmap @{map}6"
        )
    };
    let from_ptp = node_ports("iifname \"veth*\" ", "inner");
    let from_bridge = node_ports("iifname \"cni0\" ", "inner");
    let (from_all, from_node) = (node_ports("", "nodeports"), node_ports("", "inner"));
    let refuse =
        "ip daddr . meta l4proto . th dport @refused4 reject with icmpx type port-unreachable
    ip6 daddr . meta l4proto . th dport @refused6 reject with icmpx type port-unreachable";
    let [outside4, outside6] = OUTSIDE;
    writeln!(
        out,
        "  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    {services}
    {from_ptp}
    {from_bridge}
    {from_all}
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
    {services}
    {from_node}
  }}
  chain forward_refused {{
    type filter hook forward priority filter; policy accept;
    {refuse}
  }}
  chain output_refused {{
    type filter hook output priority filter; policy accept;
    {refuse}
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    meta mark & {MASQUERADE} == {MASQUERADE} masquerade
    rt ip nexthop {outside4} masquerade
    rt ip6 nexthop {outside6} masquerade
  }}
}}"
    )
}

/// A chain that picks one endpoint at random.
fn service_chain(
    out: &mut String,
    number: usize,
    name: &str,
    protocol: &str,
    family: Family,
    endpoints: &[&(IpAddr, u16, Arc<str>)],
    masquerade: bool,
) -> std::fmt::Result {
    let ip = if family == Family::V4 { "ip" } else { "ip6" };
    for (i, (address, port, _)) in endpoints.iter().enumerate() {
        let target = match address {
            IpAddr::V4(v4) => format!("{v4}:{port}"),
            IpAddr::V6(v6) => format!("[{v6}]:{port}"),
        };
        writeln!(
            out,
            "  chain endpoint_{number}_{i} {{
    {ip} saddr {address} meta mark set meta mark or {MASQUERADE}
    meta l4proto {protocol} dnat {ip} to {target}
  }}"
        )?;
    }
    let choices: Vec<String> =
        (0..endpoints.len()).map(|i| format!("{i} : goto endpoint_{number}_{i}")).collect();
    writeln!(out, "  chain service_{number} {{ # {name}")?;
    if masquerade {
        writeln!(out, "    meta mark set meta mark or {MASQUERADE}")?;
    }
    match endpoints.len() {
        1 => writeln!(out, "    goto endpoint_{number}_0\n  }}"),
        n => writeln!(out, "    numgen random mod {n} vmap {{ {} }}\n  }}", choices.join(", ")),
    }
}

/// Loads a ruleset into the calling thread's network namespace.
///
/// # Errors
/// What `nft` said, shortened.
pub fn load(text: &str) -> Result<(), String> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                "the program nft is not installed; on Debian: apt-get install nftables".to_owned()
            }
            _ => format!("cannot run nft: {e}"),
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(text.as_bytes()).map_err(|e| format!("cannot write to nft: {e}"))?;
    }
    let output = child.wait_with_output().map_err(|e| format!("nft did not end: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(said.chars().take(400).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_rule(endpoints: &[(&str, &str)], node_port: Option<u16>, local: bool) -> ServiceRule {
        ServiceRule {
            name: "default/web".to_owned(),
            cluster_ips: vec!["10.96.0.11".parse().unwrap()],
            protocol: Protocol::TCP,
            port: 80,
            node_port,
            local,
            endpoints: endpoints
                .iter()
                .map(|(ip, node)| (ip.parse().unwrap(), 8080, Arc::from(*node)))
                .collect(),
        }
    }

    #[test]
    fn a_service_without_pods_refuses() {
        let text = ruleset(&[mk_rule(&[], Some(30000), false)], "node-1");
        assert!(text.contains("set refused4 {\n    type ipv4_addr . inet_proto . inet_service\n    elements = {\n      10.96.0.11 . tcp . 80"), "{text}");
        assert!(text.contains("tcp . 30000 : drop"), "{text}");
    }

    #[test]
    fn a_local_node_port_leads_to_pods_of_this_node_alone() {
        let rule =
            mk_rule(&[("10.244.1.2", "node-1"), ("10.244.2.2", "node-2")], Some(30000), true);
        let here = ruleset(std::slice::from_ref(&rule), "node-1");
        // Behind the Service's address, the node port from outside and the node port from inside.
        assert_eq!(here.matches("dnat ip to 10.244.1.2:8080").count(), 3, "{here}");
        assert_eq!(here.matches("dnat ip to 10.244.2.2:8080").count(), 2, "{here}");
        let elsewhere = ruleset(&[rule], "node-3");
        assert!(elsewhere.contains("tcp . 30000 : drop"), "{elsewhere}");
    }
}
