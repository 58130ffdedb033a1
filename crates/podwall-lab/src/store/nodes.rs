//! Which nodes does a lab have, and what are they called?
//!
//! The lab's own, in order of their number, which gives them their addresses; a manifest can add
//! nodes and label them. None goes before the lab does.

use podwall_manifest::{Object, Typed};
use podwall_policy::label::Labels;
use podwall_policy::object::Node;
use serde_json::json;

use super::{Put, Store, StoreError, Touched, checked, label_map};
use crate::plan;

// === impl Store ===

impl Store {
    pub(super) fn add_node(&mut self, name: &str, labels: &Labels) {
        let number = u32::try_from(self.nodes.len() + 1).unwrap_or(plan::MAX_NODES);
        self.nodes.push(name.to_owned());
        let labels = labels.with("kubernetes.io/hostname", name);
        self.cluster.put_node(Node {
            name: name.into(),
            labels,
            addresses: plan::node_addresses(number, self.config.families),
            pod_cidrs: plan::pod_cidrs(number, self.config.families),
            source: None,
        });
    }

    /// A Node object of a manifest: its labels count; its addresses are the lab's.
    pub(super) fn put_node(
        &mut self,
        object: &Object,
        touched: &mut Touched,
    ) -> Result<Put, StoreError> {
        let Typed::Node(node) = &object.typed else { return Ok(Put::Unchanged) };
        let name = node.name.clone();
        let put = match self.cluster.nodes.get_mut(&name) {
            Some(known) => {
                let labels = node.labels.with("kubernetes.io/hostname", &name);
                if known.labels == labels {
                    return Ok(Put::Unchanged);
                }
                known.labels = labels;
                Put::Configured
            }
            None if self.nodes.len() >= plan::MAX_NODES as usize => {
                return Err(StoreError::TooManyNodes { node: name.to_string() });
            }
            None => {
                self.add_node(&name, &node.labels);
                Put::Created
            }
        };
        touched.nodes.insert(name);
        touched.services = true;
        self.place_waiting(touched)?;
        self.reconcile_workloads(touched)?; // DaemonSets
        Ok(put)
    }

    pub(super) fn relabel_node(
        &mut self,
        name: &str,
        labels: &Labels,
        touched: &mut Touched,
    ) -> Result<(), StoreError> {
        let raw = json!({"apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": label_map(labels)}});
        self.put(checked(&raw)?, touched).map(drop)
    }
}
