//! The engine on candle: one sequence at a time, the whole prompt in one pass.

mod configuration;
mod load;
mod model;
mod quantised;
mod synthetic;

use candle_core::{Device, Tensor};
use candle_transformers::generation::{LogitsProcessor, Sampling as CandleSampling};
use lem_engine::scheduler::{SubmitError, check_request};

use super::{
    Batching, Engine, EngineConfiguration, EngineDescription, EngineError, ExecutionCounts, FinishReason,
    GeneratedToken, Sampling, SequenceRequest, StaticBatchCounts, StepKind, TextTokenizer,
};
use crate::flops::CountedFlops;
use model::Model;
pub(super) use synthetic::generate;

/// Runs models of candle-transformers.
pub struct CandleEngine {
    model: Model,
    device: Device,
    description: EngineDescription,
    tokenizer: Option<TextTokenizer>,
    end_of_sequence: Vec<u32>,
    flops: CountedFlops,
    /// All but the operations, which `flops` holds.
    counts: ExecutionCounts,
    /// Bytes that one position takes in the key-value cache of all layers.
    cache_bytes_per_position: u64,
    sequence: Option<Sequence>,
}

struct Sequence {
    request: SequenceRequest,
    processor: LogitsProcessor,
    /// Positions in the cache.
    cached: usize,
    /// The last token, not yet in the cache; `None` before the prefill.
    last: Option<u32>,
    generated: u32,
}

impl std::fmt::Debug for CandleEngine {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("CandleEngine")
            .field("description", &self.description)
            .finish_non_exhaustive()
    }
}

impl CandleEngine {
    fn validate(&self, request: &SequenceRequest) -> Result<(), EngineError> {
        if self.sequence.is_some() {
            return Err(SubmitError::NoFreeSlot { sequence: request.id }.into());
        }
        check_request(request, self.description.context_length)?;
        self.description.check_tokens(&request.prompt)
    }

    /// The logits of the position after `tokens`, of shape `[vocabulary]`.
    fn forward(&mut self, tokens: &[u32], position: usize) -> Result<Tensor, EngineError> {
        let failed = |source| EngineError::Forward {
            tokens: tokens.len(),
            position,
            source,
        };
        let input = Tensor::new(tokens, &self.device)
            .and_then(|input| input.unsqueeze(0))
            .map_err(failed)?;
        let model = &mut self.model;
        let logits = self
            .device
            .with_context(|| model.forward(&input, position))
            .map_err(failed)?;
        self.flops.add_pass(position as u64, tokens.len() as u64);
        let cached = (position + tokens.len()) as u64;
        self.counts.kv_cache_bytes_peak = self
            .counts
            .kv_cache_bytes_peak
            .max(cached * self.cache_bytes_per_position);
        self.counts.steps += 1;
        Ok(logits)
    }

    fn advance(&mut self, sequence: &mut Sequence) -> Result<(GeneratedToken, StepKind), EngineError> {
        let (logits, kind) = match sequence.last {
            None => {
                self.model.reset();
                let tokens = sequence.request.prompt.len();
                let logits = self.forward(&sequence.request.prompt, 0)?;
                self.counts.prefill_tokens += tokens as u64;
                sequence.cached = tokens;
                (logits, StepKind::Prefill { tokens })
            }
            Some(last) => {
                let logits = self.forward(&[last], sequence.cached)?;
                self.counts.decode_tokens += 1;
                sequence.cached += 1;
                (logits, StepKind::Decode { rows: 1 })
            }
        };
        let token = sequence
            .processor
            .sample(&logits)
            .map_err(|source| EngineError::Sample { source })?;
        sequence.last = Some(token);
        sequence.generated += 1;
        let ended = !sequence.request.ignore_eos && self.end_of_sequence.contains(&token);
        let finished = if ended {
            Some(FinishReason::EndOfSequence)
        } else if sequence.generated == sequence.request.max_output_tokens {
            Some(FinishReason::Length)
        } else {
            None
        };
        Ok((
            GeneratedToken {
                sequence: sequence.request.id,
                token,
                finished,
            },
            kind,
        ))
    }
}

impl Engine for CandleEngine {
    fn description(&self) -> &EngineDescription {
        &self.description
    }

    fn tokenizer(&self) -> Option<&TextTokenizer> {
        self.tokenizer.as_ref()
    }

    fn free_sequences(&self) -> usize {
        usize::from(self.sequence.is_none())
    }

    fn submit(&mut self, request: SequenceRequest) -> Result<(), EngineError> {
        self.validate(&request)?;
        let processor = LogitsProcessor::from_sampling(request.sampling.seed, candle_sampling(request.sampling));
        self.sequence = Some(Sequence {
            request,
            processor,
            cached: 0,
            last: None,
            generated: 0,
        });
        Ok(())
    }

    fn configure(&mut self, configuration: &EngineConfiguration) -> Result<(), EngineError> {
        match &configuration.batching {
            Batching::Static(batching) if batching.batch_size == 1 => Ok(()),
            _ => Err(EngineError::Unsupported {
                what:
                    "candle-transformers runs one sequence at a time: engine.candle.batching.static.batchSize must be 1"
                        .to_owned(),
            }),
        }
    }

    fn begin_window(&mut self, _salt: Option<u64>) {
        self.counts.kv_cache_bytes_peak = 0;
    }

    fn step(&mut self, output: &mut Vec<GeneratedToken>) -> Result<StepKind, EngineError> {
        let Some(mut sequence) = self.sequence.take() else {
            return Ok(StepKind::Idle);
        };
        let (token, kind) = self.advance(&mut sequence)?;
        output.push(token);
        if token.finished.is_none() {
            self.sequence = Some(sequence);
        }
        Ok(kind)
    }

    fn counts(&self) -> ExecutionCounts {
        let decoded = self.counts.decode_tokens;
        ExecutionCounts {
            flops: self.flops.total(),
            static_batches: Some(StaticBatchCounts {
                steps: decoded,
                rows: decoded,
                padded_tokens: self.counts.prefill_tokens,
                real_tokens: self.counts.prefill_tokens,
            }),
            ..self.counts
        }
    }

    fn synchronize(&mut self) -> Result<(), EngineError> {
        self.device
            .synchronize()
            .map_err(|source| EngineError::Synchronize { source })
    }

    fn abort(&mut self) {
        self.sequence = None;
        self.model.reset();
    }
}

fn candle_sampling(sampling: Sampling) -> CandleSampling {
    let temperature = sampling.temperature;
    if !sampling.do_sample || temperature < 1e-7 {
        return CandleSampling::ArgMax;
    }
    match (sampling.top_k, sampling.top_p) {
        (None, None) => CandleSampling::All { temperature },
        (Some(k), None) => CandleSampling::TopK { k, temperature },
        (None, Some(p)) => CandleSampling::TopP { p, temperature },
        (Some(k), Some(p)) => CandleSampling::TopKThenTopP { k, p, temperature },
    }
}

#[cfg(test)]
mod tests;
