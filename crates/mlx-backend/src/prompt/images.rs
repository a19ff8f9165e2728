//! Images of a request: first the header, which says how large they will be, and later the pixels of
//! those that no cache knows.

use std::{
    borrow::Cow,
    fs,
    io::Read,
    path::Path,
    time::{Duration, Instant},
};

use llm_core::Image;
use perf_monitor::{Counter, Phase, PhaseEvent, Span};
use vision_preproc::{Grid, Input, Limits, Patches, PixelBudget, RgbView, Size, StepTimes};

use super::Frontend;
use crate::{
    Error, ImageError, Result,
    caches::{Digest, encoded_content, image_key, rgb_content},
    image_reader::{ImageReader, Tiles},
};

/// An image, or a frame of a video, whose header has been read and whose pixels have not.
#[derive(Debug)]
pub(super) struct Look<'a> {
    image: &'a Image,
    /// The image file; empty for pixels.
    pub(super) bytes: Cow<'a, [u8]>,
    pub(super) content: Digest,
    pub(super) size: Size,
}

/// An image as one of a request.
#[derive(Debug)]
pub(super) struct OpenImage<'a> {
    index: usize,
    look: Look<'a>,
    pub(super) size: Size,
    pub(super) tiles: Tiles,
}

/// An image of which it is known what it will become.
#[derive(Debug)]
pub(crate) struct ImageSource<'a> {
    open: OpenImage<'a>,
    budget: PixelBudget,
    pub(super) key: Digest,
    pub(super) grid: Grid,
    resized: Size,
}

impl OpenImage<'_> {
    fn error(&self, source: ImageError) -> Error {
        image_error(self.index, self.look.image, source)
    }
}

impl Look<'_> {
    /// Returns what is to be decoded.
    pub(super) fn input(&self) -> Result<Input<'_>, ImageError> {
        Ok(rgb_view(self.image)?.map_or(Input::Encoded(&self.bytes), Input::Rgb))
    }
}

impl Frontend {
    /// Reads the file of an image and its header.
    ///
    /// # Errors
    /// [`Error::Image`] if there is no such file, or it is too large or no image.
    pub(super) fn open<'a>(&self, index: usize, image: &'a Image) -> Result<OpenImage<'a>> {
        let open = || -> Result<OpenImage<'a>, ImageError> {
            let reader = self.reader()?;
            let look = self.look(image)?;
            let (size, tiles) = (look.size, reader.tiles(look.size)?);
            Ok(OpenImage { index, look, size, tiles })
        };
        open().map_err(|error| image_error(index, image, error))
    }

    /// Reads a file and its header.
    pub(super) fn look<'a>(&self, image: &'a Image) -> Result<Look<'a>, ImageError> {
        let bytes: Cow<'_, [u8]> = match image {
            Image::Path(path) => Cow::Owned(self.read_file(path)?),
            Image::Encoded(bytes) => Cow::Borrowed(bytes),
            Image::Rgb8 { .. } => Cow::Borrowed(&[]),
            other => return Err(ImageError::Kind(format!("{other:?}"))),
        };
        let (size, content) = match rgb_view(image)? {
            Some(view) => (view.size(), rgb_content(view)),
            None => {
                self.limits.check_encoded(bytes.len())?;
                (vision_preproc::probe(&bytes)?.size(), encoded_content(&bytes))
            }
        };
        self.limits.check_size(size)?;
        Ok(Look { image, bytes, content, size })
    }

    /// Reads the file at `path`, as much of it as is allowed.
    pub(super) fn read_file(&self, path: &Path) -> Result<Vec<u8>, ImageError> {
        let mut span = Span::enter(&*self.recorder, Phase::Fetch);
        let bytes = read_image(path, &self.limits)?;
        span.units(bytes.len() as u64);
        self.recorder.count(Counter::BytesRead, bytes.len() as u64);
        Ok(bytes)
    }

    /// Says what becomes of an image.
    ///
    /// # Errors
    /// [`Error::Image`] if `budget` allows no size for it.
    pub(super) fn plan<'a>(
        &self,
        open: OpenImage<'a>,
        budget: PixelBudget,
    ) -> Result<ImageSource<'a>> {
        let plan = self.reader().and_then(|p| Ok(p.plan(open.size, &budget)?));
        let plan = plan.map_err(|error| open.error(error))?;
        let key = image_key(&open.look.content, &self.model.processor_identity, plan.resized);
        Ok(ImageSource { open, budget, key, grid: plan.grid, resized: plan.resized })
    }

    /// Returns the patches of an image.
    ///
    /// # Errors
    /// [`Error::Image`] if it cannot be decoded.
    pub(super) fn image_patches(&self, source: &ImageSource<'_>) -> Result<Patches> {
        self.process(source).map_err(|error| source.open.error(error))
    }

    fn process(&self, source: &ImageSource<'_>) -> Result<Patches, ImageError> {
        let input = source.open.look.input()?;
        let reader = self.reader()?.clone().with_limits(self.limits);
        let start = Instant::now();
        let (patches, times) = self.workspaces.with(|workspace| {
            workspace.measure(self.recorder.enabled());
            let patches = reader.patches(input, &source.budget, workspace);
            patches.map(|patches| (patches, workspace.times()))
        })?;
        if let Some(times) = times {
            self.report_steps(start, source, times);
        }
        if patches.grid != source.grid {
            let (header, pixels) = (source.grid, patches.grid);
            return Err(ImageError::Kind(format!("header says {header:?}, pixels {pixels:?}")));
        }
        Ok(patches)
    }

    /// Reports steps that took turns as if one had followed the other.
    fn report_steps(&self, start: Instant, source: &ImageSource<'_>, times: StepTimes) {
        let patches = source.grid.patches() as u64;
        let mut start = start;
        let mut report = |phase, duration, units| {
            let end = start + duration;
            self.recorder.phase(PhaseEvent::new(phase, start, end, units));
            start = end;
        };
        let copied = match source.open.look.image {
            Image::Rgb8 { .. } => times.decode,
            _ => {
                report(Phase::DecodeImage, times.decode, source.open.size.pixels());
                Duration::ZERO
            }
        };
        report(Phase::Resize, copied + times.resize, source.resized.pixels());
        report(Phase::Patchify, times.patchify, patches);
    }

    fn reader(&self) -> Result<&ImageReader, ImageError> {
        self.model.reader.as_ref().ok_or(ImageError::NoProcessor)
    }
}

/// Reads an image file, at most as many bytes as `limits` allows and one, so that the decoder says
/// that it is too large.
fn read_image(path: &Path, limits: &Limits) -> Result<Vec<u8>, ImageError> {
    if path.is_dir() {
        return Err(ImageError::Directory);
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(limits.max_encoded_bytes + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn rgb_view(image: &Image) -> Result<Option<RgbView<'_>>, ImageError> {
    match image {
        Image::Rgb8 { width, height, pixels } => {
            Ok(Some(RgbView::new(width.get(), height.get(), pixels)?))
        }
        _ => Ok(None),
    }
}

fn image_error(index: usize, image: &Image, source: ImageError) -> Error {
    let name = match image {
        Image::Path(path) => Some(path.display().to_string()),
        _ => None,
    };
    Error::Image { index: index + 1, name, source }
}
