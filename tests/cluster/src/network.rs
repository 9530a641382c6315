//! Addresses. Every cluster has the same ones: its namespaces have no way out, so clusters side by side never meet.

use std::path::Path;

/// The control plane, on the bridge of all nodes.
pub(crate) const CONTROL_PLANE: &str = "10.250.0.1";
/// Where the API server listens.
pub(crate) const API_PORT: u16 = 6443;
/// Cluster IPs of Services.
pub(crate) const SERVICES: &str = "10.96.0.0/16";
/// The Service of the API server, the first of [`SERVICES`].
pub(crate) const API_SERVICE: &str = "10.96.0.1";

/// Address of the node with this index.
pub(crate) fn node_address(index: usize) -> String {
    format!("10.250.0.{}", 10 + index)
}

/// Addresses of the pods on the node with this index.
pub(crate) fn pod_network(index: usize) -> String {
    format!("10.244.{index}.0/24")
}

/// `ip` commands for the control plane's namespace: the bridge, and a cable and a route to each node.
pub(crate) fn control_plane_batch<'a>(node_namespaces: impl Iterator<Item = &'a Path>) -> String {
    let bridge =
        format!("link add bridge0 type bridge\naddress add {CONTROL_PLANE}/24 dev bridge0\nlink set bridge0 up\n");
    let nodes = node_namespaces.enumerate().map(|(index, namespace)| {
        format!(
            "link add node{index} type veth peer name eth0 netns {}\nlink set node{index} master bridge0 up\n\
             route add {} via {} dev bridge0 onlink\n",
            namespace.display(),
            pod_network(index),
            node_address(index)
        )
    });
    std::iter::once(bridge).chain(nodes).collect()
}

/// `ip` commands for a node's namespace, of `nodes` in all.
pub(crate) fn node_batch(index: usize, nodes: usize) -> String {
    let own = format!(
        "address add {}/24 dev eth0\nlink set eth0 up\nroute add default via {CONTROL_PLANE}\n",
        node_address(index)
    );
    let others = (0..nodes).filter(|other| *other != index);
    let routes = others.map(|other| format!("route add {} via {}\n", pod_network(other), node_address(other)));
    std::iter::once(own).chain(routes).collect()
}
