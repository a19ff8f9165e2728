//! The provider: a checkpoint on disk becomes something that can be asked.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    thread,
    time::Instant,
};

use async_trait::async_trait;
use futures_core::Stream;
use llm_core::{
    Capabilities, Capability, Event, EventStream, GenerateParams, ModelInfo, Progress, Provider,
    Request, Result as CoreResult, Stage, Tool, ToolChoice,
};
use perf_monitor::{GenerationTimer, NullRecorder, Phase, Recorder, Span};
use tokio::sync::{
    OwnedSemaphorePermit, Semaphore,
    mpsc::{self, UnboundedReceiver, UnboundedSender},
};
use vision_preproc::{Limits, VideoProcessor};

use crate::{
    Error, Result,
    adapter::AdapterFiles,
    caches::{
        Caches, Lease, ModelKey, SharedModel, adapted_identity, model_identity, processor_identity,
    },
    calls::CallReader,
    chat::ChatTemplate,
    checkpoint::Checkpoint,
    contained::Contained,
    engine::{self, LoadProgress, LoadSpec, LoadedAdapter},
    generate::Job,
    grammar::Grammars,
    guard::{Guard, MemoryOptions},
    image_reader::ImageReader,
    kv_cache::KvCacheOptions,
    locate::{DownloadProgress, locate},
    memory,
    models::{self, Architecture},
    prompt::{Frontend, Workspaces},
    quantize::Quantize,
};

/// The name of this provider, as in `create_llm("mlx", ...)`.
pub const PROVIDER: &str = "mlx";

/// The type that a model computes in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ComputeType {
    /// f32 on a CPU, which has no fast kernels for halves; the checkpoint's own type on a GPU.
    #[default]
    Auto,
    /// 32-bit floats.
    F32,
    /// 16-bit floats with 8 bits of exponent.
    Bf16,
    /// 16-bit floats with 5 bits of exponent.
    F16,
}

impl ComputeType {
    pub(crate) fn dtype(self) -> Option<mlx_rs::Dtype> {
        match self {
            Self::Auto => None,
            Self::F32 => Some(mlx_rs::Dtype::Float32),
            Self::Bf16 => Some(mlx_rs::Dtype::Bfloat16),
            Self::F16 => Some(mlx_rs::Dtype::Float16),
        }
    }
}

/// How a model is loaded and run.
#[derive(Clone)]
pub struct MlxOptions {
    /// Packs a full checkpoint while loading it; a checkpoint that is packed stays as it is.
    pub quantize: Option<Quantize>,
    /// The type to compute in.
    pub compute_type: ComputeType,
    /// Prompt tokens read at a time, at least 1: more is faster and takes more memory.
    pub prefill_step_tokens: usize,
    /// Most answers of a model that are made at a time, at least 1: their tokens are computed together,
    /// which takes hardly longer than those of one. Further requests wait in order.
    pub max_batch: usize,
    /// Most requests that wait beyond those; further ones are refused with [`Error::Busy`].
    pub max_queue: usize,
    /// How the keys and values of answers are kept.
    pub kv_cache: KvCacheOptions,
    /// Most tokens that are guessed to follow, from where the last ones stood before in prompt or answer,
    /// and read in one step; 0 guesses nothing. The answer is the same: quicker where it repeats what was
    /// said, and a little slower elsewhere. For greedy answers, while no other one is made.
    pub prompt_lookup_tokens: usize,
    /// Folders of low-rank adapters (`adapter_config.json` with `adapters.safetensors` or
    /// `adapter_model.safetensors`), by the names that requests give in [`GenerateParams::adapter`].
    pub adapters: BTreeMap<String, PathBuf>,
    /// Never goes to the network, even for a model that is not here.
    pub offline: bool,
    /// Bounds on images, checked before they are decoded.
    pub limits: Limits,
    /// How much memory may be used, and what is done about requests that need more.
    pub memory: MemoryOptions,
    /// What is kept between requests; by default what all providers of this process share.
    pub caches: Arc<Caches>,
    /// What is used of a request where it does not say.
    pub defaults: GenerateParams,
    /// Receives phases and counters. One that panics is told nothing more, and changes no answer.
    pub recorder: Arc<dyn Recorder>,
    /// Hears of bytes read and bytes in all while the checkpoint is loaded.
    pub load_progress: LoadProgress,
    /// Hears of file, bytes done and bytes in all while a model is downloaded.
    pub download_progress: DownloadProgress,
}

impl Default for MlxOptions {
    fn default() -> Self {
        Self {
            quantize: None,
            compute_type: ComputeType::Auto,
            prefill_step_tokens: 2048,
            max_batch: 16,
            max_queue: 256,
            kv_cache: KvCacheOptions::default(),
            prompt_lookup_tokens: 0,
            adapters: BTreeMap::new(),
            offline: false,
            limits: Limits::default(),
            memory: MemoryOptions::default(),
            caches: Caches::shared(),
            defaults: GenerateParams::default(),
            recorder: Arc::new(NullRecorder),
            load_progress: Arc::new(|_, _| {}),
            download_progress: Arc::new(|_, _, _| {}),
        }
    }
}

impl fmt::Debug for MlxOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MlxOptions")
            .field("quantize", &self.quantize)
            .field("compute_type", &self.compute_type)
            .field("prefill_step_tokens", &self.prefill_step_tokens)
            .field("max_batch", &self.max_batch)
            .field("max_queue", &self.max_queue)
            .field("kv_cache", &self.kv_cache)
            .field("prompt_lookup_tokens", &self.prompt_lookup_tokens)
            .field("adapters", &self.adapters)
            .field("offline", &self.offline)
            .field("memory", &self.memory)
            .finish_non_exhaustive()
    }
}

/// A vision-language model on MLX.
///
/// ```no_run
/// use llm_core::{Image, Provider, Request};
/// use mlx_backend::{MlxOptions, MlxProvider};
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let model = MlxProvider::load("mlx-community/Qwen2.5-VL-3B-Instruct-4bit", MlxOptions::default())?;
/// let answer = model.generate(Request::images([Image::Path("cat.jpg".into())], "What is it?")).await?;
/// println!("{}", answer.text);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct MlxProvider {
    info: ModelInfo,
    path: PathBuf,
    frontend: Arc<Frontend>,
    adapters: Arc<BTreeMap<String, Arc<LoadedAdapter>>>,
    options: MlxOptions,
    /// A place for each request that may be in flight.
    places: Arc<Semaphore>,
}

impl MlxProvider {
    /// Finds the model `name` (a folder, a GGUF file, or `organisation/model` in the local Hugging Face
    /// cache or on the hub) and loads it; blocks until it is read.
    ///
    /// # Errors
    /// If there is no such model, or its files are not those of a model that this crate runs.
    pub fn load(name: &str, mut options: MlxOptions) -> Result<Self> {
        options.recorder = Contained::wrap(options.recorder);
        if let Some(quantize) = options.quantize {
            quantize.validate().map_err(Error::Prompt)?;
        }
        let path = locate(name, options.offline, &*options.download_progress)?;
        if let Some(bytes) = options.memory.limit_bytes {
            memory::limit(bytes);
        }
        let model = lease(&path, &options)?;
        // Also of a model that was loaded for others.
        options.kv_cache.validate(&model.setting.footprint.decoder)?;
        let reads = Reads { images: model.reader.is_some(), videos: model.videos.is_some() };
        let mut can = capabilities(reads, &model.grammars, model.template.knows_tools());
        if !options.adapters.is_empty() {
            can.extend([Capability::Adapters]);
        }
        let info =
            ModelInfo::new(PROVIDER, name, can).with_context_tokens(model.loaded.context_tokens);
        let guard = Guard {
            setting: model.setting,
            options: options.memory,
            kept: options.caches.limits().into(),
            kv_cache: options.kv_cache,
            max_batch: options.max_batch,
        };
        let read = options.adapters.iter().map(|(name, folder)| {
            let files = AdapterFiles::open(folder)?;
            guard.admit_bytes("an adapter", files.bytes)?;
            Ok((name.clone(), Arc::new(engine::adapt(&model.loaded, files)?)))
        });
        let adapters = Arc::new(read.collect::<Result<BTreeMap<_, _>>>()?);
        let frontend = Arc::new(Frontend {
            limits: options.limits,
            guard,
            prefill_step_tokens: options.prefill_step_tokens,
            model,
            recorder: options.recorder.clone(),
            caches: options.caches.clone(),
            workspaces: Workspaces::default(),
        });
        let places = options.max_batch.max(1).saturating_add(options.max_queue);
        let places = Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS)));
        Ok(Self { info, path, frontend, adapters, options, places })
    }

    /// Returns the model as the adapter `name` of [`MlxOptions::adapters`] changes it, for requests that name
    /// none. Weights, caches and places for requests are shared.
    ///
    /// # Errors
    /// If there is no adapter of this name.
    pub fn adapted(&self, name: &str) -> Result<Self> {
        adapter_of(&self.adapters, name)?;
        let mut options = self.options.clone();
        options.defaults.adapter = Some(name.to_owned());
        let mut info = self.info.clone();
        name.clone_into(&mut info.model);
        Ok(Self {
            info,
            path: self.path.clone(),
            frontend: self.frontend.clone(),
            adapters: self.adapters.clone(),
            options,
            places: self.places.clone(),
        })
    }

    /// Returns the folder, or the GGUF file, that the model was loaded from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the model back at once rather than when [`CacheLimits::keep_alive`] is over; another
    /// provider of the same model, or an answer in the making, keeps it.
    ///
    /// [`CacheLimits::keep_alive`]: crate::CacheLimits::keep_alive
    pub fn unload(self) {
        let (caches, entry) = (self.options.caches.clone(), self.frontend.model.entry());
        drop(self);
        caches.models.unload(entry);
    }

    /// Returns the caches that this provider uses.
    #[must_use]
    pub fn caches(&self) -> &Arc<Caches> {
        &self.options.caches
    }
}

#[async_trait]
impl Provider for MlxProvider {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    async fn generate_stream(&self, mut request: Request) -> CoreResult<EventStream> {
        let (started, timer) = (Instant::now(), GenerationTimer::start(&self.options.recorder));
        request.params = request.params.or(&self.options.defaults);
        request.validate(&self.info)?;
        let adapter = request.params.adapter.as_deref();
        let adapter = adapter.map(|name| adapter_of(&self.adapters, name)).transpose()?;
        let place = self.places.clone().try_acquire_owned().map_err(|_| Error::Busy {
            max_batch: self.options.max_batch,
            max_queue: self.options.max_queue,
        })?;
        let (events, receiver) = mpsc::unbounded_channel();
        let max_batch = self.options.max_batch;
        let frontend = self.frontend.clone();
        let prompt_lookup_tokens = self.options.prompt_lookup_tokens;
        let work = Work {
            frontend,
            adapter,
            request,
            started,
            timer,
            max_batch,
            prompt_lookup_tokens,
            place,
        };
        // Decoding a photo takes a while; neither the caller's executor nor the MLX thread waits.
        thread::Builder::new()
            .name("mlx-prompt".to_owned())
            .spawn(move || work.run(&events))
            .map_err(|e| Error::Dead(format!("cannot start a thread: {e}")))?;
        Ok(EventStream::new(Events(receiver)))
    }
}

/// Returns the adapter that a request calls `name`.
fn adapter_of(
    adapters: &BTreeMap<String, Arc<LoadedAdapter>>,
    name: &str,
) -> Result<Arc<LoadedAdapter>> {
    adapters.get(name).cloned().ok_or_else(|| {
        let known: Vec<_> = adapters.keys().map(|name| format!("`{name}`")).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Error::Prompt(format!("there is no adapter `{name}`; there is {known}"))
    })
}

/// Returns the model at `path`, which is read only if nobody has done so before.
fn lease(path: &Path, options: &MlxOptions) -> Result<Lease> {
    let how = format!("{:?} {:?}", options.quantize, options.compute_type);
    let key = ModelKey::of(path, how.clone())?;
    let (bytes, before) = (key.weight_bytes(), key.clone());
    options.caches.models.get_or_load(key, || {
        let mut span = Span::shared(&options.recorder, Phase::Load);
        let checkpoint = Checkpoint::open(path)?;
        let architecture = models::architecture(checkpoint.model_type())?;
        // The small files first: their errors should not wait for gigabytes.
        let template = checkpoint.chat_template()?;
        let reader = image_reader(&checkpoint, architecture)?;
        let videos = video_processor(&checkpoint, architecture, &template)?;
        let guard = Guard::new(&checkpoint, architecture, options)?;
        guard.admit_weights()?;
        // Before the weights are read: files that change meanwhile are not what this names.
        let identity = model_identity(&checkpoint, &format!("{how} {:?}", guard.setting.backend))?;
        let spec = LoadSpec {
            quantize: options.quantize,
            dtype: options.compute_type.dtype(),
            progress: options.load_progress.clone(),
            ..LoadSpec::new(&checkpoint, architecture)
        };
        // A vocabulary of 150 000 tokens takes half a second, in which most of the weights are read.
        let (tokenizer, loaded) = thread::scope(|scope| {
            let tokenizer = scope.spawn(|| checkpoint.tokenizer());
            let loaded = engine::load(spec);
            (tokenizer.join(), loaded)
        });
        let panicked = |_| Error::Dead("reading the tokenizer ended early".to_owned());
        let tokenizer = Arc::new(tokenizer.map_err(panicked)??);
        let stop_tokens = Arc::new(checkpoint.stop_tokens(&tokenizer)?);
        let loaded = loaded?;
        // MLX reads tensors late: what was loaded may be of two checkpoints.
        if let Some(file) = before.changed_since()? {
            return Err(Error::Config {
                path: file,
                reason: "it was changed while the checkpoint was read; load it again".to_owned(),
            });
        }
        let model = SharedModel {
            identity,
            processor_identity: processor_identity(&checkpoint),
            setting: guard.setting,
            loaded,
            template,
            reader,
            videos,
            grammars: Grammars::new(tokenizer.clone(), stop_tokens.clone()),
            tokenizer,
            stop_tokens,
        };
        span.units(bytes);
        Ok(model)
    })
}

/// A request on its way to the engine.
struct Work {
    frontend: Arc<Frontend>,
    adapter: Option<Arc<LoadedAdapter>>,
    request: Request,
    started: Instant,
    timer: GenerationTimer,
    max_batch: usize,
    prompt_lookup_tokens: usize,
    place: OwnedSemaphorePermit,
}

impl Work {
    fn run(self, events: &UnboundedSender<CoreResult<Event>>) {
        if let Err(error) = self.submit(events) {
            let _ = events.send(Err(error.into()));
        }
    }

    fn submit(self, events: &UnboundedSender<CoreResult<Event>>) -> Result<()> {
        let Self { frontend, request, .. } = self;
        let messages = request.messages_with_system();
        let params = &request.params;
        // Before anything is computed: a form may not be possible.
        let grammar = frontend.model.grammars.of(&request)?;
        let tools: &[Tool] = match request.tool_choice {
            ToolChoice::None => &[],
            _ => request.tools.as_slice(),
        };
        let prepared = frontend.prepare(&messages, tools, params, &|| events.is_closed())?;
        if let Some(notice) = prepared.notice {
            let _ = events.send(Ok(Event::Notice(notice)));
        }
        let identity = frontend.model.identity;
        let adapted =
            self.adapter.as_ref().map(|adapter| adapted_identity(&identity, &adapter.identity));
        let sees = adapted.filter(|_| self.adapter.as_ref().is_some_and(|a| a.changes_tower));
        let (wanted, answer) = std::sync::mpsc::sync_channel(1);
        let job = Job {
            prompt: prepared.prompt,
            wanted,
            model: adapted.unwrap_or(identity),
            tower: sees.unwrap_or(identity),
            adapter: self.adapter,
            caches: frontend.caches.clone(),
            kv_cache: frontend.guard.kv_cache,
            prompt_lookup_tokens: self.prompt_lookup_tokens,
            params: params.clone(),
            grammar,
            calls: (!tools.is_empty()).then(CallReader::default),
            tokenizer: frontend.model.tokenizer.clone(),
            stop_tokens: frontend.model.stop_tokens.clone(),
            prefill_step_tokens: prepared.prefill_step_tokens,
            max_batch: self.max_batch,
            place: Some(self.place),
            reservation: prepared.reservation,
            events: events.clone(),
            recorder: frontend.recorder.clone(),
            timer: Some(self.timer),
            started: self.started,
        };
        let submitted = engine::generate(&frontend.model.loaded, job)?;
        // An answer that ended before it asked for anything wants nothing.
        let wanted = answer.recv().unwrap_or_default();
        let progress = |done: usize| {
            let progress = Progress::new(Stage::Preprocess, done as u64, wanted.len() as u64);
            let _ = events.send(Ok(Event::Progress(progress)));
        };
        for (done, &image) in wanted.iter().enumerate() {
            progress(done);
            let patches = match events.is_closed() {
                true => Err(Error::Cancelled),
                false => frontend.patches(&prepared.sources[image], &|| events.is_closed()),
            };
            let failed = patches.is_err();
            submitted.give(image, patches)?;
            if failed {
                break;
            }
            progress(done + 1);
        }
        submitted.complete();
        Ok(())
    }
}

/// The receiving end; dropping it closes the channel, which the engine takes as a cancellation.
struct Events(UnboundedReceiver<CoreResult<Event>>);

impl Stream for Events {
    type Item = CoreResult<Event>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}

/// What a model reads besides text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reads {
    pub(crate) images: bool,
    pub(crate) videos: bool,
}

/// Returns what a model can do, which `reads` so much, whose answers `grammars` are for, and whose
/// template knows tools or not.
pub(crate) fn capabilities(reads: Reads, grammars: &Grammars, knows_tools: bool) -> Capabilities {
    let always = [
        Capability::Streaming,
        Capability::Async,
        Capability::SystemPrompt,
        Capability::MultiTurn,
        Capability::MaxTokens,
        Capability::ParallelInference,
        Capability::Seed,
    ];
    let mut all = Capabilities::from_iter(always);
    if reads.images {
        all.extend([Capability::Vision, Capability::MultipleImages]);
    }
    if reads.videos {
        all.extend([Capability::Video]);
    }
    if grammars.can_hold() {
        all.extend([Capability::JsonMode, Capability::StructuredOutput]);
        if knows_tools && grammars.shows_calls() {
            all.extend([Capability::ToolUse]);
        }
    }
    all
}

/// Reads how images become the input of the tower, if there is one and the checkpoint says.
pub(crate) fn image_reader(
    checkpoint: &Checkpoint,
    architecture: &Architecture,
) -> Result<Option<ImageReader>> {
    let configs = (checkpoint.preprocessor_config(), checkpoint.processor_config());
    // Some text checkpoints carry the file of the family.
    if configs == (None, None) || !architecture.reads_images() {
        return Ok(None);
    }
    let sizes = (architecture.footprint)(checkpoint.config(), &checkpoint.config_path())?;
    let reader = ImageReader::from_configs(configs.0, configs.1, &sizes.tower);
    reader.map(Some).map_err(|e| Error::Config {
        path: checkpoint.config_path().with_file_name("preprocessor_config.json"),
        reason: e.to_string(),
    })
}

/// Reads how videos become the input of the tower, if the architecture and the chat template have such.
pub(crate) fn video_processor(
    checkpoint: &Checkpoint,
    architecture: &Architecture,
    template: &ChatTemplate,
) -> Result<Option<VideoProcessor>> {
    let configs = (checkpoint.preprocessor_config(), checkpoint.processor_config());
    let video = checkpoint.video_config();
    let none = configs == (None, None) && video.is_none();
    let Some(family) = architecture.reads_videos() else { return Ok(None) };
    if none || !template.shows_videos() {
        return Ok(None);
    }
    let processor = VideoProcessor::from_configs(family, video, configs.0, configs.1);
    processor.map(Some).map_err(|e| Error::Config {
        path: checkpoint.config_path().with_file_name("video_preprocessor_config.json"),
        reason: e.to_string(),
    })
}
