//! The answer of `podwall can` for people.
//!
//! ```text
//!   denied: default/web-pod cannot reach default/db-pod on TCP 3306      the verdict, plainly
//!
//!   Out of default/web-pod: denied                                       then each side
//!     isolated by web-policy
//!     - pod default/db-pod has label app=database, not app=app-server …  why not
//!
//!   What next                                                            and what would help
//! ```

use podwall_analysis::can::{
    Answer, Case, Contribution, End, PortAsk, contributions, service_port,
};
use podwall_analysis::exposure::Path;
use podwall_analysis::outside;
use podwall_analysis::peer::Peer;
use podwall_policy::address::{AddressRange, AddressSet, Family};
use podwall_policy::cluster::Cluster;
use podwall_policy::evaluate::{Side, Verdict};
use podwall_policy::explain::{Question, SideExplanation};
use podwall_policy::policy::{Action, Direction, RuleRef};

use crate::page::{BAD, FAINT, GOOD, Page, UNSURE, pad, paint, paint_words};
use crate::{next, words};

/// How many rules that do not match are shown; JSON has them all.
const MISSES: usize = 3;
/// How many groups of like cases are shown.
const GROUPS: usize = 12;
/// How many peers of a group are named.
const NAMED: usize = 3;

/// The answer as coloured text, with the paths from outside to the destination; `fixes` if ways to
/// turn it round will follow.
pub fn can(cluster: &Cluster, answer: &Answer<'_>, paths: &[Path], fixes: bool) -> String {
    let mut page = Page::default();
    page.para("", 2, &headline(answer));
    for note in &answer.notes {
        page.para("  ", 2, &paint_words(FAINT, note));
    }
    translations(&mut page, answer);
    addresses(&mut page, answer);
    families(&mut page, answer);
    let groups = answer.groups();
    for group in groups.iter().take(GROUPS) {
        if groups.len() > 1 {
            page.heading(&group_name(group));
        }
        let Some(case) = group.first() else { continue };
        for (side, why) in
            [(&case.evaluation.egress, &case.egress), (&case.evaluation.ingress, &case.ingress)]
        {
            one_side(&mut page, case, side, why);
        }
    }
    if groups.len() > GROUPS {
        page.gap();
        page.para("", 2, &paint_words(FAINT, &more_groups(&groups[GROUPS..])));
    }
    super::paths::section(
        &mut page,
        "Paths from outside, on which policies see another address",
        paths,
    );
    if let Some(case) = answer.decisive() {
        policies(&mut page, &contributions(cluster, case), case.verdict);
    }
    let steps = answer.decisive().map(next::steps).unwrap_or_default();
    if !steps.is_empty() && !fixes {
        page.heading("What next");
        for step in steps {
            page.item(2, &step);
        }
        if answer.verdict == Verdict::Denied {
            page.item(2, "--fix shows the smallest change as a patch, and all that it would open");
        }
    }
    page.into_text()
}

/// What each policy contributes, where a side has several.
fn policies(page: &mut Page, found: &[Contribution], verdict: Verdict) {
    let of = |direction| found.iter().filter(move |its| its.direction == direction).count();
    if Direction::BOTH.into_iter().all(|direction| of(direction) < 2) {
        return;
    }
    page.heading("Which policy matters");
    let numbers = |rules: &[RuleRef]| {
        let numbers: Vec<String> = rules.iter().map(|rule| rule.number.to_string()).collect();
        let rules = if numbers.len() == 1 { "rule" } else { "rules" };
        format!("{rules} {}", numbers.join(", "))
    };
    for its in found {
        let mut does = Vec::new();
        if its.isolates {
            does.push("isolates".to_owned());
        }
        if !its.allows.is_empty() {
            does.push(format!("allows it by {}", numbers(&its.allows)));
        } else if !its.denies.is_empty() {
            does.push(format!("denies it by {}", numbers(&its.denies)));
        } else {
            does.push("does not allow it".to_owned());
        }
        let without = if its.without == verdict {
            paint_words(FAINT, &format!("still {} without it", words::verdict(verdict)))
        } else {
            format!("{} without it", words::painted(its.without))
        };
        let does = does.join(", ");
        page.item(2, &format!("{} ({}): {does}; {without}", its.policy.name, its.direction));
    }
}

/// The verdict in one sentence.
fn headline(answer: &Answer<'_>) -> String {
    let (src, dst) = (&answer.src, &answer.dst);
    let on = question(answer);
    let mixed = answer.cases.iter().any(|case| case.verdict != answer.verdict);
    let partly =
        mixed && !matches!((src, dst), (Peer::Outside { .. }, _) | (_, Peer::Outside { .. }));
    match answer.verdict {
        Verdict::Allowed => {
            let what = match answer.ask.port {
                None if !matches!(dst, Peer::Service(_)) && !answer.passes.is_empty() => {
                    format!(" on {}", words::ports(&answer.passes))
                }
                _ => on,
            };
            let some = if mixed && !partly { "part of " } else { "" };
            let (src, dst) = match (src, dst) {
                (Peer::Outside { .. }, _) => (format!("{some}{src}"), dst.to_string()),
                (_, Peer::Outside { .. }) => (src.to_string(), format!("{some}{dst}")),
                _ => (src.to_string(), dst.to_string()),
            };
            format!("{} {src} can reach {dst}{what}", paint(GOOD, "allowed:"))
        }
        Verdict::Denied => {
            let (always, but) =
                if partly { (" always", ": some cases pass, some do not") } else { ("", "") };
            format!("{} {src} cannot{always} reach {dst}{on}{but}", paint(BAD, "denied:"))
        }
        Verdict::Unknown => format!(
            "{} whether {src} can reach {dst}{on} depends on a fact that is missing",
            paint(UNSURE, "unknown:")
        ),
    }
}

/// " on TCP 5000", as it was asked for.
fn question(answer: &Answer<'_>) -> String {
    let protocol = answer.ask.protocol.map(|protocol| protocol.to_string());
    match (&answer.ask.port, answer.decisive().map(|case| case.question)) {
        (Some(PortAsk::Name(name)), Some(Question::Port(protocol, Some(port)))) => {
            if answer.translations.is_empty() {
                format!(" on {protocol} {port} ({name})")
            } else {
                format!(" on port {name}")
            }
        }
        (Some(port), _) => format!(" on {} {port}", protocol.as_deref().unwrap_or("TCP")),
        (None, Some(asked)) if answer.ask.protocol.is_some() => {
            let any = match asked {
                Question::Port(protocol, _) => Question::Port(protocol, None),
                Question::Anything => Question::Anything,
            };
            words::on(any)
        }
        (None, _) if !answer.translations.is_empty() => " on any of its ports".to_owned(),
        (None, _) => " on any port".to_owned(),
    }
}

/// Which pods stand behind a Service, and on which ports.
fn translations(page: &mut Page, answer: &Answer<'_>) {
    for translation in &answer.translations {
        page.gap();
        page.para(
            "",
            2,
            &format!(
                "{} of {} {}: {}",
                service_port(translation.port),
                answer.dst,
                match &answer.dst {
                    Peer::Service(service) if service.headless => "names these ports of its pods",
                    _ => "leads to",
                },
                words::painted(translation.verdict)
            ),
        );
        let widest = translation.backends.iter().map(|(pod, ..)| pod.name.to_string().len());
        let widest = widest.max().unwrap_or(0).min(40);
        const SHOWN: usize = 10;
        for (pod, port, verdict) in translation.backends.iter().take(SHOWN) {
            page.line(&format!(
                "  {:widest$}  {} {port}  {}",
                pod.name.to_string(),
                translation.port.protocol,
                words::painted(*verdict)
            ));
        }
        if translation.backends.len() > SHOWN {
            page.line(&format!("  and {} more", translation.backends.len() - SHOWN));
        }
        for pod in translation.without.iter().take(SHOWN) {
            page.line(&format!("  {:widest$}  has no port of that name", pod.name.to_string()));
        }
    }
}

/// Which addresses outside pass and which do not, where they differ.
fn addresses(page: &mut Page, answer: &Answer<'_>) {
    let verdicts = [Verdict::Allowed, Verdict::Denied, Verdict::Unknown];
    let sets: Vec<_> = verdicts
        .into_iter()
        .map(|verdict| (verdict, answer.outside(verdict)))
        .filter(|(_, set)| !set.is_empty())
        .collect();
    if sets.len() < 2 {
        return;
    }
    page.gap();
    for (verdict, set) in sets {
        let lead = format!("  {} ", pad(&words::painted(verdict), 7));
        page.para(&lead, 10, &outside::describe(&set));
    }
}

/// The verdicts of both families, where they differ.
fn families(page: &mut Page, answer: &Answer<'_>) {
    if answer.cases.iter().any(|case| case.outside().is_some()) {
        return; // the addresses say it
    }
    let [v4, v6] = Family::BOTH.map(|family| answer.family_verdict(family));
    if let (Some(v4), Some(v6)) = (v4, v6)
        && v4 != v6
    {
        page.gap();
        page.para(
            "  ",
            2,
            &format!(
                "IPv4: {}, IPv6: {}. Both ends speak both, so both have to pass.",
                words::painted(v4),
                words::painted(v6)
            ),
        );
    }
}

/// "8 more kinds of cases, by other rules: 7 allowed, 1 denied; -o json has all".
fn more_groups(groups: &[Vec<&Case<'_>>]) -> String {
    let verdicts = [Verdict::Allowed, Verdict::Denied, Verdict::Unknown];
    let counts = verdicts.into_iter().filter_map(|verdict| {
        let count = groups.iter().filter(|group| group[0].verdict == verdict).count();
        (count > 0).then(|| format!("{count} {}", words::verdict(verdict)))
    });
    let counts: Vec<String> = counts.collect();
    let kinds = words::count(groups.len(), "more kind");
    format!("{kinds} of cases, by other rules: {}; -o json has all", counts.join(", "))
}

/// "default/web-pod to default/app-1 over IPv6, and 3 like it: denied".
fn group_name(group: &[&Case<'_>]) -> String {
    let verdict = words::verdict(group[0].verdict);
    let pair = |case: &&Case<'_>| {
        let over =
            if case.outside().is_some() { String::new() } else { format!(" over {}", case.family) };
        format!("{} to {}{}{over}", case.src, case.dst, port(case))
    };
    let pairs: Vec<String> = group.iter().take(NAMED).map(pair).collect();
    let all: usize = group.iter().map(|case| case.pairs).sum();
    let more = match all - pairs.len() {
        0 => String::new(),
        more => format!(", and {more} like it"),
    };
    format!("{}{more}: {verdict}", pairs.join("; "))
}

fn port(case: &Case<'_>) -> String {
    match case.question {
        Question::Port(protocol, Some(port)) => format!(" {protocol} {port}"),
        _ => String::new(),
    }
}

fn one_side(page: &mut Page, case: &Case<'_>, side: &Side, why: &SideExplanation) {
    let (end, other, out) = match side.direction {
        Direction::Egress => (&case.src, &case.dst, "Out of"),
        Direction::Ingress => (&case.dst, &case.src, "Into"),
    };
    if matches!(end, End::Outside(_)) && !matches!(other, End::Outside(_)) {
        return; // nobody expects a policy there
    }
    page.gap();
    let verdict = words::painted(why.verdict);
    page.para("", 2, &format!("{out} {end} ({}): {verdict}", side.direction));
    if let Some(exempt) = side.exempt {
        page.para("  ", 2, words::exempt(exempt));
        return;
    }
    if side.is_isolated() {
        page.para("  ", 4, &format!("isolated by {}", words::policies(&side.isolated_by)));
    } else if side.rules.is_empty() {
        let all = words::passes(side.direction);
        page.para(
            "  ",
            4,
            &format!("no policy selects it for {}: everything may {all}", side.direction),
        );
        return;
    }
    for (by, rules) in [("allowed by", &why.allowed_by), ("denied by", &why.denied_by)] {
        for rule in rules {
            let place = words::place(rule.source.as_ref());
            page.para("  ", 4, &format!("{by} {}{place}", words::rule(rule)));
        }
    }
    for (what, rules) in [
        ("comes too late, an earlier rule has decided:", &why.overruled),
        ("matches, but its policy is on trial (dry run) and decides nothing:", &why.dry_run),
    ] {
        for rule in rules {
            let place = words::place(rule.source.as_ref());
            page.para("  ", 4, &format!("{what} {}{place}", words::rule(rule)));
        }
    }
    if why.verdict == Verdict::Allowed {
        return;
    }
    if let End::Outside(class) = other
        && class.addresses != AddressSet::from(AddressRange::one(class.example))
    {
        let example = class.example;
        page.para("  ", 4, &paint_words(FAINT, &format!("{example} stands for all of {other}")));
    }
    for (rule, facts) in &why.undecided {
        let facts: Vec<String> = facts.iter().map(ToString::to_string).collect();
        let place = words::place(rule.source.as_ref());
        page.item(
            2,
            &format!("{} would allow it, if known: {}{place}", words::rule(rule), facts.join("; ")),
        );
    }
    misses(page, side, why, other);
}

/// The rules that nearly match, in the words of the manifest.
fn misses(page: &mut Page, side: &Side, why: &SideExplanation, other: &End<'_>) {
    let preposition = if side.direction == Direction::Egress { "to" } else { "from" };
    if why.near_misses.is_empty() && why.undecided.is_empty() && why.denied_by.is_empty() {
        page.para(
            "  ",
            4,
            &format!("and no rule allows anything {preposition} anybody, {other} included"),
        );
    }
    // A rule that would deny is no way in.
    let allowing = || why.near_misses.iter().filter(|miss| miss.action == Action::Allow);
    for miss in allowing().take(MISSES) {
        let reasons: Vec<String> = miss.reasons.iter().map(ToString::to_string).collect();
        let rule = words::rule(&miss.rule);
        let otherwise = match reasons.len() {
            1 => format!("{rule} would allow it"),
            _ => format!("otherwise {rule} would allow it"),
        };
        let place = words::place(miss.rule.source.as_ref());
        page.item(2, &format!("{}; {otherwise}{place}", reasons.join(", and ")));
    }
    let more = allowing().count().saturating_sub(MISSES);
    if more > 0 {
        let rules = words::count(more, "more rule");
        page.para(
            "  ",
            4,
            &paint_words(FAINT, &format!("{rules} would not do either; -o json has all")),
        );
    }
}
