//! What happens to enforcement when something of a lab is killed at any moment?

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says by panic what is wrong"
)]

mod support;
mod traffic;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::{Lab, all_agree, podwall, root};
use traffic::Traffic;

#[test]
#[ignore = "no test: a program that the others run in pods"]
fn traffic_program() {
    traffic::program();
}

/// a may reach b on 7000, c may not; `extra` says what changes all the time.
const CLUSTER: &str = "
apiVersion: v1
kind: Pod
metadata: {name: a, labels: {app: a}}
spec: {nodeName: node-1, containers: [{name: c, image: x}]}
---
apiVersion: v1
kind: Pod
metadata: {name: b, labels: {app: b}}
spec: {nodeName: node-1, containers: [{name: c, image: x}]}
---
apiVersion: v1
kind: Pod
metadata: {name: c, labels: {app: c}}
spec: {nodeName: node-2, containers: [{name: c, image: x}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: to-b}
spec:
  podSelector: {matchLabels: {app: b}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: a}}}]
    ports: [{port: 7000}, {port: 7000, protocol: UDP}]
";

/// A policy and a pod that come and go.
fn extra(n: u64) -> String {
    format!(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: extra-{n}}}
spec:
  podSelector: {{matchLabels: {{app: b}}}}
  ingress:
  - from: [{{podSelector: {{matchLabels: {{app: x{n}}}}}}}, {{ipBlock: {{cidr: 192.0.2.{n}/32}}}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: x-{n}, labels: {{app: x{n}}}}}
spec: {{containers: [{{name: c, image: x}}]}}
"
    )
}

/// Reproducible chance (xorshift).
struct Chance(u64);

impl Chance {
    fn new(seed: u64) -> Self {
        eprintln!("seed {seed}");
        Self(seed)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn wait(&mut self, most_ms: u64) {
        thread::sleep(Duration::from_micros(self.below(most_ms * 1000)));
    }
}

fn lab_dir(name: &str) -> PathBuf {
    Path::new("/run/podwall/labs").join(name)
}

/// Init's and keeper's pid, from the lab's record.
fn holders(name: &str) -> (i32, i32) {
    let text = fs::read_to_string(lab_dir(name).join("holder.pid")).unwrap();
    let mut pids = text.lines().map(|line| line.split(' ').next().unwrap().parse().unwrap());
    (pids.next().unwrap(), pids.next().unwrap())
}

/// Every process whose pid namespace is that of a process.
fn in_pid_namespace(of: &Path) -> Vec<i32> {
    let list = fs::read_dir("/proc").unwrap().flatten();
    let pids = list.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| fs::read_link(format!("/proc/{pid}/ns/pid")).is_ok_and(|ns| ns == of))
        .collect()
}

/// The lab's worker: the one process of the program whose parent is the lab's init.
fn worker(name: &str) -> Option<i32> {
    let (init, _) = holders(name);
    let namespace = fs::read_link(format!("/proc/{init}/ns/pid")).ok()?;
    in_pid_namespace(&namespace).into_iter().find(|pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
        *pid != init && stat.contains("(podwall)") && parent == Some(init)
    })
}

fn kill(pid: i32) {
    let done =
        Command::new("kill").args(["-KILL", &pid.to_string()]).stderr(Stdio::null()).status();
    drop(done); // it may have ended by itself
}

/// Kernel and model agree, packets and engine agree.
fn all_is_well(lab: &Lab, when: &str) {
    let tables = lab.run("tables", &["--verify"], None).ok();
    assert!(tables.contains("agrees with the model"), "{when}: {tables}");
    all_agree(when, &lab.probe_json(&["--no-outside"]));
}

/// Four flows that need nobody: two that must lose nothing, two that must never arrive.
struct Flows {
    server: Traffic,
    allowed: [Traffic; 2],
    denied: [Traffic; 2],
    denied_ip: String,
}

impl Flows {
    fn start(lab: &Lab) -> Self {
        let pods = lab.pods();
        let ip = |pod: &str| pods[&format!("default/{pod}")].0[0].to_string();
        let target = format!("{}:7000", ip("b"));
        let start = |pod, verb| Traffic::start(&lab.name, pod, &format!("{verb} {target}"));
        Self {
            server: Traffic::start(&lab.name, "b", "serve 7000"),
            allowed: [start("a", "tcp"), start("a", "udp")],
            denied: [start("c", "knock"), start("c", "udp")],
            denied_ip: ip("c"),
        }
    }

    /// What was allowed goes on now.
    fn go_on(&self) {
        for flow in &self.allowed {
            flow.more("answered", 30);
        }
    }

    fn judge(self) {
        for flow in &self.denied {
            // A quick machine is done with its kills before a denied flow tried often.
            flow.until("the denied ones tried", |f| f.count("tried") + f.count("sent") > 40);
        }
        let [tcp, udp] = self.allowed.map(Traffic::stop);
        assert_eq!(tcp["broken"], 0, "{tcp:?}");
        assert_eq!(udp["sent"], udp["answered"], "datagrams of an allowed flow were lost");
        let [knock, denied] = self.denied.map(Traffic::stop);
        assert_eq!((knock["connected"], denied["answered"]), (0, 0));
        let arrived = self.server.stop();
        for kind in ["tcp", "udp"] {
            let key = format!("{kind}-{}", self.denied_ip);
            assert_eq!(arrived.get(&key), None, "packets of a denied flow arrived: {arrived:?}");
        }
        eprintln!("allowed: {tcp:?} {udp:?}; denied: {knock:?} {denied:?}; server: {arrived:?}");
    }
}

/// Makes and removes things until told to stop. Commands may fail: their worker is killed.
fn churn(lab: &str, stop: &AtomicBool) -> u32 {
    let mut done = 0;
    for n in (0..8).cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let all = ["lab", "--lab", lab, "apply", "-f", "-"];
        done += u32::from(podwall(&all, Some(&extra(n))).code == Some(0));
        if n % 2 == 1 {
            let all = ["lab", "--lab", lab, "delete", "-f", "-", "--ignore-not-found"];
            done += u32::from(podwall(&all, Some(&extra(n - 1))).code == Some(0));
        }
    }
    done
}

#[test]
fn enforcement_goes_on_when_the_worker_is_killed_20_times() {
    if !root() {
        return;
    }
    for (seed, network) in [(20_261, "ptp"), (20_262, "bridge")] {
        let lab = Lab::up("killw", &["--nodes", "2", "--network", network]);
        lab.apply(CLUSTER);
        let flows = Flows::start(&lab);
        let mut chance = Chance::new(seed);
        let stop = AtomicBool::new(false);
        let (kills, changes) = thread::scope(|scope| {
            let churn = scope.spawn(|| churn(&lab.name, &stop));
            let mut kills = 0;
            let end = Instant::now() + Duration::from_secs(60);
            while kills < 10 && Instant::now() < end {
                chance.wait(120);
                if let Some(pid) = worker(&lab.name) {
                    kill(pid);
                    kills += 1;
                }
            }
            stop.store(true, Ordering::Relaxed);
            (kills, churn.join().unwrap())
        });
        assert_eq!(kills, 10);
        assert!(changes > 0, "no change went through between the kills");
        flows.go_on();
        all_is_well(&lab, "after 10 killed workers");
        flows.judge();
    }
}

#[test]
fn a_killed_command_does_not_disturb_enforcement() {
    if !root() {
        return;
    }
    let lab = Lab::up("killc", &["--nodes", "2"]);
    lab.apply(CLUSTER);
    let flows = Flows::start(&lab);
    let mut chance = Chance::new(20_263);
    let directory = std::env::temp_dir().join(format!("podwall-kill-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    for round in 0..20 {
        let file = directory.join(format!("{round}.yaml"));
        fs::write(&file, extra(round % 5)).unwrap();
        let file = file.to_str().unwrap();
        let args: &[&str] = match round % 4 {
            0 => &["apply", "-f", file],
            1 => &["delete", "-f", file, "--ignore-not-found"],
            2 => &["up", "-f", file],
            _ => &["exec", "a", "--", "sleep", "5"],
        };
        // Under nohup a program in a pod rightly survives its command; here it must not.
        let mut child = Command::new("env")
            .args(["--default-signal=HUP", env!("CARGO_BIN_EXE_podwall")])
            .args(["lab", "--lab", &lab.name])
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        chance.wait(25);
        let _ = child.kill();
        child.wait().unwrap();
    }
    fs::remove_dir_all(&directory).unwrap();
    flows.go_on();
    all_is_well(&lab, "after 20 killed commands");
    flows.judge();
    // The sleeping programs ended with the commands that ran them.
    let (init, _) = holders(&lab.name);
    let namespace = fs::read_link(format!("/proc/{init}/ns/pid")).unwrap();
    let end = Instant::now() + Duration::from_secs(3);
    loop {
        let comm = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let sleepers = in_pid_namespace(&namespace).iter().filter(|p| comm(p) == "sleep\n").count();
        if sleepers == 0 {
            break;
        }
        assert!(Instant::now() < end, "{sleepers} programs of killed commands still run");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_a_killed_up_left_is_finished_or_removed_by_the_next_command() {
    if !root() {
        return;
    }
    let mut chance = Chance::new(20_264);
    for round in 0..20 {
        let name = format!("killu-{}-{round}", std::process::id());
        let lab = Lab { name: name.clone() };
        let mut child = Command::new(env!("CARGO_BIN_EXE_podwall"))
            .args(["lab", "up", &name, "--nodes", "2"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        chance.wait(if round < 10 { 30 } else { 300 });
        let _ = child.kill();
        child.wait().unwrap();
        if round % 2 == 0 {
            lab.run("up", &["--nodes", "2"], None).ok();
            lab.apply(CLUSTER);
            all_is_well(&lab, "after a killed up");
        }
        podwall(&["lab", "down", &name], None).ok();
        assert!(!lab_dir(&name).exists(), "round {round}: {name} is still there");
        let host = fs::read_to_string("/proc/net/dev").unwrap();
        assert!(!host.contains("fab0"), "the lab was built in the host's network: {host}");
    }
}

#[test]
fn nothing_is_left_when_the_holder_or_the_keeper_is_killed() {
    if !root() {
        return;
    }
    let mut chance = Chance::new(20_265);
    for round in 0..6 {
        let lab = Lab::up("killh", &["--nodes", "2"]);
        lab.apply(CLUSTER);
        let (init, keeper) = holders(&lab.name);
        let namespace = fs::read_link(format!("/proc/{init}/ns/pid")).unwrap();
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let churn = scope.spawn(|| churn(&lab.name, &stop));
            chance.wait(100);
            match round % 3 {
                0 => kill(init),
                1 => {
                    kill(keeper);
                    kill(init);
                }
                _ => {
                    kill(init);
                    kill(keeper);
                }
            }
            stop.store(true, Ordering::Relaxed);
            churn.join().unwrap();
        });
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let left = in_pid_namespace(&namespace);
            if left.is_empty() {
                break;
            }
            assert!(Instant::now() < end, "processes of the lab still run: {left:?}");
            thread::sleep(Duration::from_millis(5));
        }
        let ran = lab.run("get", &["pods"], None);
        assert_eq!(ran.code, Some(2), "{ran}");
        assert!(ran.err.contains("there is no lab"), "{ran}");
        assert!(!lab_dir(&lab.name).exists(), "the next command cleared the directory");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&lab.name), "{mounts}");
        // And a lab of the same name can be made again.
        lab.run("up", &["--nodes", "1"], None).ok();
    }
}

#[test]
fn a_lab_without_its_keeper_works_and_goes() {
    if !root() {
        return;
    }
    let lab = Lab::up("killk", &["--nodes", "2"]);
    kill(holders(&lab.name).1);
    lab.apply(CLUSTER);
    all_is_well(&lab, "without a keeper");
    podwall(&["lab", "down", &lab.name], None).ok();
    assert!(!lab_dir(&lab.name).exists());
}

#[test]
fn an_established_connection_lives_through_100_changes_and_follows_its_policy() {
    if !root() {
        return;
    }
    for network in ["ptp", "bridge"] {
        let lab = Lab::up("estab", &["--nodes", "2", "--network", network]);
        lab.apply(CLUSTER);
        let flows = Flows::start(&lab);
        for n in 0..50 {
            lab.apply(&extra(n % 8));
            lab.run("delete", &["-f", "-"], Some(&extra(n % 8))).ok();
        }
        let [tcp, udp] = &flows.allowed;
        // Denied: both directions of the connection stop at once.
        lab.label(&["pod", "a", "app=other", "--overwrite"]);
        let sent = udp.count("sent");
        udp.until("datagrams are sent still", |udp| udp.count("sent") > sent + 100);
        let (stuck, lost) = (tcp.count("answered"), udp.count("answered"));
        udp.more("sent", 100);
        assert_eq!(tcp.count("answered"), stuck, "a denied connection goes on");
        assert_eq!(udp.count("answered"), lost, "denied datagrams are answered");
        // Allowed again: the same connection goes on, without a lost byte.
        lab.label(&["pod", "a", "app=a", "--overwrite"]);
        flows.go_on();
        let [tcp, _] = flows.allowed.map(Traffic::stop);
        assert_eq!(tcp["broken"], 0);
        assert!(tcp["answered"] > stuck);
    }
}
