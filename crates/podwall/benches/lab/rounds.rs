//! What is done in a round, and what is timed of it?
//!
//! ```text
//!   up ─▶ 1,000 policies ─▶ away ─▶ again ─┬─ last round: single changes, packets beside them
//!                                          └─ last round: 100 policies come and go, nothing is lost
//! ```

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use podwall_lab::rpc::{Query, Request};
use serde_json::Value;

use crate::Options;
use crate::cluster::{self, PODS, PORT, STEADY};
use crate::connection::{Connection, apply};
use crate::packets::now;
use crate::report::{Found, Measure};
use crate::spread::{Spread, words};

/// Policies that come and go while a connection runs.
const PASSING: usize = 100;

/// The time between two single changes, so that packets tell one from the next.
const PAUSE: Duration = Duration::from_millis(30);

/// All rounds on all networks, and what needs no lab.
pub(crate) fn run(options: &Options) -> Vec<Measure> {
    let mut measures = Vec::new();
    for network in &options.networks {
        on(options, network, &mut measures);
    }
    measures.push(evaluator(options));
    measures
}

fn on(options: &Options, network: &str, measures: &mut Vec<Measure>) {
    let [mut up, mut as_process, mut as_call, mut down] =
        std::array::from_fn(|_| Spread::default());
    for round in 1..=options.rounds {
        let say = |what: &str, time: Duration| {
            let time = words(time.as_secs_f64());
            eprintln!("  {network}, round {round} of {}: {what} {time}", options.rounds);
        };
        let lab = Lab { name: options.lab.clone(), podwall: podwall() };
        let took = lab.run(&["up", "--network", network, "-f", "-"], &cluster::pods());
        say(&format!("3 nodes, {PODS} pods up"), took);
        up.push(took);
        lab.run(&["apply", "-f", "-"], &cluster::steady());
        let policies = cluster::policies(options.policies);
        let took = lab.run(&["apply", "-f", "-"], &policies);
        say(&format!("{} policies applied", options.policies), took);
        as_process.push(took);
        lab.run(&["delete", "-f", "-"], &policies);
        let mut connection = Connection::open(&lab.name);
        let request = apply(&policies);
        let called = Instant::now();
        connection.call(&request);
        as_call.push(called.elapsed());
        say("the same through a connection that stays", called.elapsed());
        if round == options.rounds {
            changes(options, network, &lab, &mut connection, measures);
            nothing_lost(network, &lab, &mut connection, measures);
        }
        drop(connection);
        let called = Instant::now();
        drop(lab);
        down.push(called.elapsed());
    }
    let policies = options.policies;
    let mut times = |words: String, target: Option<f64>, spread: Spread| {
        measures.push(Measure::new(network, words, target, Found::Times(spread)));
    };
    times(format!("lab up: 3 nodes, {PODS} pods"), Some(20.0), up);
    times(format!("lab apply: {policies} policies"), Some(1.0), as_process);
    times(format!("{policies} policies, call to return"), Some(1.0), as_call);
    times("lab down".into(), None, down);
}

/// One policy is changed again and again; a sender looks on.
fn changes(
    options: &Options,
    network: &str,
    lab: &Lab,
    connection: &mut Connection,
    measures: &mut Vec<Measure>,
) {
    let requests = [false, true].map(|open| apply(&cluster::change(open)));
    connection.call(&requests[0]);
    let target = format!("{}:{PORT}", address(connection));
    let receiver = lab.exec("ns-0", "rx", &["receive", &PORT.to_string()]);
    let sender = lab.exec("ns-1", "tx", &["send", &target]);
    std::thread::sleep(PAUSE * 5);
    let mut calls = Spread::default();
    let mut called_at = Vec::new();
    for number in 1..=options.changes + 1 {
        called_at.push(now());
        let called = Instant::now();
        connection.call(&requests[number % 2]);
        calls.push(called.elapsed());
        std::thread::sleep(PAUSE);
    }
    let times = sender.end();
    std::thread::sleep(PAUSE);
    let seen = first_followed(&called_at, &times, &receiver.end());
    let mut processes = Spread::default();
    for number in 0..30 {
        processes.push(lab.run(&["apply", "-f", "-"], &cluster::change(number % 2 == 0)));
    }
    eprintln!(
        "  {network}: one change {} (call), {} (process), {} (until a packet followed)",
        words(calls.median()),
        words(processes.median()),
        words(seen.median())
    );
    let target = Some(0.01);
    for (words, target, spread) in [
        ("one policy changed, call to return", target, calls),
        ("one policy changed, call to first packet that follows", target, seen),
        ("one policy changed, by `lab apply`", None, processes),
    ] {
        measures.push(Measure::new(network, words.into(), target, Found::Times(spread)));
    }
}

/// From each change to the sending of the first packet that follows it. Changes take turns, opening
/// first.
fn first_followed(called_at: &[u64], sent: &str, received: &str) -> Spread {
    let times = sent.lines().find_map(|line| line.strip_prefix("times ")).unwrap_or_default();
    let times: Vec<u64> = times.split(' ').filter_map(|time| time.parse().ok()).collect();
    let stretches: Vec<(usize, usize)> = received
        .lines()
        .filter_map(|line| line.strip_prefix("stretch ")?.split_once(' '))
        .filter_map(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)))
        .collect();
    let mut out = Spread::default();
    for (number, pair) in called_at.windows(2).enumerate() {
        let (from, next) = (pair[0], pair[1]);
        let time =
            |packet: usize| times.get(packet).copied().filter(|at| (from..next).contains(at));
        let found = if number % 2 == 0 {
            // Opened: the first that came.
            stretches.iter().find_map(|(first, _)| time(*first))
        } else {
            // Closed: the first that did not come, behind the last that did.
            stretches.iter().rev().find_map(|(_, last)| time(*last + 1))
        };
        match found {
            Some(at) => out.push(Duration::from_nanos(at - from)),
            None => eprintln!("  change {number}: no packet followed it within {PAUSE:?}"),
        }
    }
    out
}

/// Policies come and go, one call each, while UDP packets and a TCP connection run.
fn nothing_lost(
    network: &str,
    lab: &Lab,
    connection: &mut Connection,
    measures: &mut Vec<Measure>,
) {
    let port = STEADY.to_string();
    let target = format!("{}:{STEADY}", address(connection));
    let receiver = lab.exec("ns-0", "rx", &["receive", &port]);
    let server = lab.exec("ns-0", "rx", &["answer", &port]);
    let sender = lab.exec("ns-1", "tx", &["send", &target]);
    let client = lab.exec("ns-1", "tx", &["talk", &target]);
    let all = cluster::passing(PASSING);
    let mut changes = 0;
    for text in all.split("---\n").filter(|text| !text.is_empty()) {
        connection.call(&apply(text));
        changes += 1;
    }
    for number in 0..PASSING {
        let query = Query {
            kind: "NetworkPolicy".into(),
            namespace: None,
            name: Some(format!("passing-{number}")),
            selector: None,
        };
        connection.call(&Request::Delete { queries: vec![query], ignore_not_found: false });
        changes += 1;
    }
    let sent = field(&sender.end(), "sent");
    std::thread::sleep(PAUSE);
    let came = receiver.end();
    let talked = client.end();
    drop(server.end());
    let (received, overflow) = (field(&came, "received"), field(&came, "overflow"));
    let lost = sent.saturating_sub(received + overflow);
    let words = format!("UDP packets lost by the firewall while policies change {changes} times");
    let note = format!("{sent} sent, {overflow} found the receiver's buffer full");
    eprintln!("  {network}: {lost} {words} ({note}); TCP: {}", talked.trim());
    measures.push(Measure::new(network, words, Some(0.0), Found::Count(lost, note)));
    let words = format!("TCP segments sent again while policies change {changes} times");
    let note = format!("{} lines answered", field(&talked, "answered"));
    let again = field(&talked, "again") + field(&talked, "broken");
    measures.push(Measure::new(network, words, Some(0.0), Found::Count(again, note)));
}

/// The number behind a word.
fn field(text: &str, name: &str) -> u64 {
    let mut words = text.split_whitespace();
    words.find(|word| *word == name);
    words.next().and_then(|word| word.parse().ok()).unwrap_or(u64::MAX / 2)
}

fn address(connection: &mut Connection) -> String {
    let query = Query {
        kind: "Pod".into(),
        namespace: Some("ns-0".into()),
        name: Some("rx".into()),
        selector: None,
    };
    let found = connection.call(&Request::Get { query });
    let address = found.pointer("/0/object/status/podIP").and_then(Value::as_str);
    address.unwrap_or_else(|| unreachable!("rx has no address: {found}")).to_owned()
}

/// How often the reference evaluator answers for a pair of pods, all protocols and ports at once.
fn evaluator(options: &Options) -> Measure {
    use podwall_policy::evaluate::evaluate;
    use podwall_policy::flow::{Flow, Party};
    let text = cluster::pods() + &cluster::steady() + &cluster::policies(options.policies);
    let input = podwall_manifest::Input::Text { name: "bench.yaml".into(), text };
    let mut cluster = podwall_manifest::read(&[input], &Default::default()).cluster();
    for (number, pod) in cluster.pods.values_mut().enumerate() {
        pod.ips =
            format!("10.244.{}.{}", number % 3 + 1, number / 3 + 2).parse().into_iter().collect();
    }
    let pods: Vec<_> = cluster.pods.values().map(Party::Pod).collect();
    let since = Instant::now();
    let mut answers = 0_u64;
    let mut pairs = pods.iter().flat_map(|src| pods.iter().rev().map(move |dst| (*src, *dst)));
    while since.elapsed() < Duration::from_secs(2) {
        let Some((src, dst)) = pairs.next() else { break };
        for flow in Flow::between(src, dst) {
            std::hint::black_box(evaluate(&cluster, &flow));
            answers += 1;
        }
    }
    let rate = answers as f64 / since.elapsed().as_secs_f64();
    let words = format!("evaluator: pairs a second, {PODS} pods, {} policies", options.policies);
    Measure::new("", words, None, Found::Rate(rate))
}

/// The program that is measured.
pub(crate) fn podwall() -> PathBuf {
    std::env::var_os("PODWALL").map_or_else(|| env!("CARGO_BIN_EXE_podwall").into(), Into::into)
}

/// A lab of ours; removed when it is dropped.
struct Lab {
    name: String,
    podwall: PathBuf,
}

impl Lab {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.podwall);
        command.args(["lab", "--lab", &self.name]).stdin(Stdio::piped()).stdout(Stdio::piped());
        command
    }

    /// Runs a verb with this on standard input; how long it took.
    fn run(&self, arguments: &[&str], input: &str) -> Duration {
        let called = Instant::now();
        let mut child = self.command().args(arguments).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let took = called.elapsed();
        assert!(output.status.success(), "podwall lab {arguments:?}: {}", output.status);
        took
    }

    /// Runs this program in a pod; returns when it is ready.
    fn exec(&self, namespace: &str, pod: &str, mode: &[&str]) -> InPod {
        let this = std::env::current_exe().unwrap();
        let mut command = self.command();
        let mut child = command
            .args(["exec", "-n", namespace, pod, "--"])
            .arg(this)
            .args(mode)
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "{mode:?} in {pod}");
        InPod { child, out }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let mut command = self.command();
        let _ = command.arg("down").stdin(Stdio::null()).output();
    }
}

/// This program, at work in a pod.
struct InPod {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
}

impl InPod {
    /// Lets it end, and gives what it printed.
    fn end(mut self) -> String {
        drop(self.child.stdin.take());
        let mut text = String::new();
        std::io::Read::read_to_string(&mut self.out, &mut text).unwrap();
        self.child.wait().unwrap();
        text
    }
}
