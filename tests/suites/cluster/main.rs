//! The test cluster itself: what the suites that use it rely on.
//!
//! These tests are ignored unless asked for, because they need root and the cluster's programs: `make test-cluster`.
#![cfg(test)]

mod boot;
mod end;
mod gpus;
mod parts;
mod shared;
