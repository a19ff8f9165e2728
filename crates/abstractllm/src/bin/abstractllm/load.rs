//! Loads the model that the command line names.

use std::sync::Arc;

use abstractllm::{
    Result,
    mlx::{CacheLimits, Caches, DiskCache, MlxOptions, MlxProvider},
    perf::PerformanceMonitor,
    vision::Limits,
};

use crate::{args::ModelArgs, failure::say, progress::Bars};

/// Says which model answers where none was named.
pub(crate) fn note_default(args: &ModelArgs, quiet: bool) {
    if args.model.is_none() && !quiet {
        say("note: no --model given, so the embedded tiny-vl answers: it knows plain shapes and \
             short words only");
    }
}

/// Loads the model; `bars` show how far that has come.
pub(crate) fn model(
    args: &ModelArgs,
    limits: Limits,
    monitor: Option<&PerformanceMonitor>,
    bars: &Bars,
) -> Result<MlxProvider> {
    named(args.name(), args, limits, monitor, bars)
}

/// Loads the model `name` as `args` say.
pub(crate) fn named(
    name: &str,
    args: &ModelArgs,
    limits: Limits,
    monitor: Option<&PerformanceMonitor>,
    bars: &Bars,
) -> Result<MlxProvider> {
    let (loading, downloading) = (bars.clone(), bars.clone());
    let mut options = MlxOptions {
        quantize: args.quantize(),
        offline: args.offline,
        limits,
        memory: args.memory(),
        kv_cache: args.kv.options(),
        prompt_lookup_tokens: args.prompt_lookup_tokens,
        load_progress: Arc::new(move |done, total| loading.bytes("loading", done, total)),
        download_progress: Arc::new(move |file: &str, done, total| {
            downloading.bytes(&format!("downloading {file}"), done, total);
        }),
        ..MlxOptions::default()
    };
    if let Some(monitor) = monitor {
        options.recorder = Arc::new(monitor.clone());
    }
    if let Some(dir) = &args.cache_dir {
        let mut limits = CacheLimits::default();
        limits.disk = Some(DiskCache::new(dir.clone()));
        options.caches = Caches::open(limits)?;
    }
    abstractllm::load(name, options)
}
