//! Which ports does a rule name, whoever the destination is?
//!
//! ```text
//!   ports: [80, 8000-8999, UDP http]  ──▶  numbers {TCP 80,8000-8999}, names {UDP http}
//! ```
//!
//! A name stays a name: what number it stands for is the destination's matter.

use std::collections::BTreeSet;
use std::sync::Arc;

use podwall_policy::policy::Rule;
use podwall_policy::port::{PortMatch, PortRange, PortSet, Protocol};

/// Ports as rules name them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Ports {
    pub(crate) numbers: PortSet,
    pub(crate) names: BTreeSet<(Protocol, Arc<str>)>,
}

impl Ports {
    /// The ports of a rule; without any it is about all.
    pub(crate) fn of(rule: &Rule) -> Self {
        if rule.ports.is_empty() {
            return Self { numbers: PortSet::everything(), names: BTreeSet::new() };
        }
        let mut ports = Self::default();
        for spec in &rule.ports {
            let range = match &spec.port {
                PortMatch::Any => PortRange::ALL,
                PortMatch::Range(range) => *range,
                PortMatch::Named(name) => {
                    ports.names.insert((spec.protocol, name.clone()));
                    continue;
                }
            };
            ports.numbers = ports.numbers.union(&PortSet::range(spec.protocol, range));
        }
        ports
    }
}
