//! Chooses tokens on the device: their numbers are all that comes back.

use lem_engine::batch::Batch;
use lem_engine::sampler::UnfilteredChoice;

use crate::backend::Backend;
use crate::decoder::{Decoder, ForwardError};
use crate::kernels::{NO_TOKEN, Sample};

impl<B: Backend> Decoder<B> {
    /// Computes a batch and chooses a token for each sampled row, in the order of the batch; `None` where no logit is a
    /// number.
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    ///
    /// # Panics
    /// There are not as many choices as sampled rows.
    pub fn choose(
        &mut self,
        batch: &Batch,
        choices: &[UnfilteredChoice],
    ) -> Result<Vec<Option<u32>>, ForwardError<B::Error>> {
        assert_eq!(choices.len(), batch.sampled_rows(), "one choice for each sampled row");
        self.compute(batch)?;
        if choices.is_empty() {
            return Ok(Vec::new());
        }
        let vocabulary = self.architecture().vocabulary_size as u32;
        let failed = |source| ForwardError::Device { source };
        // Seeds first, as they are the widest.
        let mut bytes: Vec<u8> = choices.iter().flat_map(|choice| choice.seed.to_le_bytes()).collect();
        bytes.extend(choices.iter().flat_map(|choice| choice.temperature.to_le_bytes()));
        bytes.extend(choices.iter().flat_map(|choice| choice.step.to_le_bytes()));
        let count = choices.len() as u64;
        let (backend, logits, memory) = self.sampling(20 * choices.len()).map_err(failed)?;
        backend.upload(memory, &bytes).map_err(failed)?;
        let arguments = Sample {
            logits,
            seeds: memory,
            temperatures: memory + 8 * count,
            steps: memory + 12 * count,
            tokens: memory + 16 * count,
            stride: vocabulary,
            vocabulary,
        };
        backend.launch([count as u32, 1, 1], 0, &arguments).map_err(failed)?;
        let mut tokens = vec![0; 4 * choices.len()];
        backend.download(arguments.tokens, &mut tokens).map_err(failed)?;
        let token = |bytes: &[u8]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        Ok(tokens
            .chunks_exact(4)
            .map(token)
            .map(|token| (token != NO_TOKEN).then_some(token))
            .collect())
    }
}
