//! Findings as JUnit's XML: a test case for each rule, failed ones for each finding.

use podwall_analysis::lint::{RULES, Report};

use super::{long_message, place};

/// The whole document.
pub fn junit(report: &Report) -> String {
    let mut cases = String::new();
    let mut tests = 0;
    for rule in &RULES {
        let class = format!("{} {}", rule.id, rule.name);
        let own = |id: &str| id == rule.id;
        let findings: Vec<_> = report.findings.iter().filter(|f| own(f.rule.id)).collect();
        let suppressed: Vec<_> =
            report.suppressed.iter().filter(|s| own(s.finding.rule.id)).collect();
        for finding in &findings {
            let at = place(finding).map_or_else(|| finding.at.object_name(), ToString::to_string);
            cases.push_str(&format!(
                "    <testcase classname=\"{}\" name=\"{}\">\n      \
                 <failure type=\"{}\" message=\"{}\">{}</failure>\n    </testcase>\n",
                escape(&class),
                escape(&format!("{} ({at})", finding.at.object_name())),
                finding.severity,
                escape(&finding.message),
                escape(&long_message(finding)),
            ));
        }
        for one in &suppressed {
            cases.push_str(&format!(
                "    <testcase classname=\"{}\" name=\"{}\">\n      \
                 <skipped message=\"{}\"/>\n    </testcase>\n",
                escape(&class),
                escape(&one.finding.at.object_name()),
                escape(&one.reason),
            ));
        }
        if findings.is_empty() && suppressed.is_empty() {
            cases.push_str(&format!(
                "    <testcase classname=\"{}\" name=\"{}\"/>\n",
                escape(&class),
                escape(rule.what)
            ));
        }
        tests += (findings.len() + suppressed.len()).max(1);
    }
    let (failures, skipped) = (report.findings.len(), report.suppressed.len());
    let counts = format!("tests=\"{tests}\" failures=\"{failures}\" errors=\"0\"");
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"podwall lint\" {counts}>\n  \
         <testsuite name=\"podwall lint\" {counts} skipped=\"{skipped}\">\n{cases}  \
         </testsuite>\n</testsuites>\n"
    )
}

/// Text for elements and attributes. XML 1.0 has no place for most control characters.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' => out.push_str("&#10;"),
            c if c.is_control() || ('\u{fffe}'..='\u{ffff}').contains(&c) => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_of_xml_are_escaped() {
        assert_eq!(escape("a<b & \"c\"\u{1}"), "a&lt;b &amp; &quot;c&quot;\u{fffd}");
    }
}
