//! What kwok leaves to do for the kubelets of all nodes: a process for each pod that runs, and the pod's end. Client.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::Context as _;
use futures::TryStreamExt;
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::{Pod, ServiceAccount},
};
use kube::{
    Api, Client, Config, ResourceExt,
    api::{Patch, PatchParams, PostParams},
    runtime::watcher::{self, Event},
};
use lem_crds::runner::CONTAINER;
use lem_runner::mailbox::Identity;
use serde_json::json;
use tokio::runtime::Handle;

use crate::{
    behaviour::{Behaviour, CLASSES, Fault},
    figures::Figures,
    process::{End, Ledger, Phases, Process},
};

/// Label of the pods whose processes are simulated.
const SELECTOR: &str = "app.kubernetes.io/component=lem-runner";
/// Variable of a pod's container from which the name of its Runner follows.
const RUNNER_VARIABLE: &str = "LEM_RUNNER_NAME";
const PROCESS_LABEL: &str = "batch.kubernetes.io/job-completion-index";
/// Longer than any run.
const TOKEN_SECONDS: i64 = 24 * 3600;
/// Also of a thread that packs a few thousand samples.
const STACK_BYTES: usize = 512 * 1024;

/// All nodes.
pub(crate) struct Kubelets {
    pub(crate) config: Config,
    pub(crate) namespace: String,
    pub(crate) seed: u64,
    pub(crate) phases: Phases,
    pub(crate) ledger: Arc<Ledger>,
}

/// The class of a node, by the number at the end of its name.
pub(crate) fn class_index(node: &str) -> usize {
    let number = node.rsplit('-').next().and_then(|number| number.parse::<usize>().ok());
    number.unwrap_or_default() % CLASSES.len()
}

impl Kubelets {
    /// Follows the pods until it is dropped.
    ///
    /// # Errors
    /// A `ServiceAccount`'s token cannot be had.
    pub(crate) async fn follow(self) -> anyhow::Result<()> {
        let client = Client::try_from(self.config.clone())?;
        let pods: Api<Pod> = Api::namespaced(client.clone(), &self.namespace);
        let wanted = watcher::Config::default().labels(SELECTOR);
        let events = watcher::watcher(pods.clone(), wanted);
        let mut events = std::pin::pin!(events);
        let mut begun: BTreeMap<String, Arc<AtomicBool>> = BTreeMap::new();
        let mut nodes: BTreeSet<String> = BTreeSet::new();
        let mut accounts: BTreeMap<String, Config> = BTreeMap::new();
        loop {
            let event = match events.try_next().await {
                Ok(Some(event)) => event,
                Ok(None) => return Ok(()),
                // It is begun again.
                Err(_) => continue,
            };
            let pod = match event {
                Event::Apply(pod) | Event::InitApply(pod) => pod,
                Event::Delete(pod) => {
                    if let Some(stop) = begun.get(&pod.uid().unwrap_or_default()) {
                        stop.store(true, Ordering::Relaxed);
                    }
                    continue;
                }
                Event::Init | Event::InitDone => continue,
            };
            let uid = pod.uid().unwrap_or_default();
            if pod.metadata.deletion_timestamp.is_some() {
                if let Some(stop) = begun.get(&uid) {
                    stop.store(true, Ordering::Relaxed);
                }
                continue;
            }
            let runs = pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
            if !runs || begun.contains_key(&uid) {
                continue;
            }
            let stop = Arc::new(AtomicBool::new(false));
            begun.insert(uid, Arc::clone(&stop));
            let spec = pod.spec.clone().unwrap_or_default();
            let account = spec.service_account_name.unwrap_or_default();
            if !accounts.contains_key(&account) {
                let config = self.as_account(&client, &account).await?;
                accounts.insert(account.clone(), config);
            }
            let node = spec.node_name.unwrap_or_default();
            let first = nodes.insert(node.clone());
            self.begin(&pod, node, first, stop, accounts[&account].clone(), pods.clone())?;
        }
    }

    /// The rights that the real process has: those of its pod's account.
    async fn as_account(&self, client: &Client, account: &str) -> anyhow::Result<Config> {
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &self.namespace);
        let request = TokenRequest {
            spec: TokenRequestSpec {
                expiration_seconds: Some(TOKEN_SECONDS),
                ..TokenRequestSpec::default()
            },
            ..TokenRequest::default()
        };
        let answer = accounts
            .create_token_request(account, &PostParams::default(), &request)
            .await
            .with_context(|| format!("failed to get a token of the account {account}"))?;
        let token = answer.status.map(|status| status.token).unwrap_or_default();
        let mut config = self.config.clone();
        config.auth_info = kube::config::AuthInfo {
            token: Some(token.into()),
            ..kube::config::AuthInfo::default()
        };
        Ok(config)
    }

    /// Begins the process of a pod, in a thread of its own.
    fn begin(
        &self,
        pod: &Pod,
        node: String,
        first: bool,
        stop: Arc<AtomicBool>,
        config: Config,
        pods: Api<Pod>,
    ) -> anyhow::Result<()> {
        let name = pod.name_any();
        let identity = Identity {
            namespace: self.namespace.clone(),
            name: runner_name(pod).with_context(|| format!("pod {name} names no Runner"))?,
            pod_uid: pod.uid().unwrap_or_default(),
        };
        let (seed, phases, ledger) = (self.seed, self.phases, Arc::clone(&self.ledger));
        let runtime = Handle::current();
        ledger.write(|ledger| ledger.processes += 1);
        thread::Builder::new()
            .name("process".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                let behaviour = Behaviour { seed, node: &node };
                let fault = behaviour.fault().filter(|_| first);
                let process = Process {
                    figures: Figures {
                        behaviour,
                        class: CLASSES[class_index(&node)],
                    },
                    phases,
                    crashes: fault == Some(Fault::Crash),
                    hangs: fault == Some(Fault::Hang),
                    ledger: &ledger,
                    stop,
                };
                match process.run(identity, config) {
                    Ok(End::Finished) => runtime.block_on(end(&pods, &name, 0)),
                    Ok(End::Crashed) => {
                        ledger.write(|ledger| ledger.crashed += 1);
                        runtime.block_on(end(&pods, &name, 1));
                    }
                    Ok(End::Stopped) => ledger.write(|ledger| ledger.ended += 1),
                    Err(error) => ledger.write(|ledger| ledger.errors.push(format!("{name}: {error:#}"))),
                }
            })?;
        Ok(())
    }
}

/// As the pod's own environment says it.
fn runner_name(pod: &Pod) -> Option<String> {
    let container = pod.spec.as_ref()?.containers.first()?;
    let variables = container.env.as_ref()?;
    let pattern = variables.iter().find(|variable| variable.name == RUNNER_VARIABLE)?;
    let process = pod.labels().get(PROCESS_LABEL)?;
    Some(pattern.value.as_ref()?.replace("$(LEM_PROCESS)", process))
}

/// As a kubelet tells the end of a pod. One that is gone by now needs none.
async fn end(pods: &Api<Pod>, name: &str, exit_code: i32) {
    let phase = if exit_code == 0 { "Succeeded" } else { "Failed" };
    let reason = if exit_code == 0 { "Completed" } else { "Error" };
    let patch = json!({"status": {"phase": phase, "containerStatuses": [{
        "name": CONTAINER, "image": "", "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": exit_code, "reason": reason}},
    }]}});
    let _ = pods
        .patch_status(name, &PatchParams::default(), &Patch::Strategic(&patch))
        .await;
}
