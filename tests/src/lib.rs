//! Fixtures that the suites share.

pub mod powercap;
