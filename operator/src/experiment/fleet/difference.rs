//! Outliers among few nodes, where a median absolute deviation says nothing. Pure.
//!
//! With two to four nodes each pair is compared on its cycles, Welch's t on the logarithm as in [`super::super::compare()`].
//! A node is an outlier if it leaves every other node to the same side. The intervals are widened by the number of pairs
//! and metrics (Bonferroni), so that equal nodes have an outlier in one of 20 experiments at most.

use super::super::{
    compare::MINIMUM_FLEET,
    statistics::{CONFIDENCE, mean, welch_half_width},
};

/// A smaller difference is none, however sure: no meter of two boards agrees better.
const SMALLEST_DIFFERENCE: f64 = 0.01;

/// Most nodes that are compared in pairs; from one more on the class has a deviation of its own.
const MOST_PAIRED: usize = MINIMUM_FLEET - 1;

/// Positions of the nodes that leave all others, given the metric's value in each cycle of each node; `None` where
/// nothing can be compared: fewer than two nodes, a node with fewer than two cycles, a value that has no logarithm.
///
/// `metrics` is the number of metrics by which the same nodes are compared.
pub(super) fn apart_from_all(cycles: &[&[f64]], metrics: usize) -> Option<Vec<usize>> {
    let nodes = cycles.len();
    if !(2..=MOST_PAIRED).contains(&nodes) {
        return None;
    }
    let pairs = nodes * (nodes - 1) / 2;
    let confidence = 1.0 - (1.0 - CONFIDENCE) / (pairs * metrics) as f64;
    // +1 where the row uses more than the column, −1 where it uses less, 0 where no difference is shown.
    let mut sides = vec![vec![0_i8; nodes]; nodes];
    for row in 0..nodes {
        for column in row + 1..nodes {
            let side = side(cycles[row], cycles[column], confidence)?;
            sides[row][column] = side;
            sides[column][row] = -side;
        }
    }
    let leaves = |row: &usize, side: i8| (0..nodes).all(|column| column == *row || sides[*row][column] == side);
    // Of two that differ, the one that uses more is named: there is no third to say which is the usual one.
    let downwards = nodes > 2;
    Some(
        (0..nodes)
            .filter(|row| leaves(row, 1) || downwards && leaves(row, -1))
            .collect(),
    )
}

fn side(left: &[f64], right: &[f64], confidence: f64) -> Option<i8> {
    let logarithms = |values: &[f64]| -> Option<Vec<f64>> {
        values.iter().map(|value| (*value > 0.0).then(|| value.ln())).collect()
    };
    let (left, right) = (logarithms(left)?, logarithms(right)?);
    let half_width = welch_half_width(&right, &left, confidence)?;
    let difference = mean(&left) - mean(&right);
    let shown = half_width.max(SMALLEST_DIFFERENCE);
    Some(if difference > shown {
        1
    } else if difference < -shown {
        -1
    } else {
        0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_that_uses_more_than_both_others_is_found_and_the_others_are_not() {
        let (a, b, c) = ([1.00, 1.01, 0.99], [1.005, 0.995, 1.0], [1.08, 1.09, 1.075]);
        assert_eq!(apart_from_all(&[&a, &b, &c], 1), Some(vec![2]));
    }

    #[test]
    fn nodes_whose_cycles_spread_as_far_as_they_differ_have_no_outlier() {
        let (a, b, c) = ([1.0, 1.1, 0.9], [1.05, 0.95, 1.0], [1.08, 1.2, 0.97]);
        assert_eq!(apart_from_all(&[&a, &b, &c], 1), Some(Vec::new()));
    }

    #[test]
    fn of_two_that_differ_the_one_that_uses_more_is_named() {
        let (a, b) = ([1.00, 1.01, 0.99], [1.2, 1.21, 1.19]);
        assert_eq!(apart_from_all(&[&a, &b], 1), Some(vec![1]));
    }

    #[test]
    fn what_cannot_be_compared_is_said_and_not_called_equal() {
        let (one, two) = ([1.0], [1.0, 1.1]);
        assert_eq!(apart_from_all(&[&two], 1), None);
        assert_eq!(apart_from_all(&[&one, &two], 1), None);
        assert_eq!(apart_from_all(&[&[0.0, 1.0], &two], 1), None);
    }

    proptest::proptest! {
        #[test]
        fn a_node_is_apart_whatever_the_order_and_the_unit(
            cycles in proptest::collection::vec(proptest::collection::vec(0.9_f64..1.1, 3), 2..=4), scale in 0.1_f64..10.0
        ) {
            let slices: Vec<&[f64]> = cycles.iter().map(Vec::as_slice).collect();
            let found = apart_from_all(&slices, 1).unwrap();
            let scaled: Vec<Vec<f64>> =
                cycles.iter().rev().map(|node| node.iter().map(|value| value * scale).collect()).collect();
            let reversed: Vec<&[f64]> = scaled.iter().map(Vec::as_slice).collect();
            let mut again: Vec<usize> =
                apart_from_all(&reversed, 1).unwrap().into_iter().map(|node| cycles.len() - 1 - node).collect();
            again.sort_unstable();
            proptest::prop_assert_eq!(found, again);
        }
    }
}
