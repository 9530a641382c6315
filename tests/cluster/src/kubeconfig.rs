//! Files by which programs find and trust the API server.

use std::{fs, path::Path};

use serde_json::json;

use crate::{error::Error, pki::Identity};

/// Writes a kubeconfig that holds everything it refers to.
pub(crate) fn write(path: &Path, server: &str, authority: &str, identity: &Identity) -> Result<(), Error> {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lem", "cluster": {
            "server": server,
            "certificate-authority-data": base64(authority),
        }}],
        "users": [{"name": "lem", "user": {
            "client-certificate-data": base64(&identity.certificate),
            "client-key-data": base64(&identity.key),
        }}],
        "contexts": [{"name": "lem", "context": {"cluster": "lem", "user": "lem"}}],
        "current-context": "lem",
    });
    let text = serde_yaml::to_string(&config).map_err(Error::data("a kubeconfig"))?;
    fs::write(path, text).map_err(Error::file("write", path))
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}
