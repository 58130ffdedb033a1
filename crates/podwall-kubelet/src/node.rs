//! What does the cluster know of the lab's nodes?
//!
//! ```text
//!   POST Node (podCIDRs, label of the lab) ─▶ PATCH status: addresses, Ready ─▶ again every 10 s
//! ```

use std::time::Duration;

use ipnet::IpNet;
use podwall_lab::holder::apart;
use podwall_lab::plan::{self, Families};
use podwall_lab::store::{now, timestamp};
use serde_json::{Value, json};
use thiserror::Error;

use crate::api::{Api, ApiError, text};
use crate::settings::{Server, Settings};

/// Says whose node it is.
const LABEL: &str = "lab.podwall.dev/name";

/// A controller manager gives a node that is silent for 40 s up.
pub(crate) const BEAT: Duration = Duration::from_secs(10);

/// What stands in the way of a lab's nodes.
#[derive(Debug, Error)]
pub enum NodeError {
    /// The API server.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// A node of somebody else.
    #[error(
        "the cluster has a node {name} already, which is not lab {lab:?}'s; `kubectl delete node \
         {name}` removes it if nothing runs on it"
    )]
    Taken {
        /// Its name.
        name: String,
        /// The lab.
        lab: String,
    },
    /// Neither family.
    #[error("the API server takes no node with pods of these families: {0}")]
    Families(ApiError),
}

/// Which families the API server gives pods, of those that are wanted, and its address. Changes
/// nothing. The process must have a single thread, and has it afterwards.
///
/// # Errors
/// In words: it cannot be asked, or has a node of these names that is not the lab's.
pub fn ask(
    server: &Server,
    lab: &str,
    nodes: &[String],
    wanted: Families,
) -> Result<(Families, String), String> {
    let said = apart(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let answer = match runtime {
            Ok(runtime) => runtime.block_on(ask_here(server, lab, nodes, wanted)),
            Err(error) => return json!({"Err": error.to_string()}).to_string().into_bytes(),
        };
        serde_json::to_vec(&answer.map_err(|error| error.to_string())).unwrap_or_default()
    });
    let said = said.map_err(|error| error.to_string())?;
    let unclear = |error: serde_json::Error| format!("asking the API server: {error}");
    serde_json::from_slice(&said).map_err(unclear)?
}

async fn ask_here(
    server: &Server,
    lab: &str,
    nodes: &[String],
    wanted: Families,
) -> Result<(Families, String), NodeError> {
    let (api, url) = Api::connect(server).await?;
    for name in nodes {
        match api.get(&format!("/api/v1/nodes/{name}")).await {
            Ok(node) if owner(&node) != Some(lab) => {
                return Err(NodeError::Taken { name: name.clone(), lab: lab.to_owned() });
            }
            Err(error) if error.code() != Some(404) => return Err(error.into()),
            _ => {}
        }
    }
    let mut tried = wanted;
    loop {
        let name = "podwall-lab-asks";
        let node = object(name, lab, &plan::pod_cidrs(1, tried));
        match api.create("/api/v1/nodes?dryRun=All", &node).await {
            // A server without dual-stack drops the second range, or refuses both.
            Ok(made) if same_ranges(&made, &node) => return Ok((tried, url)),
            Err(error) if tried != Families::Dual || error.code() != Some(422) => {
                return Err(NodeError::Families(error));
            }
            _ if tried == Families::Dual => tried = Families::V4,
            _ => return Ok((tried, url)),
        }
    }
}

fn owner(node: &Value) -> Option<&str> {
    node.pointer("/metadata/labels")?.get(LABEL)?.as_str()
}

fn same_ranges(a: &Value, b: &Value) -> bool {
    a.pointer("/spec/podCIDRs") == b.pointer("/spec/podCIDRs")
}

fn object(name: &str, lab: &str, cidrs: &[IpNet]) -> Value {
    let cidrs: Vec<String> = cidrs.iter().map(ToString::to_string).collect();
    json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux", (LABEL): lab}},
        "spec": {"podCIDR": cidrs.first(), "podCIDRs": cidrs}})
}

fn status(settings: &Settings, name: &str, since: &str) -> Value {
    let at = timestamp(now());
    let addresses = plan::node_addresses(settings.number(name), settings.families);
    let addresses = addresses.iter().map(|ip| json!({"type": "InternalIP", "address": ip}));
    let addresses: Vec<Value> =
        addresses.chain([json!({"type": "Hostname", "address": name})]).collect();
    let room = json!({"cpu": "64", "memory": "64Gi", "pods": "250"});
    json!({"status": {"addresses": addresses, "capacity": room, "allocatable": room,
        "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady",
            "message": "its pods are network namespaces", "lastHeartbeatTime": at, "lastTransitionTime": since}],
        "nodeInfo": {"machineID": "", "systemUUID": "", "bootID": "", "kernelVersion": "",
            "osImage": "podwall lab", "containerRuntimeVersion": "podwall-lab://0",
            "kubeletVersion": concat!("v0.0.0-podwall-", env!("CARGO_PKG_VERSION")),
            "kubeProxyVersion": "", "operatingSystem": "linux",
            "architecture": std::env::consts::ARCH}}})
}

/// Makes all nodes known; those of an earlier life of the lab are taken over, or replaced where their
/// ranges are others.
pub(crate) async fn register(api: &Api, settings: &Settings) -> Result<(), NodeError> {
    for name in &settings.nodes {
        let path = format!("/api/v1/nodes/{name}");
        let cidrs = plan::pod_cidrs(settings.number(name), settings.families);
        let wanted = object(name, &settings.lab, &cidrs);
        match api.get(&path).await {
            Ok(known) if owner(&known) != Some(&settings.lab) => {
                return Err(NodeError::Taken { name: name.clone(), lab: settings.lab.clone() });
            }
            Ok(known) if same_ranges(&known, &wanted) => {}
            Ok(known) => {
                api.delete(&path, text(&known, "/metadata/uid")).await?;
                api.create("/api/v1/nodes", &wanted).await?;
            }
            Err(error) if error.code() == Some(404) => {
                api.create("/api/v1/nodes", &wanted).await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    beat(api, settings, &timestamp(now())).await?;
    Ok(())
}

/// Says that all nodes are there, and ready since then.
pub(crate) async fn beat(api: &Api, settings: &Settings, since: &str) -> Result<(), ApiError> {
    for name in &settings.nodes {
        let part = status(settings, name, since);
        api.patch_whole(&format!("/api/v1/nodes/{name}/status"), &part).await?;
    }
    Ok(())
}

/// Takes all nodes out of the cluster.
pub(crate) async fn withdraw(api: &Api, settings: &Settings) -> Result<(), ApiError> {
    for name in &settings.nodes {
        match api.delete(&format!("/api/v1/nodes/{name}"), None).await {
            Err(error) if !error.is_gone() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
