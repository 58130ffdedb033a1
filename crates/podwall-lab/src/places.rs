//! Where did an object stand when it was applied?
//!
//! A rule's line travels with the object: from the manifest through the lab's state to the answer
//! of `podwall can --lab`, also when the worker was restarted in between.

use std::sync::Arc;

use podwall_manifest::Typed;
use podwall_policy::policy::{Policy, Rule};
use podwall_policy::source::Source;
use serde::{Deserialize, Serialize};

/// File, line and column.
type At = Option<(Arc<str>, u32, u32)>;

/// The places of an object and of its rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Places {
    object: At,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ingress: Vec<At>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    egress: Vec<At>,
}

impl Places {
    /// Takes the places of an object.
    pub fn of(typed: &Typed) -> Self {
        let rules = |list: &Option<Vec<Rule>>| {
            list.iter().flatten().map(|rule| at(rule.source.as_ref())).collect()
        };
        match typed {
            Typed::Policy(policy) => Self {
                object: at(policy.source.as_ref()),
                ingress: rules(&policy.ingress),
                egress: rules(&policy.egress),
            },
            Typed::Namespace(o) => Self::object(o.source.as_ref()),
            Typed::Node(o) => Self::object(o.source.as_ref()),
            Typed::Pod(o) => Self::object(o.source.as_ref()),
            Typed::Service(o) => Self::object(o.source.as_ref()),
            Typed::Workload(o) => Self::object(o.source.as_ref()),
        }
    }

    /// Gives an object its places back.
    pub fn put(&self, typed: &mut Typed) {
        let source = source(&self.object);
        match typed {
            Typed::Policy(policy) => self.put_policy(policy),
            Typed::Namespace(o) => o.source = source,
            Typed::Node(o) => o.source = source,
            Typed::Pod(o) => o.source = source,
            Typed::Service(o) => o.source = source,
            Typed::Workload(o) => o.source = source,
        }
    }

    fn object(source: Option<&Source>) -> Self {
        Self { object: at(source), ..Self::default() }
    }

    fn put_policy(&self, policy: &mut Policy) {
        policy.source = source(&self.object);
        let put = |rules: &mut Option<Vec<Rule>>, places: &[At]| {
            for (rule, at) in rules.iter_mut().flatten().zip(places) {
                rule.source = source(at);
            }
        };
        put(&mut policy.ingress, &self.ingress);
        put(&mut policy.egress, &self.egress);
    }
}

fn at(source: Option<&Source>) -> At {
    source.map(|s| (s.file.clone(), s.line, s.column))
}

fn source(at: &At) -> Option<Source> {
    at.as_ref().map(|(file, line, column)| Source {
        file: file.clone(),
        line: *line,
        column: *column,
    })
}
