//! Where may a packet arrive, and does the engine let it?
//!
//! ```text
//!   a pod, a node, outside     ──▶ itself
//!   a Service's address : port ──▶ each pod behind it, on the pod's port
//!   a node : its node port     ──▶ each pod behind it; the client has its own address where the
//!                                  asked node is the pod's, else the asked node's
//! ```
//!
//! Policies act after destination NAT and before source NAT: a sender's egress is judged where the
//! destination is translated, a receiver's ingress at its own node. Sources: `externalTrafficPolicy`
//! of the Service API; KEP-1669 (traffic from within the cluster may use every pod).

use std::cell::OnceCell;

use podwall_policy::address::Family;
use podwall_policy::cluster::Cluster;
use podwall_policy::evaluate::{Evaluation, Verdict, evaluate, side};
use podwall_policy::flow::{Flow, Party};
use podwall_policy::object::{Exposure, Node, Pod, Service, ServicePort};
use podwall_policy::policy::Direction;
use podwall_policy::port::Protocol;

use super::peer::{Target, Who};
use crate::serve::identity::Identity;
use crate::services;

/// One place where a packet may arrive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// Where.
    pub place: Identity,
    /// What the engine says.
    pub verdict: Verdict,
    /// Whether the place serves the port: else a refusal is the sign that packets arrive.
    pub served: bool,
}

/// A source and what it asks, in one family; all ports.
pub(super) struct Asked<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) src: Who<'a>,
    pub(super) dst: Target<'a>,
    pub(super) family: Family,
    /// The verdict on packets to the destination itself, once it is needed.
    evaluation: OnceCell<Evaluation>,
}

/// A packet as one side's policies see it.
#[derive(Clone, Copy)]
struct Seen<'a> {
    src: Party<'a>,
    dst: Party<'a>,
    port: u16,
}

impl<'a> Asked<'a> {
    pub(super) fn new(cluster: &'a Cluster, src: Who<'a>, dst: Target<'a>, family: Family) -> Self {
        Self { cluster, src, dst, family, evaluation: OnceCell::new() }
    }

    /// Every place where a packet may arrive; none where nobody is behind what was asked.
    pub(super) fn ways(&self, protocol: Protocol, port: u16) -> Vec<Way> {
        match self.dst {
            Target::Service(service) => {
                let asked = |p: &&ServicePort| (p.protocol, p.port) == (protocol, port);
                let port = service.ports.iter().find(asked);
                let pods = port.into_iter().flat_map(|port| self.behind(service, port));
                let way = |(pod, port)| {
                    let seen = Seen { src: self.src.party(), dst: Party::Pod(pod), port };
                    self.way(protocol, pod, seen, seen)
                };
                pods.filter_map(way).collect()
            }
            Target::Itself(Who::Node(node)) => match self.node_port(protocol, port) {
                Some((service, of)) => self.through(node, port, service, of),
                None => self.itself(Who::Node(node), protocol, port),
            },
            Target::Itself(who) => self.itself(who, protocol, port),
        }
    }

    /// Whether the packet never leaves the node that sends it.
    pub(super) fn stays(&self, protocol: Protocol, port: u16) -> bool {
        self.dst == Target::Itself(self.src) && self.node_port(protocol, port).is_none()
    }

    fn itself(&self, who: Who<'a>, protocol: Protocol, port: u16) -> Vec<Way> {
        let Some(place) = who.place() else { return Vec::new() };
        let evaluation = self.evaluation.get_or_init(|| {
            let flow = Flow { src: self.src.party(), dst: who.party(), family: self.family };
            evaluate(self.cluster, &flow)
        });
        let verdict = evaluation.verdict(protocol, port);
        vec![Way { place, verdict, served: who.serves(protocol, port) }]
    }

    /// The Service whose node port this is.
    fn node_port(&self, protocol: Protocol, port: u16) -> Option<(&'a Service, &'a ServicePort)> {
        let asked = |p: &&ServicePort| (p.protocol, p.node_port) == (protocol, Some(port));
        let of = |service: &'a Service| Some((service, service.ports.iter().find(asked)?));
        self.cluster.services.values().find_map(of)
    }

    /// By a node's port `asked`.
    fn through(
        &self,
        node: &'a Node,
        asked: u16,
        service: &'a Service,
        of: &'a ServicePort,
    ) -> Vec<Way> {
        let local = matches!(service.exposure, Exposure::Node { local: true });
        let src = self.src.party();
        let from_here = self.src.node() == Some(&*node.name);
        let is_here = |pod: &Pod| pod.node.as_deref() == Some(&*node.name);
        let way = |(pod, port): (&'a Pod, u16)| {
            // At the pod's own node the source is not translated yet.
            let client = if local || is_here(pod) { src } else { Party::Node(node) };
            let ingress = Seen { src: client, dst: Party::Pod(pod), port };
            // Another node's port is translated there, after the sender's egress was judged.
            let egress = match from_here {
                true => Seen { src, dst: Party::Pod(pod), port },
                false => Seen { src, dst: Party::Node(node), port: asked },
            };
            self.way(of.protocol, pod, egress, ingress)
        };
        self.behind(service, of)
            .filter(|(pod, _)| !local || from_here || is_here(pod))
            .filter_map(way)
            .collect()
    }

    /// The pods behind a Service's port, with the port of each.
    fn behind(
        &self,
        service: &'a Service,
        port: &'a ServicePort,
    ) -> impl Iterator<Item = (&'a Pod, u16)> {
        let family = self.family;
        services::targets(self.cluster, service, port)
            .filter(move |(pod, _)| pod.ip(family).is_some() && pod.node.is_some())
    }

    /// The way to one pod, with what each side's policies see of the packet.
    fn way(
        &self,
        protocol: Protocol,
        pod: &'a Pod,
        egress: Seen<'a>,
        ingress: Seen<'a>,
    ) -> Option<Way> {
        let of = |seen: Seen<'a>, direction| {
            let flow = Flow { src: seen.src, dst: seen.dst, family: self.family };
            side(self.cluster, &flow, direction).verdict(protocol, seen.port)
        };
        let verdict = match [of(egress, Direction::Egress), of(ingress, Direction::Ingress)] {
            [Verdict::Denied, _] | [_, Verdict::Denied] => Verdict::Denied,
            [Verdict::Allowed, Verdict::Allowed] => Verdict::Allowed,
            _ => Verdict::Unknown,
        };
        let pod = Who::Pod(pod);
        Some(Way { place: pod.place()?, verdict, served: pod.serves(protocol, ingress.port) })
    }
}
