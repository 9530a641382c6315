//! The operator's process: logs, signals, leadership, health and the controller.

use std::net::SocketAddr;

use anyhow::Context;
use clap::Parser;
use kube::{Client, Config, client::ClientBuilder};
use lem_operator::controller::{
    self, Settings,
    build::Defaults,
    leader::{self, Candidate},
    metrics::ApiMetrics,
    server::{self, Health},
};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Measures what a token costs on a fleet: reconciles `EfficiencyExperiment` resources.
#[derive(Debug, Parser)]
#[command(version, about, long_about = None)]
struct Arguments {
    /// Image of the runner where an experiment names none.
    #[arg(long, env = "LEM_RUNNER_IMAGE", default_value_t = format!("lem-runner:{}", env!("CARGO_PKG_VERSION")))]
    runner_image: String,
    /// Image of the runner for processes with GPUs where an experiment names none, such as one with the CUDA engine.
    /// Without it they run the other one.
    #[arg(long, env = "LEM_RUNNER_IMAGE_GPU", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    runner_image_gpu: Option<String>,
    /// Address of /healthz, /readyz and /metrics.
    #[arg(long, env = "LEM_ADDRESS", default_value = "0.0.0.0:8080")]
    address: SocketAddr,
    /// Namespace of the Lease by which replicas choose the one that writes.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    namespace: String,
    /// Name of that Lease. Operators of one namespace that watch different ones need different names.
    #[arg(long, env = "LEM_LEASE_NAME", default_value = "lem-operator", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    lease_name: String,
    /// The only namespace whose experiments are measured. Without it all are, which takes a `ClusterRole`; with it, a Role
    /// in that namespace (and one for the Lease) is enough. No other operator may look at the same namespace.
    #[arg(long, env = "LEM_WATCH_NAMESPACE", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    watch_namespace: Option<String>,
    /// The nodes have the node energy agent (examples/cluster/agent.yaml): pods ask for its resources, by which it reads the
    /// CPUs' energy for them, and the scheduler keeps two measurements off one node.
    #[arg(long, env = "LEM_NODE_AGENT")]
    node_agent: bool,
    /// Name of this replica, unique among them.
    #[arg(long, env = "POD_NAME", default_value_t = own_name())]
    name: String,
}

fn own_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}-{}", host.trim(), std::process::id())
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .json()
        .with_writer(std::io::stderr)
        .with_env_filter(EnvFilter::try_from_env("LEM_LOG").unwrap_or_else(|_| EnvFilter::new("info")))
        .init();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("failed to start the runtime")?
        .block_on(operate(arguments))
}

async fn operate(arguments: Arguments) -> anyhow::Result<()> {
    let config = Config::infer().await.context("failed to find the API server")?;
    let api = ApiMetrics::default();
    let client: Client = ClientBuilder::try_from(config)
        .context("failed to make a client of the API server")?
        .with_layer(&api)
        .build();
    let candidate = Candidate {
        namespace: arguments.namespace,
        name: arguments.lease_name,
        identity: arguments.name.clone(),
    };
    let (leadership, ask) = leader::start(client.clone(), candidate.clone());
    let asking = tokio::spawn(ask);
    let health = Health::default();
    let mut terminate = signal(SignalKind::terminate()).context("failed to wait for SIGTERM")?;
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        tracing::info!("told to end");
    };
    let settings = Settings {
        defaults: Defaults {
            runner_image: arguments.runner_image,
            runner_image_gpu: arguments.runner_image_gpu,
            node_agent: arguments.node_agent,
        },
        instance: arguments.name,
        watch_namespace: arguments.watch_namespace,
    };
    let mut served = Ok(arguments.address);
    // Its watches make a future that is too large for the stack of a thread.
    Box::pin(controller::run(
        client.clone(),
        settings,
        leadership,
        health.clone(),
        shutdown,
        api,
        |registry| {
            served = server::serve(arguments.address, registry, health);
            match &served {
                Ok(address) => tracing::info!(%address, "serving"),
                Err(error) => tracing::error!(%error, "health and metrics are not served"),
            }
        },
    ))
    .await;
    asking.abort();
    if let Err(error) = leader::release(client, &candidate).await {
        tracing::warn!(%error, "the Lease ends by itself");
    }
    served.map(drop).context("failed to serve health and metrics")
}
