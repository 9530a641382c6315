//! Token ids that are random, fixed, and the same for all engines.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Ids below this are often control tokens.
const FIRST: u32 = 100;

/// A prompt for each row, all different.
pub(super) fn prompts(rows: usize, length: usize, vocabulary: u32) -> Vec<Vec<u32>> {
    let row = |row: usize| drawn(row as u64, length, vocabulary);
    (0..rows).map(row).collect()
}

/// The tokens of each decode step, one per row.
pub(super) fn steps(rows: usize, count: usize, vocabulary: u32) -> Vec<Vec<u32>> {
    let step = |step: usize| drawn((1 << 32) + step as u64, rows, vocabulary);
    (0..count).map(step).collect()
}

fn drawn(seed: u64, count: usize, vocabulary: u32) -> Vec<u32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..count)
        .map(|_| random.random_range(FIRST.min(vocabulary - 1)..vocabulary))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_differ_and_repeat() {
        let prompts = super::prompts(2, 64, 1000);
        assert_ne!(prompts[0], prompts[1]);
        assert_eq!(prompts, super::prompts(2, 64, 1000));
        assert!(prompts.iter().flatten().all(|token| (FIRST..1000).contains(token)));
    }
}
