use super::*;
use crate::kernels::{InstructionSet, kernel};

kernel! {
    unsafe fn exponentials(from: *const f32, to: *mut f32) = exponentials_of
}

#[inline(always)]
unsafe fn exponentials_of<V: Simd>(from: *const f32, to: *mut f32) {
    // SAFETY: the tests have 16 elements at both.
    unsafe { V::store(to, exp::<V>(V::load(from))) }
}

kernel! {
    unsafe fn tangents(from: *const f32, to: *mut f32) = tangents_of
}

#[inline(always)]
unsafe fn tangents_of<V: Simd>(from: *const f32, to: *mut f32) {
    // SAFETY: the tests have 16 elements at both.
    unsafe { V::store(to, tanh::<V>(V::load(from))) }
}

kernel! {
    unsafe fn reductions(from: *const f32, to: *mut f32) = reductions_of
}

#[inline(always)]
unsafe fn reductions_of<V: Simd>(from: *const f32, to: *mut f32) {
    // SAFETY: the tests have 16 elements at both.
    unsafe {
        let values = V::load(from);
        *to = V::reduce_add(values);
        *to.add(1) = V::reduce_max(values);
    }
}

fn apply(
    function: unsafe fn(InstructionSet, *const f32, *mut f32),
    set: InstructionSet,
    values: [f32; 16],
) -> [f32; 16] {
    let mut results = [0.0; 16];
    // SAFETY: 16 elements each, and the set is available.
    unsafe { function(set, values.as_ptr(), results.as_mut_ptr()) };
    results
}

#[test]
fn exponentials_and_tangents_are_right_to_a_few_units_in_the_last_place_on_every_instruction_set() {
    for set in InstructionSet::available() {
        for start in -110..100_i16 {
            let values: [f32; 16] = std::array::from_fn(|lane| f32::from(start) + lane as f32 * 0.063);
            let results = apply(exponentials, *set, values);
            for (value, result) in values.into_iter().zip(results) {
                let expected = f64::from(value.clamp(-87.0, 88.0)).exp();
                let error = (f64::from(result) - expected).abs() / expected;
                assert!(error < 3e-7, "{}: exp({value}) is {result}, not {expected}", set.name());
            }
            let small = values.map(|value| value / 20.0);
            for (value, result) in small.into_iter().zip(apply(tangents, *set, small)) {
                let error = (f64::from(result) - f64::from(value).tanh()).abs();
                assert!(error < 1e-6, "{}: tanh({value}) is {result}", set.name());
            }
        }
    }
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    for start in -100..100_i16 {
        let values: [f32; 16] = std::array::from_fn(|lane| f32::from(start) * 0.37 + lane as f32 * 1.7);
        for function in [exponentials, tangents, reductions] {
            let expected = apply(function, InstructionSet::Scalar, values);
            for set in InstructionSet::available() {
                let found = apply(function, *set, values);
                assert_eq!(found.map(f32::to_bits), expected.map(f32::to_bits), "{}", set.name());
            }
        }
    }
}
