//! Where are the keys of a JSON text?
//!
//! ```text
//!   {"name": "cbr0", "plugins": [{…}, {…}]}
//!            └─7..13─┘           └─┘  └─┘ a range each: the rest of the text stays as it is
//! ```
//!
//! A network configuration belongs to somebody else, so it is edited as a text: order, numbers,
//! spaces and keys that nobody here knows stay as they were written.

use std::fmt;
use std::ops::Range;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// A value in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place<'a> {
    pub(super) text: &'a str,
    /// Where, in bytes.
    pub(super) range: Range<usize>,
}

/// The keys of an object with their values, in order. As runtimes read it, the last of a key counts.
pub(super) fn fields(text: &str) -> Result<Vec<(String, Place<'_>)>, serde_json::Error> {
    let Fields(fields) = serde_json::from_str(text)?;
    Ok(fields.into_iter().map(|(key, raw)| (key, place(text, raw))).collect())
}

/// The elements of a list, with their places in `whole`.
pub(super) fn elements<'a>(
    whole: &'a str,
    list: &'a str,
) -> Result<Vec<Place<'a>>, serde_json::Error> {
    let raws: Vec<&RawValue> = serde_json::from_str(list)?;
    Ok(raws.into_iter().map(|raw| place(whole, raw)).collect())
}

/// A value that is a string.
pub(super) fn string(place: &Place<'_>) -> Option<String> {
    serde_json::from_str(place.text).ok()
}

fn place<'a>(whole: &str, raw: &'a RawValue) -> Place<'a> {
    let text = raw.get();
    // Both are slices of one text.
    let start = text.as_ptr().addr().saturating_sub(whole.as_ptr().addr());
    Place { text, range: start..start + text.len() }
}

struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_where_they_stand() {
        let text = " { \"a\\u0062\" : 1.50 , \"l\": [ {\"x\":1} , 2 ], \"ab\": null }\n";
        let fields = fields(text).unwrap();
        let keys: Vec<_> = fields.iter().map(|(key, place)| (key.as_str(), place.text)).collect();
        assert_eq!(keys, [("ab", "1.50"), ("l", "[ {\"x\":1} , 2 ]"), ("ab", "null")]);
        for (_, place) in &fields {
            assert_eq!(&text[place.range.clone()], place.text);
        }
        for element in elements(text, fields[1].1.text).unwrap() {
            assert_eq!(&text[element.range.clone()], element.text);
        }
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in ["", "[]", "1", "{\"a\":}", "{} {}", "{\"a\":1,}"] {
            assert!(fields(text).is_err(), "{text}");
        }
    }
}
