//! Is an unquoted `yes` a string?
//!
//! No: to Kubernetes it is the boolean `true`. `kubectl` turns YAML into JSON with
//! `sigs.k8s.io/yaml`, whose rules for unquoted scalars (`goyaml.v2/resolve.go`) are YAML 1.1's
//! with Go's numbers; they are written down here.
//!
//! ```text
//!   yes On y TRUE → true      017 0o17 0xf 1_5 → 15      ~ null (nothing) → null
//!   no off N      → false     1e3 .5           → float   1.2.3 2024-01-01 0b → string
//! ```

use std::borrow::Cow;

use crate::node::Value;

/// The value of an unquoted scalar without a tag.
pub(crate) fn resolve(text: Cow<'_, str>) -> Value<'_> {
    let Some(first) = text.bytes().next() else { return Value::Null };
    match first {
        b'y' | b'Y' | b'n' | b'N' | b't' | b'T' | b'f' | b'F' | b'o' | b'O' | b'~' => {
            match &*text {
                "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On"
                | "ON" => Value::Bool(true),
                "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off"
                | "OFF" => Value::Bool(false),
                "~" | "null" | "Null" | "NULL" => Value::Null,
                _ => Value::Text(text),
            }
        }
        b'0'..=b'9' | b'+' | b'-' | b'.' => match &*text {
            // No JSON can be made of these; as numbers they are at least no strings.
            ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Value::Float(f64::INFINITY),
            "-.inf" | "-.Inf" | "-.INF" => Value::Float(f64::NEG_INFINITY),
            ".nan" | ".NaN" | ".NAN" => Value::Float(f64::NAN),
            _ => number(&text).unwrap_or(Value::Text(text)),
        },
        _ => Value::Text(text),
    }
}

fn number(text: &str) -> Option<Value<'static>> {
    let plain: Cow<'_, str> =
        if text.contains('_') { text.replace('_', "").into() } else { text.into() };
    if let Some(int) = integer(&plain) {
        return Some(Value::Int(int));
    }
    if is_float(&plain) {
        // One that is too large, like 1e999, stays a string in Go too.
        return plain.parse().ok().filter(|f: &f64| f.is_finite()).map(float);
    }
    None
}

/// A float without a fraction is an integer: Go writes 80.0 as `80` when it makes JSON of it.
pub(crate) fn float(value: f64) -> Value<'static> {
    const EXACT: f64 = 9e15;
    if value.fract() == 0.0 && value.abs() <= EXACT {
        Value::Int(value as i64)
    } else {
        Value::Float(value)
    }
}

/// Go's `strconv.ParseInt(text, 0, 64)`: a leading zero means octal.
fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let lower = digits.get(..2).map(str::to_ascii_lowercase);
    let (radix, digits) = match lower.as_deref() {
        Some("0x") => (16, &digits[2..]),
        Some("0o") => (8, &digits[2..]),
        Some("0b") => (2, &digits[2..]),
        _ if digits.len() > 1 && digits.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let value = i128::from_str_radix(digits, radix).ok()?;
    i64::try_from(if negative { -value } else { value }).ok()
}

/// `^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$`
fn is_float(text: &str) -> bool {
    let text = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    digits(whole)
        && digits(fraction)
        && (!whole.is_empty() || !fraction.is_empty())
        && exponent.is_none_or(|e| {
            let e = e.strip_prefix(['+', '-']).unwrap_or(e);
            !e.is_empty() && digits(e)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> String {
        let node = crate::node::Node { at: Default::default(), value: resolve(text.into()) };
        node.to_json().to_string()
    }

    #[test]
    fn unquoted_scalars_are_what_kubernetes_sees() {
        let table = [
            ("yes true", &["yes", "Yes", "YES", "on", "On", "y", "Y", "true", "True"][..]),
            ("no false", &["no", "No", "off", "OFF", "n", "N", "false", "FALSE"]),
            ("nothing null", &["", "~", "null", "Null", "NULL", ".inf", "-.Inf", ".NaN"]),
            ("fifteen 15", &["15", "+15", "017", "0o17", "0xf", "0XF", "0b1111", "1_5"]),
            ("minus -8", &["-8", "-010"]),
            ("float 0.5", &[".5", "0.5", "5e-1", "+.5"]),
            ("zero 0", &["0", "00", "-0", "0.0"]),
            ("thousand 1000", &["1e3", "1_000", "1000.0"]),
            ("no-octal 8", &["08", "8."]),
        ];
        for (name, texts) in table {
            let wanted = name.split(' ').nth(1).unwrap();
            for text in texts {
                assert_eq!(json(text), wanted, "{text}");
            }
        }
        for text in [
            "yEs",
            "nope",
            "1.2.3",
            "10.0.0.0/8",
            "2024-01-01",
            "-",
            "+",
            ".",
            "0b",
            "0x",
            "1e",
            "a",
            "<<",
            "1e999",
            "0x-1",
            "0o8",
        ] {
            assert_eq!(json(text), format!("{text:?}"));
        }
    }
}
