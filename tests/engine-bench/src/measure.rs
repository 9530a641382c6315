//! One cell in one process: load, a cold prefill, warm ones, decode steps.

mod cell;
mod energy;
mod tokens;

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::contender::{self, Contender, Engine, Load, Weights};
use crate::system;
pub(crate) use cell::{Cell, Phase, median};
use energy::EnergyMeter;

/// Warm prefills at most.
const WARM_PREFILLS: usize = 3;
/// Seconds of prefills after which there is no further warm one: the median of long ones is steady.
const ENOUGH_SECONDS: f64 = 20.0;

/// What to measure.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Arguments {
    /// Engine
    #[arg(long, value_enum)]
    engine: Engine,
    /// GGUF file
    #[arg(long)]
    file: PathBuf,
    /// Sequences that are computed together
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Tokens of each prompt
    #[arg(long, default_value_t = 128)]
    prompt: usize,
    /// Decode steps
    #[arg(long, default_value_t = 64)]
    decode: usize,
    /// Threads to compute with
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// CPUs to run on, for example 0,1; all if left out
    #[arg(long, value_delimiter = ',')]
    cpus: Vec<usize>,
    /// Seconds for everything after loading: warm prefills and decode steps that do not fit are left out
    #[arg(long, default_value_t = 240.0)]
    time_limit: f64,
}

/// Measures and prints.
pub(crate) fn measure(arguments: &Arguments) -> Result<()> {
    system::pin(&arguments.cpus)?;
    ensure_threads(arguments)?;
    let cell = measured(arguments)?;
    #[expect(clippy::print_stdout, reason = "the result of the command")]
    {
        println!("{}", serde_json::to_string(&cell)?);
    }
    Ok(())
}

/// candle and rayon take their threads from the environment, which a running process cannot change safely: `run` sets
/// it on the processes that it starts.
fn ensure_threads(arguments: &Arguments) -> Result<()> {
    if arguments.engine != Engine::Candle {
        return Ok(());
    }
    let wanted = arguments.threads.to_string();
    for variable in ["RAYON_NUM_THREADS", "CANDLE_NUM_THREADS"] {
        ensure!(
            std::env::var(variable).is_ok_and(|threads| threads == wanted),
            "candle computes with {wanted} threads only if the environment says {variable}={wanted}"
        );
    }
    Ok(())
}

fn measured(arguments: &Arguments) -> Result<Cell> {
    ensure!(
        arguments.batch > 0 && arguments.prompt > 0,
        "batch and prompt are at least 1"
    );
    let weights = Weights::open(&arguments.file)?;
    let vocabulary = weights.architecture.vocabulary_size as u32;
    let positions = arguments.prompt + arguments.decode;
    let cache_bytes = contender::cache_bytes_per_position(&weights.architecture) * (arguments.batch * positions) as u64;
    let (weight_bytes, step_weight_bytes) = (weights.bytes(), weights.bytes_per_step());
    drop(weights);
    let begin = Instant::now();
    let mut engine = contender::load(
        arguments.engine,
        &Load {
            path: &arguments.file,
            rows: arguments.batch,
            positions,
            threads: arguments.threads,
            keep_logits: false,
        },
    )?;
    let load_seconds = begin.elapsed().as_secs_f64();
    let loaded = system::resident_memory()?;
    let begin = Instant::now();
    let prefill = prefills(engine.as_mut(), arguments, vocabulary, begin)?;
    let decode = decode_steps(engine.as_mut(), arguments, vocabulary, begin)?;
    Ok(Cell {
        engine: arguments.engine,
        file: file_name(&arguments.file)?,
        batch: arguments.batch,
        prompt: arguments.prompt,
        threads: arguments.threads,
        load_seconds,
        prefill,
        decode,
        resident_after_load_bytes: loaded.now,
        peak_bytes: system::resident_memory()?.peak,
        weight_bytes,
        step_weight_bytes,
        cache_bytes,
        version: contender::version(arguments.engine),
        details: engine.details(),
    })
}

/// The name of a weight file without its folder.
pub(crate) fn file_name(path: &Path) -> Result<String> {
    let name = path
        .file_name()
        .with_context(|| format!("{} is no file", path.display()))?;
    Ok(name.to_string_lossy().into_owned())
}

/// The cold prefill, then warm ones while they fit into two thirds of the time.
fn prefills(engine: &mut dyn Contender, arguments: &Arguments, vocabulary: u32, begin: Instant) -> Result<Phase> {
    let prompts = tokens::prompts(arguments.batch, arguments.prompt, vocabulary);
    let (cpu, meter) = (system::cpu_seconds(), EnergyMeter::start()?);
    let mut seconds = Vec::new();
    for _ in 0..=WARM_PREFILLS {
        let last = seconds.last().copied().unwrap_or_default();
        let elapsed = begin.elapsed().as_secs_f64();
        if (seconds.len() > 1 && elapsed > ENOUGH_SECONDS) || elapsed + last > arguments.time_limit * 2.0 / 3.0 {
            break;
        }
        let before = Instant::now();
        engine.prefill(&prompts)?;
        seconds.push(before.elapsed().as_secs_f64());
    }
    Ok(Phase {
        tokens_each: arguments.batch * arguments.prompt,
        cpu_seconds: system::cpu_seconds() - cpu,
        energy: meter.stop(),
        seconds,
    })
}

/// Decode steps while there is time, but at least one. Their tokens are given, so no engine chooses any.
fn decode_steps(engine: &mut dyn Contender, arguments: &Arguments, vocabulary: u32, begin: Instant) -> Result<Phase> {
    let steps = tokens::steps(arguments.batch, arguments.decode, vocabulary);
    let (cpu, meter) = (system::cpu_seconds(), EnergyMeter::start()?);
    let mut seconds = Vec::new();
    for tokens in &steps {
        if !seconds.is_empty() && begin.elapsed().as_secs_f64() > arguments.time_limit {
            break;
        }
        let before = Instant::now();
        engine.decode(tokens)?;
        seconds.push(before.elapsed().as_secs_f64());
    }
    Ok(Phase {
        tokens_each: arguments.batch,
        cpu_seconds: system::cpu_seconds() - cpu,
        energy: meter.stop(),
        seconds,
    })
}
