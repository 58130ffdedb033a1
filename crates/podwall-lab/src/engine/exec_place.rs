//! Where does a program of a pod run?
//!
//! In the pod's namespace, with the names that the kubelet would have written for it.

use std::net::IpAddr;

use podwall_policy::address::Family;
use podwall_policy::object::{Name, Phase};

use super::{Engine, EngineError};
use crate::dns::{hosts_file, resolv_conf};
use crate::plan;
use crate::rpc::ExecPlace;

// === impl Engine ===

impl Engine {
    /// Where a program of a pod has to run.
    pub fn exec_place(&self, namespace: &str, name: &str) -> Result<ExecPlace, EngineError> {
        let key = Name::new(namespace, name);
        let cluster = self.store.cluster();
        let pod = cluster.pods.get(&key).ok_or_else(|| EngineError::NotFound {
            resource: "pod".to_owned(),
            name: name.to_owned(),
            namespace: Some(namespace.to_owned()),
            hint: self.pod_hint(namespace, name),
        })?;
        let plugged = self.plugged.get(&key).ok_or_else(|| EngineError::NotRunning {
            pod: key.to_string(),
            reason: match pod.phase {
                Phase::Terminated => "it has ended".to_owned(),
                Phase::Alive if self.store.mirrors() && pod.ips.is_empty() => {
                    "it has no network yet; `kubectl describe pod` says why".to_owned()
                }
                Phase::Alive => match &pod.node {
                    Some(node) => format!("it wants node {node}, which the lab does not have"),
                    None => "no node of the lab has the labels of its nodeSelector".to_owned(),
                },
            },
        })?;
        let netns = if plugged.host_network {
            self.fabric.node_path(&plugged.node)
        } else {
            self.fabric.pod_path(&plugged.uid)
        };
        let families = self.store.config.families;
        // One, as the kubelet writes it in dual-stack clusters too.
        let servers: Vec<IpAddr> = plan::DNS_SERVICE
            .into_iter()
            .filter(|ip| families.has(Family::of(*ip)))
            .take(1)
            .collect();
        Ok(ExecPlace {
            netns: netns.display().to_string(),
            hostname: name.to_owned(),
            resolv_conf: resolv_conf(namespace, &servers),
            hosts: hosts_file(name, None, &plugged.ips),
        })
    }

    /// What may have been meant by a pod's name: another name, another namespace, one of a
    /// workload's pods.
    fn pod_hint(&self, namespace: &str, name: &str) -> String {
        let pods = &self.store.cluster().pods;
        let here: Vec<&str> =
            pods.keys().filter(|n| *n.namespace == *namespace).map(|n| &*n.name).collect();
        let start = format!("{name}-");
        let elsewhere = pods.keys().find(|n| *n.name == *name);
        match podwall_manifest::nearest(name, &here)
            .or_else(|| here.iter().copied().find(|n| n.starts_with(&start)))
        {
            Some(near) => format!("; did you mean {near}?"),
            None => match elsewhere {
                Some(there) => {
                    format!("; there is one in namespace {} (-n {0})", there.namespace)
                }
                None => String::new(),
            },
        }
    }
}
