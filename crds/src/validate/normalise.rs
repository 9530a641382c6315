//! What the API server does before it looks: fields that are left empty count as absent, and 8.0 is an integer. Pure.

use serde_json::Value;

/// Brings a manifest into the form that the schema is checked against.
pub(super) fn normalise(schema: &Value, value: &mut Value) {
    if let Value::Number(number) = value
        && schema["type"] == "integer"
        && let Some(whole) = number.as_f64().filter(|number| number.fract() == 0.0)
        && whole.abs() < MOST_EXACT
        && !number.is_i64()
    {
        *value = Value::from(whole as i64);
    }
    if let Some(object) = value.as_object_mut() {
        if let Some(properties) = schema["properties"].as_object() {
            object.retain(|key, item| !item.is_null() || !properties.contains_key(key));
        }
        for (key, item) in object.iter_mut() {
            let property = schema["properties"].get(key);
            normalise(property.unwrap_or(&schema["additionalProperties"]), item);
        }
    }
    for item in value.as_array_mut().into_iter().flatten() {
        normalise(&schema["items"], item);
    }
}

/// 2⁵³: up to here every whole number is one `f64`.
const MOST_EXACT: f64 = 9_007_199_254_740_992.0;
