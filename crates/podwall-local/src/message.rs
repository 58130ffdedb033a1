//! What can an agent be asked, and what can it answer?

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::attach::{Attachment, Sandbox};

/// What an agent can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Request {
    /// A pod has got an interface: make its policies hold before anything runs in it. Answered by
    /// [`Attached`](crate::Attached).
    Attach {
        /// The pod.
        attachment: Attachment,
        /// How long the agent may wait for the pod's labels to come from the API server, in
        /// milliseconds.
        patience: u64,
        /// What to do when they do not come.
        otherwise: Otherwise,
    },
    /// An interface is about to go, or has gone; none of that name is no error. Answered by null.
    Detach {
        /// Whose.
        sandbox: Sandbox,
    },
    /// Whether what was attached is in force. Answered by null.
    Check {
        /// What the runtime knows.
        attachment: Attachment,
    },
    /// Of this network these interfaces exist and no others; those of other networks stay. Answered
    /// by the number that was dropped.
    Keep {
        /// The network: what a runtime lists as valid are the interfaces of one.
        network: String,
        /// The interfaces.
        valid: Vec<Sandbox>,
    },
    /// Whether the agent can take pods. Answered by null.
    Ready,
    /// How the agent is. Answered by [`Status`](crate::Status).
    Status,
    /// What is in force for a pod of this node. Answered by [`PodState`](crate::PodState).
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// Compares the kernel with the model and puts right what differs. Answered by
    /// [`Verified`](crate::Verified).
    Verify {
        /// Every entry of every table, however many there are; else a look that costs little.
        full: bool,
    },
    /// Denied packets from now on. Answered by null, then one [`Flow`](crate::Flow) a line.
    Flows,
}

/// What to do with a pod that the agent does not know in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Otherwise {
    /// Say so: the runtime makes the pod again.
    #[default]
    Fail,
    /// Isolate the pod until it is known, and go on.
    Isolate,
}

/// What comes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer<T> {
    /// What was asked for.
    Ok(T),
    /// Why not.
    Error(Refusal),
}

/// Why a request was not answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// For programs.
    pub code: Code,
    /// For people: what, where, why, what next.
    pub message: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Kinds of refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The request makes no sense.
    Invalid,
    /// The agent has not read the cluster to the end yet, or does not know the pod in time: asking
    /// again helps.
    NotYet,
    /// The kernel refuses.
    Kernel,
    /// There is no such thing.
    NotFound,
    /// What was attached is not in force.
    Differs,
}
