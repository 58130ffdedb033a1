//! What does the guard of source addresses cost a packet, and what its own changes?
//!
//! ```text
//!   pod ── UDP, 500 a turn ──▶ host end: nothing, nothing again, a guard among 100 others
//! ```
//!
//! Time of the sending thread, on whose account the kernel looks at the packet, too; all in turns, so
//! that what else the machine does falls on all alike. The host throws packets away right behind the
//! guard: they are for a hardware address that is not its own. Needs root.
#![expect(clippy::expect_used, reason = "a bench that cannot go on stops")]

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns, unshare};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use podwall_dataplane::guard::{Allowed, Config, Guard, Interface};

const TURNS: usize = 400;
const PACKETS: usize = 500;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x11];

/// A network namespace.
fn namespace() -> File {
    let make = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("needs root");
        File::open("/proc/thread-self/ns/net").expect("the namespace")
    };
    thread::spawn(make).join().expect("a thread")
}

fn within<T: Send>(net: &File, work: impl FnOnce() -> T + Send) -> T {
    let inside = || {
        setns(net, CloneFlags::CLONE_NEWNET).expect("the namespace");
        work()
    };
    thread::scope(|scope| scope.spawn(inside).join().expect("a thread"))
}

fn ip(net: &File, lines: &str) {
    within(net, || {
        let mut child = Command::new("ip")
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("ip (Debian package iproute2)");
        let mut input = child.stdin.take().expect("its input");
        std::io::Write::write_all(&mut input, lines.as_bytes()).expect("its input");
        drop(input);
        assert!(child.wait().expect("ip").success(), "{lines}");
    });
}

fn interface(net: &File, name: &str) -> Interface {
    let index = within(net, || if_nametoindex(name).expect("an interface"));
    Interface { index, name: name.to_owned() }
}

/// Nanoseconds that this thread has run.
fn run_time() -> f64 {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock");
    Duration::from(time).as_secs_f64() * 1e9
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let mut cpu = CpuSet::new();
    cpu.set(0).expect("a processor");
    sched_setaffinity(Pid::from_raw(0), &cpu).expect("a processor");
    let node = namespace();
    let names = ["nothing", "nothing again", "guard"];
    let pods = [(); 3].map(|()| namespace());
    for (number, pod) in pods.iter().enumerate() {
        let path = format!("/proc/{}/fd/{}", std::process::id(), pod.as_raw_fd());
        ip(
            &node,
            &format!(
                "link add v{number} type veth peer name eth0 address 02:00:00:00:00:11 \
                 netns {path}\nlink set v{number} up\n"
            ),
        );
        ip(
            pod,
            "link set eth0 up\naddr add 10.0.0.11/24 dev eth0\naddr add fd00::b/64 dev eth0 nodad\n\
             neigh add 10.0.0.99 lladdr 02:00:00:00:00:99 dev eth0 nud permanent\n\
             neigh add fd00::99 lladdr 02:00:00:00:00:99 dev eth0 nud permanent\n",
        );
    }
    let mut lines = String::new();
    for other in 0..100 {
        lines += &format!("link add w{other} type veth peer name x{other}\n");
    }
    ip(&node, &lines);
    let mut guard = within(&node, || Guard::open(Config::default()).expect("a guard"));
    let own: [IpAddr; 2] = [Ipv4Addr::new(10, 0, 0, 11).into(), {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0xb).into()
    }];
    let mut wanted = BTreeMap::new();
    for other in 0..100 {
        let addresses = vec![Ipv4Addr::new(10, 0, 1, other).into()];
        let allowed = Allowed { addresses, mac: Some(MAC) };
        wanted.insert(interface(&node, &format!("w{other}")), allowed);
    }
    let guarded = interface(&node, "v2");
    let allowed = Allowed { addresses: own.to_vec(), mac: Some(MAC) };
    wanted.insert(guarded.clone(), allowed.clone());
    let start = Instant::now();
    assert!(guard.set(&wanted).expect("guarded").is_empty());
    println!("guard 101 interfaces: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);

    for (family, to) in [("IPv4", "10.0.0.99"), ("IPv6", "fd00::99")] {
        let to = SocketAddr::new(to.parse().expect("an address"), 9);
        let any: IpAddr =
            if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let sockets =
            pods.each_ref().map(|pod| within(pod, || UdpSocket::bind((any, 0)).expect("a socket")));
        let mut times = [(); 3].map(|()| Vec::with_capacity(TURNS));
        for turn in 0..TURNS + 10 {
            for place in 0..3 {
                let number = (place + turn) % 3;
                let start = run_time();
                for _ in 0..PACKETS {
                    sockets[number].send_to(b"sixteen bytes on", to).expect("a packet");
                }
                if turn >= 10 {
                    times[number].push((run_time() - start) / PACKETS as f64);
                }
            }
        }
        let mut differences = |number: usize| {
            let pairs = times[number].iter().zip(&times[0]);
            median(&mut pairs.map(|(time, bare)| time - bare).collect::<Vec<f64>>())
        };
        let more = [0, 1, 2].map(&mut differences);
        for (number, name) in names.iter().enumerate() {
            let all = median(&mut times[number].clone());
            println!("{family} {name:14} {all:6.0} ns a packet, {:+5.0} ns", more[number]);
        }
    }
    let dropped = guard.dropped().expect("counters");
    assert!(dropped.values().sum::<u64>() < 10, "own packets were dropped: {dropped:?}");

    let mut other = allowed.clone();
    other.addresses.push(Ipv4Addr::new(192, 0, 2, 7).into());
    let mut changes: [(&str, Vec<f64>); 3] = [
        ("one address more", vec![]),
        ("an interface less", vec![]),
        ("an interface more", vec![]),
    ];
    for _ in 0..200 {
        for (what, times) in &mut changes {
            let start = Instant::now();
            let done = match *what {
                "one address more" => guard.add(&guarded, &other),
                "an interface less" => guard.remove(&guarded),
                _ => guard.add(&guarded, &allowed),
            };
            done.expect("a change");
            times.push(start.elapsed().as_secs_f64() * 1e6);
        }
    }
    for (what, times) in &mut changes {
        println!("{what}: {:.0} µs, of 101", median(times));
    }
}
