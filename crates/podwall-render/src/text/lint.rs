//! Findings for people, as a compiler prints them.
//!
//! ```text
//!   warning[PW101]: this policy selects no pod: …        severity, rule, what is wrong
//!     --> shop/web.yaml:9:7                               where
//!      |
//!    9 |       app: ngnix
//!      |       ^^^^^^^^^^
//!      = the 3 pods in namespace shop have …              proof
//!      = help: did you mean app=nginx? (--fix writes it)  what next
//! ```

use podwall_analysis::lint::{Finding, Report, Severity};

use crate::page::{BAD, FAINT, GOOD, HEAD, Page, UNSURE, WIDTH, paint};
use crate::words::count;

/// All findings, and how many there are. `policies` were looked at.
pub fn lint(report: &Report, policies: usize) -> String {
    let mut page = Page::default();
    for finding in &report.findings {
        self::finding(&mut page, finding);
        page.gap();
    }
    totals(&mut page, report, policies);
    page.into_text()
}

/// One finding.
pub fn finding(page: &mut Page, finding: &Finding) {
    let style = match finding.severity {
        Severity::Error => BAD,
        Severity::Warning => UNSURE,
        Severity::Note => FAINT,
    };
    let head = format!("{}[{}]", finding.severity, finding.rule.id);
    let lead = format!("{}{}", paint(style, &head), paint(HEAD, ": "));
    page.para(&lead, 4, &finding.message);
    let number = finding.snippet.as_ref().map_or(0, |snippet| snippet.source.line);
    let width = number.to_string().len().max(2);
    let margin = |sign: &str| format!("{} {}", " ".repeat(width), paint(FAINT, sign));
    match (&finding.snippet, &finding.at.source) {
        (Some(snippet), _) => {
            page.line(&format!("{} {}", margin("-->"), snippet.source));
            if let Some(line) = &snippet.line {
                page.line(&margin("|"));
                shown(page, line, number, width, snippet.source.column, snippet.length, style);
            }
        }
        (None, Some(source)) => page.line(&format!("{} {source}", margin("-->"))),
        (None, None) => page.line(&format!("{} {}", margin("-->"), finding.at.object_name())),
    }
    let lead = format!("{} {} ", " ".repeat(width), paint(FAINT, "="));
    for sentence in &finding.proof {
        page.para(&lead, width + 5, sentence);
    }
    if let Some(help) = &finding.help {
        let fixed = match &finding.fix {
            Some(fix) if fix.sure && finding.snippet.is_some() => " (--fix does it)",
            _ => "",
        };
        page.para(
            &format!("{lead}{}", paint(HEAD, "help: ")),
            width + 5,
            &format!("{help}{fixed}"),
        );
    }
}

/// The line, and signs under what it is about. Of a long line only the part around that.
fn shown(
    page: &mut Page,
    line: &str,
    number: u32,
    width: usize,
    column: u32,
    length: u32,
    style: anstyle::Style,
) {
    let room = WIDTH.saturating_sub(width + 4);
    let start = column.saturating_sub(1) as usize;
    let length = (length.max(1) as usize).min(room);
    let skip = if start + length > room { start.saturating_sub(4) } else { 0 };
    let visible = |c: char| if c.is_control() { ' ' } else { c };
    let text: String = line.chars().skip(skip).take(room).map(visible).collect();
    page.line(&format!("{number:>width$} {} {}", paint(FAINT, "|"), text.trim_end()));
    let signs = "^".repeat(length.min(text.chars().count().saturating_sub(start - skip).max(1)));
    page.line(&format!(
        "{} {} {}{}",
        " ".repeat(width),
        paint(FAINT, "|"),
        " ".repeat(start - skip),
        paint(style, &signs)
    ));
}

fn totals(page: &mut Page, report: &Report, policies: usize) {
    let number = |severity| report.findings.iter().filter(|f| f.severity == severity).count();
    let mut parts = Vec::new();
    for severity in [Severity::Error, Severity::Warning, Severity::Note] {
        match number(severity) {
            0 => {}
            found => parts.push(count(found, severity.as_str())),
        }
    }
    let found = if parts.is_empty() {
        paint(GOOD, "nothing found")
    } else {
        paint(HEAD, &parts.join(", "))
    };
    let mut words = vec![format!("{found} in {policies} {}", plural(policies))];
    if !report.suppressed.is_empty() {
        words.push(format!("{} suppressed", report.suppressed.len()));
    }
    if report.known > 0 {
        words.push(format!("{} in the baseline", report.known));
    }
    page.para("", 2, &words.join("; "));
}

fn plural(policies: usize) -> &'static str {
    if policies == 1 { "policy" } else { "policies" }
}
