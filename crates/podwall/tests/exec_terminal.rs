//! Does `lab exec` find the pod, and does a program there have the terminal as it would outside?
//!
//! ```text
//!   keys ──▶ script(1): a terminal ──▶ sh, a shell with jobs ──▶ podwall lab exec … ──▶ the pod
//!   what the terminal shows ◀──────────────┘
//! ```
//!
//! No step waits for a time, each waits for words. A command's text is shown too when it is typed,
//! so the words that are waited for stand in no command: `do""ne` is shown, `done` is waited for.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says by panic what is wrong")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use support::{Lab, root};

const PODWALL: &str = env!("CARGO_BIN_EXE_podwall");
const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";
const CTRL_Z: &str = "\x1a";

/// How long any words may take; far more than they need on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A shell on a terminal of its own.
struct Terminal {
    child: Child,
    keys: ChildStdin,
    shown: Receiver<Vec<u8>>,
    /// Everything that was shown, and how much of it was waited for already.
    all: String,
    seen: usize,
    /// `podwall lab exec` for this test's lab, as typed.
    exec: String,
}

impl Terminal {
    fn new(lab: &Lab) -> Self {
        // Whoever runs tests in the background of a script has them ignore Ctrl-C, which everything
        // that they start inherits.
        let mut child = Command::new("env")
            .args(["--default-signal", "script", "-q", "-e", "-c", "exec sh -i", "/dev/null"])
            .env("SHELL", "/bin/sh")
            .env("PS1", "> ")
            .env_remove("ENV")
            .env_remove("PODWALL_LAB")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = child.stdout.take().unwrap();
        let (send, shown) = channel();
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = out.read(&mut bytes) {
                let _ = send.send(bytes[..n].to_vec());
            }
        });
        let keys = child.stdin.take().unwrap();
        let exec = format!("{PODWALL} lab --lab {} exec", lab.name);
        let mut terminal = Self { child, keys, shown, all: String::new(), seen: 0, exec };
        terminal.line("echo re\"\"ady");
        terminal.wait_for("ready");
        terminal
    }

    #[track_caller]
    fn keys(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    #[track_caller]
    fn line(&mut self, text: &str) {
        self.keys(&format!("{text}\n"));
    }

    /// Types `podwall lab exec` with these arguments.
    #[track_caller]
    fn exec(&mut self, arguments: &str) {
        self.line(&format!("{} {arguments}", self.exec));
    }

    /// Waits until the words are shown; what came before them.
    #[track_caller]
    fn wait_for(&mut self, words: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.all[self.seen..].find(words) {
                let before = self.all[self.seen..self.seen + at].to_owned();
                self.seen += at + words.len();
                return before;
            }
            let left = end.saturating_duration_since(Instant::now());
            match self.shown.recv_timeout(left) {
                Ok(bytes) => self.all.push_str(&String::from_utf8_lossy(&bytes)),
                Err(_) => panic!("{words:?} is not shown in\n{}", self.all),
            }
        }
    }

    /// Waits until the shell's list of jobs has these words.
    #[track_caller]
    fn until_listed(&mut self, words: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            self.line("jobs; echo lis\"\"ted");
            if self.wait_for("listed\r\n").contains(words) {
                return;
            }
            assert!(Instant::now() < end, "{words:?} is not listed in\n{}", self.all);
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs a command and gives what it prints, one line.
    #[track_caller]
    fn ask(&mut self, command: &str) -> String {
        self.line(&format!("echo \"an\"swer=$({command})."));
        self.wait_for("answer=");
        self.wait_for(".\r\n")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // `script` ends its shell, and that its jobs.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn terminal(word: &str) -> Option<(Lab, Terminal)> {
    root().then(|| {
        let lab = Lab::up(word, &[]);
        lab.run("run", &["web"], None).ok();
        let terminal = Terminal::new(&lab);
        (lab, terminal)
    })
}

/// A program that says when it runs and then does what follows.
fn ready(then: &str) -> String {
    format!("sh -c 'echo go\"\"es; {then}'")
}

#[test]
fn a_shell_in_a_pod_has_job_control_and_its_own_exit_code() {
    let Some((_lab, mut terminal)) = terminal("xjobs") else { return };
    for flags in ["", "-it"] {
        terminal.exec(&format!("{flags} web -- sh"));
        assert_eq!(terminal.ask("hostname"), "web");
        // Ctrl-C ends the program and leaves the shell.
        terminal.line(&ready("exec sleep 1000"));
        terminal.wait_for("goes");
        terminal.keys(CTRL_C);
        terminal.line("echo \"co\"de=$?.");
        terminal.wait_for("code=130.");
        assert_eq!(terminal.ask("hostname"), "web");
        // Ctrl-Z stops it, `fg` lets it go on with the terminal.
        terminal.line(&ready("exec sed -u s/^/read:/"));
        terminal.wait_for("goes");
        terminal.keys(CTRL_Z);
        terminal.wait_for("Stopped");
        assert_eq!(terminal.ask("hostname"), "web");
        terminal.line("fg");
        terminal.line("again");
        terminal.wait_for("read:again");
        terminal.keys(CTRL_D);
        assert_eq!(terminal.ask("hostname"), "web");
        // Once dash ended with 2 here: it could not give the terminal to a group that has no number
        // in the pod.
        terminal.line("exit 7");
        terminal.line("echo \"co\"de=$?.");
        terminal.wait_for("code=7.");
        assert_ne!(terminal.ask("hostname"), "web");
    }
    for complaint in ["job control", "tty process group"] {
        assert!(!terminal.all.contains(complaint), "{}", terminal.all);
    }
}

#[test]
fn a_program_stops_and_goes_on_as_a_job_of_the_callers_shell() {
    let Some((_lab, mut terminal)) = terminal("xstop") else { return };
    terminal.exec(&format!("web -- {}", ready("exec sed -u s/^/read:/")));
    terminal.wait_for("goes");
    terminal.keys(CTRL_Z);
    terminal.wait_for("Stopped");
    assert_ne!(terminal.ask("hostname"), "web");
    terminal.line("fg");
    terminal.line("once");
    terminal.wait_for("read:once");
    terminal.keys(CTRL_Z);
    terminal.wait_for("Stopped");
    // In the background it may not read, so it stops again.
    terminal.line("bg");
    terminal.until_listed("tty input");
    terminal.line("fg");
    terminal.line("twice");
    terminal.wait_for("read:twice");
    terminal.keys(CTRL_D);
    terminal.line("echo \"co\"de=$?.");
    terminal.wait_for("code=0.");
}

#[test]
fn a_script_that_runs_programs_in_pods_ends_with_ctrl_c() {
    let Some((lab, mut terminal)) = terminal("xloop") else { return };
    let directory = tempfile::tempdir().unwrap();
    let script = directory.path().join("loop");
    let body = format!(
        "for i in 1 2; do\n{PODWALL} lab --lab {} exec web -- sh -c 'echo goes; exec sleep 1000'\n\
         done\necho after the loop\n",
        lab.name
    );
    fs::write(&script, body).unwrap();
    for shell in ["sh", "bash"] {
        terminal.line(&format!("{shell} {}", script.display()));
        terminal.wait_for("goes");
        terminal.keys(CTRL_C);
        terminal.line("echo \"co\"de=$?.");
        let meanwhile = terminal.wait_for("code=130.");
        assert!(!meanwhile.contains("goes") && !meanwhile.contains("after"), "{}", terminal.all);
    }
}

#[test]
fn the_terminal_is_set_as_before_however_the_program_or_the_command_ends() {
    let Some((_lab, mut terminal)) = terminal("xmodes") else { return };
    let before = terminal.ask("stty -g");
    terminal.exec("web -- sh -c 'stty -echo -icanon; kill -9 $$'");
    terminal.line("echo \"co\"de=$?.");
    terminal.wait_for("code=137.");
    assert_eq!(terminal.ask("stty -g"), before);

    // The shell becomes the command, so its number is known.
    let exec = terminal.exec.clone();
    let program = "sh -c \"stty -echo -icanon; echo go\"\"es; exec sleep 1000\"";
    terminal.line(&format!("sh -c 'echo \"nu\"mber=$$.; exec {exec} web -- {program}'"));
    terminal.wait_for("number=");
    let number = terminal.wait_for(".");
    terminal.wait_for("goes");
    assert!(Command::new("kill").arg(&number).status().unwrap().success());
    terminal.line("echo \"co\"de=$?.");
    terminal.wait_for("code=143.");
    assert_eq!(terminal.ask("stty -g"), before);
}

#[test]
fn a_program_learns_the_size_of_the_window_and_its_changes() {
    let Some((_lab, mut terminal)) = terminal("xsize") else { return };
    let device = terminal.ask("tty");
    terminal.line("stty rows 33 cols 77");
    terminal.exec("-it web -- sh");
    assert_eq!(terminal.ask("stty size"), "33 77");
    terminal.line("trap 'echo \"si\"ze=$(stty size).' WINCH");
    terminal.line("sh -c 'trap \"exit 5\" WINCH; echo go\"\"es; while :; do sleep 0.1; done'");
    terminal.wait_for("goes");
    let resized = Command::new("stty").args(["-F", &device, "rows", "44", "cols", "88"]).status();
    assert!(resized.unwrap().success());
    terminal.line("echo \"co\"de=$?.");
    terminal.wait_for("code=5.");
    assert_eq!(terminal.ask("stty size"), "44 88");
}

#[test]
fn a_pipeline_keeps_the_terminal_for_all_of_its_programs() {
    let Some((_lab, mut terminal)) = terminal("xpipe") else { return };
    // The last one reads from the terminal, as pagers do; it may not be in the background.
    let exec = terminal.exec.clone();
    terminal
        .line(&format!("{exec} web -- seq 3 | sh -c 'cat; read x </dev/tty; echo \"re\"ad=$x.'"));
    terminal.line("key");
    terminal.wait_for("read=key.");
}

#[test]
fn without_a_terminal_everything_is_passed_on() {
    if !root() {
        return;
    }
    let lab = Lab::up("xplain", &[]);
    lab.run("run", &["web"], None).ok();
    for (program, code) in [
        ("exit 7", 7),
        ("kill -9 $$", 137),
        ("kill -TERM $$", 143),
        ("no-such-program", 127),
        ("/etc/passwd", 126),
    ] {
        let ran = lab.run("exec", &["-i", "web", "--", "sh", "-c", program], None);
        assert_eq!(ran.code, Some(code), "{ran}");
    }
    // Directly, without a shell that says so.
    assert_eq!(lab.exec("web", &["no-such-program"]).code, Some(127));
    assert_eq!(lab.exec("web", &["/etc/passwd"]).code, Some(126));

    let text = "0123456789abcdef".repeat(655_360);
    let ran = lab.run("exec", &["-i", "web", "--", "cat"], Some(&text));
    assert!(ran.code == Some(0) && ran.out == text, "{} bytes, {:?}", ran.out.len(), ran.code);

    let shell = |line: &str| {
        let line = line.replace("EXEC", &format!("{PODWALL} lab --lab {} exec", lab.name));
        let output = Command::new("sh").args(["-c", &line]).stdin(Stdio::null()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (text(&output.stdout), text(&output.stderr))
    };
    // The reader has seen enough: `yes` dies of SIGPIPE, silently.
    let cut = shell("{ EXEC web -- yes; echo $? >&2; } | head -1");
    assert_eq!(cut, ("y\n".to_owned(), "141\n".to_owned()));
    // What a program leaves behind runs on, and nobody waits for it.
    let left = shell("EXEC web -- sh -c 'sleep 1000 >/dev/null 2>&1 & echo $!'");
    let number = left.0.trim().to_owned();
    assert!(lab.exec("web", &["kill", &number]).code == Some(0), "{left:?}");
    // Once this said "No child processes": whoever starts it may have ignored SIGCHLD.
    let ignored = shell("trap '' CHLD; EXEC web -- sh -c 'exit 4'; echo $?");
    assert_eq!(ignored, ("4\n".to_owned(), String::new()));
}

#[test]
fn a_workload_or_a_service_stands_for_its_first_pod() {
    if !root() {
        return;
    }
    let lab = Lab::up("xkinds", &[]);
    lab.apply(include_str!("data/lab/app.yaml"));
    let name = |pod: &str| lab.run("exec", &["-n", "demo", pod, "--", "hostname"], None);
    for word in ["sts/db", "svc/db", "pod/db-0", "pods/db-0", "demo/db-0"] {
        assert_eq!(name(word).ok(), "db-0\n", "{word}");
    }
    assert!(name("deployment/web").ok().starts_with("web-"));
    for (word, sentence) in [
        ("deploy/none", "\"none\" not found"),
        ("node/node-1", "say which pod"),
        ("elsewhere/db-0", "not found in namespace elsewhere"),
    ] {
        let ran = name(word);
        assert!(ran.code == Some(2) && ran.err.contains(sentence), "{ran}");
    }
}
