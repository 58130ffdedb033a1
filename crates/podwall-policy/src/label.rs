//! Which labels does an object carry?
//!
//! A pod template gives every replica the same labels, so a set of labels is shared and never
//! changed in place; a relabelled object gets a new set.

use std::fmt;
use std::sync::Arc;

/// The label that the API server sets on every namespace, with the namespace's name as its value
/// (KEP-2161, Kubernetes 1.21).
pub const METADATA_NAME: &str = "kubernetes.io/metadata.name";

/// The labels of one object: sorted by key, each key once, cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Labels(Arc<[(Arc<str>, Arc<str>)]>);

impl Labels {
    /// The value of `key`, if the object carries it.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.binary_search_by(|(k, _)| (**k).cmp(key)).ok().map(|i| &*self.0[i].1)
    }

    /// All pairs, sorted by key.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (&**k, &**v))
    }

    /// Whether the object carries no label.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this very set is held more than once: some other object has it from here.
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// The same labels with `key` set to `value`.
    #[must_use]
    pub fn with(&self, key: &str, value: &str) -> Self {
        self.iter().filter(|(k, _)| *k != key).chain([(key, value)]).collect()
    }

    /// The same labels without `key`.
    #[must_use]
    pub fn without(&self, key: &str) -> Self {
        self.iter().filter(|(k, _)| *k != key).collect()
    }
}

impl<K: Into<Arc<str>>, V: Into<Arc<str>>> FromIterator<(K, V)> for Labels {
    /// Of pairs with the same key the last wins, as in a YAML mapping read by the API server.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let map: std::collections::BTreeMap<Arc<str>, Arc<str>> =
            pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        Self(map.into_iter().collect())
    }
}

impl fmt::Display for Labels {
    /// `app=web,tier=front`, as kubectl prints them; `<none>` where there is none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("<none>");
        }
        for (i, (key, value)) in self.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{key}={value}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_sorted_and_the_last_of_two_equal_keys_wins() {
        let labels: Labels = [("b", "2"), ("a", "1"), ("b", "3")].into_iter().collect();
        assert_eq!(labels.to_string(), "a=1,b=3");
        assert_eq!(labels.get("b"), Some("3"));
        assert_eq!(labels.get("c"), None);
        assert_eq!(labels.with("a", "9").to_string(), "a=9,b=3");
        assert_eq!(labels.without("a").to_string(), "b=3");
        assert_eq!(Labels::default().to_string(), "<none>");
        assert!(!labels.is_shared());
        let again = labels.clone();
        assert!(labels.is_shared() && again.is_shared());
    }
}
