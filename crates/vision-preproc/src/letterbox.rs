//! Letterbox: a picture scaled into a canvas of fixed size, on a plain background, as normalised floats.
//!
//! The bytes are those of `PIL.ImageOps.pad`. A float is `(byte * rescale_factor - mean) / std`, each step rounded to
//! f32 by itself: fused or reordered operations are quicker to write and differ in the last bit from what models were
//! trained on. Background and picture go through the same arithmetic, so a black border is what a black pixel is.

use crate::decode::rows::{Reason, RowSource, Rows, Whole, collect};
use crate::decode::{Orientation, orient};
use crate::geometry::{Placement, letterbox};
use crate::kernels::{Element, Level, Store, normalize, planes};
use crate::normalize::Table;
use crate::resize::Passes;
use crate::{
    Error, Filter, Input, Limits, PassOrder, Rescale, RgbImage, RgbView, Size, Workspace, probe,
    resize,
};

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
    /// What an image file may ask for.
    pub limits: Limits,
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
            limits: Limits::default(),
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
    level: Level,
    table: Box<Table>,
    /// The channels of a row of the canvas, in the order of the output.
    channels: Vec<u8>,
}

/// Pixels and bytes on their way, kept for the next image.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    /// Rows of the scaled picture.
    batch: Vec<u8>,
    /// A row of the canvas.
    row: Vec<u8>,
    /// The same, channel by channel.
    planar: Vec<u8>,
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
        let width = canvas.width as usize;
        let channel = |at| match options.channels {
            ChannelOrder::Chw => at / width,
            ChannelOrder::Hwc => at % 3,
        };
        let channels = (0..3 * width).map(|at| channel(at) as u8).collect();
        Ok(Self { canvas, options, level: Level::detect(), table, channels })
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
        let placed = self.process_into(image, &mut Workspace::new(), &mut values);
        placed.expect("pixels have no error, and the buffer was made for this canvas");
        values
    }

    /// Decodes an image file and puts it on the canvas, without holding the whole of it where its format allows;
    /// equal to [`decode`](crate::decode()) and [`Letterbox::process`].
    ///
    /// # Errors
    /// As for [`decode`](crate::decode()), with the limits of the options.
    pub fn process_bytes(
        &self,
        encoded: &[u8],
        workspace: &mut Workspace,
    ) -> Result<Vec<f32>, Error> {
        let mut values = vec![0.0; self.value_count()];
        self.process_into(encoded, workspace, &mut values)?;
        Ok(values)
    }

    /// Puts an image into a buffer of the caller, every value of which is written; returns where the picture lies.
    ///
    /// # Errors
    /// [`Error::Shape`] if `out` does not hold [`value_count`](Self::value_count) values; for the bytes of a file as for
    /// [`Letterbox::process_bytes`]. After an error the content of `out` is of no use.
    pub fn process_into<'a, T: Element>(
        &self,
        input: impl Into<Input<'a>>,
        workspace: &mut Workspace,
        out: &mut [T],
    ) -> Result<Placement, Error> {
        if out.len() != self.value_count() {
            return Err(Error::Shape {
                expected: format!("a buffer of {} values for {}", self.value_count(), self.canvas),
                found: format!("{} values", out.len()),
            });
        }
        let bytes = match input.into() {
            Input::Encoded(bytes) => bytes,
            Input::Rgb(image) => {
                let mut rows = Whole::new(image.size(), image.pixels());
                let placed =
                    self.run(&mut rows, Orientation::Upright, image.size(), workspace, out);
                return Ok(placed.expect("pixels have no error"));
            }
        };
        self.options.limits.check_encoded(bytes.len())?;
        let info = probe(bytes)?;
        self.options.limits.check_size(info.size())?;
        let failed = |reason| Error::decode(info.format, reason);
        let mut rows = Rows::open(bytes, info.format, &mut workspace.decode).map_err(failed)?;
        let placed = self.run(&mut rows, info.orientation, info.size(), workspace, out);
        rows.keep(&mut workspace.decode);
        placed.map_err(failed)
    }

    /// Resizes the rows of an image that is of `size` once it is upright, and writes all of `out`.
    fn run<T: Element>(
        &self,
        rows: &mut dyn RowSource,
        orientation: Orientation,
        size: Size,
        workspace: &mut Workspace,
        out: &mut [T],
    ) -> Result<Placement, Reason> {
        let placement = self.placement(size);
        let LetterboxOptions { filter, pass_order, .. } = self.options;
        let passes = Passes::new(size, placement.size, filter, pass_order, orientation);
        let Workspace { resize, letterbox: buffers, .. } = workspace;
        passes.run(rows, self.level, resize, |rows| {
            if orientation == Orientation::Upright {
                return self.write(rows, placement, buffers, out);
            }
            // What is turned is no larger than the canvas.
            let upright = orient::turned(collect(rows)?.as_view(), orientation);
            let mut rows = Whole::new(upright.size(), upright.pixels());
            self.write(&mut rows, placement, buffers, out)
        })?;
        Ok(placement)
    }

    /// Writes background above and below, and the rows between, with background on both sides.
    fn write<T: Element>(
        &self,
        rows: &mut dyn RowSource,
        placement: Placement,
        buffers: &mut Buffers,
        out: &mut [T],
    ) -> Result<(), Reason> {
        let Buffers { batch, row, planar } = buffers;
        let (left, top) = (placement.left as usize * 3, placement.top as usize);
        let (len, height) = (placement.size.width as usize * 3, placement.size.height as usize);
        let store = Store::of(out);
        row.clear();
        row.extend(self.options.color.iter().cycle().take(self.canvas.width as usize * 3));
        for y in (0..top).chain(top + height..self.canvas.height as usize) {
            self.write_row(row, y, planar, store, out);
        }
        batch.resize(len * BATCH_ROWS.min(height), 0);
        let mut y = top;
        while y < top + height {
            match rows.read(batch)? {
                0 => return Err("the file has fewer rows than its header says".into()),
                count => {
                    for pixels in batch.chunks_exact(len).take(count) {
                        row[left..left + len].copy_from_slice(pixels);
                        self.write_row(row, y, planar, store, out);
                        y += 1;
                    }
                }
            }
        }
        store.finish();
        Ok(())
    }

    /// Writes row `y` of the canvas, whose `[w, 3]` bytes are `row`.
    fn write_row<T: Element>(
        &self,
        row: &[u8],
        y: usize,
        planar: &mut Vec<u8>,
        store: Store,
        out: &mut [T],
    ) {
        let (level, table, channels) = (self.level, &*self.table, &self.channels[..]);
        let width = self.canvas.width as usize;
        match self.options.channels {
            ChannelOrder::Hwc => {
                let out = &mut out[y * width * 3..(y + 1) * width * 3];
                normalize(level, table, channels, store, row, out);
            }
            ChannelOrder::Chw => {
                planar.resize(width * 3, 0);
                split(level, row, planar);
                for (channel, plane) in out.chunks_exact_mut(self.value_count() / 3).enumerate() {
                    let of = channel * width..(channel + 1) * width;
                    let out = &mut plane[y * width..(y + 1) * width];
                    normalize(level, table, &channels[of.clone()], store, &planar[of], out);
                }
            }
        }
    }
}

/// `[w, 3]` bytes to `[3, w]`.
fn split(level: Level, row: &[u8], planar: &mut [u8]) {
    let width = row.len() / 3;
    let mut at = 0;
    // The kernel takes squares; pixels that follow each other make a square whose rows do.
    for side in [16, 8] {
        let area = side * side;
        let mut square = [0; 3 * 16 * 16];
        while width - at >= area {
            let square = &mut square[..3 * area];
            planes(level, &row[at * 3..], side * 3, side, 1, square);
            for (channel, plane) in square.chunks_exact(area).enumerate() {
                planar[channel * width + at..][..area].copy_from_slice(plane);
            }
            at += area;
        }
    }
    for (x, pixel) in row.as_chunks::<3>().0.iter().enumerate().skip(at) {
        for (channel, &value) in pixel.iter().enumerate() {
            planar[channel * width + x] = value;
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
        let short =
            letterbox.process_into(image.as_view(), &mut Workspace::new(), &mut [0.0_f32; 44]);
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
        let mut workspace = Workspace::new();
        chw.process_into(image.as_view(), &mut workspace, &mut values[0]).unwrap();
        hwc.process_into(image.as_view(), &mut workspace, &mut values[1]).unwrap();
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

    #[test]
    fn a_row_is_split_at_every_level() {
        for width in [1, 2, 63, 64, 65, 255, 256, 257, 400, 641] {
            let row: Vec<u8> = (0..3 * width).map(|at| (at * 7 % 251) as u8).collect();
            for level in Level::available() {
                let mut planar = vec![0; 3 * width];
                split(level, &row, &mut planar);
                for (at, &value) in row.iter().enumerate() {
                    assert_eq!(planar[at % 3 * width + at / 3], value, "{level:?}, {width}, {at}");
                }
            }
        }
    }
}
