//! What is answered to the programs of this node?
//!
//! ```text
//!   attach ──▶ addresses to the pod; link guarded; written ──▶ known? answer : wait for the API server
//!   detach ──▶ nobody has the addresses; written          ──▶ answer
//!   status, pod, verify ──▶ answer at once
//! ```
//!
//! Whatever comes of an attachment, from the first moment the pod is either judged by its policies or
//! isolated.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use podwall_local::{
    Attached, Attachment, Code, Otherwise, PodState, Refusal, Request, Sandbox, Verified,
};
use podwall_policy::object::Name;
use podwall_policy::policy::Direction;
use serde::Serialize;
use serde_json::Value;

use crate::attachments;
use crate::names::{self, Counted};
use crate::told::{Question, Reply};
use crate::writer::Writer;

/// The longest that anybody waits, whatever he says.
const MOST: Duration = Duration::from_secs(120);

/// Questions that cannot be answered yet. Owned by the writer.
#[derive(Default)]
pub(crate) struct Desk {
    attached: Vec<Waiting>,
    /// Answered with null when the kernel holds what is known.
    written: Vec<(Reply, Instant)>,
}

/// A pod that is to be known and in force.
struct Waiting {
    sandbox: Sandbox,
    since: Instant,
    until: Instant,
    otherwise: Otherwise,
    reply: Reply,
}

impl Desk {
    /// When the patience of the first is over.
    pub(crate) fn next(&self) -> Option<Instant> {
        let written = self.written.iter().map(|(_, since)| *since + MOST);
        self.attached.iter().map(|waiting| waiting.until).chain(written).min()
    }
}

fn refusal(code: Code, message: impl Into<String>) -> Refusal {
    Refusal { code, message: message.into() }
}

fn value(answer: impl Serialize) -> Result<Value, Refusal> {
    serde_json::to_value(answer).map_err(|error| refusal(Code::Invalid, error.to_string()))
}

// Who does not listen any more gets no answer.
fn send(reply: Reply, answer: Result<Value, Refusal>) {
    drop(reply.send(answer));
}

impl Writer {
    /// Answers, or takes note of who waits.
    pub(crate) fn asked(&mut self, Question { request, since, reply }: Question) {
        match request {
            Request::Attach { attachment, patience, otherwise } => {
                let until = since + Duration::from_millis(patience).min(MOST);
                let sandbox = attachment.sandbox.clone();
                match self.attach(attachment) {
                    Ok(()) => {
                        self.desk.attached.push(Waiting {
                            sandbox,
                            since,
                            until,
                            otherwise,
                            reply,
                        });
                    }
                    Err(refusal) => send(reply, Err(refusal)),
                }
            }
            Request::Detach { sandbox } => match self.detach(&[sandbox]) {
                Ok(()) => self.desk.written.push((reply, since)),
                Err(refusal) => send(reply, Err(refusal)),
            },
            Request::Keep { network, valid } => {
                let gone = self.index.attachments().others(&network, &valid);
                let count = gone.len();
                send(reply, self.detach(&gone).and_then(|()| value(count)));
            }
            Request::Check { attachment } => send(reply, self.check(&attachment)),
            Request::Ready => send(reply, self.ready().map(|()| Value::Null)),
            Request::Status => {
                send(reply, value(self.status()));
            }
            Request::Pod { namespace, name } => {
                let found = self.pod_state(&Name::new(namespace, name));
                send(reply, found.and_then(value));
            }
            Request::Verify { full } => {
                let verified = self.verified(full);
                send(reply, verified.and_then(value));
            }
            // The socket's side answers these.
            Request::Flows => send(reply, Ok(Value::Null)),
        }
    }

    fn attach(&mut self, attachment: Attachment) -> Result<(), Refusal> {
        let Attachment { sandbox, namespace, pod, addresses, .. } = &attachment;
        if !attachments::is_plain(sandbox) {
            let text = format!("{} {} names no sandbox", sandbox.container, sandbox.interface);
            return Err(refusal(Code::Invalid, text));
        }
        if addresses.is_empty() {
            let text = format!("the pod {namespace}/{pod} has got no address");
            return Err(refusal(Code::Invalid, text));
        }
        if self.guards {
            // Another pod's link of before must not keep this one from its address.
            self.links.add(&attachment).map_err(|error| {
                let text = format!("forged source addresses of {pod} cannot be dropped: {error}");
                refusal(Code::Kernel, text)
            })?;
        }
        let kept = self.index.attachments_change(Instant::now(), |all| all.attach(attachment));
        kept.map_err(|error| refusal(Code::Kernel, format!("cannot keep a pod's state: {error}")))
    }

    fn detach(&mut self, sandboxes: &[Sandbox]) -> Result<(), Refusal> {
        for sandbox in sandboxes {
            if let Err(error) = self.links.remove(sandbox) {
                // The link goes with the pod, and its guard with it.
                tracing::warn!(%error, container = sandbox.container, "a link stays guarded");
            }
            let gone = self.index.attachments_change(Instant::now(), |all| {
                all.detach(sandbox).map(|pod| pod.into_iter().collect::<BTreeSet<_>>())
            });
            gone.map_err(|error| {
                refusal(Code::Kernel, format!("cannot keep a pod's state: {error}"))
            })?;
        }
        Ok(())
    }

    /// Answers those whose pods are in force, and those whose patience is over.
    pub(crate) fn answer_who_waits(&mut self, now: Instant) {
        let in_force = self.loaded && !self.index.is_pending();
        if in_force {
            for (reply, _) in std::mem::take(&mut self.desk.written) {
                send(reply, Ok(Value::Null));
            }
        }
        let over = |(_, since): &mut (Reply, Instant)| *since + MOST <= now;
        for (reply, _) in self.desk.written.extract_if(.., over).collect::<Vec<_>>() {
            // The pod is going; that it is not written yet must not keep it from going.
            send(reply, Ok(Value::Null));
        }
        let waiting = std::mem::take(&mut self.desk.attached);
        for waiting in waiting {
            if self.loaded && self.is_written(&waiting.sandbox) {
                self.answer(waiting, true, now);
            } else if waiting.until <= now {
                self.too_late(waiting, now);
            } else if !waiting.reply.is_closed() {
                self.desk.attached.push(waiting);
            }
        }
    }

    /// Whether the kernel knows the pod of an interface by its addresses.
    fn is_written(&self, sandbox: &Sandbox) -> bool {
        let Some(attachment) = self.index.attachments().get(sandbox) else { return false };
        let name = Name::new(attachment.namespace.as_str(), attachment.pod.as_str());
        self.index.knows(sandbox)
            && attachment.addresses.iter().all(|it| self.compiler.pod_at(*it) == Some(&name))
    }

    fn answer(&self, waiting: Waiting, known: bool, now: Instant) {
        let took = now.saturating_duration_since(waiting.since);
        self.state.set_attached(took);
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let guarded = self.links.has(&waiting.sandbox);
        send(waiting.reply, value(Attached { known, guarded, took }));
    }

    fn too_late(&self, waiting: Waiting, now: Instant) {
        let (reason, isolated) = self.why_not(&waiting.sandbox);
        if isolated && waiting.otherwise == Otherwise::Isolate {
            tracing::warn!(container = waiting.sandbox.container, reason, "a pod starts isolated");
            self.answer(waiting, false, now);
            return;
        }
        let patience = (waiting.until - waiting.since).as_secs_f64();
        let text = format!("the pod's policies are not in force after {patience} s: {reason}");
        send(waiting.reply, Err(refusal(Code::NotYet, text)));
    }

    /// Why a pod is not in force, and whether it is certain that it is isolated.
    fn why_not(&self, sandbox: &Sandbox) -> (String, bool) {
        if !self.index.is_synced() {
            let missing: Vec<String> = self.index.missing().map(|kind| kind.to_string()).collect();
            let missing = missing.join(", ");
            return (format!("the API server has not listed to the end: {missing}"), false);
        }
        if !self.loaded {
            return ("the kernel refuses the tables; the agent's log says why".into(), false);
        }
        let Some(it) = self.index.attachments().get(sandbox) else {
            return ("the runtime has taken its interface away meanwhile".into(), false);
        };
        let name = Name::new(it.namespace.as_str(), it.pod.as_str());
        if self.index.knows(sandbox) {
            let other =
                |address: &IpAddr| self.compiler.pod_at(*address).filter(|other| **other != name);
            if let Some((address, other)) = it.addresses.iter().find_map(|a| Some((a, other(a)?))) {
                let text = format!(
                    "the API server says that {other} has its address {address}; two pods cannot \
                     be told apart by one address"
                );
                return (text, false);
            }
        }
        match self.index.local(&name) {
            None => (format!("the API server has not said anything of {name} on this node"), true),
            Some(_) => (format!("the API server knows another pod under the name {name}"), true),
        }
    }

    /// Tells those who wait for the kernel that it refuses.
    pub(crate) fn refuse_who_waits(&mut self, error: &podwall_dataplane::Error) {
        for waiting in std::mem::take(&mut self.desk.attached) {
            let text = format!("the kernel refuses the pod's policies: {error}");
            send(waiting.reply, Err(refusal(Code::Kernel, text)));
        }
    }

    fn check(&self, asked: &Attachment) -> Result<Value, Refusal> {
        let differs = |text: String| Err(refusal(Code::Differs, text));
        let Attachment { sandbox, namespace, pod, .. } = asked;
        let Some(held) = self.index.attachments().get(sandbox) else {
            return differs(format!(
                "the agent knows no interface {} of the container {}",
                sandbox.interface, sandbox.container
            ));
        };
        let set = |it: &Attachment| it.addresses.iter().copied().collect::<BTreeSet<IpAddr>>();
        if set(held) != set(asked) {
            let text = |it: &Attachment| {
                it.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            };
            return differs(format!(
                "the agent knows {namespace}/{pod} by {}, not by {}",
                text(held),
                text(asked)
            ));
        }
        self.ready()?;
        if !self.is_written(sandbox) {
            return differs(format!("{namespace}/{pod} is isolated: {}", self.why_not(sandbox).0));
        }
        Ok(Value::Null)
    }

    fn ready(&self) -> Result<(), Refusal> {
        if self.index.is_synced() && self.loaded {
            return Ok(());
        }
        let missing: Vec<String> = self.index.missing().map(|kind| kind.to_string()).collect();
        Err(refusal(
            Code::NotYet,
            if missing.is_empty() {
                "the kernel has refused the last change; the agent's log says why".to_owned()
            } else {
                format!("the API server has not listed to the end yet: {}", missing.join(", "))
            },
        ))
    }

    fn pod_state(&self, name: &Name) -> Result<PodState, Refusal> {
        let Some(object) = self.index.local(name) else {
            let node = &self.node;
            return Err(refusal(Code::NotFound, format!("no pod {name} runs on the node {node}")));
        };
        let addresses = self.index.attachments().addresses(object);
        let tables = self.compiler.tables();
        let mut live = self.index.attachments().live();
        let attached = live.find(|it| self.index.attachments().is_of(&it.sandbox, object));
        let guarded = attached.filter(|it| self.links.has(&it.sandbox));
        let side = |direction| {
            let own: Vec<IpAddr> = addresses
                .iter()
                .copied()
                .filter(|address| self.compiler.pod_at(*address) == Some(name))
                .collect();
            names::side(tables, &own, direction)
        };
        Ok(PodState {
            namespace: name.namespace.to_string(),
            name: name.name.to_string(),
            known_from: if attached.is_some() { "cni" } else { "api" }.to_owned(),
            guarded_link: guarded.and_then(|it| Some(it.link.as_ref()?.name.clone())),
            ingress: side(Direction::Ingress),
            egress: side(Direction::Egress),
            enforced: self.loaded && !self.index.is_pending(),
            addresses,
        })
    }

    fn verified(&mut self, full: bool) -> Result<Verified, Refusal> {
        self.ready()?;
        let start = Instant::now();
        let drift = self.verify(full).map_err(|error| {
            refusal(Code::Kernel, format!("the kernel cannot be asked: {error}"))
        })?;
        Ok(Verified { drift, took: u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX) })
    }

    /// How much each rule has decided.
    pub(crate) fn counted(&mut self) -> Counted {
        if !self.loaded {
            return Counted::default();
        }
        let counters = self.plane.counters().unwrap_or_else(|error| {
            tracing::warn!(%error, "the kernel's counters cannot be read");
            podwall_dataplane::Counters::default()
        });
        let forged = self.links.dropped().unwrap_or_else(|error| {
            tracing::debug!(%error, "the guard's counters cannot be read");
            0
        });
        Counted { forged, ..names::counted(self.compiler.tables(), &counters) }
    }
}
