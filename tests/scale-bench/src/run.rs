//! One run: a cluster, its nodes, the operator, the experiment, and what it came to. Client, processes.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::{
    Api, Client, Config,
    api::{ListParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use lem_crds::{EfficiencyExperiment, EfficiencyExperimentStatus, EfficiencySchedule, Runner, status::ExperimentPhase};
use lem_test_cluster::{Binaries, Cluster, Options, Request};

use crate::{
    fleet::{self, EXPERIMENT},
    kubelets::Kubelets,
    outcome::{self, Asked, Machine, Outcome, Requests, Who},
    process::{Ledger, Phases},
    replica::Replicas,
    server::Counters,
};

/// Namespace and account of the operator in `examples/cluster/operator.yaml`.
const SYSTEM: &str = "lem-system";
const OPERATOR: &str = "lem-operator";
/// Where the experiment is.
const NAMESPACE: &str = "fleet";
/// Requests under way at the same time while the fleet is made.
const PARALLEL: usize = 16;
const REPLICAS: u32 = 2;
/// From one state to the next on a machine that has little else to do.
const LIMIT: Duration = Duration::from_mins(5);
/// Between two looks at the experiment.
const LOOK: Duration = Duration::from_millis(50);
/// A page of objects that are read.
const PAGE: u32 = 200;

/// Programs and files of a run.
pub(crate) struct Tools {
    /// The built operator.
    pub(crate) operator: PathBuf,
    /// The top of the repository.
    pub(crate) repository: PathBuf,
    /// Where logs go.
    pub(crate) logs: PathBuf,
}

/// Runs one fleet.
///
/// # Errors
/// The cluster, or anything in it, cannot be had; the experiment does not end within `limit`.
pub(crate) async fn run(asked: &Asked, phases: Phases, tools: &Tools, limit: Duration) -> anyhow::Result<Outcome> {
    let kwok = Binaries::ensure()?.optional("kwok")?;
    let options = Options {
        nodes: Vec::new(),
        // Nobody renews Leases for simulated nodes: that load is the kubelets', and none of ours.
        node_grace_period: Duration::from_hours(24),
        ..Options::default()
    };
    let cluster = Cluster::start("scale", options).await?;
    let client = cluster.client().await?;
    let _kwok = Program::start(
        &kwok,
        [
            "--kubeconfig".as_ref(),
            cluster.kubeconfig(),
            "--config".as_ref(),
            &tools.repository.join("tests/scale-bench/stages.yaml"),
            "--manage-all-nodes=true".as_ref(),
            "--node-lease-duration-seconds=0".as_ref(),
            "--server-address=127.0.0.1:0".as_ref(),
        ],
        &tools.logs.join("kwok.log"),
    )?;
    install(&cluster, &tools.repository)?;
    until_served(&cluster, &client).await?;
    create_namespace(&client).await?;
    create_nodes(&client, asked.nodes).await?;
    until_nodes_are_ready(&cluster, &client, asked.nodes).await?;

    let ledger = Arc::new(Ledger::default());
    let kubelets = Kubelets {
        config: config(cluster.kubeconfig()).await?,
        namespace: NAMESPACE.to_owned(),
        seed: asked.seed,
        phases,
        ledger: Arc::clone(&ledger),
    };
    let kubelets = tokio::spawn(kubelets.follow());
    let kubeconfig = cluster.kubeconfig_as(SYSTEM, OPERATOR).await?;
    let mut replicas = Replicas::start(&tools.operator, &kubeconfig, SYSTEM, &tools.logs, REPLICAS)?;
    until_led(&cluster, &client).await?;

    let audit = cluster.audit()?.from_now()?;
    let before = Counters::read(&client).await?;
    let idle = replicas.used().cpu_seconds;
    let experiments: Api<EfficiencyExperiment> = Api::namespaced(client.clone(), NAMESPACE);
    let manifest = fleet::experiment(&asked.concurrent, asked.cycles)?;
    let begun = Instant::now();
    experiments
        .create(&PostParams::default(), &manifest)
        .await
        .context("failed to create the experiment")?;
    let mut kills = 0;
    let (status, ended) = until_ended(&experiments, asked, &mut replicas, &client, &mut kills, limit).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let used = replicas.used();
    let failed = replicas.ended();
    ensure!(
        failed.is_empty(),
        "replicas of the operator have ended by themselves: {failed:?}"
    );
    if kubelets.is_finished() {
        kubelets.await??;
        bail!("the simulation of the kubelets has ended by itself");
    }

    let grown = Counters::read(&client).await?.since(&before);
    let requests = audit.requests()?;
    let runners = all_runners(&client).await?;
    let written = ledger.read();
    let (lost, doubled) = outcome::lost_and_doubled(&written, &runners);
    let (measured_nodes, failed_nodes, classes) = outcome::counted(status.fleet.as_ref());
    let account = format!("system:serviceaccount:{NAMESPACE}:");
    let concurrent = concurrent(&manifest, asked.nodes);
    kubelets.abort();
    Ok(Outcome {
        machine: machine(&client).await?,
        asked: asked.clone(),
        phase: format!("{:?}", status.phase),
        seconds,
        measuring_seconds: written.simulated.as_secs_f64() / f64::from(concurrent),
        last_report_to_final_status_seconds: after_last_report(&requests, &account, ended),
        requests: counted(&requests, &account),
        watch_bytes: grown.watch_bytes,
        store_bytes: grown.store_bytes,
        operator_peak_resident_mebibytes: used.peak_resident_mebibytes,
        operator_cpu_seconds: used.cpu_seconds - idle,
        kills,
        processes: written.processes,
        crashed: written.crashed,
        ended: written.ended,
        windows: written.windows.len(),
        lost,
        doubled,
        measured_nodes,
        failed_nodes,
        without_result: outcome::reasons(status.fleet.as_ref()),
        classes,
        status_bytes: serde_json::to_string(&status)?.len(),
        errors: written.errors,
    })
}

/// A program that ends with this value.
struct Program(Child);

impl Program {
    fn start<const N: usize>(program: &Path, arguments: [&Path; N], log: &Path) -> anyhow::Result<Self> {
        let output = fs::File::create(log).with_context(|| format!("failed to create {}", log.display()))?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("failed to start {}", program.display()))?;
        Ok(Self(child))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Our definitions and the operator's account with its rights; the operator itself runs beside the cluster, where its
/// memory and time can be read.
fn install(cluster: &Cluster, repository: &Path) -> anyhow::Result<()> {
    let kubectl = |arguments: &[&str]| -> anyhow::Result<()> {
        let output = cluster.kubectl().args(arguments).output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {arguments:?}: {errors}");
        Ok(())
    };
    for (name, yaml) in lem_crds::custom_resource_definitions()? {
        let path = repository.join("crds").join(format!("{name}.yaml"));
        ensure!(
            fs::read_to_string(&path)? == yaml,
            "{} is not what this program was built with: run `make generate`",
            path.display()
        );
        kubectl(&["apply", "--server-side=true", "-f", &path.display().to_string()])?;
    }
    let manifest = repository.join("examples/cluster/operator.yaml");
    kubectl(&["apply", "-f", &manifest.display().to_string()])?;
    kubectl(&["delete", "deployment", "-n", SYSTEM, OPERATOR])
}

/// Waits until our kinds are served: `kubectl wait` fails on a definition that has no conditions yet.
async fn until_served(cluster: &Cluster, client: &Client) -> anyhow::Result<()> {
    let experiments: Api<EfficiencyExperiment> = Api::all(client.clone());
    let schedules: Api<EfficiencySchedule> = Api::all(client.clone());
    let runners: Api<Runner> = Api::all(client.clone());
    let one = ListParams::default().limit(1);
    let look = || async {
        let served = async {
            experiments.list(&one).await?;
            schedules.list(&one).await?;
            runners.list(&one).await?;
            Ok::<(), kube::Error>(())
        };
        served.await.map_err(|error| error.to_string())
    };
    cluster.until("our kinds to be served", LIMIT, look).await?;
    Ok(())
}

async fn create_namespace(client: &Client) -> anyhow::Result<()> {
    let mut namespace = Namespace::default();
    namespace.metadata.name = Some(NAMESPACE.to_owned());
    Api::all(client.clone())
        .create(&PostParams::default(), &namespace)
        .await?;
    Ok(())
}

async fn create_nodes(client: &Client, count: u32) -> anyhow::Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    stream::iter(0..count)
        .map(|index| {
            let nodes = nodes.clone();
            async move {
                let node = fleet::node(index)?;
                nodes.create(&PostParams::default(), &node).await?;
                anyhow::Ok(())
            }
        })
        .buffer_unordered(PARALLEL)
        .try_collect()
        .await
}

async fn until_nodes_are_ready(cluster: &Cluster, client: &Client, count: u32) -> anyhow::Result<()> {
    let nodes: Api<Node> = Api::all(client.clone());
    let is_ready = |node: &Node| {
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions
            .into_iter()
            .any(|one| one.type_ == "Ready" && one.status == "True")
            && node.spec.as_ref().is_none_or(|spec| spec.taints.is_none())
    };
    let look = || async {
        let all = nodes
            .list(&ListParams::default())
            .await
            .map_err(|error| error.to_string())?;
        let ready = all.iter().filter(|node| is_ready(node)).count();
        (ready == count as usize)
            .then_some(())
            .ok_or_else(|| format!("{ready} of {count}"))
    };
    cluster.until("readiness of the simulated nodes", LIMIT, look).await?;
    Ok(())
}

/// Waits until a replica leads.
async fn until_led(cluster: &Cluster, client: &Client) -> anyhow::Result<()> {
    let leases: Api<k8s_openapi::api::coordination::v1::Lease> = Api::namespaced(client.clone(), SYSTEM);
    let look = || async {
        let lease = leases.get(OPERATOR).await.map_err(|error| error.to_string())?;
        let holder = lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default();
        (!holder.is_empty()).then_some(()).ok_or_else(|| "nobody".to_owned())
    };
    cluster.until("a replica that leads", LIMIT, look).await?;
    Ok(())
}

/// Waits for the experiment's end, and kills the replica that leads as often as was asked for.
async fn until_ended(
    experiments: &Api<EfficiencyExperiment>,
    asked: &Asked,
    replicas: &mut Replicas,
    client: &Client,
    kills: &mut u32,
    limit: Duration,
) -> anyhow::Result<(EfficiencyExperimentStatus, Timestamp)> {
    let begun = Instant::now();
    let every = asked.kill_every_seconds.map(Duration::from_secs);
    let mut killed = Instant::now();
    let mut shown = Instant::now();
    loop {
        let found = experiments
            .get(EXPERIMENT)
            .await
            .context("failed to read the experiment")?;
        let status = found.status.unwrap_or_default();
        if matches!(
            status.phase,
            ExperimentPhase::Complete | ExperimentPhase::Partial | ExperimentPhase::Failed
        ) {
            return Ok((status, Timestamp::now()));
        }
        let nodes = status.fleet.as_ref().map(|fleet| fleet.nodes);
        if begun.elapsed() > limit {
            bail!(
                "the experiment has not ended within {limit:?}: {nodes:?} {:?}",
                status.conditions
            );
        }
        if shown.elapsed() > Duration::from_secs(10) {
            shown = Instant::now();
            eprintln!("  {:.0} s: {nodes:?}", begun.elapsed().as_secs_f64());
        }
        if every.is_some_and(|every| killed.elapsed() >= every) {
            killed = Instant::now();
            *kills += u32::from(replicas.kill_leader(client).await?.is_some());
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn all_runners(client: &Client) -> anyhow::Result<Vec<Runner>> {
    let runners: Api<Runner> = Api::namespaced(client.clone(), NAMESPACE);
    let mut all = Vec::new();
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let list = runners.list(&page).await?;
        all.extend(list.items);
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(all),
        }
    }
}

async fn config(kubeconfig: &Path) -> anyhow::Result<Config> {
    let file = Kubeconfig::read_from(kubeconfig)?;
    Ok(Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?)
}

fn concurrent(manifest: &EfficiencyExperiment, nodes: u32) -> u32 {
    let placement = manifest.spec.placement.clone().unwrap_or_default();
    placement.concurrent_nodes(nodes).min(nodes)
}

/// Requests of the operator and of the processes, by verb and resource.
fn counted(requests: &[Request], account: &str) -> Vec<Requests> {
    let operator = format!("system:serviceaccount:{SYSTEM}:{OPERATOR}");
    let who = |user: &str| {
        if user == operator {
            Some(Who::Operator)
        } else {
            user.starts_with(account).then_some(Who::Runners)
        }
    };
    let mut counts: BTreeMap<(Who, String, String), usize> = BTreeMap::new();
    for request in requests {
        if let Some(who) = who(&request.user) {
            let key = (who, request.verb.clone(), request.resource.clone());
            *counts.entry(key).or_default() += 1;
        }
    }
    let counts = counts.into_iter();
    counts
        .map(|((who, verb, resource), count)| Requests {
            who,
            verb,
            resource,
            count,
        })
        .collect()
}

/// Seconds from the last report that a process has delivered before the end.
fn after_last_report(requests: &[Request], account: &str, ended: Timestamp) -> f64 {
    let reports = requests
        .iter()
        .filter(|request| request.user.starts_with(account) && request.is_write() && request.code < 300);
    let times = reports.filter_map(|request| request.received.parse::<Timestamp>().ok());
    let last = times.filter(|at| *at <= ended).max();
    last.map_or(f64::NAN, |last| ended.duration_since(last).as_secs_f64())
}

async fn machine(client: &Client) -> anyhow::Result<Machine> {
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processors.lines().find_map(|line| line.strip_prefix("model name"));
    Ok(Machine {
        processor: model
            .map(|words| words.trim_start_matches([' ', '\t', ':']).to_owned())
            .unwrap_or_default(),
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        kubernetes: client.apiserver_version().await?.git_version,
        lem: env!("CARGO_PKG_VERSION").to_owned(),
        date: Timestamp::now().strftime("%Y-%m-%d").to_string(),
    })
}
