//! Name and labels, by the API server's rules. Pure.

use serde_json::{Map, Value};

use super::structural::{Findings, article, kind, unknown_field};

/// Fields of every object's metadata.
const FIELDS: [&str; 15] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

pub(super) fn check(metadata: &Value, findings: &mut Findings) {
    let empty = Map::new();
    let object = metadata.as_object().unwrap_or(&empty);
    match object.get("name") {
        None | Some(Value::Null) => findings.block("metadata.name", "missing: give the experiment a name"),
        Some(Value::String(name)) if !is_dns_subdomain(name) => findings.add(
            "metadata.name",
            format!("{name:?} must be lower-case letters, digits, '-' and '.', with a letter or digit around each '.' and at both ends"),
        ),
        Some(Value::String(_)) => {}
        Some(other) => findings.block("metadata.name", format!("must be {}, found {}", article("string"), kind(other))),
    }
    for key in object.keys().filter(|key| !FIELDS.contains(&key.as_str())) {
        findings.block(&format!("metadata.{key}"), unknown_field(key, FIELDS.into_iter()));
    }
    for field in ["labels", "annotations"] {
        for value in object
            .get(field)
            .and_then(Value::as_object)
            .into_iter()
            .flat_map(Map::values)
        {
            match value {
                Value::String(text) if field == "labels" && !is_label(text) => findings.add(
                    "metadata.labels",
                    format!("{text:?} must be letters, digits, '-', '_' and '.', with a letter or digit at both ends, and at most 63 characters"),
                ),
                Value::String(_) => {}
                other => findings.block(
                    &format!("metadata.{field}"),
                    format!("must be {}, found {}", article("string"), kind(other)),
                ),
            }
        }
    }
}

/// RFC 1123, as Kubernetes demands of names.
fn is_dns_subdomain(name: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let part = |part: &str| {
        part.bytes().all(|byte| alphanumeric(byte) || byte == b'-')
            && part.bytes().next().is_some_and(alphanumeric)
            && part.bytes().last().is_some_and(alphanumeric)
    };
    name.len() <= 253 && name.split('.').all(part)
}

fn is_label(value: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let at_the_ends = |byte: Option<u8>| byte.is_none_or(|byte| byte.is_ascii_alphanumeric());
    value.len() <= 63
        && value.bytes().all(inside)
        && at_the_ends(value.bytes().next())
        && at_the_ends(value.bytes().last())
}
