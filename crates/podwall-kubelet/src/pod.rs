//! How does one pod live?
//!
//! ```text
//!   bound ─▶ namespace ─▶ ADD ─▶ served ─▶ status Running … deleted, ended, gone ─▶ DEL ─▶ DELETE
//!               ▲           └ fails: DEL, event, status Pending, a pause that grows
//!               └─────────────────┘
//! ```
//!
//! Each pod has a task of its own, by UID: a pod that is made again under its name is another one, and
//! may begin while its predecessor ends.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use podwall_lab::fabric::foreign::Namespaces;
use podwall_lab::plan;
use podwall_lab::store::{now, timestamp};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout_at};

use crate::api::{Api, ApiError, pod_path, text};
use crate::cni::{self, CniError, Network, Sandbox};
use crate::first::{self, First};
use crate::mirror::Mirror;
use crate::records::{Record, Records};
use crate::settings::Settings;
use crate::status::{self, has_ended, is_deleted};

/// A pod as the API server has it now; `None`: not any more.
pub(crate) type Seen = Option<Arc<Value>>;

/// Between tries; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// So many pods get or lose their network at a time.
pub(crate) const AT_A_TIME: usize = 8;

/// What all pods' tasks share.
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) api: Api,
    pub(crate) namespaces: Namespaces,
    pub(crate) records: Records,
    pub(crate) mirror: Mirror,
    /// By node.
    pub(crate) networks: BTreeMap<String, Network>,
    pub(crate) slots: Semaphore,
    /// What is so here and may not be known to the API server yet, by UID.
    pub(crate) local: Mutex<HashMap<String, Local>>,
}

/// What a pod is here.
#[derive(Clone, Debug)]
pub(crate) enum Local {
    /// Its containers run; its status.
    Running(Value),
    /// It has no network any more.
    Over,
}

impl Shared {
    fn local(&self) -> MutexGuard<'_, HashMap<String, Local>> {
        self.local.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this pod is to run here.
    pub(crate) fn is_ours(&self, pod: &Value) -> bool {
        text(pod, "/spec/nodeName").is_some_and(|node| self.networks.contains_key(node))
    }

    /// Tells the lab of a pod: with the addresses that it has here, which may not be known to the API
    /// server yet; and without those that it does not have here.
    pub(crate) fn show(&self, pod: &Value) {
        let part = |pointer: &str| text(pod, pointer).unwrap_or_default().to_owned();
        let key = ("Pod", part("/metadata/namespace"), part("/metadata/name"));
        let mut shown = pod.clone();
        if self.is_ours(pod) && !has_ended(pod) {
            match self.local().get(&part("/metadata/uid")) {
                Some(Local::Over) => return,
                Some(Local::Running(status)) => shown["status"] = status.clone(),
                None => {
                    if let Some(status) = shown.get_mut("status").and_then(Value::as_object_mut) {
                        status.remove("podIP");
                        status.remove("podIPs");
                    }
                }
            }
        }
        self.mirror.put(key, shown);
    }

    /// Whether a pod has had its time here.
    pub(crate) fn is_over(&self, uid: &str) -> bool {
        matches!(self.local().get(uid), Some(Local::Over))
    }

    /// The object of a UID is gone: nothing needs to be known of it any more.
    pub(crate) fn forget(&self, uid: &str) {
        self.local().remove(uid);
    }

    /// Takes a pod's network away, and all that is remembered of it. Tried until it is done.
    pub(crate) async fn unplug(&self, record: &Record) {
        let mut pause = FIRST_PAUSE;
        while let Err(why) = self.try_unplug(record).await {
            eprintln!("pod {}/{}: {why}; again in {pause:?}", record.namespace, record.name);
            tokio::time::sleep(pause).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    async fn try_unplug(&self, record: &Record) -> Result<(), String> {
        let _slot = self.slots.acquire().await;
        if let Some(network) = self.networks.get(&record.node) {
            let result = record.result.clone().unwrap_or_default();
            let sandbox = self.sandbox(record, &Value::Null);
            network.del(&sandbox, &result).await.map_err(|error| error.to_string())?;
        }
        self.namespaces.remove_pod(&record.uid).map_err(|error| error.to_string())?;
        self.records.remove(&record.uid).map_err(|error| error.to_string())
    }

    fn sandbox(&self, record: &Record, pod: &Value) -> Sandbox {
        Sandbox {
            id: record.uid.replace('-', ""),
            namespace: record.namespace.clone(),
            name: record.name.clone(),
            uid: record.uid.clone(),
            netns: self.namespaces.pod(&record.uid),
            ports: cni::port_mappings(pod),
        }
    }

    /// A node's addresses.
    pub(crate) fn hosts(&self, node: &str) -> Vec<IpAddr> {
        plan::node_addresses(self.settings.number(node), self.settings.families)
    }
}

/// A pod's task.
pub(crate) struct Life {
    shared: Arc<Shared>,
    object: watch::Receiver<Seen>,
    record: Record,
    /// Whether plugins may have made something.
    touched: bool,
    /// What sends from the beginning.
    first: Option<First>,
}

// === impl Life ===

impl Life {
    /// The task of a pod that was seen; `found` is what an earlier kubelet left of it.
    pub(crate) fn new(
        shared: Arc<Shared>,
        object: watch::Receiver<Seen>,
        pod: &Value,
        found: Option<Record>,
    ) -> Self {
        let part = |pointer: &str| text(pod, pointer).unwrap_or_default().to_owned();
        let touched = found.is_some();
        let record = found.unwrap_or_else(|| Record {
            namespace: part("/metadata/namespace"),
            name: part("/metadata/name"),
            uid: part("/metadata/uid"),
            node: part("/spec/nodeName"),
            result: None,
            started: timestamp(now()),
        });
        Self { shared, object, record, touched, first: None }
    }

    fn pod(&self) -> Seen {
        self.object.borrow().clone()
    }

    fn path(&self) -> String {
        pod_path(&self.record.namespace, &self.record.name)
    }

    /// Whether the pod is to run no more.
    fn is_over(&self) -> bool {
        self.pod().is_none_or(|pod| is_deleted(&pod) || has_ended(&pod))
    }

    /// Lives until the pod is gone.
    pub(crate) async fn live(mut self) {
        if let Some(ips) = self.plug().await {
            self.run(&ips).await;
            while !self.is_over() && self.object.changed().await.is_ok() {}
        }
        self.end().await;
    }

    /// Gives the pod its network, however long that takes; `None` if the pod ends before.
    async fn plug(&mut self) -> Option<Vec<IpAddr>> {
        let pod = self.pod()?;
        if pod.pointer("/spec/hostNetwork") == Some(&json!(true)) {
            return (!self.is_over()).then(|| self.shared.hosts(&self.record.node));
        }
        if let Some(result) = &self.record.result
            && self.shared.namespaces.pod(&self.record.uid).exists()
        {
            return Some(cni::addresses(result));
        }
        let (mut pause, mut said) = (FIRST_PAUSE, String::new());
        while !self.is_over() {
            match self.try_plug(&pod).await {
                Ok(ips) => return Some(ips),
                Err(why) => {
                    eprintln!("pod {}/{}: {why}", self.record.namespace, self.record.name);
                    if said != why {
                        self.complain(&pod, &why).await;
                        said = why;
                    }
                }
            }
            self.rest(pause).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
        None
    }

    /// Waits, or until the pod is over.
    async fn rest(&mut self, pause: Duration) {
        let end = Instant::now() + pause;
        while !self.is_over()
            && timeout_at(end, self.object.changed()).await.is_ok_and(|it| it.is_ok())
        {}
    }

    async fn try_plug(&mut self, pod: &Value) -> Result<Vec<IpAddr>, String> {
        let words = |error: &dyn std::error::Error| error.to_string();
        if self.touched {
            // Of a try that did not end: with the same ID it may hold an address.
            self.shared.try_unplug(&self.record).await?;
        }
        let shared = Arc::clone(&self.shared);
        let _slot = shared.slots.acquire().await;
        if self.is_over() {
            return Err("it ended before it began".to_owned());
        }
        self.touched = true;
        self.record.result = None;
        shared.records.write(&self.record).map_err(|e| words(&e))?;
        let network = shared.networks.get(&self.record.node);
        let network = network.ok_or_else(|| format!("there is no node {}", self.record.node))?;
        let ns = shared.namespaces.make_pod(&self.record.uid).map_err(|e| words(&e))?;
        let first = first::wanted(pod)?;
        let first = first.map(|to| First::start(&ns, to, &self.record)).transpose();
        self.first = first.map_err(|e| words(&e))?;
        drop(ns);
        let sandbox = shared.sandbox(&self.record, pod);
        let result = network.add(&sandbox).await.map_err(|e: CniError| words(&e))?;
        self.first.iter().for_each(First::added);
        let ips = cni::addresses(&result);
        self.record.result = Some(result);
        shared.records.write(&self.record).map_err(|e| words(&e))?;
        Ok(ips)
    }

    /// Starts the pod's servers and says that it runs.
    async fn run(&mut self, ips: &[IpAddr]) {
        let Some(pod) = self.pod() else { return };
        let (shared, record) = (&self.shared, &self.record);
        let id = record.uid.replace('-', "");
        let hosts = shared.hosts(&record.node);
        let status = status::running(&pod, &id, &hosts, ips, &record.started);
        shared.local().insert(record.uid.clone(), Local::Running(status.clone()));
        shared.show(&pod);
        if !shared.mirror.followed().await {
            eprintln!(
                "pod {}/{}: its ports are not served: the lab's worker is away until the next command",
                record.namespace, record.name
            );
        }
        let mut pause = FIRST_PAUSE;
        while !self.is_over() {
            match self.say(&status).await {
                Err(error) if !error.is_gone() => {
                    eprintln!("{error}; again in {pause:?}");
                    self.rest(pause).await;
                    pause = LONGEST_PAUSE.min(pause * 2);
                }
                _ => return,
            }
        }
    }

    /// Writes the status, of this very pod alone.
    async fn say(&self, status: &Value) -> Result<Value, ApiError> {
        let part = json!({"metadata": {"uid": self.record.uid}, "status": status});
        self.shared.api.patch(&format!("{}/status", self.path()), &part).await
    }

    /// Tells whoever looks at the pod why it does not run.
    async fn complain(&self, pod: &Value, why: &str) {
        let (shared, record) = (&self.shared, &self.record);
        let status = status::waiting(pod, &shared.hosts(&record.node), &record.started, why);
        let at = timestamp(now());
        let event = json!({"apiVersion": "v1", "kind": "Event",
            "metadata": {"generateName": format!("{}.", record.name),
                "namespace": record.namespace},
            "involvedObject": {"apiVersion": "v1", "kind": "Pod", "namespace": record.namespace,
                "name": record.name, "uid": record.uid},
            "type": "Warning", "reason": "FailedCreatePodSandBox", "message": why, "count": 1,
            "firstTimestamp": at, "lastTimestamp": at,
            "source": {"component": "podwall-lab", "host": record.node}});
        let events = format!("/api/v1/namespaces/{}/events", record.namespace);
        let (said, told) = tokio::join!(self.say(&status), shared.api.create(&events, &event));
        for error in [said.err(), told.err()].into_iter().flatten() {
            if !error.is_gone() {
                eprintln!("{error}");
            }
        }
    }

    /// Takes the pod's network away, then its object, if it is to go.
    async fn end(mut self) {
        self.first = None;
        let shared = Arc::clone(&self.shared);
        let record = &self.record;
        shared.local().insert(record.uid.clone(), Local::Over);
        match self.pod().filter(|pod| has_ended(pod)) {
            Some(pod) => shared.show(&pod),
            None => {
                let key = ("Pod", record.namespace.clone(), record.name.clone());
                shared.mirror.gone(&key, Some(&record.uid));
            }
        }
        if self.touched {
            // The servers first: their sockets hold the namespace.
            shared.mirror.followed().await;
            shared.unplug(record).await;
        }
        let mut pause = FIRST_PAUSE;
        while let Some(pod) = self.pod() {
            if is_deleted(&pod) {
                match shared.api.delete(&self.path(), Some(&self.record.uid)).await {
                    Err(error) if !error.is_gone() => {
                        eprintln!("{error}; again in {pause:?}");
                        tokio::time::sleep(pause).await;
                        pause = LONGEST_PAUSE.min(pause * 2);
                        continue;
                    }
                    _ => break,
                }
            }
            if self.object.changed().await.is_err() {
                break;
            }
        }
    }
}
