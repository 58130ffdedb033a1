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
    /// Refuses what another Service has already.
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
        for port in &service.ports {
            let same = |p: &ServicePort| {
                p.node_port.is_some()
                    && (p.node_port, p.protocol) == (port.node_port, port.protocol)
            };
            if let Some(owner) = others().find(|s| s.ports.iter().any(same)) {
                let number = port.node_port.unwrap_or_default();
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
            let mut used: BTreeSet<u16> = self
                .cluster
                .services
                .values()
                .flat_map(|s| s.ports.iter().filter_map(|p| p.node_port))
                .collect();
            for (i, port) in service.ports.iter_mut().enumerate() {
                let kept = before.as_ref().and_then(|b| b.ports.get(i)?.node_port);
                port.node_port = port.node_port.or(kept).or_else(|| plan::free_node_port(&used));
                used.extend(port.node_port);
            }
        }
        self.cluster.put_service(service);
    }
}
