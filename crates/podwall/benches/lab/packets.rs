//! What do packets see? This program itself, run in two pods.
//!
//! ```text
//!   tx: send    ── UDP, a number, every 100 µs ────────▶ rx: receive    stretches without a gap
//!   tx: talk    ◀── TCP, one line and its echo ────────▶ rx: answer     retransmissions, longest wait
//! ```
//!
//! Each ends when its standard input does. Both pods have the machine's clock.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The time between two packets.
const EVERY: Duration = Duration::from_micros(100);

/// Nanoseconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Becomes true when standard input ends.
fn end() -> Arc<AtomicBool> {
    let ended = Arc::new(AtomicBool::new(false));
    let sign = Arc::clone(&ended);
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        sign.store(true, Ordering::Relaxed);
    });
    ended
}

/// A counter of the pod's own network namespace: `Udp RcvbufErrors`.
fn counter(group: &str, name: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/net/snmp").unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(&format!("{group}: ")));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return 0 };
    let mut pairs = names.split(' ').zip(values.split(' '));
    pairs.find(|(its, _)| *its == name).and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
}

/// Sends until the end. Prints when each packet was sent, how many there were, and how many the
/// kernel did not take.
pub(crate) fn send(target: &str) {
    let any = if target.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any).unwrap();
    socket.connect(target).unwrap();
    let ended = end();
    println!("ready");
    let (mut times, mut refused) = (Vec::<u64>::new(), 0_u64);
    let mut next = Instant::now();
    while !ended.load(Ordering::Relaxed) {
        let packet = (times.len() as u64).to_le_bytes();
        times.push(now());
        // An error that came back for an earlier packet (port closed) is reported here, once.
        refused += u64::from(socket.send(&packet).is_err());
        next += EVERY;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let sent = times.len();
    let times: Vec<String> = times.iter().map(u64::to_string).collect();
    println!("times {}\nsent {sent} refused {refused}", times.join(" "));
}

/// Receives until the end. Prints the first and the last number of each stretch of consecutive
/// ones, then how many came and how many this socket had no room for.
pub(crate) fn receive(port: &str) {
    let port: u16 = port.parse().unwrap();
    let socket = UdpSocket::bind(("::", port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let before = counter("Udp", "RcvbufErrors");
    let ended = end();
    println!("ready");
    let mut stretch: Option<(u64, u64)> = None;
    let mut received = 0_u64;
    let mut out = String::new();
    let mut packet = [0; 8];
    while !ended.load(Ordering::Relaxed) {
        let Ok(8) = socket.recv(&mut packet) else { continue };
        received += 1;
        let number = u64::from_le_bytes(packet);
        stretch = Some(match stretch {
            Some((first, last)) if last + 1 == number => (first, number),
            Some((first, last)) => {
                out += &format!("stretch {first} {last}\n");
                (number, number)
            }
            None => (number, number),
        });
    }
    if let Some((first, last)) = stretch {
        out += &format!("stretch {first} {last}\n");
    }
    println!("{out}received {received} overflow {}", counter("Udp", "RcvbufErrors") - before);
}

/// One line and its echo after another on one connection. Prints how many, how many segments had
/// to be sent again, and the longest wait in microseconds.
pub(crate) fn talk(target: &str) {
    let mut stream = TcpStream::connect(target).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let before = counter("Tcp", "RetransSegs");
    let ended = end();
    println!("ready");
    let (mut answered, mut longest, mut broken) = (0_u64, Duration::ZERO, 0);
    while !ended.load(Ordering::Relaxed) {
        let since = Instant::now();
        let mut answer = [0; 64];
        if stream.write_all(&[7; 64]).and_then(|()| stream.read_exact(&mut answer)).is_err() {
            broken = 1;
            break;
        }
        answered += 1;
        longest = longest.max(since.elapsed());
        std::thread::sleep(Duration::from_micros(500));
    }
    let again = counter("Tcp", "RetransSegs") - before;
    println!("answered {answered} again {again} longest {} broken {broken}", longest.as_micros());
}

/// Echoes one connection.
pub(crate) fn answer(port: &str) {
    let port: u16 = port.parse().unwrap();
    let listener = TcpListener::bind(("::", port)).unwrap();
    println!("ready");
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_nodelay(true).unwrap();
    let mut buffer = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
}
