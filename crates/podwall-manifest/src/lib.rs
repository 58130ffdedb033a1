//! What do these manifests state, and what is wrong with them?
//!
//! ```text
//!   files, directories, stdin ──▶ YAML / JSON ──▶ tree with places ──▶ checks ──▶ Reading
//!                                                                               ├─ Objects ──▶ Cluster
//!                                                                               └─ Diagnostics
//! ```
//!
//! The reader goes on after an error, as a compiler does: [`read`] reports everything that is wrong
//! in a run, each with file, line, column, the line itself and, where there is one, the remedy. The
//! rules are those of the API server's validation; modules name the file of Kubernetes that each
//! was taken from. What has an error is left out and listed; what is in [`Reading::objects`] is
//! checked and needs no second look.
//!
//! ```
//! use podwall_manifest::{Input, Options, read, render_all};
//!
//! let text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: demo}\n".to_string();
//! let reading = read(&[Input::Text { name: "demo.yaml".into(), text }], &Options::default());
//! assert!(!reading.has_errors(), "{}", render_all(&reading.diagnostics, false));
//! assert!(reading.cluster().namespaces.contains_key("demo"));
//! ```

pub mod assertions;
mod cidr;
mod diagnostic;
mod edit;
mod entrance;
mod expand;
mod explain;
mod files;
pub mod flows;
mod json;
mod kind;
mod kustomization;
mod locate;
mod metadata;
mod names;
mod node;
mod node_object;
mod object;
mod places;
mod pod;
mod policy;
mod reader;
mod reading;
mod render;
mod scalar;
mod selector;
mod service;
mod suggest;
mod text;
mod walk;
mod workload;
pub mod write;
mod written;
mod yaml;

pub use crate::assertions::read_assertions;
pub use crate::cidr::cidr_oddities;
pub use crate::diagnostic::{Code, Diagnostic, Note, Place, Severity};
pub use crate::edit::{Edit, Splice, apply, line_columns, splices, splices_of};
pub use crate::expand::cluster;
pub use crate::locate::{Found, Wanted, document, locate};
pub use crate::object::{LeftOut, Object, ObjectKey, Typed, object_from_json};
pub use crate::reading::{Input, Options, Reading, read};
pub use crate::render::{render, render_all};
pub use crate::suggest::nearest;
pub use crate::written::{LAST_APPLIED, Written};
