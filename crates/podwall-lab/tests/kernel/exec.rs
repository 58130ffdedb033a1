//! Cases: a program of this machine runs as if it were in a pod.

use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use podwall_lab::exec;
use podwall_lab::holder::{Holder, StartOptions};
use podwall_lab::rpc::{ExecPlace, NetworkMode};

use crate::cluster::Cluster;
use crate::runner::Case;

pub(crate) const CASES: &[Case] = &[
    ("exec_a_program_sees_the_pods_names_and_network", sees),
    ("exec_files_that_the_host_does_not_have_are_there", missing),
    ("exec_exit_codes_and_signals_are_the_programs", codes),
    ("exec_a_program_ends_with_the_lab", ends),
];

/// Runs `case` outside of a lab with the three pods, and tells it where `a1` is.
fn with_pod(temp: &Path, case: impl FnOnce(&Holder, &ExecPlace)) {
    let options = StartOptions { die_with_parent: true };
    let holder = Holder::start(&temp.join("labs/a"), options).expect("start");
    let inside = holder.inside();
    let made = holder.run(|| {
        drop(Cluster::open(&inside, NetworkMode::Ptp));
        0
    });
    assert!(made.expect("run").success());
    let place = ExecPlace {
        netns: inside.join("ns/pod-a1").display().to_string(),
        hostname: format!("a1-{}", "x".repeat(100)),
        resolv_conf: "search demo.svc.cluster.local\nnameserver 10.96.0.10\n".to_owned(),
        hosts: "127.0.0.1 localhost\n10.244.1.11 a1\n".to_owned(),
    };
    case(&holder, &place);
    holder.stop().expect("stop");
}

/// What a shell script in the pod prints.
fn output(holder: &Holder, place: &ExecPlace, script: &str) -> String {
    let (read, write) = nix::unistd::pipe().expect("pipe");
    let before = nix::unistd::dup(std::io::stdout().as_fd()).expect("dup");
    nix::unistd::dup2_stdout(write.as_fd()).expect("dup2");
    drop(write);
    let status = exec::run(holder, place, &["sh", "-c", script].map(OsString::from)).expect("run");
    nix::unistd::dup2_stdout(before.as_fd()).expect("dup2");
    let mut text = String::new();
    fs::File::from(read).read_to_string(&mut text).expect("read");
    assert!(status.success(), "{script}: {status}: {text}");
    text
}

fn sees(temp: &Path) {
    with_pod(temp, |holder, place| {
        let name = format!("a1-{}", "x".repeat(60));
        assert_eq!(output(holder, place, "hostname; echo $HOSTNAME"), format!("{name}\n{name}\n"));
        assert_eq!(output(holder, place, "cat /etc/resolv.conf"), place.resolv_conf);
        assert_eq!(output(holder, place, "cat /etc/hosts"), place.hosts);
        let hosts = output(holder, place, "grep ^hosts: /etc/nsswitch.conf");
        assert_eq!(hosts, "hosts: files dns\n");
        assert_eq!(output(holder, place, "ls /sys/class/net"), "eth0\nlo\n");
        assert!(output(holder, place, "getent ahostsv4 a1").starts_with("10.244.1.11 "));
        let addresses = output(holder, place, "ip -o addr show dev eth0");
        assert!(addresses.contains("10.244.1.11/32"), "{addresses}");
        assert_eq!(output(holder, place, "ping -q -c1 -W3 10.244.2.11 >&2; echo $?"), "0\n");
        assert_eq!(output(holder, place, "pwd"), "/\n");
        // A pipe that nobody reads ends its writer without a word.
        assert_eq!(output(holder, place, "(yes; echo $? >&2) 2>&1 | head -n1"), "y\n");
    });
}

fn missing(temp: &Path) {
    with_pod(temp, |holder, place| {
        let bare = holder.run(|| {
            let none = MsFlags::empty();
            mount(Some("none"), "/etc", Some("tmpfs"), none, None::<&str>).expect("mount");
            std::os::unix::fs::symlink("../run/nowhere", "/etc/hosts").expect("symlink");
            fs::write("/etc/resolv.conf", "nameserver 192.0.2.1").expect("write");
            0
        });
        assert!(bare.expect("run").success());
        for _ in 0..2 {
            // The same process number again, where the kernel lets one choose.
            let again = || i32::from(fs::write("/proc/sys/kernel/ns_last_pid", "50").is_err());
            let _ = holder.run(again).expect("run");
            let both = format!("{}{}", place.resolv_conf, place.hosts);
            assert_eq!(output(holder, place, "cat /etc/resolv.conf /etc/hosts"), both);
        }
        let left = holder.run(|| i32::from(fs::metadata("/etc/hosts").is_ok())); // a link to nowhere
        assert!(left.expect("run").success(), "the lab's own /etc was changed");
    });
}

fn codes(temp: &Path) {
    with_pod(temp, |holder, place| {
        let run = |arguments: &[&str]| {
            let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
            exec::run(holder, place, &arguments).expect("run")
        };
        assert_eq!(run(&["sh", "-c", "exit 7"]).code(), Some(7));
        assert_eq!(run(&["sh", "-c", "kill -TERM $$"]).signal(), Some(15));
        assert_eq!(run(&["/no-such-program"]).code(), Some(127));
        assert_eq!(run(&["/etc"]).code(), Some(126));
    });
}

fn ends(temp: &Path) {
    let note = temp.join("note");
    with_pod(temp, |holder, place| {
        let pid = holder.pid();
        let script = format!("echo > {}; exec sleep 600", note.display());
        // The lab is killed from inside of a process of its own while the program runs.
        let killer = std::process::Command::new("sh")
            .arg("-c")
            .arg(format!("until [ -e {} ]; do sleep 0.01; done; kill -9 {pid}", note.display()))
            .spawn();
        let status = exec::run(holder, place, &["sh", "-c", &script].map(OsString::from));
        assert_eq!(status.expect("run").signal(), Some(9));
        killer.expect("spawn").wait().expect("wait");
    });
    fs::remove_file(note).expect("remove");
}
