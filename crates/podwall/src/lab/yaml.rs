//! How does an object look as YAML?

use anyhow::{Context, Result};
use serde_json::Value;

/// The value as YAML text, ending with a newline.
pub(crate) fn to_yaml(value: &Value) -> Result<String> {
    let mut text = serde_saphyr::to_string(value).context("cannot write this object as YAML")?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}
