//! What the rendered roles allow.

use std::{collections::BTreeSet, fs};

use serde_yaml::Value;

use crate::{
    helm::{CASES, chart, identity, objects, printed, rendered, template},
    world::repository,
};

/// API group, resource and verb.
pub(crate) type Right = (String, String, String);

/// Every right of some rules.
pub(crate) fn of_rules(rules: &Value) -> BTreeSet<Right> {
    let texts = |rule: &Value, key: &str| -> Vec<String> {
        let items = rule[key].as_sequence().into_iter().flatten();
        items.map(|item| item.as_str().unwrap().to_owned()).collect()
    };
    let mut rights = BTreeSet::new();
    for rule in rules.as_sequence().into_iter().flatten() {
        for group in texts(rule, "apiGroups") {
            for resource in texts(rule, "resources") {
                for verb in texts(rule, "verbs") {
                    rights.insert((group.clone(), resource.clone(), verb));
                }
            }
        }
    }
    rights
}

/// The roles among rendered objects.
pub(crate) fn roles(objects: &[Value]) -> Vec<&Value> {
    let is_role = |object: &&Value| matches!(object["kind"].as_str(), Some("Role" | "ClusterRole"));
    objects.iter().filter(is_role).collect()
}

#[test]
#[ignore = "needs Helm, which is among the programs of the test cluster"]
fn no_role_of_either_chart_has_secrets_or_a_wildcard() {
    let mut charts: Vec<Vec<Value>> = CASES.iter().map(|case| rendered(case)).collect();
    charts.push(objects(&printed(&template(&chart("lem-crds"), &[]))));
    for objects in &charts {
        let roles = roles(objects);
        assert!(roles.len() >= 2);
        for role in roles {
            for (group, resource, verb) in of_rules(&role["rules"]) {
                let all = [&group, &resource, &verb];
                let broad = resource.starts_with("secrets") || all.iter().any(|part| part.contains('*'));
                assert!(!broad, "{:?}: {group} {resource} {verb}", identity(role));
            }
        }
    }
}

#[test]
#[ignore = "needs Helm, which is among the programs of the test cluster"]
fn the_example_without_helm_grants_what_the_chart_grants() {
    let text = fs::read_to_string(repository().join("examples/cluster/operator.yaml")).unwrap();
    let of = |objects: &[Value]| -> BTreeSet<Right> {
        let roles = roles(objects);
        roles.iter().flat_map(|role| of_rules(&role["rules"])).collect()
    };
    assert_eq!(of(&objects(&text)), of(&rendered("default")));
}

#[test]
#[ignore = "needs Helm, which is among the programs of the test cluster"]
fn an_operator_of_one_namespace_has_the_same_rights_there_as_one_of_all_but_reads_no_nodes() {
    let of = |case: &str, kind: &str| -> BTreeSet<Right> {
        let all = rendered(case);
        let roles = roles(&all);
        let ours = roles.iter().filter(|role| role["kind"] == kind);
        let here = ours.filter(|role| !identity(role).2.ends_with("-lease"));
        here.flat_map(|role| of_rules(&role["rules"])).collect()
    };
    let mut everywhere = of("default", "ClusterRole");
    assert!(everywhere.len() > 20, "{everywhere:?}");
    // Nodes belong to no namespace.
    for verb in ["list", "watch"] {
        assert!(everywhere.remove(&(String::new(), "nodes".to_owned(), verb.to_owned())));
    }
    assert_eq!(of("namespaced", "Role"), everywhere);
}
