//! The one thread that owns MLX. Arrays and graphs belong to the thread that makes them, so models
//! are loaded, run and dropped here, and everyone else sends messages.
//!
//! Answers in the making take turns. One whose prompt is not read yet does a piece of work
//! ([`Generation::step`]), then all others make a token each ([`Batch::step`]): so a long prompt holds
//! up nobody for longer than a piece of it, and a long answer does not keep a short one waiting. Beyond
//! the most that may be made at a time, requests wait in the order in which they came.

#[cfg(test)]
mod tests;

use std::{
    any::Any,
    collections::{HashMap, VecDeque},
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    rc::Rc,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, Sender, TryRecvError},
    },
    thread,
    time::Duration,
};

use llm_core::Event;
use mlx_rs::{Dtype, Stream, with_stream};

use vision_preproc::Patches;

use crate::{
    Error, Result,
    adapter::{Adapter, AdapterFiles, Products},
    batch::Batch,
    caches::{DeviceCaches, Digest},
    checkpoint::{Checkpoint, QuantizationConfig},
    device::Backend,
    ffi::{before_exit, load_library},
    generate::{Generation, Job, Status},
    memory,
    models::{Architecture, Media, Rename, VisionLanguageModel},
    quantize::Quantize,
    weights::Weights,
};

/// Hears of bytes done and bytes in all.
pub type LoadProgress = Arc<dyn Fn(u64, u64) + Send + Sync>;

/// What to load.
pub(crate) struct LoadSpec {
    pub(crate) architecture: &'static Architecture,
    pub(crate) config: serde_json::Value,
    pub(crate) config_path: PathBuf,
    pub(crate) weight_files: Vec<PathBuf>,
    pub(crate) packed: QuantizationConfig,
    pub(crate) quantize: Option<Quantize>,
    /// `None`: f32 on the CPU, the type of the checkpoint on a GPU.
    pub(crate) dtype: Option<Dtype>,
    pub(crate) progress: LoadProgress,
}

impl LoadSpec {
    /// Returns how `checkpoint` is loaded as it is, with nobody told how far that is.
    pub(crate) fn new(checkpoint: &Checkpoint, architecture: &'static Architecture) -> Self {
        Self {
            architecture,
            config: checkpoint.config().clone(),
            config_path: checkpoint.config_path(),
            weight_files: checkpoint.weight_files().to_vec(),
            packed: checkpoint.quantization().clone(),
            quantize: None,
            dtype: None,
            progress: Arc::new(|_, _| {}),
        }
    }
}

/// A model that the engine holds; dropping this drops the model.
#[derive(Debug)]
pub(crate) struct LoadedModel {
    id: u64,
    /// `None` if it reads text only.
    pub(crate) media: Option<Media>,
    pub(crate) context_tokens: usize,
}

impl Drop for LoadedModel {
    fn drop(&mut self) {
        // If the thread is gone, so is the model.
        let _ = sender().send(Command::Unload(self.id));
    }
}

/// An adapter that the engine holds for a model; dropping this drops it.
#[derive(Debug)]
pub(crate) struct LoadedAdapter {
    id: u64,
    pub(crate) identity: Digest,
    /// Whether features of images are other ones with it.
    pub(crate) changes_tower: bool,
}

impl Drop for LoadedAdapter {
    fn drop(&mut self) {
        // If the thread is gone, so is the adapter.
        let _ = sender().send(Command::DropAdapter(self.id));
    }
}

enum Command {
    Load(Box<LoadSpec>, mpsc::SyncSender<Result<LoadedModel>>),
    Generate {
        model: u64,
        generation: u64,
        job: Box<Job>,
    },
    /// The patches of an image that a generation waits for, or why there are none.
    Patches {
        generation: u64,
        image: usize,
        patches: Result<Arc<Patches>>,
    },
    Unload(u64),
    /// Reads an adapter for a model.
    Adapt(u64, Box<AdapterFiles>, mpsc::SyncSender<Result<LoadedAdapter>>),
    DropAdapter(u64),
    Call(Box<dyn FnOnce() + Send>),
    /// The process exits: do nothing from now on.
    Stop(mpsc::SyncSender<()>),
}

/// Loads a model; blocks until it is read.
///
/// # Errors
/// What was wrong with the checkpoint, or [`Error::Dead`].
pub(crate) fn load(spec: LoadSpec) -> Result<LoadedModel> {
    let (reply, answer) = mpsc::sync_channel(1);
    send(Command::Load(Box::new(spec), reply))?;
    answer.recv().map_err(|_| gone())?
}

/// Reads an adapter for `model`; blocks until it is read.
///
/// # Errors
/// What of it does not fit the model, or [`Error::Dead`].
pub(crate) fn adapt(model: &LoadedModel, files: AdapterFiles) -> Result<LoadedAdapter> {
    let (reply, answer) = mpsc::sync_channel(1);
    send(Command::Adapt(model.id, Box::new(files), reply))?;
    answer.recv().map_err(|_| gone())?
}

/// An answer that the engine makes; dropping this before all images were given ends it with an error.
#[derive(Debug)]
pub(crate) struct Submitted {
    generation: u64,
    complete: bool,
}

/// Starts an answer, whose events go where `job` says.
///
/// # Errors
/// [`Error::Dead`].
pub(crate) fn generate(model: &LoadedModel, job: Job) -> Result<Submitted> {
    static NEXT_ID: AtomicU64 = AtomicU64::new(0);
    let generation = NEXT_ID.fetch_add(1, Ordering::Relaxed);
    send(Command::Generate { model: model.id, generation, job: Box::new(job) })?;
    Ok(Submitted { generation, complete: false })
}

impl Submitted {
    /// Hands over the patches of an image that the engine asked for, or why there are none.
    ///
    /// # Errors
    /// [`Error::Dead`].
    pub(crate) fn give(&self, image: usize, patches: Result<Arc<Patches>>) -> Result<()> {
        send(Command::Patches { generation: self.generation, image, patches })
    }

    /// Says that the engine has all that it asked for.
    pub(crate) fn complete(mut self) {
        self.complete = true;
    }
}

impl Drop for Submitted {
    fn drop(&mut self) {
        if !self.complete {
            // Only a panic leads here; without this the caller would wait for ever.
            let dead = Error::Dead("the preprocessing of an image ended early".to_owned());
            let _ = self.give(0, Err(dead));
        }
    }
}

/// Runs `work` on the MLX thread and waits for what it returns.
///
/// # Errors
/// [`Error::Dead`], also if `work` panics.
pub(crate) fn call<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let (reply, answer) = mpsc::sync_channel(1);
    send(Command::Call(Box::new(move || {
        let _ = reply.send(work());
    })))?;
    answer.recv().map_err(|_| gone())
}

/// Runs `work` on the MLX thread some time later; not at all if that never started.
pub(crate) fn later(work: impl FnOnce() + Send + 'static) {
    if let Some(sender) = SENDER.get() {
        // If the thread is gone, so is what it held.
        let _ = sender.send(Command::Call(Box::new(work)));
    }
}

fn send(command: Command) -> Result<()> {
    load_library()?;
    sender().send(command).map_err(|_| gone())
}

fn gone() -> Error {
    Error::Dead("it does not answer".to_owned())
}

static SENDER: OnceLock<Sender<Command>> = OnceLock::new();

/// Returns the channel to the thread, which is started by the first call and runs as long as the
/// process.
fn sender() -> &'static Sender<Command> {
    SENDER.get_or_init(|| {
        let (sender, receiver) = mpsc::channel();
        let started = thread::Builder::new().name("mlx".to_owned()).spawn(move || run(&receiver));
        if let Err(error) = started {
            // The receiver is dropped with the closure: every caller is told that it is gone.
            tracing::error!(%error, "cannot start the MLX thread");
        }
        sender
    })
}

/// Longest time that the end of the process waits for a step to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// Ends the work of the thread, before MLX takes its allocator away.
extern "C" fn stop_at_exit() {
    let (reply, answer) = mpsc::sync_channel(1);
    if sender().send(Command::Stop(reply)).is_ok() {
        let _ = answer.recv_timeout(STOP_TIMEOUT);
    }
}

#[derive(Default)]
struct Engine {
    models: HashMap<u64, Model>,
    adapters: HashMap<u64, Rc<Adapter>>,
    /// Requests that are not begun.
    waiting: VecDeque<Running>,
    /// Answers whose prompts are being read.
    reading: VecDeque<Running>,
    /// Answers whose tokens are being made, by model.
    batches: Vec<(u64, Batch)>,
}

/// A model, and what an adapter has to know of it.
struct Model {
    model: Rc<dyn VisionLanguageModel>,
    products: Products,
    rename: Rename,
}

/// An answer in the making, before its tokens are.
struct Running {
    model: u64,
    id: u64,
    generation: Generation,
}

fn run(commands: &Receiver<Command>) {
    let mut engine = Engine::default();
    // MLX must have started before the end of this thread is registered, see `before_exit`.
    let started = mlx_rs::ops::ones::<f32>(&[1]).and_then(|one| one.add(&one)?.eval());
    if let Err(error) = started {
        tracing::error!(error = error.what(), "MLX does not start");
    }
    memory::started();
    before_exit(stop_at_exit);
    // Without a stream of its own, every operation would make one.
    with_stream(&Stream::new(), || {
        loop {
            let command = match engine.has_work() {
                false => commands.recv().map_err(|_| TryRecvError::Disconnected),
                true => commands.try_recv(),
            };
            match command {
                Ok(Command::Stop(reply)) => {
                    engine.waiting.clear();
                    engine.reading.clear();
                    engine.batches.clear();
                    let _ = reply.send(());
                    // Ending the thread would run destructors of MLX beside those of the process.
                    loop {
                        thread::park();
                    }
                }
                Ok(command) => engine.survive(|engine| engine.handle(command)),
                Err(TryRecvError::Empty) => engine.survive(Engine::turn),
                Err(TryRecvError::Disconnected) => return,
            }
        }
    });
}

impl Engine {
    /// Does `work`. A panic that nobody has caught before ends every answer in the making with an error, since it is
    /// not known whose fault it was, and not the thread.
    fn survive(&mut self, work: impl FnOnce(&mut Self)) {
        let done = guarded(|| {
            work(self);
            Ok(())
        });
        let Err(error) = done else { return };
        tracing::error!(%error, "all answers in the making are ended");
        let prompts = self.waiting.drain(..).chain(self.reading.drain(..));
        for mut running in prompts.collect::<Vec<_>>() {
            let message = error.to_string();
            // What is dropped may panic as well.
            let _ = guarded(move || {
                running.generation.report(Error::Mlx { op: "a batch", message });
                Ok(())
            });
        }
        for (_, mut batch) in std::mem::take(&mut self.batches) {
            let _ = guarded(|| {
                batch.fail(&error);
                drop(batch);
                Ok(())
            });
        }
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Load(spec, reply) => {
                let loaded = guarded(|| self.load(&spec));
                // Nobody waits: the model is dropped again by its handle.
                let _ = reply.send(loaded);
            }
            Command::Generate { model, generation: id, job } => match self.models.get(&model) {
                Some(found) => {
                    let caches = DeviceCaches::of(&job.caches);
                    // The job holds on to it, so it is there.
                    let adapter =
                        job.adapter.as_ref().map(|loaded| self.adapters[&loaded.id].clone());
                    let generation = Generation::new(*job, found.model.clone(), adapter, caches);
                    self.waiting.push_back(Running { model, id, generation });
                    self.admit();
                }
                None => {
                    let error = Error::Dead("the model was unloaded".to_owned());
                    let _ = job.events.send(Err::<Event, _>(error.into()));
                }
            },
            Command::Patches { generation, image, patches } => {
                let found = self.reading.iter().position(|running| running.id == generation);
                // It may have ended, with an error or because nobody listens any more.
                let Some(at) = found else { return };
                match patches {
                    Ok(patches) => self.reading[at].generation.give(image, patches),
                    Err(error) => {
                        if let Some(mut failed) = self.reading.remove(at) {
                            failed.generation.report(error);
                            self.admit();
                        }
                    }
                }
            }
            Command::Adapt(model, files, reply) => {
                let _ = reply.send(guarded(|| self.adapt(model, &files)));
            }
            Command::DropAdapter(adapter) => {
                let _ = guarded(|| {
                    drop(self.adapters.remove(&adapter));
                    Ok(())
                });
            }
            Command::Unload(model) => {
                let _ = guarded(|| {
                    drop(self.models.remove(&model));
                    Ok(())
                });
                let _ = mlx_rs::memory::clear_cache();
            }
            Command::Call(work) => {
                let _ = guarded(|| {
                    work();
                    Ok(())
                });
            }
            // Ends the loop, so it is handled there.
            Command::Stop(_) => {}
        }
    }

    fn load(&mut self, spec: &LoadSpec) -> Result<LoadedModel> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let (model, products) = build_with_products(spec)?;
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let loaded = LoadedModel {
            id,
            media: model.media().copied(),
            context_tokens: model.context_tokens(),
        };
        let (model, rename) = (Rc::from(model), spec.architecture.rename);
        self.models.insert(id, Model { model, products, rename });
        Ok(loaded)
    }

    fn adapt(&mut self, model: u64, files: &AdapterFiles) -> Result<LoadedAdapter> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let unloaded = || Error::Dead("the model was unloaded".to_owned());
        let model = self.models.get(&model).ok_or_else(unloaded)?;
        let adapter = files.read(&model.products, model.rename)?;
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let changes_tower = adapter.changes_tower();
        self.adapters.insert(id, adapter);
        Ok(LoadedAdapter { id, identity: files.identity, changes_tower })
    }

    /// Whether there is something to compute.
    fn has_work(&self) -> bool {
        !self.batches.is_empty() || self.reading.iter().any(|running| running.generation.is_ready())
    }

    /// A piece of a prompt, then a token of each answer.
    fn turn(&mut self) {
        memory::relieve();
        self.read();
        for (_, batch) in &mut self.batches {
            if let Err(error) = guarded(|| batch.step()) {
                batch.fail(&error);
            }
        }
        self.batches.retain(|(_, batch)| !batch.is_empty());
        self.admit();
    }

    /// Gives the next answer whose prompt is not read its turn.
    fn read(&mut self) {
        let ready = self.reading.iter().position(|running| running.generation.is_ready());
        let Some(mut running) = ready.and_then(|at| self.reading.remove(at)) else { return };
        let alone = self.batches.is_empty();
        match guarded(|| running.generation.step(alone)) {
            Ok(Status::Running) => self.reading.push_back(running),
            Ok(Status::Read) => self.join(running),
            Ok(Status::Done) => {}
            Err(error) => running.generation.report(error),
        }
    }

    /// Has the tokens of an answer made from now on.
    fn join(&mut self, running: Running) {
        let Running { model, mut generation, .. } = running;
        let Some(read) = generation.take_read() else { return };
        let (how, adapter) = (*generation.kv_cache(), generation.adapter().cloned());
        let fits = |(of, batch): &(u64, Batch)| *of == model && batch.takes(adapter.as_ref(), &how);
        let batch = match self.batches.iter().position(fits) {
            Some(at) => &mut self.batches[at].1,
            None => {
                let batch = Batch::new(generation.model(), adapter, Backend::current());
                self.batches.push((model, batch));
                let last = self.batches.len() - 1;
                &mut self.batches[last].1
            }
        };
        batch.join(generation, read);
    }

    /// Begins requests that wait, in order, as far as their models have room.
    fn admit(&mut self) {
        self.waiting.retain(|waiting| !waiting.generation.is_cancelled());
        let mut at = 0;
        while let Some(waiting) = self.waiting.get(at) {
            let reading = self.reading.iter().filter(|running| running.model == waiting.model);
            let batches = self.batches.iter().filter(|(model, _)| *model == waiting.model);
            let made: usize = batches.map(|(_, batch)| batch.len()).sum();
            let running = reading.count() + made;
            match running < waiting.generation.max_batch() {
                true => self.reading.extend(self.waiting.remove(at)),
                false => at += 1,
            }
        }
    }
}

/// Builds a model on this thread, which from then on is the only one that can run it.
#[cfg(test)]
pub(crate) fn build(spec: &LoadSpec) -> Result<Box<dyn VisionLanguageModel>> {
    build_with_products(spec).map(|(model, _)| model)
}

/// As [`build`], with the linear layers that adapters can change.
pub(crate) fn build_with_products(
    spec: &LoadSpec,
) -> Result<(Box<dyn VisionLanguageModel>, Products)> {
    let backend = Backend::current();
    let dtype = compute_dtype(spec.dtype, backend, &spec.config);
    let weights = Weights::open(
        &spec.weight_files,
        spec.architecture.rename,
        dtype,
        spec.packed.clone(),
        spec.quantize,
        backend,
    )?;
    let model = (spec.architecture.load)(&spec.config, &spec.config_path, &weights, backend)?;
    let products = weights.finish(&*spec.progress)?;
    Ok((model, products))
}

/// Runs `work`; a panic becomes an error, so that one bad request does not end the thread.
fn guarded<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    caught(work).unwrap_or_else(|message| Err(Error::Mlx { op: "the MLX thread", message }))
}

/// Runs `work`; a panic becomes what it said.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| panic_message(&*panic))
}

/// Returns what a panic said.
fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("panic: {}", text.unwrap_or_else(|| "no message".to_owned()))
}

/// Returns the type that a model computes in: the one that is wanted, or what suits `backend`.
pub(crate) fn compute_dtype(
    wanted: Option<Dtype>,
    backend: Backend,
    config: &serde_json::Value,
) -> Dtype {
    wanted.unwrap_or(match backend {
        // Half types have no fast kernels on a CPU.
        Backend::Cpu => Dtype::Float32,
        Backend::Metal | Backend::Cuda => checkpoint_dtype(config),
    })
}

/// Returns the float type that `config.json` names, bf16 if it names none.
fn checkpoint_dtype(config: &serde_json::Value) -> Dtype {
    let name = ["dtype", "torch_dtype"].iter().find_map(|key| {
        let nested = config.get("text_config").and_then(|text| text.get(key));
        config.get(key).or(nested)?.as_str()
    });
    match name {
        Some("float32") => Dtype::Float32,
        Some("float16") => Dtype::Float16,
        _ => Dtype::Bfloat16,
    }
}

impl fmt::Debug for LoadSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadSpec").field("config_path", &self.config_path).finish_non_exhaustive()
    }
}
