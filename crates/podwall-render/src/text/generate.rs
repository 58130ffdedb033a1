//! What `podwall generate` says beside the policies.

use std::collections::BTreeMap;

use podwall_analysis::generate::{Because, Generated, Report, UnitInfo};
use podwall_analysis::rewrite::{Counts, Rewritten};
use podwall_manifest::flows::{Left, Times, clock};
use podwall_policy::evaluate::Verdict;

use crate::page::{BAD, GOOD, Page, UNSURE, paint};
use crate::words::{count, ports, some};

/// How many of a list are shown.
const SHOWN: usize = 20;

/// Whether every flow that was placed passes.
pub fn verdict(report: &Report) -> Verdict {
    if report.failing.iter().any(|failing| failing.missing.is_empty()) {
        Verdict::Denied
    } else if report.failing.is_empty() {
        Verdict::Allowed
    } else {
        Verdict::Unknown
    }
}

/// The report as coloured text.
pub fn report(made: &Generated, broken: u64) -> String {
    let report = &made.report;
    let mut page = Page::default();
    observed(&mut page, report, broken);
    result(&mut page, made);
    failing(&mut page, report);
    unplaced(&mut page, report);
    beyond(&mut page, report);
    vague(&mut page, report);
    unseen(&mut page, report);
    page.into_text()
}

fn observed(page: &mut Page, report: &Report, broken: u64) {
    let flows = report.links.iter().filter(|link| !link.seen.is_empty()).count();
    let mut line = format!(
        "Observed: {} of {} between workloads, nodes and addresses",
        count(usize::try_from(report.records).unwrap_or(usize::MAX), "record"),
        count(flows, "flow"),
    );
    if let Some(times) = report.times {
        line += &format!(
            ", {} to {} UTC ({})",
            clock(times.first),
            clock(times.last),
            duration(times.seconds())
        );
    } else {
        line += "; the records state no time, so nobody can say how long the observation was";
    }
    page.para("", 2, &line);
    if let Some((times, newest)) = report.times.zip(report.newest)
        && report.records > 1
    {
        page.para("  ", 2, &quiet(times, newest));
    }
    let say = |why: &Left, records: u64| {
        let records = count(usize::try_from(records).unwrap_or(usize::MAX), "record");
        match why {
            Left::Denied => {
                format!("left out: {records} of denied packets (--include-denied takes them)")
            }
            Left::Reply => format!("left out: {records} of answers"),
            Left::NoDirection => {
                format!("left out: {records} that do not say who opened the connection")
            }
            Left::Unknown => {
                format!("left out: {records} of which it is unknown whether they pass")
            }
            Left::Lost => format!(
                "the observer lost {}: what was in them is not in the policies",
                records.replace("record", "event")
            ),
            Left::NotAFlow => format!("left out: {records} that are no flows"),
            Left::Cut => "left out: the last line, which is cut".to_owned(),
        }
    };
    for (why, records) in &report.left {
        page.para("  ", 2, &say(why, *records));
    }
    if report.no_rule > 0 {
        let records = count(usize::try_from(report.no_rule).unwrap_or(usize::MAX), "record");
        page.para(
            "  ",
            2,
            &format!(
                "{records} need no rule: a pod to itself, from a pod's own node, between others"
            ),
        );
    }
    if broken > 0 {
        let lines = count(usize::try_from(broken).unwrap_or(usize::MAX), "line");
        page.para("  ", 2, &format!("{lines} could not be read"));
    }
}

/// How sure one can be that everything was seen.
fn quiet(times: Times, newest: u64) -> String {
    let rest = (times.last - newest) / 1_000_000;
    let share = if times.seconds() == 0 { 0 } else { rest * 100 / times.seconds() };
    format!(
        "nothing new in the last {} ({share} % of the time); a job that runs less often than once in \
         {} may be missing",
        duration(rest),
        duration(times.seconds())
    )
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn result(page: &mut Page, made: &Generated) {
    let report = &made.report;
    page.gap();
    if made.policies.is_empty() {
        page.para(
            "",
            2,
            "No policy: no flow of a pod could be placed in a namespace that gets policies.",
        );
    } else {
        let namespaces: Vec<String> = report.namespaces.iter().map(ToString::to_string).collect();
        let policies = match made.policies.len() {
            1 => "1 policy".to_owned(),
            many => format!("{many} policies"),
        };
        let line = format!(
            "Made: {policies} for namespace{} {}",
            if namespaces.len() == 1 { "" } else { "s" },
            some(&namespaces, SHOWN)
        );
        page.para("", 2, &line);
    }
    if report.failing.is_empty() && report.links.iter().any(|link| !link.seen.is_empty()) {
        page.para(
            "  ",
            2,
            &format!(
                "{} every flow that was placed passes, says the engine",
                paint(GOOD, "checked:")
            ),
        );
    }
    if !report.left_alone.is_empty() {
        let names: Vec<String> = report.left_alone.iter().map(ToString::to_string).collect();
        page.para(
            "  ",
            2,
            &format!(
                "no policies for {}, which has flows, too; --in NAMESPACE makes them",
                some(&names, SHOWN)
            ),
        );
    }
    if !report.staying.is_empty() {
        page.para("  ", 2, &format!(
            "{} already there and stay, so what they allow passes, too: {} (--replace takes them for gone)",
            match report.staying.len() { 1 => "1 policy is".to_owned(), n => format!("{n} policies are") },
            some(&report.staying, 5)
        ));
    }
    if let Some(resolvers) = &report.resolvers
        && resolvers.is_empty()
        && report
            .links
            .iter()
            .any(|link| matches!(link.src, podwall_analysis::generate::End::Unit(_)))
    {
        page.para("  ", 2, &format!(
            "{} no resolver is among the objects, so nobody is allowed to look up names unless that was \
             seen", paint(UNSURE, "DNS:")
        ));
    }
}

fn failing(page: &mut Page, report: &Report) {
    if report.failing.is_empty() {
        return;
    }
    page.heading("Seen, but does not pass");
    for failing in report.failing.iter().take(SHOWN) {
        let verdict = if failing.missing.is_empty() {
            paint(BAD, "denied")
        } else {
            paint(UNSURE, "unknown")
        };
        let mut line =
            format!("{verdict} {} to {}: {}", failing.src, failing.dst, ports(&failing.ports));
        if !failing.missing.is_empty() {
            line += &format!("; missing: {}", some(&failing.missing, 3));
        } else if !failing.isolated_by.is_empty() {
            line += &format!("; isolated by {}", some(&failing.isolated_by, 5));
        }
        page.item(2, &line);
    }
    more(page, report.failing.len());
}

fn unplaced(page: &mut Page, report: &Report) {
    if report.unplaced.is_empty() {
        return;
    }
    page.heading("Seen, but no policy could be made of it");
    for unplaced in report.unplaced.iter().take(SHOWN) {
        page.item(
            2,
            &format!(
                "{}: {} ({}, first {})",
                unplaced.what,
                unplaced.why,
                count(usize::try_from(unplaced.records).unwrap_or(usize::MAX), "record"),
                unplaced.source
            ),
        );
    }
    more(page, report.unplaced.len());
}

fn beyond(page: &mut Page, report: &Report) {
    if report.namespaces.is_empty() {
        return;
    }
    page.heading("Allowed beyond what was seen");
    let pairs = format!(
        "{} of the {} of workloads that can talk were seen to",
        report.seen_pairs,
        count(report.open_pairs, "pair")
    );
    if report.beyond.is_empty() {
        page.para("  ", 2, &format!("nothing, among the pods that are there and outside; {pairs}"));
        return;
    }
    page.para("  ", 2, &pairs);
    let mut groups: BTreeMap<Because, Vec<String>> = BTreeMap::new();
    for beyond in &report.beyond {
        let line = format!("{} to {}: {}", beyond.src, beyond.dst, ports(&beyond.ports));
        groups.entry(beyond.because).or_default().push(line);
    }
    for (because, lines) in groups.into_iter().rev() {
        let why = match because {
            Because::Dns => "so that names can be looked up",
            Because::Aggregated => "since addresses were taken together (--aggregate)",
            Because::Labels => "since no labels tell these workloads apart",
            Because::Existing => "since policies that are there already allow it",
            Because::Open => "since neither end is restricted in that direction",
        };
        page.para("  ", 2, &format!("{why}:"));
        for line in lines.iter().take(SHOWN) {
            page.item(4, line);
        }
        more(page, lines.len());
    }
}

fn vague(page: &mut Page, report: &Report) {
    let vague: Vec<&UnitInfo> = report
        .units
        .iter()
        .filter(|unit| !unit.besides.is_empty() && report.namespaces.contains(&unit.namespace))
        .collect();
    if vague.is_empty() {
        return;
    }
    page.heading("Workloads that no labels identify");
    for unit in vague.iter().take(SHOWN) {
        page.item(
            2,
            &format!(
                "{}: {} selects {} besides; give its pods a label of their own",
                unit.label,
                if unit.identity.is_empty() { "{}".to_owned() } else { unit.identity.to_string() },
                some(&unit.besides, 4)
            ),
        );
    }
    more(page, vague.len());
}

fn unseen(page: &mut Page, report: &Report) {
    let unseen: Vec<&UnitInfo> = report.units.iter().filter(|unit| !unit.seen).collect();
    if unseen.is_empty() {
        return;
    }
    page.heading("Never seen");
    let mut groups: BTreeMap<[bool; 2], Vec<String>> = BTreeMap::new();
    for unit in unseen {
        groups.entry(unit.isolated).or_default().push(unit.label.clone());
    }
    for ([egress, ingress], labels) in groups.into_iter().rev() {
        let what = match (egress, ingress) {
            (true, true) => {
                "isolated in both directions, so nothing of theirs passes but what is said above"
            }
            (true, false) => "isolated for egress, open for ingress",
            (false, true) => "isolated for ingress, open for egress",
            (false, false) => "not isolated: no policy selects them",
        };
        page.item(2, &format!("{what}: {}", some(&labels, SHOWN)));
    }
}

fn more(page: &mut Page, all: usize) {
    if all > SHOWN {
        page.line(&format!("  and {} more; -o json has all", all - SHOWN));
    }
}

/// What `podwall generate --from-matrix` says beside the policies.
pub fn rewritten(made: &Rewritten) -> String {
    let mut page = Page::default();
    let counts = |of: Counts| {
        let policies = match of.policies {
            1 => "1 policy".to_owned(),
            many => format!("{many} policies"),
        };
        let parts = [(of.rules, "rule"), (of.peers, "peer"), (of.ports, "port")];
        let parts: Vec<String> = parts.iter().map(|(n, what)| count(*n, what)).collect();
        format!("{policies}, {}", parts.join(", "))
    };
    page.para("", 2, &format!("{} -> {}", counts(made.before), counts(made.after)));
    let proof = format!(
        "{} they say the same, for all labels that pods and namespaces may have and all addresses ({} in \
         {}), and the engine finds the same {} now",
        paint(GOOD, "proved:"),
        count(made.proved, "comparison"),
        count(made.namespaces - made.too_hard.len(), "namespace"),
        count(made.connections, "connection"),
    );
    page.para("  ", 2, &proof);
    page.para("  ", 2, "no policy, rule, peer or port of the new ones can go without a change");
    if !made.too_hard.is_empty() {
        let line = format!(
            "{} a proof would take too long, so the policies of {} stay as they are",
            paint(UNSURE, "not looked at:"),
            some(&made.too_hard, SHOWN)
        );
        page.para("  ", 2, &line);
    }
    if made.others > 0 {
        let line = format!("{} of other tiers stay as they are", count(made.others, "object"));
        page.para("  ", 2, &line);
    }
    if !made.removed.is_empty() {
        page.heading("Not needed");
        for removed in made.removed.iter().take(SHOWN) {
            page.item(2, &format!("{}: {}: {}", removed.policy, removed.what, removed.why));
        }
        more(&mut page, made.removed.len());
    }
    page.into_text()
}
