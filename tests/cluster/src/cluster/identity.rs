//! Being someone else than the administrator: what a program may do, and who the audit log says it was.

use std::{fs, path::PathBuf};

use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::{Api, api::PostParams};
use serde_json::{Value, json};

use super::Cluster;
use crate::error::Error;

/// Longer than any test.
const LIFE_SECONDS: i64 = 24 * 3600;

impl Cluster {
    /// A kubeconfig with the rights of a `ServiceAccount`, for a program that runs on this machine instead of in a pod.
    pub async fn kubeconfig_as(&self, namespace: &str, account: &str) -> Result<PathBuf, Error> {
        let request = TokenRequest {
            spec: TokenRequestSpec {
                expiration_seconds: Some(LIFE_SECONDS),
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        };
        let accounts = Api::<ServiceAccount>::namespaced(self.client().await?, namespace);
        let answer = accounts
            .create_token_request(account, &PostParams::default(), &request)
            .await
            .map_err(|source| Error::Api {
                action: "get a token of a ServiceAccount",
                source: Box::new(source),
            })?;
        let text = fs::read(&self.kubeconfig).map_err(Error::file("read", &self.kubeconfig))?;
        let mut config: Value = serde_yaml::from_slice(&text).map_err(Error::data("the kubeconfig"))?;
        for user in config["users"].as_array_mut().into_iter().flatten() {
            user["user"] = json!({"token": answer.status.as_ref().map(|status| &status.token)});
        }
        let folder = match &self.own {
            Some(own) => own.folder.path().to_owned(),
            None => std::env::temp_dir(),
        };
        let path = folder.join(format!("{namespace}.{account}.kubeconfig"));
        let text = serde_yaml::to_string(&config).map_err(Error::data("the kubeconfig"))?;
        fs::write(&path, text).map_err(Error::file("write", &path))?;
        Ok(path)
    }
}
