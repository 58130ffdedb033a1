//! How is a scene written for Mermaid?

use std::fmt::Write as _;

use podwall_analysis::picture::Picture;
use podwall_analysis::picture::scene::Scene;

use super::plan::{Node, Plan, plan};
use super::text::plain;

/// The scene as a flowchart of Mermaid.
pub fn mermaid(picture: &Picture, scene: &Scene) -> String {
    let Plan { nodes, edges, points } = plan(picture, scene);
    let mut out = String::from("flowchart LR\n");
    let line = |node: &Node| {
        let label = quoted(&node.label.join("\n"));
        if node.aside { format!("{}([{label}])", node.id) } else { format!("{}[{label}]", node.id) }
    };
    let mut last = None;
    for node in nodes.iter().filter(|node| node.space.is_some()) {
        if node.space != last {
            if last.is_some() {
                out.push_str("  end\n");
            }
            last = node.space;
            let space = node.space.unwrap_or_default();
            // Writing to a String cannot fail.
            let _ = writeln!(out, "  subgraph s{space}[{}]", quoted(&picture.spaces[space].name));
        }
        let _ = writeln!(out, "    {}", line(node));
    }
    if last.is_some() {
        out.push_str("  end\n");
    }
    for node in nodes.iter().filter(|node| node.space.is_none()) {
        let _ = writeln!(out, "  {}", line(node));
    }
    for point in points {
        let _ = writeln!(out, "  {point}(( ))");
    }
    let mut colours = String::new();
    for (number, edge) in edges.iter().enumerate() {
        let way = match (edge.perhaps, edge.arrow) {
            (true, true) => "-.->",
            (true, false) => "-.-",
            (false, true) => "-->",
            (false, false) => "---",
        };
        let label = if edge.label.is_empty() {
            String::new()
        } else {
            format!("|{}|", quoted(&edge.label))
        };
        let _ = writeln!(out, "  {} {way}{label} {}", edge.from, edge.to);
        let _ = writeln!(colours, "  linkStyle {number} stroke:{}", edge.colour);
    }
    out + &colours
}

/// A quoted string of Mermaid: everything that could be syntax or markup is a character reference.
fn quoted(text: &str) -> String {
    let lines: Vec<String> = text
        .split('\n')
        .map(|line| {
            let mut out = String::new();
            for c in plain(line).chars() {
                if c.is_alphanumeric() || " ./-_:,()+~→?·–−…".contains(c) {
                    out.push(c);
                } else {
                    let _ = write!(out, "#{};", c as u32);
                }
            }
            out
        })
        .collect();
    format!("\"{}\"", lines.join("<br/>"))
}
