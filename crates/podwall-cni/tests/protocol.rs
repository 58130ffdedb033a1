//! Does the program speak as the specification says, whatever the agent does?

#![expect(clippy::unwrap_used, reason = "helpers of tests; only what fails a test")]

mod support;

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use podwall_local::{Notes, Otherwise, Request, Sandbox};
use serde_json::{Value, json};

use support::{FakeAgent, Said, no, program, run, yes};

const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// A call as a runtime makes it, which tests change.
struct Call {
    variables: Vec<(&'static str, String)>,
    config: Value,
}

impl Call {
    fn new(verb: &str, socket: &Path) -> Self {
        let variables = [
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_NETNS", "/proc/self/ns/net"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_ARGS", "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_UID=u1"),
            ("CNI_PATH", "/usr/lib/cni"),
        ];
        let config = json!({
            "cniVersion": "1.1.0", "name": "net", "type": "podwall-cni", "socket": socket,
            "timeout": "10s", "guard": false,
            "prevResult": {"cniVersion": "1.1.0", "ips": [{"address": "10.0.0.2/24"}]},
        });
        Self { variables: variables.map(|(key, value)| (key, value.to_owned())).into(), config }
    }

    fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.config[key] = value.into();
        self
    }

    fn without(mut self, key: &str) -> Self {
        self.config.as_object_mut().unwrap().remove(key);
        self
    }

    fn variable(mut self, key: &'static str, value: &str) -> Self {
        self.variables.push((key, value.to_owned()));
        self
    }

    fn run(&self) -> Said {
        self.run_with(&self.config.to_string())
    }

    fn run_with(&self, input: &str) -> Said {
        let variables: Vec<_> = self.variables.iter().map(|(k, v)| (*k, v.as_str())).collect();
        run(&program(), &variables, input)
    }
}

fn mk_socket() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    (dir, socket)
}

fn mk_sandbox() -> Sandbox {
    Sandbox { container: "c1".to_owned(), interface: "eth0".to_owned() }
}

#[test]
fn each_version_gets_its_result_as_it_was_written() {
    let (_dir, socket) = mk_socket();
    let agent = FakeAgent::content(&socket);
    for version in VERSIONS {
        let call = Call::new("ADD", &socket).with("cniVersion", version).without("prevResult");
        let previous = format!(
            "{{ \"x\": 1.50, \"cniVersion\":\"{version}\",\n \"ips\":[{{\"version\":\"4\",\"address\":\"10.0.0.2/24\"}}]}}"
        );
        let input =
            call.config.to_string().replacen('{', &format!("{{\"prevResult\":{previous},"), 1);
        let said = call.run_with(&input);
        assert!(said.ok, "{said:?}");
        assert_eq!(said.stdout, format!("{previous}\n"));
        assert_eq!(said.stderr, "");
    }
    assert_eq!(agent.asked().len(), VERSIONS.len());
    let Request::Attach { attachment, patience, otherwise } = &agent.asked()[0] else { panic!() };
    assert_eq!((&*attachment.namespace, &*attachment.pod), ("shop", "web"));
    assert_eq!((attachment.uid.as_deref(), &*attachment.network), (Some("u1"), "net"));
    assert_eq!(attachment.sandbox, mk_sandbox());
    assert_eq!(*otherwise, Otherwise::Fail);
    assert!((8_000..10_000).contains(patience), "{patience}");
}

#[test]
fn versions_that_are_not_spoken_are_refused() {
    let (_dir, socket) = mk_socket();
    let _agent = FakeAgent::content(&socket);
    for version in ["0.1.0", "0.2.0", "0.5.0", "1.2.0", "2.0.0", "one", ""] {
        for verb in ["ADD", "DEL", "CHECK", "STATUS", "GC"] {
            let said = Call::new(verb, &socket).with("cniVersion", version).run();
            assert_eq!(said.code(), 1, "{verb} {version}");
        }
    }
    assert_eq!(Call::new("ADD", &socket).without("cniVersion").run().code(), 1);
}

#[test]
fn verbs_that_came_later_are_refused_before() {
    let (_dir, socket) = mk_socket();
    let _agent = FakeAgent::content(&socket);
    for (verb, first) in [("CHECK", "0.4.0"), ("STATUS", "1.1.0"), ("GC", "1.1.0")] {
        for version in VERSIONS {
            let said = Call::new(verb, &socket)
                .with("cniVersion", version)
                .with("cni.dev/valid-attachments", json!([]))
                .run();
            assert_eq!(said.ok, version >= first, "{verb} {version} {said:?}");
            if !said.ok {
                assert_eq!((said.code(), &said.json()["cniVersion"]), (1, &json!(version)));
            }
        }
    }
}

#[test]
fn version_needs_no_agent_and_says_what_it_was_asked_with() {
    let call = Call::new("VERSION", Path::new("/nowhere"));
    for (input, version) in
        [("{\"cniVersion\":\"0.2.0\"}", "0.2.0"), ("", "1.1.0"), ("{}", "1.1.0")]
    {
        let said = call.run_with(input);
        assert!(said.ok, "{said:?}");
        let expected = json!({"cniVersion": version, "supportedVersions": VERSIONS});
        assert_eq!(said.json(), expected);
    }
    assert_eq!(call.run_with("[").code(), 6);
}

#[test]
fn an_environment_that_is_wrong_is_named() {
    let (_dir, socket) = mk_socket();
    for (variable, value) in [
        ("CNI_COMMAND", "REMOVE"),
        ("CNI_CONTAINERID", ""),
        ("CNI_CONTAINERID", "a/b"),
        ("CNI_NETNS", ""),
        ("CNI_IFNAME", ""),
        ("CNI_ARGS", "x"),
    ] {
        let said = Call::new("ADD", &socket).variable(variable, value).run();
        assert_eq!(said.code(), 4);
        assert!(said.message().contains(variable), "{said:?}");
    }
    let said = Call::new("ADD", &socket).with("guard", true).variable("CNI_NETNS", "/no/ns").run();
    assert_eq!(said.code(), 4);
    assert!(said.message().contains("/no/ns"), "{said:?}");
}

#[test]
fn a_configuration_that_is_wrong_is_told_by_its_code() {
    let (_dir, socket) = mk_socket();
    for (key, value, code) in [
        ("timeout", json!("soon"), 7),
        ("timeout", json!(5), 6),
        ("onTimeout", json!("allow"), 6),
        ("guard", json!(1), 6),
        ("name", json!("a b"), 7),
        ("socket", json!("relative"), 7),
        ("prevResult", json!(null), 7),
        ("prevResult", json!({"ips": [{"address": "x"}]}), 7),
        ("prevResult", json!({"ips": 1}), 6),
    ] {
        let said = Call::new("ADD", &socket).with(key, value.clone()).run();
        assert_eq!(said.code(), code, "{key} {value}");
    }
    for input in ["", "{", "[]", "null", "\u{feff}{}"] {
        assert_eq!(Call::new("ADD", &socket).run_with(input).code(), 6, "{input:?}");
    }
    let said = Call::new("ADD", &socket).without("prevResult").run();
    assert_eq!(said.code(), 7);
    assert!(said.json()["details"].as_str().unwrap().contains("behind the plugin that makes"));
}

#[test]
fn a_container_that_is_no_pod_is_passed_on_without_an_agent() {
    let (_dir, socket) = mk_socket();
    for verb in ["ADD", "CHECK"] {
        let said = Call::new(verb, &socket).variable("CNI_ARGS", "IgnoreUnknown=1").run();
        assert!(said.ok, "{said:?}");
        assert!(said.stderr.contains("is no Kubernetes pod"), "{said:?}");
        let expected = if verb == "ADD" { "10.0.0.2/24" } else { "" };
        assert!(said.stdout.contains(expected), "{said:?}");
    }
}

#[test]
fn a_pod_without_an_address_is_passed_on_and_that_is_said() {
    let (_dir, socket) = mk_socket();
    let said = Call::new("ADD", &socket).with("prevResult", json!({})).run();
    assert!(said.ok && said.stderr.contains("has no address on eth0"), "{said:?}");
    assert_eq!(said.json(), json!({"cniVersion": "1.1.0"}));
}

#[test]
fn without_an_agent_a_pod_waits_and_then_fails_with_words_for_its_operator() {
    for otherwise in ["fail", "isolate"] {
        let (_dir, socket) = mk_socket();
        let begin = Instant::now();
        let said =
            Call::new("ADD", &socket).with("timeout", "300ms").with("onTimeout", otherwise).run();
        assert!(begin.elapsed() >= Duration::from_millis(180), "it is tried for a while");
        assert_eq!(said.code(), 11);
        assert!(said.message().starts_with("no Podwall agent listens at /"), "{said:?}");
        let details = said.json()["details"].as_str().unwrap().to_owned();
        assert!(details.contains("/podwall-cni uninstall"), "{details}");
        assert!(details.contains("kubectl get pods"), "{details}");
    }
}

#[test]
fn an_agent_that_comes_in_time_is_not_missed() {
    let (_dir, socket) = mk_socket();
    let path = socket.clone();
    let call = Call::new("ADD", &socket).with("timeout", "60s");
    let plugin = thread::spawn(move || call.run());
    // A first one breaks off, as one that is told to end.
    let first = UnixListener::bind(&path).unwrap();
    drop(first.accept().unwrap());
    drop(first);
    fs::remove_file(&path).unwrap();
    // A second one is not ready yet, once.
    let asked = std::sync::atomic::AtomicBool::new(false);
    let agent = FakeAgent::listen(&path, move |request| {
        let again = asked.swap(true, std::sync::atomic::Ordering::SeqCst);
        Some(if again { yes(request) } else { no("not-yet") })
    });
    let said = plugin.join().unwrap();
    assert!(said.ok, "{said:?}");
    assert_eq!(agent.asked().len(), 2);
}

#[test]
fn an_agent_that_does_not_answer_is_waited_for_no_longer_than_may_be() {
    // It listens and never accepts.
    let (_dir, socket) = mk_socket();
    let _listener = UnixListener::bind(&socket).unwrap();
    for verb in ["ADD", "CHECK", "GC", "STATUS", "DEL"] {
        let said = Call::new(verb, &socket)
            .with("timeout", "200ms")
            .with("cni.dev/valid-attachments", json!([]))
            .run();
        match verb {
            "DEL" => assert!(said.ok, "{said:?}"),
            "STATUS" => assert_eq!(said.code(), 50),
            _ => assert_eq!(said.code(), 11, "{verb}"),
        }
    }
}

#[test]
fn refusals_of_the_agent_have_their_codes() {
    for (refusal, add, status) in [
        ("not-yet", 11, 50),
        ("invalid", 100, 50),
        ("kernel", 101, 51),
        ("not-found", 102, 50),
        ("differs", 103, 50),
    ] {
        let (_dir, socket) = mk_socket();
        let _agent = FakeAgent::listen(&socket, move |_| Some(no(refusal)));
        // Only one that may pass is waited for.
        let timeout = if refusal == "not-yet" { "500ms" } else { "60s" };
        for verb in ["ADD", "CHECK", "GC", "STATUS"] {
            let said = Call::new(verb, &socket)
                .with("timeout", timeout)
                .with("cni.dev/valid-attachments", json!([]))
                .run();
            let expected = if verb == "STATUS" { status } else { add };
            assert_eq!(said.code(), expected, "{verb} {refusal}");
            assert!(said.message().starts_with("so says the agent"), "{said:?}");
        }
        let said = Call::new("DEL", &socket).run();
        assert!(said.ok && said.stdout.is_empty(), "{said:?}");
        assert_eq!(Notes::beside(&socket).read().unwrap(), [mk_sandbox()]);
    }
    let (_dir, socket) = mk_socket();
    let _agent = FakeAgent::listen(&socket, |_| Some("hello".to_owned()));
    assert_eq!(Call::new("ADD", &socket).run().code(), 104);
}

#[test]
fn a_pod_that_is_isolated_instead_is_said_to_be() {
    let (_dir, socket) = mk_socket();
    let agent = FakeAgent::listen(&socket, |_| {
        Some(json!({"ok": {"known": false, "guarded": true, "took": 1}}).to_string())
    });
    let said = Call::new("ADD", &socket).with("onTimeout", "isolate").run();
    assert!(said.ok && said.stderr.contains("it is isolated until it is"), "{said:?}");
    let Request::Attach { otherwise, .. } = &agent.asked()[0] else { panic!() };
    assert_eq!(*otherwise, Otherwise::Isolate);
}

#[test]
fn a_pod_that_goes_while_no_agent_listens_leaves_a_note_that_its_successor_takes_back() {
    let (_dir, socket) = mk_socket();
    let said = Call::new("DEL", &socket).run();
    assert!(said.ok && said.stdout.is_empty(), "{said:?}");
    let notes = Notes::beside(&socket);
    assert_eq!(notes.read().unwrap(), [mk_sandbox()]);

    let agent = FakeAgent::content(&socket);
    assert!(Call::new("ADD", &socket).run().ok);
    assert_eq!(notes.read().unwrap(), []);
    assert!(Call::new("DEL", &socket).variable("CNI_NETNS", "").without("prevResult").run().ok);
    assert_eq!(notes.read().unwrap(), []);
    assert_eq!(agent.asked().last(), Some(&Request::Detach { sandbox: mk_sandbox() }));
}

#[test]
fn an_agent_that_comes_while_a_note_is_left_is_asked_after_all() {
    let (_dir, socket) = mk_socket();
    let asked = std::sync::atomic::AtomicBool::new(false);
    let agent = FakeAgent::listen(&socket, move |request| {
        asked.swap(true, std::sync::atomic::Ordering::SeqCst).then(|| yes(request))
    });
    let said = Call::new("DEL", &socket).run();
    assert!(said.ok && said.stderr.is_empty(), "{said:?}");
    assert_eq!(agent.asked().len(), 2);
    assert_eq!(Notes::beside(&socket).read().unwrap(), []);
}

#[test]
fn what_an_agent_said_before_it_fell_silent_is_what_the_runtime_hears() {
    let (_dir, socket) = mk_socket();
    let asked = std::sync::atomic::AtomicBool::new(false);
    let _agent = FakeAgent::listen(&socket, move |_| {
        while asked.swap(true, std::sync::atomic::Ordering::SeqCst) {
            thread::park();
        }
        Some(no("not-yet"))
    });
    let said = Call::new("ADD", &socket).with("timeout", "2s").run();
    assert_eq!(said.code(), 11);
    assert!(said.message().starts_with("so says the agent"), "{said:?}");
}

#[test]
fn an_agent_that_answers_byte_by_byte_does_not_keep_a_pod() {
    let (_dir, socket) = mk_socket();
    let listener = UnixListener::bind(&socket).unwrap();
    // Each byte comes long before one alone would be late.
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        while std::io::Write::write_all(&mut stream, b" ").is_ok() {
            thread::sleep(Duration::from_millis(10));
        }
    });
    let begin = Instant::now();
    let said = Call::new("ADD", &socket).with("timeout", "300ms").run();
    assert!(begin.elapsed() < Duration::from_secs(10), "it was not waited for the end");
    assert_eq!(said.code(), 11, "{said:?}");
    assert!(said.message().contains("did not answer within 0.3 s"), "{said:?}");
}

#[test]
fn where_no_agent_ever_ran_a_removal_leaves_nothing() {
    let (dir, _) = mk_socket();
    let said = Call::new("DEL", &dir.path().join("none/agent.sock")).run();
    assert!(said.ok && said.stderr.is_empty(), "{said:?}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn gc_keeps_what_it_is_told_of_this_network_and_needs_a_list() {
    let (_dir, socket) = mk_socket();
    let agent = FakeAgent::content(&socket);
    let list = json!([{"containerID": "c1", "ifname": "eth0"}]);
    for key in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
        let said = Call::new("GC", &socket).with(key, list.clone()).run();
        assert!(said.ok && said.stdout.is_empty(), "{said:?}");
        let valid = vec![mk_sandbox()];
        let network = "net".to_owned();
        assert_eq!(agent.asked().last(), Some(&Request::Keep { network, valid }));
    }
    assert_eq!(Call::new("GC", &socket).run().code(), 7);
    assert_eq!(agent.asked().len(), 2);
}

#[test]
fn status_is_silent_when_all_is_well_and_says_when_it_is_not() {
    let (_dir, socket) = mk_socket();
    let said = Call::new("STATUS", &socket).without("prevResult").run();
    assert_eq!(said.code(), 50, "{said:?}");
    let _agent = FakeAgent::content(&socket);
    let said = Call::new("STATUS", &socket).without("prevResult").run();
    assert!(said.ok && said.stdout.is_empty(), "{said:?}");
}
