//! What exists in the lab? The objects, and what follows from them.
//!
//! ```text
//!   apply, delete, label ──▶ objects ──▶ pods of workloads, nodes, addresses ──▶ Cluster
//!                                                                       └──▶ Touched: what changed
//! ```
//!
//! The store is the lab's API server, scheduler and controller manager in one, without a clock: what
//! follows from the objects follows at once. It does nothing to the kernel; the engine does, with
//! what [`Touched`] names. Every change is saved before the kernel sees it, so that a worker that
//! was killed finds out what was meant.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use podwall_manifest::{Object, Typed};
use podwall_policy::cluster::Cluster;
use podwall_policy::label::Labels;
use podwall_policy::object::{Name, Phase};
use podwall_policy::policy::Tier;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::rpc::LabConfig;

mod error;
mod mirror;
mod nodes;
mod saved;
mod scheduler;
mod services;
mod shown;
mod workloads;

pub use error::StoreError;
pub use shown::timestamp;

use scheduler::Place;

/// An object's identity. The namespace is empty for cluster-scoped kinds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// The kind as in manifests.
    pub kind: String,
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl Key {
    /// An object's identity.
    pub fn new(kind: &str, namespace: &str, name: &str) -> Self {
        Self { kind: kind.into(), namespace: namespace.into(), name: name.into() }
    }
}

/// One object as it is stored.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The checked object.
    pub object: Object,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// `metadata.uid`; a pod that is made again gets another.
    pub uid: String,
    /// For a pod: where it was put.
    place: Option<Place>,
    /// What is saved of all this, once it has been. Whoever changes a field takes it.
    text: OnceCell<Box<RawValue>>,
}

/// What a change touched: names whose object was added, changed or removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Namespaces.
    pub namespaces: BTreeSet<Arc<str>>,
    /// Nodes.
    pub nodes: BTreeSet<Arc<str>>,
    /// Pods.
    pub pods: BTreeSet<Name>,
    /// NetworkPolicies.
    pub policies: BTreeSet<Name>,
    /// Whether Services or what stands behind them changed.
    pub services: bool,
}

impl Touched {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds what another change touched.
    pub fn merge(&mut self, other: Self) {
        self.namespaces.extend(other.namespaces);
        self.nodes.extend(other.nodes);
        self.pods.extend(other.pods);
        self.policies.extend(other.policies);
        self.services |= other.services;
    }
}

/// What became of an object that was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It is new.
    Created,
    /// It was there and is different now.
    Configured,
    /// It was there and is the same.
    Unchanged,
}

/// The objects of one lab. Owned by the worker's one writer.
pub struct Store {
    /// How the lab was made.
    pub config: LabConfig,
    objects: BTreeMap<Key, Stored>,
    cluster: Cluster,
    /// Node names in order of their number; the number gives the addresses and never changes.
    nodes: Vec<String>,
    next_uid: u64,
}

// === impl Store ===

impl Store {
    /// An empty lab with the nodes of its configuration.
    pub fn new(config: LabConfig) -> Self {
        let nodes = config.nodes.clone();
        Self::with_nodes(config, &nodes)
    }

    fn with_nodes(config: LabConfig, nodes: &[String]) -> Self {
        let mut store = Self {
            config,
            objects: BTreeMap::new(),
            cluster: Cluster::default(),
            nodes: Vec::new(),
            next_uid: 1,
        };
        for node in nodes {
            store.add_node(node, &Labels::default());
        }
        store
    }

    /// What is known, for the evaluator and the compilers.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// All objects, by kind, namespace and name.
    pub fn objects(&self) -> &BTreeMap<Key, Stored> {
        &self.objects
    }

    /// One object.
    pub fn get(&self, key: &Key) -> Option<&Stored> {
        self.objects.get(key)
    }

    /// The names of the nodes, in order of their number (from 1).
    pub fn node_names(&self) -> &[String] {
        &self.nodes
    }

    /// Adds or replaces an object. Objects in a namespace that does not exist make it.
    pub fn put(&mut self, object: Object, touched: &mut Touched) -> Result<Put, StoreError> {
        let key = key_of(&object);
        if key.kind != "Namespace" && !key.namespace.is_empty() {
            self.ensure_namespace(&key.namespace.clone(), touched)?;
        }
        if key.kind == "Node" {
            return self.put_node(&object, touched);
        }
        if let Typed::Service(service) = &object.typed {
            self.check_free(service)?;
        }
        let before = self.objects.get(&key);
        if before.is_some_and(|b| meaning(&b.object.raw) == meaning(&object.raw)) {
            return Ok(Put::Unchanged);
        }
        let put = if before.is_some() { Put::Configured } else { Put::Created };
        // A pod whose spec changes is another pod: pods cannot be changed in place. So is one that
        // runs after it had ended: its address may be another pod's by now.
        let same_pod = before
            .filter(|b| b.object.raw.get("spec") == object.raw.get("spec"))
            .filter(|b| !has_ended(&b.object) || has_ended(&object));
        let (created, uid, place) = match (before, key.kind.as_str()) {
            (Some(b), "Pod") if same_pod.is_some() => {
                (b.created, Some(b.uid.clone()), b.place.clone())
            }
            (Some(b), kind) if kind != "Pod" => (b.created, Some(b.uid.clone()), None),
            _ => (now(), None, None),
        };
        let uid = uid.unwrap_or_else(|| self.new_uid());
        let stored = Stored { object, created, uid, place, text: OnceCell::new() };
        self.objects.insert(key.clone(), stored);
        self.follow(&key, touched)?;
        Ok(put)
    }

    /// Removes an object and what follows from it. `false` if it is not there.
    pub fn delete(&mut self, key: &Key, touched: &mut Touched) -> Result<bool, StoreError> {
        if key.kind == "Namespace" && PROTECTED.contains(&key.name.as_str()) {
            return Err(StoreError::Protected { name: key.name.clone() });
        }
        if self.objects.remove(key).is_none() {
            return Ok(false);
        }
        if key.kind == "Namespace" {
            // All at once: a controller that is removed after its pods would make them again, and
            // they the namespace.
            let inside = |k: &&Key| k.namespace == key.name;
            let inside: Vec<Key> = self.objects.keys().filter(inside).cloned().collect();
            for key in &inside {
                self.objects.remove(key);
            }
            for key in &inside {
                self.follow(key, touched)?;
            }
        }
        self.follow(key, touched)?;
        if key.kind == "Pod" && !self.cluster.workloads.is_empty() {
            // Its controller makes it again.
            self.reconcile_workloads(touched)?;
        }
        Ok(true)
    }

    /// An object with other labels; its other parts, and its positions, stay.
    pub fn relabel(
        &mut self,
        key: &Key,
        labels: &Labels,
        touched: &mut Touched,
    ) -> Result<(), StoreError> {
        if key.kind == "Node" {
            return self.relabel_node(&key.name, labels, touched);
        }
        let Some(stored) = self.objects.get_mut(key) else { return Ok(()) };
        stored.text.take();
        let mut raw = stored.object.raw.clone();
        if !raw["metadata"].is_object() {
            raw["metadata"] = json!({"name": key.name});
        }
        raw["metadata"]["labels"] = label_map(labels);
        // Through the reader: a label that the API server would refuse is refused here too.
        let places = stored.object.places();
        stored.object = checked(&raw)?;
        stored.object.set_places(&places);
        self.follow(key, touched)
    }

    fn ensure_namespace(&mut self, name: &str, touched: &mut Touched) -> Result<(), StoreError> {
        if self.objects.contains_key(&Key::new("Namespace", "", name)) {
            return Ok(());
        }
        let raw = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        self.put(checked(&raw)?, touched).map(drop)
    }

    /// Brings the cluster, and what follows from the object, up to date with one object.
    fn follow(&mut self, key: &Key, touched: &mut Touched) -> Result<(), StoreError> {
        let name = Name::new(key.namespace.as_str(), key.name.as_str());
        match key.kind.as_str() {
            "Namespace" => {
                let ns: Arc<str> = key.name.as_str().into();
                match self.objects.get(key).map(|s| &s.object.typed) {
                    Some(Typed::Namespace(typed)) => self.cluster.put_namespace(typed.clone()),
                    _ => drop(self.cluster.namespaces.remove(&ns)),
                }
                touched.namespaces.insert(ns);
            }
            "NetworkPolicy" => {
                match self.objects.get(key).map(|s| &s.object.typed) {
                    Some(Typed::Policy(policy)) => self.cluster.put_policy((**policy).clone()),
                    _ => drop(self.cluster.policies.remove(&(Tier::NetworkPolicy, name.clone()))),
                }
                touched.policies.insert(name);
            }
            "Service" => {
                match self.mirrors() {
                    true => self.mirrored_service(key, &name),
                    false => self.follow_service(key, &name),
                }
                touched.services = true;
            }
            "Pod" => {
                match self.mirrors() {
                    true => self.mirrored_pod(key, &name),
                    false => self.follow_pod(key, &name)?,
                }
                touched.pods.insert(name);
                touched.services = true;
            }
            kind => {
                let id = (Arc::from(kind), name);
                match self.objects.get(key).map(|s| &s.object.typed) {
                    Some(Typed::Workload(workload)) => {
                        self.cluster.put_workload((**workload).clone());
                    }
                    _ => drop(self.cluster.workloads.remove(&id)),
                }
                self.reconcile_workloads(touched)?;
            }
        }
        Ok(())
    }

    fn new_uid(&mut self) -> String {
        self.next_uid += 1;
        format!("00000000-0000-4000-8000-{:012x}", self.next_uid)
    }
}

/// Namespaces that no cluster lets go.
const PROTECTED: [&str; 2] = ["default", "kube-system"];

/// An object's identity.
pub fn key_of(object: &Object) -> Key {
    Key::new(&object.key.kind, &object.key.namespace, &object.key.name)
}

/// Whether an object is a pod that does not run any more.
fn has_ended(object: &Object) -> bool {
    matches!(&object.typed, Typed::Pod(pod) if pod.phase == Phase::Terminated)
}

/// What of an object makes a difference: status and what servers write into metadata do not.
fn meaning(raw: &Value) -> Value {
    let of = |pointer: &str| raw.pointer(pointer).cloned().unwrap_or(Value::Null);
    json!([of("/metadata/labels"), of("/metadata/annotations"), of("/spec"), of("/status/phase")])
}

/// Labels as `metadata.labels` has them.
fn label_map(labels: &Labels) -> Value {
    labels.iter().map(|(k, v)| (k.to_owned(), json!(v))).collect::<serde_json::Map<_, _>>().into()
}

/// An object, through the reader that checks everybody's.
pub fn checked(raw: &Value) -> Result<Object, StoreError> {
    let name = raw.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("(no name)");
    let object = format!("{} {name}", raw.get("kind").and_then(Value::as_str).unwrap_or("object"));
    let options = podwall_manifest::Options::default();
    podwall_manifest::object_from_json(raw, "<lab>", &options).map_err(|findings| {
        let reasons: Vec<String> = findings
            .iter()
            .map(|f| match &f.field {
                Some(field) => format!("{field}: {}", f.message),
                None => f.message.clone(),
            })
            .collect();
        StoreError::Object { object, reason: reasons.join("; ") }
    })
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Families;
    use crate::rpc::NetworkMode;

    /// A lab of one node, without objects.
    pub(super) fn mk_store() -> Store {
        Store::new(LabConfig {
            name: "t".into(),
            nodes: vec!["node-1".into()],
            network: NetworkMode::Ptp,
            families: Families::V4,
            externals: Vec::new(),
            enforce: true,
            dataplane: String::new(),
            limits: String::new(),
            mirrors: None,
        })
    }

    /// Puts an object as a manifest has it.
    pub(super) fn put(store: &mut Store, raw: &Value) -> Result<Put, StoreError> {
        store.put(checked(raw)?, &mut Touched::default())
    }
}
