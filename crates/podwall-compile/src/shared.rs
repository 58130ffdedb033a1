//! What do many pods have in common?
//!
//! ```text
//!   pod web-1 ─▶ "shop" ◀─ pod web-2        one name of a namespace
//!        └────▶ {app=web} ◀────┘            one set of labels for all replicas
//! ```
//!
//! Each object that comes from outside brings its own copies. Of equal ones the first is kept.

use std::sync::Arc;

use podwall_policy::label::Labels;
use rustc_hash::FxHashSet;

use crate::world::KnownPod;

/// Below so many a look for those that nobody uses is not worth it.
const FEW: usize = 1024;

/// The names and labels that pods share. Owned by the compiler.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    namespaces: FxHashSet<Arc<str>>,
    labels: FxHashSet<Labels>,
    /// How many there were when those that nobody used went.
    swept: usize,
}

impl Shared {
    /// The pod, with what others have, too, in place of its own.
    pub(crate) fn pod(&mut self, mut pod: KnownPod) -> KnownPod {
        match self.namespaces.get(&pod.name.namespace) {
            Some(name) => pod.name.namespace = name.clone(),
            None => drop(self.namespaces.insert(pod.name.namespace.clone())),
        }
        match self.labels.get(&pod.labels) {
            Some(labels) => pod.labels = labels.clone(),
            None => drop(self.labels.insert(pod.labels.clone())),
        }
        pod
    }

    /// Ends a commit: forgets what no pod has any more, now and then.
    pub(crate) fn settle(&mut self) {
        if self.len() > 2 * self.swept + FEW {
            self.namespaces.retain(|name| Arc::strong_count(name) > 1);
            self.labels.retain(Labels::is_shared);
            self.swept = self.len();
        }
    }

    fn len(&self) -> usize {
        self.namespaces.len() + self.labels.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use podwall_policy::object::Pod;

    fn pod(shared: &mut Shared, namespace: &str, label: &str) -> KnownPod {
        let labels = [("app", label)].into_iter().collect();
        let pod = Pod::new(namespace, "p", labels);
        shared.pod(KnownPod::of(&pod, None).unwrap())
    }

    #[test]
    fn equal_labels_of_two_pods_are_one() {
        let mut shared = Shared::default();
        let (a, b) = (pod(&mut shared, "shop", "web"), pod(&mut shared, "shop", "web"));
        assert!(Arc::ptr_eq(&a.name.namespace, &b.name.namespace));
        assert_eq!((a.labels, shared.len()), (b.labels, 2));
    }

    #[test]
    fn what_nobody_has_any_more_goes() {
        let mut shared = Shared::default();
        let stays = pod(&mut shared, "shop", "web");
        for n in 0..3 * FEW {
            drop(pod(&mut shared, "shop", &n.to_string()));
            shared.settle();
        }
        assert!(shared.len() <= FEW + 6, "{}", shared.len());
        assert!(shared.labels.contains(&stays.labels));
    }
}
