//! How do counters read?
//!
//! ```text
//!   POLICY         DIRECTION   RULE   ALLOWED
//!   default/db     ingress     1      17
//!
//!   PODS           ISOLATED FOR   BY           NODE     NO RULE ALLOWS
//!   default/db     ingress        default/db   node-1   3
//! ```

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Result;
use podwall_lab::client::Client;
use podwall_lab::counters::Counters;
use podwall_lab::rpc::Request;

use super::args::{Counters as Args, CountersOutput};
use super::table::align;

/// Prints how many packets each rule allowed, and how many no rule allows.
pub(crate) fn counters(client: &mut Client, args: &Args) -> Result<ExitCode> {
    let mut counters: Counters = client.call(&Request::Counters)?;
    if !args.all_namespaces {
        narrow(&mut counters, &args.namespace);
    }
    if !counters.enforced {
        eprintln!("the lab's firewall is off: nothing is counted");
    }
    let mut out = anstream::stdout();
    match args.output {
        CountersOutput::Json => writeln!(out, "{}", serde_json::to_string_pretty(&counters)?)?,
        CountersOutput::Text if counters.rules.is_empty() && counters.isolated.is_empty() => {
            let scope = if args.all_namespaces {
                "the lab".to_owned()
            } else {
                format!("namespace {}", args.namespace)
            };
            eprintln!("no policies and no isolated pods in {scope}");
        }
        CountersOutput::Text => write!(out, "{}", text(&counters))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Leaves the policies and pods of a namespace. Pods that the same policies isolate are of one.
fn narrow(counters: &mut Counters, namespace: &str) {
    let within = |name: &String| name.split_once('/').is_some_and(|(its, _)| its == namespace);
    counters.rules.retain(|rule| rule.namespace == namespace);
    for isolated in &mut counters.isolated {
        isolated.pods.retain(within);
    }
    counters.isolated.retain(|isolated| !isolated.pods.is_empty());
}

fn text(counters: &Counters) -> String {
    let heads = |heads: &[&str]| heads.iter().map(|head| (*head).to_owned()).collect();
    let denies = counters.rules.iter().any(|rule| rule.denied > 0);
    let mut columns = vec!["POLICY", "DIRECTION", "RULE", "ALLOWED"];
    columns.extend(denies.then_some("DENIED"));
    let mut rules: Vec<Vec<String>> = vec![heads(&columns)];
    for rule in &counters.rules {
        let mut row = vec![
            format!("{}/{}", rule.namespace, rule.policy),
            rule.direction.clone(),
            rule.rule.to_string(),
            rule.allowed.to_string(),
        ];
        row.extend(denies.then(|| rule.denied.to_string()));
        rules.push(row);
    }
    let mut isolated: Vec<Vec<String>> =
        vec![heads(&["PODS", "ISOLATED FOR", "BY", "NODE", "NO RULE ALLOWS"])];
    for class in &counters.isolated {
        isolated.push(vec![
            few(&class.pods),
            class.directions.join(", "),
            few(&class.isolated_by),
            class.node.clone(),
            class.denied.to_string(),
        ]);
    }
    let tables = [rules, isolated].into_iter().filter(|rows| rows.len() > 1);
    tables.map(|rows| align(&rows)).collect::<Vec<_>>().join("\n")
}

/// Some names; of many the first and how many more.
fn few(names: &[String]) -> String {
    match names {
        [first, second, third, _, ..] => {
            format!("{first}, {second}, {third} and {} more", names.len() - 3)
        }
        _ => names.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use podwall_lab::counters::{IsolatedCount, RuleCount};

    use super::*;

    fn some() -> Counters {
        let rule = |namespace: &str, rule, allowed| RuleCount {
            namespace: namespace.to_owned(),
            policy: "db".to_owned(),
            direction: "ingress".to_owned(),
            rule,
            allowed,
            denied: 0,
        };
        let pods = (1..=5).map(|n| format!("shop/db-{n}")).collect();
        let isolated = IsolatedCount {
            node: "node-1".to_owned(),
            pods,
            directions: vec!["egress".to_owned(), "ingress".to_owned()],
            isolated_by: vec!["shop/db".to_owned()],
            denied: 3,
        };
        let rules = vec![rule("shop", 1, 17), rule("other", 12, 0)];
        Counters { enforced: true, rules, isolated: vec![isolated] }
    }

    #[test]
    fn rules_and_isolated_pods_are_two_tables() {
        assert_eq!(
            text(&some()),
            "POLICY     DIRECTION   RULE   ALLOWED\n\
             shop/db    ingress     1      17\n\
             other/db   ingress     12     0\n\
             \n\
             PODS                                         ISOLATED FOR      BY        NODE     NO RULE ALLOWS\n\
             shop/db-1, shop/db-2, shop/db-3 and 2 more   egress, ingress   shop/db   node-1   3\n"
        );
    }

    #[test]
    fn one_namespace_is_shown_alone() {
        let mut counters = some();
        narrow(&mut counters, "other");
        assert_eq!((counters.rules.len(), counters.isolated.len()), (1, 0));
        narrow(&mut counters, "nowhere");
        assert_eq!(text(&counters), "");
    }
}
