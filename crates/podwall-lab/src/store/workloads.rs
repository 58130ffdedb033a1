//! Which pods do the workloads want?
//!
//! ```text
//!   Deployment, DaemonSet, … ─▶ pods as their templates say, marked with what the template said
//!                               ├─ no such pod, or marked otherwise ─▶ it is made (again)
//!                               └─ nobody wants it any more          ─▶ it is removed
//! ```

use std::collections::BTreeMap;

use podwall_manifest::Object;
use serde_json::{Value, json};

use super::{Key, Store, StoreError, Touched, checked, meaning};
use crate::derived;

/// Marks pods that a workload made, besides their owner reference (which a manifest can state too);
/// the value is what the template said.
pub(super) const MADE: &str = "lab.podwall.io/made-by-workload";

// === impl Store ===

impl Store {
    /// Makes the pods that the workloads want and removes those that none wants.
    pub(super) fn reconcile_workloads(&mut self, touched: &mut Touched) -> Result<(), StoreError> {
        let nodes: Vec<Object> =
            self.nodes.iter().filter_map(|name| checked(&self.shown_node(name)?).ok()).collect();
        let stated = self.objects.values().map(|s| &s.object).filter(|o| !is_made(&o.raw));
        let wanted: BTreeMap<Key, Value> = derived::pods(&stated.chain(&nodes))
            .into_iter()
            .map(|mut raw| {
                raw["metadata"]["annotations"][MADE] = json!(meaning(&raw).to_string());
                let text =
                    |pointer| raw.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
                (Key::new("Pod", text("/metadata/namespace"), text("/metadata/name")), raw)
            })
            .collect();
        let stale: Vec<Key> = self
            .objects
            .iter()
            .filter(|(key, s)| key.kind == "Pod" && is_made(&s.object.raw))
            .map(|(key, _)| key.clone())
            .filter(|key| !wanted.contains_key(key))
            .collect();
        for key in stale {
            self.objects.remove(&key);
            self.follow(&key, touched)?;
        }
        for (key, raw) in wanted {
            // A pod that was labelled by hand stays so until its template changes.
            if self.objects.get(&key).is_none_or(|s| made(&s.object.raw) != made(&raw)) {
                self.put(checked(&raw)?, touched)?;
            }
        }
        Ok(())
    }
}

/// Whether a pod was made by a workload of the lab.
fn is_made(raw: &Value) -> bool {
    made(raw).is_some()
}

/// What the template said of a pod that a workload made.
fn made(raw: &Value) -> Option<&Value> {
    raw.pointer("/metadata/annotations").and_then(|a| a.get(MADE))
}
