//! Does the installer do what it says to a runtime's directories, and undo it?

#![expect(clippy::unwrap_used, reason = "helpers of tests; only what fails a test")]

mod support;

use std::fs::{self, File, Permissions};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use support::{program, run};

/// A node's directories.
struct Dirs {
    _dir: tempfile::TempDir,
    bin: PathBuf,
    conf: PathBuf,
}

impl Dirs {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (bin, conf) = (dir.path().join("bin"), dir.path().join("net.d"));
        fs::create_dir(&conf).unwrap();
        Self { _dir: dir, bin, conf }
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.conf.join(name), text).unwrap();
    }

    fn get(&self, name: &str) -> String {
        fs::read_to_string(self.conf.join(name)).unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(arguments).arg("--bin-dir").arg(&self.bin).arg("--conf-dir").arg(&self.conf);
        command
    }

    /// What it said, and whether it went well.
    fn run(&self, arguments: &[&str]) -> (bool, String) {
        let output = self.command(arguments).output().unwrap();
        assert!(output.stdout.is_empty(), "{output:?}");
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    }

    fn well(&self, arguments: &[&str]) -> String {
        let (ok, said) = self.run(arguments);
        assert!(ok, "{said}");
        said
    }

    fn badly(&self, arguments: &[&str]) -> String {
        let (ok, said) = self.run(arguments);
        assert!(!ok, "{said}");
        said
    }

    /// All names in the directory of networks.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.conf).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn types(&self, name: &str) -> Vec<String> {
        let value: Value = serde_json::from_str(&self.get(name)).unwrap();
        let plugins = value["plugins"].as_array().unwrap().iter();
        plugins.map(|plugin| plugin["type"].as_str().unwrap().to_owned()).collect()
    }
}

const LIST: &str = "{\n  \"name\": \"cbr0\",\n  \"cniVersion\": \"0.3.1\",\n  \"plugins\": [\n    {\n      \
                    \"type\": \"flannel\",\n      \"delegate\": {\"x\": 1.50}\n    },\n    {\n      \
                    \"type\": \"portmap\"\n    }\n  ]\n}\n";
const SINGLE: &str = "{ \"cniVersion\": \"0.3.1\", \"type\": \"bridge\",\n\t\"name\": \"one\" }\n";

#[test]
fn a_chain_gets_the_entry_and_loses_it_again() {
    let dirs = Dirs::new();
    dirs.put("10-flannel.conflist", LIST);
    dirs.put("20-other.conflist", LIST);
    dirs.put("05-readme.txt", "x");
    let file = dirs.conf.join("10-flannel.conflist");
    fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(&file, Some(12), Some(34)).unwrap();
    }
    let before = fs::metadata(&file).unwrap();

    let said = dirs.well(&["install", "--timeout", "7s", "--on-timeout", "isolate"]);
    assert!(said.contains("wrote the program; added podwall-cni to "), "{said}");
    assert_eq!(dirs.types("10-flannel.conflist"), ["flannel", "portmap", "podwall-cni"]);
    assert_eq!(dirs.get("20-other.conflist"), LIST, "a runtime takes the first");
    let value: Value = serde_json::from_str(&dirs.get("10-flannel.conflist")).unwrap();
    let expected = serde_json::json!({"type": "podwall-cni", "socket": "/run/podwall/agent.sock",
        "timeout": "7s", "onTimeout": "isolate", "guard": true});
    assert_eq!(value["plugins"][2], expected);
    assert!(dirs.get("10-flannel.conflist").contains("1.50"));
    let after = fs::metadata(&file).unwrap();
    assert_eq!(
        (after.mode(), after.uid(), after.gid()),
        (before.mode(), before.uid(), before.gid())
    );
    assert_eq!(dirs.get(".10-flannel.conflist.podwall-backup"), LIST);
    let there = dirs.bin.join("podwall-cni");
    assert_eq!(fs::metadata(&there).unwrap().mode() & 0o7777, 0o755);
    // What was installed is a plugin.
    let said = run(&there, &[("CNI_COMMAND", "VERSION")], "");
    assert!(said.ok && said.stdout.contains("supportedVersions"), "{said:?}");

    let text = dirs.get("10-flannel.conflist");
    let same = ["install", "--timeout", "7s", "--on-timeout", "isolate"];
    assert!(dirs.well(&same).contains("nothing to do"));
    assert_eq!(dirs.get("10-flannel.conflist"), text);

    assert!(dirs.well(&["install", "--no-guard"]).contains("changed the settings"));
    assert!(dirs.get("10-flannel.conflist").contains("\"guard\": false"));
    assert_eq!(dirs.get(".10-flannel.conflist.podwall-backup"), LIST, "still the file of before");

    assert!(dirs.well(&["uninstall"]).contains("removed the program"));
    assert_eq!(dirs.get("10-flannel.conflist"), LIST);
    assert_eq!(dirs.names(), ["05-readme.txt", "10-flannel.conflist", "20-other.conflist"]);
    assert_eq!(fs::read_dir(&dirs.bin).unwrap().count(), 0);
    assert!(dirs.well(&["uninstall"]).contains("nothing to do"));
}

#[test]
fn a_single_plugin_becomes_a_chain_and_itself_again() {
    for name in ["10-one.conf", "10-one.json"] {
        let dirs = Dirs::new();
        dirs.put(name, SINGLE);
        assert!(dirs.well(&["install"]).contains("made a chain"));
        assert_eq!(dirs.names(), [&format!(".{name}.podwall-backup"), "10-one.conflist"]);
        assert_eq!(dirs.types("10-one.conflist"), ["bridge", "podwall-cni"]);
        assert!(dirs.well(&["install"]).contains("nothing to do"));
        dirs.well(&["install", "--timeout", "1s"]);
        dirs.well(&["uninstall"]);
        assert_eq!(dirs.names(), [name]);
        assert_eq!(dirs.get(name), SINGLE);
    }
}

#[test]
fn a_single_plugin_that_its_owner_writes_again_is_taken_up_again() {
    let dirs = Dirs::new();
    dirs.put("10-one.conf", SINGLE);
    dirs.well(&["install"]);
    let newer = SINGLE.replace("\"one\"", "\"two\"");
    dirs.put("10-one.conf", &newer);
    assert!(dirs.well(&["install"]).contains("made a chain"));
    assert!(dirs.get("10-one.conflist").contains("\"two\""));
    assert_eq!(dirs.names(), [".10-one.conf.podwall-backup", "10-one.conflist"]);

    dirs.put("10-one.conf", SINGLE);
    dirs.well(&["uninstall"]);
    assert_eq!(
        (dirs.names(), dirs.get("10-one.conf")),
        (vec!["10-one.conf".into()], SINGLE.into())
    );
}

#[test]
fn a_name_that_is_taken_is_not_overwritten() {
    let dirs = Dirs::new();
    dirs.put("10-one.conf", SINGLE);
    dirs.put("10-one.conflist", LIST);
    dirs.well(&["install"]);
    assert_eq!(dirs.get("10-one.conflist"), LIST);
    assert_eq!(dirs.types("10-one.conf.conflist"), ["bridge", "podwall-cni"]);
    dirs.well(&["uninstall"]);
    assert_eq!(dirs.names(), ["10-one.conf", "10-one.conflist"]);
    dirs.put("10-one.conf.conflist", LIST);
    assert!(dirs.badly(&["install"]).contains("no name for it is free"));
    assert_eq!(dirs.get("10-one.conf"), SINGLE);
}

#[test]
fn what_others_changed_since_stays() {
    let dirs = Dirs::new();
    dirs.put("10-a.conflist", LIST);
    dirs.put("20-b.conf", SINGLE);
    dirs.well(&["install"]);
    let text = dirs.get("10-a.conflist");
    let more = text.replace("\"cbr0\"", "\"cbr1\"").replacen(
        "\n  ]",
        ",\n    {\"type\": \"istio-cni\"}\n  ]",
        1,
    );
    dirs.put("10-a.conflist", &more);
    assert!(dirs.well(&["install"]).contains("nothing to do"), "behind ours is a good place");
    dirs.well(&["uninstall"]);
    assert_eq!(dirs.types("10-a.conflist"), ["flannel", "portmap", "istio-cni"]);
    assert!(dirs.get("10-a.conflist").contains("cbr1"));
    assert_eq!(dirs.get("20-b.conf"), SINGLE);

    // A chain of ours that somebody made longer stays a chain.
    let dirs = Dirs::new();
    dirs.put("10-one.conf", SINGLE);
    dirs.well(&["install"]);
    let more =
        dirs.get("10-one.conflist").replacen("\n  ]", ",\n    {\"type\": \"istio-cni\"}\n  ]", 1);
    dirs.put("10-one.conflist", &more);
    dirs.well(&["uninstall"]);
    assert_eq!(dirs.names(), ["10-one.conflist"]);
    assert_eq!(dirs.types("10-one.conflist"), ["bridge", "istio-cni"]);
}

#[test]
fn what_cannot_be_edited_is_left_as_it_is_with_a_reason() {
    for (name, text, reason) in [
        ("1.conflist", "{\"name\": ", "no JSON that a runtime could read"),
        (
            "1.conflist",
            "{\"name\":\"a\",\"cniVersion\":\"0.2.0\",\"plugins\":[{\"type\":\"x\"}]}",
            "0.2.0",
        ),
        ("1.conflist", "{\"name\":\"a\",\"plugins\":[{\"type\":\"x\"}]}", "set cniVersion"),
        ("1.conf", "{\"name\":\"a\",\"type\":\"x\"}", "set cniVersion"),
        ("1.conf", LIST, "a chain of plugins belongs into a .conflist"),
        ("1.json", "", "no JSON"),
    ] {
        let dirs = Dirs::new();
        dirs.put(name, text);
        let said = dirs.badly(&["install"]);
        assert!(said.contains(reason) && said.contains("left as it is"), "{said}");
        assert_eq!((dirs.names(), dirs.get(name)), (vec![name.to_owned()], text.to_owned()));
        dirs.well(&["uninstall"]);
        assert_eq!((dirs.names(), dirs.get(name)), (vec![name.to_owned()], text.to_owned()));
    }
    let dirs = Dirs::new();
    assert!(dirs.badly(&["install"]).contains("has no network configuration yet"));
    fs::remove_dir(&dirs.conf).unwrap();
    assert!(dirs.badly(&["install"]).contains("has no network configuration yet"));
    dirs.well(&["uninstall"]);
    assert!(dirs.badly(&["install", "--timeout", "soon"]).contains("say 5s"));
}

#[test]
fn a_broken_file_that_names_us_keeps_the_program_there() {
    let dirs = Dirs::new();
    dirs.put("10-a.conflist", LIST);
    dirs.well(&["install"]);
    let broken = dirs.get("10-a.conflist").replace("\"name\": ", "\"name\" ");
    dirs.put("10-a.conflist", &broken);
    assert!(dirs.badly(&["uninstall"]).contains("10-a.conflist"));
    assert_eq!(dirs.get("10-a.conflist"), broken);
    assert!(dirs.bin.join("podwall-cni").exists());
}

#[test]
fn behind_a_symbolic_link_the_file_itself_is_changed() {
    for (name, text) in [("10-a.conflist", LIST), ("10-a.conf", SINGLE)] {
        let dirs = Dirs::new();
        let real = dirs.conf.parent().unwrap().join("real.json");
        fs::write(&real, text).unwrap();
        symlink("../real.json", dirs.conf.join(name)).unwrap();
        dirs.well(&["install"]);
        assert!(dirs.conf.join("10-a.conflist").is_symlink());
        assert!(fs::read_to_string(&real).unwrap().contains("podwall-cni"));
        dirs.well(&["uninstall"]);
        assert!(dirs.conf.join(name).is_symlink());
        assert_eq!(fs::read_to_string(&real).unwrap(), text);
        assert_eq!(dirs.names(), [name]);
        fs::remove_file(&real).unwrap();
        assert!(dirs.badly(&["install"]).contains("cannot read"));
    }
}

#[test]
fn a_program_that_runs_is_not_disturbed_by_a_new_one() {
    let dirs = Dirs::new();
    dirs.put("10-a.conflist", LIST);
    fs::create_dir(&dirs.bin).unwrap();
    let there = dirs.bin.join("podwall-cni");
    fs::copy("/bin/sleep", &there).unwrap();
    let mut old = Command::new(&there).arg("1000").spawn().unwrap();
    dirs.well(&["install"]);
    assert!(old.try_wait().unwrap().is_none());
    old.kill().unwrap();
    old.wait().unwrap();
    assert_eq!(fs::read(&there).unwrap(), fs::read(program()).unwrap());
}

#[test]
fn a_program_may_stay_for_runtimes_that_remember_the_chain() {
    let dirs = Dirs::new();
    dirs.put("10-a.conflist", LIST);
    dirs.well(&["install"]);
    dirs.well(&["uninstall", "--keep-program"]);
    assert_eq!(dirs.get("10-a.conflist"), LIST);
    assert!(dirs.bin.join("podwall-cni").exists());
}

/// An installer that stays; it ends with the test.
struct Watching(Child, BufReader<std::process::ChildStderr>);

impl Watching {
    fn start(dirs: &Dirs) -> Self {
        let mut command = dirs.command(&["install", "--watch"]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap());
        Self(child, lines)
    }

    /// Waits for the next line.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.1.read_line(&mut line).unwrap();
        line
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn whoever_stays_waits_for_a_network_and_appends_again_what_others_take_away() {
    let dirs = Dirs::new();
    let mut watching = Watching::start(&dirs);
    assert!(watching.line().contains("has no network configuration yet"));
    dirs.put(".new", LIST);
    fs::rename(dirs.conf.join(".new"), dirs.conf.join("10-a.conflist")).unwrap();
    assert!(watching.line().contains("added podwall-cni"));
    for _ in 0..3 {
        // Written in place, as many do.
        dirs.put("10-a.conflist", LIST);
        assert!(watching.line().contains("added podwall-cni"));
        assert_eq!(dirs.types("10-a.conflist"), ["flannel", "portmap", "podwall-cni"]);
    }
    // Half of a file is said once, and waited out.
    dirs.put("10-a.conflist", &LIST[..20]);
    assert!(watching.line().contains("no JSON"));
    dirs.put("10-a.conflist", LIST);
    assert!(watching.line().contains("added podwall-cni"));
    // Another network comes first.
    dirs.put("05-b.conf", SINGLE);
    assert!(watching.line().contains("made a chain"));

    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(watching.0.id().cast_signed()),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    assert!(watching.0.wait().unwrap().success());
    assert_eq!(dirs.types("05-b.conflist"), ["bridge", "podwall-cni"], "all stays");
    dirs.well(&["uninstall"]);
    assert_eq!(dirs.names(), ["05-b.conf", "10-a.conflist"]);
}

#[test]
fn installers_take_turns() {
    let dirs = Dirs::new();
    dirs.put("10-one.conf", SINGLE);
    let lock = File::open(&dirs.conf).unwrap();
    lock.lock().unwrap();
    let children: Vec<Child> =
        (0..8).map(|_| dirs.command(&["install"]).stderr(Stdio::null()).spawn().unwrap()).collect();
    drop(lock);
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(dirs.names(), [".10-one.conf.podwall-backup", "10-one.conflist"]);
    assert_eq!(dirs.types("10-one.conflist"), ["bridge", "podwall-cni"]);
    dirs.well(&["uninstall"]);
    assert_eq!(dirs.get("10-one.conf"), SINGLE);
}

#[test]
fn a_directory_that_is_read_only_is_named_and_nothing_changes() {
    let dirs = Dirs::new();
    dirs.put("10-a.conflist", LIST);
    let said = if nix::unistd::geteuid().is_root() {
        // Modes do not bind root; a mount does.
        let script = "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\" && \
                      exec \"$2\" install --bin-dir \"$3\" --conf-dir \"$1\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script, "sh"]);
        let output = command.arg(&dirs.conf).arg(program()).arg(&dirs.bin).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    } else {
        fs::set_permissions(&dirs.conf, Permissions::from_mode(0o555)).unwrap();
        dirs.badly(&["install"])
    };
    let hint = ["mount the host's directory writable", "this needs root"];
    assert!(hint.iter().any(|hint| said.contains(hint)), "{said}");
    assert!(said.contains("net.d"), "{said}");
    assert_eq!(
        (dirs.names(), dirs.get("10-a.conflist")),
        (vec!["10-a.conflist".into()], LIST.into())
    );
}

#[test]
fn help_is_there_and_a_wrong_word_is_not_a_plugins_error() {
    let output = Command::new(program()).arg("--help").output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("uninstall"));
    let output = Command::new(program()).arg("--version").output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().starts_with("podwall-cni "));
    assert!(!Command::new(program()).output().unwrap().status.success());
    assert!(Path::new(&program()).exists());
}
