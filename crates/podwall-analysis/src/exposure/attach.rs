//! Does a listener of a Gateway take a route?
//!
//! The rules of `allowedRoutes`, `sectionName` and `port` of the Gateway API; hosts are not compared:
//! a route whose hosts are none of the listener's gets no traffic, and is said to.

use podwall_policy::cluster::Cluster;
use podwall_policy::entrance::{Gateway, Listener, Parent, Route, RoutesFrom};

/// Whether the listener takes the route.
pub(super) fn attaches(
    cluster: &Cluster,
    gateway: &Gateway,
    listener: &Listener,
    route: &Route,
    parent: &Parent,
) -> bool {
    let named = parent.section.as_ref().is_none_or(|section| *section == listener.name)
        && parent.port.is_none_or(|port| port == listener.port);
    let kind = match listener.kinds.is_empty() {
        true => fits(&listener.protocol, &route.kind),
        false => listener.kinds.contains(&route.kind),
    };
    let namespace = &route.name.namespace;
    let from = match &listener.from {
        RoutesFrom::All => true,
        RoutesFrom::Same => *namespace == gateway.name.namespace,
        RoutesFrom::Nobody => false,
        RoutesFrom::Selected(selector) => {
            cluster.namespaces.get(namespace).is_some_and(|its| selector.matches(&its.labels))
        }
    };
    named && kind && from && (route.hosts.is_empty() || hosts_meet(listener.host.as_deref(), route))
}

/// The kinds that a listener of a protocol takes where it names none.
fn fits(protocol: &str, kind: &str) -> bool {
    match protocol {
        "HTTP" | "HTTPS" => matches!(kind, "HTTPRoute" | "GRPCRoute"),
        "TLS" => matches!(kind, "TLSRoute" | "TCPRoute"),
        "TCP" => kind == "TCPRoute",
        "UDP" => kind == "UDPRoute",
        _ => true, // an implementation's own
    }
}

fn hosts_meet(listener: Option<&str>, route: &Route) -> bool {
    let Some(listener) = listener else { return true };
    route.hosts.iter().any(|host| is_within(host, listener) || is_within(listener, host))
}

/// Whether a host is, or may be, one of those that a pattern stands for: `*.example.com`.
fn is_within(host: &str, pattern: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(end) => host.len() > end.len() && host.ends_with(end),
        None => host == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use podwall_policy::label::Labels;
    use podwall_policy::object::{Name, Namespace};
    use podwall_policy::selector::Selector;

    fn listener(protocol: &str, from: RoutesFrom, host: Option<&str>) -> Listener {
        let (name, protocol, host) = ("web".into(), protocol.into(), host.map(Into::into));
        Listener { name, port: 80, protocol, host, from, kinds: Vec::new() }
    }

    fn taken(listener: &Listener, namespace: &str, hosts: &[&str], section: Option<&str>) -> bool {
        let mut cluster = Cluster::default();
        let labels: Labels = [("team", "shop")].into_iter().collect();
        cluster.put_namespace(Namespace::new("shop", &labels));
        let gateway = Gateway {
            name: Name::new("infra", "edge"),
            class: "c".into(),
            listeners: Vec::new(),
            source: None,
        };
        let parent =
            Parent { gateway: gateway.name.clone(), section: section.map(Into::into), port: None };
        let route = Route {
            kind: "HTTPRoute".into(),
            name: Name::new(namespace, "r"),
            parents: Vec::new(),
            hosts: hosts.iter().map(|host| (*host).into()).collect(),
            backends: Vec::new(),
            source: None,
        };
        attaches(&cluster, &gateway, listener, &route, &parent)
    }

    #[test]
    fn a_listener_takes_the_routes_that_it_allows() {
        let same = listener("HTTP", RoutesFrom::Same, None);
        assert!(taken(&same, "infra", &[], None));
        assert!(!taken(&same, "shop", &[], None));
        assert!(taken(&listener("HTTP", RoutesFrom::All, None), "shop", &[], None));
        assert!(!taken(&listener("HTTP", RoutesFrom::Nobody, None), "infra", &[], None));
        let selected = RoutesFrom::Selected(Selector::labels([("team", "shop")]));
        assert!(taken(&listener("HTTP", selected.clone(), None), "shop", &[], None));
        assert!(!taken(&listener("HTTP", selected, None), "infra", &[], None));
        assert!(!taken(&listener("TCP", RoutesFrom::All, None), "shop", &[], None));
        assert!(taken(&same, "infra", &[], Some("web")));
        assert!(!taken(&same, "infra", &[], Some("other")));
    }

    #[test]
    fn hosts_of_route_and_listener_have_to_meet() {
        let wild = listener("HTTP", RoutesFrom::Same, Some("*.example.com"));
        assert!(taken(&wild, "infra", &["shop.example.com"], None));
        assert!(!taken(&wild, "infra", &["example.com"], None));
        assert!(!taken(&wild, "infra", &["shop.example.org"], None));
        let one = listener("HTTP", RoutesFrom::Same, Some("shop.example.com"));
        assert!(taken(&one, "infra", &["*.example.com"], None));
    }
}
