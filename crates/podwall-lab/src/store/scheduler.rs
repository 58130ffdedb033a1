//! On which node does a pod run, and with which addresses?
//!
//! ```text
//!   stated nodeName, else nodeSelector ─▶ the node with the fewest pods
//!   stated podIP if it is free, else   ─▶ the next free address of the node's range
//! ```
//!
//! A place is kept as long as the pod is the same one; a pod that no node takes waits for one.

use std::collections::BTreeSet;
use std::net::IpAddr;

use podwall_manifest::Typed;
use podwall_policy::object::{Name, Phase, Pod};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Key, Store, StoreError, Stored, Touched};
use crate::plan;

/// Where a pod runs. Empty node: nowhere yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) node: String,
    pub(super) ips: Vec<IpAddr>,
}

// === impl Store ===

impl Store {
    /// Places a pod and puts it into the cluster, or takes it out.
    pub(super) fn follow_pod(&mut self, key: &Key, name: &Name) -> Result<(), StoreError> {
        let Some(Typed::Pod(typed)) = self.objects.get(key).map(|s| &s.object.typed) else {
            self.cluster.pods.remove(name);
            return Ok(());
        };
        let mut pod = (**typed).clone();
        let known = self.objects.get(key).and_then(|s| s.place.clone());
        let place = match known {
            Some(place) if !place.node.is_empty() => place,
            _ => self.place(key, &pod)?,
        };
        pod.node = (!place.node.is_empty()).then(|| place.node.as_str().into());
        pod.ips.clone_from(&place.ips);
        if let Some(stored) = self.objects.get_mut(key) {
            stored.text.take();
            pod.uid = Some(stored.uid.as_str().into());
            stored.place = Some(place);
        }
        self.cluster.put_pod(pod);
        Ok(())
    }

    /// The node and the addresses of a pod: as the manifest states them where that is possible,
    /// else the node with the fewest pods and its next free address.
    fn place(&self, key: &Key, pod: &Pod) -> Result<Place, StoreError> {
        let node = match &pod.node {
            Some(node) => self.nodes.iter().find(|n| n.as_str() == &**node).cloned(),
            None => self.quietest_node(key),
        };
        let Some(node) = node else { return Ok(Place::default()) };
        let number = self.nodes.iter().position(|n| *n == node).map_or(1, |i| i + 1);
        let number = u32::try_from(number).unwrap_or(1);
        if pod.host_network {
            return Ok(Place { node, ips: plan::node_addresses(number, self.config.families) });
        }
        let used: BTreeSet<IpAddr> = self
            .cluster
            .pods
            .values()
            .filter(|p| {
                p.name.name.as_ref() != key.name || p.name.namespace.as_ref() != key.namespace
            })
            // The address of a pod that has ended is free again, though its object still states it.
            .filter(|p| p.phase == Phase::Alive)
            .flat_map(|p| p.ips.iter().copied())
            .collect();
        let cidrs = plan::pod_cidrs(number, self.config.families);
        let mut ips = Vec::new();
        for (family, cidr) in self.config.families.list().iter().zip(cidrs) {
            let stated = pod.ip(*family).filter(|ip| !used.contains(ip) && self.may_own(*ip));
            let address =
                stated.or_else(|| plan::free_pod_address(cidr, &used)).ok_or_else(|| {
                    StoreError::NoAddress {
                        pod: pod.name.to_string(),
                        node: node.clone(),
                        used: used.iter().filter(|ip| cidr.contains(*ip)).count(),
                        cidr: cidr.to_string(),
                    }
                })?;
            ips.push(address);
        }
        Ok(Place { node, ips })
    }

    /// Whether a stated pod address can be given: inside of the cluster's ranges, not a gateway.
    fn may_own(&self, ip: IpAddr) -> bool {
        let gateways = (1..=self.nodes.len())
            .flat_map(|n| plan::pod_cidrs(u32::try_from(n).unwrap_or(1), self.config.families));
        plan::cluster_cidrs(self.config.families).iter().any(|net| net.contains(&ip))
            && !gateways.into_iter().any(|net| {
                net.network() == ip || net.hosts().next() == Some(ip) || net.broadcast() == ip
            })
    }

    fn quietest_node(&self, key: &Key) -> Option<String> {
        let selector =
            self.objects.get(key).and_then(|s| s.object.raw.pointer("/spec/nodeSelector"));
        let fits = |name: &&String| {
            let Some(Value::Object(wanted)) = selector else { return true };
            let labels = self.cluster.nodes.get(name.as_str()).map(|n| &n.labels);
            wanted.iter().all(|(k, v)| labels.and_then(|l| l.get(k)) == v.as_str())
        };
        let pods_on = |name: &str| {
            self.cluster.pods.values().filter(|p| p.node.as_deref() == Some(name)).count()
        };
        self.nodes.iter().filter(fits).min_by_key(|name| pods_on(name)).cloned()
    }

    /// Puts pods that no node took so far onto a node that is new or has new labels.
    pub(super) fn place_waiting(&mut self, touched: &mut Touched) -> Result<(), StoreError> {
        let waits = |s: &Stored| s.place.as_ref().is_some_and(|place| place.node.is_empty());
        let waiting: Vec<Key> =
            self.objects.iter().filter(|(_, s)| waits(s)).map(|(key, _)| key.clone()).collect();
        for key in waiting {
            self.follow(&key, touched)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::store::tests::{mk_store, put};

    fn pod(name: &str, phase: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
            "spec": {"containers": [{"name": "c", "image": "none"}]}, "status": {"phase": phase}})
    }

    #[test]
    fn a_pod_that_had_ended_is_another_one_with_an_address_of_its_own() {
        let mut store = mk_store();
        put(&mut store, &pod("a", "Succeeded")).unwrap();
        put(&mut store, &pod("b", "Running")).unwrap();
        put(&mut store, &pod("a", "Running")).unwrap();
        let of = |name| store.cluster().pods[&Name::new("default", name)].ips.clone();
        assert_ne!(of("a"), of("b"));
    }
}
