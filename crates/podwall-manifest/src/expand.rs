//! Which pods does a cluster with these workloads have?
//!
//! ```text
//!   Deployment web ×2 ──no pods in the input──▶ web-5d8f7c4b9d-x2k4q, web-5d8f7c4b9d-7fhzt
//!   StatefulSet db ×2 ─────────────────────────▶ db-0, db-1
//!   Deployment api, Pod api-6c… owned by it ───▶ just that Pod
//! ```
//!
//! Names are made as the controllers make them, but the same at every run: the hash is one of the
//! template, the suffix one of hash and ordinal.

use std::collections::BTreeMap;
use std::sync::Arc;

use podwall_policy::cluster::Cluster;
use podwall_policy::object::{Name, Owner, Pod, Replicas, Workload};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::object::{Object, Typed};

/// How many pods are made of one workload. They are alike to policies, so a handful would do; the
/// limit keeps a slip of the pen (`replicas: 2000000000`) from filling the memory.
pub(crate) const MOST_PODS: u32 = 5_000;

/// How many pods are made altogether: what the largest clusters have.
const MOST_PODS_IN_ALL: usize = 150_000;

type WorkloadKey = (Arc<str>, Name);

/// Builds the cluster that the objects describe.
pub fn cluster<'o>(objects: impl IntoIterator<Item = &'o Object>) -> Cluster {
    let mut cluster = Cluster::default();
    let mut workloads: BTreeMap<WorkloadKey, (&Workload, &Object)> = BTreeMap::new();
    let mut pods = Vec::new();
    for object in objects {
        match &object.typed {
            Typed::Namespace(namespace) => cluster.put_namespace(namespace.clone()),
            Typed::Node(node) => cluster.put_node(node.clone()),
            Typed::Service(service) => cluster.put_service((**service).clone()),
            Typed::Policy(policy) => cluster.put_policy((**policy).clone()),
            Typed::Entrance(entrance) => cluster.put_entrance((**entrance).clone()),
            Typed::Pod(pod) => pods.push(pod),
            Typed::Workload(workload) => {
                let key = (workload.kind.clone(), workload.name.clone());
                workloads.insert(key, (workload, object));
            }
        }
    }
    let owners = Owners::new(&workloads);
    let mut populated: FxHashSet<WorkloadKey> = FxHashSet::default();
    for pod in pods {
        let mut pod = (**pod).clone();
        if let Some(owner) = pod.owner.take() {
            let chain = owners.chain(owner, &pod);
            populated.extend(chain.iter().map(|o| key(o, &pod.name.namespace)));
            pod.owner = chain.into_iter().next_back();
        }
        cluster.put_pod(pod);
    }
    for (workload, _) in workloads.values() {
        if let Some(owner) = &workload.owner {
            populated.insert(key(owner, &workload.name.namespace));
        }
    }
    let mut budget = MOST_PODS_IN_ALL;
    for ((kind, name), (workload, object)) in &workloads {
        if !populated.contains(&(kind.clone(), name.clone())) {
            let top = owners.top(workload);
            for pod in expand(workload, object, &top, &cluster) {
                if budget > 0 && !cluster.pods.contains_key(&pod.name) {
                    budget -= 1;
                    cluster.put_pod(pod);
                }
            }
        }
        cluster.put_workload((*workload).clone());
    }
    cluster
}

fn key(owner: &Owner, namespace: &Arc<str>) -> WorkloadKey {
    (owner.kind.clone(), Name::new(namespace.clone(), owner.name.clone()))
}

/// Who owns whom among the workloads.
struct Owners<'w> {
    parents: FxHashMap<&'w WorkloadKey, Option<&'w Owner>>,
}

impl<'w> Owners<'w> {
    fn new(workloads: &'w BTreeMap<WorkloadKey, (&'w Workload, &'w Object)>) -> Self {
        let parents = workloads.iter().map(|(k, (w, _))| (k, w.owner.as_ref())).collect();
        Self { parents }
    }

    /// The controllers above a pod, from its own up to the topmost that is known.
    fn chain(&self, owner: Owner, pod: &Pod) -> Vec<Owner> {
        let mut chain = vec![owner];
        // Real chains have two links; a longer one goes round in a circle.
        while let (Some(last), true) = (chain.last(), chain.len() < 4) {
            let parent = match self.parents.get(&key(last, &pod.name.namespace)) {
                Some(parent) => parent.cloned(),
                None => self.inferred(last, pod),
            };
            match parent {
                Some(parent) if !chain.contains(&parent) => chain.push(parent),
                _ => break,
            }
        }
        chain
    }

    /// The owner of a ReplicaSet or Job that the input does not state, by the way in which the
    /// Deployment and CronJob controllers name what they make.
    fn inferred(&self, owner: &Owner, pod: &Pod) -> Option<Owner> {
        let parent = |kind: &str, name: &str| Owner { kind: kind.into(), name: name.into() };
        match &*owner.kind {
            "ReplicaSet" => {
                let hash = pod.labels.get("pod-template-hash")?;
                let name = owner.name.strip_suffix(hash)?.strip_suffix('-')?;
                Some(parent("Deployment", name))
            }
            "Job" => {
                let (name, time) = owner.name.rsplit_once('-')?;
                let is_time = !time.is_empty() && time.bytes().all(|b| b.is_ascii_digit());
                let parent = parent("CronJob", name);
                let known = self.parents.contains_key(&key(&parent, &pod.name.namespace));
                (is_time && known).then_some(parent)
            }
            _ => None,
        }
    }

    /// The topmost controller of a workload's pods: itself, if nothing owns it.
    fn top(&self, workload: &Workload) -> Owner {
        let own = Owner { kind: workload.kind.clone(), name: workload.name.name.clone() };
        let pod = Pod::new(
            workload.name.namespace.clone(),
            workload.name.name.clone(),
            workload.template.labels.clone(),
        );
        self.chain(own.clone(), &pod).pop().unwrap_or(own)
    }
}

/// The pods that a workload makes.
fn expand(workload: &Workload, object: &Object, top: &Owner, cluster: &Cluster) -> Vec<Pod> {
    let name = &*workload.name.name;
    let hash = object.template_hash.as_deref().unwrap_or_default();
    let pod = |ordinal: u32, node: Option<Arc<str>>| {
        let mut pod = workload.template.clone();
        let tail = suffix(&[name.as_bytes(), hash.as_bytes(), &ordinal.to_le_bytes()], 5);
        let pod_name = match &*workload.kind {
            "StatefulSet" => format!("{name}-{ordinal}"),
            "Deployment" => format!("{}-{tail}", cut(&format!("{name}-{hash}"), 57)),
            "CronJob" => format!("{}-{}-{tail}", cut(name, 48), schedule(hash)),
            _ => format!("{}-{tail}", cut(name, 57)),
        };
        pod.name = Name::new(workload.name.namespace.clone(), pod_name);
        if &*workload.kind == "Deployment" {
            pod.labels = pod.labels.with("pod-template-hash", hash);
        }
        pod.node = pod.node.or(node);
        pod.owner = Some(top.clone());
        pod
    };
    match workload.replicas {
        Replicas::Count(count) => (0..count.min(MOST_PODS)).map(|i| pod(i, None)).collect(),
        Replicas::EveryNode if cluster.nodes.is_empty() => vec![pod(0, None)],
        Replicas::EveryNode => {
            let nodes = cluster.nodes.keys().zip(0..MOST_PODS);
            nodes.map(|(node, i)| pod(i, Some(node.clone()))).collect()
        }
    }
}

/// Eight digits in the place of a CronJob's scheduled minute.
fn schedule(hash: &str) -> u32 {
    28_000_000 + (fnv(&[hash.as_bytes()]) % 1_000_000) as u32
}

/// The API server cuts a name before it appends to it (`names/generate.go`).
fn cut(name: &str, length: usize) -> &str {
    name.get(..length.min(name.len())).unwrap_or(name)
}

/// Characters that controllers use in generated names: no vowels, nothing that looks alike
/// (`k8s.io/apimachinery/pkg/util/rand`).
pub(crate) fn suffix(seed: &[&[u8]], length: usize) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut state = fnv(seed);
    let mut out = String::with_capacity(length);
    for _ in 0..length {
        out.push(char::from(ALPHABET[(state % 27) as usize]));
        // The constants of Knuth's MMIX generator.
        state = (state / 27)
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
    }
    out
}

/// FNV-1a, 64 bits.
fn fnv(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        for byte in *part {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
        hash = hash.wrapping_mul(0x0100_0000_01b3);
    }
    hash
}
