//! Progress on standard error: a bar on a terminal, plain lines elsewhere.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

/// Shows how far a run is.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    quiet: bool,
    begin: Instant,
    total: u64,
    done: u64,
}

impl Progress {
    /// Progress over so many trials.
    pub fn new(total: u64, quiet: bool) -> Self {
        let style = ProgressStyle::with_template("{bar:24} {pos}/{len} trials · {elapsed} · left {eta} · {msg}");
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let bar = ProgressBar::new(total);
            if let Ok(style) = style {
                bar.set_style(style);
            }
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        Self {
            bar,
            quiet,
            begin: Instant::now(),
            total,
            done: 0,
        }
    }

    /// Says what is being done.
    pub fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(text.to_owned()),
            None if !self.quiet => {
                eprintln!(
                    "[{:>4.0}s {}/{}] {text}",
                    self.begin.elapsed().as_secs_f64(),
                    self.done,
                    self.total
                );
            }
            None => {}
        }
    }

    /// One trial is over.
    pub fn advance(&mut self) {
        self.done += 1;
        if let Some(bar) = &self.bar {
            bar.set_position(self.done);
        }
    }

    /// More trials than planned.
    pub fn extend(&mut self, trials: u64) {
        self.total += trials;
        if let Some(bar) = &self.bar {
            bar.set_length(self.total);
        }
    }

    /// Something a user should see whatever happens next.
    pub fn warn(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("warning: {text}")),
            None => eprintln!("warning: {text}"),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
