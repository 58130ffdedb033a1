//! What do several verdicts come to?
//!
//! ```text
//!   worst   denied > unknown > allowed    pods of a workload, backends, address families
//!   best    allowed > unknown > denied    ports, addresses of the internet
//! ```

use podwall_policy::evaluate::Verdict;

/// Allowed only where all are; denied where any is. Unknown where there is none.
pub fn worst(verdicts: impl IntoIterator<Item = Verdict>) -> Verdict {
    let order = |verdict: &Verdict| match verdict {
        Verdict::Allowed => 0,
        Verdict::Unknown => 1,
        Verdict::Denied => 2,
    };
    verdicts.into_iter().max_by_key(order).unwrap_or(Verdict::Unknown)
}

/// Allowed where any is; denied only where all are. Unknown where there is none.
pub fn best(verdicts: impl IntoIterator<Item = Verdict>) -> Verdict {
    let order = |verdict: &Verdict| match verdict {
        Verdict::Denied => 0,
        Verdict::Unknown => 1,
        Verdict::Allowed => 2,
    };
    verdicts.into_iter().max_by_key(order).unwrap_or(Verdict::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Verdict::{Allowed, Denied, Unknown};

    #[test]
    fn one_denial_spoils_the_worst_and_one_pass_makes_the_best() {
        assert_eq!(worst([Allowed, Unknown, Denied]), Denied);
        assert_eq!(worst([Allowed, Unknown]), Unknown);
        assert_eq!(worst([Allowed, Allowed]), Allowed);
        assert_eq!(best([Denied, Unknown, Allowed]), Allowed);
        assert_eq!(best([Denied, Unknown]), Unknown);
        assert_eq!(best([Denied, Denied]), Denied);
        assert_eq!((worst([]), best([])), (Unknown, Unknown));
    }
}
