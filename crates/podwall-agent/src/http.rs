//! What can be asked over HTTP?
//!
//! ```text
//!   GET /metrics   numbers for Prometheus
//!   GET /healthz   200 as long as the agent works
//!   GET /readyz    200 once the kernel enforces what the cluster asks for; else 503 with words
//! ```

use std::sync::Arc;

use axum::Router;
use axum::extract;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::metrics;
use crate::state::State;

type Shared = extract::State<Arc<State>>;

/// Answers until the end of the process.
///
/// # Errors
/// The socket cannot be used any more.
pub async fn serve(listener: TcpListener, state: Arc<State>) -> std::io::Result<()> {
    let routes = Router::new()
        .route("/metrics", get(numbers))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(state);
    axum::serve(listener, routes).await
}

async fn numbers(extract::State(state): Shared) -> Response {
    match metrics::text(&state.snapshot(), state.latencies()) {
        Ok(text) => ([(CONTENT_TYPE, metrics::CONTENT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn ready(extract::State(state): Shared) -> Response {
    let now = state.snapshot();
    let reason = match (now.synced, now.enforced) {
        (true, true) => return "ok\n".into_response(),
        (false, _) => {
            "not ready: namespaces, pods and policies are not listed to the end yet; what an \
             earlier agent left in the kernel stays in force\n"
        }
        (true, false) => "not ready: the kernel has refused the last change; see the log\n",
    };
    (StatusCode::SERVICE_UNAVAILABLE, reason).into_response()
}
