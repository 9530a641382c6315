//! etcd, kube-apiserver, kube-controller-manager, kube-scheduler: keys and command lines.

use std::{fs, process::Command, time::Duration};

use crate::{
    binaries::Binaries,
    command::in_network,
    error::Error,
    folder::Folder,
    kubeconfig,
    network::{API_PORT, API_SERVICE, CONTROL_PLANE, SERVICES, node_address},
    pki::{self, Authority, Subject},
};

/// What the API server writes down: bodies for our own objects, the rest by name; each request once, when it is answered.
const AUDIT_POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Request, resources: [{group: lem.dev}], omitManagedFields: true}
- {level: Metadata}
";

/// Without it the controllers are throttled: 8 s instead of 4 to boot, 10 pods a second instead of 80.
const UNTHROTTLED: [&str; 2] = ["--kube-api-qps=500", "--kube-api-burst=1000"];

/// The programs' own users: file name and user name.
const USERS: [(&str, &str); 3] = [
    ("controller-manager", "system:kube-controller-manager"),
    ("scheduler", "system:kube-scheduler"),
    ("kube-proxy", "system:kube-proxy"),
];

/// The user as which the API server reaches kubelets.
pub(crate) const KUBELET_CLIENT: &str = "kube-apiserver-kubelet-client";

/// Writes keys, certificates, kubeconfigs and the audit policy.
pub(crate) fn prepare(folder: &Folder, nodes: &[&str]) -> Result<Authority, Error> {
    let keys = folder.keys();
    let write = |name: &str, content: &str| {
        let path = keys.join(name);
        fs::write(&path, content).map_err(Error::file("write", &path))
    };
    let authority = Authority::new()?;
    write("ca.crt", &authority.certificate())?;
    write("ca.key", &authority.key())?;
    let (private, public) = pki::token_keys()?;
    write("tokens.key", &private)?;
    write("tokens.pub", &public)?;
    write("audit-policy.yaml", AUDIT_POLICY)?;

    let hosts = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
        "127.0.0.1",
        CONTROL_PLANE,
        API_SERVICE,
    ];
    let server = Subject {
        name: "kube-apiserver",
        organisation: None,
        hosts: &hosts,
    };
    authority.issue(&server)?.write(&keys, "apiserver")?;
    let client = |name: &str, organisation: Option<&str>| {
        authority.issue(&Subject {
            name,
            organisation,
            hosts: &[],
        })
    };
    client(KUBELET_CLIENT, None)?.write(&keys, "apiserver-kubelet")?;
    client("front-proxy-client", None)?.write(&keys, "front-proxy")?;
    let inside = format!("https://{CONTROL_PLANE}:{API_PORT}");
    let kubeconfig = |file: &str, identity| {
        let path = keys.join(format!("{file}.kubeconfig"));
        kubeconfig::write(&path, &inside, &authority.certificate(), &identity)
    };
    for (file, user) in USERS {
        kubeconfig(file, client(user, None)?)?;
    }
    for (index, node) in nodes.iter().enumerate() {
        let user = format!("system:node:{node}");
        kubeconfig(node, client(&user, Some("system:nodes"))?)?;
        let serving = Subject {
            name: &user,
            organisation: Some("system:nodes"),
            hosts: &[node, &node_address(index)],
        };
        authority.issue(&serving)?.write(&keys, node)?;
    }
    Ok(authority)
}

/// The administrator's kubeconfig, for programs on this machine: they reach the API server through the forwarder.
pub(crate) fn write_user_kubeconfig(folder: &Folder, authority: &Authority, port: u16) -> Result<(), Error> {
    let administrator = authority.issue(&Subject {
        name: "admin",
        organisation: Some("system:masters"),
        hosts: &[],
    })?;
    let server = format!("https://127.0.0.1:{port}");
    kubeconfig::write(&folder.kubeconfig(), &server, &authority.certificate(), &administrator)
}

pub(crate) fn etcd(folder: &Folder, binaries: &Binaries) -> Command {
    let mut command = in_network(folder.control_plane_namespace().path(), binaries.path("etcd"));
    command.arg("--data-dir").arg(folder.join("etcd")).args([
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--initial-advertise-peer-urls=http://127.0.0.1:2380",
        "--initial-cluster=default=http://127.0.0.1:2380",
        // The data outlive a kill of etcd, not one of the machine.
        "--unsafe-no-fsync",
    ]);
    command
}

pub(crate) fn api_server(folder: &Folder, binaries: &Binaries) -> Command {
    let keys = folder.keys();
    let key = |name: &str| keys.join(name).display().to_string();
    let mut command = in_network(folder.control_plane_namespace().path(), binaries.path("kube-apiserver"));
    command.args([
        "--etcd-servers=http://127.0.0.1:2379",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--allow-privileged=true",
        "--enable-aggregator-routing=true",
        "--kubelet-preferred-address-types=InternalIP",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        // In step with the answers: what a test has seen done is in the log.
        "--audit-log-mode=blocking",
        "--audit-log-maxsize=10000",
    ]);
    let settings = [
        ("secure-port", API_PORT.to_string()),
        ("advertise-address", CONTROL_PLANE.to_owned()),
        ("service-cluster-ip-range", SERVICES.to_owned()),
        ("tls-cert-file", key("apiserver.crt")),
        ("tls-private-key-file", key("apiserver.key")),
        ("client-ca-file", key("ca.crt")),
        ("service-account-key-file", key("tokens.pub")),
        ("service-account-signing-key-file", key("tokens.key")),
        ("kubelet-client-certificate", key("apiserver-kubelet.crt")),
        ("kubelet-client-key", key("apiserver-kubelet.key")),
        ("kubelet-certificate-authority", key("ca.crt")),
        ("requestheader-client-ca-file", key("ca.crt")),
        ("proxy-client-cert-file", key("front-proxy.crt")),
        ("proxy-client-key-file", key("front-proxy.key")),
        ("audit-policy-file", key("audit-policy.yaml")),
        ("audit-log-path", folder.audit_log().display().to_string()),
    ];
    command.args(settings.map(|(name, value)| format!("--{name}={value}")));
    command
}

pub(crate) fn controller_manager(folder: &Folder, binaries: &Binaries, grace_period: Duration) -> Command {
    let keys = folder.keys();
    let key = |name: &str| keys.join(name).display().to_string();
    let mut command = in_network(
        folder.control_plane_namespace().path(),
        binaries.path("kube-controller-manager"),
    );
    let kubeconfig = key("controller-manager.kubeconfig");
    let settings = [
        ("kubeconfig", kubeconfig.clone()),
        ("authentication-kubeconfig", kubeconfig.clone()),
        ("authorization-kubeconfig", kubeconfig),
        ("service-account-private-key-file", key("tokens.key")),
        ("root-ca-file", key("ca.crt")),
        ("cluster-signing-cert-file", key("ca.crt")),
        ("cluster-signing-key-file", key("ca.key")),
        ("node-monitor-grace-period", format!("{}s", grace_period.as_secs())),
    ];
    command
        .args([
            "--use-service-account-credentials=true",
            "--leader-elect=false",
            "--allocate-node-cidrs=false",
            "--bind-address=127.0.0.1",
            "--node-monitor-period=2s",
            "--concurrent-job-syncs=10",
        ])
        .args(UNTHROTTLED)
        .args(settings.map(|(name, value)| format!("--{name}={value}")));
    command
}

pub(crate) fn scheduler(folder: &Folder, binaries: &Binaries) -> Command {
    let kubeconfig = folder.keys().join("scheduler.kubeconfig");
    let mut command = in_network(folder.control_plane_namespace().path(), binaries.path("kube-scheduler"));
    for name in ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"] {
        command.arg(format!("--{name}={}", kubeconfig.display()));
    }
    command
        .args(["--leader-elect=false", "--bind-address=127.0.0.1"])
        .args(UNTHROTTLED);
    command
}
