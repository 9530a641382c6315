//! Generated files are what the generator makes.

use std::fs;

use lem_tests::chart;

use crate::{
    helm::{self, objects, printed, template},
    world::repository,
};

#[test]
fn every_generated_file_of_the_charts_is_up_to_date() {
    for (path, content) in chart::generated(&repository()).unwrap() {
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert!(committed == content, "{} is stale: run `make generate`", path.display());
    }
}

#[test]
#[ignore = "needs Helm, which is among the programs of the test cluster"]
fn the_chart_defines_exactly_what_the_types_define_and_keeps_it() {
    let rendered = objects(&printed(&template(&helm::chart("lem-crds"), &[])));
    let mut rendered = helm::of_kind(&rendered, "CustomResourceDefinition");
    rendered.sort_by_key(|definition| helm::identity(definition));
    let definitions = lem_crds::custom_resource_definitions().unwrap();
    assert_eq!(rendered.len(), definitions.len());
    for (definition, (name, yaml)) in rendered.iter().zip(definitions) {
        let expected: serde_yaml::Value = serde_yaml::from_str(&yaml).unwrap();
        assert_eq!(helm::identity(definition).2, name);
        // Whole definitions would fill the screen.
        let same = definition["spec"] == expected["spec"];
        assert!(same, "{name} is stale or misread: run `make generate`");
        let metadata = &definition["metadata"];
        assert_eq!(metadata["annotations"]["helm.sh/resource-policy"], "keep", "{name}");
    }
}
