//! The schema knows every value, and says what it is.

use std::fs;

use serde_json::Value;

use crate::helm::chart;

/// Paths of values of which the schema says nothing or does not say what they are.
fn unknown(values: &serde_yaml::Value, schema: &Value, path: &str, found: &mut Vec<String>) {
    let properties = &schema["properties"];
    let Some(mapping) = values.as_mapping().filter(|_| properties.is_object()) else {
        return;
    };
    if schema["additionalProperties"] != false {
        found.push(format!("{path} takes unknown values"));
    }
    for (key, value) in mapping {
        let key = key.as_str().unwrap();
        let below = format!("{path}.{key}");
        let property = &properties[key];
        if property["description"].as_str().is_none_or(str::is_empty) {
            found.push(format!("{below} has no description"));
        }
        unknown(value, property, &below, found);
    }
}

/// Paths that the schema knows and `values.yaml` does not.
fn absent(values: &serde_yaml::Value, schema: &Value, path: &str, found: &mut Vec<String>) {
    for (key, property) in schema["properties"].as_object().into_iter().flatten() {
        let below = format!("{path}.{key}");
        // Helm's own.
        if below == ".global" {
            continue;
        }
        match values.get(key) {
            None => found.push(format!("{below} is not in values.yaml")),
            Some(value) => absent(value, property, &below, found),
        }
    }
}

#[test]
fn every_value_is_in_the_schema_with_a_description_and_the_other_way_round() {
    for name in lem_tests::chart::CHARTS {
        let read = |file: &str| fs::read_to_string(chart(name).join(file)).unwrap();
        let values: serde_yaml::Value = serde_yaml::from_str(&read("values.yaml")).unwrap();
        let schema: Value = serde_json::from_str(&read("values.schema.json")).unwrap();
        let mut found = Vec::new();
        unknown(&values, &schema, "", &mut found);
        absent(&values, &schema, "", &mut found);
        assert!(found.is_empty(), "{name}: {found:#?}");
    }
}
