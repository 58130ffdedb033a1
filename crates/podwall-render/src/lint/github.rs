//! Findings as workflow commands of GitHub Actions, which mark lines of a pull request.

use podwall_analysis::lint::{Report, Severity};

use super::{long_message, place};

/// A `::warning file=…,line=…::…` line for each finding; nothing where there is none.
pub fn github(report: &Report) -> String {
    let mut out = String::new();
    for finding in &report.findings {
        let command = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "notice",
        };
        let mut properties = Vec::new();
        if let Some(source) = place(finding).filter(|source| source.line > 0) {
            properties.push(format!("file={}", property(&source.file)));
            properties.push(format!("line={}", source.line));
            properties.push(format!("col={}", source.column));
            if let Some(snippet) = &finding.snippet {
                properties.push(format!("endColumn={}", source.column + snippet.length));
            }
        }
        let title = format!("{} {}", finding.rule.id, finding.rule.name);
        properties.push(format!("title={}", property(&title)));
        out.push_str(&format!(
            "::{command} {}::{}\n",
            properties.join(","),
            data(&long_message(finding))
        ));
    }
    out
}

/// Escapes a message.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// Escapes a property, in which `:` and `,` mean something, too.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_runner_takes_for_its_own_signs_is_escaped() {
        assert_eq!(data("50%\nnext"), "50%25%0Anext");
        assert_eq!(property("a,b:c"), "a%2Cb%3Ac");
    }
}
