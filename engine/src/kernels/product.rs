//! Products of packed weights with tiles of activations.
//!
//! A product holds 16 outputs of each row of a tile in registers and goes through the columns once, so that a weight is
//! unpacked once for up to 8 rows. The order of the additions for one row does not depend on the rows beside it: a
//! sequence has the same results alone and in a batch.

mod formats;

use std::ops::Range;

use super::activations::{ActivationWriter, Activations, Tile, tiles, write_columns};
use super::kernel;
use crate::packed::{PANEL, PackedMatrix};
use crate::shared::Shared;
use crate::simd::{LANES, Simd, exp, tanh};
use crate::tensor::ElementType;
use formats::{BrainFloats, Floats, Format, Halves, Q4_0, Q4_1, Q4K, Q6K, Q8_0};

/// Where the results of a product go: row `r`, output `n` to element `r * stride + n`. Outputs are written up to the
/// next multiple of 16.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output<'memory> {
    pub(crate) values: Shared<'memory, f32>,
    /// Elements from one row to the next.
    pub(crate) stride: usize,
    /// Element of the first row's first output.
    pub(crate) offset: usize,
    /// Add to what is there.
    pub(crate) accumulate: bool,
}

/// What gates the other branch of the feed-forward network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    /// x · sigmoid(x), of `SwiGLU`.
    Silu,
    /// The tanh approximation of GELU, of `GeGLU`.
    Gelu,
}

/// Evaluates an expression for the [`Format`] of a type of elements. Not a function that takes one: the expression is to
/// be compiled with the instruction set around it.
macro_rules! with_format {
    ($element_type:expr, $format:ident => $expression:expr) => {
        match $element_type {
            ElementType::F32 => with_format!(Floats as $format => $expression),
            ElementType::F16 => with_format!(Halves as $format => $expression),
            ElementType::Bf16 => with_format!(BrainFloats as $format => $expression),
            ElementType::Q4_0 => with_format!(Q4_0 as $format => $expression),
            ElementType::Q4_1 => with_format!(Q4_1 as $format => $expression),
            ElementType::Q8_0 => with_format!(Q8_0 as $format => $expression),
            ElementType::Q4K => with_format!(Q4K as $format => $expression),
            ElementType::Q6K => with_format!(Q6K as $format => $expression),
        }
    };
    ($type:ident as $format:ident => $expression:expr) => {{
        type $format = $type;
        $expression
    }};
}

kernel! {
    /// Multiplies the panels of a range with all rows.
    ///
    /// # Safety
    /// The activations have been written in the kind of the matrix and with its columns; nobody else writes the
    /// panels' outputs. `bias` has an element for each row of the matrix, padded to 16, or none.
    pub(crate) unsafe fn multiply(
        matrix: &PackedMatrix,
        activations: &Activations,
        panels: Range<usize>,
        bias: &[f32],
        output: Output<'_>,
    ) = multiply_panels
}

kernel! {
    /// Multiplies the panels of two matrices with all rows and writes `gate(first) * second` as activations. The range
    /// begins at an even panel and ends at one or at the end.
    ///
    /// # Safety
    /// As [`multiply`]; nobody else writes these columns.
    pub(crate) unsafe fn multiply_gated(
        matrices: [&PackedMatrix; 2],
        activations: &Activations,
        panels: Range<usize>,
        gate: Gate,
        output: &ActivationWriter<'_>,
    ) = multiply_gated_panels
}

#[inline(always)]
unsafe fn multiply_panels<V: Simd>(
    matrix: &PackedMatrix,
    activations: &Activations,
    panels: Range<usize>,
    bias: &[f32],
    output: Output<'_>,
) {
    // SAFETY: the caller's promise.
    unsafe { with_format!(matrix.element_type, F => store_panels::<V, F>(matrix, activations, panels, bias, output)) }
}

#[inline(always)]
unsafe fn store_panels<V: Simd, F: Format>(
    matrix: &PackedMatrix,
    activations: &Activations,
    panels: Range<usize>,
    bias: &[f32],
    output: Output<'_>,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let width = matrix.panel_bytes();
        let weights = matrix.bytes().as_ptr();
        for panel in panels {
            let weights = weights.add(panel * width);
            let outputs = output.values.at(output.offset + panel * PANEL);
            let bias = if bias.is_empty() {
                V::splat(0.0)
            } else {
                V::load(bias.as_ptr().add(panel * PANEL))
            };
            for tile in tiles(activations.rows, V::TILE) {
                let to = Rows {
                    first: outputs.add(tile.first * output.stride),
                    stride: output.stride,
                    accumulate: output.accumulate,
                };
                store_tile::<V, F>(weights, activations, tile, bias, to);
            }
        }
    }
}

/// Where the rows of a tile go.
#[derive(Clone, Copy)]
struct Rows {
    first: *mut f32,
    /// Elements from one row to the next.
    stride: usize,
    /// Add to what is there.
    accumulate: bool,
}

/// The products of one panel with one tile.
#[inline(always)]
unsafe fn store_tile<V: Simd, F: Format>(
    weights: *const u8,
    activations: &Activations,
    tile: Tile,
    bias: V::F32,
    to: Rows,
) {
    // SAFETY: the caller's promise.
    unsafe {
        match tile.rows {
            1 => store_rows::<V, 1>(F::product::<V, 1>(weights, activations, tile), bias, to),
            2 => store_rows::<V, 2>(F::product::<V, 2>(weights, activations, tile), bias, to),
            4 => store_rows::<V, 4>(F::product::<V, 4>(weights, activations, tile), bias, to),
            _ => store_rows::<V, 8>(F::product::<V, 8>(weights, activations, tile), bias, to),
        }
    }
}

#[inline(always)]
unsafe fn store_rows<V: Simd, const M: usize>(sums: [V::F32; M], bias: V::F32, to: Rows) {
    for (row, sum) in sums.into_iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe {
            let to_row = to.first.add(row * to.stride);
            let mut sum = V::add(sum, bias);
            if to.accumulate {
                sum = V::add(sum, V::load(to_row));
            }
            V::store(to_row, sum);
        }
    }
}

#[inline(always)]
unsafe fn multiply_gated_panels<V: Simd>(
    matrices: [&PackedMatrix; 2],
    activations: &Activations,
    panels: Range<usize>,
    gate: Gate,
    output: &ActivationWriter<'_>,
) {
    // Two panels are one block of the activations that come out. Longer than a tile's outputs: they stay in the cache.
    let mut gated = [0.0; 8 * 2 * PANEL];
    // SAFETY: the caller's promise.
    unsafe {
        for first in panels.clone().step_by(2) {
            let count = (panels.end - first).min(2);
            for tile in tiles(activations.rows, V::TILE) {
                for within in 0..count {
                    let to = gated.as_mut_ptr().add(within * PANEL);
                    gate_tile::<V>(matrices, activations, tile, first + within, gate, to);
                }
                let width = (matrices[0].rows - first * PANEL).min(2 * PANEL);
                for row in 0..tile.rows {
                    let values = gated.as_ptr().add(row * 2 * PANEL);
                    write_columns::<V>(output, tile.first + row, first * PANEL, values, width);
                }
            }
        }
    }
}

/// One panel of both matrices for one tile, to rows of two panels.
#[inline(always)]
unsafe fn gate_tile<V: Simd>(
    matrices: [&PackedMatrix; 2],
    activations: &Activations,
    tile: Tile,
    panel: usize,
    gate: Gate,
    to: *mut f32,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut second = [0.0; 8 * LANES];
        panel_to::<V>(matrices[0], activations, tile, panel, to, 2 * PANEL);
        panel_to::<V>(matrices[1], activations, tile, panel, second.as_mut_ptr(), LANES);
        for row in 0..tile.rows {
            let x = V::load(to.add(row * 2 * PANEL));
            let gate = match gate {
                Gate::Silu => silu::<V>(x),
                Gate::Gelu => gelu::<V>(x),
            };
            let second = V::load(second.as_ptr().add(row * LANES));
            V::store(to.add(row * 2 * PANEL), V::mul(gate, second));
        }
    }
}

/// One panel of a matrix for one tile.
#[inline(always)]
unsafe fn panel_to<V: Simd>(
    matrix: &PackedMatrix,
    activations: &Activations,
    tile: Tile,
    panel: usize,
    first: *mut f32,
    stride: usize,
) {
    let to = Rows {
        first,
        stride,
        accumulate: false,
    };
    // SAFETY: the caller's promise.
    unsafe {
        let weights = matrix.bytes().as_ptr().add(panel * matrix.panel_bytes());
        let bias = V::splat(0.0);
        with_format!(matrix.element_type, F => store_tile::<V, F>(weights, activations, tile, bias, to));
    }
}

#[inline(always)]
unsafe fn silu<V: Simd>(x: V::F32) -> V::F32 {
    // SAFETY: the caller's CPU has V.
    unsafe {
        let e = exp::<V>(V::sub(V::splat(0.0), x));
        V::div(x, V::add(V::splat(1.0), e))
    }
}

/// 0.5 · x · (1 + tanh(√(2/π) · (x + 0.044715 · x³))).
#[inline(always)]
unsafe fn gelu<V: Simd>(x: V::F32) -> V::F32 {
    // SAFETY: the caller's CPU has V.
    unsafe {
        let cube = V::mul(V::mul(x, x), x);
        let inner = V::mul(V::fma(cube, V::splat(0.044_715), x), V::splat(0.797_884_6));
        let half = V::mul(x, V::splat(0.5));
        V::fma(half, tanh::<V>(inner), half)
    }
}

#[cfg(test)]
mod tests;
