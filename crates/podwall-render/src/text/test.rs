//! The answer of `podwall test` for people.
//!
//! ```text
//!   ok       web reaches the database
//!   FAIL     nobody else does (shop.yaml:9:3)
//!              tools/ops reaches shop/db on TCP 5432 (and 3 pairs like it)
//!              - into shop/db: allowed by rule 2 of db (db.yaml:9:5)
//!   1 of 2 assertions fails
//! ```

use podwall_analysis::assertions::{Finding, Outcome, Status};
use podwall_policy::cluster::Cluster;

use crate::checks::{Check, CheckResult, Suite};
use crate::page::{BAD, FAINT, GOOD, Page, UNSURE, paint};
use crate::{claims, words};

/// How many findings of an assertion are shown; the other formats have them all.
const SHOWN: usize = 5;

/// The answer as coloured text. `packets`: what packets have to add to each outcome.
pub fn test(cluster: &Cluster, outcomes: &[Outcome<'_>], packets: Option<&[PacketNote]>) -> String {
    let mut page = Page::default();
    for (i, outcome) in outcomes.iter().enumerate() {
        let note = packets.and_then(|notes| notes.get(i));
        let status = with_packets(outcome.status, note);
        let title = claims::title(outcome.assertion);
        if status == Status::Holds {
            page.para(&format!("{}       ", paint(GOOD, "ok")), 9, &title);
        } else {
            let place = paint(FAINT, &format!("({})", outcome.assertion.source));
            page.para(&lead(status), 9, &format!("{title} {place}"));
        }
        for finding in outcome.findings.iter().take(SHOWN) {
            one(&mut page, cluster, finding);
        }
        let more = outcome.findings.len().saturating_sub(SHOWN);
        if more > 0 {
            let more = words::count(more, "more reason");
            page.para("         ", 11, &paint(FAINT, &format!("{more};")));
        }
        for sentence in note.iter().flat_map(|note| &note.sentences).take(SHOWN) {
            page.para("         ", 11, sentence);
        }
    }
    page.gap();
    let statuses: Vec<Status> = outcomes
        .iter()
        .enumerate()
        .map(|(i, outcome)| with_packets(outcome.status, packets.and_then(|notes| notes.get(i))))
        .collect();
    page.para("", 2, &summary(&statuses));
    if let Some(notes) = packets {
        let sent: usize = notes.iter().map(|note| note.sent).sum();
        page.para("", 2, &format!("{} were sent", words::count(sent, "packet")));
    }
    page.into_text()
}

/// What packets said of an assertion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PacketNote {
    /// How many packets were sent for it, controls included.
    pub sent: usize,
    /// Packets did what the assertion forbids, or did not what it demands.
    pub fails: bool,
    /// Packets that proved nothing.
    pub unproven: bool,
    /// What they did, a sentence each.
    pub sentences: Vec<String>,
}

/// The status with what packets add to it: an assertion holds if both say so.
pub fn with_packets(status: Status, note: Option<&PacketNote>) -> Status {
    let packets = match note {
        Some(note) if note.fails => Status::Fails,
        Some(note) if note.unproven => Status::Unknown,
        _ => Status::Holds,
    };
    status.max(packets)
}

fn lead(status: Status) -> String {
    match status {
        Status::Holds => paint(GOOD, "ok") + "       ",
        Status::Fails => paint(BAD, "FAIL") + "     ",
        Status::Unknown => paint(UNSURE, "UNKNOWN") + "  ",
        Status::Broken => paint(BAD, "BROKEN") + "   ",
    }
}

fn one(page: &mut Page, cluster: &Cluster, finding: &Finding<'_>) {
    page.para("         ", 11, &claims::what(finding));
    for why in claims::why(cluster, finding) {
        page.item(9, &why);
    }
}

/// "all 5 assertions hold", "5 assertions: 3 hold, 1 fails, 1 is unknown".
pub fn summary(statuses: &[Status]) -> String {
    let count = |status| statuses.iter().filter(|it| **it == status).count();
    let all = statuses.len();
    if count(Status::Holds) == all {
        return match all {
            1 => "the assertion holds".to_owned(),
            _ => format!("all {all} assertions hold"),
        };
    }
    let some = |status, one: &str, many: &str| match count(status) {
        0 => None,
        1 => Some(format!("1 {one}")),
        number => Some(format!("{number} {many}")),
    };
    let parts: Vec<String> = [
        some(Status::Holds, "holds", "hold"),
        some(Status::Fails, "fails", "fail"),
        some(Status::Unknown, "is unknown", "are unknown"),
        some(Status::Broken, "cannot be asked", "cannot be asked"),
    ]
    .into_iter()
    .flatten()
    .collect();
    format!("{}: {}", words::count(all, "assertion"), parts.join(", "))
}

/// The answer as checks, for JUnit and TAP.
pub fn suite(cluster: &Cluster, outcomes: &[Outcome<'_>], packets: Option<&[PacketNote]>) -> Suite {
    let mut suite = Suite::default();
    for (i, outcome) in outcomes.iter().enumerate() {
        let note = packets.and_then(|notes| notes.get(i));
        let source = &outcome.assertion.source;
        suite.name = source.file.to_string();
        let mut detail = Page::default();
        for finding in &outcome.findings {
            detail.line(&claims::what(finding));
            for why in claims::why(cluster, finding) {
                detail.line(&format!("  {why}"));
            }
        }
        for sentence in note.iter().flat_map(|note| &note.sentences) {
            detail.line(sentence);
        }
        let detail = detail.into_text();
        let first = detail.lines().next().unwrap_or_default();
        let message = format!("{}: {first}", claims::claim(outcome.assertion));
        let result = match with_packets(outcome.status, note) {
            Status::Holds => CheckResult::Passed,
            Status::Fails => CheckResult::Failed { kind: "failed", message, detail },
            Status::Unknown => CheckResult::Error { kind: "unknown", message, detail },
            Status::Broken => CheckResult::Error { kind: "broken", message, detail },
        };
        suite.checks.push(Check {
            name: claims::title(outcome.assertion),
            class: source.file.to_string(),
            place: Some((source.file.to_string(), source.line)),
            result,
        });
    }
    suite
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_make_an_assertion_worse_and_never_better() {
        let fails = PacketNote { fails: true, ..PacketNote::default() };
        let unproven = PacketNote { unproven: true, ..PacketNote::default() };
        let fine = PacketNote::default();
        assert_eq!(with_packets(Status::Holds, Some(&fails)), Status::Fails);
        assert_eq!(with_packets(Status::Holds, Some(&unproven)), Status::Unknown);
        assert_eq!(with_packets(Status::Fails, Some(&fine)), Status::Fails);
        assert_eq!(with_packets(Status::Unknown, Some(&fails)), Status::Fails);
        assert_eq!(with_packets(Status::Holds, None), Status::Holds);
    }

    #[test]
    fn the_last_line_counts_each_outcome() {
        use Status::{Broken, Fails, Holds, Unknown};
        assert_eq!(summary(&[Holds]), "the assertion holds");
        assert_eq!(summary(&[Holds, Holds]), "all 2 assertions hold");
        let mixed = summary(&[Holds, Fails, Unknown, Fails, Broken]);
        let all = "5 assertions: 1 holds, 2 fail, 1 is unknown, 1 cannot be asked";
        assert_eq!(mixed, all);
    }
}
