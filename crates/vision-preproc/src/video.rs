//! Videos: which frames are looked at, and their patches. A patch spans two frames that follow each other.
//!
//! Source: transformers 5.23.0, `video_processing_qwen2_vl.py`; `qwen3.rs` has what Qwen3-VL does otherwise. It is torchvision that resizes and normalises there, so
//! that its rounding is the default, and not Pillow's.

mod file;
mod gif;
#[cfg(feature = "h264")]
mod h264;
mod mp4;
mod qwen3;
mod webp;

use serde_json::{Map, Value};

pub use self::file::{VideoFormat, VideoInfo, decode_video, probe_video};

use crate::keys::{self, number_in};
use crate::patchify::Frames;
use crate::pipeline::fresh;
use crate::{
    Error, Grid, ImageProcessor, Input, Limits, PassOrder, Patches, PixelBudget, Plan, Rescale,
    Size, Workspace,
};

/// Frames a second, where neither the caller nor the configuration says: that of qwen-vl-utils 0.0.14.
const FPS: f64 = 2.0;
/// Upstream's for videos, not those of images.
const MIN_PIXELS: u64 = 128 * 28 * 28;
const MAX_PIXELS: u64 = 768 * 28 * 28;

/// The preprocessing of videos by one model, parsed once from its configuration files.
#[derive(Clone, Debug)]
pub struct VideoProcessor {
    family: VideoFamily,
    image: ImageProcessor,
    sampling: Sampling,
}

/// Whose videos they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VideoFamily {
    /// Qwen2-VL and Qwen2.5-VL: bounds of pixels are those of each frame.
    Qwen2Vl,
    /// Qwen3-VL: configured bounds of pixels are those of all frames together, and prompts say the time of each patch.
    Qwen3Vl,
}

/// How many frames are looked at; `None` keeps what is configured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sampling {
    /// Frames a second, above 0; 2 if nothing is configured.
    pub fps: Option<f64>,
    /// The fewest frames, of a video that has them; 4 if nothing is configured.
    pub min_frames: Option<u64>,
    /// The most frames; 768 if nothing is configured.
    pub max_frames: Option<u64>,
}

/// The frames of a video that are looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampled {
    /// Which they are, rising from 0 on.
    pub indices: Vec<usize>,
    /// How many of them there are in a second.
    pub fps: f64,
    /// How many frames, looked at or not, there are in a second.
    pub source_fps: f64,
}

impl VideoProcessor {
    /// Reads the configuration files of a model. The first of these counts: `video_processor` in
    /// `processor_config.json`, `video_preprocessor_config.json`, `preprocessor_config.json`.
    ///
    /// # Errors
    /// [`Error::Config`] if the file that counts is no JSON object or holds an unusable value, or if there is none.
    pub fn from_configs(
        family: VideoFamily,
        video: Option<&str>,
        preprocessor: Option<&str>,
        processor: Option<&str>,
    ) -> Result<Self, Error> {
        let mut keys = keys_of(video, preprocessor, processor)?;
        keys.insert("image_processor_type".into(), "Qwen2VLImageProcessor".into());
        let (min_pixels, max_pixels) = match family {
            VideoFamily::Qwen2Vl => frame_bounds(&mut keys)?,
            VideoFamily::Qwen3Vl => qwen3::bounds(&mut keys)?,
        };
        let mut image = ImageProcessor::from_keys(&keys)?;
        // Here the least may be above the most, as upstream has it: the default of one beside the other.
        (image.min_pixels, image.max_pixels) = (min_pixels, max_pixels);
        image = image.with_pass_order(PassOrder::Torchvision).with_rescale(Rescale::Torchvision);
        let frames = |key: &str, default| {
            number_in(keys.get(key), key, default, 1..=u64::from(u32::MAX)).map(Some)
        };
        let fps = match keys.get("fps").filter(|fps| !fps.is_null()) {
            None => FPS,
            Some(value) => value.as_f64().unwrap_or(f64::NAN),
        };
        let sampling = Sampling {
            fps: Some(fps),
            min_frames: frames("min_frames", 4)?,
            max_frames: frames("max_frames", 768)?,
        };
        check_fps("fps", fps)?;
        Ok(Self { family, image, sampling })
    }

    /// Replaces the limits that source frames and those resized are held to.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { image: self.image.with_limits(limits), ..self }
    }

    /// Returns how many frames a patch spans; 2 for Qwen2-VL.
    pub fn frames_per_patch(&self) -> usize {
        self.image.layout.frames
    }

    /// Returns how many seconds there are from one patch to the next, in f32 as upstream, of a video that was sampled
    /// at `fps`.
    pub fn seconds_per_patch(&self, fps: f64) -> f32 {
        (self.frames_per_patch() as f64 / fps) as f32
    }

    /// Returns the seconds at which the patches of a video are, if prompts of the family say them.
    pub fn patch_times(&self, sampled: &Sampled) -> Option<Vec<f64>> {
        let times = || qwen3::patch_times(sampled, self.frames_per_patch());
        (self.family == VideoFamily::Qwen3Vl).then(times)
    }

    /// The fewest and the most pixels that a frame has after resizing, where both can be met; of [`VideoFamily::Qwen3Vl`]
    /// those that all frames have together, where nothing else is asked.
    pub fn pixel_bounds(&self, budget: &PixelBudget) -> (u64, u64) {
        self.image.pixel_bounds(budget)
    }

    /// Chooses from `total` frames, of which there are `fps` in a second, as `asked` and then the configuration say:
    /// so many in a second, within the bounds of their number, and, of Qwen2-VL, as many as fill their patches.
    ///
    /// Nothing is repeated, so that a video of less than `min_frames` is taken as it is, down to the last full patch.
    ///
    /// # Errors
    /// [`Error::Shape`] if there is no frame; [`Error::Config`] if `fps` or what is asked is no number above 0.
    pub fn sample(&self, total: usize, fps: f64, asked: &Sampling) -> Result<Sampled, Error> {
        let wanted = asked.fps.or(self.sampling.fps).unwrap_or(FPS);
        check_fps("fps", wanted)?;
        self.sample_at(total, fps, wanted, asked)
    }

    /// As [`sample`](Self::sample), of frames that were chosen before: all are taken, unless `asked` has a number of
    /// frames in a second, or there are more than its, or the configured, most.
    ///
    /// # Errors
    /// As for [`sample`](Self::sample).
    pub fn sample_chosen(
        &self,
        total: usize,
        fps: f64,
        asked: &Sampling,
    ) -> Result<Sampled, Error> {
        let most = asked.max_frames.or(self.sampling.max_frames).unwrap_or(u64::MAX);
        match asked.fps {
            Some(_) => self.sample(total, fps, asked),
            None if total > 0 && total as u64 <= most => {
                check_fps("frames a second of the video", fps)?;
                Ok(Sampled { indices: (0..total).collect(), fps, source_fps: fps })
            }
            None => self.sample_at(total, fps, fps, asked),
        }
    }

    fn sample_at(
        &self,
        total: usize,
        fps: f64,
        wanted: f64,
        asked: &Sampling,
    ) -> Result<Sampled, Error> {
        check_fps("frames a second of the video", fps)?;
        if total == 0 {
            let (expected, found) = ("a video of one frame and more".into(), "none".into());
            return Err(Error::Shape { expected, found });
        }
        let least = asked.min_frames.or(self.sampling.min_frames).unwrap_or(0);
        let most = asked.max_frames.or(self.sampling.max_frames).unwrap_or(u64::MAX);
        // In the order of upstream, whose fractions decide where the last patch begins.
        let wanted = total as f64 / fps * wanted;
        let indices = match self.family {
            VideoFamily::Qwen2Vl => self.whole_patches(total, wanted, least, most),
            VideoFamily::Qwen3Vl => qwen3::indices(total, wanted, least, most),
        };
        let source_fps = fps;
        let fps = indices.len() as f64 / total as f64 * source_fps;
        Ok(Sampled { indices, fps, source_fps })
    }

    /// Spreads so many frames as are wanted, within the bounds, and fill their patches.
    fn whole_patches(&self, total: usize, wanted: f64, least: u64, most: u64) -> Vec<usize> {
        let per_patch = self.frames_per_patch() as u64;
        let whole = |frames: u64| frames / per_patch * per_patch;
        let most = whole(most.min(total as u64));
        let count = wanted.max(least as f64).min(most as f64);
        // Of what fills no patch, as many as there are.
        let count = match whole(count.min(total as f64) as u64) {
            0 => per_patch.min(total as u64),
            count => count,
        };
        spread(total, count as usize)
    }

    /// Says what `frames` frames of `size` (upright) become, without their pixels; `resized` is of one frame.
    ///
    /// # Errors
    /// As for [`ImageProcessor::plan`], and [`Error::Shape`] if there is no frame.
    pub fn plan(&self, size: Size, frames: usize, budget: &PixelBudget) -> Result<Plan, Error> {
        plan(&self.image, self.frame_plan(size, frames, budget)?, frames)
    }

    /// Says what becomes of each frame.
    fn frame_plan(&self, size: Size, frames: usize, budget: &PixelBudget) -> Result<Plan, Error> {
        match self.family {
            VideoFamily::Qwen2Vl => self.image.plan(size, budget),
            VideoFamily::Qwen3Vl => {
                self.image.plan_resized(qwen3::resized(&self.image, size, frames, budget)?)
            }
        }
    }

    /// Begins the patches of `frames` frames of `size`.
    ///
    /// # Errors
    /// As for [`VideoProcessor::plan`].
    pub fn patches(
        &self,
        size: Size,
        frames: usize,
        budget: PixelBudget,
    ) -> Result<VideoPatches<'_>, Error> {
        let of_frame = self.frame_plan(size, frames, &budget)?;
        VideoPatches::new(&self.image, size, of_frame, frames)
    }
}

/// The patches of a video in the making, which takes one frame after the other and holds none.
#[derive(Debug)]
pub struct VideoPatches<'a> {
    processor: &'a ImageProcessor,
    size: Size,
    of_frame: Plan,
    grid: Grid,
    values: Vec<f32>,
    frames: usize,
    taken: usize,
}

impl<'a> VideoPatches<'a> {
    pub(crate) fn new(
        processor: &'a ImageProcessor,
        size: Size,
        of_frame: Plan,
        frames: usize,
    ) -> Result<Self, Error> {
        let plan = plan(processor, of_frame, frames)?;
        let values = fresh(plan.patches * processor.row_values());
        Ok(Self { processor, size, of_frame, grid: plan.grid, values, frames, taken: 0 })
    }

    /// Takes the next frame.
    ///
    /// # Errors
    /// [`Error::Shape`] if it has another size than was said, or there are enough; otherwise as for
    /// [`ImageProcessor::process_bytes`].
    pub fn push(&mut self, frame: Input<'_>, workspace: &mut Workspace) -> Result<(), Error> {
        let job = self.processor.job_by(frame, |_| Ok(self.of_frame))?;
        if job.size != self.size || self.taken == self.frames {
            return Err(Error::Shape {
                expected: format!("{} frames of {}", self.frames, self.size),
                found: format!("{} as frame {}", job.size, self.taken + 1),
            });
        }
        let per_patch = self.processor.layout.frames;
        let len = self.values.len() / self.grid.t;
        let (t, at) = (self.taken / per_patch, self.taken % per_patch);
        self.taken += 1;
        // The last one is repeated until its patch is full.
        let end = if self.taken == self.frames { per_patch } else { at + 1 };
        for at in at..end {
            let values = &mut self.values[t * len..][..len];
            self.processor.run(&job, Frames::One(at), workspace, values)?;
        }
        Ok(())
    }

    /// Returns the patches, once all frames were taken.
    ///
    /// # Errors
    /// [`Error::Shape`] if some were not.
    pub fn finish(self) -> Result<Patches, Error> {
        match self.taken == self.frames {
            true => Ok(Patches { values: self.values, grid: self.grid }),
            false => Err(Error::Shape {
                expected: format!("{} frames", self.frames),
                found: format!("{}", self.taken),
            }),
        }
    }
}

fn plan(processor: &ImageProcessor, one: Plan, frames: usize) -> Result<Plan, Error> {
    if frames == 0 {
        let (expected, found) = ("one frame and more".into(), "none".into());
        return Err(Error::Shape { expected, found });
    }
    let t = frames.div_ceil(processor.layout.frames);
    let times = |count: usize| {
        count.checked_mul(t).ok_or(Error::Limit {
            what: "number of patches",
            limit: usize::MAX as u64,
            found: u64::MAX,
        })
    };
    let (patches, tokens) = (times(one.patches)?, times(one.tokens)?);
    Ok(Plan { grid: Grid { t, ..one.grid }, patches, tokens, ..one })
}

/// `torch.arange(0, total, total / count).int()`, whose values are f32. Above some ten thousands of frames torch's last
/// bits depend on the width of the processor's registers; here they are as of the narrowest. Where the end of the range
/// is rounded so that torch gives a frame behind the last, it is left out.
fn spread(total: usize, count: usize) -> Vec<usize> {
    let step = total as f64 / count as f64;
    (0..count).map(|at| ((at as f64 * step) as f32 as usize).min(total - 1)).collect()
}

/// Takes the bounds of the pixels of a frame out of `keys`.
fn frame_bounds(keys: &mut Map<String, Value>) -> Result<(u64, u64), Error> {
    let size = keys.remove("size");
    let mut bound = |key: &str, in_size: &str, default| {
        let nested = size.as_ref().and_then(|size| size.get(in_size).or_else(|| size.get(key)));
        let value = keys.remove(key).filter(|value| !value.is_null());
        number_in(value.as_ref().or(nested), key, default, 1..=u64::from(u32::MAX))
    };
    let min_pixels = bound("min_pixels", "shortest_edge", MIN_PIXELS)?;
    Ok((min_pixels, bound("max_pixels", "longest_edge", MAX_PIXELS)?))
}

fn check_fps(what: &'static str, fps: f64) -> Result<(), Error> {
    // Above, a frame is shorter than any camera's, and times lose their meaning.
    match fps > 0.0 && fps <= 1e6 {
        true => Ok(()),
        false => Err(Error::config(
            what,
            format!("expected a number above 0 up to 1000000, found {fps}"),
        )),
    }
}

/// The keys that describe videos.
fn keys_of(
    video: Option<&str>,
    preprocessor: Option<&str>,
    processor: Option<&str>,
) -> Result<Map<String, Value>, Error> {
    let read = |file: &str, text: &str| {
        let read: Result<Map<String, Value>, _> = serde_json::from_str(text);
        read.map_err(|error| Error::config(file, error.to_string()))
    };
    if let Some(text) = processor {
        match read("processor_config.json", text)?.remove("video_processor") {
            Some(Value::Object(keys)) => return Ok(keys),
            Some(other) => {
                let reason = format!("expected an object, found {other}");
                return Err(Error::config("video_processor", reason));
            }
            None => {}
        }
    }
    match (video, preprocessor) {
        (Some(text), _) => read("video_preprocessor_config.json", text),
        // With `image_processor` inside where the file is of a newer form.
        (None, Some(_)) => keys::of_both_files(preprocessor, None),
        (None, None) => {
            Err(Error::config("video_processor", "expected a configuration, found none"))
        }
    }
}
