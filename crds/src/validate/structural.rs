//! A walk over a structural schema, in the API server's meaning. Pure.

use serde_json::{Map, Value};

use super::Violation;

/// What was found so far.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) violations: Vec<Violation>,
    /// A field is missing, unknown or of another kind, so that rules cannot be evaluated.
    pub(super) blocking: bool,
}

impl Findings {
    /// Adds a violation that hides the rules.
    pub(super) fn block(&mut self, path: &str, message: impl Into<String>) {
        self.blocking = true;
        self.violations.push(Violation::new(path, message));
    }

    /// Adds a violation beside which rules can be evaluated.
    pub(super) fn add(&mut self, path: &str, message: String) {
        self.violations.push(Violation::new(path, message));
    }
}

/// Appends every violation of `value` against `schema`.
pub(super) fn check(schema: &Value, value: &Value, path: &str, findings: &mut Findings) {
    if value.is_null() && schema["nullable"] == true {
        return;
    }
    if schema["x-kubernetes-preserve-unknown-fields"] == true {
        return;
    }
    if schema["x-kubernetes-int-or-string"] == true {
        if !(value.is_string() || value.is_i64() || value.is_u64()) {
            findings.block(path, format!("must be an integer or a string, found {}", kind(value)));
            return;
        }
    } else {
        let expected = schema["type"].as_str().unwrap_or("object");
        if !has_type(value, expected) {
            findings.block(path, format!("must be {}, found {}", article(expected), kind(value)));
            return;
        }
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let names: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
        let found = value.as_str().unwrap_or_default();
        let hint = suggestion(found, names.iter().copied())
            .map(|name| format!("; did you mean {name}?"))
            .unwrap_or_default();
        findings.block(path, format!("{found:?} is not one of {}{hint}", names.join(", ")));
        return;
    }
    match value {
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or(f64::NAN);
            if let Some(minimum) = schema["minimum"].as_f64().filter(|minimum| number < *minimum) {
                findings.add(path, format!("must be at least {minimum}, found {number}"));
            }
            if let Some(maximum) = schema["maximum"].as_f64().filter(|maximum| number > *maximum) {
                findings.add(path, format!("must be at most {maximum}, found {number}"));
            }
        }
        Value::String(text) => {
            let length = text.chars().count() as u64;
            if schema["minLength"].as_u64().is_some_and(|minimum| length < minimum) {
                findings.add(path, "must not be empty".to_owned());
            }
            if let Some(maximum) = schema["maxLength"].as_u64().filter(|maximum| length > *maximum) {
                findings.block(
                    path,
                    format!("must be at most {maximum} characters long, found {length}"),
                );
            }
        }
        Value::Array(items) => {
            let length = items.len() as u64;
            if schema["minItems"].as_u64().is_some_and(|minimum| length < minimum) {
                findings.add(path, "must not be empty".to_owned());
            }
            if let Some(maximum) = schema["maxItems"].as_u64().filter(|maximum| length > *maximum) {
                findings.block(path, format!("must have at most {maximum} items, found {length}"));
            }
            for (index, item) in items.iter().enumerate() {
                check(&schema["items"], item, &format!("{path}[{index}]"), findings);
            }
        }
        Value::Object(object) => check_object(schema, object, path, findings),
        Value::Null | Value::Bool(_) => {}
    }
}

fn check_object(schema: &Value, object: &Map<String, Value>, path: &str, findings: &mut Findings) {
    let Some(properties) = schema["properties"].as_object() else {
        let length = object.len() as u64;
        if let Some(maximum) = schema["maxProperties"].as_u64().filter(|maximum| length > *maximum) {
            findings.block(path, format!("must have at most {maximum} entries, found {length}"));
        }
        for (key, item) in object {
            check(
                &schema["additionalProperties"],
                item,
                &format!("{path}.{key}"),
                findings,
            );
        }
        return;
    };
    let mut misspelt = false;
    for (key, item) in object {
        let at = format!("{path}.{key}");
        if let Some(property) = properties.get(key) {
            check(property, item, &at, findings);
        } else {
            misspelt = true;
            findings.block(&at, unknown_field(key, properties.keys().map(String::as_str)));
        }
    }
    if misspelt {
        // What is missing is most likely what was misspelt.
        return;
    }
    let texts = |list: &'_ Value| -> Vec<String> {
        let list = list.as_array().into_iter().flatten();
        list.filter_map(Value::as_str).map(ToOwned::to_owned).collect()
    };
    for required in texts(&schema["required"]) {
        if !object.contains_key(&required) {
            let meaning = properties
                .get(&required)
                .and_then(|property| property["description"].as_str())
                .unwrap_or_default();
            findings.block(&format!("{path}.{required}"), format!("missing. {meaning}"));
        }
    }
    let branches = schema["oneOf"].as_array().into_iter().flatten();
    let branches: Vec<String> = branches.flat_map(|branch| texts(&branch["required"])).collect();
    let given: Vec<&str> = branches
        .iter()
        .filter(|name| object.contains_key(name.as_str()))
        .map(String::as_str)
        .collect();
    match (branches.as_slice(), given.as_slice()) {
        ([], _) | (_, [_]) => {}
        ([only], _) => findings.block(path, format!("give {only}")),
        (_, []) => findings.block(path, format!("give exactly one of {}", branches.join(", "))),
        (_, several) => findings.add(
            path,
            format!(
                "give exactly one of {}, found {}",
                branches.join(", "),
                several.join(" and ")
            ),
        ),
    }
}

/// The message about a field that the schema does not have.
pub(super) fn unknown_field<'a>(key: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    match suggestion(key, known.clone()) {
        Some(name) => format!("unknown field; did you mean {name}?"),
        None => format!(
            "unknown field; the fields here are {}",
            known.collect::<Vec<_>>().join(", ")
        ),
    }
}

/// The name that was most likely meant.
pub(super) fn suggestion<'a>(found: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|name| (strsim::jaro_winkler(&found.to_lowercase(), &name.to_lowercase()), name))
        .filter(|(similarity, _)| *similarity > 0.85)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

fn has_type(value: &Value, expected: &str) -> bool {
    match expected {
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        _ => value.is_object(),
    }
}

pub(super) fn article(expected: &str) -> &'static str {
    match expected {
        "integer" => "an integer",
        "number" => "a number",
        "string" => "a string (quote it)",
        "boolean" => "true or false",
        "array" => "a list",
        _ => "a mapping",
    }
}

pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}
