//! Keys and values into the cache, and the attention over it, divided among the threads.

use half::f16;

use super::DecoderConfiguration;
use super::for_rows;
use super::rope::RopeTable;
use super::weights::Layer;
use super::workspace::Workspace;
use crate::architecture::Architecture;
use crate::batch::{BLOCK_POSITIONS, Batch, Row};
use crate::cache::{Cache, CacheShape};
use crate::kernels::InstructionSet;
use crate::kernels::attention::{CacheElement, Part, Partial, QueryTile, SPAN, TILE, merge};
use crate::kernels::norm::root_mean_square;
use crate::kernels::rotary::rotate;
use crate::packed::PackedMatrix;
use crate::pool::Pool;
use crate::shared::Shared;

/// Some queries of one row that read the same key-value head.
#[derive(Debug, Clone, Copy)]
struct Item {
    row: usize,
    head: usize,
    /// First query, counted over the row's tokens and the heads of the group.
    first: usize,
    count: usize,
    /// The only span to compute, and the place of its result; all of them if none.
    span: Option<(usize, usize)>,
}

/// Spans to be merged.
#[derive(Debug, Clone, Copy)]
struct Merge {
    item: Item,
    /// First of the partial results.
    partial: usize,
    spans: usize,
}

/// How the attention of a step is divided.
#[derive(Debug)]
pub(super) struct AttentionPlan {
    items: Vec<Item>,
    merges: Vec<Merge>,
    partials: Vec<Partial>,
    window: Option<usize>,
}

/// The first position that a query at `position` sees.
const fn first_visible(position: usize, window: Option<usize>) -> usize {
    match window {
        Some(window) => (position + 1).saturating_sub(window),
        None => 0,
    }
}

impl AttentionPlan {
    /// Room for the plan of any step.
    pub(super) fn new(configuration: &DecoderConfiguration, architecture: &Architecture, threads: usize) -> Self {
        let heads = architecture.key_value_heads;
        let group = architecture.attention_heads / heads;
        // Every row may leave a tile that is not full.
        let tiles = (configuration.token_budget * group).div_ceil(TILE) + configuration.token_budget;
        let spans = configuration.context_length.div_ceil(SPAN);
        let split = Self::split_below(threads) * spans;
        Self {
            items: Vec::with_capacity(tiles * heads + split),
            merges: Vec::with_capacity(Self::split_below(threads)),
            partials: vec![Partial::EMPTY; split],
            window: None,
        }
    }

    /// With fewer tiles than this the spans are computed by different threads.
    const fn split_below(threads: usize) -> usize {
        4 * threads
    }

    pub(super) fn bytes(&self) -> usize {
        self.partials.len() * size_of::<Partial>() + self.items.capacity() * size_of::<Item>()
    }

    /// Divides a step.
    pub(super) fn divide(&mut self, batch: &Batch, architecture: &Architecture, window: Option<usize>, threads: usize) {
        let heads = architecture.key_value_heads;
        let group = architecture.attention_heads / heads;
        self.items.clear();
        self.merges.clear();
        self.window = window;
        let tiles = |row: &Row| (row.tokens.len() * group).div_ceil(TILE);
        let total: usize = batch.rows.iter().map(|row| tiles(row) * heads).sum();
        let split = threads > 1 && total < Self::split_below(threads);
        let mut partial = 0;
        for (index, row) in batch.rows.iter().enumerate() {
            // The last queries see most: they come first, so that no thread is left with one at the end.
            for tile in (0..tiles(row)).rev() {
                for head in 0..heads {
                    let first = tile * TILE;
                    let item = Item {
                        row: index,
                        head,
                        first,
                        count: TILE.min(row.tokens.len() * group - first),
                        span: None,
                    };
                    let position = |query: usize| row.start + query / group;
                    let from = first_visible(position(first), window) / SPAN;
                    let to = position(first + item.count - 1) / SPAN;
                    if !split || from == to {
                        self.items.push(item);
                        continue;
                    }
                    self.merges.push(Merge {
                        item,
                        partial,
                        spans: to + 1 - from,
                    });
                    for span in from..=to {
                        let span = Some((span, partial));
                        self.items.push(Item { span, ..item });
                        partial += 1;
                    }
                }
            }
        }
    }

    /// Computes the attention of a layer into `work.attended`.
    #[expect(
        clippy::too_many_arguments,
        reason = "parts of the decoder that are borrowed one by one"
    )]
    pub(super) fn attend(
        pool: &mut Pool,
        set: InstructionSet,
        architecture: &Architecture,
        windowed: bool,
        batch: &Batch,
        work: &mut Workspace,
        cache: &mut Cache,
        shape: CacheShape,
        layer: usize,
    ) {
        let plan = &mut work.plans[usize::from(windowed)];
        let context = Context {
            group: architecture.attention_heads / architecture.key_value_heads,
            cap: architecture
                .gemma
                .as_ref()
                .and_then(|gemma| gemma.attention_cap)
                .unwrap_or_default() as f32,
            batch,
            shape,
            layer,
            window: plan.window,
            queries: work.projected.as_ptr(),
            query_stride: work.projected_stride,
            results: Shared::new(&mut work.attended),
            result_stride: architecture.query_width(),
        };
        let partials = Shared::new(&mut plan.partials);
        let items = &plan.items;
        match cache {
            Cache::F32(cache) => context.compute(pool, set, Shared::new(cache), items, partials),
            Cache::F16(cache) => context.compute(pool, set, Shared::new(as_halves(cache)), items, partials),
        }
        for merged in &plan.merges {
            // SAFETY: the items are done.
            #[expect(unsafe_code, reason = "the results of a merge are its own")]
            unsafe {
                let spans = partials.part(merged.partial, merged.spans);
                let results = context.places(&merged.item);
                merge(set, spans, merged.item.count, shape.dimension, results);
            }
        }
    }
}

fn as_halves(cache: &mut [u16]) -> &mut [f16] {
    half::slice::HalfBitsSliceExt::reinterpret_cast_mut(cache)
}

/// What the items of a layer share.
struct Context<'step> {
    group: usize,
    cap: f32,
    batch: &'step Batch,
    shape: CacheShape,
    layer: usize,
    window: Option<usize>,
    queries: *const f32,
    query_stride: usize,
    results: Shared<'step, f32>,
    result_stride: usize,
}

#[expect(unsafe_code, reason = "it holds a pointer that all threads only read through")]
// SAFETY: `queries` is only read while the region lasts.
unsafe impl Sync for Context<'_> {}

impl Context<'_> {
    /// The token (counted in the step) and the query head of an item's query.
    fn place(&self, item: &Item, query: usize) -> (usize, usize) {
        let row = &self.batch.rows[item.row];
        let index = item.first + query;
        (
            row.tokens.start + index / self.group,
            item.head * self.group + index % self.group,
        )
    }

    /// Where the results of an item go.
    fn places(&self, item: &Item) -> [*mut f32; TILE] {
        let mut places = [std::ptr::null_mut(); TILE];
        for (query, place) in places.iter_mut().enumerate().take(item.count) {
            let (token, head) = self.place(item, query);
            *place = self
                .results
                .at(token * self.result_stride + head * self.shape.dimension);
        }
        places
    }

    /// Computes the items on all threads.
    fn compute<E: CacheElement>(
        &self,
        pool: &mut Pool,
        set: InstructionSet,
        cache: Shared<'_, E>,
        items: &[Item],
        partials: Shared<'_, Partial>,
    ) {
        pool.run(items.len(), &|index| {
            let (tile, part) = self.tile(cache, &items[index], partials);
            // SAFETY: each item writes its own results; keys and values have been written before.
            #[expect(unsafe_code, reason = "items are disjoint")]
            unsafe {
                (E::ATTEND)(set, &tile, part);
            }
        });
    }

    fn tile<'a, E: CacheElement>(
        &'a self,
        cache: Shared<'a, E>,
        item: &Item,
        partials: Shared<'_, Partial>,
    ) -> (QueryTile<'a, E>, Part) {
        let row = &self.batch.rows[item.row];
        let mut queries = [std::ptr::null(); TILE];
        let mut visible = [(0, 0); TILE];
        for query in 0..item.count {
            let (token, head) = self.place(item, query);
            let offset = token * self.query_stride + head * self.shape.dimension;
            // SAFETY: within the projected rows.
            #[expect(unsafe_code, reason = "the token and the head are in range")]
            let pointer = unsafe { self.queries.add(offset) };
            queries[query] = pointer;
            let position = row.start + token - row.tokens.start;
            visible[query] = (first_visible(position, self.window), position);
        }
        let tile = QueryTile {
            cache: cache.at(self.layer * self.shape.layer_stride()).cast_const(),
            block_stride: self.shape.block_stride(),
            head_offset: item.head * self.shape.head_stride(),
            blocks: &self.batch.block_table[row.blocks.clone()],
            dimension: self.shape.dimension,
            count: item.count,
            queries,
            visible,
            cap: self.cap,
        };
        let part = match item.span {
            Some((span, partial)) => Part::Span(span, partials.at(partial)),
            None => Part::Whole(self.places(item)),
        };
        (tile, part)
    }
}

/// Normalises the heads where the family does, rotates queries and keys, and writes keys and values to the cache.
#[expect(
    clippy::too_many_arguments,
    reason = "parts of the decoder that are borrowed one by one"
)]
pub(super) fn write_keys_and_values(
    pool: &mut Pool,
    set: InstructionSet,
    architecture: &Architecture,
    layer: &Layer<PackedMatrix>,
    rope: Option<&RopeTable>,
    batch: &Batch,
    work: &mut Workspace,
    cache: &mut Cache,
    shape: CacheShape,
    index: usize,
) {
    let query_scale = architecture
        .gemma
        .as_ref()
        .map_or(architecture.head_dimension, |gemma| gemma.query_scale);
    let heads = Heads {
        set,
        dimension: architecture.head_dimension,
        queries: architecture.attention_heads,
        keys: architecture.key_value_heads,
        offsets: work.key_value_offsets,
        stride: work.projected_stride,
        epsilon: architecture.norm_epsilon as f32,
        scale: 1.0 / (query_scale as f32).sqrt(),
        query_norm: layer.query_norm.as_deref(),
        key_norm: layer.key_norm.as_deref(),
        rope,
        projected: Shared::new(&mut work.projected),
        shape,
        layer: index,
    };
    match cache {
        Cache::F32(cache) => heads.write_all(pool, batch, Shared::new(cache)),
        Cache::F16(cache) => heads.write_all(pool, batch, Shared::new(as_halves(cache))),
    }
}

struct Heads<'step> {
    set: InstructionSet,
    dimension: usize,
    queries: usize,
    keys: usize,
    offsets: (usize, usize),
    stride: usize,
    epsilon: f32,
    scale: f32,
    query_norm: Option<&'step [f32]>,
    key_norm: Option<&'step [f32]>,
    rope: Option<&'step RopeTable>,
    projected: Shared<'step, f32>,
    shape: CacheShape,
    layer: usize,
}

impl Heads<'_> {
    fn write_all<E: CacheElement>(&self, pool: &mut Pool, batch: &Batch, cache: Shared<'_, E>) {
        if batch.rows.len() == batch.tokens.len() {
            for_rows(pool, batch.rows.len(), &|row| {
                self.write(batch, &batch.rows[row], 0, cache);
            });
            return;
        }
        for row in &batch.rows {
            for_rows(pool, row.tokens.len(), &|token| self.write(batch, row, token, cache));
        }
    }

    /// One token, counted within its row.
    fn write<E: CacheElement>(&self, batch: &Batch, row: &Row, token: usize, cache: Shared<'_, E>) {
        let position = row.start + token;
        let from = (row.tokens.start + token) * self.stride;
        for head in 0..self.queries {
            self.prepare(from + head * self.dimension, position, self.query_norm, self.scale);
        }
        let block = batch.block_table[row.blocks.start + position / BLOCK_POSITIONS] as usize;
        let slot = position % BLOCK_POSITIONS;
        for head in 0..self.keys {
            let key = from + self.offsets.0 + head * self.dimension;
            self.prepare(key, position, self.key_norm, 1.0);
            let value = from + self.offsets.1 + head * self.dimension;
            let place = self.layer * self.shape.layer_stride()
                + block * self.shape.block_stride()
                + head * self.shape.head_stride();
            // SAFETY: a token's projections and its slot in the cache belong to this call alone: the scheduler gives a
            // block that is written to one sequence only.
            #[expect(unsafe_code, reason = "tokens are disjoint")]
            unsafe {
                let key = self.projected.part(key, self.dimension);
                let value = self.projected.part(value, self.dimension);
                let keys = cache.at(place + slot);
                let values = cache.part(place + (BLOCK_POSITIONS + slot) * self.dimension, self.dimension);
                for (element, key) in key.iter().enumerate() {
                    *keys.add(element * BLOCK_POSITIONS) = E::from_f32(*key);
                }
                for (to, value) in values.iter_mut().zip(value) {
                    *to = E::from_f32(*value);
                }
            }
        }
    }

    /// Normalises, rotates and scales a head.
    fn prepare(&self, at: usize, position: usize, norm: Option<&[f32]>, scale: f32) {
        let head = self.projected.at(at);
        // SAFETY: as in `write`; the norm and the table have the head's width.
        #[expect(unsafe_code, reason = "heads are disjoint")]
        unsafe {
            if let Some(norm) = norm {
                root_mean_square(self.set, head, norm.as_ptr(), self.epsilon, self.dimension, head);
            }
            if let Some(rope) = self.rope {
                let (cosines, sines) = rope.at(position);
                let half = self.dimension / 2;
                rotate(self.set, head, cosines.as_ptr(), sines.as_ptr(), half, scale);
            } else if scale.to_bits() != 1.0_f32.to_bits() {
                for element in 0..self.dimension {
                    *head.add(element) *= scale;
                }
            }
        }
    }
}
