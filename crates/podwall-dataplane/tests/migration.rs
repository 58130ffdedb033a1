//! Is what an earlier process left taken over without a gap, whatever it is: an older layout, pieces
//! that are missing, a start that was killed, files of others?
//!
//! ```text
//!   allowed stream ─────────────────▶ every packet arrives
//!   denied stream  ─────────────────▶ none does          while the next process starts
//! ```

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests stops the test")]

mod support;

use std::ffi::OsString;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use libbpf_rs::{MapHandle, MapType, libbpf_sys};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use podwall_compile::tables::{NodeTables, PortKey, SubjectId, Verdict, VerdictKey};
use podwall_dataplane::{DataPlane, Ebpf, ebpf};
use podwall_policy::policy::Direction;
use podwall_policy::port::Protocol;
use support::random::Dice;
use support::{Wiring, World};

const ALLOWED: u16 = 7001;
const DENIED: u16 = 7002;

/// Pod 2 lets pod 1 in by UDP on one port. The same for every world.
fn one_port() -> NodeTables {
    let mut tables = NodeTables::default();
    for (from, to) in [("10.0.0.11", "10.0.0.12"), ("fd00::b", "fd00::c")] {
        tables.subjects.insert((Direction::Ingress, support::random::ip(to)), SubjectId(1));
        tables.peers.insert(support::random::ip(from), support::random::pod(1));
    }
    let ports = PortKey::Port(Protocol::UDP, ALLOWED);
    let key = VerdictKey { subject: SubjectId(1), peer: support::random::own(1), ports };
    tables.verdicts.insert(key, Verdict { allow: true, rule: None });
    tables
}

/// Both streams while `work` runs: sent, and received of the allowed and of the denied one.
fn streams(world: &World, work: impl FnOnce()) -> (usize, usize, usize) {
    let bind = |index: usize, port| {
        let address = SocketAddr::new(world.endpoints[index].v4, port);
        let socket = world.endpoints[index].net.run(|| UdpSocket::bind(address).unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        socket
    };
    let (sender, receivers) = (bind(1, 0), [bind(2, ALLOWED), bind(2, DENIED)]);
    let to = [ALLOWED, DENIED].map(|port| SocketAddr::new(world.endpoints[2].v4, port));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let sent = scope.spawn(|| {
            let mut sent = 0;
            while !stop.load(Ordering::Relaxed) {
                for to in to {
                    sender.send_to(b"datagram", to).unwrap();
                }
                sent += 1;
                thread::sleep(Duration::from_micros(100));
            }
            sent
        });
        let counts = receivers.each_ref().map(|receiver| {
            let stop = &stop;
            scope.spawn(move || {
                let mut count = 0;
                loop {
                    // What was sent last is in the buffer when nobody sends any more.
                    let ending = stop.load(Ordering::Relaxed);
                    match receiver.recv(&mut [0; 16]) {
                        Ok(_) => count += 1,
                        Err(_) if ending => return count,
                        Err(_) => {}
                    }
                }
            })
        });
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        let sent = sent.join().unwrap();
        let [allowed, denied] = counts.map(|count| count.join().unwrap());
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (sent, allowed, denied)
    })
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> =
        fs::read_dir(directory).into_iter().flatten().flatten().map(|e| e.path()).collect();
    all.sort();
    all
}

/// The directory of the one program that is pinned, and nothing beside it.
fn only(world: &World) -> PathBuf {
    let all = entries(&world.node().pins);
    assert_eq!(all.len(), 1, "{all:?}");
    all.into_iter().next().unwrap()
}

/// What is in a program's directory when all is well: as a first start leaves it.
fn whole() -> &'static [OsString] {
    static WHOLE: OnceLock<Vec<OsString>> = OnceLock::new();
    WHOLE.get_or_init(|| {
        let net = support::Net::new();
        net.ebpf().replace(&one_port()).unwrap();
        let programs = entries(&net.pins);
        let names = names(&programs[0]);
        assert!(names.iter().any(|name| name == "link-10-4"), "{names:?}");
        names
    })
}

fn names(directory: &Path) -> Vec<OsString> {
    entries(directory).iter().map(|path| path.file_name().unwrap().to_owned()).collect()
}

/// The next start over some damage: nothing is lost, nothing slips through, nothing old stays.
fn next_start(world: &World, tables: &NodeTables, what: &str, damage: impl FnOnce()) {
    let (sent, allowed, denied) = streams(world, || {
        damage();
        let mut plane = world.node().ebpf();
        plane.replace(tables).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(plane.verify(tables).unwrap(), [], "{what}");
        thread::sleep(Duration::from_millis(5));
    });
    assert!(sent > 20, "{what}: {sent}");
    assert_eq!((allowed, denied), (sent, 0), "{what}: allowed of {sent}, denied");
    assert_eq!(names(&only(world)), whole(), "{what}");
}

/// A map with other keys and values, pinned.
fn other_map(path: &Path, kind: MapType, key: u32, value: u32) {
    let options = libbpf_sys::bpf_map_create_opts {
        sz: size_of::<libbpf_sys::bpf_map_create_opts>() as libbpf_sys::size_t,
        ..Default::default()
    };
    let mut map = MapHandle::create(kind, Some("other"), key, value, 7, &options).unwrap();
    map.pin(path).unwrap();
}

#[test]
fn what_an_older_layout_left_is_taken_over_without_a_gap() {
    if support::skipped() {
        return;
    }
    let world = World::new(Wiring::Ptp, 2);
    let tables = one_port();
    // Another program goes on until the new one is attached: its directory has another name, maps
    // of other forms, and some that nobody knows.
    world.node().ebpf_with(1000).replace(&tables).unwrap();
    next_start(&world, &tables, "another layout", || {
        let older = only(&world);
        for (name, kind, key, value) in [
            ("addresses4", MapType::Hash, 8, 12),
            ("control", MapType::Array, 4, 4),
            ("connections", MapType::Hash, 16, 4),
        ] {
            let _ = fs::remove_file(older.join(name));
            other_map(&older.join(name), kind, key, value);
        }
    });
}

#[test]
fn a_map_of_another_form_or_none_under_our_name_is_made_anew() {
    if support::skipped() {
        return;
    }
    let world = World::new(Wiring::Ptp, 2);
    let tables = one_port();
    world.node().ebpf().replace(&tables).unwrap();
    for name in
        ["addresses4", "ports", "rows", "control", "rule_packets", "rule_names", "events", "limits"]
    {
        let pin = || only(&world).join(name);
        next_start(&world, &tables, &format!("no {name}"), || fs::remove_file(pin()).unwrap());
        next_start(&world, &tables, &format!("another {name}"), || {
            fs::remove_file(pin()).unwrap();
            other_map(&pin(), MapType::Hash, 3, 5);
        });
    }
    next_start(&world, &tables, "a link's name for a map", || {
        let link = only(&world).join("link-2-4");
        let mut left = only(&world).into_os_string();
        left.push("-x");
        fs::create_dir(&left).unwrap();
        // The program goes on, pinned under another name.
        fs::rename(&link, Path::new(&left).join("link-2-4")).unwrap();
        other_map(&link, MapType::Hash, 3, 5);
    });
}

#[test]
fn what_others_put_there_goes() {
    if support::skipped() {
        return;
    }
    let world = World::new(Wiring::Ptp, 2);
    let tables = one_port();
    world.node().ebpf().replace(&tables).unwrap();
    let pins = world.node().pins.clone();
    next_start(&world, &tables, "a map beside the programs", || {
        other_map(&pins.join("stray"), MapType::Hash, 4, 4);
    });
    next_start(&world, &tables, "an empty directory", || {
        fs::create_dir(pins.join("empty")).unwrap();
    });
    next_start(&world, &tables, "directories in directories", || {
        fs::create_dir_all(pins.join("a/b/c")).unwrap();
        other_map(&pins.join("a/b/map"), MapType::Hash, 4, 4);
    });
    next_start(&world, &tables, "a stranger among ours", || {
        other_map(&only(&world).join("stray"), MapType::Hash, 4, 4);
        fs::create_dir(only(&world).join("more")).unwrap();
    });
}

/// What the test below starts and kills: loads, as a process that has just started.
#[test]
#[ignore = "started by a_start_that_was_killed_is_made_up_for"]
fn a_start() {
    let Some(pins) = std::env::var_os("PODWALL_TEST_PINS") else { return };
    let counters = std::env::var("PODWALL_TEST_COUNTERS").unwrap().parse().unwrap();
    let tables = one_port();
    // Not where the one who kills watches it: each would have to wait until the other's time is up.
    let mut other = CpuSet::new();
    other.set(1).unwrap();
    let _ = sched_setaffinity(Pid::from_raw(0), &other);
    let config = ebpf::Config { pins: pins.into(), counters, ..ebpf::Config::default() };
    Ebpf::open(config).unwrap().replace(&tables).unwrap();
}

/// Starts a process that loads, and kills it as soon as `more` pins have come; how many came.
fn killed_start(world: &World, more: usize) -> usize {
    let pins = &world.node().pins;
    let count = || entries(pins).iter().map(|program| entries(program).len()).sum::<usize>();
    let before = count();
    let mut start = world.node().run(|| {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_start", "--ignored"])
            .env("PODWALL_TEST_PINS", pins)
            .env("PODWALL_TEST_COUNTERS", ebpf::Config::default().counters.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    });
    // By pins, not by time: so every stage comes up on a slow machine, too.
    while start.try_wait().unwrap().is_none() && count() < before + more {}
    start.kill().unwrap();
    start.wait().unwrap();
    count().saturating_sub(before)
}

#[test]
fn a_start_that_was_killed_is_made_up_for() {
    if support::skipped() {
        return;
    }
    let tables = one_port();
    let mut dice = Dice(20_261_121);
    let mut halves = 0;
    for round in 0..30 {
        let world = World::new(Wiring::Ptp, 2);
        let what = ["nothing before", "another version before", "a damaged one before"][round % 3];
        match round % 3 {
            0 => {}
            1 => world.node().ebpf_with(1000).replace(&tables).unwrap(),
            _ => {
                world.node().ebpf().replace(&tables).unwrap();
                fs::remove_file(only(&world).join("limits")).unwrap();
            }
        }
        // One after the other, none of which gets to sweep.
        let kills: Vec<usize> = (0..1 + dice.roll(3)).map(|_| dice.roll(whole().len())).collect();
        let mut start_and_kill = || {
            for more in &kills {
                let came = killed_start(&world, *more);
                halves += usize::from((1..whole().len()).contains(&came));
            }
        };
        let what = format!("round {round}, {what}, killed after {kills:?} pins");
        if round % 3 == 0 {
            start_and_kill();
            // What enforces now depends on how far they came; from the next start on all is well.
            world.node().ebpf().replace(&tables).unwrap();
            next_start(&world, &tables, &what, || {});
        } else {
            next_start(&world, &tables, &what, start_and_kill);
        }
    }
    eprintln!("{halves} starts were killed halfway");
    assert!(halves >= 15, "{halves}");
}
