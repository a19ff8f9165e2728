//! Loads the model that the command line names.

use std::sync::Arc;

use abstractllm::{
    Config, GenerateParams, Provider, Result, create_llm, embedded,
    mlx::{self, Caches, MlxOptions},
    mlx_options,
    perf::PerformanceMonitor,
    vision::Limits,
};

use crate::{failure::say, model_args::ModelArgs, progress::Bars};

/// What the command line, the environment and a file ask for.
#[derive(Debug)]
pub(crate) struct Wanted {
    provider: String,
    settings: Config,
    /// Whether nobody named a model.
    is_default: bool,
}

/// A model that answers.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) provider: Arc<dyn Provider>,
    /// The name that it was asked for by.
    pub(crate) name: String,
    /// Most new tokens where nothing else is said.
    pub(crate) max_tokens: u32,
    caches: Option<Arc<Caches>>,
}

impl Wanted {
    /// # Errors
    /// If a setting is none of the provider, or there is no such provider.
    pub(crate) fn of(args: &ModelArgs) -> Result<Self> {
        let provider = args.provider.clone();
        let mut settings = args.settings()?.with_sources(&provider)?;
        let is_default = provider == mlx::PROVIDER && settings.get("model").is_none();
        if is_default {
            settings.set("model", embedded::TINY_VL);
        }
        Ok(Self { provider, settings, is_default })
    }

    /// Returns the name of the model; empty if there is none, which the provider refuses.
    pub(crate) fn name(&self) -> &str {
        self.settings.get("model").unwrap_or_default()
    }

    /// Asks for another model of the same provider.
    pub(crate) fn name_another(&mut self, name: &str) {
        self.settings.set("model", name);
        self.is_default = false;
    }

    /// Loads the model; `bars` show how far that has come.
    ///
    /// # Errors
    /// What the provider says of its settings or its model.
    pub(crate) fn load(
        &self,
        limits: Limits,
        monitor: Option<&PerformanceMonitor>,
        bars: &Bars,
        quiet: bool,
    ) -> Result<Loaded> {
        let loaded = self.load_with(limits, monitor, bars, quiet);
        bars.clear();
        loaded
    }

    fn load_with(
        &self,
        limits: Limits,
        monitor: Option<&PerformanceMonitor>,
        bars: &Bars,
        quiet: bool,
    ) -> Result<Loaded> {
        let max_tokens = self.settings.get("max_tokens").and_then(|text| text.trim().parse().ok());
        let loaded = |provider, caches| Loaded {
            provider,
            name: self.name().to_owned(),
            max_tokens: max_tokens.unwrap_or(GenerateParams::DEFAULT_MAX_TOKENS),
            caches,
        };
        if self.provider != mlx::PROVIDER {
            let provider = create_llm(&self.provider, self.settings.clone())?;
            return Ok(loaded(provider.into(), None));
        }
        // The same as `create_llm`, with what no text can hold.
        let (name, options) = mlx_options(self.settings.clone())?;
        if self.is_default && !quiet {
            say("note: no --model given, so the embedded tiny-vl answers: it knows plain shapes \
                 and short words only");
        }
        let (loading, downloading) = (bars.clone(), bars.clone());
        let mut options = MlxOptions {
            limits,
            load_progress: Arc::new(move |done, total| loading.bytes("loading", done, total)),
            download_progress: Arc::new(move |file: &str, done, total| {
                downloading.bytes(&format!("downloading {file}"), done, total);
            }),
            ..options
        };
        if let Some(monitor) = monitor {
            options.recorder = Arc::new(monitor.clone());
        }
        let model = abstractllm::load(&name, options)?;
        let caches = model.caches().clone();
        Ok(loaded(Arc::new(model), Some(caches)))
    }
}

impl Loaded {
    /// Writes what is kept for the next time.
    pub(crate) fn flush(&self) {
        if let Some(caches) = &self.caches {
            caches.flush();
        }
    }
}
