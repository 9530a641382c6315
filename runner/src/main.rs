//! The measuring process. `lem` and the operator start it; it is of little use by hand.

use std::{
    io::IsTerminal,
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::{Parser, Subcommand, ValueEnum};
use lem_crds::runner::{EXIT_REFUSED, RunnerError};
use lem_runner::{
    agent::{self, AgentOptions},
    energy::{self, MeterConfig},
    engine::threads,
    environment,
    mailbox::{Identity, KubernetesMailbox, StandardStreams, write_digest},
    metrics::LiveMetrics,
    protocol,
};
use tracing_subscriber::EnvFilter;

/// Measures one process: loads a model, runs windows, meters energy, reports raw facts.
#[derive(Debug, Parser)]
#[command(version, about, long_about = None)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure: take assignments from the mailbox and write reports to it.
    Run {
        /// Where assignments come from. Standard streams: one JSON object per line.
        #[arg(long, value_enum, env = "LEM_MAILBOX", default_value_t = MailboxKind::StandardStreams)]
        mailbox: MailboxKind,
        /// Name of this process's Runner object.
        #[arg(long, env = "LEM_RUNNER_NAME", required_if_eq("mailbox", "kubernetes"))]
        runner_name: Option<String>,
        /// Its namespace.
        #[arg(long, env = "LEM_RUNNER_NAMESPACE", required_if_eq("mailbox", "kubernetes"))]
        runner_namespace: Option<String>,
        /// UID of this pod.
        #[arg(long, env = "LEM_POD_UID", required_if_eq("mailbox", "kubernetes"))]
        pod_uid: Option<String>,
        /// Serve live counters at this address under /metrics.
        #[arg(long, value_name = "ADDRESS", env = "LEM_METRICS_ADDRESS")]
        metrics_address: Option<SocketAddr>,
        /// Exit when no assignment comes for so many seconds.
        #[arg(long, value_name = "SECONDS", env = "LEM_IDLE_BOUND_SECONDS", default_value_t = 3600)]
        idle_bound: u64,
    },
    /// Read the CPUs' energy counters for the runners of this node, and offer the node's measurement slot to the kubelet.
    ///
    /// One per node, as root; see examples/cluster/agent.yaml.
    Agent {
        /// Where the powercap tree is seen: another path than the kernel's own, which containers have masked.
        #[arg(long, value_name = "FOLDER", env = energy::rapl::ROOT_VARIABLE, default_value = "/host/powercap")]
        powercap_root: PathBuf,
        /// Folder for the socket, by the same path here and on the node.
        #[arg(
            long,
            value_name = "FOLDER",
            env = "LEM_AGENT_SOCKET_DIRECTORY",
            default_value = "/run/lem-agent"
        )]
        socket_directory: PathBuf,
        /// The kubelet's folder of device plugins.
        #[arg(
            long,
            value_name = "FOLDER",
            env = "LEM_DEVICE_PLUGIN_DIRECTORY",
            default_value = lem_device_plugin::DEFAULT_FOLDER
        )]
        device_plugin_directory: PathBuf,
    },
    /// Print the GPUs that can be metered here, as a JSON list of their UUIDs and products.
    Gpus,
}

/// Kinds of mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum MailboxKind {
    /// Standard input and output of a local child process.
    StandardStreams,
    /// The Runner object of a pod.
    Kubernetes,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(error) = with_thread_limits() {
        eprintln!("lem-runner: failed to start again with thread limits: {error}");
        return ExitCode::FAILURE;
    }
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(EnvFilter::try_from_env("LEM_LOG").unwrap_or_else(|_| EnvFilter::new("warn")))
        .init();
    let outcome = match arguments.command {
        Command::Run {
            mailbox,
            runner_name,
            runner_namespace,
            pod_uid,
            metrics_address,
            idle_bound,
        } => {
            let idle_bound = Duration::from_secs(idle_bound);
            match (mailbox, runner_name, runner_namespace, pod_uid) {
                (MailboxKind::Kubernetes, Some(name), Some(namespace), Some(pod_uid)) => {
                    let identity = Identity {
                        namespace,
                        name,
                        pod_uid,
                    };
                    run_in_pod(identity, metrics_address, idle_bound)
                }
                _ => run_as_child(metrics_address, idle_bound),
            }
        }
        Command::Agent {
            powercap_root,
            socket_directory,
            device_plugin_directory,
        } => run_agent(&AgentOptions {
            powercap_root,
            socket_folder: socket_directory,
            device_plugin_folder: Some(device_plugin_directory),
            node: environment::node_name(),
            read_interval: agent::READ_INTERVAL,
        }),
        Command::Gpus => print_gpus().map(|()| ExitCode::SUCCESS),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lem-runner: {}", protocol::with_causes(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// Thread pools read their size from the environment when they start, and a process cannot change its environment
/// safely: so it starts itself again, once.
fn with_thread_limits() -> Option<std::io::Error> {
    let limits = threads::thread_environment(Path::new("/"));
    if limits.iter().all(|(name, _)| std::env::var_os(name).is_some()) {
        return None;
    }
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return Some(error),
    };
    let mut command = std::process::Command::new(program);
    command.args(std::env::args_os().skip(1));
    for (name, value) in limits {
        if std::env::var_os(name).is_none() {
            command.env(name, value);
        }
    }
    Some(command.exec())
}

fn run_as_child(
    metrics_address: Option<SocketAddr>,
    idle_bound: Duration,
) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let metrics = served(metrics_address)?;
    let mut mailbox = StandardStreams::open()?;
    protocol::run(&mut mailbox, &metrics, idle_bound).outcome?;
    Ok(ExitCode::SUCCESS)
}

fn run_in_pod(
    identity: Identity,
    metrics_address: Option<SocketAddr>,
    idle_bound: Duration,
) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let metrics = served(metrics_address).unwrap_or_else(|error| {
        // The measurement does not depend on being watched.
        tracing::warn!(error = protocol::with_causes(error.as_ref()), "metrics are not served");
        LiveMetrics::default()
    });
    let mut mailbox = KubernetesMailbox::open(identity)?;
    let ended = protocol::run(&mut mailbox, &metrics, idle_bound);
    write_digest(Path::new("/dev/termination-log"), &ended.status);
    // The record is kept until it is delivered; only the Job's own deadline ends this wait.
    mailbox.flush(Duration::MAX);
    metrics.linger();
    let refused = ended.status.error.as_ref().is_some_and(RunnerError::is_refusal);
    match ended.outcome {
        Err(error) if refused => {
            eprintln!("lem-runner: {}", protocol::with_causes(&error));
            Ok(ExitCode::from(EXIT_REFUSED as u8))
        }
        outcome => Ok(outcome.map(|()| ExitCode::SUCCESS)?),
    }
}

fn run_agent(options: &AgentOptions) -> Result<ExitCode, Box<dyn std::error::Error>> {
    agent::run(options, agent::told_to_end())?;
    Ok(ExitCode::SUCCESS)
}

fn served(address: Option<SocketAddr>) -> Result<LiveMetrics, Box<dyn std::error::Error>> {
    let metrics = LiveMetrics::default();
    if let Some(address) = address {
        metrics.serve(address)?;
    }
    Ok(metrics)
}

fn print_gpus() -> Result<(), Box<dyn std::error::Error>> {
    let config = MeterConfig {
        cpu: energy::CpuMetering::Off,
        ..MeterConfig::from_environment(environment::node_name())
    };
    let gpus: Vec<_> = energy::open(&config)?
        .devices
        .into_iter()
        .map(|device| serde_json::json!({"uuid": device.uuid, "product": device.product}))
        .collect();
    serde_json::to_writer(std::io::stdout().lock(), &gpus)?;
    Ok(())
}
