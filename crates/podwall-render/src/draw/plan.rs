//! What are the nodes and edges of a scene, for languages that lay it out themselves?
//!
//! ```text
//!   several sources ─┐        ┌─▶ several destinations      one point in between, so that a
//!                    ├── • ───┤                             block is a sum of lines and no product
//! ```

use std::collections::{BTreeMap, BTreeSet};

use podwall_analysis::picture::Picture;
use podwall_analysis::picture::scene::{Called, Scene, Stands, Term};

use super::frames::{called, named, said, these};
use super::svg::class;

/// Nodes and edges.
pub(crate) struct Plan {
    /// By namespace; those that are in none may stand anywhere.
    pub(crate) nodes: Vec<Node>,
    pub(crate) edges: Vec<Edge>,
    /// Where lines of a block meet.
    pub(crate) points: Vec<String>,
}

pub(crate) struct Node {
    pub(crate) id: String,
    pub(crate) label: Vec<String>,
    pub(crate) space: Option<usize>,
    /// It is no workload and no namespace.
    pub(crate) aside: bool,
}

pub(crate) struct Edge {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) label: String,
    pub(crate) colour: &'static str,
    pub(crate) perhaps: bool,
    pub(crate) arrow: bool,
}

/// Colours that can be read on white and on black.
fn colour(class: &str) -> &'static str {
    match class {
        "inbound" => "#d9602b",
        "outbound" => "#8b5cf6",
        "cross" => "#3b82d6",
        "inner" | "added" => "#189a5c",
        "removed" => "#dc3545",
        "changed" => "#b7860b",
        _ => "#8a949e",
    }
}

pub(crate) fn plan(picture: &Picture, scene: &Scene) -> Plan {
    let mut plan = Plan { nodes: Vec::new(), edges: Vec::new(), points: Vec::new() };
    let used: BTreeSet<usize> = scene
        .blocks
        .iter()
        .flat_map(|block| block.from.iter().chain(&block.to))
        .filter_map(|term| if let Term::Item(item) = term { Some(*item) } else { None })
        .collect();
    for (at, item) in scene.items.iter().enumerate() {
        if matches!(item.what, Stands::Outside(_)) && !used.contains(&at) {
            continue; // said by marks, by a set, or nothing passes
        }
        let (title, mut label) = named(picture, scene, at, false);
        label.insert(0, title);
        let free = [(1, "open to all"), (0, "free to send")];
        if !matches!(item.what, Stands::Outside(_)) {
            let marks = free.iter().filter(|(side, _)| item.free[*side]).map(|(_, says)| *says);
            let marks: Vec<&str> = marks.collect();
            if !marks.is_empty() {
                label.push(marks.join(", "));
            }
        }
        if scene.among[at] != 0 {
            let within = if item.rows.len() > 1 { "within" } else { "replicas" };
            let content = &scene.contents[scene.among[at] as usize];
            label.push(format!("{within}: {}", said(content, picture.compared)));
        }
        let aside = matches!(item.what, Stands::Outside(_));
        plan.nodes.push(Node { id: format!("i{at}"), label, space: item.within, aside });
    }
    let mut spaces: BTreeMap<usize, ()> = BTreeMap::new();
    for (number, block) in scene.blocks.iter().enumerate() {
        let class = class(picture, scene, number);
        let content = &scene.contents[block.content as usize];
        let perhaps = content.now.passes.is_empty() && !content.now.open.is_empty();
        let label = said(content, picture.compared);
        let mut id = |term: &Term| match term {
            Term::Item(item) => format!("i{item}"),
            Term::Set(set) => format!("t{set}"),
            Term::Space(space) => {
                spaces.insert(*space, ());
                format!("a{space}")
            }
        };
        let from: Vec<String> = block.from.iter().map(&mut id).collect();
        let to: Vec<String> = block.to.iter().map(&mut id).collect();
        let colour = colour(class);
        let mut edge = |from: &str, to: &str, label: &str, arrow: bool| {
            let (from, to, label) = (from.to_owned(), to.to_owned(), label.to_owned());
            plan.edges.push(Edge { from, to, label, colour, perhaps, arrow });
        };
        if from.len() > 1 && to.len() > 1 {
            let point = format!("p{number}");
            from.iter().for_each(|from| edge(from, &point, "", false));
            to.iter().for_each(|to| edge(&point, to, &label, true));
            plan.points.push(point);
        } else {
            from.iter().for_each(|from| to.iter().for_each(|to| edge(from, to, &label, true)));
        }
    }
    for (at, set) in scene.sets.iter().enumerate() {
        let label = if set.called == Called::These {
            these(picture, scene, &set.items)
        } else {
            called(picture, scene, &set.called, set.items.len(), set.sends)
        };
        plan.nodes.push(Node {
            id: format!("t{at}"),
            label: vec![label],
            space: None,
            aside: true,
        });
    }
    for space in spaces.keys() {
        let label = vec![format!("every workload of {}", picture.spaces[*space].name)];
        plan.nodes.push(Node { id: format!("a{space}"), label, space: Some(*space), aside: true });
    }
    plan.nodes.sort_by_key(|node| node.space); // stable: items stay in order
    plan
}
