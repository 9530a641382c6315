//! A walk over a structural schema, in the API server's meaning. Pure.

use regex::Regex;
use serde_json::Value;

use super::Violation;

/// Appends every violation of `value` against `schema`.
pub(super) fn check(schema: &Value, value: &Value, path: &str, violations: &mut Vec<Violation>) {
    let mut report = |message: String| {
        violations.push(Violation {
            path: path.to_owned(),
            message,
        });
    };
    if value.is_null() && schema["nullable"] == true {
        return;
    }
    if schema["x-kubernetes-preserve-unknown-fields"] == true {
        return;
    }
    if schema["x-kubernetes-int-or-string"] == true {
        if !(value.is_string() || value.is_i64() || value.is_u64()) {
            report(format!("must be an integer or a string, found {}", kind(value)));
        }
        return;
    }
    let expected = schema["type"].as_str().unwrap_or("object");
    if !has_type(value, expected) {
        report(format!("must be {}, found {}", article(expected), kind(value)));
        return;
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let names: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
        let found = value.as_str().unwrap_or_default();
        let hint = suggestion(found, names.iter().copied())
            .map(|name| format!("; did you mean {name}?"))
            .unwrap_or_default();
        report(format!("{found:?} is not one of {}{hint}", names.join(", ")));
        return;
    }
    match value {
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or(f64::NAN);
            if let Some(minimum) = schema["minimum"].as_f64().filter(|minimum| number < *minimum) {
                report(format!("must be at least {minimum}, found {number}"));
            }
            if let Some(maximum) = schema["maximum"].as_f64().filter(|maximum| number > *maximum) {
                report(format!("must be at most {maximum}, found {number}"));
            }
        }
        Value::String(text) => {
            let length = text.chars().count() as u64;
            if schema["minLength"].as_u64().is_some_and(|minimum| length < minimum) {
                report("must not be empty".to_owned());
            }
            if let Some(maximum) = schema["maxLength"].as_u64().filter(|maximum| length > *maximum) {
                report(format!("must be at most {maximum} characters long, found {length}"));
            }
            if let Some(pattern) = schema["pattern"].as_str()
                && !Regex::new(pattern).is_ok_and(|regex| regex.is_match(text))
            {
                let meaning = schema["description"].as_str().unwrap_or_default();
                report(format!("{text:?} does not match {pattern}. {meaning}"));
            }
        }
        Value::Array(items) => {
            let length = items.len() as u64;
            if schema["minItems"].as_u64().is_some_and(|minimum| length < minimum) {
                report("must not be empty".to_owned());
            }
            if let Some(maximum) = schema["maxItems"].as_u64().filter(|maximum| length > *maximum) {
                report(format!("must have at most {maximum} items, found {length}"));
            }
            for (index, item) in items.iter().enumerate() {
                check(&schema["items"], item, &format!("{path}[{index}]"), violations);
            }
        }
        Value::Object(_) => check_object(schema, value, path, violations),
        Value::Null | Value::Bool(_) => {}
    }
}

fn check_object(schema: &Value, value: &Value, path: &str, violations: &mut Vec<Violation>) {
    let (Some(object), Some(properties)) = (value.as_object(), schema["properties"].as_object()) else {
        return;
    };
    for (key, item) in object {
        let at = format!("{path}.{key}");
        match properties.get(key) {
            Some(property) => check(property, item, &at, violations),
            None => violations.push(Violation {
                path: at,
                message: unknown_field(key, properties.keys().map(String::as_str)),
            }),
        }
    }
    for required in schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        if !object.contains_key(required) {
            let meaning = properties
                .get(required)
                .and_then(|p| p["description"].as_str())
                .unwrap_or_default();
            violations.push(Violation {
                path: format!("{path}.{required}"),
                message: format!("missing. {meaning}"),
            });
        }
    }
    let branches: Vec<&str> = schema["oneOf"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|branch| branch["required"].get(0).and_then(Value::as_str))
        .collect();
    if !branches.is_empty() && branches.iter().filter(|name| object.contains_key(**name)).count() != 1 {
        violations.push(Violation {
            path: path.to_owned(),
            message: format!("give exactly one of {}", branches.join(", ")),
        });
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

fn suggestion<'a>(found: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
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

fn article(expected: &str) -> &'static str {
    match expected {
        "integer" => "an integer",
        "number" => "a number",
        "string" => "a string (quote it)",
        "boolean" => "true or false",
        "array" => "a list",
        _ => "a mapping",
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}
