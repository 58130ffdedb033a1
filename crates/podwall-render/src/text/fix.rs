//! The part of `podwall can --fix` that says how to turn the answer round, for people.
//!
//! ```text
//!   To allow it
//!     1. add TCP 3306 to ingress rule 1 of default/db-policy     what, in words
//!        --- a/db-policy.yaml …                                  as a patch, or as commands
//!        and nothing else changes                                or all that does
//! ```

use podwall_analysis::difference::Exposure;
use podwall_analysis::fix::patch::{Texts, patches};
use podwall_analysis::fix::{Effect, Fix, Fixes};
use podwall_policy::cluster::Cluster;
use podwall_policy::evaluate::Verdict;

use crate::page::{BAD, FAINT, GOOD, Page, UNSURE, paint, paint_words};
use crate::patch::unified;
use crate::words;

/// How many other effects are shown; JSON has them all.
const SHOWN: usize = 8;

/// As coloured text, to be read behind the answer.
pub fn fixes(cluster: &Cluster, texts: &Texts, fixes: &Fixes) -> String {
    let mut page = Page::default();
    page.heading(match fixes.wanted {
        Some(Verdict::Allowed) => "To allow it",
        Some(_) => "To deny it",
        None => "To get an answer first",
    });
    for (index, fix) in fixes.fixes.iter().enumerate() {
        if index > 0 {
            page.gap();
        }
        let number = if fixes.fixes.len() > 1 { format!("{}. ", index + 1) } else { String::new() };
        let what: Vec<String> = fix.changes.iter().map(ToString::to_string).collect();
        page.para(&format!("  {number}"), 2 + number.len(), &what.join(", and "));
        how(&mut page, cluster, texts, fix);
        besides(&mut page, fix);
    }
    for obstacle in &fixes.obstacles {
        page.item(2, obstacle);
    }
    format!("\n{}", page.into_text())
}

fn how(page: &mut Page, cluster: &Cluster, texts: &Texts, fix: &Fix) {
    if let Some(patches) = patches(texts, cluster, &fix.changes) {
        for line in unified(&patches).lines() {
            let style = match line.as_bytes() {
                [b'+', b'+', ..] | [b'-', b'-', ..] | [b'@', ..] => Some(FAINT),
                [b'+', ..] => Some(GOOD),
                [b'-', ..] => Some(BAD),
                _ => None,
            };
            page.line(&format!(
                "    {}",
                style.map_or(line.to_owned(), |style| paint(style, line))
            ));
        }
        return;
    }
    for command in fix.changes.iter().filter_map(|change| change.command(cluster)) {
        match command.stdin {
            None => page.line(&format!("    {}", command.line)),
            Some(stdin) => {
                page.line(&format!("    {} <<'END'", command.line));
                stdin.lines().for_each(|line| page.line(&format!("    {line}")));
                page.line("    END");
            }
        }
    }
}

fn besides(page: &mut Page, fix: &Fix) {
    if fix.is_exact() {
        page.para("    ", 4, &paint_words(GOOD, "nothing else changes"));
    }
    if fix.bystanders > 0 {
        let pods = words::count(fix.bystanders, "other pod");
        let it = format!("the changed policy speaks for {pods} too");
        page.para("    ", 4, &paint_words(FAINT, &it));
    }
    if fix.is_exact() {
        return;
    }
    page.para("    ", 4, "what else changes:");
    for effect in fix.besides.iter().take(SHOWN) {
        page.item(4, &sentence(effect));
    }
    if let Some(more) = fix.besides.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        page.para(
            "      ",
            6,
            &format!("and {}; -o json has all", words::count(more, "more connection")),
        );
    }
}

fn sentence(effect: &Effect) -> String {
    let parts = [
        (BAD, "newly passes", &effect.opened),
        (UNSURE, "no longer passes", &effect.closed),
        (UNSURE, "depends on missing facts", &effect.perhaps),
    ];
    let parts = parts.into_iter().filter(|(_, _, ports)| !ports.is_empty());
    let parts: Vec<String> = parts
        .map(|(style, what, of)| paint_words(style, &format!("{what}: {}", words::ports(of))))
        .collect();
    let some = if effect.partly { " (some pods)" } else { "" };
    let exposed = match effect.exposure {
        Some(Exposure::FromOutside) => ", from outside",
        Some(Exposure::FromOtherNamespace) => ", from another namespace",
        _ => "",
    };
    format!("{} to {}{some}: {}{exposed}", effect.src, effect.dst, parts.join("; "))
}
