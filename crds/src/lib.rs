//! The contract of `lem`.
