//! Experiment files: YAML, then the schema with its CEL rules.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(manifest) = serde_yaml::from_str::<serde_json::Value>(text) {
        let _ = lem_crds::validate::experiment(&manifest);
    }
});
