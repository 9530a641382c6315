//! Descriptions as `kubectl explain` shows them: it shows no defaults, and not which fields exclude each other, so the
//! text says both. Pure.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{JSONSchemaProps, JSONSchemaPropsOrArray};
use serde_json::Value;

/// Adds defaults and exclusive choices to the descriptions of a schema and of everything in it.
pub(crate) fn complete(schema: &mut JSONSchemaProps) {
    let choices = choices(schema);
    let default = schema
        .default
        .as_ref()
        .and_then(|default| shown(&default.0, !choices.is_empty()));
    if let Some(description) = &mut schema.description {
        if choices.len() > 1 {
            description.push_str(&[" Exactly one of ", &choices.join(", "), "."].concat());
        }
        if let Some(default) = default {
            description.push_str(&[" Default: ", &default, "."].concat());
        }
    }
    for property in schema
        .properties
        .iter_mut()
        .flat_map(|properties| properties.values_mut())
    {
        complete(property);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        complete(items);
    }
}

/// Fields of which exactly one is set.
fn choices(schema: &JSONSchemaProps) -> Vec<String> {
    let alternatives = schema.one_of.iter().flatten();
    alternatives
        .filter_map(|one| one.required.as_ref()?.first().cloned())
        .collect()
}

/// A default in a word: a value, or which choice it is. The defaults of an object's fields stand with the fields.
fn shown(default: &Value, is_choice: bool) -> Option<String> {
    match default {
        Value::Bool(_) | Value::Number(_) => Some(default.to_string()),
        Value::String(text) => (!text.is_empty()).then(|| text.clone()),
        Value::Object(fields) if is_choice => fields.keys().next().cloned(),
        Value::Object(_) | Value::Array(_) | Value::Null => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn described(schema: Value) -> JSONSchemaProps {
        let mut schema = serde_json::from_value(schema).unwrap();
        complete(&mut schema);
        schema
    }

    #[test]
    fn a_default_and_a_choice_stand_in_the_description() {
        let schema = described(json!({"description": "Requests.", "properties": {
            "requests": {"description": "How many.", "type": "integer", "default": 8},
            "empty": {"description": "Path.", "type": "string", "default": ""},
            "list": {"description": "Each.", "items": {"description": "One.", "default": true}},
            "prompts": {"description": "Where from.", "default": {"synthetic": {"seed": 0}},
                "oneOf": [{"required": ["synthetic"]}, {"required": ["inline"]}]},
        }}));
        let fields = schema.properties.unwrap();
        let text = |name: &str| fields[name].description.clone().unwrap();
        assert_eq!(text("requests"), "How many. Default: 8.");
        assert_eq!(text("empty"), "Path.");
        assert_eq!(
            text("prompts"),
            "Where from. Exactly one of synthetic, inline. Default: synthetic."
        );
        let Some(JSONSchemaPropsOrArray::Schema(item)) = &fields["list"].items else {
            panic!("a list has a schema of its items");
        };
        assert_eq!(item.description.as_deref(), Some("One. Default: true."));
    }
}
