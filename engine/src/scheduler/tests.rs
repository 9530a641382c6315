use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::*;
use crate::batch::BLOCK_POSITIONS;
use crate::sequence::Sampling;

const END: u32 = 7;

/// A model whose next token depends on every token before it, read through the block table from a cache that only the
/// batch's rows write: a wrong block, position or shared prefix changes the tokens.
struct Model {
    cache: Vec<[u32; BLOCK_POSITIONS]>,
}

impl Model {
    fn new(blocks: usize) -> Self {
        Self {
            cache: vec![[u32::MAX; BLOCK_POSITIONS]; blocks],
        }
    }

    fn step(&mut self, batch: &Batch) -> Vec<u32> {
        let mut written: HashMap<(u32, usize), usize> = HashMap::new();
        for (index, row) in batch.rows.iter().enumerate() {
            let blocks = &batch.block_table[row.blocks.clone()];
            for (token, position) in batch.tokens[row.tokens.clone()].iter().zip(Batch::positions(row)) {
                let (block, slot) = (blocks[position / BLOCK_POSITIONS], position % BLOCK_POSITIONS);
                self.cache[block as usize][slot] = *token;
                let before = written.insert((block, slot), index);
                assert_eq!(before, None, "two rows write block {block}");
            }
        }
        let sampled = batch.rows.iter().filter(|row| row.sampled);
        sampled.map(|row| self.next(batch, row)).collect()
    }

    fn next(&self, batch: &Batch, row: &crate::batch::Row) -> u32 {
        let blocks = &batch.block_table[row.blocks.clone()];
        let end = row.start + row.tokens.len();
        let history: Vec<u32> = (0..end)
            .map(|position| self.cache[blocks[position / BLOCK_POSITIONS] as usize][position % BLOCK_POSITIONS])
            .collect();
        next_token(&history)
    }
}

fn next_token(history: &[u32]) -> u32 {
    assert!(
        !history.contains(&u32::MAX),
        "a position is read that nobody has written"
    );
    let hash = history
        .iter()
        .fold(17_u32, |hash, token| hash.wrapping_mul(31).wrapping_add(*token));
    hash % 50
}

/// The tokens that a request has alone.
fn alone(request: &SequenceRequest) -> Vec<u32> {
    let mut history = request.prompt.clone();
    let mut output = Vec::new();
    while output.len() < request.max_output_tokens as usize {
        let token = next_token(&history);
        history.push(token);
        output.push(token);
        if token == END && !request.ignore_eos {
            break;
        }
    }
    output
}

fn request(id: u64, prompt: Vec<u32>, max_output_tokens: u32, ignore_eos: bool) -> SequenceRequest {
    SequenceRequest {
        id,
        prompt,
        max_output_tokens,
        ignore_eos,
        sampling: Sampling::GREEDY,
    }
}

fn configuration(batching: Batching) -> SchedulerConfiguration {
    SchedulerConfiguration {
        batching,
        token_budget: 64,
        blocks: 32,
        context_length: 256,
        prefix_caching: true,
        reserve_output: true,
    }
}

/// What a run did.
#[derive(Debug, PartialEq)]
struct Run {
    tokens: BTreeMap<u64, Vec<u32>>,
    plans: Vec<StepPlan>,
    statistics: SchedulerStatistics,
}

/// Submits each request as soon as its step has come and there is room, and runs until all have ended.
fn run(configuration: SchedulerConfiguration, arrivals: &[(usize, SequenceRequest)]) -> Run {
    let mut scheduler = Scheduler::new(configuration);
    let mut model = Model::new(configuration.blocks);
    let mut batch = Batch::default();
    let (mut tokens, mut plans) = (BTreeMap::<u64, Vec<u32>>::new(), Vec::new());
    let mut pending: VecDeque<&(usize, SequenceRequest)> = arrivals.iter().collect();
    let mut finished = 0;
    while finished < arrivals.len() {
        while scheduler.free_sequences() > 0
            && let Some((step, request)) = pending.front()
            && (*step <= plans.len() || scheduler.running.is_empty() && scheduler.waiting.is_empty())
        {
            scheduler.submit(request.clone()).unwrap();
            pending.pop_front();
        }
        let plan = scheduler.schedule(&mut batch).expect("requests wait and nothing runs");
        assert!(batch.tokens.len() <= configuration.token_budget);
        assert_eq!(batch.tokens.len(), plan.prefill_tokens + plan.decode_rows);
        let tokens_of_rows = model.step(&batch);
        let mut chosen = Vec::new();
        scheduler
            .choose(&mut chosen, |row, _, _| tokens_of_rows.get(row).copied().ok_or(row))
            .expect("the model has a token for each sampled row");
        assert_eq!(chosen, tokens_of_rows);
        let mut output = Vec::new();
        scheduler.complete(&chosen, &[END], &mut output);
        for token in output {
            tokens.entry(token.sequence).or_default().push(token.token);
            finished += usize::from(token.finished.is_some());
        }
        check(&scheduler, &model);
        plans.push(plan);
        assert!(plans.len() < 100_000, "the requests do not end");
    }
    assert_eq!(scheduler.pool.used(), 0, "blocks are left in use");
    assert_eq!(
        scheduler.pool.available(),
        configuration.blocks,
        "blocks are left promised"
    );
    Run {
        tokens,
        plans,
        statistics: scheduler.statistics(),
    }
}

/// What holds between steps.
fn check(scheduler: &Scheduler, model: &Model) {
    scheduler.pool.check();
    let mut uses = vec![0; scheduler.pool.total()];
    for sequence in &scheduler.running {
        for (index, block) in sequence.blocks.iter().enumerate() {
            uses[*block as usize] += 1;
            let positions = (sequence.computed.saturating_sub(index * BLOCK_POSITIONS)).min(BLOCK_POSITIONS);
            let expected = &sequence.tokens[index * BLOCK_POSITIONS..][..positions];
            assert_eq!(
                &model.cache[*block as usize][..positions],
                expected,
                "a block holds other tokens"
            );
        }
    }
    assert_eq!(scheduler.pool.references(), uses);
    for (_, block) in scheduler.pool.published() {
        assert!(
            !model.cache[block as usize].contains(&u32::MAX),
            "a block is named before it is full"
        );
    }
}

fn requests() -> impl Strategy<Value = Vec<(usize, SequenceRequest)>> {
    let one = (
        0_usize..30,
        0_usize..4,
        0_usize..90,
        1_usize..60,
        1_u32..50,
        any::<bool>(),
    );
    proptest::collection::vec(one, 1..25).prop_map(|requests| {
        let mut arrivals: Vec<(usize, SequenceRequest)> = requests
            .into_iter()
            .enumerate()
            .map(|(id, (step, prefix, shared, own, output, ignore_eos))| {
                // One of four prefixes, then tokens of its own.
                let shared = (0..shared as u32).map(|index| index % 40 + prefix as u32);
                let own = (0..own as u32).map(|index| (index * 13 + id as u32) % 50);
                (
                    step,
                    request(id as u64, shared.chain(own).collect(), output, ignore_eos),
                )
            })
            .collect();
        arrivals.sort_by_key(|(step, _)| *step);
        arrivals
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_request_ends_with_the_tokens_that_it_has_alone(
        arrivals in requests(),
        sequences in 1_usize..9,
        budget in 9_usize..80,
        blocks in 7_usize..40,
        is_static in any::<bool>(),
        prefix_caching in any::<bool>(),
        reserve_output in any::<bool>(),
    ) {
        let configuration = SchedulerConfiguration {
            batching: if is_static {
                Batching::Static { batch_size: sequences }
            } else {
                Batching::Continuous { max_sequences: sequences }
            },
            token_budget: budget,
            blocks,
            context_length: 200,
            prefix_caching,
            // A static batch decodes together: its rows always have their blocks.
            reserve_output: reserve_output || is_static,
        };
        let done = run(configuration, &arrivals);
        for (_, request) in &arrivals {
            prop_assert_eq!(&done.tokens[&request.id], &alone(request), "request {}", request.id);
        }
        let prompts: u64 = arrivals.iter().map(|(_, request)| request.prompt.len() as u64).sum();
        let outputs: u64 = done.tokens.values().map(|tokens| tokens.len() as u64 - 1).sum();
        let once: usize = done.plans.iter().map(|plan| plan.prompt_tokens).sum();
        prop_assert_eq!(once as u64, prompts, "a prompt is not counted once");
        let statistics = done.statistics;
        // A sequence that comes back may find more than it had, which is no hit of its prompt.
        if statistics.preemptions == 0 || !prefix_caching {
            prop_assert_eq!(statistics.prefill_tokens + statistics.hit_tokens, prompts);
            prop_assert_eq!(statistics.decode_tokens, outputs);
        }
        prop_assert!(statistics.preemptions > 0 || statistics.recomputed_tokens == 0);
        prop_assert_eq!(statistics.queried_tokens, if prefix_caching { prompts } else { 0 });
        prop_assert!(statistics.hit_tokens < prompts.max(1), "a hit covered a whole prompt");
        prop_assert!(statistics.peak_blocks <= blocks);
        prop_assert!(!configuration.reserve_output || statistics.preemptions == 0, "a promise was broken");
        prop_assert_eq!(run(configuration, &arrivals), done, "the same submissions gave another schedule");
    }
}

#[test]
fn decodes_go_first_and_prompts_take_what_is_left_of_the_budget_in_order() {
    let mut scheduler = Scheduler::new(configuration(Batching::Continuous { max_sequences: 4 }));
    let mut batch = Batch::default();
    let mut step = |scheduler: &mut Scheduler| {
        let plan = scheduler.schedule(&mut batch).unwrap();
        let rows: Vec<usize> = batch.rows.iter().map(|row| row.tokens.len()).collect();
        let tokens = vec![1; batch.sampled_rows()];
        scheduler.complete(&tokens, &[], &mut Vec::new());
        (plan, rows)
    };
    scheduler.submit(request(0, vec![1; 10], 5, true)).unwrap();
    assert_eq!(step(&mut scheduler).1, [10]);
    scheduler.submit(request(1, vec![2; 100], 5, true)).unwrap();
    scheduler.submit(request(2, vec![3; 20], 5, true)).unwrap();
    let (plan, rows) = step(&mut scheduler);
    assert_eq!((plan.decode_rows, plan.prefill_tokens), (1, 63));
    assert_eq!(rows, [1, 63]);
    assert_eq!(
        step(&mut scheduler).1,
        [1, 37, 20],
        "the rest of the first prompt, then the second"
    );
    assert_eq!(step(&mut scheduler).1, [1, 1, 1]);
}

#[test]
fn a_static_batch_decodes_after_all_prompts_and_refills_when_all_rows_have_ended() {
    let mut scheduler = Scheduler::new(configuration(Batching::Static { batch_size: 2 }));
    let mut batch = Batch::default();
    for (id, output) in [(0, 2), (1, 4)] {
        scheduler
            .submit(request(id, vec![id as u32; 40], output, true))
            .unwrap();
    }
    assert_eq!(scheduler.free_sequences(), 0);
    let mut rows = Vec::new();
    while let Some(plan) = scheduler.schedule(&mut batch) {
        assert!(plan.prefill_tokens == 0 || plan.decode_rows == 0, "phases overlap");
        rows.push((plan.prefill_tokens, plan.decode_rows));
        let tokens = vec![1; batch.sampled_rows()];
        scheduler.complete(&tokens, &[], &mut Vec::new());
        if !scheduler.running.is_empty() {
            assert_eq!(scheduler.free_sequences(), 0, "a slot was refilled");
        }
    }
    assert_eq!(rows, [(64, 0), (16, 0), (0, 2), (0, 1), (0, 1)]);
    assert_eq!(scheduler.free_sequences(), 2);
    let statistics = scheduler.statistics();
    assert_eq!((statistics.decode_rows, statistics.decode_steps), (4, 3));
}

#[test]
fn padding_is_what_shorter_prompts_lack_to_the_longest_and_is_no_token() {
    let mut scheduler = Scheduler::new(configuration(Batching::Static { batch_size: 3 }));
    for (id, length) in [(0, 10), (1, 30), (2, 20)] {
        scheduler.submit(request(id, vec![1; length], 1, true)).unwrap();
    }
    let mut batch = Batch::default();
    scheduler.schedule(&mut batch).unwrap();
    let statistics = scheduler.statistics();
    assert_eq!(
        (statistics.padded_prompt_tokens, statistics.static_prompt_tokens),
        (90, 60)
    );
    assert_eq!((batch.tokens.len(), statistics.prefill_tokens), (60, 60));
}

#[test]
fn another_salt_shares_nothing() {
    let mut scheduler = Scheduler::new(configuration(Batching::Continuous { max_sequences: 1 }));
    let mut batch = Batch::default();
    let mut prefilled = |scheduler: &mut Scheduler, id| {
        scheduler.submit(request(id, vec![9; 64], 1, true)).unwrap();
        let plan = scheduler.schedule(&mut batch).unwrap();
        scheduler.complete(&[1], &[], &mut Vec::new());
        plan.prefill_tokens
    };
    assert_eq!(prefilled(&mut scheduler, 0), 64);
    assert_eq!(prefilled(&mut scheduler, 1), 32, "the last block is always computed");
    scheduler.set_salt(5);
    assert_eq!(prefilled(&mut scheduler, 2), 64);
    assert_eq!(scheduler.statistics().hit_tokens, 32);
}

#[test]
fn without_a_promise_the_newest_sequence_gives_up_its_blocks_and_ends_with_the_same_tokens() {
    let configuration = SchedulerConfiguration {
        blocks: 5,
        prefix_caching: false,
        reserve_output: false,
        ..configuration(Batching::Continuous { max_sequences: 4 })
    };
    let arrivals: Vec<(usize, SequenceRequest)> = (0..4)
        .map(|id| (0, request(id, vec![id as u32; 30], 60, true)))
        .collect();
    let done = run(configuration, &arrivals);
    assert!(
        done.statistics.preemptions > 0 && done.statistics.recomputed_tokens > 0,
        "{:?}",
        done.statistics
    );
    assert_eq!(
        done.statistics.prefill_tokens, 120,
        "computed again is not processed again"
    );
    for (_, request) in &arrivals {
        assert_eq!(done.tokens[&request.id], alone(request));
    }
}

#[test]
fn the_steps_have_each_prompt_once_whether_it_is_found_or_computed_or_computed_again() {
    let once = |configuration, arrivals: &[(usize, SequenceRequest)]| {
        let done = run(configuration, arrivals);
        let once: usize = done.plans.iter().map(|plan| plan.prompt_tokens).sum();
        (once, done.statistics)
    };
    let same: Vec<(usize, SequenceRequest)> = (0..3).map(|id| (0, request(id, vec![9; 64], 5, true))).collect();
    let (tokens, statistics) = once(configuration(Batching::Continuous { max_sequences: 1 }), &same);
    assert_eq!((tokens, statistics.hit_tokens), (192, 64));

    let scarce = SchedulerConfiguration {
        blocks: 5,
        prefix_caching: false,
        reserve_output: false,
        ..configuration(Batching::Continuous { max_sequences: 4 })
    };
    let long: Vec<(usize, SequenceRequest)> = (0..4)
        .map(|id| (0, request(id, vec![id as u32; 30], 60, true)))
        .collect();
    let (tokens, statistics) = once(scarce, &long);
    assert!(statistics.recomputed_tokens > 0, "{statistics:?}");
    assert_eq!(tokens, 120);
}

#[test]
fn a_sequence_that_comes_back_and_finds_all_but_its_last_token_goes_on_at_once() {
    let mut scheduler = Scheduler::new(SchedulerConfiguration {
        reserve_output: false,
        ..configuration(Batching::Continuous { max_sequences: 2 })
    });
    let mut batch = Batch::default();
    scheduler.submit(request(0, vec![1; 64], 5, true)).unwrap();
    scheduler.schedule(&mut batch).unwrap();
    scheduler.complete(&[1], &[], &mut Vec::new());
    scheduler.preempt();
    assert!(
        scheduler.schedule(&mut batch).is_some(),
        "a sequence waits, and the step is empty"
    );
    assert_eq!(
        (batch.tokens.len(), batch.rows[0].start, batch.sampled_rows()),
        (1, 64, 1)
    );
    scheduler.complete(&[1], &[], &mut Vec::new());
    assert_eq!(scheduler.statistics().decode_tokens, 1);
}

#[test]
fn what_can_never_run_is_refused_and_changes_nothing() {
    let mut scheduler = Scheduler::new(SchedulerConfiguration {
        blocks: 4,
        ..configuration(Batching::Continuous { max_sequences: 1 })
    });
    let mut refuse = |request: SequenceRequest| {
        let free = scheduler.free_sequences();
        let message = scheduler.submit(request).unwrap_err().to_string();
        assert_eq!(scheduler.free_sequences(), free);
        message
    };
    assert_eq!(
        refuse(request(1, vec![], 5, true)),
        "sequence 1 has an empty prompt or asks for no output"
    );
    assert_eq!(
        refuse(request(2, vec![1], 0, true)),
        "sequence 2 has an empty prompt or asks for no output"
    );
    assert_eq!(
        refuse(request(3, vec![1; 250], 8, true)),
        "a prompt of 250 tokens with 8 tokens of output exceeds the context of 256"
    );
    assert_eq!(
        refuse(request(4, vec![1; 129], 1, true)),
        "sequence 4 needs 5 blocks of the key-value cache, which has 4"
    );
    scheduler.submit(request(5, vec![1; 128], 1, true)).unwrap();
    let message = scheduler.submit(request(6, vec![1], 1, true)).unwrap_err().to_string();
    assert_eq!(message, "sequence 6 was submitted while no slot was free");
}

#[test]
fn an_abort_gives_everything_back() {
    let mut scheduler = Scheduler::new(configuration(Batching::Continuous { max_sequences: 3 }));
    let mut batch = Batch::default();
    for id in 0..3 {
        scheduler.submit(request(id, vec![1; 50], 20, true)).unwrap();
    }
    scheduler.schedule(&mut batch).unwrap();
    scheduler.abort();
    assert_eq!((scheduler.free_sequences(), scheduler.pool.available()), (3, 32));
    assert_eq!(scheduler.schedule(&mut batch), None);
}
