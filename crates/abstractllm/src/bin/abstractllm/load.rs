//! Loads the model that the command line names.

use std::{collections::BTreeMap, sync::Arc};

use abstractllm::{
    Config, Error, ErrorKind, GenerateParams, Provider, Result, create_llm, embedded,
    mlx::{self, Caches, MlxOptions},
    mlx_options,
    perf::PerformanceMonitor,
    vision::Limits,
};

use crate::{adapters, failure::say, model_args::ModelArgs, progress::Bars};

/// What the command line, the environment and a file ask for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    provider: String,
    settings: Config,
    /// Names of the adapters that the command line gives.
    adapters: Vec<String>,
    /// Whether nobody named a model.
    is_default: bool,
}

/// A model that answers.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) provider: Arc<dyn Provider>,
    /// The name that it was asked for by.
    pub(crate) name: String,
    /// The adapter that changes it.
    pub(crate) adapter: Option<String>,
    /// The same model with each of its adapters, by their names.
    pub(crate) adapted: BTreeMap<String, Arc<dyn Provider>>,
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
        let adapters = adapters::add(&mut settings, &args.adapters)?;
        Ok(Self { provider, settings, adapters, is_default })
    }

    /// The adapter that the command line gives, if any, answers.
    ///
    /// # Errors
    /// If there are several.
    pub(crate) fn answered_by_adapter(mut self) -> Result<Self> {
        match self.adapters.as_slice() {
            [] => {}
            [name] => drop(self.settings.set("adapter", name)),
            [first, second, ..] => {
                let message = format!(
                    "--adapter: one of them answers, so give one; found `{first}` and `{second}`"
                );
                return Err(Error::new(ErrorKind::InvalidRequest, message));
            }
        }
        Ok(self)
    }

    /// Returns the names of all adapters.
    ///
    /// # Errors
    /// If what is set are no adapters.
    pub(crate) fn adapters(&self) -> Result<impl Iterator<Item = String>> {
        adapters::folders(&self.settings).map(BTreeMap::into_keys)
    }

    /// Returns the name of the model; empty if there is none, which the provider refuses.
    pub(crate) fn name(&self) -> &str {
        self.settings.get("model").unwrap_or_default()
    }

    /// Asks for another model of the same provider. Adapters stay with the one that they are for.
    pub(crate) fn name_another(&mut self, name: &str) {
        self.settings.set("model", name);
        self.settings.remove("adapter");
        self.settings.remove("adapters");
        self.adapters.clear();
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
        let loaded = |provider, adapted, caches| Loaded {
            provider,
            name: self.name().to_owned(),
            adapter: self.settings.get("adapter").map(str::to_owned),
            adapted,
            max_tokens: max_tokens.unwrap_or(GenerateParams::DEFAULT_MAX_TOKENS),
            caches,
        };
        if self.provider != mlx::PROVIDER {
            let provider = create_llm(&self.provider, self.settings.clone())?;
            return Ok(loaded(provider.into(), BTreeMap::new(), None));
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
        let names: Vec<String> = options.adapters.keys().cloned().collect();
        let model = abstractllm::load(&name, options)?;
        let caches = model.caches().clone();
        let mut adapted: BTreeMap<String, Arc<dyn Provider>> = BTreeMap::new();
        for name in names {
            let changed = model.adapted(&name)?;
            adapted.insert(name, Arc::new(changed));
        }
        Ok(loaded(Arc::new(model), adapted, Some(caches)))
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
