use std::io::Cursor;

use super::*;

fn read(text: &str) -> FlowLog {
    let mut log = FlowLog::new(false);
    read_flows(&mut log, "flows", &mut Cursor::new(text.as_bytes()), None).unwrap();
    log
}

/// Flows in words: who, whom, what, how often.
fn words(log: &FlowLog) -> Vec<String> {
    let party = |at: usize| {
        let party = &log.parties[at];
        let pod = party.pod.as_ref().map(ToString::to_string);
        let written = party.written.as_ref().map(ToString::to_string);
        let address = party.address.map(|address| address.to_string());
        let node = party.node.as_ref().map(|node| format!("node {node}"));
        pod.or(written).or(node).or(address).unwrap()
    };
    let flow = |flow: &SeenFlow| {
        let ports = match flow.ports {
            SeenPorts::Ports(protocol, range) => format!("{protocol} {range}"),
            SeenPorts::Portless(protocol) => protocol.to_string(),
            SeenPorts::Everything => "everything".to_owned(),
        };
        format!("{} > {} {ports} x{}", party(flow.src), party(flow.dst), flow.count)
    };
    log.flows.iter().map(flow).collect()
}

fn wrong(log: &FlowLog) -> Vec<String> {
    let say =
        |d: &crate::Diagnostic| format!("{}: {}", d.place.as_ref().unwrap().source.line, d.message);
    log.diagnostics.iter().map(say).collect()
}

const HUBBLE: &str = r#"
{"flow":{"time":"2026-11-21T10:00:00Z","verdict":"FORWARDED","IP":{"source":"10.0.0.1","destination":"10.0.0.2"},"l4":{"TCP":{"source_port":40000,"destination_port":5000,"flags":{"SYN":true}}},"source":{"namespace":"shop","pod_name":"web-1","labels":["k8s:app=web","k8s:io.kubernetes.pod.namespace=shop"],"workloads":[{"name":"web","kind":"Deployment"}]},"destination":{"namespace":"shop","pod_name":"app-1","labels":["k8s:app=app"]},"is_reply":false},"node_name":"n1","time":"2026-11-21T10:00:00Z"}
{"flow":{"time":"2026-11-21T11:00:00Z","verdict":"FORWARDED","IP":{"source":"10.0.0.1","destination":"10.0.0.2"},"l4":{"TCP":{"source_port":40001,"destination_port":5000}},"source":{"namespace":"shop","pod_name":"web-1","labels":["k8s:app=web","k8s:io.kubernetes.pod.namespace=shop"],"workloads":[{"name":"web","kind":"Deployment"}]},"destination":{"namespace":"shop","pod_name":"app-1","labels":["k8s:app=app"]},"is_reply":false}}
{"flow":{"verdict":"FORWARDED","IP":{"source":"10.0.0.2","destination":"10.0.0.1"},"l4":{"TCP":{"destination_port":40000}},"source":{},"destination":{},"is_reply":true}}
{"flow":{"verdict":"DROPPED","IP":{"source":"10.0.0.2","destination":"10.0.0.1"},"l4":{"TCP":{"destination_port":1}},"is_reply":null}}
{"flow":{"verdict":"FORWARDED","IP":{"source":"10.0.0.2","destination":"10.0.0.1"},"l4":{"TCP":{"destination_port":40000,"flags":{"ACK":true}}}}}
{"flow":{"verdict":"FORWARDED","IP":{"source":"10.0.0.1","destination":"203.0.113.9"},"l4":{"UDP":{"destinationPort":443}},"source":{"namespace":"shop","podName":"web-1"},"destination":{"labels":["reserved:world"]},"isReply":false,"destinationNames":["api.example.com"]}}
{"lost_events":{"source":"HUBBLE_RING_BUFFER","num_events_lost":"17"},"node_name":"n1"}
{"flow":{"verdict":"FORWARDED","IP":{"source":"10.0.0.9","destination":"10.0.0.1"},"l4":{"TCP":{"destination_port":80}},"source":{"labels":["reserved:host"]},"destination":{"namespace":"shop","pod_name":"web-1"},"is_reply":false}}
{"flow":{"verdict":"FORWARDED","IP":{"source":"10.0"#;

#[test]
fn hubble_opens_connections_and_answers_do_not_count() {
    let log = read(HUBBLE);
    assert_eq!(
        words(&log),
        [
            "shop/web-1 > shop/app-1 TCP 5000 x2",
            "shop/web-1 > 203.0.113.9 UDP 443 x1",
            "10.0.0.9 > shop/web-1 TCP 80 x1"
        ]
    );
    let left: Vec<_> = log.left.iter().map(|(why, count)| (*why, *count)).collect();
    use Left::{Cut, Denied, Lost, NoDirection, Reply};
    assert_eq!(left, [(Denied, 1), (Reply, 1), (NoDirection, 1), (Lost, 17), (Cut, 1)]);
    assert_eq!(log.times.unwrap().seconds(), 3600);
    let web = &log.parties[log.flows[0].src];
    assert_eq!(web.workload, Some(("Deployment".into(), Name::new("shop", "web"))));
    let labels = web.labels.as_ref().unwrap();
    assert_eq!(labels.1.to_string(), "app=web", "the agent's own labels are no labels of the pod");
    assert!(log.parties[log.flows[2].src].own_node);
    assert!(log.names[&log.flows[1].dst].contains("api.example.com"));
    assert_eq!(log.broken, 0, "{:?}", wrong(&log));
}

#[test]
fn what_was_denied_counts_only_if_asked_for() {
    let text = r#"{"time":1700000000000000,"node":"n1","verdict":"denied","direction":"ingress","src":"node-1","dst":"default/db","srcAddress":"10.0.9.1","dstAddress":"10.244.1.2","protocol":"TCP","srcPort":40000,"port":3306,"isolatedBy":[],"reason":"because"}"#;
    let log = read(&format!("{text}\n"));
    assert_eq!((log.flows.len(), log.left[&Left::Denied]), (0, 1));
    let mut log = FlowLog::new(true);
    read_flows(&mut log, "flows", &mut Cursor::new(text), None).unwrap();
    assert_eq!(words(&log), ["node node-1 > default/db TCP 3306 x1"]);
    assert_eq!(clock(log.times.unwrap().first), "2023-11-14 22:13:20");
}

#[test]
fn csv_is_read_by_the_names_of_its_columns() {
    let log = read(
        "protocol,port,src,dst,count\nTCP,80,web,\"shop/svc/cart\",3\nudp,53,10.0.0.1,kube-system/deploy/dns,\n\
         ICMP,,a,b,1\ntcp,8000-8999,a,b,1\n",
    );
    assert_eq!(
        words(&log),
        [
            "web > shop/svc/cart TCP 80 x3",
            "10.0.0.1 > kube-system/deploy/dns UDP 53 x1",
            "a > b ICMP x1",
            "a > b TCP 8000-8999 x1"
        ]
    );
    assert_eq!(log.broken, 0, "{:?}", wrong(&log));
    let matrix = "src,dst,verdict,protocol,from,to\na,b,allowed,TCP,1,80\na,c,allowed,any,,\na,d,unknown,TCP,1,1\n";
    let log = read(matrix);
    assert_eq!(words(&log), ["a > b TCP 1-80 x1", "a > c everything x1"]);
    assert_eq!(log.left[&Left::Unknown], 1);
}

#[test]
fn broken_lines_are_said_with_their_numbers_and_the_rest_is_read() {
    let log = read(
        "src,dst,protocol,port\na,b,TCP,80\na,b,TCP,0\na,b,TCP,80-70\n,b,TCP,1\na,b,QUIC,1\na,\"b,TCP,1\na,b,TCP,\n\
         a,b,TCP,81\n",
    );
    assert_eq!(log.flows.len(), 2);
    assert_eq!(log.broken, 6);
    assert_eq!(
        wrong(&log),
        [
            "3: `0` is no port: 1 to 65535",
            "4: ports 80 to 70 are turned round",
            "5: src is empty",
            "6: `QUIC` is no protocol: TCP, UDP, SCTP, ICMP or a number",
            "7: a quote is not closed on its line",
            "8: a flow with TCP needs its port",
        ]
    );
    assert!(wrong(&read("a,b,TCP,80\n"))[0].starts_with("1: the first line must name the columns"));
    assert!(wrong(&read("[{}]\n"))[0].contains("jq -c"), "{:?}", wrong(&read("[{}]\n")));
    assert!(wrong(&read("{\"a\":1}\n"))[0].contains("neither `flow` nor `verdict`"));
}

#[test]
fn hostile_lines_end_in_a_message() {
    let deep = format!("{{\"flow\":{}\n{{\"flow\":{{}}}}\n", "{\"a\":".repeat(100_000));
    let log = read(&deep);
    assert!(wrong(&log)[0].contains("recursion limit"), "{:?}", wrong(&log));
    let long = format!("src,dst,port\n{}\na,b,1\n", "x".repeat(LONGEST_LINE + 10));
    let log = read(&long);
    assert_eq!(wrong(&log), ["2: this line is longer than 1 MiB; the rest is not read"]);
    let many: String = (0..100).map(|i| format!("a,b,TCP,x{i}\n")).collect();
    let log = read(&format!("src,dst,protocol,port\n{many}"));
    assert_eq!((log.broken, log.diagnostics.len()), (100, 20));
    let mut log = FlowLog::new(false);
    let bytes = b"src,dst,port\na,b,\xff\xff\na,b,7\n";
    read_flows(&mut log, "flows", &mut Cursor::new(bytes), None).unwrap();
    assert_eq!((log.flows.len(), wrong(&log)), (1, vec!["2: this line is not UTF-8".to_owned()]));
}
