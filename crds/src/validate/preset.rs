//! Names of synthetic shapes. Pure.
//!
//! The API server does not ask for these: the image of a cluster's runners may be of another version.

use super::{Violation, structural::suggestion};
use crate::{
    EfficiencyExperimentSpec,
    experiment::{ModelSource, SweepField, swept_values},
};

/// The shapes that the runner of this version knows, in its own order.
pub const PRESETS: [&str; 8] = [
    "tiny-test",
    "smollm2-135m",
    "tinyllama-1.1b",
    "llama-3.2-1b",
    "llama-3.1-8b",
    "llama-3.1-70b",
    "qwen3-8b",
    "mistral-7b",
];

/// Every preset of a spec that is none of [`PRESETS`]: the model's, or those of the sweep that take its place. `path` is
/// where the spec stands, such as `spec`.
pub fn presets(spec: &EfficiencyExperimentSpec, path: &str) -> Vec<Violation> {
    let ModelSource::Synthetic(synthetic) = &spec.model.source else {
        return Vec::new();
    };
    let swept = swept_values(&spec.sweep, SweepField::Preset);
    let mut given: Vec<(String, String)> = swept
        .into_iter()
        .map(|(field, value)| (field, value.to_string()))
        .collect();
    if given.is_empty() {
        let field = "model.source.synthetic.preset".to_owned();
        given.extend(synthetic.preset.clone().map(|name| (field, name)));
    }
    let unknown = given.into_iter().filter(|(_, name)| !PRESETS.contains(&name.as_str()));
    unknown
        .map(|(field, name)| Violation::new(&format!("{path}.{field}"), no_such_preset(&name)))
        .collect()
}

fn no_such_preset(name: &str) -> String {
    let hint = suggestion(name, PRESETS.into_iter())
        .map(|near| format!("; did you mean {near}?"))
        .unwrap_or_default();
    format!("there is no preset {name:?}; presets are {}{hint}", PRESETS.join(", "))
}
