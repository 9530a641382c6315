//! Which steps are recorded: those in which every row decodes one token, by the number of rows. A recorded step is
//! launched as a whole, so that the host's time for each kernel does not count.

use std::collections::HashMap;

use lem_engine::batch::Batch;

/// Rows of a recorded step at most.
pub const MOST_ROWS: usize = 64;
/// Up to so many rows each number has a recording of its own; beyond, powers of two do.
pub const EXACT_ROWS: usize = 8;

/// What a recording fits: all batches of so many decoding rows whose attention is split into no more spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Bucket {
    /// Rows, padding included.
    pub rows: usize,
    /// Spans of layers without a window and of those with one: powers of two.
    pub spans: [usize; 2],
}

/// The rows of the recording that a batch is padded to, or `None` if the batch is not of decoding rows alone.
pub fn bucket_rows(batch: &Batch) -> Option<usize> {
    let rows = batch.rows.len();
    if rows == 0 || rows > MOST_ROWS || !batch.rows.iter().all(|row| row.tokens.len() == 1 && row.sampled) {
        return None;
    }
    Some(if rows <= EXACT_ROWS {
        rows
    } else {
        rows.next_power_of_two()
    })
}

/// What is to be done for a step.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Launch each kernel: for the first time in a bucket, so that all that is done once is not recorded.
    Launch,
    /// Record, and replay the recording.
    Record,
    /// Replay the recording that there is.
    Replay,
}

/// The recordings of a decoder.
#[derive(Debug)]
pub struct Recordings<G> {
    recordings: HashMap<Bucket, Option<G>>,
}

impl<G> Default for Recordings<G> {
    fn default() -> Self {
        Self {
            recordings: HashMap::new(),
        }
    }
}

impl<G> Recordings<G> {
    /// What is to be done for a step of this bucket.
    pub fn action(&mut self, bucket: Bucket) -> Action {
        match self.recordings.get(&bucket) {
            Some(Some(_)) => Action::Replay,
            Some(None) => Action::Record,
            None => {
                self.recordings.insert(bucket, None);
                Action::Launch
            }
        }
    }

    /// Keeps a recording.
    pub fn keep(&mut self, bucket: Bucket, recording: G) {
        self.recordings.insert(bucket, Some(recording));
    }

    /// The recording of a bucket.
    pub fn get(&self, bucket: Bucket) -> Option<&G> {
        self.recordings.get(&bucket)?.as_ref()
    }

    /// Forgets all: addresses have changed.
    pub fn clear(&mut self) {
        self.recordings.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(rows: usize, tokens: usize) -> Batch {
        let mut batch = Batch::default();
        (0..rows).for_each(|row| batch.push(&vec![1; tokens], 0, &[row as u32], true));
        batch
    }

    #[test]
    fn only_steps_that_decode_are_recorded_and_their_rows_are_rounded_up_from_nine_on() {
        let rows = |rows| bucket_rows(&batch(rows, 1));
        assert_eq!([rows(1), rows(7), rows(8)], [Some(1), Some(7), Some(8)]);
        assert_eq!([rows(9), rows(33), rows(64)], [Some(16), Some(64), Some(64)]);
        assert_eq!([rows(0), rows(65), bucket_rows(&batch(2, 2))], [None; 3]);
    }

    #[test]
    fn a_bucket_is_launched_then_recorded_then_replayed() {
        let mut recordings = Recordings::default();
        let bucket = Bucket { rows: 1, spans: [1, 1] };
        assert_eq!(recordings.action(bucket), Action::Launch);
        assert_eq!(recordings.action(bucket), Action::Record);
        recordings.keep(bucket, ());
        assert_eq!(recordings.action(bucket), Action::Replay);
        assert_eq!(recordings.action(Bucket { rows: 2, ..bucket }), Action::Launch);
    }
}
