//! Frames of one size, as CLIP, SigLIP, LLaVA and SmolVLM see images.
//!
//! ```text
//! CLIP     resize the shorter side -- cut the middle out --------------------> [1, 3, s, s]
//! SigLIP   resize both sides ------------------------------------------------> [1, 3, s, s]
//! LLaVA    pad to a square of the mean colour -- resize ---------------------> [1, 3, s, s]
//! SmolVLM  resize the longer side -- resize to a multiple of s -- tiles ------> [rows * columns + 1, 3, s, s]
//!                                                               '- resize --'   the whole image comes last
//! ```
//!
//! Source: transformers 5.23.0, the processors on Pillow.

mod config;
mod fit;

use fit::Fit;
use serde_json::{Map, Value};

use crate::canvas::{Canvas, ChannelOrder};
use crate::decode::orient;
use crate::decode::rows::{collect, with_rows};
use crate::kernels::{Level, Store};
use crate::keys::of_both_files;
use crate::normalize::Table;
use crate::resize::Passes;
use crate::{
    Error, Filter, Input, Limits, Mode, PassOrder, Rescale, RgbImage, RgbView, Size, Workspace,
    decode, probe, resize,
};

/// The preprocessing of a model that takes frames of one size, parsed once from its configuration.
#[derive(Clone, Debug)]
pub struct FrameProcessor {
    fit: Fit,
    canvas: Canvas,
    filter: Filter,
    order: PassOrder,
    factor: f64,
    mean: [f32; 3],
    std: [f32; 3],
    limits: Limits,
    mode: Mode,
}

/// The input of a vision tower: `values` is `[count, 3, size.height, size.width]`, normalised.
#[derive(Clone, Debug, PartialEq)]
pub struct Frames {
    /// The frames; tiles come row by row, and after them the whole image.
    pub values: Vec<f32>,
    /// Frames in `values`.
    pub count: usize,
    /// Width and height of a frame.
    pub size: Size,
    /// Rows of tiles; 0 without tiles.
    pub rows: usize,
    /// Columns of tiles; 0 without tiles.
    pub columns: usize,
}

impl FrameProcessor {
    /// Reads the content of a `preprocessor_config.json`.
    ///
    /// # Errors
    /// [`Error::Config`] if it is no JSON object, names another kind of processor, or holds an unusable value.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        Self::from_keys(&of_both_files(Some(text), None)?)
    }

    pub(crate) fn from_keys(keys: &Map<String, Value>) -> Result<Self, Error> {
        config::parse(keys)
    }

    /// Whether `kind` is a value of `image_processor_type` that [`FrameProcessor::from_json`] reads.
    pub(crate) fn knows(kind: &str) -> bool {
        config::knows(kind)
    }

    /// Replaces the order of the resampling passes; see [`PassOrder`].
    #[must_use]
    pub fn with_pass_order(mut self, order: PassOrder) -> Self {
        self.order = order;
        self
    }

    /// Replaces the arithmetic that turns bytes into floats; see [`Rescale`].
    #[must_use]
    pub fn with_rescale(mut self, rescale: Rescale) -> Self {
        let table = Table::new(rescale, self.factor, self.mean, self.std);
        self.canvas = Canvas::new(self.canvas.size(), ChannelOrder::Chw, table);
        self
    }

    /// Replaces the limits that source images are held to.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Replaces the mode, which is [`Mode::Exact`]; a processor that pads to a square is exact in both.
    #[must_use]
    pub fn with_mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Width and height of every frame.
    pub fn frame_size(&self) -> Size {
        self.canvas.size()
    }

    /// Rows and columns of tiles that an image of `size` (upright) becomes, without its pixels; (0, 0) for none.
    ///
    /// # Errors
    /// [`Error::Limit`] if `size` exceeds the limits; [`Error::Shape`] if a side is zero.
    pub fn tiles(&self, size: Size) -> Result<(usize, usize), Error> {
        self.limits.check_size(size)?;
        let Fit::Tiles { longest_edge } = self.fit else { return Ok((0, 0)) };
        let frame = self.frame_size();
        let size = fit::multiple_of(fit::longest_edge(size, longest_edge), frame.width);
        Ok(fit::tiles(size, frame))
    }

    /// Makes frames of an upright image.
    ///
    /// # Errors
    /// As for [`FrameProcessor::tiles`], and [`Error::Limit`] if a step on the way has more pixels than allowed.
    pub fn process(&self, image: RgbView<'_>) -> Result<Frames, Error> {
        self.frames(
            image.size(),
            |_, target| self.resize(image, target),
            |square, color| Ok(fit::padded(image, square, color)),
        )
    }

    /// Decodes an image file and makes frames of it; without holding the whole of it, where its format and the padding of
    /// the processor allow. The result is that of [`decode`](crate::decode()) and [`FrameProcessor::process`], unless the
    /// mode is [`Mode::Fast`].
    ///
    /// # Errors
    /// As for [`decode`](crate::decode()), with the limits of the processor, and [`FrameProcessor::process`].
    pub fn process_bytes(
        &self,
        encoded: &[u8],
        workspace: &mut Workspace,
    ) -> Result<Frames, Error> {
        self.limits.check_encoded(encoded.len())?;
        let info = probe(encoded)?;
        let resized = |size, target| {
            self.check(target)?;
            let wanted = self.mode.reduction(info.format, size, target);
            let passes = Passes::new(size, target, self.filter, self.order, info.orientation);
            let Workspace { decode, resize, .. } = workspace;
            let image = with_rows(encoded, info.format, wanted, decode, &mut |rows, has| {
                passes.of_reduced(has).run(rows, Level::detect(), resize, |rows| collect(rows))
            });
            let image = image.map_err(|reason| Error::decode(info.format, reason))?;
            Ok(orient::upright(image, info.orientation))
        };
        // The border is made of whole pixels, so the image must be, too.
        let padded = |square, color| {
            let image = decode(encoded, &self.limits)?;
            Ok(fit::padded(image.as_view(), square, color))
        };
        self.frames(info.size(), resized, padded)
    }

    /// Makes frames of an image file or of pixels: [`FrameProcessor::process_bytes`] and [`FrameProcessor::process`] in one.
    ///
    /// # Errors
    /// As for these.
    pub fn process_input(
        &self,
        input: Input<'_>,
        workspace: &mut Workspace,
    ) -> Result<Frames, Error> {
        match input {
            Input::Encoded(bytes) => self.process_bytes(bytes, workspace),
            Input::Rgb(view) => self.process(view),
        }
    }

    /// Makes frames of an image of `size` that is only seen through `resized`, which scales it from `size`, and `padded`,
    /// which puts it in the middle of a square of a colour.
    fn frames(
        &self,
        size: Size,
        resized: impl FnOnce(Size, Size) -> Result<RgbImage, Error>,
        padded: impl FnOnce(Size, [u8; 3]) -> Result<RgbImage, Error>,
    ) -> Result<Frames, Error> {
        let (rows, columns) = self.tiles(size)?;
        let (frame, frame_len) = (self.frame_size(), self.canvas.value_count());
        let count = rows * columns + 1;
        let mut values = vec![0.0; count * frame_len];
        let mut frames = values.chunks_exact_mut(frame_len);
        let mut planar = Vec::new();
        let mut put = |image: &RgbImage, left: u32, top: u32| {
            let values = frames.next().expect("the frames were counted");
            let bytes = left as usize * 3..(left + frame.width) as usize * 3;
            for y in 0..frame.height as usize {
                let row = &image.as_view().row(top as usize + y)[bytes.clone()];
                self.canvas.write_row(y, row, &mut planar, Store::Cached, values);
            }
        };
        match self.fit {
            Fit::Stretch => put(&resized(size, frame)?, 0, 0),
            Fit::Crop { shortest_edge } => {
                let scaled = fit::shortest_edge(size, shortest_edge);
                let image = resized(size, scaled)?;
                let [left, top] = fit::centre(scaled, frame);
                put(&image, left, top);
            }
            Fit::PadToSquare { color } => {
                let square = fit::square(size);
                self.check(square)?;
                put(&self.resize(padded(square, color)?.as_view(), frame)?, 0, 0);
            }
            Fit::Tiles { longest_edge } => {
                let image = resized(size, fit::longest_edge(size, longest_edge))?;
                let whole = fit::multiple_of(image.size(), frame.width);
                let image = self.resize(image.as_view(), whole)?;
                for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |c| (row, c))) {
                    let (row, column) = (row as u32, column as u32);
                    put(&image, column * frame.width, row * frame.height);
                }
                put(&self.resize(image.as_view(), frame)?, 0, 0);
            }
        }
        Ok(Frames { values, count, size: frame, rows, columns })
    }

    fn resize(&self, image: RgbView<'_>, size: Size) -> Result<RgbImage, Error> {
        self.check(size)?;
        resize(image, size, self.filter, self.order)
    }

    fn check(&self, size: Size) -> Result<(), Error> {
        if size.pixels() > self.limits.max_pixels {
            return Err(Error::Limit {
                what: "number of pixels after resizing",
                limit: self.limits.max_pixels,
                found: size.pixels(),
            });
        }
        Ok(())
    }
}
