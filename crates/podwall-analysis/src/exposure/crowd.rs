//! Which pods are meant, those included that do not exist?
//!
//! ```text
//!   scope    pods role=monitoring in all namespaces        what a selector demands
//!   also     … that pods env=prod in namespace a is, too   only where tiers tell them apart
//!   except   … but not pods quarantined=yes
//! ```

use std::fmt;
use std::sync::Arc;

use podwall_policy::label::METADATA_NAME;
use podwall_policy::object::{Namespace, Pod};
use podwall_policy::policy::{NamespaceScope, PodScope};
use podwall_policy::selector::{Operator, Selector};

use crate::lint::within;

/// Pods by what they would have to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Crowd {
    /// The weakest labels that are demanded.
    pub scope: PodScope,
    /// What they have to be besides. Only rules that deny or pass tell them apart by it.
    pub also: Vec<PodScope>,
    /// What they must not be, for the same reason.
    pub except: Vec<PodScope>,
}

impl Crowd {
    /// Every pod of every namespace.
    pub fn everybody() -> Self {
        let namespaces = NamespaceScope::Matching(Selector::everything());
        Self::of(PodScope { namespaces, pods: Selector::everything() })
    }

    /// The pods of a scope.
    pub fn of(scope: PodScope) -> Self {
        Self { scope, also: Vec::new(), except: Vec::new() }
    }

    /// Whether a pod is one of them, if its namespace has these labels.
    pub fn contains(&self, namespace: &Namespace, pod: &Pod) -> bool {
        meets(&self.scope, namespace, pod)
            && self.also.iter().all(|scope| meets(scope, namespace, pod))
            && !self.except.iter().any(|scope| meets(scope, namespace, pod))
    }

    /// Whether all these pods are some of the others, whatever pods there are. Sound, not complete.
    pub(super) fn is_within(&self, other: &Self) -> bool {
        within(&self.scope, &other.scope)
            && other.also.iter().all(|wide| {
                within(&self.scope, wide) || self.also.iter().any(|narrow| within(narrow, wide))
            })
            && other.except.iter().all(|wide| self.except.iter().any(|narrow| within(wide, narrow)))
    }

    /// The namespace that all of them are in, if the scope names one.
    pub fn namespace(&self) -> Option<&Arc<str>> {
        match &self.scope.namespaces {
            NamespaceScope::Own(name) => Some(name),
            NamespaceScope::Matching(selector) => {
                selector.requirements.iter().find_map(|wants| match &wants.operator {
                    Operator::Equals(name) if *wants.key == *METADATA_NAME => Some(name),
                    Operator::In(names) if *wants.key == *METADATA_NAME && names.len() == 1 => {
                        names.first()
                    }
                    _ => None,
                })
            }
        }
    }

    /// Whether a namespace that nobody has labelled is among theirs.
    pub fn in_any_namespace(&self) -> bool {
        match &self.scope.namespaces {
            NamespaceScope::Own(_) => false,
            NamespaceScope::Matching(selector) => selector
                .requirements
                .iter()
                .all(|wants| matches!(wants.operator, Operator::NotIn(_) | Operator::DoesNotExist)),
        }
    }
}

impl fmt::Display for Crowd {
    /// `pods role=monitoring in all namespaces, but not pods env=dev in all namespaces`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.scope)?;
        for scope in &self.also {
            write!(f, ", if among {scope}")?;
        }
        for scope in &self.except {
            write!(f, ", but not {scope}")?;
        }
        Ok(())
    }
}

/// Whether a scope takes a pod.
pub(super) fn meets(scope: &PodScope, namespace: &Namespace, pod: &Pod) -> bool {
    let in_namespace = match &scope.namespaces {
        NamespaceScope::Own(own) => *own == pod.name.namespace,
        NamespaceScope::Matching(selector) => selector.matches(&namespace.labels),
    };
    in_namespace && scope.pods.matches(&pod.labels)
}

/// Whether every pod of `a` is one of `b`, whatever labels namespaces have.
fn within(a: &PodScope, b: &PodScope) -> bool {
    use NamespaceScope::{Matching, Own};
    let namespaces = match (&a.namespaces, &b.namespaces) {
        (Own(x), Own(y)) => x == y,
        (Matching(x), Matching(y)) => within::selector(x, y),
        (Own(name), Matching(selector)) => {
            within::selector(&Selector::labels([(METADATA_NAME, name.clone())]), selector)
        }
        (Matching(_), Own(name)) => {
            Crowd::of(a.clone()).namespace().is_some_and(|only| only == name)
        }
    };
    namespaces && within::selector(&a.pods, &b.pods)
}
