//! What the kernels of a step read, in one upload: tokens, their positions and places in the cache, rows, tiles, blocks.

use lem_engine::batch::{BLOCK_POSITIONS, Batch};

use crate::kernels::{Address, DecodeRow, NO_SLOT, PrefillTile, TILE, spans};

/// Where the parts of a step begin, in words from the beginning of the upload.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Offsets {
    positions: usize,
    slots: usize,
    gather: usize,
    rows: usize,
    tiles: usize,
    table: usize,
}

/// A step as its kernels see it. The table comes last: the addresses of the other parts depend on their numbers alone,
/// so that a recorded step fits every batch of as many decoding rows.
#[derive(Debug, Default)]
pub(crate) struct Step {
    pub(crate) words: Vec<u32>,
    /// Tokens, padding included.
    pub(crate) tokens: usize,
    /// Sampled rows, padding included.
    pub(crate) sampled: usize,
    /// Rows of one token.
    pub(crate) decode_rows: usize,
    /// Tiles of the other rows.
    pub(crate) tiles: usize,
    /// Spans of the decoding rows at most, in layers without a window and in those with one.
    pub(crate) spans: [usize; 2],
    offsets: Offsets,
    decode: Vec<DecodeRow>,
    prefill: Vec<PrefillTile>,
}

impl Step {
    /// Lays a batch out. `padded` rows are appended to one of decoding rows only: they compute what its first row does
    /// and write nothing to the cache.
    pub(crate) fn plan(&mut self, batch: &Batch, group: usize, window: Option<usize>, padded: usize) {
        self.words.clear();
        self.decode.clear();
        self.prefill.clear();
        self.spans = [1, 1];
        let mut table_length = 0;
        for row in &batch.rows {
            let end = row.start + row.tokens.len();
            if row.tokens.is_empty() {
                continue;
            }
            let blocks = table_length as u32;
            table_length += end.div_ceil(BLOCK_POSITIONS);
            if row.tokens.len() == 1 {
                self.decode.push(DecodeRow {
                    token: row.tokens.start as u32,
                    position: row.start as u32,
                    blocks,
                });
                let visible = [end, window.map_or(end, |window| end.min(window))];
                for (most, visible) in self.spans.iter_mut().zip(visible) {
                    *most = (*most).max(spans(visible));
                }
                continue;
            }
            // The last queries see most: their blocks start first.
            for first in (0..row.tokens.len() * group).step_by(TILE).rev() {
                self.prefill.push(PrefillTile {
                    token: row.tokens.start as u32,
                    start: row.start as u32,
                    tokens: row.tokens.len() as u32,
                    blocks,
                    first: first as u32,
                });
            }
        }
        if let Some(first) = self.decode.first().copied() {
            let next = batch.tokens.len() as u32;
            self.decode.extend((0..padded as u32).map(|index| DecodeRow {
                token: next + index,
                ..first
            }));
        }
        self.write(batch, padded);
    }

    fn write(&mut self, batch: &Batch, padded: usize) {
        let words = &mut self.words;
        let padding = |words: &mut Vec<u32>, value: u32| words.extend(std::iter::repeat_n(value, padded));
        let first_token = batch.tokens.first().copied().unwrap_or_default();
        let first_position = batch.rows.first().map_or(0, |row| row.start) as u32;
        words.extend(&batch.tokens);
        padding(words, first_token);
        self.tokens = words.len();
        self.offsets.positions = words.len();
        for row in &batch.rows {
            words.extend(Batch::positions(row).map(|position| position as u32));
        }
        padding(words, first_position);
        self.offsets.slots = words.len();
        for row in &batch.rows {
            words.extend(Batch::positions(row).map(|position| {
                let block = batch.block_table[row.blocks.start + position / BLOCK_POSITIONS];
                block * BLOCK_POSITIONS as u32 + (position % BLOCK_POSITIONS) as u32
            }));
        }
        padding(words, NO_SLOT);
        self.offsets.gather = words.len();
        let sampled = batch.rows.iter().filter(|row| row.sampled);
        words.extend(sampled.map(|row| row.tokens.end as u32 - 1));
        let next = batch.tokens.len() as u32;
        words.extend((0..padded as u32).map(|index| next + index));
        self.sampled = words.len() - self.offsets.gather;
        self.offsets.rows = words.len();
        for row in &self.decode {
            words.extend([row.token, row.position, row.blocks]);
        }
        self.decode_rows = self.decode.len();
        self.offsets.tiles = words.len();
        for tile in &self.prefill {
            words.extend([tile.token, tile.start, tile.tokens, tile.blocks, tile.first]);
        }
        self.tiles = self.prefill.len();
        self.offsets.table = words.len();
        for row in batch.rows.iter().filter(|row| !row.tokens.is_empty()) {
            let blocks = (row.start + row.tokens.len()).div_ceil(BLOCK_POSITIONS);
            words.extend(&batch.block_table[row.blocks.start..row.blocks.start + blocks]);
        }
    }

    /// Bytes that a step of so many decoding rows takes at most.
    pub(crate) const fn decoding_bytes(rows: usize, context_length: usize) -> usize {
        // Token, position, slot, sampled row, and the three words of a decoding row.
        4 * rows * (7 + context_length.div_ceil(BLOCK_POSITIONS))
    }

    /// The words as they are uploaded.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// Where the parts are if the upload is at `base`.
    pub(crate) fn addresses(&self, base: Address) -> StepAddresses {
        let at = |words: usize| base + 4 * words as u64;
        StepAddresses {
            tokens: base,
            positions: at(self.offsets.positions),
            slots: at(self.offsets.slots),
            gather: at(self.offsets.gather),
            rows: at(self.offsets.rows),
            tiles: at(self.offsets.tiles),
            table: at(self.offsets.table),
        }
    }
}

/// Where the parts of a step are on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StepAddresses {
    pub(crate) tokens: Address,
    pub(crate) positions: Address,
    pub(crate) slots: Address,
    pub(crate) gather: Address,
    pub(crate) rows: Address,
    pub(crate) tiles: Address,
    pub(crate) table: Address,
}
