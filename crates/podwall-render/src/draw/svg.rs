//! How does a sheet look?
//!
//! ```text
//!   namespaces' boxes ─ under ─ lines, each on a band of the ground's colour ─ under ─ boxes
//! ```
//!
//! The picture needs nothing but itself: styles are in it, light and dark, and what a line means is
//! in its tooltip. Each line and box carries the number of its block or item, by which the page of
//! [`super::html`] finds them.

use std::fmt::Write as _;

use podwall_analysis::picture::scene::{Scene, Stands};
use podwall_analysis::picture::{Change, Picture};

use super::frames::{Frame, Kind, SMALL, TITLE, Wall, said};
use super::layout::{Layout, layout};
use super::rules;
use super::text::markup;

/// What lines and boxes look like, in the colours of…
pub(crate) const STYLE: &str = include_str!("page/map.css");
/// … the day,
pub(crate) const LIGHT: &str = include_str!("page/light.css");
/// and of the night.
pub(crate) const DARK: &str = include_str!("page/dark.css");

/// A scene as a picture that stands alone.
pub fn svg(picture: &Picture, scene: &Scene, title: &str) -> String {
    let sheet = sheet(picture, scene, title);
    let (width, height) = (sheet.width, sheet.height);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"map\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\" role=\"img\">\n\
         <title>{}</title>\n<style>\n.map {{ {} }}\n\
         @media (prefers-color-scheme: dark) {{ .map {{ {} }} }}\n{}\n</style>\n{}</svg>\n",
        markup(title),
        LIGHT.trim(),
        DARK.trim(),
        STYLE.trim(),
        sheet.body
    )
}

/// A drawn sheet, without what is around it.
pub(crate) struct Sheet {
    pub(crate) width: i32,
    pub(crate) height: i32,
    pub(crate) body: String,
}

pub(crate) fn sheet(picture: &Picture, scene: &Scene, title: &str) -> Sheet {
    let layout = layout(picture, scene);
    let mut out = Body(String::new());
    let legend = legend(picture, scene, &layout);
    let width = layout.width.max(legend.width).max(360);
    let top = 64;
    let height = top + layout.height + legend.height;
    out.put(format_args!("<rect class=\"ground\" width=\"{width}\" height=\"{height}\"/>\n"));
    out.put(format_args!("<text class=\"headline\" x=\"24\" y=\"34\">{}</text>\n", markup(title)));
    out.put(format_args!("<text class=\"note\" x=\"24\" y=\"52\">{}</text>\n", summary(picture)));
    out.put(format_args!("<g transform=\"translate(0 {top})\">\n"));
    for band in layout.bands.iter().filter(|band| band.space.is_some()) {
        out.put(format_args!(
            "<rect class=\"space\" data-space=\"{}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" rx=\"10\"/>\n",
            band.space.unwrap_or_default(),
            band.x,
            band.y,
            band.w,
            band.h
        ));
    }
    for number in 0..layout.ways.len() {
        way(&mut out, picture, scene, &layout, number);
    }
    for frame in &layout.frames {
        self::frame(&mut out, picture, scene, frame);
    }
    out.put(format_args!("</g>\n<g transform=\"translate(0 {})\">\n", top + layout.height));
    out.0.push_str(&legend.body);
    out.0.push_str("</g>\n");
    Sheet { width, height, body: out.0 }
}

struct Body(String);

impl Body {
    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = self.0.write_fmt(text);
    }
}

/// One line about the whole.
pub fn summary(picture: &Picture) -> String {
    let count =
        |many: usize, thing: &str| format!("{many} {thing}{}", if many == 1 { "" } else { "s" });
    let workloads = picture.rows.iter().filter(|row| row.space().is_some()).count();
    let policies = picture.policies.iter().filter(|policy| !policy.old).count();
    format!(
        "{} in {}, {}",
        count(workloads, "workload"),
        count(picture.spaces.len(), "namespace"),
        if policies == 1 { "1 policy".to_owned() } else { format!("{policies} policies") }
    )
}

/// Which colour a block has.
pub(crate) fn class(picture: &Picture, scene: &Scene, block: usize) -> &'static str {
    let its = &scene.blocks[block];
    let content = &scene.contents[its.content as usize];
    if picture.compared {
        return match content.change(true) {
            Change::Same => "same",
            Change::Added => "added",
            Change::Removed => "removed",
            Change::More | Change::Less | Change::Other => "changed",
        };
    }
    let outside = |items: &[usize]| {
        items.iter().any(|item| matches!(scene.items[*item].what, Stands::Outside(_)))
    };
    let space = |item: &usize| match scene.items[*item].what {
        Stands::Workload(row) => picture.rows[row].space(),
        Stands::Space(space) => Some(space),
        Stands::Outside(_) => None,
    };
    if outside(&its.sources) {
        return "inbound";
    }
    if outside(&its.destinations) {
        return "outbound";
    }
    let all: std::collections::BTreeSet<_> =
        its.sources.iter().chain(&its.destinations).map(space).collect();
    if all.len() == 1 { "inner" } else { "cross" }
}

fn way(out: &mut Body, picture: &Picture, scene: &Scene, layout: &Layout, number: usize) {
    let way = &layout.ways[number];
    let block = &scene.blocks[number];
    let content = &scene.contents[block.content as usize];
    let perhaps = content.now.passes.is_empty() && !content.now.open.is_empty();
    let line: String = way.lines.iter().map(|points| rounded(points)).collect();
    let heads: String = way.heads.iter().map(|(x, y)| format!("M{} {y}l-7 -4v8z", x - 1)).collect();
    out.put(format_args!(
        "<g class=\"net {}{}\" data-block=\"{number}\"><title>{}</title>\
         <path class=\"halo\" d=\"{line}\"/><path class=\"line\" d=\"{line}\"/>\
         <path class=\"head\" d=\"{heads}\"/></g>\n",
        class(picture, scene, number),
        if perhaps { " perhaps" } else { "" },
        markup(&rules::tooltip(picture, scene, number)),
    ));
}

/// A path with round corners.
fn rounded(points: &[(i32, i32)]) -> String {
    let mut clean: Vec<(i32, i32)> = Vec::new();
    for point in points {
        if clean.last() == Some(point) {
            continue;
        }
        let straight = |a: &(i32, i32), b: &(i32, i32)| {
            (a.0 == b.0 && b.0 == point.0) || (a.1 == b.1 && b.1 == point.1)
        };
        if let [.., a, b] = &clean[..]
            && straight(a, b)
        {
            clean.pop();
        }
        clean.push(*point);
    }
    let mut path = String::new();
    let Some((first, rest)) = clean.split_first() else { return path };
    let _ = write!(path, "M{} {}", first.0, first.1);
    let mut before = *first;
    for (at, corner) in rest.iter().enumerate() {
        let Some(next) = rest.get(at + 1) else {
            let _ = write!(path, "L{} {}", corner.0, corner.1);
            break;
        };
        let length = |a: (i32, i32), b: (i32, i32)| (a.0 - b.0).abs() + (a.1 - b.1).abs();
        let radius = (length(before, *corner) / 2).min(length(*corner, *next) / 2).min(7);
        let toward = |to: (i32, i32)| {
            (
                corner.0 + (to.0 - corner.0).signum() * radius,
                corner.1 + (to.1 - corner.1).signum() * radius,
            )
        };
        let (a, b) = (toward(before), toward(*next));
        let _ = write!(path, "L{} {}Q{} {} {} {}", a.0, a.1, corner.0, corner.1, b.0, b.1);
        before = *corner;
    }
    path
}

fn frame(out: &mut Body, picture: &Picture, scene: &Scene, frame: &Frame) {
    let Frame { x, y, w, h, .. } = *frame;
    let (class, data) = match frame.kind {
        Kind::Chip(item) => ("chip", format!("data-item=\"{item}\"")),
        Kind::Head(space) => ("headbox", format!("data-space=\"{space}\"")),
        Kind::Side(item, _) => match scene.items[item].what {
            Stands::Outside(_) => ("side outside", format!("data-item=\"{item}\"")),
            _ => ("side chip", format!("data-item=\"{item}\"")),
        },
        Kind::Set(set) => ("side set", format!("data-set=\"{set}\"")),
    };
    let boxed = match frame.kind {
        Kind::Chip(item) | Kind::Side(item, _) => {
            matches!(scene.items[item].what, Stands::Space(_)).then_some(" whole")
        }
        _ => None,
    };
    let change = match frame.change {
        Change::Added => " new",
        Change::Removed => " gone",
        _ => "",
    };
    out.put(format_args!(
        "<g class=\"frame {class}{}{change}\" {data}><title>{}</title>",
        boxed.unwrap_or_default(),
        markup(&rules::frame_tooltip(picture, scene, frame.kind)),
    ));
    if !matches!(frame.kind, Kind::Head(_)) {
        out.put(format_args!(
            "<rect class=\"box\" x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" rx=\"6\"/>"
        ));
    }
    for (wall, at) in frame.walls.iter().zip([x + w, x]) {
        let (top, bottom) = (y + 5, y + h - 5);
        let middle = i32::midpoint(top, bottom);
        let mut line = |class: &str, from: i32, to: i32| {
            out.put(format_args!("<path class=\"{class}\" d=\"M{at} {from}V{to}\"/>"));
        };
        match wall {
            Wall::None => {}
            Wall::Held => line("wall", top, bottom),
            Wall::Free => line("open", top, bottom),
            Wall::Mixed => {
                line("wall", top, middle - 2);
                line("open", middle + 2, bottom);
            }
        }
    }
    let mut base = y + 20;
    out.put(format_args!(
        "<text class=\"name\" font-size=\"{TITLE}\" x=\"{}\" y=\"{base}\">{}</text>",
        x + 12,
        markup(&frame.title)
    ));
    base += 16;
    for note in &frame.notes {
        out.put(format_args!(
            "<text class=\"note\" font-size=\"{SMALL}\" x=\"{}\" y=\"{}\">{}</text>",
            x + 12,
            base - 1,
            markup(note)
        ));
        base += 16;
    }
    for socket in &frame.sockets {
        let change = match socket.change {
            Change::Added => " added",
            Change::Removed => " removed",
            Change::Same => "",
            _ => " changed",
        };
        out.put(format_args!(
            "<text class=\"port{change}\" font-size=\"{SMALL}\" x=\"{}\" y=\"{}\">{}</text>",
            x + 12,
            socket.y + 4,
            markup(&socket.text)
        ));
    }
    out.0.push_str("</g>\n");
}

struct Legend {
    width: i32,
    height: i32,
    body: String,
}

/// What marks and colours mean; only those that are there.
fn legend(picture: &Picture, scene: &Scene, layout: &Layout) -> Legend {
    let mut entries: Vec<(String, &str)> = Vec::new();
    let used: std::collections::BTreeSet<&str> =
        (0..scene.blocks.len()).map(|block| class(picture, scene, block)).collect();
    for (name, says) in [
        ("inbound", "from outside"),
        ("outbound", "to outside"),
        ("cross", "between namespaces"),
        ("inner", "within a namespace"),
        ("added", "new"),
        ("removed", "gone"),
        ("changed", "other ports than before"),
        ("same", "as before"),
    ] {
        if used.contains(name) {
            let line = format!(
                "<g class=\"net {name}\"><path class=\"line\" d=\"M0 0h22\"/><path class=\"head\" d=\"M28 0l-7 -4v8z\"/></g>"
            );
            entries.push((line, says));
        }
    }
    let walls = || layout.frames.iter().flat_map(|frame| frame.walls);
    if walls().any(|wall| matches!(wall, Wall::Held | Wall::Mixed)) {
        let line = "<path class=\"wall\" d=\"M14 -7V7\"/>".to_owned();
        entries.push((line, "policies hold this side (left: in, right: out)"));
    }
    if walls().any(|wall| matches!(wall, Wall::Free | Wall::Mixed)) {
        let line = "<path class=\"open\" d=\"M14 -7V7\"/>".to_owned();
        let says = if picture.free.content.is_some() {
            "no policy holds this side: everything passes from such right sides, and from outside, to such left sides, without a line"
        } else {
            "no policy holds this side"
        };
        entries.push((line, says));
    }
    let contents = || scene.blocks.iter().map(|block| &scene.contents[block.content as usize]);
    if contents().any(|content| content.now.partly) {
        entries.push((
            "<text class=\"port\" x=\"10\" y=\"4\">~</text>".to_owned(),
            "between some of them only",
        ));
    }
    if contents().any(|content| !content.now.open.is_empty()) {
        let line = "<g class=\"net same perhaps\"><path class=\"line\" d=\"M0 0h28\"/></g>";
        entries.push((line.to_owned(), "perhaps: depends on a fact that is missing"));
    }
    let mut out = Body(String::new());
    let (mut x, mut y, mut most) = (24, 8, 0);
    let limit = layout.width.max(720) - 24;
    for (sign, says) in entries {
        let wide = 40 + super::text::width(says, SMALL) + 16;
        if x > 24 && x + wide > limit {
            (x, y) = (24, y + 22);
        }
        out.put(format_args!(
            "<g class=\"key\" transform=\"translate({x} {y})\">{sign}<text class=\"note\" font-size=\"{SMALL}\" x=\"38\" y=\"4\">{}</text></g>\n",
            markup(says)
        ));
        x += wide;
        most = most.max(x);
    }
    Legend { width: most + 24, height: y + 24, body: out.0 }
}

/// What a socket says, in full.
pub(crate) fn content_text(picture: &Picture, scene: &Scene, block: usize) -> String {
    said(&scene.contents[scene.blocks[block].content as usize], picture.compared)
}
