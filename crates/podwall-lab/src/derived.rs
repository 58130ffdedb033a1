//! Which pods do the workloads make?
//!
//! The names and the number come from `podwall-manifest`, so that a lab has the same pods as the
//! answers about the same files; here they become whole objects.

use podwall_manifest::{Object, Typed};
use podwall_policy::object::Pod;
use serde_json::{Value, json};

/// The pods that workloads among these objects make, as objects.
pub(crate) fn pods<'o>(objects: &(impl Iterator<Item = &'o Object> + Clone)) -> Vec<Value> {
    let cluster = podwall_manifest::cluster(objects.clone());
    let stated = |pod: &Pod| {
        objects.clone().any(|o| matches!(&o.typed, Typed::Pod(p) if p.name == pod.name))
    };
    let maker = |pod: &Pod| {
        let owner = pod.owner.as_ref()?;
        objects.clone().find(|o| {
            o.key.kind == owner.kind
                && o.key.name == owner.name
                && o.key.namespace == pod.name.namespace
        })
    };
    cluster
        .pods
        .values()
        .filter(|pod| !stated(pod))
        .filter_map(|pod| Some(object(pod, &maker(pod)?.raw)))
        .collect()
}

/// The pod as its controller would write it.
fn object(pod: &Pod, workload: &Value) -> Value {
    let template = workload
        .pointer("/spec/template")
        .or_else(|| workload.pointer("/spec/jobTemplate/spec/template"));
    let part = |key: &str| template.and_then(|t| t.get(key)).filter(|p| p.is_object()).cloned();
    let mut metadata = part("metadata").unwrap_or_else(|| json!({}));
    let mut spec = part("spec").unwrap_or_else(|| json!({}));
    metadata["name"] = json!(&*pod.name.name);
    metadata["namespace"] = json!(&*pod.name.namespace);
    metadata["ownerReferences"] = json!([{
        "apiVersion": workload["apiVersion"],
        "kind": workload["kind"],
        "name": workload["metadata"]["name"],
        "uid": "00000000-0000-4000-8000-000000000000",
        "controller": true,
    }]);
    if let Some(node) = &pod.node {
        spec["nodeName"] = json!(&**node);
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
}
