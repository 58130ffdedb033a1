//! What the runtime says of a pod holds before the API server has said anything of it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test ends at the first surprise")]

mod world;

use std::net::IpAddr;
use std::time::Duration;

use podwall_cluster::{Agent, mk_namespace};
use podwall_local::{Attached, Attachment, Client, Code, Otherwise, Request, Sandbox};
use podwall_policy::port::Protocol;
use world::{NODES, World, possible};

const PORT: (Protocol, u16) = (Protocol::TCP, 80);
/// How long the tests' runtime waits for a pod to be known.
const PATIENCE: u64 = 300;

fn sandbox() -> Sandbox {
    Sandbox { container: "c1".into(), interface: "eth0".into() }
}

fn mk_attachment(pod: &str, addresses: &[IpAddr]) -> Attachment {
    Attachment {
        sandbox: sandbox(),
        network: "pods".into(),
        namespace: "shop".into(),
        pod: pod.into(),
        uid: None,
        addresses: addresses.to_vec(),
        link: None,
    }
}

fn client(agent: &Agent) -> Client {
    Client::connect(agent.socket(), Duration::from_secs(30)).unwrap()
}

fn attach(agent: &Agent, addresses: &[IpAddr], otherwise: Otherwise) -> Result<Attached, Code> {
    let attachment = mk_attachment("new", addresses);
    let request = Request::Attach { attachment, patience: PATIENCE, otherwise };
    client(agent).ask(&request).map_err(|error| match error {
        podwall_local::ClientError::Refused(refusal) => refusal.code,
        other => panic!("{other}"),
    })
}

/// On a node whose pods have their addresses from no range that the API server knows (or where
/// unknown ones are not isolated) nothing closes a new pod but what the runtime says of it.
///
/// It was not written before something else changed.
#[test]
fn a_pod_that_only_the_runtime_knows_is_closed_when_the_runtime_hears_so() {
    if !possible() {
        return;
    }
    let mut world = World::new();
    world.cluster.create(&mk_namespace("shop", &[]));
    let mut attached = Vec::new();
    for (node, _) in NODES {
        world.run("shop", &format!("old-{node}"), "old", node);
        attached.push(world.plug("shop", &format!("new-{node}"), node));
    }
    let start = |(node, _): (&str, _)| world.agent(node).arg("--isolate-unknown", "off").start();
    let agents = NODES.map(start);
    agents.iter().for_each(Agent::until_ready);
    for ((node, dataplane), (agent, addresses)) in NODES.iter().zip(agents.iter().zip(attached)) {
        let [old, new] = ["old", "new"].map(|name| format!("shop/{name}-{node}"));
        let both = || [world.passes(&old, &new, PORT), world.passes(&new, &old, PORT)].concat();
        assert_eq!(both(), [true; 4], "{dataplane}: nobody has said anything");

        let answer = attach(agent, &addresses, Otherwise::Isolate).unwrap();
        assert!(!answer.known, "{answer:?}");
        assert_eq!(both(), [false; 4], "{dataplane}: attached");
        assert_eq!(attach(agent, &addresses, Otherwise::Fail), Err(Code::NotYet));
        assert_eq!(both(), [false; 4], "{dataplane}: refused");

        client(agent).ask::<()>(&Request::Detach { sandbox: sandbox() }).unwrap();
        assert_eq!(both(), [true; 4], "{dataplane}: detached");

        let _ = attach(agent, &addresses, Otherwise::Isolate).unwrap();
        world.state("shop", "new", &[("app", "new")], node, &addresses);
        let known = |it: &Agent| attach(it, &addresses, Otherwise::Fail).is_ok_and(|it| it.known);
        agent.until("the API server has said who it is", known);
        assert_eq!(both(), [true; 4], "{dataplane}: known, and no policy selects it");
        world.cluster.kubectl(&["delete", "pod", "-n", "shop", "new", "--force"], None);
    }
}
