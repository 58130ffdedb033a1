//! Which labels tell these pods from all others of their namespace?
//!
//! ```text
//!   labels of all its pods ─ those that change with each roll-out ─▶ its selector's, if they do
//!                                                                  └▶ else the fewest that do
//! ```

use podwall_policy::label::Labels;

use crate::identity::{is_made_up, is_of_a_run, naming, with_name};

/// More labels than these are not tried in all combinations.
const COMBINED: usize = 3;

/// The labels by which a policy can know some pods.
pub(super) struct Identity {
    pub(super) labels: Labels,
    /// Whether they select no others.
    pub(super) exact: bool,
}

/// Labels without those that come and go.
pub(super) fn lasting(labels: &Labels, of_cron_job: bool) -> Labels {
    let passing = |key: &str| is_made_up(key) || (of_cron_job && is_of_a_run(key));
    labels.iter().filter(|(key, _)| !passing(key)).collect()
}

/// The labels that all have.
pub(super) fn common<'l>(mut all: impl Iterator<Item = &'l Labels>) -> Labels {
    let Some(first) = all.next() else { return Labels::default() };
    all.fold(first.clone(), |common, labels| {
        common.iter().filter(|(key, value)| labels.get(key) == Some(value)).collect()
    })
}

/// Chooses labels out of `own` that none of `others` has; `selector` is the workload's own.
pub(super) fn choose(own: &Labels, selector: Option<&Labels>, others: &[&Labels]) -> Identity {
    let has = |labels: &Labels, wanted: &[(&str, &str)]| {
        wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
    };
    let exact = |wanted: &[(&str, &str)]| !others.iter().any(|labels| has(labels, wanted));
    let made = |wanted: &[(&str, &str)], exact| Identity {
        labels: wanted.iter().copied().collect(),
        exact,
    };
    let stated: Vec<(&str, &str)> = selector
        .into_iter()
        .flat_map(Labels::iter)
        .filter(|(key, value)| own.get(key) == Some(value))
        .collect();
    if !stated.is_empty() && exact(&stated) {
        return made(&stated, true);
    }
    let mut candidates: Vec<(&str, &str)> = own.iter().collect();
    candidates.sort_by_key(|(key, _)| (*key == "version", naming(key), key.len(), *key));
    for size in 1..=COMBINED.min(candidates.len()) {
        let mut picked = Vec::with_capacity(size);
        if pick(&candidates, size, &mut picked, &exact) {
            return made(&with_name(picked, &candidates), true);
        }
    }
    let all = exact(&candidates);
    made(&candidates, all)
}

/// The first combination of `size` labels that is exact, in the order of the candidates.
fn pick<'l>(
    candidates: &[(&'l str, &'l str)],
    size: usize,
    picked: &mut Vec<(&'l str, &'l str)>,
    exact: &impl Fn(&[(&str, &str)]) -> bool,
) -> bool {
    if size == 0 {
        return exact(picked);
    }
    for (i, candidate) in candidates.iter().enumerate() {
        picked.push(*candidate);
        if pick(&candidates[i + 1..], size - 1, picked, exact) {
            return true;
        }
        picked.pop();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> Labels {
        text.split(',').filter_map(|pair| pair.split_once('=')).collect()
    }

    fn chosen(own: &str, selector: Option<&str>, others: &[&str]) -> (String, bool) {
        let others: Vec<Labels> = others.iter().map(|text| labels(text)).collect();
        let others: Vec<&Labels> = others.iter().collect();
        let own = lasting(&labels(own), false);
        let found = choose(&own, selector.map(labels).as_ref(), &others);
        (found.labels.to_string(), found.exact)
    }

    #[test]
    fn the_fewest_labels_are_chosen_and_none_that_a_roll_out_changes() {
        let table = [
            ("app=web,pod-template-hash=1", None, &["app=db"][..], "app=web", true),
            ("app=shop,tier=web,team=x", None, &["app=shop,tier=db"], "tier=web", true),
            ("app=shop,tier=web", None, &["app=shop", "tier=web"], "app=shop,tier=web", true),
            ("app=web,x=1", Some("app=web,x=1"), &["app=db"], "app=web,x=1", true),
            (
                "app=web,version=2",
                Some("app=web"),
                &["app=web,version=1"],
                "app=web,version=2",
                true,
            ),
            ("app=web", None, &["app=web,x=1"], "app=web", false),
            ("pod-template-hash=1", None, &["app=db"], "<none>", false),
            ("app=web", None, &[], "app=web", true),
        ];
        for (own, selector, others, expected, exact) in table {
            assert_eq!(chosen(own, selector, others), (expected.to_owned(), exact), "{own}");
        }
    }

    #[test]
    fn what_differs_between_pods_is_not_common() {
        let (a, b) = (labels("app=web,x=1"), labels("app=web,x=2"));
        assert_eq!(common([&a, &b].into_iter()).to_string(), "app=web");
        assert_eq!(lasting(&labels("job-name=a-1,app=a"), true).to_string(), "app=a");
        assert_eq!(lasting(&labels("job-name=a-1,app=a"), false).to_string(), "app=a,job-name=a-1");
    }
}
