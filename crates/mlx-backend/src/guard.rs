//! Whether a request fits into memory, decided before anything of it is computed.
//!
//! ```text
//! headers and config.json --> Footprint, bytes of weights      (footprint.rs, weights.rs)
//! sizes of images, tokens --> Estimate: terms by stage         (estimate.rs)
//! device, MLX, machine, user --> MemoryBounds                  (available.rs)
//! ```
//!
//! Where the estimate is above the smallest bound, caches are asked for memory first; then the
//! policy decides: smaller steps and smaller images, or an error. What is decided does not depend on
//! other requests: one that fits, but not beside those that run, waits for them (reservation.rs).

mod available;
mod bytes;
mod check;
mod estimate;
mod footprint;
mod reservation;
mod weights;

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use llm_core::Notice;
use vision_preproc::{PixelBudget, Plan, Size, VideoProcessor};

#[cfg(test)]
pub(crate) use self::reservation::Promise;
use self::reservation::Promised;
pub use self::{
    available::MemoryBounds,
    bytes::ByteSize,
    check::{MemoryCheck, MemoryFit, check_memory},
    estimate::{MemoryStage, MemoryTerm},
};
pub(crate) use self::{
    estimate::{Estimate, ImageWork, Kept, Setting, Work},
    footprint::{DecoderFootprint, Footprint, FrameFootprint, TowerFootprint},
    reservation::{LEDGER, Reservation},
    weights::resident_bytes,
};
use crate::{
    Error, Result, image_reader::ImageReader, kv_cache::KvCacheOptions, memory,
    models::frames_at_a_time,
};

/// What is done about a request that would not fit into memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemoryPolicy {
    /// Makes it fit: reads the prompt in smaller steps, which changes no answer, and if that is not
    /// enough lowers `max_pixels` to the largest value that fits, which a [`Notice`] says.
    #[default]
    Fit,
    /// As [`Fit`](Self::Fit), but leaves the steps as they are.
    FitImages,
    /// Refuses it with [`Error::OutOfMemory`].
    Reject,
}

/// How much memory may be used, and what is done about requests that need more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryOptions {
    /// Most bytes that the process may hold, weights included; `None` leaves it to what MLX, the
    /// device and the machine have. It is for the whole process: of several models, the smallest
    /// counts.
    pub limit_bytes: Option<u64>,
    /// What is done about a request that would not fit.
    pub policy: MemoryPolicy,
}

/// Fewest prompt tokens to which a step is lowered: below, hardly anything is saved.
const SMALLEST_STEP_TOKENS: u64 = 32;

/// Decides about the requests to one model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guard {
    pub(crate) setting: Setting,
    pub(crate) options: MemoryOptions,
    pub(crate) kept: Kept,
    pub(crate) kv_cache: KvCacheOptions,
    /// Most requests whose tokens are made together.
    pub(crate) max_batch: usize,
}

/// An image or a video as headers describe it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown {
    size: Size,
    video: Option<ShownVideo>,
}

#[derive(Clone, Copy, Debug)]
struct ShownVideo {
    /// Those that are looked at.
    frames: usize,
    /// Those of a patch.
    patch_frames: u64,
    /// What its sampling says of pixels.
    own: PixelBudget,
    /// What its decoder holds besides a frame.
    decoder_bytes: u64,
}

impl Shown {
    /// Returns so many frames of `size`, in all and of a patch, with bounds of their own.
    pub(crate) fn video(
        size: Size,
        (frames, patch_frames): (usize, usize),
        own: PixelBudget,
        decoder_bytes: u64,
    ) -> Self {
        let patch_frames = patch_frames as u64;
        Self { size, video: Some(ShownVideo { frames, patch_frames, own, decoder_bytes }) }
    }

    /// Returns what `asked`, the bounds of a request, leaves of its own: a request has the most pixels of anything, and
    /// the fewest of images.
    pub(crate) fn budget(&self, asked: &PixelBudget) -> PixelBudget {
        let Some(ShownVideo { own, .. }) = self.video else { return *asked };
        let most = own.max_pixels.into_iter().chain(asked.max_pixels).min();
        PixelBudget { min_pixels: own.min_pixels, max_pixels: most }
    }
}

impl From<Size> for Shown {
    fn from(size: Size) -> Self {
        Self { size, video: None }
    }
}

/// A request as headers describe it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) shown: &'a [Shown],
    pub(crate) reader: Option<&'a ImageReader>,
    pub(crate) videos: Option<&'a VideoProcessor>,
    pub(crate) budget: PixelBudget,
    /// Tokens of the prompt that stand for no image.
    pub(crate) text_tokens: usize,
    /// Most tokens of the answer.
    pub(crate) new_tokens: usize,
    /// Tokens of the prompt read at a time.
    pub(crate) prefill_step_tokens: usize,
    /// Whether an adapter changes the model for it.
    pub(crate) adapted: bool,
}

/// How a request may be done.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Admitted {
    pub(crate) budget: PixelBudget,
    pub(crate) prefill_step_tokens: usize,
    /// What the user should know.
    pub(crate) notice: Option<Notice>,
}

impl Guard {
    /// Decides about a request, and promises it the memory; waits while others hold what it needs.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] if it does not fit and may not, or cannot, be made to;
    /// [`Error::Cancelled`] once `cancelled` says so.
    pub(crate) fn admit(
        &self,
        asked: &Asked<'_>,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<(Admitted, Reservation)> {
        // One at a time: who waits must not be overtaken by smaller ones for ever.
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reclaimed = false;
        loop {
            let others = LEDGER.promised();
            let (alone, beside) = self.views(&others);
            let wanted = self.estimate(asked, &beside, asked.budget, asked.prefill_step_tokens);
            if !beside.allows(&wanted) && !std::mem::replace(&mut reclaimed, true) {
                // What caches hold is worth less than an answer as it was asked for.
                let missing = wanted.required().1.saturating_sub(beside.bounds.smallest().1);
                if memory::reclaim(missing) > 0 {
                    continue;
                }
            }
            let admitted = self.decide(asked, &alone)?;
            let Admitted { budget, prefill_step_tokens, .. } = admitted;
            let needed = self.estimate(asked, &beside, budget, prefill_step_tokens);
            if others.requests == 0 || beside.allows(&needed) {
                let work = self.work(asked, budget, prefill_step_tokens);
                let batched = self.max_batch > 1 && self.kv_cache.is_plain();
                let promise = self.setting.promise(&work, batched);
                return Ok((admitted, LEDGER.promise(promise)));
            }
            if cancelled() {
                return Err(Error::Cancelled);
            }
            LEDGER.wait_for_change(others);
        }
    }

    /// Returns the state of the memory as if nothing ran, and beside all that was promised.
    fn views(&self, others: &Promised) -> (View, View) {
        let held = memory::held(self.setting.backend);
        let bounds = memory::bounds(self.setting.backend, self.options);
        let alone = View { held: held.saturating_sub(others.held), bounds };
        let together = self.setting.batch_bytes(others.requests + 1);
        let beside = held.saturating_add(others.missing).saturating_add(together);
        (alone, View { held: beside, bounds })
    }

    /// Decides about a request that is alone, in a given state of the memory.
    ///
    /// # Errors
    /// As [`admit`](Self::admit).
    pub(crate) fn decide(&self, asked: &Asked<'_>, view: &View) -> Result<Admitted> {
        let steps = asked.prefill_step_tokens;
        let wanted = self.estimate(asked, view, asked.budget, steps);
        let as_asked = Admitted { budget: asked.budget, prefill_step_tokens: steps, notice: None };
        if view.allows(&wanted) {
            return Ok(as_asked);
        }
        let refused = || out_of_memory(&wanted, &view.bounds);
        let smallest = match self.options.policy {
            MemoryPolicy::Reject => return Err(refused()),
            MemoryPolicy::FitImages => steps,
            MemoryPolicy::Fit => steps.min(SMALLEST_STEP_TOKENS as usize),
        };
        let fits = |budget, steps| view.allows(&self.estimate(asked, view, budget, steps));
        // Smaller steps cost time only, so they are tried first.
        let largest_step = |budget| {
            let halves = std::iter::successors(Some(steps), |&step| Some(step / 2));
            let halves = halves.take_while(|&step| step > smallest).chain([smallest]);
            halves.into_iter().find(|&step| fits(budget, step))
        };
        if let Some(step) = largest_step(asked.budget) {
            return Ok(Admitted { prefill_step_tokens: step, ..as_asked });
        }
        let budget = self.largest_budget(asked, |budget| fits(budget, smallest));
        let budget = budget.ok_or_else(refused)?;
        let prefill_step_tokens = largest_step(budget).unwrap_or(smallest);
        let notice = Notice::SmallerImages {
            max_pixels: budget.max_pixels.unwrap_or(0),
            required_bytes: wanted.required().1,
            available_bytes: view.bounds.smallest().1,
        };
        Ok(Admitted { budget, prefill_step_tokens, notice: Some(notice) })
    }

    /// Estimates a request; an image that cannot be planned counts nothing, since its error comes
    /// later and says more.
    pub(crate) fn estimate(
        &self,
        asked: &Asked<'_>,
        view: &View,
        budget: PixelBudget,
        prefill_step_tokens: usize,
    ) -> Estimate {
        let work = self.work(asked, budget, prefill_step_tokens);
        Estimate::new(&self.setting, &work, view.held.saturating_sub(self.setting.weight_bytes))
    }

    fn work(&self, asked: &Asked<'_>, budget: PixelBudget, prefill_step_tokens: usize) -> Work {
        Work {
            images: asked.plans(&budget).map(|(shown, plan)| image_work(shown, &plan)).collect(),
            text_tokens: asked.text_tokens as u64,
            new_tokens: asked.new_tokens as u64,
            prefill_step_tokens: prefill_step_tokens as u64,
            kept: self.kept,
            kv_cache: self.kv_cache,
            adapted: asked.adapted,
        }
    }

    /// Returns the budget with the largest `max_pixels` for which `fits` holds, in steps of a
    /// feature; `None` if none does.
    fn largest_budget(
        &self,
        asked: &Asked<'_>,
        fits: impl Fn(PixelBudget) -> bool,
    ) -> Option<PixelBudget> {
        let largest = asked.plans(&asked.budget).map(|(_, plan)| plan.resized.pixels()).max()?;
        let smallest = asked.reader?.pixel_bounds(&asked.budget)?.0.max(1);
        // Pixels of a feature, so that each candidate is another number of tokens.
        let tower = &self.setting.footprint.tower;
        let (shown, plan) = asked.plans(&asked.budget).next()?;
        let frame_patches =
            if shown.video.is_some() { plan.grid.h * plan.grid.w } else { plan.patches };
        let feature =
            (plan.resized.pixels() * tower.merge * tower.merge / frame_patches as u64).max(1);
        let budget = |features: u64| PixelBudget {
            min_pixels: asked.budget.min_pixels,
            max_pixels: Some(features * feature),
        };
        // Fits at `low` (once known), does not fit at `high`.
        let (mut low, mut high) = (smallest.div_ceil(feature), largest.div_ceil(feature));
        if low >= high || !fits(budget(low)) {
            return None;
        }
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            match fits(budget(middle)) {
                true => low = middle,
                false => high = middle,
            }
        }
        Some(budget(low))
    }
}

impl Asked<'_> {
    fn plans(&self, budget: &PixelBudget) -> impl Iterator<Item = (Shown, Plan)> {
        let (reader, videos, budget) = (self.reader, self.videos, *budget);
        self.shown.iter().filter_map(move |&shown| {
            let budget = shown.budget(&budget);
            let plan = match shown.video {
                None => reader?.plan(shown.size, &budget),
                Some(ShownVideo { frames, .. }) => videos?.plan(shown.size, frames, &budget),
            };
            Some((shown, plan.ok()?))
        })
    }
}

fn image_work(shown: Shown, plan: &Plan) -> ImageWork {
    let at_a_time = frames_at_a_time(plan.grid, shown.video.is_some());
    let patch_frames = shown.video.map_or(1, |video| video.patch_frames);
    ImageWork {
        source_pixels: shown.size.pixels(),
        decoder_bytes: shown.video.map_or(0, |video| video.decoder_bytes),
        pixels: plan.resized.pixels(),
        patches: plan.patches as u64,
        patch_frames,
        tower_patches: (at_a_time * plan.grid.h * plan.grid.w) as u64,
    }
}

/// The state of the memory when a request is decided about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct View {
    /// Bytes that the process holds and cannot hand to a request.
    pub(crate) held: u64,
    pub(crate) bounds: MemoryBounds,
}

impl View {
    fn allows(&self, estimate: &Estimate) -> bool {
        self.bounds.allow(estimate.required().1, estimate.required_host())
    }
}

/// Returns the error of an estimate that is above its bounds.
pub(crate) fn out_of_memory(estimate: &Estimate, bounds: &MemoryBounds) -> Error {
    let (stage, required) = estimate.required();
    let (bound, available) = bounds.smallest();
    // On a device with its own memory it may be the host that is short.
    let host = required <= available;
    let largest = estimate.largest_term();
    Error::OutOfMemory {
        required: if host { estimate.required_host() } else { required },
        available: if host { bounds.physical } else { available },
        bound: if host { "free memory" } else { bound },
        stage,
        largest: largest.map_or("nothing", |term| term.name),
        largest_bytes: largest.map_or(0, |term| term.bytes),
    }
}

impl fmt::Display for MemoryStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Always => "always",
            Self::Images => "images",
            Self::Vision => "vision",
            Self::Prompt => "prompt",
            Self::Answer => "answer",
        })
    }
}

#[cfg(test)]
mod tests;
