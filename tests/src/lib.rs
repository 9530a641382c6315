//! What generators and suites share.

pub mod chart;
pub mod powercap;
