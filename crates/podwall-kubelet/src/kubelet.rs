//! How do nodes, pods, agents and the lab come together?
//!
//! ```text
//!   watches ══▶ main loop ──┬─ unscheduled ──▶ binding
//!                           ├─ ours ─────────▶ a task a pod (pod.rs)
//!                           └─ all ──────────▶ mirror ──▶ the lab's worker
//!   commands ─▶ status, stop, retire
//! ```
//!
//! Everything here is one thread; what takes time waits in tasks.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use podwall_lab::fabric::foreign::Namespaces;
use podwall_lab::plan;
use podwall_lab::store::{now, timestamp};
use serde_json::Value;
use thiserror::Error;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::agents::{self, AgentPlace};
use crate::api::{Api, ApiError, pod_path, text};
use crate::cni::{CniError, Conflist, Network, conflist};
use crate::control::{Command, Reply};
use crate::lifecycle;
use crate::mirror::{Key, Mirror};
use crate::node::{self, NodeError};
use crate::pod::{AT_A_TIME, Life, Seen, Shared};
use crate::records::{Record, Records};
use crate::scheduler::{Scheduler, bind};
use crate::settings::Settings;
use crate::status::{has_ended, is_deleted};
use crate::watch::{KINDS, Said, kind};

/// Why the kubelet cannot work.
#[derive(Debug, Error)]
pub enum KubeletError {
    /// The API server.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The nodes.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The plugins' configuration.
    #[error(transparent)]
    Cni(#[from] CniError),
    /// Files of the lab.
    #[error("cannot use the lab's directory: {0}")]
    Files(#[from] io::Error),
}

/// The kubelet of all nodes of a lab.
pub(crate) struct Kubelet {
    shared: Arc<Shared>,
    scheduler: Scheduler,
    /// Pods as the API server has them: UID by name.
    pods: BTreeMap<Key, Value>,
    /// Pods that run here or end, by UID.
    lives: HashMap<String, watch::Sender<Seen>>,
    tasks: JoinSet<Option<String>>,
    /// What an earlier kubelet left, by UID, until the pods are known.
    found: HashMap<String, Record>,
    /// Kinds of which the first list is not read.
    missing: BTreeSet<&'static str>,
    agents: Vec<AgentPlace>,
    /// Since when the nodes are ready.
    since: String,
    /// Namespaces that are being ended, by UID.
    ending: BTreeSet<String>,
    /// Withdrawn: nothing new begins.
    stopping: bool,
}

// === impl Kubelet ===

impl Kubelet {
    /// Makes the nodes known and starts their agents.
    pub(crate) async fn open(settings: Settings) -> Result<Self, KubeletError> {
        let (api, _) = Api::connect(&settings.server).await?;
        let inside = settings.inside();
        let namespaces = Namespaces::of(&inside, settings.families);
        let records = Records::open(&inside.join("kubelet/pods"))?;
        let places = settings.dir.join("agents");
        std::fs::create_dir_all(&places)?;
        let place = |node: &String| AgentPlace::new(&places, node);
        let agents = match settings.agents {
            Some(_) => settings.nodes.iter().map(place).collect::<Result<Vec<_>, _>>()?,
            None => Vec::new(),
        };
        let mut networks = BTreeMap::new();
        for node in &settings.nodes {
            let socket = agents.iter().find(|agent| agent.node == *node);
            let socket = socket.map(|agent| agent.socket.as_path());
            let network = network(&settings, &namespaces, &inside, node, socket)?;
            networks.insert(node.clone(), network);
        }
        node::register(&api, &settings).await?;
        let found = records.all()?.into_iter().map(|it| (it.uid.clone(), it)).collect();
        let scheduler = Scheduler::new(&settings.nodes);
        let shared = Arc::new(Shared {
            settings,
            api,
            namespaces,
            records,
            mirror: Mirror::default(),
            networks,
            slots: Semaphore::new(AT_A_TIME),
            local: std::sync::Mutex::default(),
        });
        Ok(Self {
            shared,
            scheduler,
            pods: BTreeMap::new(),
            lives: HashMap::new(),
            tasks: JoinSet::new(),
            found,
            missing: KINDS.iter().map(|(_, kind)| *kind).collect(),
            agents,
            since: timestamp(now()),
            ending: BTreeSet::new(),
            stopping: false,
        })
    }

    /// Works until it is told to end.
    pub(crate) async fn run(mut self, mut commands: UnboundedReceiver<Command>) {
        let Settings { lab, dir, .. } = self.shared.settings.clone();
        let mut helpers = JoinSet::new();
        helpers.spawn_local(self.shared.mirror.clone().run(lab, dir));
        let (tell, mut told) = unbounded_channel();
        for which in KINDS {
            helpers.spawn_local(kind(self.shared.api.client.clone(), which, tell.clone()));
        }
        drop(tell);
        let mut agents = JoinSet::new();
        if let Some(with) = &self.shared.settings.agents {
            for place in self.agents.clone() {
                let (settings, names) =
                    (self.shared.settings.clone(), self.shared.namespaces.clone());
                agents.spawn_local(agents::keep(settings, with.clone(), names, place));
            }
        }
        let mut beat = interval(node::BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut look = interval(Duration::from_secs(1));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some((kind, said)) = told.recv() => self.hear(kind, said),
                Some(ended) = self.tasks.join_next() => {
                    if let Ok(Some(uid)) = ended {
                        self.lived(&uid);
                    }
                }
                Some(command) = commands.recv() => match command {
                    Command::Status(answer) => {
                        let _ = answer.send(self.state().await);
                    }
                    Command::Stop(answer) => {
                        self.stop().await;
                        agents.shutdown().await;
                        let _ = answer.send(self.state().await);
                        // Whoever asked has to hear it before this process ends.
                        sleep(Duration::from_millis(50)).await;
                        return;
                    }
                    Command::Retire => return,
                },
                _ = beat.tick() => self.beat(),
                _ = look.tick() => self.schedule(),
            }
        }
    }

    async fn state(&self) -> Reply {
        let mut waits: Vec<String> =
            self.missing.iter().map(|kind| format!("the list of kind {kind}")).collect();
        for agent in &self.agents {
            if !agent.is_ready().await {
                waits.push(format!("the agent of {} (see {})", agent.node, agent.log.display()));
            }
        }
        Reply {
            version: podwall_lab::client::version(),
            waits,
            agents: self.agents.clone(),
            chained: conflist::has_chained(&self.shared.settings.cni.bin),
        }
    }

    fn beat(&mut self) {
        if self.stopping {
            return;
        }
        let (shared, since) = (Arc::clone(&self.shared), self.since.clone());
        self.tasks.spawn_local(async move {
            if let Err(error) = node::beat(&shared.api, &shared.settings, &since).await {
                eprintln!("{error}");
            }
            None
        });
    }

    fn hear(&mut self, kind: &'static str, said: Said) {
        match said {
            Said::Put(key, object) => self.put(key, object),
            Said::Gone(key) => self.gone(&key),
            Said::Listed(keys) => {
                let before = match kind {
                    "Pod" => self.pods.keys().cloned().collect(),
                    kind => self.shared.mirror.keys(kind),
                };
                before.iter().filter(|key| !keys.contains(key)).for_each(|key| self.gone(key));
                if self.missing.remove(kind) && kind == "Pod" {
                    self.clear();
                }
                if self.missing.is_empty() {
                    self.shared.mirror.complete();
                }
            }
        }
    }

    fn put(&mut self, key: Key, object: Value) {
        match key.0 {
            "Pod" => self.put_pod(key, object),
            "Node" => {
                if let Some(labels) = object.pointer("/metadata/labels") {
                    self.scheduler.label(&key.2, labels);
                }
                if self.shared.networks.contains_key(&key.2) {
                    self.shared.mirror.put(key, object);
                }
            }
            "Namespace" => {
                self.end_namespace(&object);
                self.shared.mirror.put(key, object);
            }
            _ => self.shared.mirror.put(key, object),
        }
    }

    fn end_namespace(&mut self, namespace: &Value) {
        let part = |pointer: &str| text(namespace, pointer).unwrap_or_default().to_owned();
        let due = self.shared.settings.controllers && lifecycle::waits(namespace);
        if due && self.ending.insert(part("/metadata/uid")) {
            let (shared, name) = (Arc::clone(&self.shared), part("/metadata/name"));
            self.tasks.spawn_local(async move {
                lifecycle::end(shared, name).await;
                None
            });
        }
    }

    fn gone(&mut self, key: &Key) {
        if key.0 != "Pod" {
            self.shared.mirror.gone(key, None);
            return;
        }
        let Some(pod) = self.pods.remove(key) else { return };
        let uid = text(&pod, "/metadata/uid").unwrap_or_default();
        self.end(uid);
        self.shared.mirror.gone(key, Some(uid));
    }

    /// A pod's task has ended. That it is over is remembered as long as its object is there: what was
    /// said of it before it went may be heard only now.
    fn lived(&mut self, uid: &str) {
        self.lives.remove(uid);
        if !self.pods.values().any(|pod| text(pod, "/metadata/uid") == Some(uid)) {
            self.shared.forget(uid);
        }
    }

    /// A pod's object is gone.
    fn end(&mut self, uid: &str) {
        self.scheduler.forget(uid);
        match self.lives.get(uid) {
            Some(life) => drop(life.send_replace(None)),
            None => self.shared.forget(uid),
        }
    }

    fn put_pod(&mut self, key: Key, pod: Value) {
        let uid = text(&pod, "/metadata/uid").unwrap_or_default().to_owned();
        let before = self.pods.get(&key).and_then(|it| text(it, "/metadata/uid"));
        if let Some(before) = before.filter(|before| *before != uid) {
            // Gone and made again between two looks.
            let before = before.to_owned();
            self.end(&before);
        }
        if let Some(node) = text(&pod, "/spec/nodeName").filter(|node| !node.is_empty()) {
            self.scheduler.placed(&uid, node);
        }
        self.shared.show(&pod);
        self.pods.insert(key, pod.clone());
        if self.shared.is_ours(&pod) {
            self.follow(&uid, pod);
        } else {
            self.offer(&pod);
        }
    }

    /// A pod of ours is there, or is different.
    fn follow(&mut self, uid: &str, pod: Value) {
        if let Some(life) = self.lives.get(uid) {
            life.send_replace(Some(Arc::new(pod)));
            return;
        }
        let found = self.found.remove(uid);
        if self.stopping
            || self.shared.is_over(uid)
            || (has_ended(&pod) && found.is_none() && !is_deleted(&pod))
        {
            return;
        }
        let pod = Arc::new(pod);
        let (send, object) = watch::channel(Some(Arc::clone(&pod)));
        self.lives.insert(uid.to_owned(), send);
        let (life, uid) =
            (Life::new(Arc::clone(&self.shared), object, &pod, found), uid.to_owned());
        self.tasks.spawn_local(async move {
            life.live().await;
            Some(uid)
        });
    }

    /// Takes away what an earlier kubelet left of pods that are no more.
    fn clear(&mut self) {
        let known: BTreeSet<&str> =
            self.pods.values().filter_map(|pod| text(pod, "/metadata/uid")).collect();
        let gone: Vec<Record> =
            self.found.extract_if(|uid, _| !known.contains(uid.as_str())).map(|it| it.1).collect();
        for record in gone {
            let shared = Arc::clone(&self.shared);
            self.tasks.spawn_local(async move {
                shared.unplug(&record).await;
                None
            });
        }
    }

    fn schedule(&mut self) {
        let pods: Vec<Value> =
            self.pods.values().filter(|it| !self.shared.is_ours(it)).cloned().collect();
        pods.iter().for_each(|pod| self.offer(pod));
    }

    /// Binds a pod if it waits for a node.
    fn offer(&mut self, pod: &Value) {
        // Without the list of nodes their labels are not known.
        if self.stopping || !self.shared.settings.controllers || !self.missing.is_empty() {
            return;
        }
        let Some(node) = self.scheduler.place(pod) else { return };
        let (shared, pod) = (Arc::clone(&self.shared), pod.clone());
        self.tasks.spawn_local(async move {
            if let Err(error) = bind(&shared.api, &pod, &node).await
                && !error.is_gone()
            {
                eprintln!("{error}");
            }
            None
        });
    }

    /// Takes all pods and nodes of the lab out of the cluster, as is done for nodes that are gone.
    async fn stop(&mut self) {
        self.stopping = true;
        let shared = Arc::clone(&self.shared);
        let ours: Vec<Value> =
            self.pods.values().filter(|it| shared.is_ours(it)).cloned().collect();
        for pod in &ours {
            let part = |pointer: &str| text(pod, pointer).unwrap_or_default();
            let path = pod_path(part("/metadata/namespace"), part("/metadata/name"));
            match shared.api.delete(&path, Some(part("/metadata/uid"))).await {
                Err(error) if !error.is_gone() => eprintln!("{error}"),
                _ => {}
            }
        }
        self.lives.values().for_each(|life| drop(life.send_replace(None)));
        while !self.lives.is_empty() {
            match self.tasks.join_next().await {
                Some(Ok(Some(uid))) => drop(self.lives.remove(&uid)),
                Some(_) => {}
                None => break,
            }
        }
        if let Err(error) = node::withdraw(&shared.api, &shared.settings).await {
            eprintln!("{error}");
        }
    }
}

/// The network of a node's pods.
fn network(
    settings: &Settings,
    namespaces: &Namespaces,
    inside: &Path,
    node: &str,
    socket: Option<&Path>,
) -> Result<Network, KubeletError> {
    let cni = &settings.cni;
    let cidrs = plan::pod_cidrs(settings.number(node), settings.families);
    let data = inside.join("kubelet/ipam").join(node);
    std::fs::create_dir_all(&data)?;
    let chained = socket.filter(|_| conflist::has_chained(&cni.bin));
    let own = conflist::OfNode { cidrs: &cidrs, data, socket: chained };
    let conflist = match &cni.config {
        Some(path) => Conflist::read(path, &own)?,
        None => Conflist::of_mode(cni.network, &own),
    };
    Ok(Network { conflist, bin: cni.bin.clone(), node: namespaces.node(node) })
}
