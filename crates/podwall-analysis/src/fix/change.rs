//! What is changed, in the cluster and in the text?
//!
//! ```text
//!   Change ──put_into──▶ Cluster      what the engine is asked with
//!      └────edits──────▶ object at file:line, ways to write it, the nicest first
//! ```

use std::fmt;
use std::sync::Arc;

use podwall_manifest::{Edit, write};
use podwall_policy::cluster::Cluster;
use podwall_policy::object::{Name, Pod};
use podwall_policy::policy::{Direction, Peer, Policy, Rule, Tier};
use podwall_policy::port::PortSpec;
use podwall_policy::source::{FieldPath, Source};

/// One change of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A port more for a rule.
    AddPort {
        /// Which rule.
        rule: RuleAt,
        /// The port.
        port: PortSpec,
    },
    /// A peer more for a rule.
    AddPeer {
        /// Which rule.
        rule: RuleAt,
        /// The peer.
        peer: Peer,
    },
    /// A rule more, at the end.
    AddRule {
        /// The policy.
        policy: Name,
        /// The list.
        direction: Direction,
        /// The rule.
        rule: Rule,
    },
    /// A peer is written otherwise.
    ReplacePeer {
        /// Which rule.
        rule: RuleAt,
        /// Its place among the rule's peers, from 0.
        index: usize,
        /// The new one.
        peer: Peer,
    },
    /// A rule for anybody gets peers, of which there are some.
    SetPeers {
        /// Which rule.
        rule: RuleAt,
        /// The peers.
        peers: Vec<Peer>,
    },
    /// A peer less; never the last one, since a rule without peers allows anybody.
    RemovePeer {
        /// Which rule.
        rule: RuleAt,
        /// Its place among the rule's peers, from 0.
        index: usize,
    },
    /// A port less; never the last one.
    RemovePort {
        /// Which rule.
        rule: RuleAt,
        /// Its place among the rule's ports, from 0.
        index: usize,
    },
    /// A rule less.
    RemoveRule {
        /// Which.
        rule: RuleAt,
    },
    /// A NetworkPolicy more.
    AddPolicy {
        /// The policy.
        policy: Box<Policy>,
        /// An object in whose file it may stand.
        beside: Option<Source>,
    },
    /// A label more for pods.
    LabelPods {
        /// The pods, never empty.
        pods: Vec<Name>,
        /// Who makes them, as `KIND/NAME`, if somebody does.
        owner: Option<String>,
        /// The key.
        key: Arc<str>,
        /// The value.
        value: Arc<str>,
    },
    /// A label more for a namespace.
    LabelNamespace {
        /// The namespace.
        namespace: Arc<str>,
        /// The key.
        key: Arc<str>,
        /// The value.
        value: Arc<str>,
    },
}

/// A rule of a NetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleAt {
    /// The policy.
    pub policy: Name,
    /// The list.
    pub direction: Direction,
    /// Its place in the list, from 0.
    pub index: usize,
}

impl RuleAt {
    fn path(&self) -> FieldPath {
        FieldPath::keys("spec").key(&self.direction.to_string()).item(self.index)
    }

    fn peers(&self) -> FieldPath {
        self.path().key(if self.direction == Direction::Ingress { "from" } else { "to" })
    }
}

/// Where a change is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The start of the object; for a new one that of an object in whose file it may stand.
    pub object: Option<Source>,
    /// Ways to write it, the nicest first; each is tried until one fits the style of the text.
    pub ways: Vec<Vec<Edit>>,
    /// A document more at the end of the file.
    pub document: Option<String>,
}

impl Change {
    /// The policy that gets something more, for all pods that it selects.
    pub fn policy(&self) -> Option<&Name> {
        match self {
            Self::AddPort { rule, .. } | Self::AddPeer { rule, .. } => Some(&rule.policy),
            Self::AddRule { policy, .. } => Some(policy),
            _ => None,
        }
    }

    /// Makes the change; `None` if the object is not there.
    #[must_use]
    pub fn put_into(&self, cluster: &mut Cluster) -> Option<()> {
        match self {
            Self::AddPort { rule, port } => rule_of(cluster, rule)?.ports.push(port.clone()),
            Self::AddPeer { rule, peer } => rule_of(cluster, rule)?.peers.push(peer.clone()),
            Self::AddRule { policy, direction, rule } => {
                rules_of(cluster, policy, *direction)?.push(rule.clone());
            }
            Self::ReplacePeer { rule, index, peer } => {
                *rule_of(cluster, rule)?.peers.get_mut(*index)? = peer.clone();
            }
            Self::SetPeers { rule, peers } => {
                let rule = rule_of(cluster, rule).filter(|rule| rule.peers.is_empty())?;
                rule.peers.clone_from(peers);
            }
            Self::RemovePeer { rule, index } => {
                let peers = &mut rule_of(cluster, rule)?.peers;
                (peers.len() > 1 && *index < peers.len()).then(|| peers.remove(*index))?;
            }
            Self::RemovePort { rule, index } => {
                let ports = &mut rule_of(cluster, rule)?.ports;
                (ports.len() > 1 && *index < ports.len()).then(|| ports.remove(*index))?;
            }
            Self::RemoveRule { rule } => {
                let rules = rules_of(cluster, &rule.policy, rule.direction)?;
                (rule.index < rules.len()).then(|| rules.remove(rule.index))?;
            }
            Self::AddPolicy { policy, .. } => cluster.put_policy((**policy).clone()),
            Self::LabelPods { pods, key, value, .. } => {
                for name in pods {
                    let pod = cluster.pods.get_mut(name)?;
                    pod.labels = pod.labels.with(key, value);
                }
            }
            Self::LabelNamespace { namespace, key, value } => {
                let namespace = cluster.namespaces.get_mut(namespace)?;
                namespace.labels = namespace.labels.with(key, value);
            }
        }
        Some(())
    }

    /// How the change is written in the objects' texts.
    pub fn written(&self, cluster: &Cluster) -> Written {
        let of_policy = |name: &Name| {
            let key = (Tier::NetworkPolicy, name.clone());
            cluster.policies.get(&key).and_then(|policy| policy.source.clone())
        };
        let written = |object, ways| Written { object, ways, document: None };
        let append = |list: FieldPath, item: &write::Tree| {
            vec![
                vec![Edit::Append(list.clone(), item.block())],
                vec![Edit::Append(list, vec![item.flow()])],
            ]
        };
        match self {
            Self::AddPort { rule, port } => written(
                of_policy(&rule.policy),
                append(rule.path().key("ports"), &write::port(port)),
            ),
            Self::AddPeer { rule, peer } => {
                written(of_policy(&rule.policy), append(rule.peers(), &write::peer(peer)))
            }
            Self::AddRule { policy, direction, rule } => {
                let rule = write::rule(rule, *direction);
                let spec = FieldPath::keys("spec");
                let key = direction.to_string();
                let mut ways = append(spec.key(&key), &rule);
                // Where policyTypes alone names the direction.
                let field = write::Tree::Map(vec![(key, write::Tree::List(vec![rule]))]);
                ways.push(vec![Edit::Field(spec, field.block())]);
                written(of_policy(policy), ways)
            }
            Self::ReplacePeer { rule, index, peer } => {
                let (item, peer) = (rule.peers().item(*index), write::peer(peer));
                let ways = [peer.block(), vec![peer.flow()]];
                let ways = ways.map(|lines| vec![Edit::Replace(item.clone(), lines)]);
                written(of_policy(&rule.policy), ways.to_vec())
            }
            Self::SetPeers { rule, peers } => {
                let list = write::Tree::List(peers.iter().map(write::peer).collect());
                let key = if rule.direction == Direction::Ingress { "from" } else { "to" };
                let flow = vec![format!("{key}: {}", list.flow())];
                let block = write::Tree::Map(vec![(key.to_owned(), list)]).block();
                let ways = [block, flow].map(|lines| vec![Edit::Field(rule.path(), lines)]);
                written(of_policy(&rule.policy), ways.to_vec())
            }
            Self::RemovePeer { rule, index } => {
                let item = rule.peers().item(*index);
                written(of_policy(&rule.policy), vec![vec![Edit::Remove(item)]])
            }
            Self::RemovePort { rule, index } => {
                let item = rule.path().key("ports").item(*index);
                written(of_policy(&rule.policy), vec![vec![Edit::Remove(item)]])
            }
            Self::RemoveRule { rule } => {
                written(of_policy(&rule.policy), vec![vec![Edit::Remove(rule.path())]])
            }
            Self::AddPolicy { policy, beside } => Written {
                object: beside.clone(),
                ways: Vec::new(),
                document: Some(write::policy(policy)),
            },
            Self::LabelPods { pods, key, value, .. } => {
                let pod = pods.first().and_then(|name| cluster.pods.get(name));
                let (object, labels) =
                    pod.map_or((None, Vec::new()), |pod| labels_of(cluster, pod));
                written(object, label(&labels, key, value))
            }
            Self::LabelNamespace { namespace, key, value } => {
                let object = cluster.namespaces.get(namespace).and_then(|its| its.source.clone());
                written(object, label(&[FieldPath::keys("metadata")], key, value))
            }
        }
    }
}

/// The ways to add a label to the object whose `metadata` is there.
fn label(metadata: &[FieldPath], key: &str, value: &str) -> Vec<Vec<Edit>> {
    let label = format!("{}: {}", write::scalar(key), write::scalar(value));
    let with_labels =
        metadata.iter().map(|its| vec![Edit::Field(its.key("labels"), vec![label.clone()])]);
    let first = metadata.iter().flat_map(|its| {
        let block = vec!["labels:".to_owned(), format!("  {label}")];
        let flow = vec![format!("labels: {{{label}}}")];
        [vec![Edit::Field(its.clone(), block)], vec![Edit::Field(its.clone(), flow)]]
    });
    with_labels.chain(first).collect()
}

/// The object that gives a pod its labels, and where they may stand in it.
fn labels_of(cluster: &Cluster, pod: &Pod) -> (Option<Source>, Vec<FieldPath>) {
    let own = FieldPath::keys("metadata");
    let Some(owner) = &pod.owner else { return (pod.source.clone(), vec![own]) };
    let workload = cluster.workloads.values().find(|workload| {
        workload.name.namespace == pod.name.namespace
            && workload.name.name == owner.name
            && workload.kind == owner.kind
    });
    let path = if &*owner.kind == "CronJob" {
        "spec.jobTemplate.spec.template.metadata"
    } else {
        "spec.template.metadata"
    };
    (workload.and_then(|its| its.source.clone()), vec![FieldPath::keys(path)])
}

fn rules_of<'c>(
    cluster: &'c mut Cluster,
    policy: &Name,
    direction: Direction,
) -> Option<&'c mut Vec<Rule>> {
    cluster.policies.get_mut(&(Tier::NetworkPolicy, policy.clone()))?.rules_mut(direction).as_mut()
}

fn rule_of<'c>(cluster: &'c mut Cluster, at: &RuleAt) -> Option<&'c mut Rule> {
    rules_of(cluster, &at.policy, at.direction)?.get_mut(at.index)
}

impl fmt::Display for RuleAt {
    /// `egress rule 2 of shop/db`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} rule {} of {}", self.direction, self.index + 1, self.policy)
    }
}

impl fmt::Display for Change {
    /// An order, in one sentence: "add pods app=web in namespace shop to ingress rule 1 of shop/db".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddPort { rule, port } => write!(f, "add {port} to {rule}"),
            Self::AddPeer { rule, peer } => write!(f, "add {peer} to {rule}"),
            Self::AddRule { policy, direction, .. } => {
                write!(f, "add a rule to the {direction} of {policy}")
            }
            Self::ReplacePeer { rule, index, peer } => {
                write!(f, "make peer {} of {rule} {peer}", index + 1)
            }
            Self::SetPeers { rule, peers } => {
                let peers: Vec<String> = peers.iter().map(ToString::to_string).collect();
                write!(f, "limit {rule} to {}", peers.join(", "))
            }
            Self::RemovePeer { rule, index } => write!(f, "take peer {} out of {rule}", index + 1),
            Self::RemovePort { rule, index } => write!(f, "take port {} out of {rule}", index + 1),
            Self::RemoveRule { rule } => write!(f, "take out {rule}"),
            Self::AddPolicy { policy, .. } => write!(f, "add the policy {}", policy.name),
            Self::LabelPods { pods, owner, key, value } => match (owner, &pods[..]) {
                (Some(owner), [pod, ..]) => {
                    write!(f, "label the pods of {}/{owner} {key}={value}", pod.namespace)
                }
                (_, [pod]) => write!(f, "label pod {pod} {key}={value}"),
                (_, pods) => write!(f, "label {} pods {key}={value}", pods.len()),
            },
            Self::LabelNamespace { namespace, key, value } => {
                write!(f, "label namespace {namespace} {key}={value}")
            }
        }
    }
}
