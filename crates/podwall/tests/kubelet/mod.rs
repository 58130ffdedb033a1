//! How do tests have a cluster whose nodes are a lab?
//!
//! ```text
//!   Nodes::up("word", …) ──▶ etcd, kube-apiserver ◀── podwall lab up --kubeconfig … ──▶ CNI plugins, agents
//!        └── kubectl, Cluster::create … ──▶ pods ──▶ lab probe: packets beside what the evaluator says
//! ```

mod churn;
mod first;
mod socket;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use podwall_cluster::Cluster;
use serde_json::{Value, json};

use crate::support::{Lab, Packet, all_agree, root};

/// How long the cluster may take to be what a test asked for, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster and the lab that is its nodes. The lab leaves first.
pub(crate) struct Nodes {
    pub(crate) lab: Lab,
    pub(crate) cluster: Cluster,
}

impl Nodes {
    /// Whether this machine can have it: root, an API server, CNI plugins. Says SKIPPED if not.
    pub(crate) fn are_possible() -> bool {
        let plugins = ["/usr/lib/cni", "/opt/cni/bin"].map(|dir| Path::new(dir).join("bridge"));
        if !plugins.iter().any(|path| path.is_file()) {
            // As for the API server: where it must be possible, it must be seen.
            assert!(std::env::var_os("PODWALL_REQUIRE_CLUSTER").is_none(), "no CNI plugins");
            eprintln!("SKIPPED: needs CNI plugins (Debian: containernetworking-plugins)");
            return false;
        }
        root() && Cluster::is_possible()
    }

    /// Makes both. `args` are those of `lab up`.
    #[track_caller]
    pub(crate) fn up(word: &str, args: &[&str]) -> Self {
        let cluster = Cluster::start();
        let kubeconfig = cluster.admin_kubeconfig().display().to_string();
        let agents = cluster.agent_kubeconfig().display().to_string();
        let ours = ["--kubeconfig", &kubeconfig, "--agent-kubeconfig", &agents];
        let lab = Lab::up(word, &[&ours, args].concat());
        Self { lab, cluster }
    }

    /// `kubectl …`
    #[track_caller]
    pub(crate) fn kubectl(&self, args: &[&str]) -> String {
        self.cluster.kubectl(args, None)
    }

    /// Waits until something is so.
    #[track_caller]
    pub(crate) fn until<T>(&self, what: &str, is: impl Fn() -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = is() {
                return found;
            }
            let log = fs::read_to_string(self.dir().join("kubelet.log")).unwrap_or_default();
            assert!(Instant::now() < end, "not so: {what}\n--- kubelet.log\n{log}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until all pods run, those of a list.
    #[track_caller]
    pub(crate) fn all_run(&self, names: &[&str]) {
        self.until(&format!("{names:?} run"), || {
            let pods = self.pods();
            let runs = |name: &&str| pods.iter().any(|pod| called(pod) == *name && is_ready(pod));
            names.iter().all(runs).then_some(())
        });
    }

    /// All pods as the API server has them.
    pub(crate) fn pods(&self) -> Vec<Value> {
        let list = self.cluster.get("/api/v1/pods");
        let kind = |pod: &Value| {
            let mut pod = pod.clone();
            pod["apiVersion"] = json!("v1"); // items of a list do not say
            pod["kind"] = json!("Pod");
            pod
        };
        list["items"].as_array().unwrap().iter().map(kind).collect()
    }

    /// A pod as the API server has it: `NAMESPACE/NAME`.
    pub(crate) fn pod(&self, name: &str) -> Option<Value> {
        self.pods().into_iter().find(|pod| called(pod) == name)
    }

    /// The first address of a pod that runs.
    #[track_caller]
    pub(crate) fn address(&self, name: &str) -> String {
        let pod = self.pod(name).unwrap_or_else(|| panic!("no pod {name}"));
        pod["status"]["podIP"].as_str().unwrap_or_else(|| panic!("{pod}")).to_owned()
    }

    /// Waits until packets do what the evaluator says: agents hear of changes when the lab does. What
    /// they did at last.
    #[track_caller]
    pub(crate) fn agree(&self, title: &str, args: &[&str]) -> Vec<Packet> {
        self.agree_that(title, args, |_| true)
    }

    /// The same, once the lab, too, has heard of what a test has changed: so long both may agree on
    /// what was before.
    #[track_caller]
    pub(crate) fn agree_that(
        &self,
        title: &str,
        args: &[&str],
        has_heard: impl Fn(&[Packet]) -> bool,
    ) -> Vec<Packet> {
        let end = Instant::now() + PATIENCE / 3;
        loop {
            let packets = self.lab.probe_json(args);
            let fits = has_heard(&packets);
            if Instant::now() > end || (fits && packets.iter().all(|packet| packet.agrees)) {
                all_agree(title, &packets);
                assert!(fits, "{title}: {packets:?}");
                return packets;
            }
        }
    }

    /// The lab's directory on the host.
    pub(crate) fn dir(&self) -> PathBuf {
        Path::new("/run/podwall/labs").join(&self.lab.name)
    }

    /// The lab's private directory, from outside.
    pub(crate) fn inside(&self) -> PathBuf {
        let record = fs::read_to_string(self.dir().join("holder.pid")).unwrap();
        let init = record.split(' ').next().unwrap();
        format!("/proc/{init}/root{}/inside", self.dir().display()).into()
    }

    /// The processes of the lab for which something holds of their name and command line.
    pub(crate) fn processes(&self, is: impl Fn(&str, &str) -> bool) -> Vec<i32> {
        let record = fs::read_to_string(self.dir().join("holder.pid")).unwrap();
        let init = record.split(' ').next().unwrap();
        let namespace = fs::read_link(format!("/proc/{init}/ns/pid")).unwrap();
        let list = fs::read_dir("/proc").unwrap().flatten();
        let pids = list.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let text = |pid: &i32, file: &str| {
            let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
            text.replace('\0', " ").trim().to_owned()
        };
        pids.filter(|pid| {
            fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|ns| ns == namespace)
        })
        .filter(|pid| is(&text(pid, "comm"), &text(pid, "cmdline")))
        .collect()
    }

    /// The agents of all nodes.
    pub(crate) fn agents(&self) -> Vec<i32> {
        self.processes(|_, line| line.contains(" agent --node "))
    }

    /// Kills (`SIGKILL`) the agents of all nodes, and gives which there were.
    pub(crate) fn kill_agents(&self) -> Vec<i32> {
        let agents = self.agents();
        for pid in &agents {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        agents
    }

    /// Kills the kubelet.
    pub(crate) fn kill_kubelet(&self) {
        let found = self.processes(|name, _| name == "podwall-kubelet");
        assert_eq!(found.len(), 1, "one kubelet");
        kill(Pid::from_raw(found[0]), Signal::SIGKILL).unwrap();
        self.until("the kubelet is gone", || {
            self.processes(|name, _| name == "podwall-kubelet").is_empty().then_some(())
        });
    }

    /// The names of the pods' namespaces that the lab has: their UIDs.
    pub(crate) fn namespaces(&self) -> Vec<String> {
        let list = fs::read_dir(self.inside().join("ns")).unwrap().flatten();
        list.filter_map(|it| Some(it.file_name().to_str()?.strip_prefix("pod-")?.to_owned()))
            .collect()
    }
}

/// Whether packets pass, or none does.
pub(crate) fn all_do(pass: bool) -> impl Fn(&[Packet]) -> bool {
    move |packets| !packets.is_empty() && packets.iter().all(|packet| packet.passed() == Some(pass))
}

/// `NAMESPACE/NAME` of an object.
pub(crate) fn called(object: &Value) -> String {
    let part = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
    format!("{}/{}", part("namespace"), part("name"))
}

/// Whether a pod's condition Ready is true.
pub(crate) fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions
        .is_some_and(|all| all.iter().any(|it| it["type"] == "Ready" && it["status"] == "True"))
}

/// A pod that nobody has bound.
pub(crate) fn mk_pod(namespace: &str, name: &str, labels: &[(&str, &str)]) -> Value {
    let labels: Value = labels.iter().map(|(k, v)| ((*k).to_owned(), Value::from(*v))).collect();
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "spec": {"containers": [{"name": "main", "image": "none"}]}})
}
