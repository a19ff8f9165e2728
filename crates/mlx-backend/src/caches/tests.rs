//! Logits of generations that use every cache, against those of the same prompt read afresh.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    path::{Path, PathBuf},
    rc::Rc,
    sync::{Arc, mpsc},
    time::Instant,
};

use llm_core::GenerateParams;
use mlx_rs::Array;
use perf_monitor::NullRecorder;
use vision_preproc::{Input, Limits, Patches, PixelBudget, RgbImage, Workspace};

use super::{
    CacheLimits, CacheReport, Caches, DeviceCaches, Digest, DiskCache, image_key,
    processor_identity, rgb_content,
};
use crate::{
    batch::Batch,
    checkpoint::Checkpoint,
    device::Backend,
    engine::{LoadSpec, build},
    generate::{Generation, Job, Status},
    guard::{LEDGER, Promise},
    image_reader::ImageReader,
    kv_cache::KvCacheOptions,
    models::{self, VisionLanguageModel},
    prompt::{Prompt, PromptImage},
    provider::image_reader,
    tokenizer::Tokenizer,
};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/golden").join(name)
}

/// A part of a prompt.
#[derive(Clone)]
enum Segment {
    Text(Vec<u32>),
    Image(RgbImage),
}

fn text(ids: impl IntoIterator<Item = u32>) -> Segment {
    // Ids that are neither special nor placeholders in the checkpoint.
    Segment::Text(ids.into_iter().map(|id| id % 250).collect())
}

fn image(name: &str) -> Segment {
    let bytes = std::fs::read(golden(name)).unwrap();
    Segment::Image(vision_preproc::decode(&bytes, &Limits::default()).unwrap())
}

fn mirrored(segment: Segment) -> Segment {
    let Segment::Image(image) = segment else { panic!("only images can be mirrored") };
    let row_bytes = image.size().width as usize * 3;
    let rows = image.pixels().chunks(row_bytes);
    let pixels: Vec<u8> =
        rows.flat_map(|row| row.rchunks(3).flatten().copied().collect::<Vec<u8>>()).collect();
    Segment::Image(RgbImage::new(image.size().width, image.size().height, pixels).unwrap())
}

struct Bench {
    folder: PathBuf,
    model: Rc<dyn VisionLanguageModel>,
    reader: ImageReader,
    processor_identity: Digest,
    tokenizer: Arc<Tokenizer>,
    caches: Arc<Caches>,
    device: Rc<RefCell<DeviceCaches>>,
}

/// What a prompt gave: logits of the first and the fifth token, tokens reused, images encoded.
struct Outcome {
    logits: [Vec<f32>; 2],
    reused: usize,
    encoded: usize,
}

impl Bench {
    fn new(limits: CacheLimits) -> Self {
        Self::of(&golden("tiny_fp32"), limits)
    }

    fn of(folder: &Path, limits: CacheLimits) -> Self {
        // With the fast matrix product, as the engine has it.
        crate::ffi::load_library().unwrap();
        let checkpoint = Checkpoint::open(folder).unwrap();
        let architecture = models::architecture(checkpoint.model_type()).unwrap();
        let model = build(&LoadSpec {
            dtype: Some(mlx_rs::Dtype::Float32),
            ..LoadSpec::new(&checkpoint, architecture)
        });
        let caches = Caches::open(limits).unwrap();
        Self {
            model: Rc::from(model.unwrap()),
            reader: image_reader(&checkpoint, architecture).unwrap().unwrap(),
            processor_identity: processor_identity(&checkpoint),
            tokenizer: Arc::new(Tokenizer::load(folder).unwrap()),
            folder: folder.to_owned(),
            device: Rc::new(RefCell::new(caches.new_device_caches())),
            caches,
        }
    }

    fn report(&self) -> CacheReport {
        self.caches.report()
    }

    fn prompt(&self, segments: &[Segment]) -> (Prompt, Vec<Arc<Patches>>) {
        let (mut ids, mut images, mut all_patches) = (Vec::new(), Vec::new(), Vec::new());
        for segment in segments {
            match segment {
                Segment::Text(text) => ids.extend(text),
                Segment::Image(image) => {
                    let view = image.as_view();
                    let budget = PixelBudget::default();
                    let plan = self.reader.plan(image.size(), &budget).unwrap();
                    let workspace = &mut Workspace::new();
                    let patches =
                        self.reader.patches(Input::Rgb(view), &budget, workspace).unwrap();
                    let media = self.model.media().unwrap();
                    let start = ids.len();
                    ids.extend(vec![media.image_token; media.tokens(plan.grid)]);
                    let content = rgb_content(view);
                    images.push(PromptImage {
                        key: image_key(&content, &self.processor_identity, plan.resized),
                        seen: plan.grid.into(),
                        range: start..ids.len(),
                    });
                    all_patches.push(Arc::new(patches));
                }
            }
        }
        let image_tokens = images.iter().map(|image| image.range.len()).sum();
        (Prompt { ids, images, image_tokens, room_tokens: 1000 }, all_patches)
    }

    /// Runs the generation that a request with this prompt would be, for five tokens.
    fn run(&self, segments: &[Segment]) -> Outcome {
        let (prompt, patches) = self.prompt(segments);
        let (wanted, asked) = mpsc::sync_channel(1);
        let (events, _listener) = tokio::sync::mpsc::unbounded_channel();
        let job = Job {
            prompt,
            wanted,
            model: Digest::of("model", &[]),
            tower: Digest::of("model", &[]),
            adapter: None,
            kv_cache: KvCacheOptions::default(),
            prompt_lookup_tokens: 0,
            caches: self.caches.clone(),
            params: GenerateParams { max_tokens: Some(6), ..Default::default() },
            grammar: None,
            calls: None,
            tokenizer: self.tokenizer.clone(),
            stop_tokens: Arc::new(BTreeSet::new()),
            // Images and text are cut through.
            prefill_step_tokens: 23,
            max_batch: 1,
            place: None,
            reservation: LEDGER.promise(Promise::default()),
            events,
            recorder: Arc::new(NullRecorder),
            timer: None,
            started: Instant::now(),
        };
        let mut generation = Generation::new(job, self.model.clone(), None, self.device.clone());
        generation.step(true).unwrap();
        let asked = asked.recv().unwrap();
        for &index in &asked {
            generation.give(index, patches[index].clone());
        }
        let floats = |logits: &Array| logits.reshape(&[-1]).unwrap().to_vec_cast::<f32>().unwrap();
        while generation.step(true).unwrap() == Status::Running {}
        let read = generation.take_read().unwrap();
        let (first, reused) = (floats(&read.logits), generation.reused());
        let mut batch = Batch::new(self.model.clone(), None, Backend::Cpu);
        batch.join(generation, read);
        while !batch.is_empty() {
            batch.step().unwrap();
        }
        let last = floats(batch.logits.as_ref().unwrap());
        Outcome { logits: [first, last], reused, encoded: asked.len() }
    }

    /// Runs a prompt here and afresh, compares, and returns what was reused and encoded.
    fn check(&self, what: &str, segments: &[Segment]) -> (usize, usize) {
        let found = self.run(segments);
        let fresh = Self::of(&self.folder, CacheLimits::none()).run(segments);
        assert_eq!(fresh.reused, 0);
        for (found, fresh) in found.logits.iter().zip(&fresh.logits) {
            let pairs = found.iter().zip(fresh);
            let difference = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            // The prompt was cut elsewhere, so sums are in another order: a few units in the last
            // place of the largest logit. A wrong image makes a difference of whole units.
            let largest = fresh.iter().fold(0.0, |a: f32, b| a.max(b.abs()));
            assert!(difference < 1e-5 * largest, "{what}: {difference} of {largest}");
        }
        (found.reused, found.encoded)
    }
}

#[test]
fn every_change_of_a_conversation_gives_what_a_fresh_run_gives() {
    let bench = Bench::new(CacheLimits::default());
    let (a, b) = (image("a_220x150.png"), image("b_130x180.png"));
    let (system, question, answer, more) =
        (text(0..20), text(30..50), text(60..90), text(100..117));
    let first = [system.clone(), a.clone(), question.clone()];
    assert_eq!(bench.check("first turn", &first), (0, 1));
    assert_eq!(bench.check("the same again", &first), (79, 0));

    // 20 of text, 40 of the image, 20 of text, then what was generated may agree or not.
    let second = [&first[..], &[answer.clone(), more.clone()]].concat();
    let (reused, encoded) = bench.check("second turn", &second);
    assert!(reused >= 80 && encoded == 0, "{reused}");

    let swapped = [system.clone(), mirrored(a.clone()), question.clone()];
    assert_eq!(bench.check("another image of the same size", &swapped), (20, 1));
    assert_eq!(bench.check("back to the first image", &first), (79, 0));

    let new_image = [&second[..], &[b.clone(), text(120..130)]].concat();
    let (reused, encoded) = bench.check("new image in a later turn", &new_image);
    assert_eq!((reused, encoded), (127, 1));

    let edited = [text(0..19), text([7]), a.clone(), question.clone()];
    assert_eq!(bench.check("edited early turn", &edited), (19, 0));

    let cut = [system.clone(), a.clone(), text(30..41)];
    assert_eq!(bench.check("truncated conversation", &cut), (70, 0));
    let cut_in_image = [system.clone(), a.clone()];
    assert_eq!(bench.check("ends with an image", &cut_in_image), (59, 0));

    let two = [system.clone(), a.clone(), b.clone(), question.clone()];
    assert_eq!(bench.check("two images", &two), (60, 0));
    let turned = [system, b, a.clone(), question.clone()];
    assert_eq!(bench.check("two images swapped", &turned), (20, 0));
    let twice = [a.clone(), text([5]), mirrored(a.clone()), a, question];
    assert_eq!(bench.check("one image twice", &twice), (0, 0));

    let report = bench.report();
    assert_eq!((report.features.entries, report.features.misses), (3, 3));
    assert_eq!(report.prefixes.hits + report.prefixes.misses, 12);
    assert_eq!(report.prefixes.misses, 2);
}

#[test]
fn each_cache_alone_is_correct() {
    let (a, question) = (image("a_220x150.png"), text(30..50));
    let first = [text(0..20), a.clone(), question.clone()];
    let flipped = [text(0..20), mirrored(a), question];
    let features = CacheLimits { prefix_bytes: 0, ..CacheLimits::default() };
    let bench = Bench::new(features);
    assert_eq!(bench.check("features, first", &first), (0, 1));
    assert_eq!(bench.check("features, flipped", &flipped), (0, 1));
    assert_eq!(bench.check("features, again", &first), (0, 0));
    let prefixes = CacheLimits { feature_bytes: 0, ..CacheLimits::default() };
    let bench = Bench::new(prefixes);
    assert_eq!(bench.check("prefixes, first", &first), (0, 1));
    assert_eq!(bench.check("prefixes, flipped", &flipped), (20, 1));
    assert_eq!(bench.check("prefixes, again", &first), (79, 0));
}

/// Under a limit of a few blocks most of what is kept is evicted, at any place of a prompt.
#[test]
fn a_tight_limit_costs_time_and_no_correctness() {
    let bench = Bench::new(CacheLimits {
        prefix_bytes: 5 * 64 * 1024,
        feature_bytes: 12 * 1024,
        ..CacheLimits::default()
    });
    let images = [image("a_220x150.png"), image("b_130x180.png")];
    let images = [images[0].clone(), images[1].clone(), mirrored(images[0].clone())];
    for round in 0..12u32 {
        let mut prompt = vec![text(0..20)];
        for turn in 0..=round % 4 {
            prompt.push(images[((round + turn) % 3) as usize].clone());
            prompt.push(text(turn * 10..turn * 10 + 30));
        }
        bench.check(&format!("round {round}"), &prompt);
        let report = bench.report();
        for stats in [report.prefixes, report.features] {
            assert!(stats.bytes <= stats.limit_bytes, "{stats:?}");
        }
    }
    let report = bench.report();
    assert!(report.prefixes.evictions > 10, "{report:?}");
    assert!(report.features.evictions > 3, "{report:?}");
}

#[test]
fn another_process_takes_up_from_disk_what_this_one_read() {
    let dir = tempfile::tempdir().unwrap();
    let disk = |limit_bytes| CacheLimits {
        disk: Some(DiskCache { dir: dir.path().to_owned(), limit_bytes }),
        ..CacheLimits::default()
    };
    let (a, question) = (image("a_220x150.png"), text(0..90));
    let prompt = [text(0..20), a.clone(), question.clone()];
    let first = Bench::new(disk(1 << 30));
    assert_eq!(first.check("first", &prompt), (0, 1));
    first.caches.flush();
    // Two blocks of 64, and the image lies in the first.
    let second = Bench::new(disk(1 << 30));
    assert_eq!(second.check("from disk", &prompt), (128, 0));
    assert_eq!(second.check("from memory", &prompt), (149, 0));
    let other = [text(1..20), a, question.clone()];
    assert_eq!(second.check("features alone", &other), (0, 0));
    let flipped = [text(0..20), mirrored(image("a_220x150.png")), question];
    assert_eq!(second.check("another image", &flipped), (20, 1));
    let report = second.report();
    // Two blocks, the features, and a lookup in vain for each prompt that goes on.
    assert_eq!(report.disk.hits, 3);
    // A damaged folder costs a miss.
    for file in std::fs::read_dir(dir.path().join("v1")).unwrap() {
        std::fs::write(file.unwrap().path(), b"damaged").unwrap();
    }
    assert_eq!(Bench::new(disk(1 << 30)).check("damaged", &prompt), (0, 1));
}

/// The same on a checkpoint of true width, which `cargo xtask bench generate` can make:
/// `CHECKPOINT=FOLDER cargo test --release -p mlx-backend --lib true_width -- --ignored --nocapture`
#[test]
#[ignore = "needs a checkpoint of gigabytes"]
fn a_checkpoint_of_true_width_gives_the_same() {
    let folder = PathBuf::from(std::env::var_os("CHECKPOINT").expect("CHECKPOINT is a folder"));
    let bench = Bench::of(&folder, CacheLimits::default());
    let (a, question) = (image("a_220x150.png"), text(30..50));
    let first = [text(0..20), a.clone(), question.clone()];
    assert_eq!(bench.check("first turn", &first), (0, 1));
    let second = [&first[..], &[text(60..90)]].concat();
    let (reused, encoded) = bench.check("second turn", &second);
    assert!(reused >= 80 && encoded == 0, "{reused}");
    let swapped = [text(0..20), mirrored(a), question];
    assert_eq!(bench.check("another image of the same size", &swapped), (20, 1));
}
