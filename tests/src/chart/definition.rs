//! A custom resource definition as a template: it survives the end of the release, and Helm reads nothing into it. Pure.

/// What comes below the definition's `metadata`.
const METADATA: &str = r#"metadata:
  annotations:
    # An uninstalled chart must not take every experiment and result with it.
    helm.sh/resource-policy: keep
    {{- with .Values.commonAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  labels:
    {{- include "lem-crds.labels" . | nindent 4 }}
"#;

/// The template of a definition that is written as YAML.
pub fn template(definition: &str) -> String {
    // Texts of the schema may have braces, which are the beginning of an action to Helm.
    let literal = definition.replace("{{", r#"{{ "{{" }}"#);
    let body = literal.replacen("metadata:\n", METADATA, 1);
    format!("# Generated from the types in crds/src by `make generate`.\n{body}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_of_a_schema_are_no_action_to_helm() {
        let text = template("kind: X\nmetadata:\n  name: x\nspec: 'see {{ .Values }}'\n");
        assert!(text.contains(r#"spec: 'see {{ "{{" }} .Values }}'"#), "{text}");
    }

    #[test]
    fn only_the_metadata_of_the_object_itself_is_extended() {
        let text = template("kind: X\nmetadata:\n  name: x\nspec:\n  metadata:\n    name: y\n");
        assert_eq!(text.matches("resource-policy").count(), 1);
        assert!(text.ends_with("  name: x\nspec:\n  metadata:\n    name: y\n"), "{text}");
    }
}
