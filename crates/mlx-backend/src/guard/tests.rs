use llm_core::ErrorKind;
use vision_preproc::ImageProcessor;

use super::*;
use crate::{
    device::Backend,
    kv_cache::{KvQuantize, KvWindow},
};

const GIB: u64 = 1 << 30;

/// Qwen2.5-VL-3B in 4 bits, on a CPU.
fn setting() -> Setting {
    let tower = TowerFootprint {
        patch_values: 588,
        hidden: 1280,
        inner: 3420,
        heads: 16,
        head_dim: 80,
        merge: 2,
        features: 2048,
        window_patches: 64,
        frame: None,
        together: 0,
    };
    let decoder = DecoderFootprint {
        layers: 36,
        hidden: 2048,
        inner: 11_008,
        heads: 16,
        key_value_heads: 2,
        head_dim: 128,
        vocabulary: 151_936,
        windows: false,
    };
    Setting {
        footprint: Footprint { tower, decoder },
        backend: Backend::Cpu,
        on_host: true,
        value_bytes: 4,
        weight_bytes: 4 * GIB,
        fused_tower: false,
        fused_decoder: false,
        unpacks: false,
    }
}

fn reader() -> ImageReader {
    let processor = ImageProcessor::from_json(
        r#"{"image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 3136,
            "max_pixels": 12845056, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2}"#,
    );
    ImageReader::Patches(processor.unwrap())
}

fn guard(options: MemoryOptions) -> Guard {
    let (setting, kept, kv_cache) = (setting(), Kept::default(), KvCacheOptions::default());
    Guard { setting, options, kept, kv_cache, max_batch: 1 }
}

fn decide(policy: MemoryPolicy, limit: u64, sizes: &[Size], steps: usize) -> Result<Admitted> {
    let options = MemoryOptions { limit_bytes: Some(limit), policy };
    let guard = guard(options);
    let reader = reader();
    let shown: Vec<Shown> = sizes.iter().map(|&size| size.into()).collect();
    let asked = asked(&shown, &reader, steps).0;
    guard.decide(&asked, &view(limit))
}

/// The request, and what it needs.
fn asked<'a>(
    shown: &'a [Shown],
    reader: &'a ImageReader,
    steps: usize,
) -> (Asked<'a>, impl Fn(PixelBudget, usize) -> u64) {
    let asked = Asked {
        shown,
        reader: Some(reader),
        videos: None,
        budget: PixelBudget::default(),
        text_tokens: 100,
        new_tokens: 512,
        prefill_step_tokens: steps,
        adapted: false,
    };
    let guard = guard(MemoryOptions::default());
    let required =
        move |budget, steps| guard.estimate(&asked, &view(0), budget, steps).required().1;
    (asked, required)
}

fn view(limit: u64) -> View {
    let bounds = MemoryBounds {
        user: Some(limit),
        device: None,
        mlx: None,
        physical: 1 << 50,
        separate: false,
    };
    View { held: 4 * GIB + GIB / 4, bounds }
}

const PHOTO: Size = Size { width: 4032, height: 3024 };

#[test]
fn a_request_that_fits_is_left_as_it_is() {
    for policy in [MemoryPolicy::Fit, MemoryPolicy::FitImages, MemoryPolicy::Reject] {
        let admitted = decide(policy, 64 * GIB, &[PHOTO], 512).unwrap();
        assert_eq!(admitted.budget, PixelBudget::default());
        assert_eq!((admitted.prefill_step_tokens, admitted.notice), (512, None));
    }
}

#[test]
fn reject_names_what_is_required_available_and_largest() {
    let error = decide(MemoryPolicy::Reject, 6 * GIB, &[PHOTO], 512).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    let Error::OutOfMemory { required, available, bound, stage, largest, largest_bytes } = &error
    else {
        panic!("{error}")
    };
    assert_eq!(*required, asked(&[PHOTO.into()], &reader(), 512).1(PixelBudget::default(), 512));
    assert_eq!((*available, *bound), (6 * GIB, "the memory limit"));
    // More than the weights of this model.
    assert_eq!((*stage, *largest), (MemoryStage::Vision, "weights"));
    assert_eq!(*largest_bytes, 4 * GIB);
    let text = error.to_string();
    assert!(text.contains("6442450944 bytes") && text.contains(&required.to_string()), "{text}");
}

#[test]
fn fit_finds_the_largest_images_that_fit() {
    for limit in [6, 7, 8] {
        let limit = limit * GIB;
        let admitted = decide(MemoryPolicy::Fit, limit, &[PHOTO], 512).unwrap();
        let max_pixels = admitted.budget.max_pixels.unwrap();
        let reader = reader();
        let shown = [PHOTO.into()];
        let (_, required) = asked(&shown, &reader, 512);
        let at = |max_pixels| {
            let budget = PixelBudget { max_pixels: Some(max_pixels), min_pixels: None };
            required(budget, admitted.prefill_step_tokens)
        };
        // One more feature would not fit.
        assert!(at(max_pixels) <= limit && limit < at(max_pixels + 784), "{limit}: {max_pixels}");
        let wanted = required(PixelBudget::default(), 512);
        assert_eq!(
            admitted.notice,
            Some(Notice::SmallerImages {
                max_pixels,
                required_bytes: wanted,
                available_bytes: limit
            })
        );
    }
}

#[test]
fn steps_are_made_smaller_before_images() {
    let (shown, reader) = ([Size { width: 336, height: 336 }.into()], reader());
    let asked = Asked { text_tokens: 4000, ..asked(&shown, &reader, 2048).0 };
    let guard = |policy| guard(MemoryOptions { policy, ..MemoryOptions::default() });
    let at = |steps| {
        let estimate = guard(MemoryPolicy::Fit).estimate(&asked, &view(0), asked.budget, steps);
        estimate.required().1
    };
    let (more, less) = (at(2048), at(512));
    assert!(less < at(1024) && at(1024) < more, "{less} {more}");
    let fitted = guard(MemoryPolicy::Fit).decide(&asked, &view(less)).unwrap();
    assert_eq!((fitted.prefill_step_tokens, fitted.notice), (512, None));
    assert_eq!(fitted.budget, PixelBudget::default());
    // Smaller images are no help here: the text alone is too much at these steps.
    assert!(guard(MemoryPolicy::FitImages).decide(&asked, &view(less)).is_err());
}

#[test]
fn what_cannot_be_made_to_fit_is_an_error() {
    for policy in [MemoryPolicy::Fit, MemoryPolicy::FitImages] {
        // Less than the weights.
        assert!(decide(policy, 4 * GIB, &[PHOTO], 512).is_err());
        // No image to make smaller.
        assert!(decide(policy, 4 * GIB, &[], 512).is_err());
    }
}

#[test]
fn several_images_share_what_there_is() {
    let one = decide(MemoryPolicy::Fit, 7 * GIB, &[PHOTO], 512).unwrap();
    let four = decide(MemoryPolicy::Fit, 7 * GIB, &[PHOTO; 4], 512).unwrap();
    let (one, four) = (one.budget.max_pixels.unwrap(), four.budget.max_pixels.unwrap());
    assert!(four < one, "{four} {one}");
}

#[test]
fn scores_are_charged_as_they_are_held() {
    let scores = |fused_tower, on_host| {
        let setting = Setting { fused_tower, on_host, ..setting() };
        let images = vec![ImageWork {
            patches: 62_208,
            patch_frames: 1,
            tower_patches: 62_208,
            ..ImageWork::default()
        }];
        let work = Work { images, prefill_step_tokens: 512, ..Work::default() };
        let estimate = Estimate::new(&setting, &work, 0);
        let term = estimate.terms.iter().find(|term| term.name == "tower scores").unwrap();
        (term.bytes, term.host)
    };
    assert_eq!(scores(true, false), (0, false));
    // Two copies of at most 32 MiB, where all at once would be 247 GB; outside of MLX one.
    assert_eq!(scores(false, false), (2 * (32 << 20), false));
    assert_eq!(scores(false, true), (32 << 20, true));
    assert_eq!(footprint::whole_score_bytes(16, 62_208, 4), 247_669_456_896);
}

#[test]
fn keys_and_values_are_charged_by_the_step_of_their_buffers() {
    let key_values = |text_tokens| {
        let work = Work { text_tokens, prefill_step_tokens: 512, ..Work::default() };
        let estimate = Estimate::new(&setting(), &work, 0);
        estimate.terms.iter().find(|term| term.name == "keys and values").unwrap().bytes
    };
    let token = 36_864 * 2;
    assert_eq!([1, 256, 257].map(key_values), [256 * token, 256 * token, 512 * token]);
}

/// Packed ones take a part of what they would, and are exact up to some number of tokens; of a window no
/// more is held than it has, and a step of the prompt.
#[test]
fn keys_and_values_are_charged_as_they_are_kept() {
    let bytes = |kv_cache, text_tokens, new_tokens, stage| {
        let prefill_step_tokens = 256;
        let work =
            Work { text_tokens, new_tokens, prefill_step_tokens, kv_cache, ..Work::default() };
        let terms = Estimate::new(&setting(), &work, 0).terms;
        let of = |term: &&MemoryTerm| term.name == "keys and values" && term.stage == stage;
        terms.iter().find(of).unwrap().bytes
    };
    // Values of a token, of four bytes each; or of one, with a scale and a bias for each 64.
    let values = 18_432;
    let (exact, packed) = (values * 4, values + values / 64 * 8);
    let quantize = Some(KvQuantize { bits: 8, group_size: 64, start_tokens: 1024 });
    let how = KvCacheOptions { quantize, window: None };
    use MemoryStage::{Answer, Prompt};
    assert_eq!(bytes(how, 512, 256, Prompt), 512 * exact);
    assert_eq!(bytes(how, 512, 256, Answer), 768 * exact);
    // Packed while the answer is made.
    assert_eq!(bytes(how, 512, 1024, Answer), 1024 * exact + 1536 * packed);
    // Packed while the prompt is read.
    assert_eq!(bytes(how, 10_240, 256, Prompt), 1280 * exact + 10_240 * packed);
    assert_eq!(bytes(how, 10_240, 256, Answer), 10_496 * packed);
    let four = KvCacheOptions { quantize: quantize.map(|q| KvQuantize { bits: 4, ..q }), ..how };
    let packed = values / 2 + values / 64 * 8;
    assert_eq!(bytes(four, 10_240, 256, Answer), 10_496 * packed);
    let window = KvCacheOptions { quantize: None, window: Some(KvWindow::new(2048)) };
    assert_eq!(bytes(window, 512, 256, Answer), 768 * exact);
    assert_eq!(bytes(window, 10_240, 256, Prompt), (2048 + 256) * exact);
    assert_eq!(bytes(window, 10_240, 256, Answer), 2048 * exact);
}

/// What is promised is the sum over all requests, whatever they hold of it by now.
#[test]
fn promises_add_up_until_they_are_given_back() {
    static OWN: reservation::Ledger = reservation::Ledger::new();
    let now = || (OWN.promised().held, OWN.promised().missing);
    assert_eq!(now(), (0, 0));
    let one = OWN.promise(Promise { answer: 100, prompt: 7 });
    let two = OWN.promise(Promise { answer: 50, prompt: 5 });
    assert_eq!(now(), (0, 162));
    one.holds(30);
    assert_eq!(now(), (30, 132));
    one.prompt_was_read(40);
    assert_eq!(now(), (40, 115));
    // More than was promised is not less than nothing.
    two.holds(80);
    assert_eq!(now(), (120, 65));
    drop(one);
    assert_eq!(now(), (80, 5));
    assert_eq!(OWN.promised().requests, 1);
    drop(two);
    assert_eq!(OWN.promised(), Promised::default());
}

#[test]
fn a_request_is_promised_its_whole_answer() {
    let work = Work { text_tokens: 700, new_tokens: 300, ..Work::default() };
    let token = 36_864 * 2;
    let logits = 151_936 * 4 * 6;
    // A thousand tokens, and beside one that is half as long again.
    assert_eq!(setting().promise(&work, false).answer, 1024 * token + logits);
    assert_eq!(setting().promise(&work, true).answer, 1536 * token + logits);
    assert_eq!(setting().batch_bytes(16), 0);
    let unpacks = Setting { unpacks: true, ..setting() };
    assert_eq!(unpacks.batch_bytes(7), 0);
    assert_eq!(unpacks.batch_bytes(8), 2048 * 11_008 * 5 * 4 * 4);
}

/// Features that are also added in later layers are wider than what the decoder reads, and so are the
/// embeddings among which they stand.
#[test]
fn embeddings_are_as_wide_as_features() {
    let work = Work {
        images: vec![ImageWork {
            patches: 400,
            patch_frames: 1,
            tower_patches: 400,
            ..ImageWork::default()
        }],
        text_tokens: 28,
        prefill_step_tokens: 512,
        ..Work::default()
    };
    let embeddings = |setting: &Setting| {
        let terms = Estimate::new(setting, &work, 0).terms;
        terms.into_iter().find(|term| term.name == "embeddings").unwrap().bytes
    };
    let plain = setting();
    let mut stacked = plain;
    stacked.footprint.tower.features *= 4;
    assert_eq!(embeddings(&plain), 128 * 2048 * 4 * 2);
    assert_eq!(embeddings(&stacked), 4 * embeddings(&plain));
}
