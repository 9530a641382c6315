//! docs/api.md: every field of the two resources, from the schemas that the API server gets. Pure.

use std::{collections::HashMap, error::Error, fmt::Write as _};

use serde_yaml::{Mapping, Value};

const HEAD: &str = "\
<!-- Generated from the custom resource definitions by `make generate`. Do not edit. -->

# API reference

Group `lem.dev`, version `v1alpha1`. `kubectl explain effexp.spec` shows the same. A field in **bold** is required. Types:
a `quantity`, a duration such as `90s` and a decimal number are strings. What a rule says is checked by the API server, by
`lem validate` and by `lem run`, with the same words.

";

/// The whole page.
///
/// # Errors
/// A definition that is no YAML, which a test excludes.
pub(super) fn page(definitions: &[(&'static str, String)]) -> Result<String, Box<dyn Error>> {
    let mut page = HEAD.to_owned();
    let mut shown = HashMap::new();
    for (_, yaml) in definitions {
        let definition: Value = serde_yaml::from_str(yaml)?;
        let names = &definition["spec"]["names"];
        let kind = names["kind"].as_str().unwrap_or_default();
        let short = names["shortNames"][0].as_str().or(names["singular"].as_str());
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let description = schema["description"].as_str().unwrap_or_default();
        writeln!(page, "## {kind}\n\n{description}\n")?;
        let mut objects = Objects {
            page: &mut page,
            shown: &mut shown,
        };
        objects.object(short.unwrap_or(kind), schema)?;
    }
    page.truncate(page.trim_end().len());
    page.push('\n');
    Ok(page)
}

/// The sections of one resource.
struct Objects<'a> {
    page: &'a mut String,
    /// Where a schema is shown already: seventy metrics are one section, and a plan is part of both resources.
    shown: &'a mut HashMap<String, String>,
}

impl Objects<'_> {
    /// The fields of an object, then those of the objects in it.
    fn object(&mut self, path: &str, schema: &Value) -> Result<(), Box<dyn Error>> {
        let Some(properties) = schema["properties"].as_mapping() else {
            return Ok(());
        };
        if path.contains('.') {
            let description = schema["description"].as_str().unwrap_or_default();
            writeln!(self.page, "### {path}\n\n{description}\n")?;
        }
        if let Some(choice) = choice(schema) {
            writeln!(self.page, "{choice}\n")?;
        }
        writeln!(
            self.page,
            "| field | type | default | constraints | description |\n|---|---|---|---|---|"
        )?;
        let required: Vec<&str> = texts(&schema["required"]).collect();
        let mut inner = Vec::new();
        for (name, field) in properties {
            let name = name.as_str().unwrap_or_default();
            let (suffix, item) = innermost(field);
            let inside = format!("{path}.{name}{suffix}");
            let mut kind = kind(field);
            if item["properties"].is_mapping() {
                let key = fingerprint(item)?;
                let place = self.shown.entry(key).or_insert_with(|| {
                    inner.push((inside.clone(), item.clone()));
                    inside
                });
                kind = format!("[{kind}](#{})", anchor(place));
            }
            let shown = if required.contains(&name) {
                format!("**`{name}`**")
            } else {
                format!("`{name}`")
            };
            let default = field.get("default").map(inline).transpose()?.unwrap_or_default();
            writeln!(
                self.page,
                "| {shown} | {kind} | {default} | {} | {} |",
                constraints(field).join("; "),
                cell(field["description"].as_str().unwrap_or_default())
            )?;
        }
        let rules: Vec<&str> = messages(schema).collect();
        if !rules.is_empty() {
            self.page.push_str("\nRules:\n\n");
        }
        for rule in rules {
            writeln!(self.page, "- {rule}")?;
        }
        self.page.push('\n');
        for (path, schema) in inner {
            self.object(&path, &schema)?;
        }
        Ok(())
    }
}

/// The schema inside lists and maps, and what has to be written behind the field to get there.
fn innermost(field: &Value) -> (String, &Value) {
    if field["items"].is_mapping() {
        let (suffix, inner) = innermost(&field["items"]);
        return (format!("[]{suffix}"), inner);
    }
    if field["additionalProperties"].is_mapping() {
        let (suffix, inner) = innermost(&field["additionalProperties"]);
        return (format!("{{}}{suffix}"), inner);
    }
    (String::new(), field)
}

fn kind(field: &Value) -> String {
    if field["items"].is_mapping() {
        return format!("list of {}", kind(&field["items"]));
    }
    if field["additionalProperties"].is_mapping() {
        return format!("map to {}", kind(&field["additionalProperties"]));
    }
    let name = field["type"].as_str().unwrap_or("any");
    match field["format"].as_str() {
        Some("date-time") => "time".to_owned(),
        _ => name.to_owned(),
    }
}

/// Bounds of a value, in words.
fn constraints(field: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let choices: Vec<String> = texts(&field["enum"]).map(|text| format!("`{text}`")).collect();
    if !choices.is_empty() {
        found.push(choices.join(", "));
    }
    for (least, most, unit) in [
        ("minimum", "maximum", ""),
        ("minLength", "maxLength", " characters"),
        ("minItems", "maxItems", " items"),
        ("minProperties", "maxProperties", " entries"),
    ] {
        match (field[least].as_f64(), field[most].as_f64()) {
            (Some(least), Some(most)) => found.push(format!("{least} to {most}{unit}")),
            (Some(least), None) => found.push(format!("at least {least}{unit}")),
            (None, Some(most)) => found.push(format!("at most {most}{unit}")),
            (None, None) => {}
        }
    }
    if let Some(pattern) = field["pattern"].as_str() {
        found.push(format!("`{}`", cell(pattern)));
    }
    // The rules of an object stand under its own table.
    if !field["properties"].is_mapping() {
        found.extend(messages(field).map(cell));
    }
    found
}

/// What exactly-one choices ask for.
fn choice(schema: &Value) -> Option<String> {
    let variants = schema["oneOf"].as_sequence()?;
    let names: Vec<String> = variants
        .iter()
        .flat_map(|variant| texts(&variant["required"]))
        .map(|name| format!("`{name}`"))
        .collect();
    Some(format!("Exactly one of {}.", names.join(", ")))
}

/// Messages of the rules of one schema.
fn messages(schema: &Value) -> impl Iterator<Item = &str> {
    let rules = schema["x-kubernetes-validations"].as_sequence();
    rules.into_iter().flatten().filter_map(|rule| rule["message"].as_str())
}

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_sequence().into_iter().flatten().filter_map(Value::as_str)
}

/// A default on one line.
fn inline(value: &Value) -> Result<String, serde_json::Error> {
    Ok(format!("`{}`", cell(&serde_json::to_string(value)?)))
}

/// What tells one object from another: everything but how its place describes it.
fn fingerprint(schema: &Value) -> Result<String, serde_yaml::Error> {
    let mut bare: Mapping = schema.as_mapping().cloned().unwrap_or_default();
    for key in ["description", "nullable", "default"] {
        bare.remove(key);
    }
    serde_yaml::to_string(&bare)
}

/// Text that may stand in a cell of a table.
fn cell(text: &str) -> String {
    text.replace('\n', " ").replace('|', "\\|").replace('<', "&lt;")
}

/// The anchor that a heading gets: lower case, without punctuation.
fn anchor(heading: &str) -> String {
    heading
        .chars()
        .filter(|character| character.is_alphanumeric())
        .collect::<String>()
        .to_lowercase()
}
