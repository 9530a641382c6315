//! Configuration files of a node's programs.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::{
    binaries::{NETWORK_PLUGINS, PAUSE_IMAGE},
    cgroup,
    error::Error,
    network::{node_address, pod_network},
    node::{Node, dynamic_resources},
};

pub(super) const CONTAINERD: &str = "containerd.toml";
pub(super) const KUBELET: &str = "kubelet.yaml";
pub(super) const KUBE_PROXY: &str = "kube-proxy.yaml";
/// containerd's, as the node sees it: where `ctr` looks for it.
pub(super) const SOCKET: &str = "/run/containerd/containerd.sock";

/// Writes all of a node's configuration into its folder.
pub(super) fn write(node: &Node<'_>, folder: &Path) -> Result<(), Error> {
    let put = |name: &str, text: String| {
        let path = folder.join(name);
        fs::write(&path, text).map_err(Error::file("write", &path))
    };
    put("network/10-bridge.conflist", network(node).to_string())?;
    put(CONTAINERD, containerd(node, folder))?;
    // JSON is YAML.
    put(KUBELET, kubelet(node).to_string())?;
    put(KUBE_PROXY, kube_proxy(node).to_string())
}

fn network(node: &Node<'_>) -> Value {
    json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isDefaultGateway": true,
                "ipMasq": false,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": pod_network(node.index)}]],
                    "dataDir": "/run/cni-addresses",
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
        ],
    })
}

fn containerd(node: &Node<'_>, folder: &Path) -> String {
    format!(
        r#"version = 3
root = "{root}"
state = "/run/containerd"
# Not used here, and each would probe the machine.
disabled_plugins = [
  "io.containerd.nri.v1.nri",
  "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.internal.v1.tracing",
  "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.erofs",
]
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{PAUSE_IMAGE}"
[plugins."io.containerd.cri.v1.runtime"]
  # A machine may lack CAP_SYS_RESOURCE: then a negative oom_score_adj is refused and no sandbox starts.
  restrict_oom_score_adj = true
  cdi_spec_dirs = ["{devices}"]
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{NETWORK_PLUGINS}"]
    conf_dir = "{network}"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      BinaryName = "{runc}"
      SystemdCgroup = false
"#,
        root = folder.join("containerd").display(),
        devices = folder.join(dynamic_resources::CDI).display(),
        network = folder.join("network").display(),
        runc = node.binaries.path("runc").display(),
    )
}

fn kubelet(node: &Node<'_>) -> Value {
    let keys = node.folder.keys();
    let name = &node.options.name;
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failCgroupV1": false,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup::root(&node.folder.cgroup(), name),
        "address": node_address(node.index),
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": keys.join("ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": keys.join(format!("{name}.crt")),
        "tlsPrivateKeyFile": keys.join(format!("{name}.key")),
        "containerRuntimeEndpoint": format!("unix://{SOCKET}"),
        "clusterDomain": "cluster.local",
        "resolvConf": "",
        "failSwapOn": false,
        "makeIPTablesUtilChains": false,
        "maxOpenFiles": 65536,
        // The nodes share the machine's disk, which is not theirs to keep clean.
        "evictionHard": {
            "memory.available": "50Mi",
            "nodefs.available": "1%",
            "imagefs.available": "1%",
            "nodefs.inodesFree": "1%",
        },
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "nodeStatusUpdateFrequency": "4s",
        "nodeLeaseDurationSeconds": 12,
        "syncFrequency": "10s",
        "shutdownGracePeriod": "0s",
    })
}

fn kube_proxy(node: &Node<'_>) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "hostnameOverride": node.options.name,
        "clientConnection": {"kubeconfig": node.folder.keys().join("kube-proxy.kubeconfig")},
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "conntrack": {"maxPerCore": 0, "min": 0},
    })
}
