//! Assertions by packets: what the engine says and what packets do must both bear them out.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends at the first surprise")]

mod support;

use serde_json::Value;
use support::{Lab, podwall};

const TIERS: &str = "tests/data/three-tier";

#[test]
fn packets_bear_out_what_holds_and_a_dead_destination_is_no_pass() {
    if !support::root() {
        return;
    }
    let lab = Lab::up("asserts", &["--nodes", "2"]);
    lab.run("apply", &["-f", TIERS], None).ok();
    let claims = "assertions:\n\
        - allow: {from: web-pod, to: app-pod, ports: 5000}\n\
        - deny: {from: web-pod, to: db-pod, ports: 3306}\n\
        - only: {into: db-pod, from: {peer: app-pod, ports: 3306}}\n\
        - deny: {from: app-pod, to: internet, ports: 443}\n";
    let test = |text: &str, more: &[&str]| {
        let args = [&["test", "-", "--lab", lab.name()], more].concat();
        podwall(&args, Some(text))
    };
    let ran = test(claims, &["-o", "json"]);
    let answer: Value = ran.json(&[0]);
    assert_eq!(answer["holds"], 4, "{answer}");
    for assertion in answer["assertions"].as_array().unwrap() {
        assert!(assertion["packets"]["sent"].as_u64().unwrap() > 0, "{assertion}");
        assert_eq!(assertion["packets"]["status"], "holds", "{assertion}");
    }
    let still: Value = test(claims, &["-o", "json", "--static"]).json(&[0]);
    assert!(still["assertions"][0].get("packets").is_none(), "{still}");

    // What does not hold fails by packets, too.
    let ran = test("assertions: [{deny: {from: web-pod, to: app-pod, ports: 5000}}]", &[]);
    assert_eq!(ran.code, Some(1), "{ran}");
    assert!(
        ran.out.contains("packets from default/web-pod to default/app-pod on TCP 5000 got through"),
        "{ran}"
    );

    // The link of a destination is down: nothing arrives, so that nothing did proves nothing.
    lab.exec("db-pod", &["ip", "link", "set", "eth0", "down"]).ok();
    let ran = test("assertions: [{deny: {from: web-pod, to: db-pod, ports: 3306}}]", &[]);
    assert_eq!(ran.code, Some(3), "{ran}");
    assert!(ran.out.contains("proves nothing"), "{ran}");
    let ran = test("assertions: [{allow: {from: app-pod, to: db-pod, ports: 3306}}]", &[]);
    assert!(ran.code == Some(1) || ran.code == Some(3), "{ran}");
}
