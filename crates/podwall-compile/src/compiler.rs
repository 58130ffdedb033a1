//! How do changes of objects become changes of one node's tables?
//!
//! ```text
//!   put/remove ──▶ recorded ──commit──▶ world ─▶ policies ─▶ peer classes ─┐
//!                                                      └──▶ subject classes ┴─▶ rows ─▶ Delta
//! ```
//!
//! A commit recomputes what the recorded changes touch: the addresses of a changed pod, the classes
//! that a new selector cuts, the rows of both. It never walks the world, and the tables that come
//! out depend on the objects alone and not on their history, class numbers aside.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use podwall_policy::address::AddressSet;
use podwall_policy::cluster::{Cluster, Strangers};
use podwall_policy::object::{Name, Namespace, Pod};
use podwall_policy::policy::{Direction, Policy, Tier};
use rustc_hash::{FxHashMap, FxHashSet};

use crate::atoms::{AtomId, Atoms};
use crate::ids::Ids;
use crate::partition::Partition;
use crate::policies::PolicySlot;
use crate::rows::Rows;
use crate::scopes::ScopeIndex;
use crate::segments::Segments;
use crate::shared::Shared;
use crate::subjects::{PolicyTable, Program, SubjectKey};
use crate::tables::{Delta, GroupId, NetId, NodeTables, PeerId, PeerKey, SubjectId};
use crate::world::{KnownPod, NamespaceSlot, PodSlot, World};

/// What a peer class's addresses have in common: the atoms that they meet, sorted.
pub(crate) type Signature = Arc<[AtomId]>;

/// A member of a peer class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Member {
    /// An address of a pod.
    Address(IpAddr),
    /// The stretch of the address line that starts here, for all other addresses in it.
    Segment(IpAddr),
}

/// Compiles objects to one node's tables, change by change.
///
/// It holds what it must know of all pods, namespaces and policies (an agent needs no second copy),
/// the classes that follow, and the tables. One task owns it, records changes as they come, and
/// commits when it wants the kernel to follow; nothing is shared.
#[derive(Debug)]
pub struct NodeCompiler {
    pub(crate) node: Option<Arc<str>>,
    pub(crate) pending: Pending,
    pub(crate) shared: Shared,
    pub(crate) world: World,
    pub(crate) policies: PolicyTable,
    pub(crate) policy_slots: FxHashMap<(Tier, Name), PolicySlot>,
    pub(crate) policy_ids: Ids,
    /// Policies after which the others on their pods are read in order.
    pub(crate) going_before: FxHashSet<PolicySlot>,
    /// Policies by the pods that they select.
    pub(crate) subject_index: ScopeIndex<PolicySlot>,
    /// The policies that select a local pod, sorted.
    pub(crate) selected_by: FxHashMap<PodSlot, Vec<PolicySlot>>,
    pub(crate) atoms: Atoms,
    /// Whether any active policy asks for pods, so that the tables hold all pods' addresses.
    pub(crate) asks_for_pods: bool,
    /// The address line as narrow blocks cut it.
    pub(crate) segments: Segments,
    pub(crate) peers: Partition<Signature, Member>,
    /// Namespaces in which pods have addresses, by the broad scopes that they meet.
    pub(crate) groups: Partition<Signature, NamespaceSlot>,
    /// The address line as broad blocks cut it, and its stretches by their starts.
    pub(crate) net_segments: Segments,
    pub(crate) nets: Partition<Signature, IpAddr>,
    /// The classes that meet an atom.
    pub(crate) classes_of: FxHashMap<AtomId, FxHashSet<PeerKey>>,
    pub(crate) subjects: Partition<SubjectKey, (Direction, IpAddr)>,
    pub(crate) programs: FxHashMap<SubjectId, Program>,
    /// Whom this node isolates although no policy does.
    pub(crate) strangers: Strangers,
    pub(crate) rows: Rows,
    pub(crate) tables: NodeTables,
    pub(crate) work: Work,
}

/// Changes since the last commit; of several of one object the last counts.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    pub(crate) namespaces: BTreeMap<Arc<str>, Option<Namespace>>,
    /// Boxed, because the map moves its entries as it grows.
    pub(crate) pods: FxHashMap<Name, Option<Box<KnownPod>>>,
    pub(crate) policies: BTreeMap<(Tier, Name), Option<Policy>>,
    pub(crate) pod_ranges: Option<AddressSet>,
    pub(crate) released: Option<BTreeSet<IpAddr>>,
    pub(crate) nameless: Option<BTreeSet<IpAddr>>,
}

/// How large the tables are, and what the last commit did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Pods that can be peers, on all nodes.
    pub pods: usize,
    /// Policies that are known.
    pub policies: usize,
    /// Of these, those that decide something on this node.
    pub active_policies: usize,
    /// Distinct selectors, blocks and port numbers that active policies ask peers for.
    pub atoms: usize,
    /// Subject classes.
    pub subject_classes: usize,
    /// Peer classes, [`PeerId::OTHER`] not counted.
    pub peer_classes: usize,
    /// Groups of namespaces.
    pub groups: usize,
    /// Classes of ranges that large blocks make.
    pub nets: usize,
    /// Local addresses with a direction that is isolated.
    pub subjects: usize,
    /// Known addresses in the node's pod ranges with a direction that is open.
    pub open: usize,
    /// Addresses with a peer class.
    pub addresses: usize,
    /// Address ranges with a peer class or a net.
    pub ranges: usize,
    /// Verdicts.
    pub verdicts: usize,
    /// Rules that verdicts name.
    pub rules: usize,
    /// What the last commit did.
    pub last: Work,
}

/// The work of one commit, counted in objects. Tests hold it down; time would depend on the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Pods that changed, or whose namespace changed in a label that some selector asks for.
    pub pods: usize,
    /// Pods that a new selector was held against.
    pub pods_walked: usize,
    /// Addresses whose peer class was asked for anew.
    pub addresses: usize,
    /// Stretches of the address line that changed.
    pub segments: usize,
    /// Peer classes, groups and nets that came, went or changed their meaning.
    pub peer_classes: usize,
    /// Subject classes whose rules changed.
    pub subject_classes: usize,
    /// Policies that were read for that, once for each class.
    pub policies: usize,
    /// Rows that were computed.
    pub rows: usize,
}

impl NodeCompiler {
    /// A compiler for one node; `None` takes all pods as local, for tests and analysis.
    pub fn new(node: Option<Arc<str>>) -> Self {
        Self {
            node,
            pending: Pending::default(),
            shared: Shared::default(),
            world: World::new(),
            policies: FxHashMap::default(),
            policy_slots: FxHashMap::default(),
            policy_ids: Ids::from(0),
            going_before: FxHashSet::default(),
            subject_index: ScopeIndex::default(),
            selected_by: FxHashMap::default(),
            atoms: Atoms::new(),
            asks_for_pods: false,
            segments: Segments::default(),
            peers: Partition::new(PeerId::OTHER.0 + 1),
            groups: Partition::new(GroupId::NONE.0 + 1),
            net_segments: Segments::default(),
            nets: Partition::new(NetId::NONE.0 + 1),
            classes_of: FxHashMap::default(),
            subjects: Partition::new(SubjectId::CLOSED.0 + 1),
            programs: FxHashMap::default(),
            strangers: Strangers::default(),
            rows: Rows::new(),
            tables: NodeTables::default(),
            work: Work::default(),
        }
    }

    /// Records that a namespace is there, with these labels.
    pub fn put_namespace(&mut self, namespace: Namespace) {
        self.pending.namespaces.insert(namespace.name.clone(), Some(namespace));
    }

    /// Records that nobody states a namespace any more. Its pods stay until they are removed; it
    /// counts as one of which only `kubernetes.io/metadata.name` is known.
    pub fn remove_namespace(&mut self, name: &str) {
        self.pending.namespaces.insert(name.into(), None);
    }

    /// Records that a pod is there, on whatever node. Pods that are neither subject nor peer
    /// (hostNetwork, terminated) may be put; they count as removed.
    pub fn put_pod(&mut self, pod: &Pod) {
        let known = KnownPod::of(pod, self.node.as_deref()).map(|known| self.shared.pod(known));
        let name = known.as_ref().map_or(&pod.name, |known| &known.name).clone();
        self.pending.pods.insert(name, known.map(Box::new));
    }

    /// Records that a pod is gone.
    pub fn remove_pod(&mut self, name: &Name) {
        self.pending.pods.insert(name.clone(), None);
    }

    /// Records that a policy is there.
    pub fn put_policy(&mut self, policy: Policy) {
        self.pending.policies.insert((policy.tier, policy.name.clone()), Some(policy));
    }

    /// Records that a policy is gone.
    pub fn remove_policy(&mut self, tier: Tier, name: &Name) {
        self.pending.policies.insert((tier, name.clone()), None);
    }

    /// Records where this node's pods get their addresses from, mostly its `spec.podCIDRs`: from
    /// then on who has an address in there and is no pod that is known, on whatever node, is
    /// isolated in both directions. Empty, as in the beginning: nobody is.
    ///
    /// The node's own traffic is not touched, so addresses of its own may lie in there; those of
    /// other nodes should be released.
    pub fn set_pod_ranges(&mut self, ranges: AddressSet) {
        self.pending.pod_ranges = Some(ranges);
    }

    /// Records which addresses in the pod ranges are let go although no pod is known to have them.
    /// A pod that has one is judged by its policies all the same; but when it goes its address is
    /// open again, so that whoever measures the time should take an address back that a pod claims.
    pub fn set_released(&mut self, released: BTreeSet<IpAddr>) {
        self.pending.released = Some(released);
    }

    /// Records which addresses were given to pods of this node of which nothing else is known yet:
    /// they are isolated in both directions until a pod is known to have them, wherever they lie.
    pub fn set_nameless(&mut self, nameless: BTreeSet<IpAddr>) {
        self.pending.nameless = Some(nameless);
    }

    /// Records all objects of a cluster. Those that were recorded before and are not in it stay.
    pub fn put_cluster(&mut self, cluster: &Cluster) {
        for namespace in cluster.namespaces.values() {
            self.put_namespace(namespace.clone());
        }
        self.pending.pods.reserve(cluster.pods.len());
        for pod in cluster.pods.values() {
            self.put_pod(pod);
        }
        for policy in cluster.policies.values() {
            self.put_policy(policy.clone());
        }
        let strangers = self.node.as_ref().and_then(|node| cluster.strangers.get(node));
        if let Some(Strangers { ranges, released, nameless }) = strangers {
            self.set_pod_ranges(ranges.clone());
            self.set_released(released.clone());
            self.set_nameless(nameless.clone());
        }
    }

    /// Brings the tables up to date with all that was recorded, and says what changed in them.
    pub fn commit(&mut self) -> Delta {
        self.work = Work::default();
        let mut delta = Delta::default();
        let touched = self.apply_objects();
        let policies = self.apply_policies(&touched);
        let classes = self.update_peer_classes(&touched, &mut delta);
        let subjects = self.update_subject_classes(&touched, &policies, &mut delta);
        self.update_rows(&policies, &classes, &subjects, &mut delta);
        self.settle(policies, classes, &mut delta);
        delta
    }

    /// The tables as of the last commit.
    pub fn tables(&self) -> &NodeTables {
        &self.tables
    }

    /// The tables, without what is needed to change them.
    pub fn into_tables(self) -> NodeTables {
        self.tables
    }

    /// The pod that has an address as of the last commit; of several the one with the greatest name.
    pub fn pod_at(&self, address: IpAddr) -> Option<&Name> {
        self.world.owner(address).map(|(_, pod)| &pod.name)
    }

    /// Sizes, and the work of the last commit.
    pub fn stats(&self) -> Stats {
        Stats {
            pods: self.world.len(),
            policies: self.policies.len(),
            active_policies: self.policies.values().filter(|policy| policy.is_active()).count(),
            atoms: self.atoms.len(),
            subject_classes: self.subjects.len(),
            peer_classes: self.peers.len(),
            groups: self.groups.len(),
            nets: self.nets.len(),
            subjects: self.subjects.members(),
            open: self.tables.subjects.len() - self.subjects.members(),
            addresses: self.tables.peers.len(),
            ranges: self.tables.blocks.len() + self.tables.nets.len(),
            verdicts: self.tables.verdicts.len(),
            rules: self.tables.rules.len(),
            last: self.work,
        }
    }
}

/// Compiles a whole cluster for one node; `None` takes all pods as local.
pub fn compile(cluster: &Cluster, node: Option<&str>) -> NodeTables {
    let mut compiler = NodeCompiler::new(node.map(Arc::from));
    compiler.put_cluster(cluster);
    compiler.commit();
    compiler.into_tables()
}
