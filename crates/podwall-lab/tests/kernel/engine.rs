//! What does the engine leave behind when the kernel, or the disk, refuses?

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use podwall_lab::engine::Engine;
use podwall_lab::holder::{Holder, StartOptions};
use podwall_lab::link::Links;
use podwall_lab::netns::NetNs;
use podwall_lab::plan::Families;
use podwall_lab::rpc::{LabConfig, NetworkMode};
use podwall_lab::serve::identity::Identity;
use podwall_lab::store::{Key, Touched, checked};
use podwall_lab::trial::{End, Trial, Way};
use podwall_policy::evaluate::Verdict;
use podwall_policy::port::Protocol;
use serde_json::{Value, json};

use crate::runner::Case;

pub(crate) const CASES: &[Case] = &[
    ("engine_a_node_whose_tables_cannot_be_written_keeps_no_other_from_following", foreign),
    ("engine_a_node_that_cannot_be_verified_keeps_no_other_from_repair", unverifiable),
    ("engine_a_pod_that_cannot_be_plugged_in_keeps_no_other_from_following", unpluggable),
    ("engine_what_cannot_be_saved_has_not_happened", unsaved),
    ("engine_a_workload_without_pods_is_saved_like_any_object", no_pods),
    ("engine_what_stands_in_the_way_of_a_takeover_can_be_removed", obstructed),
    ("engine_services_follow_everywhere_after_a_node_failed", half_wired),
    ("engine_the_outside_goes_on_answering_what_probes_asked_it", asked_outside),
];

/// An engine of two nodes, and where it lives.
struct Lab<'a> {
    inside: &'a Path,
    engine: Engine,
}

/// Runs `work` with the engine of a new lab; its panics are the case's.
fn in_lab(temp: &Path, work: impl FnOnce(Lab<'_>)) {
    let options = StartOptions { die_with_parent: true };
    let holder = Holder::start(&temp.join("labs/a"), options).expect("start");
    let status = holder.run(|| {
        let inside = holder.inside();
        work(Lab { inside: &inside, engine: open(&inside) });
        0
    });
    let status = status.expect("run");
    holder.stop().expect("stop");
    assert!(status.success(), "inside: {status}");
}

fn open(inside: &Path) -> Engine {
    let config = LabConfig {
        name: "test".to_owned(),
        nodes: ["n1", "n2"].map(ToOwned::to_owned).to_vec(),
        network: NetworkMode::Ptp,
        families: Families::V4,
        externals: Vec::new(),
        enforce: true,
        // What stands in the way here is a table of nftables.
        dataplane: "nftables".to_owned(),
        limits: String::new(),
        mirrors: None,
    };
    Engine::open(&config, inside).expect("open")
}

fn pod(name: &str, node: &str, host_network: bool) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {"nodeName": node, "hostNetwork": host_network,
            "containers": [{"name": "c", "image": "none", "ports": [{"containerPort": 80}]}]}})
}

impl Lab<'_> {
    /// Puts objects into the store.
    fn put(&mut self, objects: &[Value]) -> Touched {
        let mut touched = Touched::default();
        for object in objects {
            let object = checked(object).expect("a good object");
            self.engine.store_mut().put(object, &mut touched).expect("put");
        }
        touched
    }

    /// Has the kernel follow; why it did not.
    fn refusal(&mut self, touched: Touched) -> String {
        self.engine.enforce(touched).expect_err("a failure").to_string()
    }

    /// Has the kernel follow what earlier failures left.
    fn mend(&mut self) {
        self.engine.enforce(Touched::default()).expect("nothing stands in the way");
    }

    fn uid(&self, pod: &str) -> String {
        let key = Key::new("Pod", "default", pod);
        self.engine.store().get(&key).expect("a pod").uid.clone()
    }

    /// Whether a pod is there and switched on.
    fn is_on(&self, pod: &str) -> bool {
        let file = self.inside.join("ns").join(format!("pod-{}", self.uid(pod)));
        let Ok(ns) = NetNs::open(&file) else { return false };
        let Ok(links) = Links::of(&ns) else { return false };
        links.find("eth0").expect("find").is_some_and(|link| link.up)
    }

    fn node(&self, name: &str) -> NetNs {
        NetNs::open(&self.inside.join("ns").join(format!("node-{name}"))).expect("a node")
    }

    /// What `nft` says in a node.
    fn nft(&self, node: &str, text: &str) -> String {
        let output = self.node(node).within(|| Command::new("nft").arg(text).output());
        let output = output.expect("within").expect("nft");
        assert!(output.status.success(), "{text}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

fn foreign(temp: &Path) {
    in_lab(temp, |mut lab| {
        lab.nft("n2", "delete table inet podwall; add table inet podwall");
        let policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "closed", "namespace": "default"}, "spec": {"podSelector": {}}});
        let touched = lab.put(&[policy, pod("a", "n1", false), pod("b", "n2", false)]);
        let error = lab.refusal(touched);
        assert!(error.contains("node n2") && !error.contains("node n1"), "{error}");
        assert!(lab.is_on("a"), "its own node's tables are in force");
        assert!(!lab.is_on("b"), "no table guards it");

        lab.nft("n2", "delete table inet podwall");
        lab.mend();
        assert!(lab.is_on("b"));
    });
}

fn unverifiable(temp: &Path) {
    in_lab(temp, |mut lab| {
        lab.nft("n1", "delete table inet podwall; add table inet podwall");
        lab.nft("n2", "delete table inet podwall");
        assert!(lab.engine.verify().is_err(), "a foreign table is not Podwall's to repair");
        assert!(lab.nft("n2", "list tables").contains("table inet podwall\n"));
    });
}

fn unpluggable(temp: &Path) {
    in_lab(temp, |mut lab| {
        let touched = lab.put(&[pod("a", "n1", false), pod("b", "n1", false)]);
        let stumbling_block = lab.inside.join("ns").join(format!("pod-{}", lab.uid("a")));
        fs::create_dir(&stumbling_block).expect("a directory where a file has to be");
        lab.refusal(touched);
        assert!(!lab.is_on("a"));
        assert!(lab.is_on("b"));
        fs::remove_dir(&stumbling_block).expect("remove");
        lab.mend();
        assert!(lab.is_on("a"));
    });
}

fn unsaved(temp: &Path) {
    in_lab(temp, |mut lab| {
        let stumbling_block = lab.inside.join("state.new");
        fs::create_dir(&stumbling_block).expect("a directory where a file has to be");
        let touched = lab.put(&[pod("a", "n1", false)]);
        let error = lab.refusal(touched);
        assert!(error.contains("cannot write the lab's state"), "{error}");
        let key = Key::new("Pod", "default", "a");
        assert!(lab.engine.store().get(&key).is_none(), "the command was told that it failed");
        fs::remove_dir(&stumbling_block).expect("remove");
        let touched = lab.put(&[pod("a", "n1", false)]);
        lab.engine.enforce(touched).expect("enforce");
        assert!(lab.is_on("a"));
    });
}

fn no_pods(temp: &Path) {
    in_lab(temp, |mut lab| {
        let labels = json!({"app": "idle"});
        let touched = lab.put(&[json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "idle", "namespace": "default"},
            "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "c", "image": "none"}]}}}})]);
        lab.engine.enforce(touched).expect("enforce");
        drop(lab.engine);
        let key = Key::new("Deployment", "default", "idle");
        assert!(open(lab.inside).store().get(&key).is_some());
    });
}

fn obstructed(temp: &Path) {
    in_lab(temp, |mut lab| {
        let touched = lab.put(&[pod("a", "n1", true), pod("b", "n1", true), pod("c", "n1", false)]);
        let error = lab.refusal(touched);
        assert!(error.contains("cannot serve TCP port 80"), "{error}");
        assert!(lab.is_on("c"));
        drop(lab.engine);
        let mut lab = Lab { inside: lab.inside, engine: open(lab.inside) };
        let mut touched = Touched::default();
        let key = Key::new("Pod", "default", "b");
        lab.engine.store_mut().delete(&key, &mut touched).expect("delete");
        lab.engine.enforce(touched).expect("nothing stands in the way any more");
    });
}

/// An `nft` before the real one that fails in the second node while a file is there.
#[expect(unsafe_code, reason = "the environment of a process with a single thread")]
fn falter(temp: &Path) -> std::path::PathBuf {
    let (directory, switch) = (temp.join("bin"), temp.join("falter"));
    fs::create_dir(&directory).expect("directory");
    let path = std::env::var("PATH").expect("PATH");
    let script = format!(
        "#!/bin/sh\nif [ -e '{}' ] && grep -q 172.18.0.3 /proc/net/fib_trie; then\n\
         cat > /dev/null; echo 'no such luck' >&2; exit 1\nfi\nPATH='{path}' exec nft \"$@\"\n",
        switch.display()
    );
    fs::write(directory.join("nft"), script).expect("script");
    fs::set_permissions(directory.join("nft"), fs::Permissions::from_mode(0o755)).expect("mode");
    // SAFETY: a case starts with a single thread, so nobody reads the environment meanwhile.
    unsafe { std::env::set_var("PATH", format!("{}:{path}", directory.display())) };
    switch
}

fn half_wired(temp: &Path) {
    let switch = falter(temp);
    in_lab(temp, |mut lab| {
        let service = json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "s", "namespace": "default"},
            "spec": {"clusterIP": "10.96.0.99", "selector": {"app": "s"}, "ports": [{"port": 80}]}});
        let rules = |lab: &Lab<'_>, node| lab.nft(node, "list table inet podwall_lab");
        fs::write(&switch, "").expect("switch");
        let touched = lab.put(&[service]);
        let error = lab.refusal(touched);
        assert!(error.contains("node n2") && error.contains("no such luck"), "{error}");
        fs::remove_file(&switch).expect("switch");
        assert!(rules(&lab, "n1").contains("10.96.0.99"), "the first node has followed");
        // Back to what the rules were made from the last time that all went well.
        let mut touched = Touched::default();
        let key = Key::new("Service", "default", "s");
        lab.engine.store_mut().delete(&key, &mut touched).expect("delete");
        lab.engine.enforce(touched).expect("enforce");
        for node in ["n1", "n2"] {
            assert!(!rules(&lab, node).contains("10.96.0.99"), "{node}");
        }
    });
    fs::remove_dir_all(temp.join("bin")).expect("remove");
}

fn asked_outside(temp: &Path) {
    in_lab(temp, |mut lab| {
        let outside: SocketAddr = ([203, 0, 113, 7], 8443).into();
        let trial = Trial {
            src: End { place: Identity::Node("n1".into()), address: [172, 18, 0, 2].into() },
            dst: "203.0.113.7".to_owned(),
            dst_address: outside.ip(),
            protocol: Protocol::TCP,
            port: outside.port(),
            ways: vec![Way { place: Identity::Outside, verdict: Verdict::Allowed, served: true }],
        };
        let _packets_under_way = lab.engine.bench(&[trial]).expect("bench");
        let touched = lab.put(&[pod("a", "n1", false)]);
        lab.engine.enforce(touched).expect("enforce");
        let answers = || TcpStream::connect_timeout(&outside, Duration::from_secs(3)).is_ok();
        assert!(lab.node("n1").within(answers).expect("within"));
    });
}
