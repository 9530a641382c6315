//! What each node of the fleet does, decided by its name and a seed. Pure.

use sha2::{Digest, Sha256};

/// Hardware of a fleet: what each class of nodes is, and what it draws.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Class {
    /// Product as NVML names it.
    pub(crate) product: &'static str,
    /// Memory in bytes.
    pub(crate) memory_bytes: u64,
    /// Power limit as delivered, in watts.
    pub(crate) power_limit_watts: f64,
    /// Power under this load, in watts.
    pub(crate) watts: f64,
    /// Tokens per second under this load.
    pub(crate) tokens_per_second: f64,
    /// Its devices say that power holds their clocks down.
    pub(crate) throttled: bool,
}

const GIBIBYTE: u64 = 1 << 30;

/// Nodes belong to these in turn. The last one is throttled.
pub(crate) const CLASSES: [Class; 5] = [
    class("NVIDIA H100 80GB HBM3", 80, 700.0, 420.0, 900.0, false),
    class("NVIDIA A100-SXM4-80GB", 80, 400.0, 290.0, 520.0, false),
    class("NVIDIA L40S", 48, 350.0, 250.0, 390.0, false),
    class("NVIDIA L4", 24, 72.0, 60.0, 120.0, false),
    class("NVIDIA A10", 24, 150.0, 140.0, 160.0, true),
];

const fn class(
    product: &'static str,
    gibibytes: u64,
    power_limit_watts: f64,
    watts: f64,
    tokens_per_second: f64,
    throttled: bool,
) -> Class {
    Class {
        product,
        memory_bytes: gibibytes * GIBIBYTE,
        power_limit_watts,
        watts,
        tokens_per_second,
        throttled,
    }
}

/// What goes wrong on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Its first process crashes in its second window.
    Crash,
    /// Its first process says nothing any more in its second window.
    Hang,
    /// Its clock is an hour ahead.
    WrongClock,
}

/// In a thousand nodes.
const CRASHES: u64 = 50;
const HANGS: u64 = 20;
const WRONG_CLOCKS: u64 = 10;

/// Seeded randomness of one node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Behaviour<'a> {
    pub(crate) seed: u64,
    pub(crate) node: &'a str,
}

impl Behaviour<'_> {
    /// A number that a purpose, a window and the node's name decide.
    fn draw(&self, purpose: &str, window: u64) -> u64 {
        let mut hash = Sha256::new();
        hash.update(self.seed.to_le_bytes());
        hash.update(window.to_le_bytes());
        hash.update(purpose);
        hash.update(self.node);
        hash.finalize()[..8]
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// Uniform in 0..1.
    fn uniform(&self, purpose: &str, window: u64) -> f64 {
        // 53 bits are exact.
        (self.draw(purpose, window) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// What goes wrong there, if anything does.
    pub(crate) fn fault(&self) -> Option<Fault> {
        match self.draw("fault", 0) % 1000 {
            number if number < CRASHES => Some(Fault::Crash),
            number if number < CRASHES + HANGS => Some(Fault::Hang),
            number if number < CRASHES + HANGS + WRONG_CLOCKS => Some(Fault::WrongClock),
            _ => None,
        }
    }

    /// Power and speed of a window relative to its class: nodes differ by 2 %, windows of a node by half a percent.
    pub(crate) fn factor(&self, window: u64) -> f64 {
        let of_node = self.uniform("node", 0) - 0.5;
        let of_window = self.uniform("window", window) - 0.5;
        1.0 + 0.04 * of_node + 0.01 * of_window
    }

    /// A share of the longest time that a phase takes, so that a thousand nodes do not go in step.
    pub(crate) fn spread(&self, purpose: &str, window: u64) -> f64 {
        0.8 + 0.2 * self.uniform(purpose, window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_brings_the_same_faults_and_about_as_many_as_said() {
        let faults = |seed| {
            let names = (0..4000).map(|index| format!("node-{index}"));
            names
                .map(|node| Behaviour { seed, node: &node }.fault())
                .collect::<Vec<_>>()
        };
        assert_eq!(faults(1), faults(1));
        assert_ne!(faults(1), faults(2));
        let of = |wanted| faults(1).iter().filter(|fault| **fault == Some(wanted)).count();
        assert!((150..250).contains(&of(Fault::Crash)), "{}", of(Fault::Crash));
        assert!((50..110).contains(&of(Fault::Hang)), "{}", of(Fault::Hang));
        assert!((20..65).contains(&of(Fault::WrongClock)), "{}", of(Fault::WrongClock));
    }

    #[test]
    fn windows_of_a_node_differ_less_than_nodes() {
        let behaviour = Behaviour { seed: 1, node: "a" };
        let spread = (behaviour.factor(1) - behaviour.factor(2)).abs();
        assert!(spread > 0.0 && spread <= 0.01, "{spread}");
    }
}
