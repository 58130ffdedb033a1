//! Does a lab say what enforces in it, and why it is not what somebody would have expected?

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says by panic what is wrong")]

mod support;

use std::fs;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use support::{Lab, root};

/// `nobody`, who has no rights.
const USER: u32 = 65534;

#[test]
fn root_gets_ebpf_and_reads_so() {
    if !root() {
        return;
    }
    for (wanted, gets) in [("auto", "ebpf"), ("ebpf", "ebpf"), ("nftables", "nftables")] {
        let lab = Lab { name: format!("words-{wanted}-{}", std::process::id()) };
        let up = lab.run("up", &["--dataplane", wanted, "--nodes", "2"], None).ok();
        assert!(up.lines().any(|line| line == format!("data plane: {gets}")), "{up}");
        let tables = lab.run("tables", &[], None).ok();
        for node in 1..3 {
            let line = format!("# node node-{node}: {gets}");
            assert!(tables.lines().any(|found| found == line), "{line} is not in {tables}");
        }
    }
    let off = Lab { name: format!("words-off-{}", std::process::id()) };
    let up = off.run("up", &["--no-enforce"], None).ok();
    assert!(up.contains("firewall off") && !up.contains("data plane"), "{up}");
}

/// A copy of the program and a home for somebody without rights.
struct Stranger {
    home: PathBuf,
}

impl Stranger {
    fn new() -> Self {
        let home = std::env::temp_dir().join(format!("podwall-words-{}", std::process::id()));
        fs::create_dir(&home).unwrap();
        // The build's directory may be closed to others.
        fs::copy(env!("CARGO_BIN_EXE_podwall"), home.join("program")).unwrap();
        chown(&home, Some(USER), Some(USER)).unwrap();
        Self { home }
    }

    fn lab(&self, args: &[&str]) -> Output {
        let user = USER.to_string();
        Command::new("setpriv")
            .args(["--reuid", &user, "--regid", &user, "--clear-groups"])
            .arg(self.home.join("program"))
            .arg("lab")
            .args(args)
            .envs(["HOME", "TMPDIR", "XDG_RUNTIME_DIR"].map(|name| (name, &self.home)))
            .env_remove("PODWALL_LAB")
            .env_remove("PODWALL_DATAPLANE")
            .env("COLUMNS", "500")
            .current_dir(&self.home)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.lab(&["down", "words"]);
        let _ = fs::remove_dir_all(&self.home);
    }
}

#[test]
fn an_ordinary_user_gets_nftables_and_reads_why() {
    if !root() {
        return;
    }
    let stranger = Stranger::new();
    let why = "it needs root; a user namespace's root, as in ordinary users' labs, is not enough";
    let text = |bytes: &[u8]| {
        String::from_utf8_lossy(bytes).split_whitespace().collect::<Vec<_>>().join(" ")
    };

    let auto = stranger.lab(&["up", "words"]);
    let (out, err) = (text(&auto.stdout), text(&auto.stderr));
    if err.contains("user namespace") && !auto.status.success() {
        eprintln!("SKIPPED: user namespaces are not allowed here: {err}");
        return;
    }
    let line = format!("data plane: nftables (ebpf is not possible here: {why})");
    assert!(auto.status.success() && out.contains(&line), "{out} {err}");
    let tables = text(&stranger.lab(&["--lab", "words", "tables"]).stdout);
    let line = format!("# node node-1: nftables (ebpf is not possible here: {why})");
    assert!(tables.contains(&line), "{tables}");
    assert!(stranger.lab(&["down", "words"]).status.success());

    let ebpf = stranger.lab(&["up", "words", "--dataplane", "ebpf"]);
    let (out, err) = (text(&ebpf.stdout), text(&ebpf.stderr));
    assert_eq!(ebpf.status.code(), Some(2), "{out} {err}");
    let words = format!("ebpf is not possible here: {why}; take --dataplane auto or nftables");
    assert!(err.contains(&words) && out.is_empty(), "{out} {err}");

    let nftables = stranger.lab(&["up", "words", "--dataplane", "nftables"]);
    let out = text(&nftables.stdout);
    assert!(nftables.status.success() && out.ends_with("data plane: nftables"), "{out}");
}
