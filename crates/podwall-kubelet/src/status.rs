//! What does a kubelet say of its pods?
//!
//! ```text
//!   no network yet ─▶ Pending, containers wait (ContainerCreating: why)
//!   network, served ─▶ Running, Ready, podIPs, containerIDs
//! ```
//!
//! Containers are the lab's servers: they start with the network and run as long as it does, whatever
//! their `command` and `restartPolicy` say.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::api::text;

/// A pod whose containers run, with these addresses.
pub(crate) fn running(
    pod: &Value,
    id: &str,
    hosts: &[IpAddr],
    ips: &[IpAddr],
    started: &str,
) -> Value {
    let state = json!({"running": {"startedAt": started}});
    let mut status = common(pod, "Running", "True", started, hosts);
    let of = |container: &Value| {
        json!({"name": container["name"], "image": container["image"], "imageID": "",
            "containerID": format!("podwall-lab://{id}-{}", container["name"].as_str().unwrap_or("")),
            "ready": true, "started": true, "restartCount": 0, "state": state})
    };
    status["containerStatuses"] = containers(pod).map(of).collect();
    let listed: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
    status["podIP"] = json!(ips.first());
    status["podIPs"] = json!(listed);
    status
}

/// A pod that has no network yet.
pub(crate) fn waiting(pod: &Value, hosts: &[IpAddr], started: &str, why: &str) -> Value {
    let mut status = common(pod, "Pending", "False", started, hosts);
    let state = json!({"waiting": {"reason": "ContainerCreating", "message": why}});
    let of = |container: &Value| {
        json!({"name": container["name"], "image": container["image"], "imageID": "",
            "ready": false, "started": false, "restartCount": 0, "state": state})
    };
    status["containerStatuses"] = containers(pod).map(of).collect();
    status
}

fn common(pod: &Value, phase: &str, ready: &str, since: &str, hosts: &[IpAddr]) -> Value {
    let known = pod.pointer("/status/conditions").and_then(Value::as_array);
    let condition = |kind: &str, status: &str| {
        let before = known.into_iter().flatten().find(|it| it["type"] == kind);
        let kept = before.filter(|it| it["status"] == status);
        let since = kept.and_then(|it| text(it, "/lastTransitionTime")).unwrap_or(since);
        json!({"type": kind, "status": status, "lastProbeTime": null, "lastTransitionTime": since})
    };
    json!({
        "phase": phase,
        "hostIP": hosts.first(),
        "startTime": since,
        "conditions": [condition("Initialized", "True"), condition("Ready", ready),
            condition("ContainersReady", ready), condition("PodScheduled", "True")],
    })
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    pod.pointer("/spec/containers").and_then(Value::as_array).into_iter().flatten()
}

/// Whether a pod's containers have ended for good: somebody else said so.
pub(crate) fn has_ended(pod: &Value) -> bool {
    matches!(text(pod, "/status/phase"), Some("Succeeded" | "Failed"))
}

/// Whether a pod is to be ended.
pub(crate) fn is_deleted(pod: &Value) -> bool {
    text(pod, "/metadata/deletionTimestamp").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Value {
        json!({"spec": {"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]},
            "status": {"conditions": [
                {"type": "PodScheduled", "status": "True", "lastTransitionTime": "before"}]}})
    }

    #[test]
    fn a_running_pod_has_addresses_and_ready_containers() {
        let ips: Vec<IpAddr> = vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let status = running(&pod(), "id", &ips, &ips, "now");
        assert_eq!(status["podIP"], "10.0.0.1");
        assert_eq!(status["podIPs"], json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]));
        let containers = status["containerStatuses"].as_array().unwrap();
        assert!(containers.len() == 2 && containers.iter().all(|it| it["ready"] == true));
        assert_eq!(containers[1]["containerID"], "podwall-lab://id-b");
        let conditions = status["conditions"].as_array().unwrap();
        assert!(conditions.iter().all(|it| it["status"] == "True"), "{conditions:?}");
        assert_eq!(conditions[3]["lastTransitionTime"], "before", "it was scheduled before");
    }

    #[test]
    fn a_waiting_pod_says_why() {
        let status = waiting(&pod(), &[], "now", "no plugin");
        assert_eq!(status["phase"], "Pending");
        assert_eq!(status["containerStatuses"][0]["state"]["waiting"]["message"], "no plugin");
        assert!(status.get("podIP").is_none());
    }
}
