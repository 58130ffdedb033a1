//! How is a scene written for Graphviz?
//!
//! ```text
//!   subgraph cluster_0 { i0 i1 }   i0 -> i1 [label="TCP 5000"]
//!   a block with several ends on both sides goes through a point, so that lines are sums
//! ```

use std::fmt::Write as _;

use podwall_analysis::picture::Picture;
use podwall_analysis::picture::scene::Scene;

use super::plan::{Node, Plan, plan};
use super::text::plain;

/// The scene in DOT.
pub fn dot(picture: &Picture, scene: &Scene, title: &str) -> String {
    let Plan { nodes, edges, points } = plan(picture, scene);
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "digraph podwall {{\n  label={};\n  labelloc=t;\n  rankdir=LR;",
        quoted(title)
    );
    out.push_str("  compound=true;\n  fontname=\"sans-serif\";\n");
    out.push_str(
        "  node [shape=box, style=\"rounded,filled\", fillcolor=white, fontname=\"sans-serif\"];\n",
    );
    out.push_str("  edge [fontname=\"sans-serif\", fontsize=10];\n");
    let line = |node: &Node, indent: &str| {
        let mut attributes = format!("label={}", quoted(&node.label.join("\n")));
        if node.aside {
            attributes.push_str(", shape=note, style=filled, fillcolor=\"#eef2f6\"");
        }
        format!("{indent}{} [{attributes}];\n", node.id)
    };
    let mut last = None;
    for node in nodes.iter().filter(|node| node.space.is_some()) {
        if node.space != last {
            if last.is_some() {
                out.push_str("  }\n");
            }
            last = node.space;
            let space = node.space.unwrap_or_default();
            let _ = writeln!(
                out,
                "  subgraph cluster_{space} {{\n    label={};\n    style=\"rounded,filled\";\n    fillcolor=\"#f6f8fa\";",
                quoted(&picture.spaces[space].name)
            );
        }
        out.push_str(&line(node, "    "));
    }
    if last.is_some() {
        out.push_str("  }\n");
    }
    for node in nodes.iter().filter(|node| node.space.is_none()) {
        out.push_str(&line(node, "  "));
    }
    for point in points {
        let _ = writeln!(out, "  {point} [shape=point, label=\"\"];");
    }
    for edge in edges {
        let mut attributes = vec![format!("color={}", quoted(edge.colour))];
        if !edge.label.is_empty() {
            attributes.push(format!("label={}", quoted(&edge.label)));
        }
        if edge.perhaps {
            attributes.push("style=dashed".to_owned());
        }
        if !edge.arrow {
            attributes.push("arrowhead=none".to_owned());
        }
        let _ = writeln!(out, "  {} -> {} [{}];", edge.from, edge.to, attributes.join(", "));
    }
    out.push_str("}\n");
    out
}

/// A quoted string of DOT: only quotes and backslashes are special in it.
fn quoted(text: &str) -> String {
    let lines: Vec<String> = text
        .split('\n')
        .map(|line| plain(line).replace('\\', "\\\\").replace('"', "\\\""))
        .collect();
    format!("\"{}\"", lines.join("\\n"))
}
