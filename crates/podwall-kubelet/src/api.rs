//! How is the API server asked?
//!
//! Objects are JSON as the server has them: what is not understood here is not lost.

use http::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::{Value, json};
use thiserror::Error;

use crate::settings::Server;

/// Why the API server did not do it.
#[derive(Debug, Error)]
pub enum ApiError {
    /// The kubeconfig.
    #[error("cannot use the kubeconfig {path}: {reason}")]
    Kubeconfig {
        /// The file.
        path: String,
        /// Why not.
        reason: String,
    },
    /// It could not be asked, or said no.
    #[error("{method} {path}: {}", words(source))]
    Asked {
        /// What was to be done.
        method: &'static str,
        /// With what.
        path: String,
        /// What the server said, or why it could not be asked.
        source: Box<kube::Error>,
    },
}

impl ApiError {
    /// The code of an answer; `None` if there was none.
    pub(crate) fn code(&self) -> Option<u16> {
        match self {
            Self::Asked { source, .. } => match &**source {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            Self::Kubeconfig { .. } => None,
        }
    }

    /// Whether the object is gone, or another one has its name now.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self.code(), Some(404 | 409))
    }
}

/// A way to the API server.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) client: Client,
}

/// What the server said, or all that is known of why it could not be asked.
fn words(error: &kube::Error) -> String {
    if let kube::Error::Api(status) = error {
        return status.message.clone();
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text
}

// === impl Api ===

impl Api {
    /// The server that a kubeconfig names, and its address in words.
    pub(crate) async fn connect(server: &Server) -> Result<(Self, String), ApiError> {
        let wrong = |error: &dyn std::error::Error| ApiError::Kubeconfig {
            path: server.kubeconfig.display().to_string(),
            reason: error.to_string(),
        };
        let file = Kubeconfig::read_from(&server.kubeconfig).map_err(|e| wrong(&e))?;
        let options =
            KubeConfigOptions { context: server.context.clone(), ..KubeConfigOptions::default() };
        let config = Config::from_custom_kubeconfig(file, &options).await.map_err(|e| wrong(&e))?;
        let url = config.cluster_url.to_string();
        let client = Client::try_from(config).map_err(|e| wrong(&e))?;
        Ok((Self { client }, url))
    }

    async fn ask(
        &self,
        method: &'static str,
        path: &str,
        media: &str,
        body: &Value,
    ) -> Result<Value, ApiError> {
        let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        let asked = Request::builder().method(method).uri(path).header("Content-Type", media);
        let failed = |source: kube::Error| ApiError::Asked {
            method,
            path: path.to_owned(),
            source: Box::new(source),
        };
        let asked = asked.body(bytes).map_err(|error| failed(kube::Error::HttpError(error)))?;
        self.client.request(asked).await.map_err(failed)
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.ask("GET", path, "application/json", &Value::Null).await
    }

    pub(crate) async fn create(&self, path: &str, object: &Value) -> Result<Value, ApiError> {
        self.ask("POST", path, "application/json", object).await
    }

    pub(crate) async fn put(&self, path: &str, object: &Value) -> Result<Value, ApiError> {
        self.ask("PUT", path, "application/json", object).await
    }

    /// Changes a part as kubelets do: lists with keys (conditions) are merged.
    pub(crate) async fn patch(&self, path: &str, part: &Value) -> Result<Value, ApiError> {
        self.ask("PATCH", path, "application/strategic-merge-patch+json", part).await
    }

    /// Changes a part; its lists take the place of those that are there. For lists with keys that
    /// repeat, as a node's addresses of two families do.
    pub(crate) async fn patch_whole(&self, path: &str, part: &Value) -> Result<Value, ApiError> {
        self.ask("PATCH", path, "application/merge-patch+json", part).await
    }

    /// Deletes an object or a collection, in the time that it takes.
    pub(crate) async fn end(&self, path: &str) -> Result<Value, ApiError> {
        self.ask("DELETE", path, "application/json", &Value::Null).await
    }

    /// Deletes at once; only the object with this UID, if one is given.
    pub(crate) async fn delete(&self, path: &str, uid: Option<&str>) -> Result<Value, ApiError> {
        let mut options = json!({"gracePeriodSeconds": 0});
        if let Some(uid) = uid {
            options["preconditions"] = json!({"uid": uid});
        }
        self.ask("DELETE", path, "application/json", &options).await
    }
}

/// A string of an object.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> Option<&'a str> {
    object.pointer(pointer).and_then(Value::as_str)
}

/// Where a pod is.
pub(crate) fn pod_path(namespace: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/pods/{name}")
}
