//! From nothing to ready nodes.

use std::{
    fs,
    os::unix::{fs::DirBuilderExt, process::CommandExt},
    process::{Child, Command, Stdio},
    time::Duration,
};

use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleRef, Subject};
use kube::{Api, Client, api::PostParams};

use super::{Options, Own, client, probe};
use crate::{
    binaries::{self, Binaries},
    control_plane,
    error::Error,
    failures,
    folder::Folder,
    limits,
    namespace::Namespace,
    network,
    process::{Part, Parts},
    teardown, wait,
};

/// Each step takes a few seconds on an idle machine.
pub(super) const LIMIT: Duration = Duration::from_secs(90);

impl Own {
    /// Makes a cluster; a failure on the way removes what there is of it.
    pub(super) async fn boot(name: &str, options: Options) -> Result<Self, Error> {
        let folder = Folder::of(name)?;
        let binaries = Binaries::ensure()?;
        let lock = folder.lock()?;
        if folder.detached().exists() {
            return Err(Error::InUse(name.to_owned()));
        }
        // Of a process that was killed together with its guard.
        teardown::remove(&folder)?;
        limits::raise()?;
        // Keys of the cluster and secrets of its pods are in it.
        fs::DirBuilder::new()
            .mode(0o700)
            .create(folder.path())
            .map_err(Error::file("create", folder.path()))?;
        for path in [folder.logs(), folder.keys(), folder.namespaces()] {
            fs::create_dir_all(&path).map_err(Error::file("create", &path))?;
        }
        let own = Self {
            parts: Parts::new(folder.logs()),
            guard: Some(guard(name)?),
            folder,
            binaries,
            options,
            detached: false,
            _lock: lock,
        };
        let outcome = own.bring_up().await;
        if outcome.is_err() {
            failures::keep_logs(&own.folder, &format!("boot-{name}"));
        }
        outcome.map(|()| own)
    }

    async fn bring_up(&self) -> Result<(), Error> {
        self.connect()?;
        let client = self.start_control_plane().await?;
        let pause = self.binaries.path("pause.tar");
        let images: Vec<_> = std::iter::once(&pause).chain(&self.options.images).collect();
        self.on_all_nodes(|node| node.start(&images))?;
        self.until_ready(&client).await
    }

    /// Namespaces and the cables between them.
    fn connect(&self) -> Result<(), Error> {
        let control_plane = self.folder.control_plane_namespace();
        control_plane.create()?;
        let nodes: Vec<_> = self
            .options
            .nodes
            .iter()
            .map(|node| self.folder.node_namespace(&node.name))
            .collect();
        for node in &nodes {
            node.create()?;
        }
        control_plane.configure(&network::control_plane_batch(nodes.iter().map(Namespace::path)))?;
        for (index, node) in nodes.iter().enumerate() {
            node.configure(&network::node_batch(index, nodes.len()))?;
        }
        Ok(())
    }

    async fn start_control_plane(&self) -> Result<Client, Error> {
        let names: Vec<&str> = self.options.nodes.iter().map(|node| node.name.as_str()).collect();
        let authority = control_plane::prepare(&self.folder, &names)?;
        for node in self.nodes() {
            node.prepare()?;
        }
        for part in [Part::Etcd, Part::ApiServer, Part::Forwarder] {
            self.spawn(&part)?;
        }
        let path = self.port_file();
        let alive = || self.parts.check();
        let port = wait::until_blocking("start of the forwarder", LIMIT, alive, || {
            fs::read_to_string(&path).ok()?.parse().ok()
        })?;
        control_plane::write_user_kubeconfig(&self.folder, &authority, port)?;
        let client = client(&self.folder.kubeconfig()).await?;
        self.until_serving(&client).await?;
        for part in [Part::ControllerManager, Part::Scheduler] {
            self.spawn(&part)?;
        }
        allow_kubelet_access(&client).await?;
        Ok(client)
    }

    /// Waits until the API server says that it is ready.
    pub(super) async fn until_serving(&self, client: &Client) -> Result<(), Error> {
        let alive = || self.parts.check();
        wait::until("readiness of the API server", LIMIT, alive, || probe::serving(client)).await
    }

    async fn until_ready(&self, client: &Client) -> Result<(), Error> {
        let alive = || self.parts.check();
        wait::until("health of the controllers", LIMIT, alive, || probe::controllers(client)).await?;
        for node in &self.options.nodes {
            let condition = format!("readiness of {}", node.name);
            wait::until(&condition, LIMIT, alive, || {
                probe::node_ready(client, &node.name, node.boards.len(), None)
            })
            .await?;
        }
        wait::until("the default ServiceAccount", LIMIT, alive, || {
            probe::service_account(client)
        })
        .await
    }
}

/// What kubeadm sets up too: the API server's own user may fetch logs and run commands in containers.
async fn allow_kubelet_access(client: &Client) -> Result<(), Error> {
    let mut binding = ClusterRoleBinding {
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".to_owned(),
            kind: "ClusterRole".to_owned(),
            name: "system:kubelet-api-admin".to_owned(),
        },
        subjects: Some(vec![Subject {
            kind: "User".to_owned(),
            name: control_plane::KUBELET_CLIENT.to_owned(),
            ..Subject::default()
        }]),
        ..ClusterRoleBinding::default()
    };
    binding.metadata.name = Some("lem-test:kubelet-access".to_owned());
    Api::all(client.clone())
        .create(&PostParams::default(), &binding)
        .await
        .map_err(|source| Error::Api {
            action: "allow the API server to reach kubelets",
            source: Box::new(source),
        })?;
    Ok(())
}

/// Starts the guard, out of reach of a Ctrl-C that ends this process.
fn guard(name: &str) -> Result<Child, Error> {
    Command::new(binaries::own_program()?)
        .args(["guard", "--name", name])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|source| Error::Spawn {
            program: "the cluster's guard".to_owned(),
            source,
        })
}
