//! Videos through the provider, on tiny-vl and a tiny Qwen3-VL: answers of transformers, what caches make of them, and what is refused.

use std::path::Path;

use futures_executor::block_on;
use llm_core::{
    Capability, ErrorKind, GenerateParams, Image, Message, Part, Provider, Request, Response,
    Result, Video, VideoSampling,
};
use mlx_backend::{ComputeType, MemoryOptions, MemoryPolicy, MlxOptions, MlxProvider};

fn load(options: MlxOptions) -> MlxProvider {
    load_from("models/tiny-vl/full", options)
}

fn load_from(path: &str, options: MlxOptions) -> MlxProvider {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    let options = MlxOptions { compute_type: ComputeType::F32, ..options };
    MlxProvider::load(path.to_str().unwrap(), options).unwrap()
}

/// That of `tools/golden/video/preproc.py`.
fn frame(index: usize, width: u32, height: u32) -> Image {
    let pixel = |x: usize, y: usize, c: usize| {
        ((x * 5 + y * 3 + index * 17 + c * 41 + x * y * (c + 1) / 7) % 256) as u8
    };
    let pixels = (0..height as usize)
        .flat_map(|y| (0..width as usize).flat_map(move |x| (0..3).map(move |c| pixel(x, y, c))));
    Image::rgb(width, height, pixels.collect::<Vec<u8>>()).unwrap()
}

fn video(count: usize, width: u32, height: u32, fps: f64) -> Video {
    Video::frames((0..count).map(|index| frame(index, width, height)), fps).unwrap()
}

fn ask(provider: &MlxProvider, parts: Vec<Part>) -> Result<Response> {
    let params = GenerateParams { max_tokens: Some(8), ..Default::default() };
    let request = Request::new([Message::user(parts)]).with_params(params);
    block_on(provider.generate(request))
}

/// The error and all that led to it.
fn refused(provider: &MlxProvider, video: Video) -> (ErrorKind, String) {
    let error = ask(provider, vec![video.into(), "x".into()]).unwrap_err();
    let (kind, mut text) = (error.kind(), error.to_string());
    let mut next = std::error::Error::source(&error);
    while let Some(source) = next {
        text += &format!(": {source}");
        next = source.source();
    }
    (kind, text)
}

#[test]
fn answers_are_those_of_transformers() {
    let model = load(MlxOptions::default());
    assert!(model.info().capabilities.has(Capability::Video));
    let four = || Part::from(video(4, 112, 140, 2.0));
    let say = |parts: Vec<Part>| ask(&model, parts).unwrap();
    let first = say(vec![four(), "What color is the background?".into()]);
    assert_eq!(first.text, "The background is white white white white white");
    assert_eq!(
        (first.completion.usage.prompt_tokens, first.completion.usage.image_tokens),
        (92, 40)
    );
    let slow = say(vec![video(6, 112, 112, 0.5).into(), "Read the text.".into()]);
    assert_eq!(slow.text, "The text says \"7744");
    let (image, moving) = (frame(9, 140, 112), video(4, 112, 140, 4.0));
    let both = vec![image.into(), moving.into(), "Compare these images.".into()];
    assert_eq!(say(both).text, "Image 77777");

    // The same again is read from the cache; at another rate it is another video.
    let again = say(vec![four(), "What color is the background?".into()]);
    assert_eq!((again.text, again.completion.usage.cached_tokens), (first.text, 91));
    let faster = video(4, 112, 140, 0.25);
    let faster = say(vec![faster.into(), "What color is the background?".into()]);
    assert!(faster.completion.usage.cached_tokens < 40, "{:?}", faster.completion.usage);
}

/// Its prompts say the times of patches, so that they change with the rate.
#[test]
fn answers_of_qwen3_are_those_of_transformers() {
    let model = load_from("testdata/families/qwen3_vl", MlxOptions::default());
    assert!(model.info().capabilities.has(Capability::Video));
    let say = |fps: f64| {
        let video = Part::from(video(5, 96, 128, fps));
        ask(&model, vec![video, "what moves?".into()]).unwrap()
    };
    let first = say(2.0);
    let usage = first.completion.usage;
    assert_eq!((usage.prompt_tokens, usage.image_tokens, usage.cached_tokens), (165, 90, 0));
    assert_eq!(first.text, format!("Z{}", "\u{fffd}".repeat(7)));
    let again = say(2.0);
    assert_eq!((again.text, again.completion.usage.cached_tokens), (first.text, 164));
    let slower = say(0.01).completion.usage;
    assert_eq!(
        slower.prompt_tokens,
        165 + "<50.0 seconds><250.0 seconds><400.0 seconds>".len()
            - "<0.2 seconds><1.2 seconds><2.0 seconds>".len()
    );
    assert!(slower.cached_tokens < 40, "{slower:?}");

    let (image, moving) = (frame(9, 90, 64), video(4, 128, 96, 3.0));
    let both = ask(&model, vec![image.into(), moving.into(), "compare".into()]).unwrap();
    assert_eq!(both.completion.usage.prompt_tokens, 134);
    assert!(both.text.starts_with('\u{c}'), "{:?}", both.text);

    let sampling =
        VideoSampling { max_pixels: Some(3000), max_frames: Some(3), ..Default::default() };
    let small = video(8, 96, 128, 2.0).with_sampling(sampling);
    let small = ask(&model, vec![small.into(), "x".into()]).unwrap();
    assert_eq!(small.completion.usage.image_tokens, 2);
}

#[test]
fn fewer_frames_and_pixels_are_looked_at_where_that_is_asked() {
    let model = load(MlxOptions::default());
    let tokens = |sampling: VideoSampling| {
        let video = video(8, 112, 140, 4.0).with_sampling(sampling);
        let answer = ask(&model, vec![video.into(), "x".into()]).unwrap();
        answer.completion.usage.image_tokens
    };
    let all = VideoSampling::default();
    assert_eq!(tokens(all), 80);
    assert_eq!(tokens(VideoSampling { fps: Some(2.0), ..all }), 40);
    assert_eq!(tokens(VideoSampling { max_frames: Some(6), ..all }), 60);
    let small = VideoSampling { min_pixels: Some(3136), max_pixels: Some(7000), ..all };
    assert_eq!(tokens(small), 4 * 6);
}

#[test]
fn what_cannot_be_used_is_named() {
    let model = load(MlxOptions::default());
    let of = |frames: Vec<Image>| Video::frames(frames, 2.0).unwrap();
    let (kind, text) = refused(&model, of(vec![frame(0, 56, 56), frame(1, 56, 84)]));
    assert_eq!(kind, ErrorKind::Image);
    assert!(text.contains("video 1: frame 2 is 56x84, those before 56x56"), "{text}");
    let broken = Image::encoded(b"GIF89a".to_vec());
    let (kind, text) = refused(&model, of(vec![frame(0, 56, 56), broken]));
    assert_eq!(kind, ErrorKind::Image);
    assert!(text.contains("video 1: frame 2: "), "{text}");
    let (_, text) = refused(&model, of(vec![Image::Path("no/such.png".into())]));
    assert!(text.contains("video 1: frame 1: cannot read the file"), "{text}");
    let (_, text) = refused(&model, of(vec![frame(0, 2000, 2)]));
    assert!(text.contains("ratio of the longer to the shorter side"), "{text}");
}

/// A hundred thousand frames are refused before one of them is resized, or fewer are looked at.
#[test]
fn a_video_that_does_not_fit_is_refused_by_its_headers() {
    let memory = MemoryOptions { limit_bytes: Some(1 << 30), policy: MemoryPolicy::Reject };
    let model = load(MlxOptions { memory, ..MlxOptions::default() });
    let frames = vec![frame(0, 100, 100); 100_000];
    let most = VideoSampling { max_frames: Some(100_000), ..Default::default() };
    let huge = Video::frames(frames.clone(), 30.0).unwrap().with_sampling(most);
    let (kind, text) = refused(&model, huge);
    assert_eq!(kind, ErrorKind::OutOfMemory, "{text}");
    // Small enough for the memory, and too many for the context.
    let small = VideoSampling {
        max_frames: Some(3000),
        min_pixels: Some(3136),
        max_pixels: Some(3136),
        ..Default::default()
    };
    let (kind, text) = refused(&model, Video::frames(frames, 30.0).unwrap().with_sampling(small));
    assert_eq!(kind, ErrorKind::ContextOverflow, "{text}");
}
