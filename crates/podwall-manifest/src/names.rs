//! Which names does the API server take?
//!
//! ```text
//!   app.kubernetes.io/name    web-1.2       web-1        http-alt
//!   └─ prefix ──────┘ └name┘  subdomain     label        port name
//!        label key            ≤253          ≤63          ≤15
//! ```
//!
//! Sources: `k8s.io/apimachinery/pkg/util/validation/validation.go` and
//! `pkg/api/validate/content` (label keys and values). Each function says what is wrong, in words
//! that follow the value's name: "must …".

/// `IsDNS1123Label`.
pub(crate) fn dns_label(value: &str) -> Option<String> {
    if value.len() > 63 {
        return Some(too_long(63));
    }
    if is_dns_label(value) {
        return None;
    }
    if is_dns_subdomain(value) {
        return Some("must not contain dots".into());
    }
    Some(
        "must consist of lower case letters, digits and `-`, and start and end with a letter or \
         digit"
            .into(),
    )
}

/// `IsDNS1123Subdomain`.
pub(crate) fn dns_subdomain(value: &str) -> Option<String> {
    if value.len() > 253 {
        return Some(too_long(253));
    }
    (!is_dns_subdomain(value)).then(|| {
        "must consist of lower case letters, digits, `-` and `.`, and start and end with a letter \
         or digit"
            .into()
    })
}

/// `IsDNS1035Label`: for the names of Services.
pub(crate) fn dns_1035_label(value: &str) -> Option<String> {
    if value.len() > 63 {
        return Some(too_long(63));
    }
    let starts = value.starts_with(|c: char| c.is_ascii_lowercase());
    (!starts || !is_dns_label(value)).then(|| {
        "must consist of lower case letters, digits and `-`, start with a letter and end with a \
         letter or digit"
            .into()
    })
}

/// `IsValidPortName` (IANA service names, RFC 6335). All complaints at once, as the API server.
pub(crate) fn port_name(value: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if value.len() > 15 {
        wrong.push(too_long(15));
    }
    let allowed = |b: u8| b == b'-' || b.is_ascii_lowercase() || b.is_ascii_digit();
    if value.is_empty() || !value.bytes().all(allowed) {
        wrong.push("must contain only lower case letters, digits and `-`".into());
    }
    if !value.bytes().any(|b| b.is_ascii_lowercase()) {
        wrong.push("must contain at least one letter (a-z)".into());
    }
    if value.contains("--") {
        wrong.push("must not contain `--`".into());
    }
    if value.starts_with('-') || value.ends_with('-') {
        wrong.push("must not begin or end with `-`".into());
    }
    wrong
}

/// `IsLabelKey` (also known as qualified name).
pub(crate) fn label_key(key: &str) -> Option<String> {
    let name = match key.split_once('/') {
        None => key,
        Some((prefix, name)) => {
            if name.contains('/') {
                return Some("must have at most one `/`, between a prefix and a name".into());
            }
            if prefix.is_empty() {
                return Some("must have a prefix before the `/`, or no `/`".into());
            }
            if let Some(wrong) = dns_subdomain(prefix) {
                return Some(format!("has a bad prefix `{}`, which {wrong}", short(prefix)));
            }
            name
        }
    };
    if name.is_empty() {
        return Some("must have a name".into());
    }
    if name.len() > 63 {
        return Some(format!("must have a name of at most 63 characters, not {}", name.len()));
    }
    (!is_word(name)).then(|| {
        "must consist of letters, digits, `-`, `_` and `.`, and start and end with a letter or \
         digit"
            .into()
    })
}

/// `IsLabelValue`.
pub(crate) fn label_value(value: &str) -> Option<String> {
    if value.len() > 63 {
        return Some(format!("must have at most 63 characters, not {}", value.len()));
    }
    (!value.is_empty() && !is_word(value)).then(|| {
        "must consist of letters, digits, `-`, `_` and `.`, and start and end with a letter or \
         digit"
            .into()
    })
}

/// A value as messages quote it: whole up to 80 characters.
pub(crate) fn short(value: &str) -> String {
    if value.chars().count() <= 80 {
        return value.escape_debug().to_string().replace("\\\"", "\"").replace("\\'", "'");
    }
    let head: String = value.chars().take(60).collect();
    format!("{}…", head.escape_debug())
}

fn too_long(limit: usize) -> String {
    format!("must have at most {limit} characters")
}

fn is_dns_label(value: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !value.is_empty()
        && value.bytes().all(inner)
        && !value.starts_with('-')
        && !value.ends_with('-')
}

fn is_dns_subdomain(value: &str) -> bool {
    value.split('.').all(is_dns_label)
}

/// `([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]`
fn is_word(value: &str) -> bool {
    let bytes = value.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    ends.iter().all(|b| b.is_some_and(u8::is_ascii_alphanumeric))
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_keys_and_values_follow_the_api_server() {
        let long = "a".repeat(64);
        let (max, prefix) = ("a".repeat(63), format!("{}.{}", "b".repeat(63), "c".repeat(63)));
        for good in ["app", "A.b_c-1", "k8s.io/x", &max, &format!("{prefix}/{max}")] {
            assert_eq!(label_key(good), None, "{good}");
        }
        let far = format!("{}/x", vec!["a".repeat(60); 5].join("."));
        for bad in ["", "-a", "a-", "a b", "é", "/a", "a/", "a/b/c", "A.io/x", "_/x", &long, &far]
        {
            assert!(label_key(bad).is_some(), "{bad}");
        }
        for good in ["", "a", "1", "A-b_c.d", &max] {
            assert_eq!(label_value(good), None, "{good}");
        }
        for bad in ["-", "a/b", "a b", ".a", "a.", &long, "ä"] {
            assert!(label_value(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn names_follow_the_api_server() {
        assert_eq!(dns_subdomain("web.1-a"), None);
        assert_eq!(dns_label("1web-a"), None);
        assert!(dns_1035_label("1web").is_some());
        assert_eq!(dns_1035_label("web-1"), None);
        assert_eq!(dns_label("a.b").as_deref(), Some("must not contain dots"));
        for bad in ["", "A", "a_b", "-a", "a-", "a..b", ".", "a b"] {
            assert!(dns_subdomain(bad).is_some(), "{bad}");
            assert!(dns_label(bad).is_some(), "{bad}");
        }
        assert!(dns_label(&"a".repeat(64)).is_some());
        assert!(dns_subdomain(&"a".repeat(254)).is_some());
    }

    #[test]
    fn port_names_follow_rfc_6335_in_lower_case() {
        for good in ["http", "a", "1a", "http-alt-8080", "a23456789012345"] {
            assert!(port_name(good).is_empty(), "{good}");
        }
        assert_eq!(port_name("80"), ["must contain at least one letter (a-z)"]);
        for (bad, count) in [("", 2), ("HTTP", 2), ("-a", 1), ("a--b", 1), ("a234567890123456", 1)]
        {
            assert_eq!(port_name(bad).len(), count, "{bad}");
        }
    }
}
