//! Which addresses and which node ports does a Service get?
//!
//! Those that it states, where no other Service has them; else those that it had; else free ones.

use std::collections::BTreeSet;
use std::net::IpAddr;

use podwall_manifest::Typed;
use podwall_policy::address::Family;
use podwall_policy::object::{Exposure, Name, Service, ServicePort};

use super::{Key, Store, StoreError};
use crate::plan;

// === impl Store ===

impl Store {
    /// Refuses what another Service, or another port of the same one, has already.
    pub(super) fn check_free(&self, service: &Service) -> Result<(), StoreError> {
        let taken = |what: String, owner: &Service| StoreError::Taken {
            service: service.name.to_string(),
            what,
            owner: owner.name.to_string(),
        };
        let others = || self.cluster.services.values().filter(|s| s.name != service.name);
        for ip in service.cluster_ips.iter().filter(|_| !service.headless) {
            if let Some(owner) = others().find(|s| s.cluster_ips.contains(ip)) {
                return Err(taken(format!("cluster IP {ip}"), owner));
            }
        }
        for (i, port) in service.ports.iter().enumerate() {
            let Some(number) = port.node_port else { continue };
            let same =
                |p: &ServicePort| (p.node_port, p.protocol) == (port.node_port, port.protocol);
            let twice = service.ports.iter().take(i).any(same).then_some(service);
            if let Some(owner) = twice.or_else(|| others().find(|s| s.ports.iter().any(same))) {
                return Err(taken(format!("node port {number}"), owner));
            }
        }
        Ok(())
    }

    pub(super) fn follow_service(&mut self, key: &Key, name: &Name) {
        let Some(Typed::Service(typed)) = self.objects.get(key).map(|s| &s.object.typed) else {
            self.cluster.services.remove(name);
            return;
        };
        let mut service = (**typed).clone();
        let before = self.cluster.services.remove(name);
        if !service.headless {
            let used: BTreeSet<IpAddr> = self
                .cluster
                .services
                .values()
                .flat_map(|s| s.cluster_ips.iter().copied())
                .chain(plan::DNS_SERVICE)
                .collect();
            for family in self.config.families.list() {
                let of = |ips: &[IpAddr]| ips.iter().copied().find(|ip| Family::of(*ip) == *family);
                if of(&service.cluster_ips).is_none() {
                    let kept = before.as_ref().and_then(|b| of(&b.cluster_ips));
                    service
                        .cluster_ips
                        .extend(kept.or_else(|| plan::free_service_address(*family, &used)));
                }
            }
            let families = self.config.families;
            service.cluster_ips.retain(|ip| families.has(Family::of(*ip)));
        }
        if matches!(service.exposure, Exposure::Node { .. }) {
            let stated: BTreeSet<_> =
                service.ports.iter().filter_map(|p| Some((p.node_port?, p.protocol))).collect();
            for port in service.ports.iter_mut().filter(|port| port.node_port.is_none()) {
                // By name, as the API server does it. With another protocol the number may be
                // somebody else's.
                let same = |p: &&ServicePort| (&p.name, p.protocol) == (&port.name, port.protocol);
                let known = before.iter().flat_map(|b| &b.ports).find(same);
                port.node_port = known
                    .and_then(|p| p.node_port)
                    .filter(|number| !stated.contains(&(*number, port.protocol)));
            }
            let all = self.cluster.services.values().chain([&service]).flat_map(|s| &s.ports);
            let mut used: BTreeSet<u16> = all.filter_map(|p| p.node_port).collect();
            for port in service.ports.iter_mut().filter(|port| port.node_port.is_none()) {
                port.node_port = plan::free_node_port(&used);
                used.extend(port.node_port);
            }
        }
        self.cluster.put_service(service);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::store::tests::{mk_store, put};

    fn service(name: &str, ports: &Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"type": "NodePort", "selector": {"app": name}, "ports": ports}})
    }

    fn node_ports(store: &Store, name: &str) -> Vec<Option<u16>> {
        let service = &store.cluster().services[&Name::new("default", name)];
        service.ports.iter().map(|port| port.node_port).collect()
    }

    #[test]
    fn a_node_port_that_is_found_is_none_that_the_service_states() {
        let mut store = mk_store();
        let ports =
            json!([{"name": "a", "port": 80}, {"name": "b", "port": 81, "nodePort": 30000}]);
        put(&mut store, &service("s", &ports)).unwrap();
        assert_eq!(node_ports(&store, "s"), [Some(30001), Some(30000)]);
    }

    #[test]
    fn a_port_keeps_its_node_port_when_others_come_and_go_before_it() {
        let mut store = mk_store();
        put(&mut store, &service("s", &json!([{"name": "a", "port": 80}]))).unwrap();
        assert_eq!(node_ports(&store, "s"), [Some(30000)]);
        let ports = json!([{"name": "new", "port": 79}, {"name": "a", "port": 80}]);
        put(&mut store, &service("s", &ports)).unwrap();
        assert_eq!(node_ports(&store, "s"), [Some(30001), Some(30000)]);
        let ports =
            json!([{"name": "new", "port": 79, "nodePort": 30000}, {"name": "a", "port": 80}]);
        put(&mut store, &service("s", &ports)).unwrap();
        assert_eq!(
            node_ports(&store, "s"),
            [Some(30000), Some(30001)],
            "what is stated comes first"
        );
    }

    #[test]
    fn one_service_cannot_have_a_node_port_twice() {
        let mut store = mk_store();
        let port = |name, protocol| json!({"name": name, "port": 80, "protocol": protocol, "nodePort": 30000});
        put(&mut store, &service("s", &json!([port("a", "TCP"), port("b", "UDP")]))).unwrap();
        let ports = json!([{"name": "a", "port": 80, "nodePort": 30001}, {"name": "b", "port": 81, "nodePort": 30001}]);
        let refused = put(&mut store, &service("t", &ports)).unwrap_err().to_string();
        assert!(refused.contains("node port 30001"), "{refused}");
    }
}
