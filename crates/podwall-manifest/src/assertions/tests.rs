use super::*;
use crate::diagnostic::Severity;

fn read(text: &str) -> Result<AssertionFile, Vec<Diagnostic>> {
    read_assertions("t.yaml", text.as_bytes())
}

fn said(text: &str) -> String {
    match read(text) {
        Ok(_) => "nothing".to_owned(),
        Err(wrong) => {
            assert!(wrong.iter().any(|it| it.severity == Severity::Error));
            wrong.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        }
    }
}

#[test]
fn every_claim_and_every_way_to_name_somebody_is_read() {
    let file = read(
        "apiVersion: podwall/v1\nkind: PolicyTest\nnamespace: shop\nassertions:\n\
         - name: one\n  allow: {from: web, to: [shop/svc/db, 10.0.0.0/8], ports: [443, \"UDP 53\", 80-90, http, ICMP]}\n\
         - deny: {from: internet, to: shop/*, families: IPv6}\n\
         - only: {into: {namespace: shop, pods: app=db}, from: [web, {peer: tools/ops, ports: 22}]}\n\
         - only: {outOf: web, to: [], ports: any}\n\
         - isolated: {pods: '*', direction: egress}\n\
         - nowhereElse: {into: {namespaces: team=a}}\n\
         - deny: {from: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}, to: anybody}\n",
    )
    .unwrap();
    assert_eq!(file.assertions.len(), 7);
    let [one, two, three, four, five, six, _] = &file.assertions[..] else { unreachable!() };
    assert_eq!((one.name.as_deref(), one.namespace.as_deref()), (Some("one"), Some("shop")));
    assert_eq!(one.source.to_string(), "t.yaml:5:3");
    let Claim::Allow(Between { to, ports: Ports::These(ports), .. }) = &one.claim else {
        unreachable!()
    };
    assert_eq!(to[1].kind, PeerKind::Named("10.0.0.0/8".into()));
    let shown: Vec<String> = ports.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["TCP 443", "UDP 53", "TCP 80-90", "TCP \"http\"", "ICMP (any port)"]);
    assert_eq!(two.families, [Family::V6]);
    assert!(matches!(&two.claim, Claim::Deny(Between { to, ports: Ports::All, .. })
        if to[0].to_string() == "shop/*"));
    let Claim::Only(only) = &three.claim else { unreachable!() };
    assert_eq!(only.pods[0].to_string(), "pods app=db in namespace shop");
    assert!(only.peers[0].ports.is_none() && only.peers[1].ports.is_some());
    assert!(matches!(&four.claim, Claim::Only(Only { direction: Direction::Egress, peers, .. })
        if peers.is_empty()));
    assert!(matches!(&five.claim, Claim::Isolated { directions, .. }
        if *directions == [Direction::Egress]));
    assert!(matches!(&six.claim, Claim::NowhereElse { direction: Direction::Ingress, .. }));
}

#[test]
fn what_is_wrong_is_said_with_its_line_and_a_remedy() {
    let table = [
        ("", "holds no assertion"),
        ("assertions: []", "holds no assertion"),
        ("assertion:\n- allow: {from: a, to: b}", "did you mean `assertions`?"),
        ("allow: {from: a, to: b}", "put it into the list"),
        ("assertions:\n- allow: {from: a}", "t.yaml:2:3: error[missing-field]"),
        ("assertions:\n- alow: {from: a, to: b}", "did you mean `allow`?"),
        ("assertions:\n- allow: {from: a, to: b}\n  deny: {from: a, to: b}", "t.yaml:3:3"),
        ("assertions:\n- allow: {from: a, to: []}", "would hold whatever"),
        ("assertions:\n- allow: {from: a, to: b, port: 80}", "did you mean `ports`?"),
        ("assertions:\n- allow: {from: a, to: b, ports: 0}", "from 1 to 65535"),
        ("assertions:\n- allow: {from: a, to: b, ports: 90-80}", "its end is before its start"),
        ("assertions:\n- allow: {from: a, to: b, ports: []}", "is empty"),
        ("assertions:\n- allow: {from: a, to: b, ports: ICMP 8}", "has no ports"),
        ("assertions:\n- allow: {from: a, to: b, families: ipv4}", "did you mean `IPv4`?"),
        ("assertions:\n- allow: {from: {pods: app=a}, to: b}", "says of no namespace"),
        ("assertions:\n- allow: {from: {namespace: a, pods: a=b=c}, to: b}", "nothing"),
        ("assertions:\n- allow: {from: {cidr: 10.0.0.0}, to: b}", "is not a CIDR"),
        ("assertions:\n- allow: {from: a*, to: b}", "names nobody"),
        ("assertions:\n- only: {from: [a]}", "neither `into` nor `outOf`"),
        ("assertions:\n- only: {into: a}", "write `from: []` for nobody"),
        ("assertions:\n- only: {into: a, to: [b]}", "`into` goes with `from`"),
        ("assertions:\n- only: {into: a, outOf: b, from: []}", "two claims"),
        (
            "assertions:\n- isolated: {pods: a, direction: in}",
            "must be `ingress`, `egress` or `both`",
        ),
        ("assertions:\n- allow: {from: a, to: b, to: c}", "stands there twice"),
        ("assertions:\n- allow: [", "t.yaml:3:1: error[syntax]"),
        ("kind: Pod\nassertions: []", "`kind` must be `PolicyTest`"),
    ];
    for (text, expected) in table {
        let said = said(text);
        assert!(said.contains(expected), "{text}\n{said}\nlacks: {expected}");
    }
}

#[test]
fn hostile_files_end_in_a_message() {
    let deep = format!("assertions:\n- allow: {}", "[".repeat(100_000));
    assert!(said(&deep).contains("error"));
    let bomb = "a: &a [x,x,x,x,x,x,x,x]\n".to_owned()
        + &(0..20)
            .map(|i| {
                format!(
                    "b{i}: &b{i} [{}]\n",
                    format!("*{},", if i == 0 { "a".into() } else { format!("b{}", i - 1) })
                        .repeat(8)
                )
            })
            .collect::<String>();
    assert!(said(&bomb).contains("error"), "{}", said(&bomb));
    assert!(said(&" ".repeat(MOST_BYTES + 1)).contains("larger than"));
    assert!(read_assertions("t", b"\xff").is_err());
}
