//! What does the document say, and where does each piece of it stand?
//!
//! ```text
//!   port: 80        Entry { key "port" at 3:5, value Node { Int(80) at 3:11 } }
//! ```
//!
//! The tree borrows its texts from the file, keeps the order of keys, and knows which keys stand
//! twice. Types are those that the API server would see after `kubectl` has turned YAML into JSON.

use std::borrow::Cow;

use serde_json::Value as Json;

use crate::text::At;

/// A value and its place.
#[derive(Clone, Debug)]
pub(crate) struct Node<'t> {
    pub(crate) at: At,
    pub(crate) value: Value<'t>,
}

#[derive(Clone, Debug)]
pub(crate) enum Value<'t> {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Cow<'t, str>),
    List(Vec<Node<'t>>),
    Map(Map<'t>),
}

/// A mapping in the order of the file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Map<'t> {
    pub(crate) entries: Vec<Entry<'t>>,
    /// Keys that stand twice. Boxed, since almost no mapping has one.
    pub(crate) twice: Option<Box<[Twice]>>,
}

#[derive(Clone, Debug)]
pub(crate) struct Entry<'t> {
    pub(crate) key: Cow<'t, str>,
    pub(crate) at: At,
    pub(crate) value: Node<'t>,
}

/// A key that stands twice in its mapping.
#[derive(Clone, Debug)]
pub(crate) struct Twice {
    pub(crate) key: String,
    pub(crate) first: At,
    pub(crate) again: At,
}

impl<'t> Map<'t> {
    pub(crate) fn get(&self, key: &str) -> Option<&Entry<'t>> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// Takes the entries in; of keys that stand twice the first stays.
    pub(crate) fn new(entries: Vec<Entry<'t>>) -> Self {
        let mut map = Self { entries, twice: None };
        let count = map.entries.len();
        let repeated = |i: usize, seen: &rustc_hash::FxHashMap<&str, usize>| {
            seen.get(&*map.entries[i].key).copied().filter(|first| *first < i)
        };
        let mut pairs = Vec::new();
        if count <= 12 {
            for i in 1..count {
                let key = &map.entries[i].key;
                if let Some(first) = map.entries[..i].iter().position(|e| e.key == *key) {
                    pairs.push((first, i));
                }
            }
        } else {
            let mut seen = rustc_hash::FxHashMap::default();
            for (i, entry) in map.entries.iter().enumerate() {
                seen.entry(&*entry.key).or_insert(i);
            }
            pairs.extend((0..count).filter_map(|i| repeated(i, &seen).map(|first| (first, i))));
        }
        if !pairs.is_empty() {
            let twice = pairs
                .iter()
                .map(|(first, again)| Twice {
                    key: map.entries[*first].key.to_string(),
                    first: map.entries[*first].at,
                    again: map.entries[*again].at,
                })
                .collect();
            let mut next = pairs.iter().map(|(_, again)| *again).peekable();
            let mut index = 0;
            map.entries.retain(|_| {
                let drop = next.next_if(|again| *again == index).is_some();
                index += 1;
                !drop
            });
            map.twice = Some(twice);
        }
        map
    }
}

impl<'t> Node<'t> {
    /// The same tree with texts of its own.
    pub(crate) fn into_owned<'o>(self) -> Node<'o> {
        let text = |text: Cow<'t, str>| Cow::Owned(text.into_owned());
        let value = match self.value {
            Value::Null => Value::Null,
            Value::Bool(bool) => Value::Bool(bool),
            Value::Int(int) => Value::Int(int),
            Value::Float(float) => Value::Float(float),
            Value::Text(value) => Value::Text(text(value)),
            Value::List(items) => Value::List(items.into_iter().map(Node::into_owned).collect()),
            Value::Map(Map { entries, twice }) => {
                let entry = |Entry { key, at, value }: Entry<'t>| Entry {
                    key: text(key),
                    at,
                    value: value.into_owned(),
                };
                Value::Map(Map { entries: entries.into_iter().map(entry).collect(), twice })
            }
        };
        Node { at: self.at, value }
    }

    /// What it is, in the words of a message.
    pub(crate) fn describe(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Int(_) => "a number",
            Value::Float(_) => "a number with a fraction",
            Value::Text(_) => "a string",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// How many nodes it consists of, itself included.
    pub(crate) fn size(&self) -> usize {
        1 + match &self.value {
            Value::List(items) => items.iter().map(Node::size).sum(),
            Value::Map(map) => map.entries.iter().map(|e| e.value.size()).sum(),
            _ => 0,
        }
    }

    /// Names every key that stands twice.
    pub(crate) fn each_twice(&self, found: &mut dyn FnMut(&Twice)) {
        match &self.value {
            Value::List(items) => items.iter().for_each(|item| item.each_twice(found)),
            Value::Map(map) => {
                map.twice.iter().flat_map(|list| list.iter()).for_each(&mut *found);
                map.entries.iter().for_each(|entry| entry.value.each_twice(found));
            }
            _ => {}
        }
    }

    /// The value as JSON; of keys that stand twice the first counts.
    pub(crate) fn to_json(&self) -> Json {
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(bool) => Json::Bool(*bool),
            Value::Int(int) => Json::from(*int),
            Value::Float(float) => Json::from(*float),
            Value::Text(text) => Json::String(text.to_string()),
            Value::List(items) => items.iter().map(Node::to_json).collect(),
            Value::Map(map) => {
                let pairs = map.entries.iter().map(|e| (e.key.to_string(), e.value.to_json()));
                Json::Object(pairs.collect())
            }
        }
    }

    /// A tree without places, from JSON that was read elsewhere.
    pub(crate) fn from_json(json: &'t Json) -> Self {
        let value = match json {
            Json::Null => Value::Null,
            Json::Bool(bool) => Value::Bool(*bool),
            Json::Number(number) => match number.as_i64() {
                Some(int) => Value::Int(int),
                None => Value::Float(number.as_f64().unwrap_or(f64::MAX)),
            },
            Json::String(text) => Value::Text(Cow::Borrowed(text)),
            Json::Array(items) => Value::List(items.iter().map(Self::from_json).collect()),
            Json::Object(pairs) => {
                let entry = |(key, value): (&'t String, &'t Json)| Entry {
                    key: Cow::Borrowed(key),
                    at: At::default(),
                    value: Self::from_json(value),
                };
                Value::Map(Map { entries: pairs.iter().map(entry).collect(), twice: None })
            }
        };
        Self { at: At::default(), value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(count: usize, extra: &[&str]) -> Map<'static> {
        let names =
            (0..count).map(|i| format!("k{i}")).chain(extra.iter().map(ToString::to_string));
        let entries = names
            .enumerate()
            .map(|(i, key)| Entry {
                key: key.into(),
                at: At { line: i as u32 + 1, column: 1, length: 2 },
                value: Node { at: At::default(), value: Value::Int(i as i64) },
            })
            .collect();
        Map::new(entries)
    }

    #[test]
    fn of_a_key_that_stands_twice_the_first_stays_and_both_places_are_known() {
        for count in [3, 30] {
            let map = keys(count, &["k1", "k1", "k0"]);
            assert_eq!(map.entries.len(), count);
            let twice: Vec<_> = map.twice.iter().flat_map(|t| t.iter()).collect();
            let lines: Vec<_> = twice.iter().map(|t| (t.first.line, t.again.line)).collect();
            let n = count as u32;
            assert_eq!(lines, [(2, n + 1), (2, n + 2), (1, n + 3)], "{count} keys");
        }
        assert!(keys(30, &[]).twice.is_none());
    }
}
