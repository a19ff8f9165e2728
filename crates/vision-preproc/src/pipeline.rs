//! From an image to patches: the steps that an `ImageProcessor` asks for, as a stream of rows.
//!
//! ```text
//! decoder or pixels -- rows --> resize -- rows --> a strip of merged blocks -- patchify --> out
//! ```
//!
//! Everything happens in the orientation in which the rows are stored; patches are turned last, one by one.

use crate::decode::rows::{RowSource, Whole, with_rows};
use crate::kernels::{Element, advise_huge_pages};
use crate::mode::Reduction;
use crate::patchify::{Frames, Patchify};
use crate::resize::Passes;
use crate::steps::Clock;
use crate::video::VideoPatches;
use crate::{
    Error, Format, Grid, ImageProcessor, Orientation, Patches, PixelBudget, Plan, RgbView, Size,
    Workspace, probe,
};

/// An image to process.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Input<'a> {
    /// The bytes of an image file.
    Encoded(&'a [u8]),
    /// Upright pixels.
    Rgb(RgbView<'a>),
}

impl<'a> From<&'a [u8]> for Input<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Encoded(bytes)
    }
}

impl<'a> From<RgbView<'a>> for Input<'a> {
    fn from(image: RgbView<'a>) -> Self {
        Self::Rgb(image)
    }
}

impl ImageProcessor {
    /// Resizes, normalises and patchifies an upright image: `[h, w, 3]` bytes to `[P, row_values]`.
    ///
    /// # Errors
    /// As for [`ImageProcessor::plan`].
    pub fn process(&self, image: RgbView<'_>, budget: &PixelBudget) -> Result<Patches, Error> {
        self.patches(image.into(), budget, &mut Workspace::new())
    }

    /// Decodes, resizes, normalises and patchifies an image file, without holding the whole of it where its format
    /// allows; the result is that of [`decode`](crate::decode()) and [`ImageProcessor::process`], bit for bit, unless the
    /// mode is [`Mode::Fast`](crate::Mode::Fast).
    ///
    /// # Errors
    /// As for [`decode`](crate::decode()), with the limits of the processor, and [`ImageProcessor::plan`].
    pub fn process_bytes(
        &self,
        encoded: &[u8],
        budget: &PixelBudget,
        workspace: &mut Workspace,
    ) -> Result<Patches, Error> {
        self.patches(encoded.into(), budget, workspace)
    }

    /// Processes an image into a buffer of the caller: `out` is `[P, row_values]` with the number of patches `P` that
    /// [`ImageProcessor::plan`] gives for its size.
    ///
    /// # Errors
    /// [`Error::Shape`] if `out` has another length; otherwise as for [`ImageProcessor::process_bytes`]. After an error
    /// the content of `out` is of no use.
    pub fn process_into<'a, T: Element>(
        &self,
        input: impl Into<Input<'a>>,
        budget: &PixelBudget,
        workspace: &mut Workspace,
        out: &mut [T],
    ) -> Result<Grid, Error> {
        let job = self.job(input.into(), budget)?;
        let expected = job.plan.patches * self.row_values();
        if out.len() != expected {
            return Err(Error::Shape {
                expected: format!("a buffer of {expected} values for {:?}", job.plan.grid),
                found: format!("{} values", out.len()),
            });
        }
        self.run(&job, Frames::All, workspace, out)?;
        Ok(job.plan.grid)
    }

    /// Processes the frames of a video, all of one size: each patch spans as many frames as the configuration says,
    /// two for Qwen2-VL, and the last frame is repeated until they suffice.
    ///
    /// # Errors
    /// [`Error::Shape`] if there is no frame or their sizes differ; otherwise as for [`ImageProcessor::process`].
    pub fn process_frames(
        &self,
        frames: &[RgbView<'_>],
        budget: &PixelBudget,
        workspace: &mut Workspace,
    ) -> Result<Patches, Error> {
        let Some(first) = frames.first() else {
            let (expected, found) = ("one frame and more".into(), "none".into());
            return Err(Error::Shape { expected, found });
        };
        let mut patches =
            VideoPatches::new(self, first.size(), self.plan(first.size(), budget)?, frames.len())?;
        for &frame in frames {
            patches.push(frame.into(), workspace)?;
        }
        patches.finish()
    }

    /// Processes an image file or pixels: [`ImageProcessor::process_bytes`] and [`ImageProcessor::process`] in one.
    ///
    /// # Errors
    /// As for these.
    pub fn patches(
        &self,
        input: Input<'_>,
        budget: &PixelBudget,
        workspace: &mut Workspace,
    ) -> Result<Patches, Error> {
        let job = self.job(input, budget)?;
        let mut values = fresh(job.plan.patches * self.row_values());
        self.run(&job, Frames::All, workspace, &mut values)?;
        Ok(Patches { values, grid: job.plan.grid })
    }

    /// Checks the input by its header.
    pub(crate) fn job<'a>(&self, input: Input<'a>, budget: &PixelBudget) -> Result<Job<'a>, Error> {
        self.job_by(input, |size| self.plan(size, budget))
    }

    /// As [`job`](Self::job), with a plan of the caller's for the size that is found.
    pub(crate) fn job_by<'a>(
        &self,
        input: Input<'a>,
        plan: impl FnOnce(Size) -> Result<Plan, Error>,
    ) -> Result<Job<'a>, Error> {
        let (size, orientation, source) = match input {
            Input::Encoded(bytes) => {
                self.limits.check_encoded(bytes.len())?;
                let info = probe(bytes)?;
                (info.size(), info.orientation, Source::Encoded(bytes, info.format))
            }
            Input::Rgb(view) => (view.size(), Orientation::Upright, Source::Rgb(view)),
        };
        Ok(Job { source, size, orientation, plan: plan(size)? })
    }

    pub(crate) fn run<T: Element>(
        &self,
        job: &Job<'_>,
        frames: Frames,
        workspace: &mut Workspace,
        out: &mut [T],
    ) -> Result<(), Error> {
        let Workspace { decode, resize, patchify, measures, times, .. } = workspace;
        *times = None;
        let clock = Clock::start(*measures);
        let resized = job.plan.resized;
        let passes = Passes::new(job.size, resized, self.filter, self.order, job.orientation);
        let to_patches = Patchify {
            level: self.level,
            layout: self.layout,
            table: &self.table,
            channels: &self.channels,
            grid: job.plan.grid,
            orientation: job.orientation,
            frames,
        };
        let mut process = |rows: &mut dyn RowSource, reduction| {
            clock.opened();
            passes.of_reduced(reduction).run(
                &mut clock.decoding(rows),
                self.level,
                resize,
                |rows| to_patches.fill(&mut clock.resizing(rows), patchify, out),
            )
        };
        match job.source {
            Source::Encoded(bytes, format) => {
                let wanted = self.mode.reduction(format, job.size, resized);
                with_rows(bytes, format, wanted, decode, &mut |rows, has| process(rows, has))
                    .map_err(|reason| Error::decode(format, reason))?;
            }
            Source::Rgb(view) => {
                let mut rows = Whole::new(view.size(), view.pixels());
                process(&mut rows, Reduction::Whole).expect("pixels have no error");
            }
        }
        *times = clock.stop();
        Ok(())
    }
}

/// An image of which the header is known.
pub(crate) struct Job<'a> {
    source: Source<'a>,
    /// Upright.
    pub(crate) size: Size,
    orientation: Orientation,
    plan: Plan,
}

enum Source<'a> {
    Encoded(&'a [u8], Format),
    Rgb(RgbView<'a>),
}

/// A new output, whose memory is not touched before it is written.
pub(crate) fn fresh(len: usize) -> Vec<f32> {
    let mut values = vec![0.0; len];
    advise_huge_pages(&mut values);
    values
}
