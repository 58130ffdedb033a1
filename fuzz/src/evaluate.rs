//! What must hold of every verdict, whatever the cluster?
//!
//! ```text
//!   bytes ──▶ cluster, flows, changes
//!               ├─ evaluate ≡ explain            one verdict, and the rules that say so
//!               ├─ known ⊆ completed             a missing fact never turns a certain verdict
//!               └─ tables ≡ evaluator            at once, and change by change
//! ```

use std::sync::Arc;

use podwall_compile::compiler::{NodeCompiler, compile};
use podwall_compile::tables::NodeTables;
use podwall_compile::testing::change::Change;
use podwall_compile::testing::check::{Coverage, as_known, check as hold_tables};
use podwall_compile::testing::dice::Dice;
use podwall_compile::testing::random;
use podwall_policy::address::Family;
use podwall_policy::cluster::Cluster;
use podwall_policy::evaluate::{Side, Verdict, evaluate};
use podwall_policy::explain::Question;
use podwall_policy::flow::{Flow, Party};
use podwall_policy::object::{Node, Pod};
use podwall_policy::policy::{Action, Tier};
use podwall_policy::port::Protocol;

/// Makes a cluster, flows and changes of the bytes, and checks all of them.
pub(crate) fn check(bytes: &[u8]) {
    let mut dice = Dice::bytes(bytes);
    let mut cluster = random::cluster(&mut dice);
    let node = [None, Some(random::NODES[0]), Some(random::NODES[1])][dice.below(3)];
    let pairs = dice.between(1, 4);
    for _ in 0..pairs {
        words(&cluster, &mut dice);
    }
    let known = as_known(&cluster);
    tables(&known, node, &compile(&cluster, node), &mut dice);

    // The same change by change, and as a data plane sees it: by deltas alone.
    let mut compiler = NodeCompiler::new(node.map(Arc::from));
    let mut copy = NodeTables::default();
    compiler.put_cluster(&cluster);
    copy.apply(&compiler.commit());
    for _ in 0..dice.between(0, 3) {
        let change = Change::random(&mut dice, &cluster);
        change.apply(&mut cluster);
        change.record(&mut compiler);
        copy.apply(&compiler.commit());
        assert_eq!(&copy, compiler.tables(), "the delta is not the difference: {change:?}");
        tables(&as_known(&cluster), node, &copy, &mut dice);
    }
}

/// Tables say what the evaluator says of two pairs of addresses.
fn tables(known: &Cluster, node: Option<&str>, tables: &NodeTables, dice: &mut Dice) {
    for _ in 0..2 {
        let pair = (random::address(dice, known), random::address(dice, known));
        if Family::of(pair.0) == Family::of(pair.1) {
            let found = hold_tables(known, node, tables, pair, &mut Coverage::new());
            assert!(found.is_ok(), "node {node:?}: {found:?}");
        }
    }
}

/// Someone in the cluster or outside. Pods and nodes by themselves, not by their address, which
/// may be missing.
fn party<'a>(cluster: &'a Cluster, dice: &mut Dice) -> Party<'a> {
    let pods: Vec<_> = cluster.pods.values().collect();
    let nodes: Vec<_> = cluster.nodes.values().collect();
    match dice.below(8) {
        0 if !nodes.is_empty() => Party::Node(dice.pick::<&Node>(&nodes)),
        1..6 if !pods.is_empty() => Party::Pod(dice.pick::<&Pod>(&pods)),
        _ => Party::Address(random::address(dice, cluster)),
    }
}

/// Verdict, explanation and sets of ports agree, and stay so when missing facts become known.
fn words(cluster: &Cluster, dice: &mut Dice) {
    let (src, dst) = (party(cluster, dice), party(cluster, dice));
    let known = as_known(cluster);
    for flow in Flow::between(src, dst) {
        let found = evaluate(cluster, &flow);
        assert!(found.allowed().intersection(&found.denied()).is_empty(), "{flow:?} {found:?}");
        for side in [&found.egress, &found.ingress] {
            assert!(side.allowed.intersection(&side.denied).is_empty(), "{side:?}");
            let certain = side.allowed.union(&side.denied).is_everything();
            assert!(certain == side.missing.is_empty(), "doubts without a fact: {side:?}");
            questions().for_each(|question| explanation(side, question));
        }
        let completed = completed(&known, &flow).map(|flow| evaluate(&known, &flow));
        for question in questions() {
            if let Question::Port(protocol, Some(port)) = question {
                let verdict = found.verdict(protocol, port);
                assert_eq!(verdict, found.answer(question), "{flow:?} {question:?}");
                if let (false, Some(completed)) = (verdict == Verdict::Unknown, &completed) {
                    let then = completed.verdict(protocol, port);
                    assert_eq!(verdict, then, "certain before a fact was known: {flow:?}");
                }
            }
        }
        assert_eq!(found.any_verdict(), found.answer(Question::Anything), "{flow:?}");
    }
}

/// One side's explanation fits its verdict.
fn explanation(side: &Side, question: Question) {
    let explained = side.explain(question);
    assert_eq!(explained.verdict, side.answer(question), "{question:?}");
    let Question::Port(protocol, Some(port)) = question else { return };
    assert_eq!(explained.verdict, side.verdict(protocol, port), "{question:?}");
    let told = explained.allowed_by.len()
        + explained.denied_by.len()
        + explained.near_misses.len()
        + explained.undecided.len()
        + explained.overruled.len()
        + explained.dry_run.len();
    assert!(told <= side.rules.len(), "a rule is told twice: {explained:?}");
    let only_policies = side.rules.iter().all(|outcome| outcome.rule.tier == Tier::NetworkPolicy);
    match explained.verdict {
        Verdict::Allowed if side.is_isolated() && only_policies => {
            assert!(!explained.allowed_by.is_empty(), "nobody allows it: {question:?} {side:?}");
        }
        Verdict::Denied => {
            let denies = side.rules.iter().any(|outcome| outcome.action == Action::Deny);
            let stranger = side.stranger_on.is_some();
            assert!(
                side.is_isolated() || denies || stranger,
                "nobody denies it: {question:?} {side:?}"
            );
            let network = explained.allowed_by.iter().find(|r| r.tier == Tier::NetworkPolicy);
            assert!(network.is_none(), "denied and allowed: {explained:?}");
        }
        Verdict::Unknown => assert!(!side.missing.is_empty(), "{question:?} {side:?}"),
        Verdict::Allowed => {}
    }
}

/// The same flow among the same parties as the completed cluster knows them.
fn completed<'a>(known: &'a Cluster, flow: &Flow<'_>) -> Option<Flow<'a>> {
    let party = |party: Party<'_>| match party {
        Party::Pod(pod) => known.pods.get(&pod.name).map(Party::Pod),
        Party::Node(node) => known.nodes.get(&node.name).map(Party::Node),
        Party::Address(address) => Some(Party::Address::<'a>(address)),
    };
    Some(Flow { src: party(flow.src)?, dst: party(flow.dst)?, family: flow.family })
}

/// What may be asked: anything, and every protocol at ports where rules may change their mind.
fn questions() -> impl Iterator<Item = Question> {
    let ports = [1, 53, 80, 81, 82, 8080, u16::MAX];
    let asked = move |protocol: Protocol| {
        let ports = ports.map(|port| Question::Port(protocol, Some(port)));
        ports.into_iter().chain([Question::Port(protocol, None)])
    };
    random::PROTOCOLS.into_iter().flat_map(asked).chain([Question::Anything])
}
