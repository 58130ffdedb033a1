//! The answer of `podwall test --mutate` for people.
//!
//! ```text
//!   38 of 41 changes of the policies would be noticed; 5 more would change nothing
//!
//!   Nobody would notice
//!     - shop/db: rule 2 of ingress deleted (db.yaml:9:5); then tools/ops no longer
//!       reaches shop/db on TCP 22
//! ```

use podwall_analysis::assertions::mutate::{Difference, Mutant, Mutation};

use crate::checks::{Check, CheckResult, Suite};
use crate::page::{BAD, GOOD, Page, paint};
use crate::{claims, words};

/// The answer as coloured text. `titles`: of the assertions.
pub fn mutate(found: &Mutation, titles: &[String]) -> String {
    let mut page = Page::default();
    let all = found.mutants.len();
    let unnoticed: Vec<&Mutant> = found.unnoticed().collect();
    let headline = match unnoticed.len() {
        0 => paint(GOOD, &format!("all {all}")) + " changes of the policies would be noticed",
        none => {
            let noticed = paint(BAD, &format!("{} of {all}", all - none));
            format!("{noticed} changes of the policies would be noticed")
        }
    };
    let besides = match found.equivalent {
        0 => String::new(),
        1 => "; 1 more would change nothing".to_owned(),
        more => format!("; {more} more would change nothing"),
    };
    page.para("", 2, &format!("{headline}{besides}"));
    if !unnoticed.is_empty() {
        page.heading("Nobody would notice");
        for mutant in &unnoticed {
            let place = words::place(mutant.source.as_ref());
            let then = difference(&mutant.difference);
            page.item(2, &format!("{}: {}{place}; then {then}", mutant.policy, mutant.change));
        }
    }
    let idle = idle(found, titles);
    if !idle.is_empty() {
        page.heading("Assertions that notice none of the changes");
        for title in idle {
            page.item(2, title);
        }
    }
    page.into_text()
}

/// Assertions that no change breaks.
pub fn idle<'t>(found: &Mutation, titles: &'t [String]) -> Vec<&'t str> {
    let notices = |i: usize| found.mutants.iter().any(|mutant| mutant.noticed_by.contains(&i));
    titles.iter().enumerate().filter(|(i, _)| !notices(*i)).map(|(_, title)| &**title).collect()
}

/// "tools/ops reaches shop/db on TCP 22".
pub fn difference(of: &Difference) -> String {
    let Difference { src, dst, opened, closed } = of;
    let on = |set| format!("on {}", claims::real_ports(set));
    match (opened.is_empty(), closed.is_empty()) {
        (false, true) => format!("{src} reaches {dst} {}", on(opened)),
        (true, false) => format!("{src} no longer reaches {dst} {}", on(closed)),
        (false, false) => format!("{src} reaches {dst} {}, no longer {}", on(opened), on(closed)),
        (true, true) => format!("whether {src} reaches {dst} is decided otherwise"),
    }
}

/// The answer as checks, for JUnit and TAP: a change that nobody notices is a failure.
pub fn suite(found: &Mutation, titles: &[String]) -> Suite {
    let check = |mutant: &Mutant| {
        let then = difference(&mutant.difference);
        let message = format!("no assertion notices it; then {then}");
        let place = mutant.source.as_ref();
        Check {
            name: format!("{}: {}", mutant.policy, mutant.change),
            class: mutant.policy.namespace.to_string(),
            place: place.map(|source| (source.file.to_string(), source.line)),
            result: match mutant.noticed_by.first() {
                Some(_) => CheckResult::Passed,
                None => CheckResult::Failed { kind: "failed", message, detail: titles.join("\n") },
            },
        }
    };
    Suite {
        name: "podwall test --mutate".to_owned(),
        checks: found.mutants.iter().map(check).collect(),
    }
}
