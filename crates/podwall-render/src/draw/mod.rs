//! How is a cluster drawn?
//!
//! ```text
//!   Picture ──View──▶ Scene ──▶ frames: boxes, columns, sockets ──▶ layout: places and ways
//!                       │                                              └──▶ svg ──▶ html, with data
//!                       └──▶ dot, mermaid: the same blocks as text
//! ```
//!
//! The layout is Podwall's own and needs no other program: the same objects give the same bytes.

mod data;
mod dot;
mod frames;
mod html;
mod layout;
mod mermaid;
mod plan;
mod rules;
mod sha256;
mod svg;
mod text;

pub use self::dot::dot;
pub use self::html::{FEW, html};
pub use self::mermaid::mermaid;
pub use self::svg::{summary, svg};
