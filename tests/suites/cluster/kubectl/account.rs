//! Users that may do less than the administrator.

use std::fs;

use serde_json::{Value, json};

use super::Plugin;
use crate::world::kubectl;

impl Plugin<'_> {
    /// The same for an account of the test's namespace that nobody has given a right.
    pub(super) fn into_powerless(mut self) -> Self {
        let namespace = &self.world.namespace;
        let in_namespace = |words: &[&str]| kubectl(self.world.cluster, &[words, &["-n", namespace]].concat());
        in_namespace(&["create", "serviceaccount", "powerless"]);
        let token = in_namespace(&["create", "token", "powerless"]);
        let text = fs::read_to_string(&self.kubeconfig).unwrap();
        let mut config: Value = serde_yaml::from_str(&text).unwrap();
        config["users"][0]["user"] = json!({"token": token.trim()});
        self.kubeconfig = self.folder.path().join("kubeconfig");
        fs::write(&self.kubeconfig, config.to_string()).unwrap();
        self
    }
}
