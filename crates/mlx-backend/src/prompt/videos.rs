//! Videos of a request: first what their headers say, which decides which frames are looked at, and later the pixels
//! of these, one frame after the other.

use std::borrow::Cow;

use llm_core::{Image, Video, VideoSampling, VideoSource};
use perf_monitor::{Phase, Span};
use vision_preproc::{
    Grid, Input, Patches, PixelBudget, Sampled, Sampling, Size, VideoInfo, VideoProcessor,
    decode_video, probe_video,
};

use super::{Frontend, images::Look};
use crate::{
    Error, ImageError, Result,
    caches::{Digest, encoded_content, video_content, video_key},
    guard::Shown,
};

/// A video of which it is known which frames are looked at, and none is decoded.
#[derive(Debug)]
pub(super) struct OpenVideo<'a> {
    index: usize,
    video: &'a Video,
    frames: Frames<'a>,
    content: Digest,
    pub(super) size: Size,
    sampled: Sampled,
    /// The seconds at which its patches are, where the prompt says them.
    pub(super) times: Option<Vec<f64>>,
    /// What a decoder holds besides a frame.
    decoder_bytes: u64,
    patch_frames: usize,
}

/// Where frames come from.
#[derive(Debug)]
enum Frames<'a> {
    /// Those that are looked at.
    List(Vec<Look<'a>>),
    /// All of them, as a file.
    File(Cow<'a, [u8]>),
}

/// A video of which it is known what it will become.
#[derive(Debug)]
pub(crate) struct VideoPlan<'a> {
    open: OpenVideo<'a>,
    budget: PixelBudget,
    pub(super) key: Digest,
    pub(super) grid: Grid,
    /// From one patch to the next.
    pub(super) seconds: f32,
}

impl VideoPlan<'_> {
    /// Returns how many places it has in the prompt: one, or one for each patch where the prompt says their times.
    pub(super) fn places(&self) -> usize {
        self.open.times.as_ref().map_or(1, |_| self.grid.t)
    }
}

impl OpenVideo<'_> {
    /// Returns it as the guard sees it.
    pub(super) fn shown(&self) -> Shown {
        let VideoSampling { min_pixels, max_pixels, .. } = self.video.sampling;
        let budget = PixelBudget { min_pixels, max_pixels };
        let frames = (self.sampled.indices.len(), self.patch_frames);
        Shown::video(self.size, frames, budget, self.decoder_bytes)
    }

    fn error(&self, source: ImageError) -> Error {
        video_error(self.index, self.video, source)
    }
}

impl Frontend {
    /// Chooses the frames of a video, and reads their headers.
    ///
    /// # Errors
    /// [`Error::Video`] if it has no frames, or they are of several sizes, or cannot be read.
    pub(super) fn open_video<'a>(&self, index: usize, video: &'a Video) -> Result<OpenVideo<'a>> {
        let open = || -> Result<OpenVideo<'a>, ImageError> {
            let processor = self.videos()?;
            let VideoSampling { fps, min_frames, max_frames, .. } = video.sampling;
            let (min_frames, max_frames) = (min_frames.map(u64::from), max_frames.map(u64::from));
            let asked = Sampling { fps, min_frames, max_frames };
            let patch_frames = processor.frames_per_patch();
            let of_file = |bytes: Cow<'a, [u8]>| -> Result<_, ImageError> {
                self.limits.check_encoded(bytes.len())?;
                let VideoInfo { size, frames, fps, decoder_bytes, .. } = probe_video(&bytes)?;
                self.limits.check_size(size)?;
                let sampled = processor.sample(frames, fps, &asked)?;
                let content = encoded_content(&bytes);
                Ok((Frames::File(bytes), content, size, sampled, decoder_bytes))
            };
            let (frames, content, size, sampled, decoder_bytes) = match &video.source {
                VideoSource::Frames { frames, fps } => {
                    let sampled = processor.sample_chosen(frames.len(), *fps, &asked)?;
                    let looks = self.look_at_frames(frames, &sampled)?;
                    let size = looks.first().map(|look| look.size).ok_or(ImageError::NoFrames)?;
                    let content = video_content(looks.iter().map(|look| &look.content));
                    (Frames::List(looks), content, size, sampled, 0)
                }
                VideoSource::Path(path) => of_file(Cow::Owned(self.read_file(path)?))?,
                VideoSource::Encoded(bytes) => of_file(Cow::Borrowed(bytes))?,
                other => return Err(ImageError::Kind(format!("{other:?}"))),
            };
            let times = processor.patch_times(&sampled);
            Ok(OpenVideo {
                times,
                index,
                video,
                frames,
                content,
                size,
                sampled,
                decoder_bytes,
                patch_frames,
            })
        };
        open().map_err(|error| video_error(index, video, error))
    }

    /// Reads the headers of the frames that were sampled, which must be of one size and together no larger than a file.
    fn look_at_frames<'a>(
        &self,
        frames: &'a [Image],
        sampled: &Sampled,
    ) -> Result<Vec<Look<'a>>, ImageError> {
        let mut looks: Vec<Look<'_>> = Vec::with_capacity(sampled.indices.len());
        let mut bytes = 0;
        for &index in &sampled.indices {
            let number = index + 1;
            let of_frame = |error| ImageError::Frame { number, source: Box::new(error) };
            let image = frames.get(index).ok_or(ImageError::NoFrames)?;
            let look = self.look(image).map_err(of_frame)?;
            bytes += look.bytes.len();
            self.limits.check_encoded(bytes)?;
            if let Some(first) = looks.first()
                && first.size != look.size
            {
                let (expected, found) = (first.size, look.size);
                return Err(ImageError::FrameSize { number, expected, found });
            }
            looks.push(look);
        }
        Ok(looks)
    }

    /// Says what becomes of a video; `budget` is that of the request.
    ///
    /// # Errors
    /// [`Error::Video`] if it allows no size for its frames.
    pub(super) fn plan_video<'a>(
        &self,
        open: OpenVideo<'a>,
        budget: &PixelBudget,
    ) -> Result<VideoPlan<'a>> {
        let budget = open.shown().budget(budget);
        let plan = || {
            let processor = self.videos()?;
            let plan = processor.plan(open.size, open.sampled.indices.len(), &budget)?;
            let seconds = processor.seconds_per_patch(open.sampled.fps);
            Ok((plan, seconds))
        };
        let (plan, seconds) = plan().map_err(|error| open.error(error))?;
        let processor = &self.model.processor_identity;
        let key = video_key(&open.content, processor, plan.resized, &open.sampled);
        Ok(VideoPlan { open, budget, key, grid: plan.grid, seconds })
    }

    /// Returns the patches of a video.
    pub(super) fn video_patches(
        &self,
        plan: &VideoPlan<'_>,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Patches> {
        let mut span = Span::enter(&*self.recorder, Phase::DecodeImage);
        let patches = self.process_video(plan, cancelled)?;
        span.units(plan.open.size.pixels() * plan.open.sampled.indices.len() as u64);
        Ok(patches)
    }

    fn process_video(&self, plan: &VideoPlan<'_>, cancelled: &dyn Fn() -> bool) -> Result<Patches> {
        let open = &plan.open;
        let fail = |error: ImageError| open.error(error);
        let processor = self.videos().map_err(fail)?.clone().with_limits(self.limits);
        let count = open.sampled.indices.len();
        let patches = processor.patches(open.size, count, plan.budget);
        let mut patches = patches.map_err(|error| fail(error.into()))?;
        self.workspaces.with(|workspace| {
            let mut numbers = open.sampled.indices.iter().map(|&index| index + 1);
            let mut push = |input: Input<'_>| {
                let number = numbers.next().unwrap_or_default();
                let pushed = patches.push(input, workspace);
                pushed.map_err(|error| {
                    fail(ImageError::Frame { number, source: Box::new(error.into()) })
                })
            };
            let alive = || if cancelled() { Err(Error::Cancelled) } else { Ok(()) };
            match &open.frames {
                Frames::List(looks) => looks.iter().try_for_each(|look| {
                    alive()?;
                    push(look.input().map_err(fail)?)
                }),
                Frames::File(bytes) => {
                    let decoded =
                        decode_video(bytes, &self.limits, &open.sampled.indices, |frame| {
                            alive()?;
                            frame.map_or(Ok(()), |frame| push(frame.into())).map_err(Ended::Other)
                        });
                    decoded.map_err(|ended| match ended {
                        Ended::Other(error) => error,
                        Ended::Decoder(error) => fail(error.into()),
                    })
                }
            }
        })?;
        patches.finish().map_err(|error| fail(error.into()))
    }

    fn videos(&self) -> Result<&VideoProcessor, ImageError> {
        self.model.videos.as_ref().ok_or(ImageError::NoVideos)
    }
}

/// Why no more frames are taken from a file.
enum Ended {
    Decoder(vision_preproc::Error),
    Other(Error),
}

impl From<vision_preproc::Error> for Ended {
    fn from(error: vision_preproc::Error) -> Self {
        Self::Decoder(error)
    }
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// What templates write for a video.
const SHOWN: &str = "<|vision_start|><|video_pad|><|vision_end|>";

/// Has `rendered` show each patch of the videos by itself, after its time: `times` are the seconds of each video's.
///
/// As transformers 4 and vLLM do; transformers 5 leaves the tokens around a video where they are, around its times.
pub(crate) fn timed(rendered: &str, times: &[&[f64]]) -> Result<String> {
    let mut parts = rendered.split(SHOWN);
    let mut text = parts.next().unwrap_or_default().to_owned();
    let after: Vec<&str> = parts.collect();
    if after.len() != times.len() {
        let (found, wanted) = (after.len(), times.len());
        return Err(Error::Prompt(format!(
            "the chat template has {SHOWN} {found} times for {wanted} videos"
        )));
    }
    for (times, after) in times.iter().zip(after) {
        for time in *times {
            text += &format!("<{time:.1} seconds>{SHOWN}");
        }
        text += after;
    }
    Ok(text)
}

fn video_error(index: usize, video: &Video, source: ImageError) -> Error {
    let name = match &video.source {
        VideoSource::Path(path) => Some(path.display().to_string()),
        _ => None,
    };
    Error::Video { index: index + 1, name, source }
}
