//! `--set`: one field of a manifest, named by its path. Pure.

use lem_crds::validate::Violation;
use serde_json::{Map, Value};

use super::{ManifestError, strict};

/// One field and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    argument: String,
    path: Vec<String>,
    value: Value,
}

/// Reads the arguments of `--set`, such as `workload.requests=4`; a path starts in the spec unless it begins with
/// `metadata.`.
///
/// # Errors
/// The first that is not `field=value`.
pub fn settings(arguments: &[String]) -> Result<Vec<Setting>, ManifestError> {
    arguments.iter().map(|argument| Setting::read(argument)).collect()
}

impl Setting {
    fn read(argument: &str) -> Result<Self, ManifestError> {
        let (path, text) = argument.split_once('=').ok_or_else(|| {
            wrong(
                argument,
                "there is no `=`: write field=value, such as workload.requests=4",
            )
        })?;
        let path = path.strip_prefix("spec.").unwrap_or(path);
        let root = (!path.starts_with("metadata.")).then_some("spec");
        let path: Vec<String> = root.into_iter().chain(path.split('.')).map(str::to_owned).collect();
        if path.iter().any(String::is_empty) {
            return Err(wrong(
                argument,
                "the name of the field is incomplete: write field=value, such as workload.requests=4",
            ));
        }
        if text.trim().is_empty() {
            return Err(wrong(
                argument,
                "the value is empty: write null to leave the field at its default, or \"\" for an empty text",
            ));
        }
        let value = strict::value(serde_yaml::Deserializer::from_str(text))
            .map_err(|error| wrong(argument, format!("the value is not valid YAML: {error}")))?;
        Ok(Self {
            argument: argument.to_owned(),
            path,
            value,
        })
    }

    /// Sets the field.
    ///
    /// # Errors
    /// The path leads into a value that has no fields.
    pub(super) fn apply(&self, manifest: &mut Value) -> Result<(), ManifestError> {
        let mut target = manifest;
        for (depth, segment) in self.path.iter().enumerate() {
            if target.is_null() {
                *target = Value::Object(Map::new());
            }
            let what = if target.is_array() {
                "a list: set it as a whole"
            } else {
                "no mapping, so it has no fields"
            };
            let fields = target
                .as_object_mut()
                .ok_or_else(|| wrong(&self.argument, format!("{} is {what}", self.path[..depth].join("."))))?;
            target = fields.entry(segment.clone()).or_insert(Value::Null);
        }
        target.clone_from(&self.value);
        Ok(())
    }

    /// How a violation comes from this setting, in words: it is of the field or of one inside it, or of one on the way to it.
    fn part_in(&self, violation: &Violation) -> Option<String> {
        let own = self.path.join(".");
        let inside = |path: &str, of: &str| {
            path.strip_prefix(of)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        if inside(&violation.path, &own) {
            return Some(format!("from --set {}", self.argument));
        }
        // All fields are inside the spec.
        let around = violation.path.contains('.') && inside(&own, &violation.path);
        around.then(|| format!("--set {} is a part of it", self.argument))
    }
}

/// Says of each violation which setting it comes from, as the file does not show it.
pub(super) fn attribute(violations: &mut [Violation], settings: &[Setting]) {
    for violation in violations {
        if let Some(part) = settings.iter().rev().find_map(|setting| setting.part_in(violation)) {
            violation.message = format!("{} ({part})", violation.message);
        }
    }
}

fn wrong(argument: &str, message: impl Into<String>) -> ManifestError {
    ManifestError::Set {
        argument: argument.to_owned(),
        message: message.into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusal(argument: &str) -> String {
        settings(&[argument.to_owned()]).unwrap_err().to_string()
    }

    #[test]
    fn a_setting_that_is_no_field_and_value_is_told_what_is_wrong_with_it() {
        for (argument, words) in [
            ("workload.requests", "there is no `=`: write field=value"),
            ("=4", "the name of the field is incomplete"),
            ("spec.=4", "the name of the field is incomplete"),
            ("workload..requests=4", "the name of the field is incomplete"),
            ("metadata.=a", "the name of the field is incomplete"),
            ("workload.requests=", "the value is empty: write null"),
            ("workload={requests: 4", "the value is not valid YAML: "),
            (
                "workload={requests: 4, requests: 5}",
                "the field requests is given twice",
            ),
        ] {
            let said = refusal(argument);
            assert!(
                said.starts_with(&format!("--set {argument}: ")) && said.contains(words),
                "{said}"
            );
        }
    }

    #[test]
    fn a_path_leads_through_mappings_and_names_what_it_cannot_lead_into() {
        let set = |argument: &str| {
            let mut manifest = json!({"spec": {"workload": {"requests": 4}, "sweep": []}});
            let settings = settings(&[argument.to_owned()]).unwrap();
            settings[0].apply(&mut manifest).map(|()| manifest)
        };
        let changed = set("protocol.cycles=2").unwrap();
        assert_eq!(changed["spec"]["protocol"]["cycles"], 2);
        let renamed = set("metadata.name=other").unwrap();
        assert_eq!(renamed["metadata"]["name"], "other");
        let said = set("sweep.0.values=[1]").unwrap_err().to_string();
        assert!(said.ends_with("spec.sweep is a list: set it as a whole"), "{said}");
        let said = set("workload.requests.most=1").unwrap_err().to_string();
        assert!(
            said.ends_with("spec.workload.requests is no mapping, so it has no fields"),
            "{said}"
        );
    }

    #[test]
    fn a_violation_names_the_setting_it_comes_from_and_no_other() {
        let settings = settings(&["workload.requests=a".to_owned(), "wrkload.x=1".to_owned()]).unwrap();
        let mut violations = [
            "spec.workload.requests",
            "spec.workload.requestsMore",
            "spec.wrkload",
            "spec",
        ]
        .map(|path| Violation::new(path, "wrong"));
        attribute(&mut violations, &settings);
        let said = violations.map(|violation| violation.message);
        assert_eq!(
            said,
            [
                "wrong (from --set workload.requests=a)",
                "wrong",
                "wrong (--set wrkload.x=1 is a part of it)",
                "wrong"
            ]
        );
    }
}
