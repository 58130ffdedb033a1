//! What can the writer be told?
//!
//! ```text
//!   watches, the socket, /metrics, dropped packets ── Told ──▶ one channel ──▶ writer
//! ```

use std::time::Instant;

use podwall_dataplane::Denied;
use podwall_local::{Refusal, Request};
use serde_json::Value;
use tokio::sync::oneshot;

use crate::index::Event;
use crate::names::Counted;
use crate::objects::Kind;

/// What the writer is told.
pub(crate) enum Told {
    /// The API server says something, heard at this time.
    Heard(Event, Instant),
    /// The watch of a kind failed, and starts anew.
    Failed(Kind),
    /// A program of this node asks.
    Asked(Question),
    /// How much each rule has decided is wanted.
    Count(oneshot::Sender<Counted>),
    /// A packet was dropped.
    Denied(Denied),
}

/// Where an answer goes.
pub(crate) type Reply = oneshot::Sender<Result<Value, Refusal>>;

/// A question that waits for its answer. If its asker has gone away, nobody gets it.
pub(crate) struct Question {
    pub(crate) request: Request,
    pub(crate) since: Instant,
    pub(crate) reply: Reply,
}
