//! Energy against a known truth: the real meters on a fake NVML below nvml-wrapper and on fake powercap trees.

mod accuracy;
mod agent;
mod cpu;
mod faults;
mod machine;
