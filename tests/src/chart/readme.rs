//! The README of a chart from its `values.yaml`, whose comments are written as helm-docs has them (`# -- what it is`).
//! Pure.

use std::{collections::BTreeMap, fmt::Write};

use serde_yaml::Value;

/// Where the table goes in the README's text.
const PLACE: &str = "<!-- values -->";

/// What is wrong with a chart's values or text.
#[derive(Debug, thiserror::Error)]
pub enum ReadmeError {
    /// The values are no YAML.
    #[error("values.yaml is no YAML")]
    Values(#[source] serde_yaml::Error),
    /// A default that JSON cannot say.
    #[error("the default of {key} cannot be written as JSON")]
    Default {
        /// Path of the value.
        key: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A value without a comment.
    #[error("{key} in values.yaml has no comment: write `# -- what it is` above it")]
    Undocumented {
        /// Path of the value.
        key: String,
    },
    /// The text does not say where the values go.
    #[error("README.md.in has no line `{PLACE}`, where the table of values goes")]
    NoPlace,
}

/// The README: a text, with a table of every value in its place.
///
/// # Errors
/// See [`ReadmeError`].
pub fn readme(text: &str, values: &str) -> Result<String, ReadmeError> {
    if !text.contains(PLACE) {
        return Err(ReadmeError::NoPlace);
    }
    let comments = comments(values);
    let parsed: Value = serde_yaml::from_str(values).map_err(ReadmeError::Values)?;
    let mut table = "| value | type | default | what it is |\n|---|---|---|---|\n".to_owned();
    rows(&parsed, "", &comments, &mut table)?;
    Ok(text.replacen(PLACE, table.trim_end(), 1))
}

/// Comments by the path of the value below them.
fn comments(values: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut path: Vec<(usize, &str)> = Vec::new();
    let mut pending: Option<String> = None;
    for line in values.lines() {
        let trimmed = line.trim_start();
        let indentation = line.len() - trimmed.len();
        if let Some(comment) = trimmed.strip_prefix("# -- ") {
            pending = Some(comment.to_owned());
        } else if let Some(more) = trimmed.strip_prefix("# ") {
            if let Some(pending) = &mut pending {
                pending.push(' ');
                pending.push_str(more);
            }
        } else if let Some((key, _)) = trimmed.split_once(':')
            && !trimmed.starts_with('-')
        {
            path.retain(|(depth, _)| *depth < indentation);
            path.push((indentation, key));
            if let Some(comment) = pending.take() {
                let keys: Vec<&str> = path.iter().map(|(_, key)| *key).collect();
                found.insert(keys.join("."), comment);
            }
        }
    }
    found
}

fn rows(value: &Value, path: &str, comments: &BTreeMap<String, String>, table: &mut String) -> Result<(), ReadmeError> {
    if let Some(comment) = comments.get(path) {
        let default = serde_json::to_string(value).map_err(|source| ReadmeError::Default {
            key: path.to_owned(),
            source,
        })?;
        let kind = match value {
            Value::Null => "any",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Sequence(_) => "list",
            Value::Mapping(_) | Value::Tagged(_) => "object",
        };
        let comment = comment.replace('|', "\\|");
        // Writing to a string cannot fail.
        let _ = writeln!(table, "| `{path}` | {kind} | `{default}` | {comment} |");
        return Ok(());
    }
    let inner = value.as_mapping().filter(|mapping| !mapping.is_empty());
    let Some(mapping) = inner else {
        return Err(ReadmeError::Undocumented { key: path.to_owned() });
    };
    for (key, value) in mapping {
        let key = key.as_str().unwrap_or_default();
        let below = if path.is_empty() {
            key.to_owned()
        } else {
            format!("{path}.{key}")
        };
        rows(value, &below, comments, table)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_a_row_with_its_default() {
        let values = "# -- How many.\nreplicas: 2\nimage:\n  # -- Whose.\n  # Or none.\n  name: ''\n# -- All of it.\nlimits:\n  cpu: 1\n";
        let text = readme("# x\n<!-- values -->\n", values).unwrap();
        let rows: Vec<&str> = text.lines().skip(3).collect();
        assert_eq!(
            rows,
            [
                "| `replicas` | number | `2` | How many. |",
                "| `image.name` | string | `\"\"` | Whose. Or none. |",
                "| `limits` | object | `{\"cpu\":1}` | All of it. |",
            ]
        );
    }

    #[test]
    fn a_value_without_a_comment_is_refused_by_its_path() {
        let error = readme("<!-- values -->", "image:\n  # -- Whose.\n  name: a\n  tag: b\n").unwrap_err();
        assert!(error.to_string().starts_with("image.tag "), "{error}");
    }
}
