use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::kernels::InstructionSet;

/// A sequence's keys and values for one head, in scattered blocks of a cache.
struct Sequence {
    dimension: usize,
    cache: Vec<f16>,
    blocks: Vec<u32>,
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
    queries: Vec<Vec<f32>>,
}

impl Sequence {
    fn new(positions: usize, dimension: usize, queries: usize) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(positions as u64);
        let mut vectors = |count: usize, size: f32| -> Vec<Vec<f32>> {
            (0..count)
                .map(|_| {
                    (0..dimension)
                        .map(|_| f16::from_f32(random.random_range(-size..size)).to_f32())
                        .collect()
                })
                .collect()
        };
        let (keys, values, queries) = (vectors(positions, 1.0), vectors(positions, 1.0), vectors(queries, 0.5));
        let count = positions.div_ceil(BLOCK_POSITIONS);
        // Backwards, with a hole; what no position has written is not a number.
        let blocks: Vec<u32> = (0..count as u32).rev().map(|block| block + 1).collect();
        let stride = 2 * dimension * BLOCK_POSITIONS;
        let mut cache = vec![f16::NAN; (count + 1) * stride];
        for position in 0..positions {
            let base = blocks[position / BLOCK_POSITIONS] as usize * stride;
            let slot = position % BLOCK_POSITIONS;
            for element in 0..dimension {
                cache[base + element * BLOCK_POSITIONS + slot] = f16::from_f32(keys[position][element]);
                cache[base + (BLOCK_POSITIONS + slot) * dimension + element] = f16::from_f32(values[position][element]);
            }
        }
        Self {
            dimension,
            cache,
            blocks,
            keys,
            values,
            queries,
        }
    }

    fn tile(&self, from: usize, visible: &[(usize, usize)], cap: f32) -> QueryTile<'_, f16> {
        let mut queries = [std::ptr::null(); TILE];
        let mut bounds = [(0, 0); TILE];
        for (index, seen) in visible.iter().enumerate() {
            queries[index] = self.queries[from + index].as_ptr();
            bounds[index] = *seen;
        }
        QueryTile {
            cache: self.cache.as_ptr(),
            block_stride: 2 * self.dimension * BLOCK_POSITIONS,
            head_offset: 0,
            blocks: &self.blocks,
            dimension: self.dimension,
            count: visible.len(),
            queries,
            visible: bounds,
            cap,
        }
    }

    fn whole(&self, set: InstructionSet, from: usize, visible: &[(usize, usize)], cap: f32) -> Vec<Vec<f32>> {
        let mut results = vec![vec![0.0; self.dimension]; visible.len()];
        let mut places = [std::ptr::null_mut(); TILE];
        for (place, result) in places.iter_mut().zip(&mut results) {
            *place = result.as_mut_ptr();
        }
        // SAFETY: one thread; the results have the dimension.
        unsafe { attend_f16(set, &self.tile(from, visible, cap), Part::Whole(places)) };
        results
    }

    fn reference(&self, query: usize, (first, last): (usize, usize), cap: f64) -> Vec<f64> {
        let scores: Vec<f64> = (first..=last)
            .map(|position| {
                let products = self.queries[query].iter().zip(&self.keys[position]);
                let score: f64 = products.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                if cap > 0.0 { cap * (score / cap).tanh() } else { score }
            })
            .collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
        (0..self.dimension)
            .map(|element| {
                let values = self.values[first..=last].iter().map(|value| f64::from(value[element]));
                scores
                    .iter()
                    .zip(values)
                    .map(|(score, value)| (score - largest).exp() / total * value)
                    .sum()
            })
            .collect()
    }
}

#[test]
fn attention_is_the_softmax_over_exactly_the_visible_positions() {
    let shapes = [(1, 64), (31, 16), (32, 64), (33, 80), (500, 96), (513, 64), (1100, 128)];
    // An interpreter takes minutes for the longer ones.
    let shapes = shapes
        .into_iter()
        .filter(|(positions, dimension)| !cfg!(miri) || positions * dimension < 500);
    for (positions, dimension) in shapes {
        let sequence = Sequence::new(positions, dimension, 8);
        let last = positions - 1;
        for visible in [
            vec![(0, last)],
            vec![(0, last); 3],
            vec![(0, last / 2), (last / 3, last), (last, last)],
            (0..8).map(|query| (0, last.saturating_sub(7 - query))).collect(),
            vec![(last.saturating_sub(40), last); 5],
        ] {
            for cap in [0.0, 0.7] {
                for set in InstructionSet::available() {
                    let found = sequence.whole(*set, 0, &visible, cap);
                    for (query, found) in found.iter().enumerate() {
                        let expected = sequence.reference(query, visible[query], f64::from(cap));
                        for (found, expected) in found.iter().zip(expected) {
                            let error = (f64::from(*found) - expected).abs();
                            assert!(
                                error < 2e-6,
                                "{} {positions} {visible:?}: {found} is not {expected}",
                                set.name()
                            );
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_query_has_the_same_attention_alone_and_in_any_tile_on_any_instruction_set() {
    // An interpreter takes minutes for more.
    let positions = if cfg!(miri) { 120 } else { 1200 };
    let sequence = Sequence::new(positions, 64, 8);
    let visible: Vec<(usize, usize)> = (0..8).map(|query| (query * 3, positions - 100 + query * 11)).collect();
    let expected = sequence.whole(InstructionSet::Scalar, 0, &visible, 0.0);
    for set in InstructionSet::available() {
        assert_eq!(sequence.whole(*set, 0, &visible, 0.0), expected, "{}", set.name());
        for (query, expected) in expected.iter().enumerate() {
            let alone = sequence.whole(*set, query, &visible[query..=query], 0.0);
            assert_eq!(&alone[0], expected, "{} query {query}", set.name());
        }
        assert_eq!(sequence.whole(*set, 2, &visible[2..5], 0.0), expected[2..5]);
    }
}

#[test]
#[cfg_attr(miri, ignore = "interpreting spans of that length takes minutes")]
fn spans_computed_apart_and_merged_give_the_bits_of_the_whole() {
    let sequence = Sequence::new(1700, 64, 3);
    let visible = [(0, 1699), (700, 1650), (0, 1699)];
    for set in InstructionSet::available() {
        let whole = sequence.whole(*set, 0, &visible, 0.0);
        let mut partials = vec![Partial::EMPTY; 4];
        let tile = sequence.tile(0, &visible, 0.0);
        for (span, partial) in partials.iter_mut().enumerate() {
            // SAFETY: one thread.
            unsafe { attend_f16(*set, &tile, Part::Span(span, partial)) };
        }
        let mut results = vec![vec![0.0; 64]; 3];
        let mut places = [std::ptr::null_mut(); TILE];
        for (place, result) in places.iter_mut().zip(&mut results) {
            *place = result.as_mut_ptr();
        }
        // SAFETY: the results have the dimension.
        unsafe { merge(*set, &mut partials, 3, 64, places) };
        assert_eq!(results, whole, "{}", set.name());
    }
}
