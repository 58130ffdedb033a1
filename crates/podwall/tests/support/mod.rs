//! How do tests have a lab, as a user has one?
//!
//! ```text
//!   Lab::up("word", …) ──▶ podwall lab up … ──▶ apply, delete, label, probe, exec, can ──▶ Drop: lab down
//! ```
//!
//! A black box: the program that the tests were built with, its arguments, its output. Every command
//! has a time limit, and its output is in the message of whatever fails.

#![expect(dead_code, reason = "each file of tests uses the part that it needs")]

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long one command may take; far more than any needs on a busy machine with two cores.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    /// The command line, for messages.
    pub(crate) line: String,
    /// Its exit code; `None` if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    /// Its standard output, if it ended with 0.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert!(self.code == Some(0), "{self}");
        self.out
    }

    /// Its standard output as JSON, if it ended with one of these codes.
    #[track_caller]
    pub(crate) fn json(&self, codes: &[i32]) -> Value {
        assert!(self.code.is_some_and(|code| codes.contains(&code)), "{self}");
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in {self}"))
    }
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, code, out, err } = self;
        write!(f, "`{line}` ended with {code:?}\n--- stdout\n{out}\n--- stderr\n{err}")
    }
}

/// Runs the program. It is killed, and the test fails, if it takes too long.
#[track_caller]
pub(crate) fn podwall(args: &[&str], stdin: Option<&str>) -> Ran {
    let line = format!("podwall {}", args.join(" "));
    let mut child = Command::new(env!("CARGO_BIN_EXE_podwall"))
        .args(args)
        .env_remove("PODWALL_LAB")
        .env_remove("RUST_LOG")
        .stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot run {line}: {error}"));
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let input = child.stdin.take().zip(stdin);
    thread::scope(|scope| {
        scope.spawn(move || {
            if let Some((mut pipe, text)) = input {
                let _ = pipe.write_all(text.as_bytes());
            }
        });
        let read = |pipe: &mut dyn Read| {
            let mut bytes = Vec::new();
            pipe.read_to_end(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let out = scope.spawn(move || read(&mut out));
        let err = scope.spawn(move || read(&mut err));
        let code = wait(&mut child, &line);
        let (out, err) = (out.join().unwrap(), err.join().unwrap());
        Ran { line, code, out, err }
    })
}

#[track_caller]
fn wait(child: &mut Child, line: &str) -> Option<i32> {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        if Instant::now() > end {
            let _ = child.kill();
            let _ = child.wait();
            panic!("`{line}` took longer than {PATIENCE:?}");
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// One row of `lab probe -o json`.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) src: String,
    pub(crate) dst: String,
    pub(crate) src_address: IpAddr,
    pub(crate) dst_address: IpAddr,
    pub(crate) protocol: String,
    pub(crate) port: u16,
    /// `allowed`, `denied` or `unknown`.
    pub(crate) engine: String,
    /// `answered`, `refused`, `dropped` …
    pub(crate) packets: String,
    pub(crate) detail: String,
    pub(crate) agrees: bool,
}

impl Packet {
    fn of(row: &Value) -> Self {
        let text =
            |key: &str| row[key].as_str().unwrap_or_else(|| panic!("no {key} in {row}")).to_owned();
        Self {
            src: text("src"),
            dst: text("dst"),
            src_address: text("srcAddress").parse().unwrap(),
            dst_address: text("dstAddress").parse().unwrap(),
            protocol: text("protocol"),
            port: row["port"].as_u64().and_then(|port| port.try_into().ok()).unwrap(),
            engine: text("engine"),
            packets: text("packets"),
            detail: text("detail"),
            agrees: row["agrees"].as_bool().unwrap(),
        }
    }

    /// Whether it got through: answered, or refused by the very place it was sent to. `None` where
    /// packets told nothing.
    pub(crate) fn passed(&self) -> Option<bool> {
        match self.packets.as_str() {
            "answered" => Some(true),
            // A firewall can refuse too; what arrived was let through.
            "refused" if self.detail.contains("arrived at") => Some(true),
            "dropped" => Some(false),
            _ => None,
        }
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            src,
            dst,
            src_address,
            dst_address,
            protocol,
            port,
            engine,
            packets,
            detail,
            ..
        } = self;
        write!(
            f,
            "{src} ({src_address}) → {dst} ({dst_address}) {protocol} {port}: {packets} ({detail}); \
             the engine says {engine}"
        )
    }
}

/// A lab of this test's own; gone when this is dropped.
pub(crate) struct Lab {
    pub(crate) name: String,
}

impl Lab {
    /// Makes a lab. `args` are those of `lab up`.
    #[track_caller]
    pub(crate) fn up(word: &str, args: &[&str]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let lab = Self { name: format!("{word}-{}-{number}", std::process::id()) };
        // The value exists before the lab does: half a lab is removed too.
        lab.run("up", args, None).ok();
        lab
    }

    /// What it is called.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs a verb of `podwall lab` on this lab.
    #[track_caller]
    pub(crate) fn run(&self, verb: &str, args: &[&str], stdin: Option<&str>) -> Ran {
        let all: Vec<&str> =
            ["lab", "--lab", &self.name, verb].into_iter().chain(args.iter().copied()).collect();
        podwall(&all, stdin)
    }

    /// `lab apply -f -` with YAML or JSON.
    #[track_caller]
    pub(crate) fn apply(&self, text: &str) -> String {
        self.run("apply", &["-f", "-"], Some(text)).ok()
    }

    /// `lab apply` of objects.
    #[track_caller]
    pub(crate) fn apply_all(&self, objects: &[Value]) -> String {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        self.apply(&list.to_string())
    }

    /// `lab delete …`
    #[track_caller]
    pub(crate) fn delete(&self, args: &[&str]) -> String {
        self.run("delete", args, None).ok()
    }

    /// `lab label …`
    #[track_caller]
    pub(crate) fn label(&self, args: &[&str]) -> String {
        self.run("label", args, None).ok()
    }

    /// `lab get … -o json`
    #[track_caller]
    pub(crate) fn get_json(&self, args: &[&str]) -> Value {
        let args: Vec<&str> = args.iter().copied().chain(["-o", "json"]).collect();
        self.run("get", &args, None).json(&[0])
    }

    /// `lab probe … -o json`; also where packets and engine differ.
    #[track_caller]
    pub(crate) fn probe_json(&self, args: &[&str]) -> Vec<Packet> {
        let args: Vec<&str> = args.iter().copied().chain(["-o", "json"]).collect();
        let ran = self.run("probe", &args, None);
        let value = ran.json(&[0, 1]);
        let packets: Vec<Packet> =
            value["probes"].as_array().unwrap().iter().map(Packet::of).collect();
        let wrong = packets.iter().filter(|packet| !packet.agrees).count();
        assert_eq!(value["total"].as_u64(), Some(packets.len() as u64), "{ran}");
        assert_eq!(value["disagreements"].as_u64(), Some(wrong as u64), "{ran}");
        assert_eq!(ran.code, Some(i32::from(wrong > 0)), "{ran}");
        packets
    }

    /// `lab exec POD -- CMD`; a pod of another namespace is `NAMESPACE/POD`.
    #[track_caller]
    pub(crate) fn exec(&self, pod: &str, command: &[&str]) -> Ran {
        let args: Vec<&str> = [pod, "--"].into_iter().chain(command.iter().copied()).collect();
        self.run("exec", &args, None)
    }

    /// `can --lab … SRC DST …`
    #[track_caller]
    pub(crate) fn can(&self, args: &[&str]) -> Ran {
        let all: Vec<&str> =
            ["can", "--lab", &self.name].into_iter().chain(args.iter().copied()).collect();
        podwall(&all, None)
    }

    /// Every pod's addresses and node by `NAMESPACE/POD`.
    #[track_caller]
    pub(crate) fn pods(&self) -> BTreeMap<String, (Vec<IpAddr>, String)> {
        let list = self.get_json(&["pods", "-A"]);
        let of = |pod: &Value| {
            let text =
                |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
            let ips = pod.pointer("/status/podIPs").and_then(Value::as_array);
            let ips =
                ips.into_iter().flatten().map(|ip| ip["ip"].as_str().unwrap().parse().unwrap());
            (
                format!("{}/{}", text("/metadata/namespace"), text("/metadata/name")),
                (ips.collect(), text("/spec/nodeName").to_owned()),
            )
        };
        list["items"].as_array().unwrap().iter().map(of).collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let down = Command::new(env!("CARGO_BIN_EXE_podwall"))
            .args(["lab", "down", &self.name])
            .stdin(Stdio::null())
            .output();
        // A test that fails already must not abort here.
        if let Ok(output) = down
            && !output.status.success()
            && !thread::panicking()
        {
            panic!("lab {} is still there: {}", self.name, String::from_utf8_lossy(&output.stderr));
        }
    }
}

/// Whether this is root, who can have a lab on any kernel; says loudly if not.
pub(crate) fn root() -> bool {
    let root = std::fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0);
    if !root {
        eprintln!("SKIPPED: needs root");
    }
    root
}

/// Fails with every packet that did not do what the engine says.
#[track_caller]
pub(crate) fn all_agree(title: &str, packets: &[Packet]) {
    assert!(!packets.is_empty(), "{title}: no packets");
    let wrong: Vec<String> =
        packets.iter().filter(|packet| !packet.agrees).map(ToString::to_string).collect();
    assert!(
        wrong.is_empty(),
        "{title}: {} of {} packets did not do what the engine says:\n{}",
        wrong.len(),
        packets.len(),
        wrong[..wrong.len().min(30)].join("\n")
    );
}
