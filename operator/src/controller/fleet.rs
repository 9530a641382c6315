//! `placement.strategy: EachNode`: a fleet is as many experiments of one process as there are nodes. Pure.
//!
//! Of each node the same questions are asked as of any experiment ([`super::decide`]), with what was seen of that node
//! alone; then how many nodes may be measured at the same time, and when the fleet is done. In order of use:
//! [`nodes`] (which nodes there are) → [`look`](mod@look) (one node) → [`decide`](mod@decide) (all of them) →
//! [`status`](mod@status).

pub mod decide;
pub mod devices;
pub mod look;
pub mod nodes;
pub mod status;

#[cfg(test)]
mod tests;
