//! How long is a text, how is it cut, and how is it written where it could be taken for markup?
//!
//! ```text
//!   "payments-gateway-internal…" ── measured wide, so that a box is never too narrow
//! ```
//!
//! A picture is made without a browser, so widths are estimated from above: by kinds of letters, of
//! any font that is likely there.

use podwall_policy::port::{PortSet, Protocol};

/// About how wide a text is at most, in pixels, in a sans-serif font of this size.
pub(crate) fn width(text: &str, size: i32) -> i32 {
    let thousandths: i64 = text.chars().map(|c| i64::from(letter(c))).sum();
    // Titles are bold.
    let bold = if size > 12 { 1140 } else { 1000 };
    i32::try_from(thousandths * i64::from(size) * bold / 1_000_000).unwrap_or(i32::MAX)
}

/// A letter's width in thousandths of the font's size.
fn letter(c: char) -> i32 {
    match c {
        'i' | 'j' | 'l' | '.' | ',' | ':' | ';' | '|' | '\'' | '!' => 330,
        'f' | 't' | 'r' | '/' | '-' | '(' | ')' | '[' | ']' | ' ' | 'I' => 420,
        'm' | 'w' | 'M' | 'W' | '@' | '%' => 960,
        'A'..='Z' => 720,
        c if c.is_ascii() => 620,
        '\u{2190}'..='\u{21ff}' | '\u{2026}' => 1000,
        c if (c as u32) < 0x2e80 => 800,
        _ => 1100,
    }
}

/// A text that takes no more than this; what is cut off is shown by an ellipsis, in the middle,
/// since names differ at their ends as often as at their beginnings.
pub(crate) fn cut(text: &str, size: i32, most: i32) -> String {
    let text = plain(text);
    if width(&text, size) <= most {
        return text;
    }
    let chars: Vec<char> = text.chars().collect();
    let mut keep = chars.len();
    while keep > 2 {
        keep -= 1;
        let head = keep.div_ceil(2);
        let short: String = chars[..head]
            .iter()
            .chain(&['…'])
            .chain(&chars[chars.len() - (keep - head)..])
            .collect();
        if width(&short, size) <= most {
            return short;
        }
    }
    "…".to_owned()
}

/// A text that takes no more than this; what is cut off is its end.
pub(crate) fn head(text: &str, size: i32, most: i32) -> String {
    let mut text = plain(text);
    if width(&text, size) <= most {
        return text;
    }
    while text.pop().is_some() {
        let short = format!("{}…", text.trim_end());
        if width(&short, size) <= most {
            return short;
        }
    }
    "…".to_owned()
}

/// A text without what would break a line or turn its direction.
pub(crate) fn plain(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
            | '\u{061c}'
            | '\u{feff}'
            | '\u{2028}'
            | '\u{2029}' => '\u{fffd}',
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// As text or attribute of XML and HTML; line ends stay (tooltips have several lines).
pub(crate) fn markup(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.split('\n') {
        if !out.is_empty() {
            out.push('\n');
        }
        for c in plain(line).chars() {
            match c {
                '&' => out.push_str("&amp;"),
                '<' => out.push_str("&lt;"),
                '>' => out.push_str("&gt;"),
                '"' => out.push_str("&quot;"),
                '\'' => out.push_str("&#39;"),
                c => out.push(c),
            }
        }
    }
    out
}

/// Ports in few words: `80,443`; TCP goes without saying where it stands alone with numbers.
pub(crate) fn ports(set: &PortSet) -> String {
    if set.is_everything() {
        return "everything".to_owned();
    }
    let mut parts: Vec<String> = Vec::new();
    for protocol in Protocol::WITH_PORTS {
        let ranges: Vec<_> = set.iter().filter(|(of, _)| *of == protocol).collect();
        let whole = ranges.iter().any(|(_, range)| range.first <= 1 && range.last == u16::MAX);
        if whole {
            parts.push(format!("{protocol} all"));
            continue;
        }
        for (at, (_, range)) in ranges.iter().enumerate() {
            let first = range.first.max(1);
            let number = if first == range.last {
                range.last.to_string()
            } else {
                format!("{first}–{}", range.last)
            };
            let lead = if at == 0 { format!("{protocol} ") } else { String::new() };
            parts.push(lead + &number);
        }
    }
    if set.has_other_protocols() {
        parts.push("other protocols".to_owned());
    }
    const SHOWN: usize = 4;
    if parts.len() > SHOWN + 1 {
        let more = parts.len() - SHOWN;
        parts.truncate(SHOWN);
        parts.push(format!("+{more}"));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use podwall_policy::port::PortRange;

    #[test]
    fn a_cut_text_keeps_both_ends_and_fits() {
        let name = "payments-gateway-internal-primary-eu-west-1";
        let short = cut(name, 13, 120);
        assert!(width(&short, 13) <= 120 && short.contains('…'), "{short}");
        assert!(name.starts_with(short.split('…').next().unwrap()));
        assert!(name.ends_with(short.split('…').nth(1).unwrap()));
        assert_eq!(cut("web", 13, 120), "web");
        assert_eq!(cut("abcdef", 13, 1), "…");
        let short = head("TCP 80, 443, 8080, 9090, 9091 ~", 11, 100);
        assert!(short.starts_with("TCP 80, ") && short.ends_with('…'), "{short}");
        assert!(width(&short, 11) <= 100);
    }

    #[test]
    fn markup_is_text_wherever_it_stands() {
        assert_eq!(markup("</script>\"'&"), "&lt;/script&gt;&quot;&#39;&amp;");
        assert_eq!(markup("a\nb\u{202e}c\u{0}"), "a\nb\u{fffd}c\u{fffd}");
    }

    #[test]
    fn ports_are_few_words() {
        let tcp = |a, b| PortSet::range(Protocol::TCP, PortRange::new(a, b).unwrap());
        assert_eq!(ports(&tcp(80, 80).union(&tcp(443, 450))), "TCP 80, 443–450");
        assert_eq!(ports(&tcp(0, u16::MAX)), "TCP all");
        assert_eq!(ports(&PortSet::everything()), "everything");
        let many = (1..20).fold(PortSet::empty(), |all, port| all.union(&tcp(port * 2, port * 2)));
        assert_eq!(ports(&many), "TCP 2, 4, 6, 8, +15");
        let udp = PortSet::range(Protocol::UDP, PortRange::one(53));
        assert_eq!(ports(&udp.union(&tcp(53, 53))), "TCP 53, UDP 53");
    }
}
