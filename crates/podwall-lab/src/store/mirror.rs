//! How do the objects of another cluster become the lab's?
//!
//! ```text
//!   API server ══▶ kubelet of the lab ── Mirror ──▶ objects ──▶ Cluster
//!                     (places, addresses: decided there, never here)
//! ```
//!
//! A lab that mirrors schedules nothing, gives no addresses and expands no workloads: all of that
//! stands in the objects already.

use std::cell::OnceCell;
use std::collections::BTreeSet;

use podwall_manifest::Typed;
use podwall_policy::object::{Name, Pod, Service};
use serde_json::Value;

use super::shown::seconds;
use super::{Key, Store, StoreError, Stored, Touched, checked, key_of, now};

// === impl Store ===

impl Store {
    /// Whether another cluster's objects are shown here.
    pub fn mirrors(&self) -> bool {
        self.config.mirrors.is_some()
    }

    /// Takes an object as it is elsewhere. Nodes that the lab does not have are left out.
    ///
    /// # Errors
    /// It cannot be read; what was known of it before is gone then.
    pub fn mirror(&mut self, raw: &Value, touched: &mut Touched) -> Result<Key, StoreError> {
        let object = match checked(raw) {
            Ok(object) => object,
            Err(error) => {
                let text = |pointer: &str| raw.pointer(pointer).and_then(Value::as_str);
                let (kind, name) = (text("/kind"), text("/metadata/name"));
                if let (Some(kind), Some(name)) = (kind, name) {
                    let namespace = text("/metadata/namespace").unwrap_or_default();
                    self.forget(&Key::new(kind, namespace, name), touched)?;
                }
                return Err(error);
            }
        };
        let key = key_of(&object);
        if key.kind == "Node" {
            if self.nodes.contains(&key.name) {
                self.put_node(&object, touched)?;
            }
            return Ok(key);
        }
        if self.objects.get(&key).is_some_and(|known| known.object.raw == object.raw) {
            return Ok(key);
        }
        let text = |pointer: &str| raw.pointer(pointer).and_then(Value::as_str);
        let created = text("/metadata/creationTimestamp").and_then(seconds).unwrap_or_else(now);
        let uid = text("/metadata/uid").unwrap_or_default().to_owned();
        let stored = Stored { object, created, uid, place: None, text: OnceCell::new() };
        self.objects.insert(key.clone(), stored);
        self.follow(&key, touched)?;
        Ok(key)
    }

    /// Takes an object out. What it led to elsewhere goes by itself there.
    ///
    /// # Errors
    /// None that an object which was taken could meet.
    pub fn forget(&mut self, key: &Key, touched: &mut Touched) -> Result<(), StoreError> {
        match self.objects.remove(key) {
            Some(_) => self.follow(key, touched),
            None => Ok(()),
        }
    }

    /// Takes out whatever is not among `kept`.
    ///
    /// # Errors
    /// As [`Self::forget`].
    pub fn forget_others(
        &mut self,
        kept: &BTreeSet<Key>,
        touched: &mut Touched,
    ) -> Result<(), StoreError> {
        let others: Vec<Key> = self.objects.keys().filter(|k| !kept.contains(k)).cloned().collect();
        others.iter().try_for_each(|key| self.forget(key, touched))
    }

    /// A pod as the API server has it.
    pub(super) fn mirrored_pod(&mut self, key: &Key, name: &Name) {
        match self.objects.get(key).map(|stored| &stored.object.typed) {
            Some(Typed::Pod(pod)) => self.cluster.put_pod(Pod::clone(pod)),
            _ => drop(self.cluster.pods.remove(name)),
        }
    }

    /// A Service as the API server has it.
    pub(super) fn mirrored_service(&mut self, key: &Key, name: &Name) {
        match self.objects.get(key).map(|stored| &stored.object.typed) {
            Some(Typed::Service(service)) => self.cluster.put_service(Service::clone(service)),
            _ => drop(self.cluster.services.remove(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::tests::mk_store;

    fn mk_mirror() -> Store {
        let mut store = mk_store();
        store.config.mirrors = Some("a test".into());
        store
    }

    fn pod(uid: &str, node: &str, ip: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "namespace": "shop", "uid": uid,
                "creationTimestamp": "2026-11-20T23:59:59Z"},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "none"}]},
            "status": {"podIPs": [{"ip": ip}]}})
    }

    #[test]
    fn what_another_cluster_decided_stays_as_it_is() {
        let (mut store, mut touched) = (mk_mirror(), Touched::default());
        let raw = pod("u1", "elsewhere", "192.0.2.7");
        let key = store.mirror(&raw, &mut touched).unwrap();
        let known = &store.cluster().pods[&Name::new("shop", "p")];
        assert_eq!(known.node.as_deref(), Some("elsewhere"));
        assert_eq!(known.uid.as_deref(), Some("u1"));
        assert_eq!(known.ips, ["192.0.2.7".parse::<std::net::IpAddr>().unwrap()]);
        assert_eq!(store.get(&key).unwrap().created, 1_795_219_199);
        assert_eq!(store.shown(&key).unwrap(), raw, "nothing is made up");
        assert_eq!(store.node_names(), ["node-1"]);
    }

    #[test]
    fn what_is_not_among_all_goes_and_what_cannot_be_read_goes_too() {
        let (mut store, mut touched) = (mk_mirror(), Touched::default());
        let key = store.mirror(&pod("u1", "node-1", "10.244.1.2"), &mut touched).unwrap();
        store.forget_others(&BTreeSet::from([key.clone()]), &mut touched).unwrap();
        assert!(store.get(&key).is_some());
        let mut touched = Touched::default();
        let broken = pod("u1", "node-1", "10.244.1.299");
        assert!(store.mirror(&broken, &mut touched).is_err());
        assert!(store.get(&key).is_none() && store.cluster().pods.is_empty());
        assert!(touched.pods.contains(&Name::new("shop", "p")));
    }
}
