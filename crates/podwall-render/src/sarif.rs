//! What is the same in every SARIF log (2.1.0, OASIS standard) that this program writes?
//!
//! ```text
//!   log ── runs[0] ─┬─ tool: podwall, its version, the rules
//!                   └─ results: whoever writes the log makes them
//! ```

use serde_json::{Value as Json, json};

use crate::json::{NoJson, pretty};

/// A rule as the tool's description has it.
pub(crate) fn rule(id: &str, name: &str, what: &str, page: &str, level: &str) -> Json {
    json!({
        "id": id,
        "name": name,
        "shortDescription": { "text": what },
        "helpUri": page,
        "defaultConfiguration": { "level": level },
    })
}

/// The whole log.
///
/// # Errors
/// Never; serde's types say that it could.
pub(crate) fn log(version: &str, rules: &[Json], results: &[Json]) -> Result<String, NoJson> {
    pretty(&json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "podwall",
                "version": version,
                "informationUri": "https://github.com/podwall/podwall",
                "rules": rules,
            }},
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    }))
}
