//! What does Podwall do, shown in a few seconds with real packets?
//!
//! ```text
//!   a lab that dies with this process
//!     1 three tiers on three nodes, DNS, an outside client      probe every pair
//!     2 traffic: web → app (to be allowed), web → db (not)      requests, one after another
//!     3 apply the policies meanwhile                            time until the kernel enforces
//!     4 probe again                                             packets beside what the engine said
//! ```
//!
//! Everything lives in the lab's own namespaces, which end with this process, however it ends:
//! nothing has to be cleaned up, so nothing can be left.

mod matrices;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use podwall_lab::client::Client;
use podwall_lab::holder::{Holder, StartOptions};
use podwall_lab::plan::Families;
use podwall_lab::rpc::{Change, LabConfig, NetworkMode, ProbeRequest, Query, Request, Shown};
use podwall_lab::trial::Finding;
use podwall_manifest::{Input, Options};

use crate::lab::{lifecycle, manifests, probe};
use crate::output::FAILED;

/// The founding documents' application and policies, as `examples/three-tier` has them.
const APP: [(&str, &str); 2] = [
    ("app/pods.yaml", include_str!("../../../examples/three-tier/app/pods.yaml")),
    ("app/services.yaml", include_str!("../../../examples/three-tier/app/services.yaml")),
];
const POLICIES: [(&str, &str); 3] = [
    (
        "policies/web-policy.yaml",
        include_str!("../../../examples/three-tier/policies/web-policy.yaml"),
    ),
    (
        "policies/app-policy.yaml",
        include_str!("../../../examples/three-tier/policies/app-policy.yaml"),
    ),
    (
        "policies/db-policy.yaml",
        include_str!("../../../examples/three-tier/policies/db-policy.yaml"),
    ),
];

/// Who sends in the matrices, and how a row calls them.
const SOURCES: [(&str, &str); 4] = [
    ("default/web-pod", "web-pod"),
    ("default/app-pod", "app-pod"),
    ("default/db-pod", "db-pod"),
    ("203.0.113.7", "outside"),
];

/// How long the traffic runs before and after the policies come.
const TRAFFIC: Duration = Duration::from_millis(350);

/// The hidden command that sends one request after another, see [`traffic`].
pub(crate) const TRAFFIC_COMMAND: &str = "demo-traffic";

/// Runs the demonstration. Exit code 0 only if every packet did what the engine said.
pub(crate) fn run() -> Result<ExitCode> {
    match show() {
        // Nobody reads the result, so nobody is told; but it was not shown either.
        Err(error) if is_hung_up(&error) => Ok(ExitCode::from(FAILED)),
        shown => shown,
    }
}

fn show() -> Result<ExitCode> {
    let started = Instant::now();
    let name = format!("demo-{}", std::process::id());
    let config = LabConfig {
        name: name.clone(),
        nodes: (1..=3).map(|n| format!("node-{n}")).collect(),
        network: NetworkMode::Ptp,
        families: Families::Dual,
        externals: Vec::new(),
        enforce: true,
        dataplane: String::new(),
        limits: String::new(),
        mirrors: None,
    };
    let holder = lifecycle::start(&name, &config, StartOptions { die_with_parent: true })?;
    let connected = Client::connect_or_start(&name, &holder);
    let lab = DemoLab(Some(holder));
    let mut client = connected?;
    apply(&mut client, &APP)?;
    let places = places(&mut client)?;
    say(&format!(
        "A cluster of three nodes on this machine, in {:.1} s: network namespaces, real packets.",
        started.elapsed().as_secs_f64()
    ))?;
    say(&places)?;

    say("1  No policy yet: everybody reaches everybody.")?;
    let before = matrix(&mut client)?;

    say("2  Policies come while traffic runs.")?;
    let mut allowed = Traffic::start(&name, "web-pod", "app-service:5000")?;
    let mut denied = Traffic::start(&name, "web-pod", "db-service:3306")?;
    std::thread::sleep(TRAFFIC);
    let called = Instant::now();
    for policy in &POLICIES {
        apply(&mut client, std::slice::from_ref(policy))?;
    }
    let enforced = called.elapsed();
    std::thread::sleep(TRAFFIC);
    let (allowed, denied) = (allowed.stop()?, denied.stop()?);
    say(&format!(
        "   web-policy, app-policy and db-policy enforced in {:.1} ms\n   \
            web → app  {allowed}\n   web → db   {denied}",
        enforced.as_secs_f64() * 1e3
    ))?;

    say("3  The same packets again, beside what the engine says.\n")?;
    let after = matrix(&mut client)?;
    write!(anstream::stdout(), "{}", matrices::side_by_side(&SOURCES, &before, &after))?;

    let troubles = troubles(&before, &after, allowed, denied);
    let all: Vec<Finding> = before.into_iter().chain(after).collect();
    let mut out = anstream::stdout();
    write!(out, "\n{}", probe::verdict(&all, started.elapsed().as_secs_f64()))?;
    for trouble in &troubles {
        writeln!(out, "{trouble}")?;
    }
    drop(client);
    lab.end()?;
    Ok(ExitCode::from(u8::from(!troubles.is_empty())))
}

/// Everything that contradicts the engine; nothing, if the demonstration shows what it says.
fn troubles(before: &[Finding], after: &[Finding], allowed: Sent, denied: Sent) -> Vec<String> {
    let mut found = Vec::new();
    let wrong = before.iter().chain(after).filter(|f| !f.agrees).count();
    if wrong > 0 {
        found.push(format!("{wrong} packets did not do what the engine says"));
    }
    // No packets, no proof.
    if before.is_empty() || before.len() != after.len() {
        found.push(format!(
            "{} packets were tried before the policies and {} with them: some are missing",
            before.len(),
            after.len()
        ));
    }
    if allowed.lost > 0 || allowed.answered == 0 {
        found.push("web → app is allowed, but its connection did not keep running".to_owned());
    }
    if !denied.cut || denied.answered == 0 {
        found.push("web → db is denied, but its connection was not cut".to_owned());
    }
    found
}

/// The demonstration's lab: ended also where something fails halfway.
struct DemoLab(Option<Holder>);

impl DemoLab {
    fn end(mut self) -> Result<()> {
        self.0.take().map_or(Ok(()), |holder| Ok(holder.stop()?))
    }
}

impl Drop for DemoLab {
    fn drop(&mut self) {
        if let Some(holder) = self.0.take() {
            let _ = holder.stop(); // there is another error to tell
        }
    }
}

/// Whether an error says that nobody reads any more (`| head -1`).
fn is_hung_up(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    causes.any(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}

fn say(text: &str) -> Result<()> {
    let mut out = anstream::stdout();
    Ok(writeln!(out, "{text}").and_then(|()| out.flush())?)
}

fn apply(client: &mut Client, texts: &[(&str, &str)]) -> Result<()> {
    let inputs: Vec<Input> = texts
        .iter()
        .map(|(name, text)| Input::Text { name: (*name).to_owned(), text: (*text).to_owned() })
        .collect();
    let reading = podwall_manifest::read(&inputs, &Options::default());
    if reading.has_errors() {
        bail!("{}", podwall_manifest::render_all(&reading.diagnostics, false));
    }
    let objects = manifests(reading.objects);
    client.call::<Vec<Change>>(&Request::Apply { objects })?;
    Ok(())
}

/// A line for each pod: where it is.
fn places(client: &mut Client) -> Result<String> {
    let query = Query { kind: "Pod".to_owned(), namespace: None, name: None, selector: None };
    let pods: Vec<Shown> = client.call(&Request::Get { query })?;
    let mut out = String::new();
    for pod in &pods {
        let text = |pointer| {
            pod.object.pointer(pointer).and_then(serde_json::Value::as_str).unwrap_or("-")
        };
        out.push_str(&format!(
            "   {:<26} {:<12} {}\n",
            text("/metadata/name"),
            text("/status/podIP"),
            text("/spec/nodeName")
        ));
    }
    out.push_str(&format!("   {:<26} {:<12} beyond the nodes\n", "outside client", "203.0.113.7"));
    Ok(out)
}

/// Packets for all pairs on every port that somebody serves.
fn matrix(client: &mut Client) -> Result<Vec<Finding>> {
    let request = ProbeRequest {
        sources: SOURCES.iter().map(|(name, _)| (*name).to_owned()).collect(),
        namespace: "default".to_owned(),
        outside: false,
        ..ProbeRequest::default()
    };
    probe::send(client, request)
}

/// A client in a pod that sends one request after another.
struct Traffic {
    child: Child,
}

/// What became of its requests.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    answered: u64,
    lost: u64,
    /// Requests stopped being answered and none was answered afterwards.
    cut: bool,
}

impl std::fmt::Display for Sent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.lost, self.cut) {
            (0, _) => write!(f, "{} requests on one connection, none lost", self.answered),
            (_, true) => write!(f, "{} requests on one connection, then cut off", self.answered),
            (lost, false) => write!(f, "{} requests answered, {lost} lost", self.answered),
        }
    }
}

impl Traffic {
    fn start(lab: &str, pod: &str, target: &str) -> Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .args([
                "lab",
                "exec",
                "--lab",
                lab,
                pod,
                "--",
                "/proc/self/exe",
                TRAFFIC_COMMAND,
                target,
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start a client in a pod")?;
        // Its first line says that the connection stands.
        let mut line = String::new();
        let stdout = child.stdout.as_mut().context("no output of the client")?;
        let mut byte = [0];
        while stdout.read(&mut byte)? == 1 && byte[0] != b'\n' {
            line.push(char::from(byte[0]));
        }
        if line != "connected" {
            bail!("{pod} cannot connect to {target} although nothing is denied yet: {line}");
        }
        Ok(Self { child })
    }

    fn stop(&mut self) -> Result<Sent> {
        drop(self.child.stdin.take()); // its sign to end
        let mut sent = Sent::default();
        let stdout = self.child.stdout.take().context("no output of the client")?;
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            let mut words = line.split(' ');
            let mut number = || words.next().and_then(|w| w.parse().ok()).unwrap_or(0);
            sent = Sent { answered: number(), lost: number(), cut: number() == 1 };
        }
        self.child.wait()?;
        Ok(sent)
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `podwall demo-traffic HOST:PORT`, run inside a pod: sends requests over one connection until
/// standard input ends. Prints `connected`, and at the end `ANSWERED LOST CUT`.
pub(crate) fn traffic(target: &str) -> Result<ExitCode> {
    match send_all(target) {
        Err(error) if is_hung_up(&error) => Ok(ExitCode::from(FAILED)), // the demonstration ended
        sent => sent,
    }
}

fn send_all(target: &str) -> Result<ExitCode> {
    let (host, port) = target.rsplit_once(':').context("HOST:PORT is wanted")?;
    let address: SocketAddr = resolve(host, port.parse().context("a port is wanted")?)?;
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    say("connected")?;
    let (ended, stop) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        drop(ended);
    });
    let mut sent = Sent::default();
    let mut silent = false;
    while stop.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
        match request(&mut stream, host) {
            Ok(()) => {
                sent.answered += 1;
                if silent {
                    silent = false;
                }
            }
            Err(error) if is_silence(&error) => {
                sent.lost += 1;
                silent = true;
            }
            Err(_) => {
                sent.lost += 1;
                break;
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    sent.cut = silent;
    say(&format!("{} {} {}", sent.answered, sent.lost, u8::from(sent.cut)))?;
    Ok(ExitCode::SUCCESS)
}

fn is_silence(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}

/// IPv4 first: the policies of the documents name IPv4 blocks.
fn resolve(host: &str, port: u16) -> Result<SocketAddr> {
    use std::net::ToSocketAddrs;
    let found: Vec<SocketAddr> =
        (host, port).to_socket_addrs().with_context(|| format!("{host} has no address"))?.collect();
    let v4 = found.iter().find(|a| matches!(a.ip(), IpAddr::V4(_)));
    v4.or_else(|| found.first()).copied().with_context(|| format!("{host} has no address"))
}

/// One request and its whole answer, on a connection that stays.
fn request(stream: &mut TcpStream, host: &str) -> std::io::Result<()> {
    write!(stream, "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: keep-alive\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        answer.extend_from_slice(&buffer[..n]);
        if is_whole(&answer) {
            return Ok(());
        }
    }
}

/// Whether an HTTP answer with a Content-Length is there to its last byte.
fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    length.is_some_and(|length| body.len() >= length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_finding(agrees: bool) -> Finding {
        Finding {
            src: "default/a".to_owned(),
            dst: "default/b".to_owned(),
            src_address: "10.244.1.2".parse().unwrap(),
            dst_address: "10.244.1.3".parse().unwrap(),
            protocol: "TCP".to_owned(),
            port: 80,
            engine: "allowed".to_owned(),
            packets: if agrees { "answered" } else { "dropped" }.to_owned(),
            passed: Some(agrees),
            detail: String::new(),
            agrees,
        }
    }

    #[test]
    fn one_packet_or_one_connection_that_contradicts_the_engine_is_a_trouble() {
        let (right, wrong) = ([mk_finding(true)], [mk_finding(false)]);
        let allowed = Sent { answered: 9, lost: 0, cut: false };
        let denied = Sent { answered: 9, lost: 1, cut: true };
        let none: Vec<String> = Vec::new();
        assert_eq!(troubles(&right, &right, allowed, denied), none);
        for (before, after, allowed, denied) in [
            (&wrong[..], &right[..], allowed, denied),
            (&right[..], &wrong[..], allowed, denied),
            (&[], &[], allowed, denied),
            (&right[..], &[], allowed, denied),
            (&right[..], &right[..], Sent { lost: 1, ..allowed }, denied),
            (&right[..], &right[..], Sent { answered: 0, ..allowed }, denied),
            (&right[..], &right[..], allowed, Sent { cut: false, ..denied }),
        ] {
            assert_eq!(troubles(before, after, allowed, denied).len(), 1);
        }
    }
}
