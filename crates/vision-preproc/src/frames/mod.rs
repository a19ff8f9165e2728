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

use crate::normalize::Table;
use crate::{Error, Filter, Limits, PassOrder, Rescale, RgbImage, RgbView, Size, resize};

/// The preprocessing of a model that takes frames of one size, parsed once from its configuration.
#[derive(Clone, Debug)]
pub struct FrameProcessor {
    fit: Fit,
    frame: Size,
    filter: Filter,
    order: PassOrder,
    rescale: Rescale,
    factor: f64,
    mean: [f32; 3],
    std: [f32; 3],
    limits: Limits,
    table: Box<Table>,
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
        config::parse(text)
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
        self.rescale = rescale;
        *self.table = Table::new(rescale, self.factor, self.mean, self.std);
        self
    }

    /// Replaces the limits that source images are held to.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Width and height of every frame.
    pub fn frame_size(&self) -> Size {
        self.frame
    }

    /// Rows and columns of tiles that an image of `size` (upright) becomes, without its pixels; (0, 0) for none.
    ///
    /// # Errors
    /// [`Error::Limit`] if `size` exceeds the limits; [`Error::Shape`] if a side is zero.
    pub fn tiles(&self, size: Size) -> Result<(usize, usize), Error> {
        self.limits.check_size(size)?;
        let Fit::Tiles { longest_edge } = self.fit else { return Ok((0, 0)) };
        let size = fit::multiple_of(fit::longest_edge(size, longest_edge), self.frame.width);
        Ok(fit::tiles(size, self.frame))
    }

    /// Makes frames of an upright image.
    ///
    /// # Errors
    /// As for [`FrameProcessor::tiles`], and [`Error::Limit`] if a step on the way has more pixels than allowed.
    pub fn process(&self, image: RgbView<'_>) -> Result<Frames, Error> {
        let (rows, columns) = self.tiles(image.size())?;
        let frame_len = self.frame.rgb_bytes();
        let count = rows * columns + 1;
        let mut values = vec![0.0; count * frame_len];
        let mut frames = values.chunks_exact_mut(frame_len);
        let mut put = |image: &RgbImage, left: u32, top: u32| {
            let frame = frames.next().expect("the frames were counted");
            self.write(image.as_view(), left, top, frame);
        };
        match self.fit {
            Fit::Stretch => put(&self.resize(image, self.frame)?, 0, 0),
            Fit::Crop { shortest_edge } => {
                let scaled = fit::shortest_edge(image.size(), shortest_edge);
                let image = self.resize(image, scaled)?;
                let [left, top] = fit::centre(scaled, self.frame);
                put(&image, left, top);
            }
            Fit::PadToSquare { color } => {
                let square = fit::square(image.size());
                self.check(square)?;
                put(&self.resize(fit::padded(image, square, color).as_view(), self.frame)?, 0, 0);
            }
            Fit::Tiles { longest_edge } => {
                let image = self.resize(image, fit::longest_edge(image.size(), longest_edge))?;
                let whole = fit::multiple_of(image.size(), self.frame.width);
                let image = self.resize(image.as_view(), whole)?;
                for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |c| (row, c))) {
                    let (row, column) = (row as u32, column as u32);
                    put(&image, column * self.frame.width, row * self.frame.height);
                }
                put(&self.resize(image.as_view(), self.frame)?, 0, 0);
            }
        }
        Ok(Frames { values, count, size: self.frame, rows, columns })
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

    /// The part of `image` from (`left`, `top`) on, as normalised planes.
    fn write(&self, image: RgbView<'_>, left: u32, top: u32, frame: &mut [f32]) {
        let (width, height) = (self.frame.width as usize, self.frame.height as usize);
        for (channel, plane) in frame.chunks_exact_mut(width * height).enumerate() {
            for (y, row) in plane.chunks_exact_mut(width).enumerate() {
                let source = &image.row(top as usize + y)[left as usize * 3..];
                for (value, pixel) in row.iter_mut().zip(source.as_chunks::<3>().0) {
                    *value = self.table.value(channel, pixel[channel]);
                }
            }
        }
    }
}
