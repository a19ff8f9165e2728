//! Letterbox: a picture scaled into a canvas of fixed size, on a plain background, as normalised floats.
//!
//! The bytes are those of `PIL.ImageOps.pad`. A float is `(byte * rescale_factor - mean) / std`, each step rounded to
//! f32 by itself: fused or reordered operations are quicker to write and differ in the last bit from what models were
//! trained on. Background and picture go through the same arithmetic, so a black border is what a black pixel is.

use crate::decode::rows::{Reason, RowSource, Rows, Scratch, Whole, collect};
use crate::decode::{Orientation, orient};
use crate::geometry::{Placement, letterbox};
use crate::kernels::Level;
use crate::normalize::Table;
use crate::resize::{Buffers, Passes};
use crate::{Error, Filter, Limits, PassOrder, Rescale, RgbImage, RgbView, Size, probe, resize};

/// Rows that are taken from the resize at a time.
const BATCH_ROWS: usize = 16;

/// Where the channels of a pixel lie in the output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ChannelOrder {
    /// `[3, h, w]`: a plane for each channel. The default.
    #[default]
    Chw,
    /// `[h, w, 3]`: the channels of a pixel side by side.
    Hwc,
}

/// How a [`Letterbox`] scales, pads and normalises.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LetterboxOptions {
    /// The resampling filter; bicubic by default, as `ImageOps.pad`.
    pub filter: Filter,
    /// Which axis is resampled first.
    pub pass_order: PassOrder,
    /// Whether a picture smaller than the canvas is scaled up to it; true by default, as `ImageOps.pad`.
    pub enlarge: bool,
    /// The background, RGB; black by default.
    pub color: [u8; 3],
    /// How a byte is multiplied by `rescale_factor`.
    pub rescale: Rescale,
    /// What a byte is multiplied by; 1/255 by default.
    pub rescale_factor: f64,
    /// Taken off after rescaling, for each channel; 0 by default.
    pub mean: [f32; 3],
    /// Divided by at last, for each channel; 1 by default.
    pub std: [f32; 3],
    /// The layout of the output.
    pub channels: ChannelOrder,
}

impl Default for LetterboxOptions {
    fn default() -> Self {
        Self {
            filter: Filter::Bicubic,
            pass_order: PassOrder::default(),
            enlarge: true,
            color: [0; 3],
            rescale: Rescale::default(),
            rescale_factor: 1.0 / 255.0,
            mean: [0.0; 3],
            std: [1.0; 3],
            channels: ChannelOrder::default(),
        }
    }
}

/// Fits pictures of any size into one canvas: scaled with their shape kept, centred, padded, normalised.
///
/// ```
/// use vision_preproc::{Letterbox, LetterboxOptions, RgbImage, Size};
///
/// let canvas = Size { width: 448, height: 448 };
/// let letterbox = Letterbox::new(canvas, LetterboxOptions { mean: [0.5; 3], std: [0.5; 3], ..Default::default() })?;
/// let image = RgbImage::new(640, 480, vec![255; 640 * 480 * 3])?;
/// let values = letterbox.process(image.as_view());
/// assert_eq!(values.len(), 3 * 448 * 448);
/// assert_eq!((values[0], values[224 * 448]), (-1.0, 1.0));
/// # Ok::<(), vision_preproc::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Letterbox {
    canvas: Size,
    options: LetterboxOptions,
    table: Box<Table>,
}

impl Letterbox {
    /// A letterbox with `canvas` as the size of every result.
    ///
    /// # Errors
    /// [`Error::Shape`] if a side of `canvas` is zero or its values exceed the address space; [`Error::Config`] if
    /// `std` holds a zero.
    pub fn new(canvas: Size, options: LetterboxOptions) -> Result<Self, Error> {
        let bytes = canvas.pixels().checked_mul(12).and_then(|bytes| isize::try_from(bytes).ok());
        if canvas.pixels() == 0 || bytes.is_none() {
            return Err(Error::Shape {
                expected: "a canvas with at least one pixel that fits the memory".into(),
                found: canvas.to_string(),
            });
        }
        if options.std.contains(&0.0) {
            return Err(Error::config("std", "expected no zero, found one"));
        }
        let LetterboxOptions { rescale, rescale_factor, mean, std, .. } = options;
        let table = Box::new(Table::new(rescale, rescale_factor, mean, std));
        Ok(Self { canvas, options, table })
    }

    /// The number of values of a result, `3 * canvas.height * canvas.width`.
    pub fn value_count(&self) -> usize {
        self.canvas.rgb_bytes()
    }

    /// Where a picture of `size` lies on the canvas, without its pixels.
    ///
    /// # Panics
    /// If a side of `size` is zero.
    pub fn placement(&self, size: Size) -> Placement {
        let fits = size.width <= self.canvas.width && size.height <= self.canvas.height;
        if fits && !self.options.enlarge {
            return Placement::centred(size, self.canvas);
        }
        letterbox(size, self.canvas)
    }

    /// The picture on the canvas as bytes, `[canvas.height, canvas.width, 3]`; equal to `PIL.ImageOps.pad`.
    pub fn image(&self, image: RgbView<'_>) -> RgbImage {
        let placement = self.placement(image.size());
        let LetterboxOptions { filter, pass_order, color, .. } = self.options;
        let scaled = resize(image, placement.size, filter, pass_order);
        let scaled = scaled.expect("a placed picture has at least one pixel");
        let mut pixels = color.repeat(self.value_count() / 3);
        let (stride, left) = (self.canvas.width as usize * 3, placement.left as usize * 3);
        let rows = pixels.chunks_exact_mut(stride).skip(placement.top as usize);
        for (row, y) in rows.zip(0..placement.size.height as usize) {
            let source = scaled.as_view().row(y);
            row[left..left + source.len()].copy_from_slice(source);
        }
        RgbImage::new(self.canvas.width, self.canvas.height, pixels)
            .expect("the buffer was made for this canvas")
    }

    /// The picture on the canvas as floats: `[3, h, w]` or `[h, w, 3]`, as the options say.
    pub fn process(&self, image: RgbView<'_>) -> Vec<f32> {
        let mut values = vec![0.0; self.value_count()];
        self.process_into(image, &mut values).expect("the buffer was made for this canvas");
        values
    }

    /// As [`Letterbox::process`], into a buffer of the caller, every value of which is written; returns where the
    /// picture lies.
    ///
    /// # Errors
    /// [`Error::Shape`] if `dst` does not hold [`value_count`](Self::value_count) values.
    pub fn process_into(&self, image: RgbView<'_>, dst: &mut [f32]) -> Result<Placement, Error> {
        self.check_buffer(dst)?;
        let placement = self.placement(image.size());
        let mut rows = Whole::new(image.size(), image.pixels());
        let written = self.run(&mut rows, Orientation::Upright, image.size(), placement, dst);
        written.expect("rows in memory have no error");
        Ok(placement)
    }

    /// Decodes an image and puts it on the canvas without holding it as a whole; equal to [`decode`](crate::decode())
    /// and [`process_into`](Self::process_into).
    ///
    /// # Errors
    /// As for [`decode`](crate::decode()) and [`process_into`](Self::process_into). What `dst` holds after an error is
    /// not defined.
    pub fn decode_into(
        &self,
        bytes: &[u8],
        limits: &Limits,
        dst: &mut [f32],
    ) -> Result<Placement, Error> {
        self.check_buffer(dst)?;
        limits.check_encoded(bytes.len())?;
        let info = probe(bytes)?;
        limits.check_size(info.size())?;
        let placement = self.placement(info.size());
        let written =
            Rows::open(bytes, info.format, &mut Scratch::default()).and_then(|mut rows| {
                self.run(&mut rows, info.orientation, info.size(), placement, dst)
            });
        written.map_err(|reason| Error::decode(info.format, reason))?;
        Ok(placement)
    }

    fn check_buffer(&self, dst: &[f32]) -> Result<(), Error> {
        if dst.len() == self.value_count() {
            return Ok(());
        }
        Err(Error::Shape {
            expected: format!("a buffer of {} values for {}", self.value_count(), self.canvas),
            found: format!("{} values", dst.len()),
        })
    }

    /// Resizes the rows of an image that is of `size` once it is upright, and writes all of `dst`.
    fn run(
        &self,
        rows: &mut dyn RowSource,
        orientation: Orientation,
        size: Size,
        placement: Placement,
        dst: &mut [f32],
    ) -> Result<(), Reason> {
        let LetterboxOptions { filter, pass_order, .. } = self.options;
        let passes = Passes::new(size, placement.size, filter, pass_order, orientation);
        passes.run(rows, Level::detect(), &mut Buffers::default(), |rows| {
            if orientation == Orientation::Upright {
                return self.write(rows, placement, dst);
            }
            // What is turned is no larger than the canvas.
            let upright = orient::turned(collect(rows)?.as_view(), orientation);
            self.write(&mut Whole::new(upright.size(), upright.pixels()), placement, dst)
        })
    }

    /// Writes background, rows, and background again.
    fn write(
        &self,
        rows: &mut dyn RowSource,
        placement: Placement,
        dst: &mut [f32],
    ) -> Result<(), Reason> {
        let stride = placement.size.width as usize * 3;
        let top = placement.top as usize;
        let below = top + placement.size.height as usize;
        (0..top).chain(below..self.canvas.height as usize).for_each(|y| {
            self.write_row(&[], self.canvas.width as usize, y, dst);
        });
        let mut batch = vec![0; stride * BATCH_ROWS.min(placement.size.height as usize)];
        let mut y = top;
        while y < below {
            match rows.read(&mut batch)? {
                0 => return Err("the file has fewer rows than its header says".into()),
                count => {
                    for row in batch.chunks_exact(stride).take(count) {
                        self.write_row(row, placement.left as usize, y, dst);
                        y += 1;
                    }
                }
            }
        }
        Ok(())
    }

    /// Row `y` of the canvas: background, `pixels` from column `left` on, background.
    fn write_row(&self, pixels: &[u8], left: usize, y: usize, dst: &mut [f32]) {
        let pixels = pixels.as_chunks::<3>().0;
        let (width, right) = (self.canvas.width as usize, left + pixels.len());
        let background: [f32; 3] =
            std::array::from_fn(|channel| self.table.value(channel, self.options.color[channel]));
        match self.options.channels {
            ChannelOrder::Chw => {
                for (channel, plane) in dst.chunks_exact_mut(self.value_count() / 3).enumerate() {
                    let row = &mut plane[y * width..(y + 1) * width];
                    row[..left].fill(background[channel]);
                    row[right..].fill(background[channel]);
                    for (value, pixel) in row[left..right].iter_mut().zip(pixels) {
                        *value = self.table.value(channel, pixel[channel]);
                    }
                }
            }
            ChannelOrder::Hwc => {
                let row = &mut dst[y * width * 3..(y + 1) * width * 3];
                let row = row.as_chunks_mut::<3>().0;
                row[..left].fill(background);
                row[right..].fill(background);
                for (value, pixel) in row[left..right].iter_mut().zip(pixels) {
                    *value =
                        std::array::from_fn(|channel| self.table.value(channel, pixel[channel]));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CANVAS: Size = Size { width: 5, height: 3 };

    #[test]
    fn an_unusable_canvas_std_or_buffer_is_an_error() {
        let options = LetterboxOptions::default();
        let empty = Letterbox::new(Size { width: 0, height: 3 }, options);
        assert!(matches!(empty, Err(Error::Shape { .. })));
        let vast = Letterbox::new(Size { width: u32::MAX, height: u32::MAX }, options);
        assert!(matches!(vast, Err(Error::Shape { .. })));
        let flat = Letterbox::new(CANVAS, LetterboxOptions { std: [1.0, 0.0, 1.0], ..options });
        assert!(matches!(flat, Err(Error::Config { .. })));
        let letterbox = Letterbox::new(CANVAS, options).unwrap();
        let image = RgbImage::new(1, 1, vec![9; 3]).unwrap();
        let short = letterbox.process_into(image.as_view(), &mut [0.0; 44]);
        assert!(matches!(short, Err(Error::Shape { .. })));
    }

    #[test]
    fn both_layouts_hold_the_normalised_bytes_and_every_value_is_written() {
        let pixels = (0..12).map(|value| value * 20).collect();
        let image = RgbImage::new(4, 1, pixels).unwrap();
        let options = LetterboxOptions {
            enlarge: false,
            color: [1, 2, 3],
            rescale_factor: 1.0,
            mean: [0.0, 1.0, 2.0],
            std: [1.0, 2.0, 4.0],
            ..LetterboxOptions::default()
        };
        let chw = Letterbox::new(CANVAS, options).unwrap();
        // One column is left, and half of it is rounded to even.
        let placement = chw.placement(image.size());
        assert_eq!((placement.left, placement.top), (0, 1));
        let bytes = chw.image(image.as_view());
        let hwc = LetterboxOptions { channels: ChannelOrder::Hwc, ..options };
        let hwc = Letterbox::new(CANVAS, hwc).unwrap();
        let mut values = [vec![f32::NAN; 45], vec![f32::NAN; 45]];
        chw.process_into(image.as_view(), &mut values[0]).unwrap();
        hwc.process_into(image.as_view(), &mut values[1]).unwrap();
        for (at, pixel) in bytes.pixels().as_chunks::<3>().0.iter().enumerate() {
            for channel in 0..3 {
                let expected =
                    (f32::from(pixel[channel]) - options.mean[channel]) / options.std[channel];
                assert_eq!(values[0][channel * 15 + at], expected);
                assert_eq!(values[1][at * 3 + channel], expected);
            }
        }
        assert_eq!(&bytes.pixels()[..3], [1, 2, 3]);
        assert_eq!(&bytes.pixels()[15..18], [0, 20, 40]);
        assert_eq!(&bytes.pixels()[27..30], [1, 2, 3]);
    }
}
