//! Tests of the whole calculation: hand-computed examples, doubts at their limits, and properties.

mod choice;
mod cycles;
mod doubts;
pub(crate) mod fixtures;
mod fleet;
mod golden;
mod planning;
mod properties;
mod schedule;
