//! On which node does a pod run that nobody has bound?
//!
//! ```text
//!   no nodeName ─▶ nodes with the labels of its nodeSelector ─▶ the one with the fewest pods ─▶ binding
//! ```

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use crate::api::{Api, ApiError, pod_path, text};
use crate::status::{has_ended, is_deleted};

/// What is known of who runs where.
#[derive(Debug, Default)]
pub(crate) struct Scheduler {
    /// The labels of each of the lab's nodes.
    nodes: BTreeMap<String, Value>,
    /// The node of each pod, by UID: bound, or about to be.
    places: HashMap<String, String>,
}

// === impl Scheduler ===

impl Scheduler {
    /// For nodes of these names.
    pub(crate) fn new(nodes: &[String]) -> Self {
        let label = |name: &String| (name.clone(), json!({"kubernetes.io/hostname": name}));
        Self { nodes: nodes.iter().map(label).collect(), places: HashMap::new() }
    }

    /// A node has other labels.
    pub(crate) fn label(&mut self, node: &str, labels: &Value) {
        if let Some(known) = self.nodes.get_mut(node) {
            known.clone_from(labels);
        }
    }

    /// A pod is where it is.
    pub(crate) fn placed(&mut self, uid: &str, node: &str) {
        self.places.insert(uid.to_owned(), node.to_owned());
    }

    /// A pod is gone, or could not be bound.
    pub(crate) fn forget(&mut self, uid: &str) {
        self.places.remove(uid);
    }

    /// The node for a pod that waits for one, which counts from now on; `None`: none fits, or the pod
    /// is not for us to place.
    pub(crate) fn place(&mut self, pod: &Value) -> Option<String> {
        let uid = text(pod, "/metadata/uid")?;
        let asks = text(pod, "/spec/nodeName").is_none_or(str::is_empty);
        let by = text(pod, "/spec/schedulerName").unwrap_or("default-scheduler");
        if !asks || is_deleted(pod) || has_ended(pod) || by != "default-scheduler" {
            return None;
        }
        if self.places.contains_key(uid) {
            return None;
        }
        let selector = pod.pointer("/spec/nodeSelector").and_then(Value::as_object);
        let fits = |labels: &Value| {
            selector.is_none_or(|wanted| wanted.iter().all(|(k, v)| labels.get(k) == Some(v)))
        };
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for node in self.places.values() {
            *counts.entry(node).or_default() += 1;
        }
        let fitting = self.nodes.iter().filter(|(_, labels)| fits(labels)).map(|(name, _)| name);
        let node = fitting.min_by_key(|name| counts.get(name.as_str()).copied().unwrap_or(0))?;
        let node = node.clone();
        self.placed(uid, &node);
        Some(node)
    }
}

/// Binds a pod, this very one alone.
pub(crate) async fn bind(api: &Api, pod: &Value, node: &str) -> Result<(), ApiError> {
    let part = |pointer: &str| text(pod, pointer).unwrap_or_default();
    let (namespace, name) = (part("/metadata/namespace"), part("/metadata/name"));
    let binding = json!({"apiVersion": "v1", "kind": "Binding",
        "metadata": {"namespace": namespace, "name": name, "uid": part("/metadata/uid")},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
    api.create(&format!("{}/binding", pod_path(namespace, name)), &binding).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, selector: &Value) -> Value {
        json!({"metadata": {"uid": uid}, "spec": {"nodeSelector": selector}})
    }

    #[test]
    fn pods_go_where_fewest_are_and_only_where_labels_fit() {
        let mut scheduler = Scheduler::new(&["a".into(), "b".into()]);
        let none = || json!({});
        assert_eq!(scheduler.place(&pod("1", &none())).as_deref(), Some("a"));
        assert_eq!(scheduler.place(&pod("2", &none())).as_deref(), Some("b"));
        assert_eq!(scheduler.place(&pod("2", &none())), None, "it is on its way");
        scheduler.placed("3", "a");
        assert_eq!(scheduler.place(&pod("4", &none())).as_deref(), Some("b"));
        let disk = || json!({"disk": "fast"});
        assert_eq!(scheduler.place(&pod("5", &disk())), None);
        scheduler.label("a", &disk());
        assert_eq!(scheduler.place(&pod("5", &disk())).as_deref(), Some("a"));
        let bound = json!({"metadata": {"uid": "6"}, "spec": {"nodeName": "a"}});
        assert_eq!(scheduler.place(&bound), None);
        let other = json!({"metadata": {"uid": "7"}, "spec": {"schedulerName": "mine"}});
        assert_eq!(scheduler.place(&other), None);
    }
}
