//! What is known of one kind, and what of it does the compiler not know yet?
//!
//! ```text
//!   watch ── Said ──▶ Known: keys │ what has changed, latest only │ a list that is coming in
//! ```
//!
//! Only the latest state of an object counts, so its result does not depend on how often it was
//! told, in which order, or what was missed. A list of all (a watch that starts anew) replaces what
//! was known: who is not in it is gone.

use rustc_hash::{FxHashMap, FxHashSet};

use crate::objects::{Read, Unusable, Watched};

/// What a watch says of its kind.
#[derive(Debug)]
pub(crate) enum Said<W: Watched> {
    /// A list of all objects begins.
    ListBegins,
    /// One of the list.
    Listed(W::Key, Read<W::Object>),
    /// The list is complete.
    ListEnds,
    /// An object came or changed.
    Put(W::Key, Read<W::Object>),
    /// An object is gone.
    Gone(W::Key),
}

/// What is known of one kind. Owned by the index.
pub(crate) struct Known<W: Watched> {
    /// All objects of which the compiler was told, or will be with the next batches.
    pub(crate) keys: FxHashSet<W::Key>,
    /// What the compiler is to be told; `None`: it is gone.
    pub(crate) pending: FxHashMap<W::Key, Option<W::Object>>,
    /// A list that is not complete.
    list: Option<List<W>>,
    /// Whether there was a complete list.
    pub(crate) synced: bool,
    /// What cannot be used, and why.
    pub(crate) unusable: FxHashMap<W::Key, Unusable>,
}

/// A list that is coming in.
struct List<W: Watched> {
    seen: FxHashSet<W::Key>,
    /// Objects that wait for its end, where they do.
    waiting: Vec<(W::Key, Read<W::Object>)>,
}

impl<W: Watched> Default for List<W> {
    fn default() -> Self {
        Self { seen: FxHashSet::default(), waiting: Vec::new() }
    }
}

// === impl Known ===

impl<W: Watched> Known<W> {
    pub(crate) fn new() -> Self {
        Self {
            keys: FxHashSet::default(),
            pending: FxHashMap::default(),
            list: None,
            synced: false,
            unusable: FxHashMap::default(),
        }
    }

    /// Takes note; `waits`: what a list holds counts only once it is complete.
    pub(crate) fn hear(&mut self, said: Said<W>, waits: bool) {
        match said {
            Said::ListBegins => self.list = Some(List::default()),
            Said::Listed(key, read) => match &mut self.list {
                Some(list) => {
                    list.seen.insert(key.clone());
                    if waits {
                        list.waiting.push((key, read));
                    } else {
                        self.put(key, read);
                    }
                }
                None => self.put(key, read),
            },
            Said::ListEnds => {
                let Some(List { seen, waiting }) = self.list.take() else { return };
                for (key, read) in waiting {
                    self.put(key, read);
                }
                let known = self.keys.iter().chain(self.unusable.keys());
                let gone: FxHashSet<W::Key> =
                    known.filter(|key| !seen.contains(key)).cloned().collect();
                for key in gone {
                    self.put(key, Read::nothing());
                }
                self.synced = true;
            }
            Said::Put(key, read) => self.put(key, read),
            Said::Gone(key) => self.put(key, Read::nothing()),
        }
    }

    fn put(&mut self, key: W::Key, Read { object, wrong }: Read<W::Object>) {
        let kind = W::KIND;
        match wrong {
            Some(wrong) => {
                if self.unusable.get(&key) != Some(&wrong) {
                    tracing::warn!(%kind, object = wrong.name, reason = wrong.reason, "unusable");
                    self.unusable.insert(key.clone(), wrong);
                }
            }
            None => {
                if let Some(wrong) = self.unusable.remove(&key) {
                    tracing::info!(%kind, object = wrong.name, "usable again, or gone");
                }
            }
        }
        let known = match &object {
            Some(_) => !self.keys.insert(key.clone()),
            None => self.keys.remove(&key),
        };
        if object.is_some() || known {
            self.pending.insert(key, object);
        }
    }
}
