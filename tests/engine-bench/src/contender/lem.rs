//! Our engine, used directly: a decoder, a batch and a table of blocks for each sequence.

use anyhow::{Context, Result, ensure};
use lem_engine::batch::{BLOCK_POSITIONS, Batch};
use lem_engine::cache::CacheType;
use lem_engine::decoder::{Decoder, DecoderConfiguration};
use lem_engine::source::FileSource;

use super::{CHUNK_TOKENS, Contender, Load, Weights};

/// lem-engine with a model.
pub(crate) struct LemContender {
    decoder: Decoder,
    batch: Batch,
    tables: Vec<Vec<u32>>,
    position: usize,
    /// Logits of all sequences after the last prefill or step, if they are kept; those of a prefill come in chunks.
    logits: Option<Vec<f32>>,
    prefilled: bool,
}

impl LemContender {
    /// Packs the weights.
    pub(crate) fn load(load: &Load<'_>) -> Result<Self> {
        let weights = Weights::open(load.path)?;
        let blocks = load.positions.div_ceil(BLOCK_POSITIONS);
        let configuration = DecoderConfiguration {
            blocks: blocks * load.rows,
            cache_type: CacheType::F16,
            token_budget: CHUNK_TOKENS.max(load.rows),
            sampled_rows: load.rows,
            context_length: load.positions,
            threads: load.threads,
            instruction_set: None,
            weight_type: None,
            conventions: FileSource::gguf_conventions(&weights.architecture),
        };
        let decoder = Decoder::new(&weights.architecture, &weights.source()?, &configuration)
            .with_context(|| format!("{} cannot be loaded", load.path.display()))?;
        let vocabulary = weights.architecture.vocabulary_size;
        Ok(Self {
            decoder,
            batch: Batch::default(),
            tables: (0..load.rows)
                .map(|row| (row * blocks..(row + 1) * blocks).map(|block| block as u32).collect())
                .collect(),
            position: 0,
            logits: load.keep_logits.then(|| vec![0.0; load.rows * vocabulary]),
            prefilled: false,
        })
    }

    /// Computes the batch and keeps the logits of its sampled rows, the first of which belongs to the sequence `row`.
    fn forward(&mut self, row: usize) -> Result<()> {
        let sampled = self.batch.sampled_rows();
        let logits = self.decoder.forward(&self.batch).context("a step cannot be computed")?;
        if let Some(kept) = &mut self.logits {
            for index in 0..sampled {
                let values = logits.row(index);
                let at = (row + index) * values.len();
                kept[at..at + values.len()].copy_from_slice(values);
            }
        }
        Ok(())
    }
}

impl Contender for LemContender {
    fn prefill(&mut self, prompts: &[Vec<u32>]) -> Result<()> {
        ensure!(
            prompts.len() == self.tables.len(),
            "one prompt for each sequence is needed"
        );
        let (mut row, mut free) = (0, CHUNK_TOKENS);
        self.batch.clear();
        for (index, prompt) in prompts.iter().enumerate() {
            let mut start = 0;
            while start < prompt.len() {
                let end = prompt.len().min(start + free);
                let table = &self.tables[index];
                self.batch.push(&prompt[start..end], start, table, end == prompt.len());
                free -= end - start;
                start = end;
                if free == 0 {
                    self.forward(row)?;
                    row += self.batch.sampled_rows();
                    self.batch.clear();
                    free = CHUNK_TOKENS;
                }
            }
        }
        if !self.batch.tokens.is_empty() {
            self.forward(row)?;
        }
        self.position = prompts[0].len();
        self.prefilled = true;
        Ok(())
    }

    fn decode(&mut self, tokens: &[u32]) -> Result<()> {
        ensure!(self.prefilled, "a prefill has to come first");
        self.batch.clear();
        for (token, table) in tokens.iter().zip(&self.tables) {
            self.batch.push(&[*token], self.position, table, true);
        }
        self.forward(0)?;
        self.position += 1;
        Ok(())
    }

    fn logits(&mut self, row: usize) -> Result<Vec<f32>> {
        let vocabulary = self.decoder.architecture().vocabulary_size;
        let kept = self.logits.as_ref().context("loaded without keeping logits")?;
        Ok(kept[row * vocabulary..(row + 1) * vocabulary].to_vec())
    }

    fn details(&self) -> String {
        let memory = self.decoder.memory();
        format!(
            "{} instructions, weights {} B, cache {} B, workspace {} B",
            self.decoder.instruction_set().name(),
            memory.weights,
            memory.cache,
            memory.workspace
        )
    }
}

/// The revision that was built.
pub(crate) fn version() -> String {
    format!("lem {}", env!("LEM_BENCH_REVISION"))
}
