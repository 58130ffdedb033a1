//! What does the page know besides its pictures?
//!
//! ```text
//!   rows ──class──▶ class × class ──▶ content      rules: selected rows, matched rows, as ranges
//! ```
//!
//! Rows with equal cells are one class, and a line of classes is run-length encoded: a thousand
//! workloads are kilobytes and not a million pairs.

use std::collections::HashMap;

use podwall_analysis::picture::scene::{Scene, Stands};
use podwall_analysis::picture::{Change, Content, Passing, Picture, What};
use podwall_policy::policy::{Action, Direction};
use serde::Serialize;

use super::frames::{called, item_name, said, these};

/// Everything, as the script reads it; short names, since there are many.
#[derive(Serialize)]
pub(crate) struct Data {
    title: String,
    compared: bool,
    marks: bool,
    spaces: Vec<String>,
    rows: Vec<RowData>,
    contents: Vec<ContentData>,
    /// By class of source, runs of (length, content) over classes of destinations.
    cells: Vec<Vec<u32>>,
    /// Runs of (length, content): what passes among a row's own pods.
    own: Vec<u32>,
    policies: Vec<PolicyData>,
    rules: Vec<RuleData>,
    sheets: Vec<SheetData>,
}

#[derive(Serialize)]
struct RowData {
    n: String,
    /// Kind; empty outside.
    k: String,
    /// Namespace; -1 outside.
    s: i64,
    p: usize,
    l: String,
    /// Class.
    c: usize,
    /// 1: free to send, 2: open to all, 4: came, 8: went, 16: on the node's network.
    f: u8,
}

#[derive(Serialize)]
struct ContentData {
    /// In words.
    t: String,
    /// What passes, in full; before, where it differs.
    full: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    before: String,
    /// `everything`, `some`, `perhaps`.
    kind: &'static str,
    /// `same`, `added`, `removed`, `changed`.
    change: &'static str,
    partly: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing: Vec<String>,
}

#[derive(Serialize)]
struct PolicyData {
    n: String,
    at: String,
    /// 1: egress, 2: ingress.
    d: u8,
    old: bool,
    dry: bool,
    tier: String,
    s: Vec<usize>,
}

#[derive(Serialize)]
struct RuleData {
    p: usize,
    /// 1: egress, 2: ingress.
    d: u8,
    n: u32,
    a: &'static str,
    at: String,
    peers: String,
    ports: String,
    m: Vec<usize>,
}

#[derive(Serialize)]
struct SheetData {
    key: String,
    name: String,
    /// Rows of each item, as ranges.
    items: Vec<Vec<usize>>,
    names: Vec<String>,
    /// Items of each set.
    sets: Vec<Vec<usize>>,
    set_names: Vec<String>,
    /// Content, sources, destinations.
    blocks: Vec<(usize, Vec<usize>, Vec<usize>)>,
}

/// Collects the data of a picture and its sheets.
pub(crate) fn data(picture: &Picture, title: &str, sheets: &[(String, String, &Scene)]) -> Data {
    let many = picture.rows.len();
    let (class, first) = classes(picture);
    let mut contents: Vec<Content> = picture.contents.clone();
    let mut known: HashMap<Content, usize> =
        contents.iter().cloned().enumerate().map(|(at, content)| (content, at)).collect();
    let sheets = sheets
        .iter()
        .map(|(key, name, scene)| sheet(picture, key, name, scene, &mut contents, &mut known))
        .collect();
    let cells = first
        .iter()
        .map(|src| runs(first.iter().map(|dst| within(picture, &class, *src, *dst))))
        .collect();
    Data {
        title: title.to_owned(),
        compared: picture.compared,
        marks: picture.free.content.is_some(),
        spaces: picture.spaces.iter().map(|space| space.name.clone()).collect(),
        rows: (0..many).map(|row| row_data(picture, row, class[row])).collect(),
        contents: contents.iter().map(|content| content_data(picture, content)).collect(),
        cells,
        own: runs((0..many).map(|row| picture.cell(row, row))),
        policies: picture
            .policies
            .iter()
            .map(|policy| PolicyData {
                n: policy.name.clone(),
                at: policy.source.as_ref().map(ToString::to_string).unwrap_or_default(),
                d: u8::from(policy.egress) | u8::from(policy.ingress) << 1,
                old: policy.old,
                dry: policy.dry_run,
                tier: match policy.tier {
                    podwall_policy::policy::Tier::NetworkPolicy => String::new(),
                    tier => format!("{tier:?}"),
                },
                s: ranges(policy.subject.iter().copied()),
            })
            .collect(),
        rules: picture
            .rules
            .iter()
            .map(|rule| RuleData {
                p: rule.policy,
                d: if rule.direction == Direction::Egress { 1 } else { 2 },
                n: rule.number,
                a: match rule.action {
                    Action::Allow => "allows",
                    Action::Deny => "denies",
                    Action::Pass => "passes on",
                },
                at: rule.source.as_ref().map(ToString::to_string).unwrap_or_default(),
                peers: shorten(&rule.peers, "anybody"),
                ports: shorten(&rule.ports, "every port"),
                m: ranges(rule.matches.iter().copied()),
            })
            .collect(),
        sheets,
    }
}

/// A cell of two classes: of one class the cell of two different rows of it.
fn within(picture: &Picture, class: &[usize], src: usize, dst: usize) -> u32 {
    if src != dst {
        return picture.cell(src, dst);
    }
    let other = (src + 1..class.len()).find(|row| class[*row] == class[src]);
    other.map_or(0, |other| picture.cell(src, other))
}

/// Rows with equal cells, but for what is among themselves; the first row of each class.
fn classes(picture: &Picture) -> (Vec<usize>, Vec<usize>) {
    let many = picture.rows.len();
    let mut first: Vec<usize> = Vec::new();
    let mut buckets: HashMap<u64, Vec<usize>> = HashMap::new();
    let mut class = Vec::with_capacity(many);
    for row in 0..many {
        // Equal but for its own place: sums do not ask where.
        let mut sum: u64 = 0;
        for other in (0..many).filter(|other| *other != row) {
            let pair = [picture.cell(row, other), picture.cell(other, row)];
            sum = sum.wrapping_add(mix(u64::from(pair[0]) << 32 | u64::from(pair[1])));
        }
        let found = buckets.entry(sum).or_default();
        let same = found.iter().copied().find(|index| alike(picture, first[*index], row));
        class.push(same.unwrap_or_else(|| {
            first.push(row);
            found.push(first.len() - 1);
            first.len() - 1
        }));
    }
    // Each row of a class is like its first; between two others of it the same must hold.
    let sound = (0..many).all(|row| {
        let head = first[class[row]];
        let own = within(picture, &class, head, head);
        (0..many).all(|other| {
            other == row || class[other] != class[row] || picture.cell(row, other) == own
        })
    });
    if sound { (class, first) } else { ((0..many).collect(), (0..many).collect()) }
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn alike(picture: &Picture, a: usize, b: usize) -> bool {
    let others = (0..picture.rows.len()).filter(|row| *row != a && *row != b);
    let mut same = others.map(|o| {
        picture.cell(a, o) == picture.cell(b, o) && picture.cell(o, a) == picture.cell(o, b)
    });
    same.all(|same| same) && picture.cell(a, b) == picture.cell(b, a)
}

/// Runs of (length, value).
fn runs(values: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut out: Vec<u32> = Vec::new();
    for value in values {
        match &mut out[..] {
            [.., length, last] if *last == value => *length += 1,
            _ => out.extend([1, value]),
        }
    }
    out
}

/// First and last of each range that is set.
fn ranges(set: impl Iterator<Item = bool>) -> Vec<usize> {
    let mut out: Vec<usize> = Vec::new();
    for (at, _) in set.enumerate().filter(|(_, set)| *set) {
        match &mut out[..] {
            [.., last] if *last + 1 == at => *last = at,
            _ => out.extend([at, at]),
        }
    }
    out
}

fn row_data(picture: &Picture, row: usize, class: usize) -> RowData {
    let its = &picture.rows[row];
    let flag = |set: bool, bit: u8| if set { bit } else { 0 };
    let mut f = flag(picture.free.out.get(row) == Some(&true), 1)
        | flag(picture.free.into.get(row) == Some(&true), 2)
        | flag(!its.before, 4)
        | flag(!its.now, 8);
    match &its.what {
        What::Pods { space, name, kind, pods, labels, host_network } => {
            f |= flag(*host_network, 16);
            let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
            let s = i64::try_from(*space).unwrap_or(-1);
            RowData {
                n: name.clone(),
                k: kind.clone(),
                s,
                p: *pods,
                l: labels.join(", "),
                c: class,
                f,
            }
        }
        What::Outside { addresses, .. } => {
            let cidrs = podwall_analysis::outside::cidrs(addresses);
            let l = shorten(&cidrs, "");
            RowData { n: its.label.clone(), k: String::new(), s: -1, p: 0, l, c: class, f }
        }
    }
}

fn passing(passing: &Passing) -> String {
    if passing.is_nothing() {
        return "nothing".to_owned();
    }
    let mut parts = Vec::new();
    if !passing.passes.is_empty() || passing.families.is_empty() && passing.open.is_empty() {
        parts.push(passing.passes.to_string());
    }
    for (family, set) in &passing.families {
        parts.push(format!("over {family}: {set}"));
    }
    if !passing.open.is_empty() {
        parts.push(format!("perhaps {}", passing.open));
    }
    parts.join("; ")
}

fn content_data(picture: &Picture, content: &Content) -> ContentData {
    let shown = if content.now.is_nothing() { &content.before } else { &content.now };
    let change = content.change(picture.compared);
    ContentData {
        t: said(content, picture.compared),
        full: passing(&content.now),
        before: if change == Change::Same { String::new() } else { passing(&content.before) },
        kind: if shown.passes.is_everything() {
            "everything"
        } else if shown.passes.is_empty() && shown.families.is_empty() {
            "perhaps"
        } else {
            "some"
        },
        change: match change {
            Change::Same => "same",
            Change::Added => "added",
            Change::Removed => "removed",
            Change::More | Change::Less | Change::Other => "changed",
        },
        partly: shown.partly,
        missing: shown.missing.clone(),
    }
}

/// A list in words, cut where it is very long.
fn shorten(list: &[String], none: &str) -> String {
    const SHOWN: usize = 12;
    if list.is_empty() {
        return none.to_owned();
    }
    let mut text = list[..list.len().min(SHOWN)].join("; ");
    if list.len() > SHOWN {
        text.push_str(&format!("; and {} more", list.len() - SHOWN));
    }
    text
}

fn sheet(
    picture: &Picture,
    key: &str,
    name: &str,
    scene: &Scene,
    contents: &mut Vec<Content>,
    known: &mut HashMap<Content, usize>,
) -> SheetData {
    let rows = |item: &podwall_analysis::picture::scene::Item| {
        let mut set = vec![false; picture.rows.len()];
        item.rows.iter().for_each(|row| set[*row] = true);
        ranges(set.into_iter())
    };
    let blocks = scene
        .blocks
        .iter()
        .map(|block| {
            let content = &scene.contents[block.content as usize];
            let number = *known.entry(content.clone()).or_insert_with(|| {
                contents.push(content.clone());
                contents.len() - 1
            });
            (number, block.sources.clone(), block.destinations.clone())
        })
        .collect();
    let set_name = |set: &podwall_analysis::picture::scene::Set| match &set.called {
        podwall_analysis::picture::scene::Called::These => these(picture, scene, &set.items),
        name => called(picture, scene, name, set.items.len(), set.sends),
    };
    let item = |at: usize| match scene.items[at].what {
        Stands::Space(space) => format!("namespace {}", picture.spaces[space].name),
        _ => item_name(picture, scene, at),
    };
    SheetData {
        key: key.to_owned(),
        name: name.to_owned(),
        items: scene.items.iter().map(rows).collect(),
        names: (0..scene.items.len()).map(item).collect(),
        sets: scene.sets.iter().map(|set| set.items.clone()).collect(),
        set_names: scene.sets.iter().map(set_name).collect(),
        blocks,
    }
}
