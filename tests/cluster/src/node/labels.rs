//! Labels that NVIDIA's GPU Feature Discovery would set on a node with these boards.

use crate::node::NodeOptions;

/// As the kubelet takes them: `name=value,…`.
pub(super) fn of(node: &NodeOptions) -> String {
    let mut labels = node.labels.clone();
    if let Some(board) = node.boards.first() {
        let product: String = board
            .name
            .chars()
            .map(|letter| {
                if letter.is_ascii_alphanumeric() || "-._".contains(letter) {
                    letter
                } else {
                    '-'
                }
            })
            .collect();
        let driver: Vec<&str> = DRIVER.split('.').collect();
        let discovered = [
            ("gpu.present", "true".to_owned()),
            ("gpu.product", product),
            ("gpu.count", node.boards.len().to_string()),
            ("gpu.memory", (board.memory_total_bytes >> 20).to_string()),
            ("gpu.replicas", "1".to_owned()),
            ("gpu.sharing-strategy", "none".to_owned()),
            ("gpu.family", "hopper".to_owned()),
            ("gpu.compute.major", "9".to_owned()),
            ("gpu.compute.minor", "0".to_owned()),
            ("mig.capable", "true".to_owned()),
            (
                "mig.strategy",
                if board.mig_enabled { "single" } else { "none" }.to_owned(),
            ),
            ("cuda.driver-version.full", DRIVER.to_owned()),
            ("cuda.driver-version.major", driver[0].to_owned()),
            ("cuda.driver-version.minor", driver[1].to_owned()),
            ("cuda.driver-version.revision", driver[2].to_owned()),
            ("cuda.runtime-version.full", "12.4".to_owned()),
            ("cuda.runtime-version.major", "12".to_owned()),
            ("cuda.runtime-version.minor", "4".to_owned()),
        ];
        for (name, value) in discovered {
            // What a test sets wins: so it can make nodes that differ.
            labels.entry(format!("nvidia.com/{name}")).or_insert(value);
        }
    }
    let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    labels.join(",")
}

/// Version that the fake library reports.
const DRIVER: &str = "550.54.15";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_without_boards_has_no_labels_of_gpus() {
        let mut node = NodeOptions::with_index(0);
        node.boards.clear();
        assert_eq!(of(&node), "");
    }

    #[test]
    fn labels_follow_the_boards_and_a_test_may_overrule_them() {
        let mut node = NodeOptions::with_index(0);
        node.labels.insert("nvidia.com/gpu.family".to_owned(), "ada".to_owned());
        let labels = of(&node);
        for label in [
            "gpu.product=Fake-H100",
            "gpu.count=2",
            "gpu.memory=81920",
            "gpu.family=ada",
            "mig.strategy=none",
        ] {
            assert!(
                labels.split(',').any(|found| found == format!("nvidia.com/{label}")),
                "{label} in {labels}"
            );
        }
    }
}
