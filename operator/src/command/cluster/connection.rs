//! Which cluster, as whom, and in which namespace. Client.

use std::path::PathBuf;

use kube::{
    Api, Client, Config, Resource,
    config::{KubeConfigOptions, Kubeconfig},
    core::NamespaceResourceScope,
};

use super::error::{ClusterError, Request};

/// Where the cluster is.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Cluster")]
pub(super) struct Options {
    /// Namespace; without it the one of the kubeconfig's context.
    #[arg(short, long, global = true, value_name = "NAMESPACE")]
    pub(super) namespace: Option<String>,
    /// Context of the kubeconfig.
    #[arg(long, global = true, value_name = "CONTEXT")]
    pub(super) context: Option<String>,
    /// The kubeconfig; without it that of KUBECONFIG, ~/.kube/config, or the pod's own account.
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) kubeconfig: Option<PathBuf>,
}

/// A cluster to ask.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) client: Client,
    /// The namespace that is meant where a name comes without one.
    pub(super) namespace: String,
    /// What the user types to come here.
    pub(super) program: &'static str,
    server: String,
    options: Options,
}

impl Options {
    /// A client by these options.
    pub(super) async fn connect(&self, program: &'static str) -> Result<Connection, ClusterError> {
        let config = self.config().await?;
        let server = config.cluster_url.to_string();
        let namespace = self.namespace.clone().unwrap_or(config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| ClusterError::Kubeconfig(error.to_string()))?;
        Ok(Connection {
            client,
            namespace,
            program,
            server,
            options: self.clone(),
        })
    }

    async fn config(&self) -> Result<Config, ClusterError> {
        let options = KubeConfigOptions {
            context: self.context.clone(),
            ..KubeConfigOptions::default()
        };
        let read = match (&self.kubeconfig, &self.context) {
            (Some(path), _) => match Kubeconfig::read_from(path) {
                Ok(file) => Config::from_custom_kubeconfig(file, &options).await,
                Err(error) => Err(error),
            },
            (None, Some(_)) => Config::from_kubeconfig(&options).await,
            (None, None) => {
                let inferred = Config::infer().await;
                return inferred.map_err(|error| ClusterError::Kubeconfig(error.to_string()));
            }
        };
        read.map_err(|error| ClusterError::Kubeconfig(error.to_string()))
    }
}

impl Connection {
    /// Objects of a kind in a namespace.
    pub(super) fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// The namespace that the user has named, if any.
    pub(super) fn chosen_namespace(&self) -> Option<&str> {
        self.options.namespace.as_deref()
    }

    /// What a failed request means to the user.
    pub(super) fn explain(&self, request: Request<'_>, error: kube::Error) -> ClusterError {
        ClusterError::of(&self.server, request, error)
    }

    /// A command that means the same cluster and this namespace.
    pub(super) fn command(&self, words: &str, namespace: &str) -> String {
        let mut parts = vec![format!("{} {words}", self.program)];
        if namespace != self.namespace || self.options.namespace.is_some() {
            parts.push(format!("-n {namespace}"));
        }
        parts.extend(
            self.options
                .context
                .iter()
                .map(|context| format!("--context {context}")),
        );
        let kubeconfig = self.options.kubeconfig.iter();
        parts.extend(kubeconfig.map(|path| format!("--kubeconfig {}", path.display())));
        parts.join(" ")
    }
}
