//! The cluster itself: what the suites that use it rely on.
//!
//! These tests are ignored unless asked for, because they need root and the cluster's programs: `make test-cluster`.

#![expect(
    clippy::unwrap_used,
    reason = "the functions around the tests fail the test as the tests do"
)]

mod boot;
mod end;
mod gpus;
mod parts;
mod pods;
mod shared;
