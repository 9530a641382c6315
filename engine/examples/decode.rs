//! Decodes greedily from a GGUF file and prints tokens and speed: `decode FILE [PROMPT_TOKENS] [STEPS] [ROWS]`.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "an example")]

use std::io::Cursor;
use std::time::Instant;

use lem_engine::architecture::Architecture;
use lem_engine::batch::{BLOCK_POSITIONS, Batch};
use lem_engine::cache::CacheType;
use lem_engine::decoder::{Decoder, DecoderConfiguration};
use lem_engine::header::validate_gguf;
use lem_engine::sampler::{Sampler, SamplerScratch};
use lem_engine::sequence::Sampling;
use lem_engine::source::{FileSource, WeightFile};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |index: usize, default: usize| arguments.get(index).map_or(default, |text| text.parse().unwrap());
    let (prompt, steps, rows) = (number(2, 128), number(3, 64), number(4, 1));
    let bytes = std::fs::read(&arguments[1]).unwrap();
    let header = validate_gguf(&mut Cursor::new(&bytes), bytes.len() as u64).unwrap();
    let architecture = Architecture::from_gguf(&header).unwrap();
    let source = FileSource::gguf(
        &architecture,
        WeightFile {
            tensors: &header.tensors,
            bytes: &bytes,
        },
    )
    .unwrap();
    let blocks = (prompt + steps).div_ceil(BLOCK_POSITIONS);
    let begin = Instant::now();
    let mut decoder = Decoder::new(
        &architecture,
        &source,
        &DecoderConfiguration {
            blocks: blocks * rows,
            cache_type: if arguments[1].contains("f32") {
                CacheType::F32
            } else {
                CacheType::F16
            },
            token_budget: 512.max(rows),
            sampled_rows: rows,
            context_length: prompt + steps,
            threads: std::env::var("THREADS").map_or(2, |threads| threads.parse().unwrap()),
            instruction_set: None,
            weight_type: None,
            conventions: FileSource::gguf_conventions(&architecture),
        },
    )
    .unwrap();
    println!(
        "load {:?} {:?} {}",
        begin.elapsed(),
        decoder.memory(),
        decoder.instruction_set().name()
    );
    let tokens: Vec<u32> = if prompt == 5 {
        vec![504, 3575, 282, 4649, 314]
    } else {
        (0..prompt as u32).map(|t| 300 + t * 7 % 30000).collect()
    };
    let tables: Vec<Vec<u32>> = (0..rows)
        .map(|row| (0..blocks).map(|block| (row * blocks + block) as u32).collect())
        .collect();
    let mut last = vec![0; rows];
    let mut batch = Batch::default();
    let (mut greedy, mut scratch) = (Sampler::new(Sampling::GREEDY), SamplerScratch::default());
    for pass in 0..2 {
        let begin = Instant::now();
        for (row, table) in tables.iter().enumerate() {
            for (chunk, part) in tokens.chunks(512).enumerate() {
                batch.clear();
                let end = chunk * 512 + part.len();
                batch.push(part, chunk * 512, table, end == tokens.len());
                let logits = decoder.forward(&batch).unwrap();
                if end == tokens.len() {
                    last[row] = greedy.sample(logits.row(0), &mut scratch).unwrap();
                }
            }
        }
        let seconds = begin.elapsed().as_secs_f64();
        println!("pass {pass}: prefill {:.1} tok/s", (prompt * rows) as f64 / seconds);
    }
    let mut output = vec![last[0]];
    let mut times = Vec::new();
    for step in 0..steps {
        batch.clear();
        for (row, table) in tables.iter().enumerate() {
            batch.push(&last[row..=row], prompt + step, table, true);
        }
        let begin = Instant::now();
        let logits = decoder.forward(&batch).unwrap();
        for (row, last) in last.iter_mut().enumerate() {
            *last = greedy.sample(logits.row(row), &mut scratch).unwrap();
        }
        times.push(begin.elapsed().as_secs_f64());
        output.push(last[0]);
    }
    times.sort_by(f64::total_cmp);
    println!(
        "decode median {:.1} tok/s, best {:.1}",
        rows as f64 / times[steps / 2],
        rows as f64 / times[0]
    );
    println!("{output:?}");
}
