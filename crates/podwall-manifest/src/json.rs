//! How does a JSON file become a tree?
//!
//! JSON is nearly YAML, but a YAML parser refuses some of it (a character outside the basic plane
//! is written as two escapes, `\ud83d\ude00`) and takes a stream of objects for an error. This
//! reader takes what Go's decoder takes: any number of values after each other (RFC 8259 each),
//! with line and column of every key and value.
//!
//! ```text
//!   {"kind": "Pod"} {"kind": "List"}      two documents
//! ```

use std::borrow::Cow;

use crate::diagnostic::Code;
use crate::names::short;
use crate::node::{Entry, Map, Node, Value};
use crate::scalar;
use crate::text::At;
use crate::yaml::{Broken, DEEPEST, MOST_VALUES, too_many_values};

/// Whether the text is to be read as JSON: kubectl asks for the first character too.
pub(crate) fn looks_like_json(text: &str) -> bool {
    text.trim_start().starts_with('{')
}

/// Reads all values. Those before an error are kept.
pub(crate) fn parse(text: &str) -> (Vec<Node<'_>>, Option<Broken>) {
    let mut reader =
        Reader { text, position: 0, line: 1, line_start: 0, counted: (0, 0), values: 0 };
    let mut nodes = Vec::new();
    loop {
        reader.space();
        if reader.peek().is_none() {
            return (nodes, None);
        }
        match reader.value(0) {
            Ok(node) => nodes.push(node),
            Err(broken) => return (nodes, Some(*broken)),
        }
    }
}

struct Reader<'t> {
    text: &'t str,
    /// In bytes; always on a character's boundary.
    position: usize,
    line: u32,
    line_start: usize,
    /// A byte of the line and the characters before it, so that a file of one long line is counted
    /// once and not from its start for each key.
    counted: (usize, u32),
    /// Values so far.
    values: usize,
}

type Step<T> = Result<T, Box<Broken>>;

impl<'t> Reader<'t> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.position).copied()
    }

    fn space(&mut self) {
        while let Some(byte) = self.peek() {
            match byte {
                b' ' | b'\t' => self.position += 1,
                b'\n' | b'\r' => {
                    self.position += 1;
                    if byte == b'\n' || self.peek() != Some(b'\n') {
                        self.line += 1;
                        self.line_start = self.position;
                        self.counted = (self.position, 0);
                    }
                }
                _ => return,
            }
        }
    }

    /// The column of a byte of the current line, from 1.
    fn column(&mut self, byte: usize) -> u32 {
        let (from, before) =
            if byte >= self.counted.0 { self.counted } else { (self.line_start, 0) };
        let chars = self.text.get(from..byte).map_or(0, |slice| slice.chars().count());
        let before = before.saturating_add(u32::try_from(chars).unwrap_or(u32::MAX / 4));
        self.counted = (byte, before);
        before + 1
    }

    /// From a position of the current line to here.
    fn at(&mut self, start: usize) -> At {
        let column = self.column(start);
        At { line: self.line, column, length: self.column(self.position) - column }
    }

    fn broken<T>(&mut self, message: impl Into<String>) -> Step<T> {
        let at = At { length: 1, ..self.at(self.position) };
        Err(Box::new(Broken::new(Code::Syntax, at, message)))
    }

    fn unexpected<T>(&mut self, expected: &str) -> Step<T> {
        match self.text[self.position..].chars().next() {
            None => self.broken(format!("expected {expected}, but the file ends here")),
            Some(found) => {
                let found = short(&found.to_string());
                self.broken(format!("expected {expected}, found `{found}`"))
            }
        }
    }

    fn value(&mut self, depth: usize) -> Step<Node<'t>> {
        let start = self.position;
        self.values += 1;
        if self.values > MOST_VALUES {
            let at = At { length: 1, ..self.at(start) };
            return Err(Box::new(Broken::new(Code::Limit, at, too_many_values())));
        }
        let value = match self.peek() {
            Some(b'{') => return self.object(depth),
            Some(b'[') => return self.array(depth),
            Some(b'"') => Value::Text(self.string()?),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') if self.word("true") => Value::Bool(true),
            Some(b'f') if self.word("false") => Value::Bool(false),
            Some(b'n') if self.word("null") => Value::Null,
            _ => return self.unexpected("a value"),
        };
        Ok(Node { at: self.at(start), value })
    }

    fn word(&mut self, word: &str) -> bool {
        let found = self.text[self.position..].starts_with(word);
        if found {
            self.position += word.len();
        }
        found
    }

    fn enter(&mut self, depth: usize) -> Step<At> {
        let start = self.position;
        self.position += 1;
        let at = self.at(start);
        if depth >= DEEPEST {
            let message = format!("nested more than {DEEPEST} levels deep");
            return Err(Box::new(Broken::new(Code::Limit, at, message)));
        }
        Ok(at)
    }

    /// A container that ends on the line where it starts is marked whole.
    fn leave(&mut self, mut at: At) -> At {
        if self.line == at.line {
            at.length = self.column(self.position) - at.column;
        }
        at
    }

    fn array(&mut self, depth: usize) -> Step<Node<'t>> {
        let entered = self.enter(depth)?;
        let mut items = Vec::new();
        self.space();
        if self.peek() != Some(b']') {
            loop {
                self.space();
                items.push(self.value(depth + 1)?);
                self.space();
                match self.peek() {
                    Some(b',') => self.position += 1,
                    Some(b']') => break,
                    _ => return self.unexpected("`,` or `]`"),
                }
            }
        }
        self.position += 1;
        Ok(Node { at: self.leave(entered), value: Value::List(items) })
    }

    fn object(&mut self, depth: usize) -> Step<Node<'t>> {
        let entered = self.enter(depth)?;
        let mut entries = Vec::new();
        self.space();
        if self.peek() != Some(b'}') {
            loop {
                self.space();
                if self.peek() != Some(b'"') {
                    return self.unexpected("a key in double quotes");
                }
                let start = self.position;
                let key = self.string()?;
                let at = self.at(start);
                self.space();
                if self.peek() != Some(b':') {
                    return self.unexpected("`:` after the key");
                }
                self.position += 1;
                self.space();
                let value = self.value(depth + 1)?;
                entries.push(Entry { key, at, value });
                self.space();
                match self.peek() {
                    Some(b',') => self.position += 1,
                    Some(b'}') => break,
                    _ => return self.unexpected("`,` or `}`"),
                }
            }
        }
        self.position += 1;
        Ok(Node { at: self.leave(entered), value: Value::Map(Map::new(entries)) })
    }

    fn number(&mut self) -> Step<Value<'t>> {
        let rest = &self.text.as_bytes()[self.position..];
        let is_part = |b: &u8| matches!(b, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
        let length = rest.iter().take_while(|b| is_part(b)).count();
        let text = &self.text[self.position..self.position + length];
        let digits = text.strip_prefix('-').unwrap_or(text);
        let leading_zero =
            digits.len() > 1 && digits.starts_with('0') && digits.as_bytes()[1].is_ascii_digit();
        let value = match text.parse::<i64>() {
            _ if leading_zero => None,
            Ok(int) => Some(Value::Int(int)),
            Err(_) => text.parse().ok().filter(|f: &f64| f.is_finite()).map(scalar::float),
        };
        match value {
            Some(value) => {
                self.position += length;
                Ok(value)
            }
            None => self.broken(format!("`{}` is not a number in JSON", &text[..length.min(40)])),
        }
    }

    fn string(&mut self) -> Step<Cow<'t, str>> {
        let start = self.position + 1;
        let bytes = self.text.as_bytes();
        let mut end = start;
        while bytes.get(end).is_some_and(|b| !matches!(b, b'"' | b'\\' | 0..=0x1f)) {
            end += 1;
        }
        if bytes.get(end) == Some(&b'"') {
            self.position = end + 1;
            return Ok(Cow::Borrowed(&self.text[start..end]));
        }
        let mut out = String::from(&self.text[start..end]);
        let open = self.position;
        self.position = end;
        loop {
            match self.text[self.position..].chars().next() {
                Some('"') => {
                    self.position += 1;
                    return Ok(Cow::Owned(out));
                }
                Some('\\') => out.push(self.escape()?),
                Some(c) if c >= ' ' => {
                    out.push(c);
                    self.position += c.len_utf8();
                }
                _ => {
                    self.position = open;
                    return self.broken("this string is not closed on its line");
                }
            }
        }
    }

    fn escape(&mut self) -> Step<char> {
        let code = self.text.as_bytes().get(self.position + 1).copied();
        let plain = match code {
            Some(b @ (b'"' | b'\\' | b'/')) => char::from(b),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode(),
            _ => return self.broken("no such escape in JSON"),
        };
        self.position += 2;
        Ok(plain)
    }

    /// `\u1234`, or two of them for one character beyond the basic plane. Half a pair becomes the
    /// replacement character, as in Go.
    fn unicode(&mut self) -> Step<char> {
        let unit = |position: usize| {
            let digits = self.text.get(position + 2..position + 6)?;
            let hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
            hex.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
        };
        let Some(first) = unit(self.position) else {
            return self.broken("`\\u` needs four hexadecimal digits");
        };
        let mut length = 6;
        let mut scalar = first;
        if (0xd800..0xdc00).contains(&first)
            && self.text[self.position + 6..].starts_with("\\u")
            && let Some(second @ 0xdc00..0xe000) = unit(self.position + 6)
        {
            scalar = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
            length = 12;
        }
        self.position += length;
        Ok(char::from_u32(scalar).unwrap_or(char::REPLACEMENT_CHARACTER))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> String {
        let (nodes, broken) = parse(text);
        if let Some(broken) = broken {
            return format!("{}:{} {}", broken.at.line, broken.at.column, broken.message);
        }
        let all: Vec<_> = nodes.iter().map(|n| n.to_json().to_string()).collect();
        all.join(" ")
    }

    #[test]
    fn what_json_allows_is_read() {
        assert_eq!(
            json("{\"a\" : [1, -2.5e1, true,null, \"x\\n\\ud83d\\ude00\\/é\"],\n\t\"b\":{} }"),
            r#"{"a":[1,-25,true,null,"x\n😀/é"],"b":{}}"#
        );
        assert_eq!(json("{} {\"a\":1}\n{}"), r#"{} {"a":1} {}"#);
        assert_eq!(json(r#"{"a":"\ud83dx"}"#), "{\"a\":\"\u{fffd}x\"}");
    }

    #[test]
    fn what_json_forbids_is_said_with_its_place() {
        assert_eq!(json("{\"é\":1,\n \"b\" 2}"), "2:6 expected `:` after the key, found `2`");
        assert_eq!(json("{\"a\":1,}"), "1:8 expected a key in double quotes, found `}`");
        assert_eq!(json("{\"a\":[1,2"), "1:10 expected `,` or `]`, but the file ends here");
        assert_eq!(json("{\"a\":01}"), "1:6 `01` is not a number in JSON");
        assert_eq!(json("{\"a\":\"x\n\"}"), "1:6 this string is not closed on its line");
        assert_eq!(json("{\"é\": \"\\ud8\"}"), "1:8 `\\u` needs four hexadecimal digits");
        assert_eq!(json(&"{\"a\":".repeat(9999)), "1:1001 nested more than 200 levels deep");
    }
}
