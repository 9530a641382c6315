//! The operator as a user installs it: two replicas, of which one writes.

use std::{fs, path::Path, process::Command, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams},
};
use lem_test_cluster::{AuditLog, Cluster, Request};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use super::{
    invariants::{Watched, reconciliations},
    world::{SYSTEM, World, shared_name, start},
};

/// Who the operator is to the API server.
pub(crate) const USER: &str = "system:serviceaccount:lem-system:lem-operator";
/// A Lease that is not renewed for so long may be taken, and is looked at so often.
pub(crate) const SUCCESSION: Duration = Duration::from_secs(15 + 5);

static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
/// What one test kills, another one would miss.
static TURN: Mutex<()> = Mutex::const_new(());

/// The installed operator, for one test at a time.
pub(crate) struct Installed {
    pub(crate) world: World,
    audit: AuditLog,
    /// The replicas as they were in the beginning, with their restarts.
    before: Vec<(String, i32)>,
    _turn: MutexGuard<'static, ()>,
}

impl Installed {
    pub(crate) async fn of(test: &str) -> Self {
        let turn = TURN.lock().await;
        let cluster = CLUSTER.get_or_init(|| async { start(&shared_name()).await }).await;
        let world = World::on(cluster, test).await;
        let mut installed = Self {
            audit: cluster.audit().unwrap().from_now().unwrap(),
            world,
            before: Vec::new(),
            _turn: turn,
        };
        installed.before = installed.whole().await;
        installed
    }

    /// The replicas have lived through the whole test.
    pub(crate) async fn has_not_restarted(&self) {
        assert_eq!(self.whole().await, self.before, "the operator has restarted");
    }

    /// What the operator has asked the API server since the test began.
    pub(crate) fn requests(&self) -> Vec<Request> {
        by_operator(&self.audit)
    }

    /// The replicas.
    pub(crate) async fn pods(&self) -> Result<Vec<Pod>, String> {
        let pods = Api::<Pod>::namespaced(self.world.client.clone(), SYSTEM);
        let ours = ListParams::default().labels("app.kubernetes.io/name=lem-operator");
        let found = pods.list(&ours).await.map_err(|error| error.to_string())?;
        Ok(found.items)
    }

    /// The replica that has said after `since` that it writes.
    pub(crate) async fn leader(&self, since: Timestamp) -> Result<Pod, String> {
        let leases = Api::<Lease>::namespaced(self.world.client.clone(), SYSTEM);
        let lease = leases.get("lem-operator").await.map_err(|error| error.to_string())?;
        let spec = lease.spec.unwrap_or_default();
        let renewed = spec.renew_time.as_ref().is_some_and(|time| time.0 > since);
        let holder = spec.holder_identity.clone().unwrap_or_default();
        let pods = self.pods().await?;
        let pod = pods.into_iter().find(|pod| pod.name_any() == holder);
        pod.filter(|_| renewed).ok_or_else(|| format!("{spec:?}"))
    }

    /// Waits for a replica that writes.
    pub(crate) async fn next_leader(&self, since: Timestamp) -> Pod {
        let since = &since;
        self.world
            .eventually("a replica that writes", || self.leader(*since))
            .await
    }

    /// Waits until both replicas are ready; gives their UIDs and restarts.
    pub(crate) async fn whole(&self) -> Vec<(String, i32)> {
        let ready = || async {
            let pods = self.pods().await?;
            let ready = pods.iter().filter(|pod| is_ready(pod)).count();
            let whole = ready == 2 && pods.len() == 2;
            let mut lives: Vec<(String, i32)> = pods.iter().map(life).collect();
            lives.sort();
            whole
                .then_some(lives)
                .ok_or_else(|| format!("{ready} of {}", pods.len()))
        };
        self.world.eventually("two ready replicas", ready).await
    }

    /// Removes a replica at once; its Deployment makes another one.
    pub(crate) async fn delete(&self, pod: &Pod) {
        let pods = Api::<Pod>::namespaced(self.world.client.clone(), SYSTEM);
        let at_once = DeleteParams::default().grace_period(0);
        pods.delete(&pod.name_any(), &at_once).await.unwrap();
    }

    /// Metrics of a replica.
    pub(crate) async fn metrics(&self, pod: &Pod) -> Result<String, String> {
        let path = format!("/api/v1/namespaces/{SYSTEM}/pods/{}:8080/proxy/metrics", pod.name_any());
        let request = http::Request::get(path).body(Vec::new()).unwrap();
        let answer = self.world.client.request_text(request).await;
        answer.map_err(|error| error.to_string())
    }
}

impl Watched for Installed {
    async fn reconciliations(&self) -> Result<u64, String> {
        let leader = self.leader(Timestamp::UNIX_EPOCH).await?;
        reconciliations(&self.metrics(&leader).await?)
    }

    fn writes(&self) -> Vec<String> {
        let mut writes = self.requests();
        writes.retain(|request| request.is_write() && request.namespace == self.world.namespace);
        let said = writes.iter().map(|request| {
            let Request {
                verb, resource, name, ..
            } = request;
            format!("{verb} {resource} {name}")
        });
        said.collect()
    }
}

/// What the operator asked for in a part of the audit log.
pub(crate) fn by_operator(audit: &AuditLog) -> Vec<Request> {
    let mut requests = audit.requests().unwrap();
    requests.retain(|request| request.user == USER);
    requests
}

fn life(pod: &Pod) -> (String, i32) {
    let status = pod.status.iter();
    let containers = status.flat_map(|status| status.container_statuses.iter().flatten());
    let restarts = containers.map(|container| container.restart_count).sum();
    (pod.uid().unwrap(), restarts)
}

fn is_ready(pod: &Pod) -> bool {
    let status = pod.status.iter();
    let mut conditions = status.flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The process of a pod's container on this machine, if it runs: the kubelet names cgroups after the pods' UIDs.
pub(crate) fn process(pod: &Pod, program: &str) -> Result<u32, String> {
    let uid = pod.uid().unwrap();
    for entry in fs::read_dir("/proc").unwrap() {
        let entry = entry.map_err(|error| error.to_string())?;
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let read = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        if read("comm").trim() == program && read("cgroup").contains(&uid) {
            return Ok(id);
        }
    }
    Err(format!("no process of {}", pod.name_any()))
}

/// SIGKILL, as the kernel sends it when memory is short; gives the moment of the process's end.
pub(crate) async fn kill(world: &World, process: u32) -> Timestamp {
    let status = Command::new("kill").args(["-KILL", &process.to_string()]).status();
    assert!(status.unwrap().success());
    let gone = || async {
        (!is_alive(process))
            .then(Timestamp::now)
            .ok_or_else(|| "alive".to_owned())
    };
    world.eventually("the end of a killed process", gone).await
}

fn is_alive(process: u32) -> bool {
    let status = fs::read_to_string(Path::new("/proc").join(process.to_string()).join("status"));
    status.is_ok_and(|text| !text.contains("State:\tZ") && !text.contains("State:\tX"))
}
