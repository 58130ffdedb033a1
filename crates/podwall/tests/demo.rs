//! Does the demonstration end well, and leave nothing behind however it ends?

#![expect(clippy::unwrap_used, reason = "a test says by panic what is wrong")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Marks every process of one demonstration: environments are inherited.
const MARK: &str = "PODWALL_TEST_DEMO";

fn root() -> bool {
    let root = fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0);
    if !root {
        eprintln!("SKIPPED: needs root");
    }
    root
}

fn demo(mark: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_podwall"))
        .arg("demo")
        .env(MARK, mark)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What of the demonstration with this mark and pid is still there.
fn left(mark: &str, pid: u32) -> Vec<String> {
    let mut left = Vec::new();
    let wanted = format!("{MARK}={mark}\0");
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.windows(wanted.len()).any(|window| window == wanted.as_bytes()) {
            let comm = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            left.push(format!("process {} {comm}", entry.file_name().display()));
        }
    }
    let name = format!("demo-{pid}");
    if Path::new("/run/podwall/labs").join(&name).exists() {
        left.push(format!("directory of {name}"));
    }
    if fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&name) {
        left.push(format!("mount of {name}"));
    }
    if fs::read_to_string("/proc/net/dev").unwrap().contains("fab0") {
        left.push("an interface of the host".to_owned());
    }
    left
}

#[track_caller]
fn nothing_left(mark: &str, pid: u32, how: &str) {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let left = left(mark, pid);
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < end, "{how}: still there after 10 s: {left:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn two_demonstrations_at_a_time_do_what_the_engine_says() {
    if !root() {
        return;
    }
    let children = ["twin-a", "twin-b"].map(|mark| (mark, demo(mark)));
    for (mark, child) in children {
        let pid = child.id();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{text}\n{errors}");
        assert!(text.contains("packets did what the engine says"), "{text}");
        assert!(!text.contains('\x1b'), "colours in a pipe: {text}");
        nothing_left(mark, pid, "ended by itself");
    }
}

#[test]
fn an_interrupted_demonstration_leaves_nothing() {
    if !root() {
        return;
    }
    let mut chance: u64 = 20_266;
    eprintln!("seed {chance}");
    for round in 0..18 {
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        let mark = format!("interrupted-{}-{round}", std::process::id());
        let mut child = demo(&mark);
        let pid = child.id();
        let how = ["INT", "TERM", "KILL", "HUP", "closed", "head"][round % 6];
        let started = Instant::now();
        match how {
            "head" => {
                let mut line = String::new();
                BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
                assert!(line.contains("three nodes"), "{line}");
            }
            "closed" => {
                thread::sleep(Duration::from_micros(chance % 300_000));
                drop(child.stdout.take());
            }
            signal => {
                thread::sleep(Duration::from_micros(chance % 1_300_000));
                let signal = format!("-{signal}");
                drop(Command::new("kill").args([&signal, &pid.to_string()]).status());
            }
        }
        let output = child.wait_with_output().unwrap();
        assert!(started.elapsed() < Duration::from_secs(60), "{how} was not followed");
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(!errors.contains("panicked"), "{how}: {errors}");
        if matches!(how, "closed" | "head") {
            assert_eq!(output.status.code(), Some(2), "nobody saw the end: {errors}");
        }
        nothing_left(&mark, pid, how);
    }
}
