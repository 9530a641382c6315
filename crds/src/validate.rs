//! The cluster's own admission rules, evaluated without a cluster.
