//! What the guard would say about a request to a model that is not loaded.

use std::path::Path;

use llm_core::GenerateParams;
use mlx_rs::Dtype;
use serde::Serialize;
use vision_preproc::Size;

use super::{
    Asked, Guard, MemoryBounds, MemoryOptions, MemoryPolicy, MemoryStage, MemoryTerm, Setting,
    Shown, View, resident_bytes,
};
use crate::{
    Error, MlxOptions, Result,
    checkpoint::Checkpoint,
    device::Backend,
    engine::{self, compute_dtype},
    memory, models,
    models::Architecture,
    prompt::pixel_budget,
    provider::image_reader,
};

/// Tokens that a prompt is taken to have besides its images: a template and a question.
const TEXT_TOKENS: usize = 128;

/// How much memory a request would take, and whether there is as much.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct MemoryCheck {
    /// The parts, by stage; those of [`MemoryStage::Always`] are needed in each.
    pub terms: Vec<MemoryTerm>,
    /// The stage that needs most.
    pub stage: MemoryStage,
    /// Bytes that the process would hold in it.
    pub required_bytes: u64,
    /// Bytes that it may hold.
    pub available_bytes: u64,
    /// What bounds them.
    pub bound: &'static str,
    /// Every bound.
    pub bounds: MemoryBounds,
    /// Whether the request fits as it is.
    pub fits: bool,
    /// What [`MemoryPolicy::Fit`] would make of it; `None` if that cannot help either.
    pub fit: Option<MemoryFit>,
}

/// How a request can be done in the memory that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MemoryFit {
    /// The largest `max_pixels` that fits; `None` if images can stay as they are.
    pub max_pixels: Option<u64>,
    /// Tokens of the prompt read at a time.
    pub prefill_step_tokens: usize,
}

/// Says how much memory a request with images of `sizes` to the model in the folder `path` would
/// take, loaded and run with `options`. Reads headers; loads no model and decodes no image.
///
/// The prompt is taken to have 128 tokens of text, and the answer as many as `params` allow.
///
/// # Errors
/// If the folder is no checkpoint of a model that this crate runs, or MLX cannot be started.
pub fn check_memory(
    path: &Path,
    sizes: &[Size],
    params: &GenerateParams,
    options: &MlxOptions,
) -> Result<MemoryCheck> {
    let checkpoint = Checkpoint::open(path)?;
    let architecture = models::architecture(checkpoint.model_type())?;
    let fitting = MemoryOptions { policy: MemoryPolicy::Fit, ..options.memory };
    let guard = Guard::new(&checkpoint, architecture, options)?;
    let reader = image_reader(&checkpoint, architecture)?;
    let guard = Guard { options: fitting, ..guard };
    let shown: Vec<Shown> = sizes.iter().map(|&size| size.into()).collect();
    let asked = Asked {
        shown: &shown,
        reader: reader.as_ref(),
        videos: None,
        budget: pixel_budget(params),
        text_tokens: TEXT_TOKENS,
        new_tokens: params.max_tokens.unwrap_or(GenerateParams::DEFAULT_MAX_TOKENS) as usize,
        prefill_step_tokens: options.prefill_step_tokens,
        adapted: params.adapter.is_some(),
    };
    let backend = guard.setting.backend;
    let view = View {
        // The weights are not here yet.
        held: memory::held(backend).saturating_add(guard.setting.weight_bytes),
        bounds: memory::bounds(backend, options.memory),
    };
    let estimate = guard.estimate(&asked, &view, asked.budget, asked.prefill_step_tokens);
    let (stage, required_bytes) = estimate.required();
    let (bound, available_bytes) = view.bounds.smallest();
    let fit = guard.decide(&asked, &view).ok().map(|admitted| MemoryFit {
        max_pixels: admitted.notice.and(admitted.budget.max_pixels),
        prefill_step_tokens: admitted.prefill_step_tokens,
    });
    Ok(MemoryCheck {
        fits: view.allows(&estimate),
        terms: estimate.terms,
        stage,
        required_bytes,
        available_bytes,
        bound,
        bounds: view.bounds,
        fit,
    })
}

impl Guard {
    /// Returns the guard of the model in `checkpoint`, by its headers.
    ///
    /// # Errors
    /// If a configuration or a header is bad, or MLX cannot be started.
    pub(crate) fn new(
        checkpoint: &Checkpoint,
        architecture: &Architecture,
        options: &MlxOptions,
    ) -> Result<Self> {
        let backend = engine::call(Backend::current)?;
        let dtype = compute_dtype(options.compute_type.dtype(), backend, checkpoint.config());
        let footprint = (architecture.footprint)(checkpoint.config(), &checkpoint.config_path())?;
        let value_bytes = if dtype == Dtype::Float32 { 4 } else { 2 };
        let on_host = backend.on_host(dtype);
        let fuses = |head_dim: u64| {
            backend.fuses_attention(i32::try_from(head_dim).unwrap_or(i32::MAX), dtype)
        };
        let setting = Setting {
            footprint,
            backend,
            on_host,
            value_bytes,
            weight_bytes: resident_bytes(
                checkpoint.weight_files(),
                architecture.rename,
                value_bytes,
                options.quantize,
                on_host,
            )?,
            fused_tower: fuses(footprint.tower.head_dim),
            fused_decoder: fuses(footprint.decoder.head_dim),
            unpacks: !on_host
                && backend.unpacks_from_rows().is_some()
                && (options.quantize.is_some() || checkpoint.quantization() != &Default::default()),
        };
        options.kv_cache.validate(&footprint.decoder)?;
        Ok(Self {
            setting,
            options: options.memory,
            kept: options.caches.limits().into(),
            kv_cache: options.kv_cache,
            max_batch: options.max_batch,
        })
    }

    /// Checks that the weights themselves fit, before they are read.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub(crate) fn admit_weights(&self) -> Result<()> {
        self.admit_bytes("weights", self.setting.weight_bytes)
    }

    /// Decides whether `bytes` of `what`, which are kept, fit.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    pub(crate) fn admit_bytes(&self, what: &'static str, bytes: u64) -> Result<()> {
        let required = || memory::held(self.setting.backend).saturating_add(bytes);
        let bounds = || memory::bounds(self.setting.backend, self.options);
        let missing = required().saturating_sub(bounds().smallest().1);
        if missing > 0 {
            memory::reclaim(missing);
        }
        let (required, (bound, available)) = (required(), bounds().smallest());
        match required <= available {
            true => Ok(()),
            false => Err(Error::OutOfMemory {
                required,
                available,
                bound,
                stage: MemoryStage::Always,
                largest: what,
                largest_bytes: bytes,
            }),
        }
    }
}
