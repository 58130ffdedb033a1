//! The answers of `podwall explain` for people.

use podwall_analysis::explain::{
    PodDirection, PodExplanation, PolicyDirection, PolicyExplanation, RuleExplanation, facts,
};
use podwall_analysis::exposure::Path;
use podwall_analysis::outside;
use podwall_policy::object::Pod;
use podwall_policy::policy::{Action, Direction};
use podwall_policy::port::PortSet;

use crate::page::{HEAD, Page, paint};
use crate::words;

/// How many names a line of text gives; JSON has all.
const NAMED: usize = 6;

/// The explanation of a policy as coloured text.
pub fn policy(of: &PolicyExplanation<'_>) -> String {
    let mut page = Page::default();
    let policy = of.policy;
    let place = words::place(policy.source.as_ref());
    page.para("", 2, &format!("{} {}{place}", paint(HEAD, "policy"), policy.name));
    page.para("  ", 2, &format!("selects {}", policy.subject));
    let now = match of.selected.len() {
        0 => format!("now: none of {}", words::count(of.among, "pod")),
        n => format!("now {n} of {}: {}", words::count(of.among, "pod"), pods(&of.selected)),
    };
    page.para("  ", 4, &now);
    for direction in of.directions.iter().rev() {
        policy_direction(&mut page, direction);
    }
    page.into_text()
}

fn policy_direction(page: &mut Page, of: &PolicyDirection<'_>) {
    page.heading(&of.direction.to_string());
    let Some(rules) = &of.rules else {
        page.para("  ", 2, "says nothing: this policy leaves it as it is");
        return;
    };
    let verb = words::passes(of.direction);
    if rules.is_empty() {
        page.para(
            "  ",
            2,
            &format!(
                "isolates and allows nothing: nothing may {verb} unless another policy allows it"
            ),
        );
        return;
    }
    for rule in rules {
        one_rule(page, rule, None);
    }
    page.para("  ", 2, &format!("nothing else may {verb} unless another policy allows it"));
    missing(page, rules);
}

/// "rule 1 allows pods app=web in namespace shop on TCP 80 (file:4:2)", and who that is.
fn one_rule(page: &mut Page, rule: &RuleExplanation<'_>, own: Option<&PortSet>) {
    let preposition = if rule.rule.direction == Direction::Egress { "to" } else { "from" };
    let verb = match rule.text.action {
        Action::Allow => "allows",
        Action::Deny => "denies",
        Action::Pass => "leaves to the next tier:",
    };
    let peers: Vec<String> = rule.text.peers.iter().map(ToString::to_string).collect();
    let whom = if peers.is_empty() {
        "anybody, inside or outside of the cluster".to_owned()
    } else {
        peers.join(", or ")
    };
    let ports: Vec<String> = rule.text.ports.iter().map(ToString::to_string).collect();
    let what =
        if ports.is_empty() { "every port and protocol".to_owned() } else { ports.join(", ") };
    let here = match own {
        None => String::new(),
        Some(set) if set.is_empty() => " (which this pod does not have)".to_owned(),
        Some(set) => format!(" (here {set})"),
    };
    let place = words::place(rule.rule.source.as_ref());
    page.item(
        2,
        &format!("{} {verb} {preposition} {whom}, on {what}{here}{place}", words::rule(&rule.rule)),
    );
    if peers.is_empty() {
        return;
    }
    let mut now = match rule.pods.len() {
        0 => "now: no pod".to_owned(),
        _ => format!("now: {}", pods(&rule.pods)),
    };
    if !rule.maybe.is_empty() {
        now += &format!("; unknown of {}", words::count(rule.maybe.len(), "pod"));
    }
    page.para("    ", 6, &now);
}

fn missing(page: &mut Page, rules: &[RuleExplanation<'_>]) {
    let facts = facts(rules);
    if !facts.is_empty() {
        page.para("  ", 4, &format!("not known: {}", words::some(&facts, NAMED)));
    }
}

fn pods(pods: &[&Pod]) -> String {
    words::some(&words::names(pods), NAMED)
}

/// The explanation of a pod as coloured text, with the paths from outside to it.
pub fn pod(of: &PodExplanation<'_>, paths: &[Path]) -> String {
    let mut page = Page::default();
    let pod = of.pod;
    let place = words::place(pod.source.as_ref());
    page.para("", 2, &format!("{} {}{place}", paint(HEAD, "pod"), pod.name));
    page.para("  ", 2, &format!("labels {}", pod.labels));
    if !pod.ips.is_empty() {
        page.para("  ", 2, &format!("addresses {}", words::some(&pod.ips, NAMED)));
    }
    if let Some(exempt) = of.exempt {
        page.para("  ", 2, words::exempt(exempt));
    }
    for direction in of.directions.iter().rev() {
        pod_direction(&mut page, of, direction);
    }
    super::paths::section(&mut page, "Paths from outside", paths);
    if !of.passed_over.is_empty() {
        page.heading("Policies of its namespace that do not select it");
        for (policy, reasons) in of.passed_over.iter().take(NAMED) {
            let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
            let place = words::place(policy.source.as_ref());
            page.item(2, &format!("{}: {}{place}", policy.name.name, reasons.join(", and ")));
        }
        let more = of.passed_over.len().saturating_sub(NAMED);
        if more > 0 {
            page.para("  ", 2, &format!("and {more} more"));
        }
    }
    page.into_text()
}

fn pod_direction(page: &mut Page, pod: &PodExplanation<'_>, of: &PodDirection<'_>) {
    page.heading(&of.direction.to_string());
    let names: Vec<_> = of.isolated_by.iter().map(|policy| policy.name.clone()).collect();
    if pod.exempt.is_some() {
        page.para("  ", 2, "policies on this pod's side have no say");
    } else if names.is_empty() {
        page.para(
            "  ",
            2,
            &format!("not isolated: no policy that speaks of {} selects it", of.direction),
        );
    } else {
        page.para("  ", 4, &format!("isolated by {}", words::policies(&names)));
        if of.rules.is_empty() {
            page.para("  ", 4, "and no rule allows anything");
        }
    }
    for (rule, own) in &of.rules {
        one_rule(page, rule, own.as_ref());
    }
    now(page, of);
}

/// Who passes now, over both sides.
fn now(page: &mut Page, of: &PodDirection<'_>) {
    let (whom, who) = match of.direction {
        Direction::Ingress => ("can come in now", "from"),
        Direction::Egress => ("can go out now", "to"),
    };
    if of.now.is_empty() && of.by_family.is_empty() && of.open == 0 {
        page.para("  ", 4, &format!("so nothing {whom}, both sides taken together"));
        return;
    }
    if !of.now.is_empty() || !of.by_family.is_empty() {
        page.para("  ", 4, &format!("{whom}, both sides taken together:"));
    }
    for passing in &of.now {
        let mut parts = Vec::new();
        if !passing.pods.is_empty() {
            parts.push(pods(&passing.pods));
        }
        if !passing.outside.is_empty() {
            parts.push(outside::describe(&passing.outside));
        }
        page.para(
            "    ",
            6,
            &format!("{} {who} {}", words::ports(&passing.ports), parts.join("; ")),
        );
    }
    for (pod, families) in of.by_family.iter().take(NAMED) {
        for (family, set) in families.iter().filter(|(_, set)| !set.is_empty()) {
            let only = format!("{} {who} {}, over {family} only", words::ports(set), pod.name);
            page.para("    ", 6, &only);
        }
    }
    if !of.shut.is_empty() {
        page.para("    ", 6, &format!("nothing {who} {}", pods(&of.shut)));
    }
    if of.open > 0 {
        page.para(
            "    ",
            6,
            &format!("unknown of {}; podwall can says why", words::count(of.open, "peer")),
        );
    }
}
