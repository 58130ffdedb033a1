//! How does a picture become a page that answers?
//!
//! ```text
//!   page ─┬─ first sheet, as SVG: seen without any script
//!         ├─ other sheets: the whole, each namespace; shown when asked for
//!         ├─ data: rows, cells by class, rules      (JSON that no script can be smuggled into)
//!         └─ script and style, allowed by their hashes alone
//! ```
//!
//! One file that refers to nothing outside of itself, and whose policy forbids it to.

use podwall_analysis::picture::Picture;
use podwall_analysis::picture::scene::{Scene, View};

use super::svg::{DARK, LIGHT, STYLE, sheet};
use super::text::{markup, plain};
use super::{data, sha256};
use crate::json::NoJson;

/// Up to so many workloads the page begins with all of them, not with namespaces.
pub const FEW: usize = 60;
/// Sheets with more boxes than this are left out: the matrix shows them better.
const MOST: usize = 150;

/// In the order in which they use one another.
const SCRIPTS: [&str; 5] = [
    include_str!("page/read.js"),
    include_str!("page/panel.js"),
    include_str!("page/map.js"),
    include_str!("page/matrix.js"),
    include_str!("page/page.js"),
];
const PAGE: &str = include_str!("page/page.css");

/// The page. It begins with this scene.
///
/// # Errors
/// Never for a picture; serde's types say that it could.
pub fn html(picture: &Picture, begin: &Scene, title: &str) -> Result<String, NoJson> {
    let mut sheets: Vec<(String, String, Scene)> =
        vec![("begin".to_owned(), "Start".to_owned(), begin.clone())];
    let workloads = picture.rows.iter().filter(|row| row.space().is_some()).count();
    let mut add = |key: String, name: String, view: &View| {
        let scene = Scene::of(picture, view);
        if scene.items.len() <= MOST {
            sheets.push((key, name, scene));
        }
    };
    if picture.spaces.len() > 1 {
        add("spaces".to_owned(), "Namespaces".to_owned(), &View::overview(picture));
    }
    if workloads <= MOST {
        add("all".to_owned(), "All workloads".to_owned(), &View::everything(picture));
    }
    for (number, space) in picture.spaces.iter().enumerate() {
        let view = View::namespace(picture, number);
        add(format!("space-{number}"), space.name.clone(), &view);
    }
    let drawn: Vec<_> = sheets
        .iter()
        .map(|(key, name, scene)| {
            (key, sheet(picture, scene, if key == "begin" { title } else { name }))
        })
        .collect();
    let named: Vec<(String, String, &Scene)> =
        sheets.iter().map(|(key, name, scene)| (key.clone(), name.clone(), scene)).collect();
    let data = serde_json::to_string(&data::data(picture, title, &named))
        .map_err(|error| NoJson(error.to_string()))?;
    let style = format!(
        ":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root:not([data-theme=\"light\"]) {{ {dark} }} }}\n\
         :root[data-theme=\"dark\"] {{ {dark} }}\n{}\n{}\n",
        STYLE.trim(),
        PAGE.trim(),
        light = LIGHT.trim(),
        dark = DARK.trim(),
    );
    let script = format!("\"use strict\";\n{}", SCRIPTS.concat());
    let mut out = String::new();
    out.push_str("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
    out.push_str(&format!(
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src {}; \
         style-src {}; base-uri 'none'; form-action 'none'\">\n",
        sha256::source(&script),
        sha256::source(&style)
    ));
    out.push_str("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    out.push_str("<meta name=\"generator\" content=\"podwall draw\">\n");
    out.push_str("<meta name=\"color-scheme\" content=\"light dark\">\n");
    out.push_str(&format!("<title>{}</title>\n<style>{style}</style>\n</head>\n", markup(title)));
    out.push_str("<body>\n<main id=\"stage\" tabindex=\"-1\">\n");
    for (at, (key, sheet)) in drawn.iter().enumerate() {
        let svg = format!(
            "<svg class=\"map\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" role=\"group\" aria-label=\"Map\">\n{2}</svg>",
            sheet.width, sheet.height, sheet.body
        );
        if at == 0 {
            out.push_str(&format!("<div id=\"map\">{svg}</div>\n"));
        } else {
            out.push_str(&format!("<template data-sheet=\"{key}\">{svg}</template>\n"));
        }
    }
    out.push_str("</main>\n<script type=\"application/json\" id=\"data\">");
    out.push_str(&inert(&plain(&data)));
    out.push_str(&format!("</script>\n<script>{script}</script>\n</body>\n</html>\n"));
    Ok(out)
}

/// JSON that no parser of HTML takes for anything else.
fn inert(json: &str) -> String {
    json.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}
