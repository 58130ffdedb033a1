//! How does a network configuration get our entry, and lose it?
//!
//! ```text
//!   {…, "plugins": [A, B]}             ⇄  {…, "plugins": [A, B, podwall-cni]}
//!   {"type": "bridge", …} in X.conf    ⇄  {…, "plugins": [{"type": "bridge", …}, podwall-cni]} in
//!                                         X.conflist, with "wrapped": "X.conf" in our entry
//! ```
//!
//! Our entry may stand anywhere but first: it needs the result of the plugin that makes the interface,
//! and what others do behind it is theirs. So one that somebody else put behind ours stays there.
//!
//! Text in, text out: see [`super::text`].

use std::path::PathBuf;

use podwall_local::Otherwise;
use serde::Serialize;
use serde_json::Value;
use thiserror::Error;

use super::text::{Place, elements, fields, string};
use crate::TYPE;
use crate::version::Version;

/// A key of a file that is on its way from a single plugin to a chain, or back: the name of the
/// file with the single one.
pub(super) const ON_ITS_WAY: &str = "podwallWraps";

/// Why a configuration cannot be edited.
#[derive(Debug, Error)]
pub enum ChainError {
    /// It is no JSON, or not of the form that the specification demands.
    #[error("it is no JSON that a runtime could read: {0}")]
    Json(#[from] serde_json::Error),
    /// Runtimes would refuse it too.
    #[error("{0}")]
    Form(&'static str),
    /// It is of a version without chains.
    #[error(
        "its cniVersion is {0:?}, and chains of plugins need 0.3.0 or newer: set cniVersion to what \
         its plugins speak, such as \"0.3.1\" or \"1.0.0\""
    )]
    Version(String),
    /// Nothing would be left.
    #[error("podwall-cni is its only plugin: remove the file by hand")]
    Alone,
}

/// The settings of our entry; see docs/cni.md.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Always [`TYPE`].
    r#type: &'static str,
    /// Where the agent listens, as the node's own programs see it.
    pub socket: PathBuf,
    /// How long a pod waits for the agent, as `5s`.
    pub timeout: String,
    /// What becomes of a pod that the agent does not know in time.
    pub on_timeout: Otherwise,
    /// Whether forged source addresses are dropped at the pod's link.
    pub guard: bool,
    /// The file that had the single plugin which the chain wraps.
    #[serde(skip_serializing_if = "Option::is_none")]
    wrapped: Option<String>,
}

// === impl Entry ===

impl Entry {
    /// An entry with these settings.
    #[must_use]
    pub fn new(socket: PathBuf, timeout: String, on_timeout: Otherwise, guard: bool) -> Self {
        Self { r#type: TYPE, socket, timeout, on_timeout, guard, wrapped: None }
    }

    fn wrapping(&self, file: &str) -> Self {
        Self { wrapped: Some(file.to_owned()), ..self.clone() }
    }
}

/// A network configuration.
#[derive(Debug)]
pub(super) struct Chain<'a> {
    text: &'a str,
    fields: Vec<(String, Place<'a>)>,
    /// The elements of `plugins`; `None`: there is no such key.
    plugins: Option<Vec<Plugin<'a>>>,
}

#[derive(Debug)]
struct Plugin<'a> {
    place: Place<'a>,
    kind: Option<String>,
    /// `wrapped` of an entry of ours.
    wrapped: Option<String>,
}

// === impl Chain ===

impl<'a> Chain<'a> {
    /// Reads a file, of whichever kind.
    pub(super) fn read(text: &'a str) -> Result<Self, ChainError> {
        let fields = fields(text)?;
        let list = last(&fields, "plugins");
        let plugins = list.map(|list| {
            let plugins = elements(text, list.text)?;
            plugins.into_iter().map(Plugin::read).collect::<Result<Vec<_>, _>>()
        });
        Ok(Self { text, plugins: plugins.transpose()?, fields })
    }

    fn value(&self, key: &str) -> Option<&Place<'a>> {
        last(&self.fields, key)
    }

    fn string(&self, key: &str) -> Option<String> {
        self.value(key).and_then(string)
    }

    fn plugins(&self) -> Result<&[Plugin<'a>], ChainError> {
        match self.plugins.as_deref() {
            None | Some([]) => Err(ChainError::Form("it has no plugins")),
            Some(plugins) => Ok(plugins),
        }
    }

    /// What a runtime demands of every network: a name, and for us a version with chains.
    fn usable(&self) -> Result<(), ChainError> {
        if self.string("name").is_none_or(|name| name.is_empty()) {
            return Err(ChainError::Form("it has no name, and runtimes demand one"));
        }
        // Runtimes take the highest that both sides know (specification 1.1.0, section 1).
        let mut said = vec![self.string("cniVersion").unwrap_or_default()];
        if let Some(list) = self.value("cniVersions") {
            said.extend(serde_json::from_str::<Vec<String>>(list.text)?);
        }
        if said.iter().filter_map(|text| Version::parse(text)).any(|v| v >= Version::CHAINS) {
            return Ok(());
        }
        Err(ChainError::Version(said.swap_remove(0)))
    }

    /// Whether it has an entry of ours.
    pub(super) fn has_ours(&self) -> bool {
        self.plugins.iter().flatten().any(Plugin::is_ours)
    }

    /// The file that its single plugin came from, if we made the chain and nobody has added to it.
    pub(super) fn wraps(&self) -> Option<(String, &'a str)> {
        let [first, ours] = self.plugins.as_deref()? else { return None };
        let own = ["cniVersion", "name", "plugins"];
        let untouched = self.fields.iter().all(|(key, _)| own.contains(&key.as_str()));
        (untouched && ours.is_ours())
            .then(|| ours.wrapped.clone())?
            .map(|file| (file, first.place.text))
    }

    /// The file that it was made from by us, whatever was added to it since.
    pub(super) fn wrapped_file(&self) -> Option<String> {
        self.plugins.iter().flatten().find_map(|plugin| plugin.wrapped.clone())
    }

    /// For a file that is on its way: where from, and the text of the single plugin.
    pub(super) fn on_its_way(&self) -> Option<(String, String)> {
        let file = self.string(ON_ITS_WAY)?;
        let at = self.fields.iter().position(|(key, _)| key == ON_ITS_WAY)?;
        let kept = self.fields.get(at.checked_sub(1)?)?;
        let end = self.fields.last()?.1.range.end;
        Some((file, [&self.text[..kept.1.range.end], &self.text[end..]].concat()))
    }

    /// The chain with our entry as it should be; `None`: it is so already.
    pub(super) fn with(&self, entry: &Entry) -> Result<Option<String>, ChainError> {
        self.usable()?;
        let plugins = self.plugins()?;
        let ours: Vec<usize> = plugins
            .iter()
            .enumerate()
            .filter_map(|(at, plugin)| plugin.is_ours().then_some(at))
            .collect();
        match ours[..] {
            [] => Ok(Some(self.appended(entry)?)),
            [at] if at > 0 => {
                let entry = match &plugins[at].wrapped {
                    Some(file) => entry.wrapping(file),
                    None => entry.clone(),
                };
                let place = &plugins[at].place;
                if serde_json::from_str::<Value>(place.text)? == serde_json::to_value(&entry)? {
                    return Ok(None);
                }
                let text = self.laid_out(&entry, at)?;
                Ok(Some(self.spliced(place.range.clone(), &text)))
            }
            // Twice, or where it cannot work.
            _ => {
                let without = self.without()?.ok_or(ChainError::Alone)?;
                Chain::read(&without)?.with(entry)
            }
        }
    }

    /// The chain without our entries; `None`: there are none.
    pub(super) fn without(&self) -> Result<Option<String>, ChainError> {
        let Some(plugins) = self.plugins.as_deref() else { return Ok(None) };
        let Some(at) = plugins.iter().position(Plugin::is_ours) else { return Ok(None) };
        let of = |at: usize| plugins.get(at).map(|plugin| plugin.place.range.clone());
        let range = match (at.checked_sub(1).and_then(of), of(at), of(at + 1)) {
            (Some(before), Some(ours), _) => before.end..ours.end,
            (None, Some(ours), Some(next)) => ours.start..next.start,
            _ => return Err(ChainError::Alone),
        };
        let text = self.spliced(range, "");
        let again = Chain::read(&text)?.without()?;
        Ok(Some(again.unwrap_or(text)))
    }

    /// For a file with a single plugin: itself, on its way to be a chain. It can be read as either,
    /// so a single change of its name makes the one of the other.
    pub(super) fn hybrid(&self, file: &str, entry: Option<&Entry>) -> Result<String, ChainError> {
        self.single()?;
        let end = self.fields.last().ok_or(ChainError::Form("it is empty"))?.1.range.end;
        let ours = entry.map(|entry| serde_json::to_string(&entry.wrapping(file))).transpose()?;
        let comma = if ours.is_some() { "," } else { "" };
        let keys = format!(
            ",\"{ON_ITS_WAY}\":{},\"plugins\":[{}{comma}{}]",
            serde_json::to_string(file)?,
            self.text.trim(),
            ours.unwrap_or_default()
        );
        Ok(self.spliced(end..end, &keys))
    }

    /// For a file with a single plugin: the chain of it and ours. The plugin stays as it was
    /// written, with its name and version, as a runtime would give them to it.
    pub(super) fn wrapped(&self, file: &str, entry: &Entry) -> Result<String, ChainError> {
        self.single()?;
        let key = |key| self.value(key).map_or("null", |place| place.text);
        let ours = indented(&serde_json::to_string_pretty(&entry.wrapping(file))?, "    ");
        Ok(format!(
            "{{\n  \"cniVersion\": {},\n  \"name\": {},\n  \"plugins\": [\n    {},\n    {ours}\n  ]\n}}\n",
            key("cniVersion"),
            key("name"),
            self.text.trim(),
        ))
    }

    /// Whether a runtime would take it for a single plugin.
    fn single(&self) -> Result<(), ChainError> {
        if self.string("type").is_none_or(|kind| kind.is_empty()) {
            return Err(ChainError::Form(
                "it has no type: a chain of plugins belongs into a .conflist",
            ));
        }
        if self.plugins.is_some() {
            return Err(ChainError::Form("it has a type and plugins: it can be only one of both"));
        }
        // A single plugin has no list of versions (specification 1.1.0, section 1).
        let version = self.string("cniVersion").unwrap_or_default();
        if Version::parse(&version).is_none_or(|version| version < Version::CHAINS) {
            return Err(ChainError::Version(version));
        }
        self.usable()
    }

    fn appended(&self, entry: &Entry) -> Result<String, ChainError> {
        let plugins = self.plugins()?;
        let last = plugins.len() - 1;
        let end = plugins[last].place.range.end;
        let text = format!(",{}{}", self.space_before(last), self.laid_out(entry, last)?);
        Ok(self.spliced(end..end, &text))
    }

    /// The space in front of a plugin, as its author likes it.
    fn space_before(&self, at: usize) -> &'a str {
        let Some(plugin) = self.plugins.as_ref().and_then(|plugins| plugins.get(at)) else {
            return "";
        };
        let before = &self.text[..plugin.place.range.start];
        &before[before.trim_end().len()..]
    }

    /// The text of an entry, on lines if the plugin at this place is on a line of its own.
    fn laid_out(&self, entry: &Entry, at: usize) -> Result<String, ChainError> {
        Ok(match self.space_before(at).rsplit_once('\n') {
            None => serde_json::to_string(entry)?,
            Some((_, indent)) => indented(&serde_json::to_string_pretty(entry)?, indent),
        })
    }

    fn spliced(&self, range: std::ops::Range<usize>, text: &str) -> String {
        [&self.text[..range.start], text, &self.text[range.end..]].concat()
    }
}

impl<'a> Plugin<'a> {
    fn read(place: Place<'a>) -> Result<Self, ChainError> {
        let fields = fields(place.text)?;
        let kind = last(&fields, "type").and_then(string);
        let ours = kind.as_deref() == Some(TYPE);
        let wrapped = last(&fields, "wrapped").filter(|_| ours).and_then(string);
        // It becomes a file's name.
        let wrapped = wrapped.filter(|name| !name.is_empty() && !name.contains('/'));
        Ok(Self { place, kind, wrapped })
    }

    fn is_ours(&self) -> bool {
        self.kind.as_deref() == Some(TYPE)
    }
}

fn last<'f, 'a>(fields: &'f [(String, Place<'a>)], key: &str) -> Option<&'f Place<'a>> {
    fields.iter().rev().find(|(name, _)| name == key).map(|(_, place)| place)
}

fn indented(text: &str, indent: &str) -> String {
    text.replace('\n', &format!("\n{indent}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_entry() -> Entry {
        Entry::new("/run/a.sock".into(), "5s".to_owned(), Otherwise::Fail, true)
    }

    fn with(text: &str) -> Result<Option<String>, ChainError> {
        Chain::read(text)?.with(&mk_entry())
    }

    fn without(text: &str) -> Option<String> {
        Chain::read(text).unwrap().without().unwrap()
    }

    fn types(text: &str) -> Vec<String> {
        let value: Value = serde_json::from_str(text).unwrap();
        let plugins = value["plugins"].as_array().unwrap().iter();
        plugins.map(|plugin| plugin["type"].as_str().unwrap().to_owned()).collect()
    }

    const LINES: &str = "{\n\t\"name\": \"cbr0\",\n\t\"x\": 1.50,\n\t\"cniVersion\": \"0.3.1\",\n\
                         \t\"plugins\": [\n\t\t{\n\t\t\t\"type\": \"flannel\"\n\t\t},\n\
                         \t\t{ \"type\": \"portmap\", \"n\": 1e2 }\n\t]\n}\n";
    const SHORT: &str =
        "{\"plugins\":[{\"type\":\"ptp\"}],\"name\":\"n\",\"cniVersion\":\"1.0.0\"}";

    #[test]
    fn an_entry_is_appended_and_all_else_stays_as_it_was_written() {
        for text in [LINES, SHORT] {
            let patched = with(text).unwrap().unwrap();
            assert_eq!(types(&patched).last().unwrap(), TYPE);
            assert_eq!(with(&patched).unwrap(), None, "once is enough");
            assert_eq!(without(&patched).as_deref(), Some(text), "and all is as before");
        }
        let patched = with(LINES).unwrap().unwrap();
        assert!(patched.contains("\n\t\t{\n\t\t  \"type\": \"podwall-cni\",\n\t\t  \"socket\""));
        assert!(with(SHORT).unwrap().unwrap().contains("},{\"type\":\"podwall-cni\",\"socket\""));
    }

    #[test]
    fn changed_settings_change_the_entry_where_it_stands() {
        let patched = with(LINES).unwrap().unwrap();
        let behind = patched.replace("\n\t]", ",\n\t\t{\"type\":\"istio-cni\"}\n\t]");
        assert_eq!(with(&behind).unwrap(), None, "one behind ours is left there");
        let mut entry = mk_entry();
        entry.timeout = "9s".to_owned();
        let changed = Chain::read(&behind).unwrap().with(&entry).unwrap().unwrap();
        assert_eq!(changed, behind.replace("\"5s\"", "\"9s\""));
        assert_eq!(types(&without(&changed).unwrap()), ["flannel", "portmap", "istio-cni"]);
    }

    #[test]
    fn an_entry_that_is_first_or_there_twice_is_put_right() {
        for list in [
            "{\"type\":\"podwall-cni\"},{\"type\":\"ptp\"}",
            "{\"type\":\"ptp\"},{\"type\":\"podwall-cni\"},{\"type\":\"podwall-cni\"}",
            "{\"type\":\"podwall-cni\"} , {\"type\":\"podwall-cni\"},{\"type\":\"ptp\"}",
        ] {
            let text = SHORT.replace("{\"type\":\"ptp\"}", list);
            assert_eq!(types(&with(&text).unwrap().unwrap()), ["ptp", TYPE], "{list}");
        }
        let alone = SHORT.replace("ptp", TYPE);
        assert!(matches!(with(&alone), Err(ChainError::Alone)));
    }

    #[test]
    fn what_no_runtime_could_chain_is_refused_with_a_reason() {
        for (text, reason) in [
            ("{", "no JSON"),
            ("[]", "no JSON"),
            ("{\"plugins\":1}", "no JSON"),
            ("{\"name\":\"a\",\"cniVersion\":\"1.0.0\"}", "no plugins"),
            ("{\"name\":\"a\",\"cniVersion\":\"1.0.0\",\"plugins\":[]}", "no plugins"),
            ("{\"cniVersion\":\"1.0.0\",\"plugins\":[{\"type\":\"a\"}]}", "no name"),
            ("{\"name\":\"a\",\"plugins\":[{\"type\":\"a\"}]}", "cniVersion is \"\""),
            ("{\"name\":\"a\",\"cniVersion\":\"0.2.0\",\"plugins\":[{\"type\":\"a\"}]}", "0.2.0"),
        ] {
            let error = with(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
        let list = SHORT.replace("\"1.0.0\"", "\"0.1.0\",\"cniVersions\":[\"0.3.1\",\"1.0.0\"]");
        assert!(with(&list).unwrap().is_some(), "one of the list is enough");
    }

    const SINGLE: &str = "{ \"cniVersion\": \"0.3.1\",\n  \"name\": \"n\", \"type\": \"bridge\",\n  \
                          \"ipam\": {\"x\": 1.0} }\n";

    #[test]
    fn a_single_plugin_is_wrapped_and_unwrapped_as_it_was_written() {
        let single = Chain::read(SINGLE).unwrap();
        let text = single.wrapped("10-n.conf", &mk_entry()).unwrap();
        assert_eq!(types(&text), ["bridge", TYPE]);
        let chain = Chain::read(&text).unwrap();
        assert_eq!(chain.wraps(), Some(("10-n.conf".to_owned(), SINGLE.trim())));
        assert_eq!(chain.with(&mk_entry()).unwrap(), None, "it stays known what it wraps");
        let more = text.replace("\"name\"", "\"disableCheck\": true,\n  \"name\"");
        assert_eq!(Chain::read(&more).unwrap().wraps(), None, "somebody else's change");
    }

    #[test]
    fn on_its_way_a_file_can_be_read_as_either() {
        let single = Chain::read(SINGLE).unwrap();
        for entry in [Some(mk_entry()), None] {
            let text = single.hybrid("10-n.conf", entry.as_ref()).unwrap();
            let value: Value = serde_json::from_str(&text).unwrap();
            assert_eq!((&value["type"], &value["ipam"]["x"]), (&"bridge".into(), &1.0.into()));
            assert_eq!(types(&text)[0], "bridge");
            assert_eq!(types(&text).len(), if entry.is_some() { 2 } else { 1 });
            let chain = Chain::read(&text).unwrap();
            assert_eq!(chain.on_its_way(), Some(("10-n.conf".to_owned(), SINGLE.to_owned())));
        }
        assert_eq!(single.on_its_way(), None);
    }

    #[test]
    fn what_is_no_single_plugin_is_not_wrapped() {
        for text in [SHORT, &SHORT.replace("\"name\"", "\"type\":\"a\",\"name\"")] {
            let chain = Chain::read(text).unwrap();
            assert!(chain.wrapped("a.conf", &mk_entry()).is_err());
            assert!(chain.hybrid("a.conf", None).is_err());
        }
        let old = SINGLE.replace("0.3.1", "0.2.0");
        assert!(Chain::read(&old).unwrap().wrapped("a.conf", &mk_entry()).is_err());
    }
}
