//! What can be asked over HTTP?
//!
//! ```text
//!   GET /metrics   numbers for Prometheus
//!   GET /healthz   200 as long as the agent works
//!   GET /readyz    200 once the kernel enforces what the cluster asks for; else 503 with words
//! ```

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use axum::Router;
use axum::extract;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::metrics;
use crate::names::Counted;
use crate::state::State;
use crate::told::Told;

/// What answers need.
#[derive(Clone)]
struct Known {
    state: Arc<State>,
    tell: Sender<Told>,
}

/// How long the writer may take to count.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers until the end of the process.
///
/// # Errors
/// The socket cannot be used any more.
pub(crate) async fn serve(
    listener: TcpListener,
    state: Arc<State>,
    tell: Sender<Told>,
) -> std::io::Result<()> {
    let routes = Router::new()
        .route("/metrics", get(numbers))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(Known { state, tell });
    axum::serve(listener, routes).await
}

async fn numbers(extract::State(known): extract::State<Known>) -> Response {
    let (reply, counted) = oneshot::channel();
    let asked = known.tell.send(Told::Count(reply)).is_ok();
    // While it writes whole tables the writer has no time; the rest is told all the same.
    let counted = match timeout(PATIENCE, counted).await {
        Ok(Ok(counted)) if asked => counted,
        _ => Counted::default(),
    };
    match metrics::text(&known.state, &counted) {
        Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn ready(extract::State(known): extract::State<Known>) -> Response {
    let now = known.state.snapshot();
    let reason = match (now.is_synced(), now.enforced) {
        (true, true) => return "ok\n".into_response(),
        (false, _) => {
            let missing: Vec<String> = now.missing.iter().map(ToString::to_string).collect();
            format!(
                "not ready: not listed to the end yet: {}; what an earlier agent left in the kernel \
                 stays in force\n",
                missing.join(", ")
            )
        }
        (true, false) => {
            "not ready: the kernel has refused the last change; see the log\n".to_owned()
        }
    };
    (StatusCode::SERVICE_UNAVAILABLE, reason).into_response()
}
