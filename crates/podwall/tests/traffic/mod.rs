//! How does traffic run in pods without anybody's help?
//!
//! ```text
//!   test ── podwall lab exec POD -- (this test program) traffic_program ──▶ sends or serves by itself
//!        ◀── a line with its counters every few milliseconds; it ends with its standard input
//! ```
//!
//! The lab's own servers belong to the worker, which these tests kill; so both ends are programs of
//! the test. A file of tests that uses this has a test `traffic_program` that calls [`program`].

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const VARIABLE: &str = "PODWALL_TEST_TRAFFIC";

/// A program that runs in a pod.
pub(crate) struct Traffic {
    child: Child,
    counters: Arc<Mutex<BTreeMap<String, u64>>>,
    reader: Option<JoinHandle<()>>,
}

impl Traffic {
    /// `serve PORT`, `tcp ADDRESS`, `udp ADDRESS` or `knock ADDRESS`; returns when it has begun.
    pub(crate) fn start(lab: &str, pod: &str, what: &str) -> Self {
        let me = std::env::current_exe().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_podwall"))
            .args(["lab", "exec", "--lab", lab, pod, "--"])
            .arg(me)
            .args(["traffic_program", "--exact", "--ignored", "--nocapture"])
            .env(VARIABLE, what)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let counters = Arc::new(Mutex::new(BTreeMap::new()));
        let (seen, out) = (Arc::clone(&counters), child.stdout.take().unwrap());
        let reader = thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                if let Some(words) = line.strip_prefix("TRAFFIC ") {
                    let pairs = words.split(' ').filter_map(|pair| pair.split_once('='));
                    let pairs = pairs.map(|(key, n)| (key.to_owned(), n.parse().unwrap()));
                    *seen.lock().unwrap() = pairs.collect();
                }
            }
        });
        let traffic = Self { child, counters, reader: Some(reader) };
        traffic.until("it runs", |traffic| traffic.count("up") == 1);
        traffic
    }

    /// A counter's last known value; 0 if nothing was counted.
    pub(crate) fn count(&self, counter: &str) -> u64 {
        self.counters.lock().unwrap().get(counter).copied().unwrap_or_default()
    }

    /// Waits until something is so.
    #[track_caller]
    pub(crate) fn until(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(30);
        while !is(self) {
            assert!(Instant::now() < end, "not so after 30 s: {what}; {:?}", self.counters);
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until `more` is added to a counter.
    #[track_caller]
    pub(crate) fn more(&self, counter: &str, more: u64) {
        let goal = self.count(counter) + more;
        self.until(&format!("{counter} is {goal}"), |traffic| traffic.count(counter) >= goal);
    }

    /// Ends the program and gives its last counters.
    pub(crate) fn stop(mut self) -> BTreeMap<String, u64> {
        drop(self.child.stdin.take());
        self.reader.take().unwrap().join().unwrap();
        self.child.wait().unwrap();
        self.counters.lock().unwrap().clone()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program in the pod.
pub(crate) fn program() {
    let what = std::env::var(VARIABLE).expect("run by other tests of this file, in a pod");
    let (verb, target) = what.split_once(' ').unwrap();
    let ended = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&ended);
    thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        stop.store(true, Ordering::Relaxed);
    });
    match verb {
        "serve" => serve(target.parse().unwrap(), &ended),
        "tcp" => tcp(target, &ended),
        "udp" => udp(target, &ended),
        "knock" => knock(target, &ended),
        other => panic!("no traffic {other}"),
    }
}

fn say(counters: &[(&str, u64)]) {
    let words: Vec<String> = counters.iter().map(|(key, n)| format!("{key}={n}")).collect();
    // Standard error is the test's, standard output the pipe.
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "\nTRAFFIC up=1 {}", words.join(" "));
    let _ = out.flush();
}

/// Echoes on TCP and UDP; counts what arrives, by the sender's address.
fn serve(port: u16, ended: &AtomicBool) {
    let any = SocketAddr::from(([0, 0, 0, 0], port));
    let (tcp, udp) = (TcpListener::bind(any).unwrap(), UdpSocket::bind(any).unwrap());
    let seen: Arc<Mutex<BTreeMap<String, u64>>> = Arc::default();
    let count = |kind: &str, from: SocketAddr, seen: &Mutex<BTreeMap<String, u64>>| {
        *seen.lock().unwrap().entry(format!("{kind}-{}", from.ip())).or_default() += 1;
    };
    let counts = Arc::clone(&seen);
    thread::spawn(move || {
        for stream in tcp.incoming().flatten() {
            count("tcp", stream.peer_addr().unwrap(), &counts);
            thread::spawn(move || {
                let (mut from, mut to) = (stream.try_clone().unwrap(), stream);
                let _ = to.set_nodelay(true);
                let _ = std::io::copy(&mut from, &mut to);
            });
        }
    });
    udp.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let (mut buffer, mut said) = ([0; 64], Instant::now());
    say(&[]);
    while !ended.load(Ordering::Relaxed) {
        if let Ok((n, from)) = udp.recv_from(&mut buffer) {
            count("udp", from, &seen);
            let _ = udp.send_to(&buffer[..n], from);
        }
        if said.elapsed() > Duration::from_millis(20) {
            said = Instant::now();
            say_all(&seen);
        }
    }
    say_all(&seen);
}

fn say_all(seen: &Mutex<BTreeMap<String, u64>>) {
    let seen = seen.lock().unwrap();
    let list: Vec<(&str, u64)> = seen.iter().map(|(key, n)| (key.as_str(), *n)).collect();
    say(&list);
}

/// Sends numbers over one connection and reads each back: `answered`, and `broken` if a byte was
/// wrong or the connection ended.
fn tcp(target: &str, ended: &AtomicBool) {
    let mut stream =
        TcpStream::connect_timeout(&target.parse().unwrap(), Duration::from_secs(5)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let (mut answered, mut broken) = (0_u64, 0);
    'all: while !ended.load(Ordering::Relaxed) && broken == 0 {
        let sent = answered.to_be_bytes();
        if stream.write_all(&sent).is_err() {
            broken = 1;
        }
        let (mut back, mut have) = ([0; 8], 0);
        while have < back.len() && broken == 0 {
            match stream.read(&mut back[have..]) {
                Ok(0) => broken = 1,
                Ok(n) => have += n,
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if ended.load(Ordering::Relaxed) {
                        break 'all;
                    }
                }
                Err(_) => broken = 1,
            }
        }
        if back == sent {
            answered += 1;
        } else {
            broken = 1;
        }
        if answered % 8 == 0 {
            say(&[("answered", answered), ("broken", broken)]);
        }
        thread::sleep(Duration::from_millis(1));
    }
    say(&[("answered", answered), ("broken", broken)]);
}

/// Sends datagrams that are echoed: `sent`, `answered`.
fn udp(target: &str, ended: &AtomicBool) {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect(target).unwrap();
    let answers = socket.try_clone().unwrap();
    answers.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let answered = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&answered);
    thread::spawn(move || {
        loop {
            if answers.recv(&mut [0; 64]).is_ok() {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let mut sent = 0;
    while !ended.load(Ordering::Relaxed) {
        // An ICMP error of an earlier one shows here; the datagram was not sent then.
        if socket.send(b"podwall").is_ok() {
            sent += 1;
        }
        if sent % 8 == 0 {
            say(&[("sent", sent), ("answered", answered.load(Ordering::Relaxed))]);
        }
        thread::sleep(Duration::from_millis(2));
    }
    // The last answers are on their way; what is lost never comes.
    let end = Instant::now() + Duration::from_secs(2);
    while answered.load(Ordering::Relaxed) < sent && Instant::now() < end {
        thread::sleep(Duration::from_millis(5));
    }
    say(&[("sent", sent), ("answered", answered.load(Ordering::Relaxed))]);
}

/// Tries to connect again and again: `tried`, `connected`.
fn knock(target: &str, ended: &AtomicBool) {
    let target = target.parse().unwrap();
    let (mut tried, mut connected) = (0, 0);
    while !ended.load(Ordering::Relaxed) {
        tried += 1;
        if TcpStream::connect_timeout(&target, Duration::from_millis(30)).is_ok() {
            connected += 1;
        }
        say(&[("tried", tried), ("connected", connected)]);
        thread::sleep(Duration::from_millis(2));
    }
    say(&[("tried", tried), ("connected", connected)]);
}
