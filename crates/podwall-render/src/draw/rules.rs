//! Which rules let a block pass, and what is said of a box?
//!
//! A rule belongs to a block if it selects one end of it, matches another, and its ports meet what
//! passes.

use podwall_analysis::picture::scene::{Scene, Stands};
use podwall_analysis::picture::{Picture, RuleFacts, What};
use podwall_policy::policy::{Action, Direction};

use super::frames::{Kind, item_name};

/// So many rules are named in a tooltip.
const NAMED: usize = 8;

/// The rules of a block: egress of its sources, then ingress of its destinations.
pub(crate) fn of_block<'p>(
    picture: &'p Picture,
    scene: &Scene,
    block: usize,
) -> Vec<&'p RuleFacts> {
    let its = &scene.blocks[block];
    let rows = |items: &[usize]| -> Vec<usize> {
        items.iter().flat_map(|item| scene.items[*item].rows.iter().copied()).collect()
    };
    let (sources, destinations) = (rows(&its.sources), rows(&its.destinations));
    let content = &scene.contents[its.content as usize];
    let ports = content.now.at_most().union(&content.before.at_most());
    let mut found: Vec<&RuleFacts> = Vec::new();
    for direction in Direction::BOTH {
        let (own, other) = match direction {
            Direction::Egress => (&sources, &destinations),
            Direction::Ingress => (&destinations, &sources),
        };
        found.extend(picture.rules.iter().filter(|rule| {
            let policy = &picture.policies[rule.policy];
            rule.direction == direction
                && rule.action == Action::Allow
                && !policy.dry_run
                && own.iter().any(|row| policy.subject[*row])
                && other.iter().any(|row| rule.matches[*row])
                && rule.set.as_ref().is_none_or(|set| !set.intersection(&ports).is_empty())
        }));
    }
    found
}

/// "rule 1 of shop/web (web.yaml:12:5)"
pub(crate) fn named(picture: &Picture, rule: &RuleFacts) -> String {
    let policy = &picture.policies[rule.policy];
    let at = rule.source.as_ref().map(|source| format!(" ({source})")).unwrap_or_default();
    let then = if policy.old { "before: " } else { "" };
    format!("{then}{} rule {} of {}{at}", rule.direction, rule.number, policy.name)
}

fn names(picture: &Picture, scene: &Scene, items: &[usize]) -> String {
    const SHOWN: usize = 4;
    let mut names: Vec<String> =
        items.iter().take(SHOWN).map(|item| item_name(picture, scene, *item)).collect();
    if items.len() > SHOWN {
        names.push(format!("{} more", items.len() - SHOWN));
    }
    names.join(", ")
}

/// What a line says when it is pointed at.
pub(crate) fn tooltip(picture: &Picture, scene: &Scene, block: usize) -> String {
    let its = &scene.blocks[block];
    let mut lines = vec![format!(
        "{} → {}: {}",
        names(picture, scene, &its.sources),
        names(picture, scene, &its.destinations),
        super::svg::content_text(picture, scene, block)
    )];
    let rules = of_block(picture, scene, block);
    for direction in Direction::BOTH {
        let own: Vec<_> = rules.iter().filter(|rule| rule.direction == direction).collect();
        lines.extend(own.iter().take(NAMED).map(|rule| named(picture, rule)));
        if own.len() > NAMED {
            lines.push(format!("and {} more {direction} rules", own.len() - NAMED));
        }
    }
    let content = &scene.contents[its.content as usize];
    lines.extend(content.now.missing.iter().take(3).map(|fact| format!("depends on {fact}")));
    lines.join("\n")
}

/// What a box says when it is pointed at.
pub(crate) fn frame_tooltip(picture: &Picture, scene: &Scene, kind: Kind) -> String {
    let (Kind::Chip(item) | Kind::Side(item, _)) = kind else {
        return match kind {
            Kind::Set(set) => names_all(picture, scene, &scene.sets[set].items),
            Kind::Head(space) => format!("namespace {}", picture.spaces[space].name),
            Kind::Chip(_) | Kind::Side(..) => String::new(),
        };
    };
    match scene.items[item].what {
        Stands::Space(space) => format!("namespace {}", picture.spaces[space].name),
        Stands::Outside(row) => format!("addresses outside: {}", picture.rows[row].label),
        Stands::Workload(row) => {
            let mut lines = vec![picture.rows[row].label.clone()];
            if let What::Pods { labels, .. } = &picture.rows[row].what {
                let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
                lines.push(labels.join(", "));
            }
            for (egress, words) in [(false, "what comes in"), (true, "what goes out")] {
                let held: Vec<String> = picture
                    .policies
                    .iter()
                    .filter(|policy| policy.speaks(egress) && policy.subject[row])
                    .map(|policy| match &policy.source {
                        Some(source) => format!("{} ({source})", policy.name),
                        None => policy.name.clone(),
                    })
                    .collect();
                lines.push(if held.is_empty() {
                    format!("no policy holds {words}")
                } else {
                    format!("{words} is held by {}", held.join(", "))
                });
            }
            lines.join("\n")
        }
    }
}

fn names_all(picture: &Picture, scene: &Scene, items: &[usize]) -> String {
    const SHOWN: usize = 30;
    let mut names: Vec<String> =
        items.iter().take(SHOWN).map(|item| item_name(picture, scene, *item)).collect();
    if items.len() > SHOWN {
        names.push(format!("and {} more", items.len() - SHOWN));
    }
    names.join("\n")
}
