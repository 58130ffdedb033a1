//! What does the next worker need to know when this one is killed?
//!
//! ```text
//!   every change ──▶ state.json (new file, then renamed) ──▶ kernel
//!                         └─ next worker: objects, nodes, addresses, lines in manifests
//! ```

use std::cell::OnceCell;
use std::net::IpAddr;
use std::path::Path;

use podwall_manifest::Typed;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Key, Place, Store, StoreError, Stored, Touched, checked, key_of};
use crate::rpc::LabConfig;

/// The file. It is written at every change; each object keeps its own text, so that a change of one
/// policy among a thousand costs one object's text and a copy of bytes.
#[derive(Serialize, Deserialize)]
struct Saved<O> {
    config: LabConfig,
    nodes: Vec<(String, Vec<(String, String)>)>,
    next_uid: u64,
    objects: Vec<O>,
    services: Vec<SavedService>,
}

#[derive(Serialize)]
struct ObjectToSave<'a> {
    raw: &'a Value,
    created: u64,
    uid: &'a str,
    places: Value,
    place: Option<&'a Place>,
}

#[derive(Deserialize)]
struct SavedObject {
    raw: Value,
    created: u64,
    uid: String,
    places: Value,
    place: Option<Place>,
}

#[derive(Serialize, Deserialize)]
struct SavedService {
    namespace: String,
    name: String,
    ips: Vec<IpAddr>,
    node_ports: Vec<Option<u16>>,
}

impl Stored {
    /// What is saved of the object, made once.
    fn text(&self) -> Result<&RawValue, serde_json::Error> {
        if let Some(text) = self.text.get() {
            return Ok(text);
        }
        let text = serde_json::value::to_raw_value(&ObjectToSave {
            raw: &self.object.raw,
            created: self.created,
            uid: &self.uid,
            places: self.object.places(),
            place: self.place.as_ref(),
        })?;
        Ok(self.text.get_or_init(|| text))
    }
}

impl Store {
    /// Writes the state: first to a new file, then over the old one, so that whoever reads it finds
    /// one or the other whole.
    pub fn save(&self, path: &Path) -> Result<(), StoreError> {
        let failed = |reason: String| StoreError::State {
            action: "write",
            path: path.display().to_string(),
            reason,
        };
        let objects: Result<Vec<&RawValue>, _> = self.objects.values().map(Stored::text).collect();
        let objects = objects.map_err(|e| failed(e.to_string()))?;
        let services: Vec<SavedService> = self
            .cluster
            .services
            .values()
            .map(|s| SavedService {
                namespace: s.name.namespace.to_string(),
                name: s.name.name.to_string(),
                ips: s.cluster_ips.clone(),
                node_ports: s.ports.iter().map(|p| p.node_port).collect(),
            })
            .collect();
        let nodes = self.nodes.iter().map(|n| {
            let labels = self.cluster.nodes.get(n.as_str()).map(|node| node.labels.clone());
            let pairs = labels.unwrap_or_default();
            (n.clone(), pairs.iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
        });
        let saved = Saved {
            config: self.config.clone(),
            nodes: nodes.collect(),
            next_uid: self.next_uid,
            objects,
            services,
        };
        let text = serde_json::to_vec(&saved).map_err(|e| failed(e.to_string()))?;
        let new = path.with_extension("new");
        std::fs::write(&new, text)
            .and_then(|()| std::fs::rename(&new, path))
            .map_err(|e| failed(e.to_string()))
    }

    /// The state that an earlier worker saved; `None` if there is none.
    pub fn load(path: &Path) -> Result<Option<Self>, StoreError> {
        let failed = |reason: String| StoreError::State {
            action: "read",
            path: path.display().to_string(),
            reason,
        };
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error.to_string())),
        };
        let saved: Saved<SavedObject> =
            serde_json::from_slice(&text).map_err(|e| failed(e.to_string()))?;
        let mut store = Self::with_nodes(saved.config, &[]);
        for (node, labels) in saved.nodes {
            store.add_node(&node, &labels.into_iter().collect());
        }
        store.next_uid = saved.next_uid;
        for object in saved.objects {
            let mut checked = checked(&object.raw)?;
            checked.set_places(&object.places);
            let key = key_of(&checked);
            store.objects.insert(
                key,
                Stored {
                    object: checked,
                    created: object.created,
                    uid: object.uid,
                    place: object.place,
                    text: OnceCell::new(),
                },
            );
        }
        store.rebuild(&saved.services)?;
        Ok(Some(store))
    }

    /// The cluster from the objects, after a load. Placed pods come before unplaced ones could take
    /// their addresses because every saved pod is placed.
    fn rebuild(&mut self, services: &[SavedService]) -> Result<(), StoreError> {
        let mut touched = Touched::default();
        let keys: Vec<Key> = self.objects.keys().cloned().collect();
        for saved in services {
            let key = Key::new("Service", &saved.namespace, &saved.name);
            if let Some(Typed::Service(service)) = self.objects.get(&key).map(|s| &s.object.typed) {
                let mut service = (**service).clone();
                service.cluster_ips.clone_from(&saved.ips);
                for (port, number) in service.ports.iter_mut().zip(&saved.node_ports) {
                    port.node_port = *number;
                }
                self.cluster.put_service(service);
            }
        }
        for key in
            keys.iter().filter(|k| k.kind == "Pod").chain(keys.iter().filter(|k| k.kind != "Pod"))
        {
            self.follow(key, &mut touched)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::mk_store;

    fn pod_labels(path: &Path) -> Vec<String> {
        let store = Store::load(path).unwrap().unwrap();
        store.cluster().pods.values().map(|pod| format!("{} {:?}", pod.labels, pod.ips)).collect()
    }

    /// Each object keeps the text that was saved of it; no change may leave an old one behind.
    #[test]
    fn what_is_saved_follows_every_change_of_an_object() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        let mut store = mk_store();
        let mut touched = Touched::default();
        let pod = |app: &str, port: u16| {
            checked(&serde_json::json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "p", "namespace": "default", "labels": {"app": app}},
                "spec": {"containers": [{"name": "c", "ports": [{"containerPort": port}]}]}}))
            .unwrap()
        };
        store.put(pod("one", 80), &mut touched).unwrap();
        store.save(&path).unwrap();
        let first = pod_labels(&path);
        assert_eq!(first, ["app=one [10.244.1.2]"]);
        let key = Key::new("Pod", "default", "p");
        let labels = [("app", "two")].into_iter().collect();
        store.relabel(&key, &labels, &mut touched).unwrap();
        store.save(&path).unwrap();
        assert_eq!(pod_labels(&path), ["app=two [10.244.1.2]"]);
        store.put(pod("three", 81), &mut touched).unwrap();
        store.save(&path).unwrap();
        assert!(pod_labels(&path)[0].starts_with("app=three ["));
        let saved = Store::load(&path).unwrap().unwrap();
        assert_eq!(saved.cluster(), store.cluster(), "addresses and uids too");
        store.delete(&key, &mut touched).unwrap();
        store.save(&path).unwrap();
        assert!(pod_labels(&path).is_empty());
    }
}
