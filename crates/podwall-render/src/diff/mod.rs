//! How is a difference told?
//!
//! ```text
//!   Difference ──▶ Part (new exposure from outside, …) ── Group: sources × destinations that change
//!                                                          alike, for the same reason
//!     text, md: parts and groups      json: every pair      sarif: every rule that did something
//! ```

pub mod json;
pub mod markdown;
pub mod sarif;
pub mod text;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use podwall_analysis::difference::{
    Change, Difference, Example, Exposure, Future, Kind, Row, Shift, Shifts, Somebody, Why, Whys,
};
use podwall_policy::label::Labels;
use podwall_policy::policy::RuleRef;
use podwall_policy::reason::MissingFact;
use podwall_policy::source::Source;

use crate::words::{self, count};

/// A difference and what a reader should know besides.
#[derive(Debug)]
pub struct Told<'d, 'a> {
    /// What differs.
    pub difference: &'d Difference<'a>,
    /// What the sides are called: `main`, `old/`.
    pub names: [String; 2],
    /// What is known of pods that do not exist yet; `None` if nobody asked.
    pub future: Option<Future>,
    /// How the sides were made up, in sentences.
    pub notes: Vec<String>,
    /// What was left out because it could not be read.
    pub left_out: Vec<String>,
}

/// Groups under one heading.
pub(crate) struct Part<'d> {
    pub(crate) title: &'static str,
    /// Whether it opens something for certain.
    pub(crate) exposes: bool,
    pub(crate) groups: Vec<Group<'d>>,
}

/// Sources and destinations that change alike, for the same reason.
pub(crate) struct Group<'d> {
    pub(crate) src: Vec<usize>,
    pub(crate) dst: Vec<usize>,
    /// One of the changes.
    pub(crate) change: &'d Change,
    pub(crate) why: Arc<Why>,
}

/// Where a change is told.
fn part_of(change: &Change) -> (usize, &'static str, bool) {
    let shift = &change.shift.all;
    match (change.exposure, shift.opened.is_empty()) {
        (Some(Exposure::FromOutside), false) => (0, "New exposure to addresses outside", true),
        (Some(Exposure::FromOtherNamespace), false) => {
            (1, "New exposure to other namespaces", true)
        }
        (Some(Exposure::ToOutside), false) => (2, "New ways out of the cluster", true),
        (Some(Exposure::SameNamespace), false) => (3, "New within a namespace", true),
        (Some(_), true) => (4, "Perhaps new", false),
        (None, _) if !shift.closed.is_empty() => (5, "Closed", false),
        (None, _) if !shift.perhaps_closed.is_empty() => (6, "Perhaps closed", false),
        (None, _) => (7, "Not known", false),
    }
}

/// Everything that differs, in parts.
pub(crate) fn parts<'d>(difference: &'d Difference<'_>) -> Vec<Part<'d>> {
    let mut whys = Whys::of(difference);
    type Like = (usize, usize, Kind, Arc<Shifts>, bool, Arc<Why>);
    let mut index: HashMap<Like, usize> = HashMap::new();
    let mut parts: BTreeMap<usize, Part<'d>> = BTreeMap::new();
    // First by destination: who can newly reach it?
    let mut found: Vec<(usize, Group<'d>)> = Vec::new();
    for change in &difference.changes {
        let (part, ..) = part_of(change);
        let why = whys.why(change);
        let like =
            (part, change.dst, change.kind, change.shift.clone(), change.partly, why.clone());
        let next = found.len();
        let at = *index.entry(like).or_insert(next);
        if at == next {
            found.push((part, Group { src: Vec::new(), dst: vec![change.dst], change, why }));
        }
        found[at].1.src.push(change.src);
    }
    // Then destinations that the same sources reach.
    type Same = (usize, Vec<usize>, Kind, Arc<Shifts>, bool, Arc<Why>);
    let mut index: HashMap<Same, usize> = HashMap::new();
    for (number, group) in found {
        let (_, title, exposes) = part_of(group.change);
        let part =
            parts.entry(number).or_insert_with(|| Part { title, exposes, groups: Vec::new() });
        let Group { src, change, why, .. } = &group;
        let same =
            (number, src.clone(), change.kind, change.shift.clone(), change.partly, why.clone());
        let at = *index.entry(same).or_insert(part.groups.len());
        match part.groups.get_mut(at) {
            Some(like) => like.dst.extend(group.dst),
            None => part.groups.push(group),
        }
    }
    parts.into_values().collect()
}

/// `+`, `~`, `-`, `?`.
pub(crate) fn sign(kind: Kind) -> &'static str {
    match kind {
        Kind::Appears => "+",
        Kind::Changes => "~",
        Kind::Disappears => "-",
        Kind::Unknown => "?",
    }
}

/// What happens to ports, in words: "TCP 80", "+ TCP 443, - TCP 22; TCP 80 stays".
pub(crate) fn ports(kind: Kind, shift: &Shift) -> String {
    match kind {
        Kind::Appears if shift.perhaps_opened.is_empty() => return words::ports(&shift.opened),
        Kind::Disappears if shift.perhaps_closed.is_empty() => return words::ports(&shift.closed),
        _ => {}
    }
    let mut parts = Vec::new();
    for (lead, set) in [
        ("+ ", &shift.opened),
        ("- ", &shift.closed),
        ("perhaps + ", &shift.perhaps_opened),
        ("perhaps - ", &shift.perhaps_closed),
        ("not known before and after: ", &shift.undecided),
    ] {
        if !set.is_empty() {
            parts.push(format!("{lead}{}", words::ports(set)));
        }
    }
    let stays = shift.before.intersection(&shift.after);
    let stays = stays.difference(&shift.opened).difference(&shift.closed);
    let mut text = parts.join(", ");
    if !stays.is_empty() {
        let rest =
            if stays.is_everything() { "everything else".to_owned() } else { words::ports(&stays) };
        text += &format!("; {rest} stays");
    }
    text
}

/// Why, a phrase each, with the place that it speaks of.
pub(crate) fn reasons(why: &Why) -> Vec<(String, Option<Source>)> {
    let mut out = Vec::new();
    let rule = |rule: &RuleRef| format!("{} {}", rule.direction, full(rule));
    for its in &why.allowed_by {
        out.push((format!("allowed by {}", rule(its)), its.source.clone()));
    }
    for its in &why.released_from {
        let text = format!("{} no longer isolated by {}", its.direction, its.policy);
        out.push((text, its.source.clone()));
    }
    for its in &why.denied_before {
        out.push((format!("denied before by {}", rule(its)), its.source.clone()));
    }
    for its in &why.allowed_before {
        out.push((format!("allowed before by {}", rule(its)), its.source.clone()));
    }
    for its in &why.isolated_by {
        out.push((format!("{} isolated by {}", its.direction, its.policy), its.source.clone()));
    }
    for its in &why.denied_by {
        out.push((format!("denied by {}", rule(its)), its.source.clone()));
    }
    out
}

/// "rule 1 of shop/web".
fn full(rule: &RuleRef) -> String {
    let name = &rule.policy;
    if name.namespace.is_empty() {
        format!("rule {} of {}", rule.number, name.name)
    } else {
        format!("rule {} of {name}", rule.number)
    }
}

/// Facts that are missing, a phrase each.
pub(crate) fn missing(why: &Why) -> Vec<String> {
    let [before, after] = &why.missing;
    let both: Vec<String> =
        after.iter().filter(|its| before.contains(its)).map(ToString::to_string).collect();
    let only = |list: &[MissingFact], when: &str, other: &[MissingFact]| -> Vec<String> {
        list.iter().filter(|its| !other.contains(its)).map(|its| format!("{its}, {when}")).collect()
    };
    let mut out = both;
    out.extend(only(before, "before", after));
    out.extend(only(after, "after", before));
    out
}

/// What is new or gone among the ends of a change: "shop/web is new".
pub(crate) fn only_once(rows: &[Row<'_>], group: &Group<'_>) -> Vec<String> {
    let mut out = Vec::new();
    for (list, what) in [(&group.src, "source"), (&group.dst, "destination")] {
        let there: Vec<[bool; 2]> = list.iter().map(|row| rows[*row].is_there()).collect();
        let all = |wanted: [bool; 2]| !there.is_empty() && there.iter().all(|its| *its == wanted);
        let (is, are) = match list.len() {
            1 => ("is", ""),
            _ => ("are", "s"),
        };
        if all([false, true]) {
            out.push(format!("the {what}{are} {is} new"));
        } else if all([true, false]) {
            out.push(format!("the {what}{are} {is} gone"));
        }
    }
    out
}

/// "a pod app=web in namespace shop", "a pod without labels in a namespace env=prod".
pub(crate) fn somebody(its: &Somebody) -> String {
    let with = |labels: &Labels| {
        if labels.is_empty() { "without labels".to_owned() } else { labels.to_string() }
    };
    match its {
        Somebody::Outside(addresses) => addresses.clone(),
        Somebody::Pod { labels, namespace, new_namespace: None } => {
            format!("a pod {} in namespace {namespace}", with(labels))
        }
        Somebody::Pod { labels, new_namespace: Some(own), .. } => {
            format!("a pod {} in a new namespace {}", with(labels), with(own))
        }
    }
}

/// "a pod app=x in namespace y would newly reach … on TCP 80".
pub(crate) fn example(its: &Example) -> String {
    let (src, dst) = (somebody(&its.src), somebody(&its.dst));
    let mut parts = Vec::new();
    if !its.opened.is_empty() {
        parts.push(format!("would newly reach {dst} on {}", words::ports(&its.opened)));
    }
    if !its.closed.is_empty() {
        parts.push(format!("would no longer reach {dst} on {}", words::ports(&its.closed)));
    }
    format!("{src} {}", parts.join(" and "))
}

/// What the comparison covers: "5 workloads (9 pods), all addresses outside, …".
pub(crate) fn covers(told: &Told<'_, '_>) -> String {
    let engines = told.difference.engines();
    let mut pods: BTreeSet<_> = BTreeSet::new();
    for engine in engines {
        pods.extend(engine.cluster().pods.keys());
    }
    let rows = told.difference.rows.iter().filter(|row| matches!(row, Row::Pods { .. })).count();
    if pods.is_empty() {
        return "neither side has pods, so policies alone were compared".to_owned();
    }
    let who = if rows == pods.len() {
        count(pods.len(), "pod")
    } else {
        format!("{} of {}", count(pods.len(), "pod"), count(rows, "workload"))
    };
    format!("{who} and every address outside, every protocol and port, IPv4 and IPv6")
}

/// How many connections of each kind there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Nothing passed, something does.
    pub appear: usize,
    /// Something passed and does.
    pub change: usize,
    /// Something passed, nothing does.
    pub disappear: usize,
    /// It depends on missing facts.
    pub unknown: usize,
    /// Those that open something for certain, to addresses outside.
    pub outside: usize,
    /// Those that open something for certain, to other namespaces.
    pub other_namespaces: usize,
}

/// Counts the changes.
pub fn counts(difference: &Difference<'_>) -> Counts {
    let mut counts = Counts::default();
    for change in &difference.changes {
        *match change.kind {
            Kind::Appears => &mut counts.appear,
            Kind::Changes => &mut counts.change,
            Kind::Disappears => &mut counts.disappear,
            Kind::Unknown => &mut counts.unknown,
        } += 1;
        if !change.shift.all.opened.is_empty() {
            counts.outside += usize::from(change.exposure == Some(Exposure::FromOutside));
            counts.other_namespaces +=
                usize::from(change.exposure == Some(Exposure::FromOtherNamespace));
        }
    }
    counts
}

/// "3 connections appear, 1 changes, 1 disappears".
pub(crate) fn totals(counts: &Counts) -> String {
    let mut parts: Vec<String> = Vec::new();
    for (number, one, more) in [
        (counts.appear, "appears", "appear"),
        (counts.change, "changes", "change"),
        (counts.disappear, "disappears", "disappear"),
        (counts.unknown, "is not known", "are not known"),
    ] {
        if number == 0 {
            continue;
        }
        let verb = if number == 1 { one } else { more };
        parts.push(match parts.is_empty() {
            true => format!("{} {verb}", count(number, "connection")),
            false => format!("{number} {verb}"),
        });
    }
    parts.join(", ")
}

/// "new exposure: 2 to addresses outside, 1 to other namespaces"; `None` where there is none.
pub(crate) fn exposures(counts: &Counts) -> Option<String> {
    let mut parts = Vec::new();
    if counts.outside > 0 {
        parts.push(format!("{} to addresses outside", counts.outside));
    }
    if counts.other_namespaces > 0 {
        parts.push(format!("{} to other namespaces", counts.other_namespaces));
    }
    (!parts.is_empty()).then(|| format!("new exposure: {}", parts.join(", ")))
}

/// What is known of pods that do not exist yet, in sentences; nothing where connections of today
/// differ and no more is known.
pub(crate) fn future(told: &Told<'_, '_>) -> Vec<String> {
    match &told.future {
        None => Vec::new(),
        Some(Future::Same) => {
            vec!["The policies say the same, so that holds for every pod and namespace that may come."
                .to_owned()]
        }
        Some(Future::Differs(examples)) => {
            let mut out = vec!["Pods that may come would be treated otherwise:".to_owned()];
            out.extend(examples.iter().map(example));
            out
        }
        Some(Future::Unproved { tried }) => vec![format!(
            "The policies are written otherwise. Of pods that may come {tried} kinds were tried, \
             and none was treated otherwise; that is no proof."
        )],
    }
}
