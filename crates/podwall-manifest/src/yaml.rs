//! How does a YAML document become a tree?
//!
//! ```text
//!   text ──▶ saphyr-parser ──▶ events ──▶ stack of open lists and mappings ──▶ Node
//!                                              &anchors kept, *aliases copied, << merged
//! ```
//!
//! Copies of anchors are counted against a budget, so that nine lines of nested aliases cannot
//! become a billion nodes; depth is limited by [`DEEPEST`].

use std::borrow::Cow;

use rustc_hash::FxHashMap;
use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, Tag};

use crate::diagnostic::Code;
use crate::explain::{explain, templated};
use crate::node::{Entry, Map, Node, Value};
use crate::scalar;
use crate::text::{At, Part};

/// How deep lists and mappings may be nested. A Deployment in full has 15 levels, an OpenAPI schema
/// in a CustomResourceDefinition can have some 60; the parser itself stops at 255.
pub(crate) const DEEPEST: usize = 200;

/// How many nodes aliases may add to one document.
const ALIASED: usize = 250_000;

/// How many values one document may have: some 16,000 pods as `kubectl get -o yaml` prints them.
pub(crate) const MOST_VALUES: usize = 5_000_000;

pub(crate) fn too_many_values() -> String {
    format!("more than {MOST_VALUES} values in one document")
}

/// Why a document is no tree.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) code: Code,
    pub(crate) at: At,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
    /// An earlier place that belongs to it.
    pub(crate) earlier: Option<(At, &'static str)>,
    /// The parser wants a space where a tab will do.
    pub(crate) tab_after_colon: bool,
}

impl Broken {
    pub(crate) fn new(code: Code, at: At, message: impl Into<String>) -> Self {
        Self {
            code,
            at,
            message: message.into(),
            help: None,
            earlier: None,
            tab_after_colon: false,
        }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// Reads the documents of a part; usually one. Those before an error are kept.
pub(crate) fn parse<'t>(part: Part<'t>, budget: &mut usize) -> (Vec<Node<'t>>, Option<Broken>) {
    let before = *budget;
    let (nodes, broken) = parse_once(part, budget);
    match broken {
        // A tab between `key:` and its value is good YAML (and read by kubectl), but no document
        // for this parser. Spaces in its stead leave every place as it was.
        Some(Broken { tab_after_colon: true, .. }) => {
            *budget = before;
            let spaced = tabs_after_colons(part.text);
            let (owned, broken) =
                parse_once(Part { text: &spaced, lines_before: part.lines_before }, budget);
            let nodes = owned.into_iter().map(Node::into_owned).collect();
            (nodes, broken)
        }
        broken => (nodes, broken),
    }
}

/// Puts a space for each tab that follows the key of a line. A literal text with such a line gets a
/// space too; no text that is read here has tabs.
fn tabs_after_colons(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let is_key =
            |key: &str| key.chars().all(|c| c.is_ascii_alphanumeric() || " -_./\"'".contains(c));
        let Some((key, rest)) = line.split_once(":\t").filter(|(key, _)| is_key(key)) else {
            out.push_str(line);
            continue;
        };
        let value = rest.trim_start_matches(['\t', ' ']);
        out.push_str(key);
        out.push(':');
        out.extend(std::iter::repeat_n(' ', 1 + rest.len() - value.len()));
        out.push_str(value);
    }
    out
}

fn parse_once<'t>(part: Part<'t>, budget: &mut usize) -> (Vec<Node<'t>>, Option<Broken>) {
    let mut nodes = Vec::new();
    let mut builder = Builder::new(part.lines_before, budget);
    let mut parser = Parser::new_from_str(part.text);
    loop {
        match parser.next_event() {
            None | Some(Ok((Event::StreamEnd, _))) => return (nodes, None),
            Some(Ok((event, span))) => match builder.event(event, span) {
                Ok(None) => {}
                Ok(Some(node)) => nodes.push(node),
                Err(broken) => return (nodes, Some(templated(*broken, part))),
            },
            Some(Err(error)) => {
                let mut broken = explain(&error, part);
                broken.earlier = builder.open_bracket().filter(|_| broken.code == Code::Syntax);
                return (nodes, Some(broken));
            }
        }
    }
}

/// An open list or mapping.
struct Frame<'t> {
    at: At,
    /// Written with brackets or braces.
    flow: bool,
    anchor: usize,
    kind: Open<'t>,
}

enum Open<'t> {
    List(Vec<Node<'t>>),
    Map { entries: Vec<Entry<'t>>, key: Option<(Cow<'t, str>, At)>, merged: Vec<Node<'t>> },
}

struct Builder<'t, 'b> {
    lines_before: u32,
    stack: Vec<Frame<'t>>,
    anchors: FxHashMap<usize, Node<'t>>,
    /// Nodes that aliases may still add to this document, and to the run.
    document_budget: usize,
    run_budget: &'b mut usize,
    /// Values so far in this document.
    values: usize,
}

type Step<T> = Result<T, Box<Broken>>;

impl<'t, 'b> Builder<'t, 'b> {
    fn new(lines_before: u32, run_budget: &'b mut usize) -> Self {
        Self {
            lines_before,
            stack: Vec::new(),
            anchors: FxHashMap::default(),
            document_budget: ALIASED,
            run_budget,
            values: 0,
        }
    }

    /// Takes one event in; hands out the document's root when it is complete.
    fn event(&mut self, event: Event<'t>, span: Span) -> Step<Option<Node<'t>>> {
        match event {
            Event::DocumentStart(_) => {
                self.anchors.clear();
                self.values = 0;
                self.document_budget = ALIASED;
                Ok(None)
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.scalar(text, style, anchor, tag.as_deref(), span)
            }
            Event::SequenceStart(anchor, _) => {
                self.open(span, anchor, Open::List(Vec::new()))?;
                Ok(None)
            }
            Event::MappingStart(anchor, _) => {
                let kind = Open::Map { entries: Vec::new(), key: None, merged: Vec::new() };
                self.open(span, anchor, kind)?;
                Ok(None)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
            Event::Alias(id) => {
                let at = self.at(span);
                let Some(node) = self.anchors.get(&id) else {
                    let message = "this alias refers to a value that contains it";
                    return Err(Box::new(Broken::new(Code::Syntax, at, message)));
                };
                let size = node.size();
                let node = node.clone();
                self.spend(size, at)?;
                self.value(node)
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(None),
        }
    }

    fn scalar(
        &mut self,
        text: Cow<'t, str>,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
        span: Span,
    ) -> Step<Option<Node<'t>>> {
        let at = self.at(span);
        self.count(at)?;
        let plain = style == ScalarStyle::Plain;
        if let Some(Frame { kind: Open::Map { key: key @ None, .. }, .. }) = self.stack.last_mut() {
            let value = typed(text.clone(), plain, tag, at)?;
            let name = match value {
                Value::Text(text) => text,
                Value::Bool(bool) => bool.to_string().into(),
                Value::Int(int) => int.to_string().into(),
                Value::Float(float) => float.to_string().into(),
                _ => {
                    let broken = Broken::new(Code::Syntax, at, "a key is missing before this `:`");
                    return Err(Box::new(broken.help("write a key, or remove the colon")));
                }
            };
            *key = Some((name, at));
            return Ok(None);
        }
        let node = Node { at, value: typed(text, plain, tag, at)? };
        self.keep(anchor, &node)?;
        self.value(node)
    }

    fn open(&mut self, span: Span, anchor: usize, kind: Open<'t>) -> Step<()> {
        let at = self.at(span);
        self.count(at)?;
        if let Some(Frame { kind: Open::Map { key: None, .. }, .. }) = self.stack.last() {
            let broken = Broken::new(Code::Syntax, at, "a mapping's key must be a plain word");
            return Err(Box::new(broken));
        }
        if self.stack.len() >= DEEPEST {
            let message = format!("nested more than {DEEPEST} levels deep");
            return Err(Box::new(Broken::new(Code::Limit, at, message)));
        }
        // A block's start has no width of its own.
        self.stack.push(Frame { at, flow: at.length == 1, anchor, kind });
        Ok(())
    }

    fn close(&mut self, span: Span) -> Step<Option<Node<'t>>> {
        let Some(Frame { mut at, flow, anchor, kind }) = self.stack.pop() else { return Ok(None) };
        let value = match kind {
            Open::List(items) => {
                at.length = 1;
                Value::List(items)
            }
            Open::Map { mut entries, merged, .. } => {
                for node in merged {
                    self.merge(&mut entries, node)?;
                }
                at.length = entries.first().map_or(1, |entry| entry.at.length);
                Value::Map(Map::new(entries))
            }
        };
        let end = self.at(span);
        if flow {
            at.length = 1;
            if end.line == at.line && end.column >= at.column {
                at.length = end.column - at.column + 1;
            }
        }
        let node = Node { at, value };
        self.keep(anchor, &node)?;
        self.value(node)
    }

    /// Puts a complete value where it belongs; hands it out if it is the document's root.
    fn value(&mut self, node: Node<'t>) -> Step<Option<Node<'t>>> {
        match self.stack.last_mut().map(|frame| &mut frame.kind) {
            None => return Ok(Some(node)),
            Some(Open::List(items)) => items.push(node),
            Some(Open::Map { entries, key, merged }) => match key.take() {
                Some((name, at)) if name == "<<" => {
                    if !matches!(node.value, Value::Map(_) | Value::List(_)) {
                        let message = "`<<` merges a mapping, or a list of mappings";
                        return Err(Box::new(Broken::new(Code::Syntax, at, message)));
                    }
                    merged.push(node);
                }
                Some((key, at)) => entries.push(Entry { key, at, value: node }),
                None => {
                    let message = "a mapping's key must be a plain word, not an alias";
                    return Err(Box::new(Broken::new(Code::Syntax, node.at, message)));
                }
            },
        }
        Ok(None)
    }

    /// A merge key adds what the mapping does not say itself (YAML 1.1, `tag:yaml.org,2002:merge`).
    fn merge(&mut self, entries: &mut Vec<Entry<'t>>, node: Node<'t>) -> Step<()> {
        match node.value {
            Value::Map(map) => {
                for entry in map.entries {
                    if !entries.iter().any(|e| e.key == entry.key) {
                        entries.push(entry);
                    }
                    self.spend(1, node.at)?;
                }
            }
            Value::List(items) => {
                for item in items {
                    self.merge(entries, item)?;
                }
            }
            _ => {
                let message = "`<<` merges a mapping, or a list of mappings";
                return Err(Box::new(Broken::new(Code::Syntax, node.at, message)));
            }
        }
        Ok(())
    }

    fn keep(&mut self, anchor: usize, node: &Node<'t>) -> Step<()> {
        if anchor != 0 {
            self.spend(node.size(), node.at)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(())
    }

    fn count(&mut self, at: At) -> Step<()> {
        self.values += 1;
        if self.values > MOST_VALUES {
            return Err(Box::new(Broken::new(Code::Limit, at, too_many_values())));
        }
        Ok(())
    }

    fn spend(&mut self, nodes: usize, at: At) -> Step<()> {
        let left = self.document_budget.checked_sub(nodes);
        let left_in_run = self.run_budget.checked_sub(nodes);
        match (left, left_in_run) {
            (Some(left), Some(left_in_run)) => {
                self.document_budget = left;
                *self.run_budget = left_in_run;
                Ok(())
            }
            _ => {
                let message = format!("aliases blow this document up to over {ALIASED} values");
                let broken = Broken::new(Code::Limit, at, message);
                Err(Box::new(broken.help("write the values out, or use fewer aliases")))
            }
        }
    }

    /// The innermost bracket or brace that is still open.
    fn open_bracket(&self) -> Option<(At, &'static str)> {
        let frame = self.stack.last().filter(|frame| frame.flow)?;
        let what = match frame.kind {
            Open::List(_) => "this `[` is still open",
            Open::Map { .. } => "this `{` is still open",
        };
        Some((frame.at, what))
    }

    fn at(&self, span: Span) -> At {
        let length = if span.end.line() == span.start.line() {
            span.end.col().saturating_sub(span.start.col())
        } else {
            1
        };
        At { length: length as u32, ..mark(span.start, self.lines_before) }
    }
}

pub(crate) fn mark(marker: Marker, lines_before: u32) -> At {
    At { line: marker.line() as u32 + lines_before, column: marker.col() as u32 + 1, length: 1 }
}

fn typed<'t>(text: Cow<'t, str>, plain: bool, tag: Option<&Tag>, at: At) -> Step<Value<'t>> {
    let wanted = match tag {
        None if plain => return Ok(scalar::resolve(text)),
        Some(tag) if tag.handle == "tag:yaml.org,2002:" => &*tag.suffix,
        _ => return Ok(Value::Text(text)),
    };
    let value = match wanted {
        "int" | "bool" | "float" | "null" => scalar::resolve(text.clone()),
        _ => return Ok(Value::Text(text)),
    };
    match (wanted, &value) {
        ("int" | "float", Value::Int(_))
        | ("float", Value::Float(_))
        | ("bool", Value::Bool(_))
        | ("null", Value::Null) => Ok(value),
        _ => {
            let message = format!("this is tagged `!!{wanted}`, but is not one");
            Err(Box::new(Broken::new(Code::Syntax, at, message)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> String {
        let mut budget = 1_000_000;
        let (nodes, broken) = parse(Part { text, lines_before: 0 }, &mut budget);
        if let Some(broken) = broken {
            return format!("{}:{} {}", broken.at.line, broken.at.column, broken.message);
        }
        let json: Vec<_> = nodes.iter().map(|n| n.to_json().to_string()).collect();
        json.join(" ")
    }

    #[test]
    fn scalars_keep_their_style() {
        assert_eq!(
            json("a: 1\nb: '1'\nc: |\n  x\nd: !!str 1\ne: \"yes\"\nf: yes"),
            r#"{"a":1,"b":"1","c":"x\n","d":"1","e":"yes","f":true}"#
        );
    }

    #[test]
    fn keys_become_strings_as_in_json() {
        assert_eq!(json("1: a\nyes: b\n'yes': c"), r#"{"1":"a","true":"b","yes":"c"}"#);
        assert_eq!(json("? [a]\n: b"), "1:3 a mapping's key must be a plain word");
        assert_eq!(json(": b"), "1:1 a key is missing before this `:`");
    }

    #[test]
    fn aliases_are_copies_and_merges_add_what_is_missing() {
        assert_eq!(json("a: &x {k: 1}\nb: *x"), r#"{"a":{"k":1},"b":{"k":1}}"#);
        assert_eq!(
            json("a: &x {k: 1, l: 2}\nb:\n  <<: *x\n  k: 3"),
            r#"{"a":{"k":1,"l":2},"b":{"k":3,"l":2}}"#
        );
        assert_eq!(
            json("a: &x {k: 1}\nc: &y {k: 2, m: 3}\nb: {<<: [*x, *y]}"),
            r#"{"a":{"k":1},"b":{"k":1,"m":3},"c":{"k":2,"m":3}}"#
        );
        assert_eq!(json("a: &x [*x]"), "1:8 this alias refers to a value that contains it");
    }

    #[test]
    fn a_tab_may_stand_between_a_key_and_its_value() {
        assert_eq!(
            json("a:\tb\nc:\t\t'd\te'\nf: |\n  g:\th\n"),
            r#"{"a":"b","c":"d\te","f":"g: h\n"}"#
        );
    }

    #[test]
    fn an_alias_bomb_ends_early() {
        let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for i in 1..12 {
            let items = vec![format!("*a{}", i - 1); 10].join(",");
            text.push_str(&format!("a{i}: &a{i} [{items}]\n"));
        }
        assert!(json(&text).ends_with("aliases blow this document up to over 250000 values"));
    }

    #[test]
    fn depth_is_limited_however_it_is_written() {
        for text in
            ["[".repeat(10_000), "- ".repeat(10_000), "{a: ".repeat(10_000), "? ".repeat(10_000)]
        {
            let message = json(&text);
            let fine = message.ends_with("levels deep") || message.contains("plain word");
            assert!(fine, "{message}");
        }
    }

    #[test]
    fn a_container_is_marked_where_it_starts() {
        let mut budget = 100;
        let text = "a:\n  - b: 1\nc: [1, 2]\n";
        let (nodes, _) = parse(Part { text, lines_before: 10 }, &mut budget);
        let Value::Map(map) = &nodes[0].value else { panic!() };
        let Value::List(items) = &map.entries[0].value.value else { panic!() };
        assert_eq!(items[0].at, At { line: 12, column: 5, length: 1 });
        assert_eq!(map.entries[0].value.at, At { line: 12, column: 3, length: 1 });
        assert_eq!(map.entries[1].value.at, At { line: 13, column: 4, length: 6 });
    }
}
