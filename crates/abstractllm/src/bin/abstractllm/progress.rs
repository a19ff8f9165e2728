//! Bars on stderr while something takes long.

use std::{
    io::{self, IsTerminal},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use abstractllm::{Progress, Stage};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar that is over sooner only flickers.
const DELAY: Duration = Duration::from_millis(400);

/// One bar at a time, for whatever is being done; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Bars {
    /// Absent where nobody looks.
    current: Option<Arc<Mutex<Option<Bar>>>>,
}

#[derive(Debug)]
struct Bar {
    label: String,
    since: Instant,
    bar: ProgressBar,
}

impl Bars {
    /// Returns bars that show only if stderr is a terminal and `quiet` is not set.
    pub(crate) fn new(quiet: bool) -> Self {
        let shown = !quiet && io::stderr().is_terminal();
        Self { current: shown.then(Arc::default) }
    }

    /// Shows that `done` of `total` bytes of `label` are there.
    pub(crate) fn bytes(&self, label: &str, done: u64, total: u64) {
        const STYLE: &str = "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        self.show(label, STYLE, done, total);
    }

    /// Shows that `done` of `total` things of `label` are done.
    pub(crate) fn count(&self, label: &str, done: u64, total: u64) {
        self.show(label, "{msg} {bar:30} {pos}/{len}", done, total);
    }

    /// Shows a step of an answer.
    pub(crate) fn step(&self, progress: Progress) {
        let label = match progress.stage {
            Stage::Load => return self.bytes("loading", progress.done, progress.total),
            Stage::Preprocess => "reading images",
            Stage::Encode => "looking at images",
            Stage::Prefill => "reading the prompt",
            _ => "working",
        };
        self.count(label, progress.done, progress.total);
    }

    /// Takes the bar away.
    pub(crate) fn clear(&self) {
        let Some(current) = &self.current else { return };
        if let Some(old) = current.lock().unwrap_or_else(PoisonError::into_inner).take() {
            old.bar.finish_and_clear();
        }
    }

    fn show(&self, label: &str, style: &str, done: u64, total: u64) {
        let Some(current) = &self.current else { return };
        let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_none_or(|bar| bar.label != label) {
            if let Some(old) = current.take() {
                old.bar.finish_and_clear();
            }
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
            bar.set_style(ProgressStyle::with_template(style).expect("the template is a constant"));
            bar.set_message(label.to_owned());
            *current = Some(Bar { label: label.to_owned(), since: Instant::now(), bar });
        }
        let Some(Bar { since, bar, .. }) = current.as_ref() else { return };
        bar.set_length(total);
        bar.set_position(done);
        if bar.is_hidden() && since.elapsed() > DELAY && done < total {
            bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }
}
