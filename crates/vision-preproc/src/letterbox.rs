//! Letterbox: a picture scaled into a canvas of fixed size, on a plain background, as normalised floats.
//!
//! The bytes are those of `PIL.ImageOps.pad`. A float is `(byte * rescale_factor - mean) / std`, each step rounded to
//! f32 by itself: fused or reordered operations are quicker to write and differ in the last bit from what models were
//! trained on. Background and picture go through the same arithmetic, so a black border is what a black pixel is.

use crate::canvas::{Canvas, ChannelOrder};
use crate::decode::rows::{Reason, RowSource, Whole, collect, with_rows};
use crate::decode::{Orientation, orient};
use crate::geometry::{Placement, letterbox};
use crate::kernels::{Element, Store};
use crate::mode::Reduction;
use crate::normalize::Table;
use crate::resize::Passes;
use crate::{
    Error, Filter, Input, Limits, Mode, PassOrder, Rescale, RgbImage, RgbView, Size, Workspace,
    probe, resize,
};

/// Rows that are taken from the resize at a time.
const BATCH_ROWS: usize = 16;

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
    /// Whether JPEG files may be decoded at a reduced size.
    pub mode: Mode,
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
            mode: Mode::default(),
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
    canvas: Canvas,
    options: LetterboxOptions,
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
        let table = Table::new(rescale, rescale_factor, mean, std);
        Ok(Self { canvas: Canvas::new(canvas, options.channels, table), options })
    }

    /// The number of values of a result, `3 * canvas.height * canvas.width`.
    pub fn value_count(&self) -> usize {
        self.canvas.value_count()
    }

    /// Where a picture of `size` lies on the canvas, without its pixels.
    ///
    /// # Panics
    /// If a side of `size` is zero.
    pub fn placement(&self, size: Size) -> Placement {
        let canvas = self.canvas.size();
        if size.width <= canvas.width && size.height <= canvas.height && !self.options.enlarge {
            return Placement::centred(size, canvas);
        }
        letterbox(size, canvas)
    }

    /// The picture on the canvas as bytes, `[canvas.height, canvas.width, 3]`; equal to `PIL.ImageOps.pad`.
    pub fn image(&self, image: RgbView<'_>) -> RgbImage {
        let placement = self.placement(image.size());
        let LetterboxOptions { filter, pass_order, color, .. } = self.options;
        let scaled = resize(image, placement.size, filter, pass_order);
        let scaled = scaled.expect("a placed picture has at least one pixel");
        let mut pixels = color.repeat(self.value_count() / 3);
        let (stride, left) = (self.canvas.size().width as usize * 3, placement.left as usize * 3);
        let rows = pixels.chunks_exact_mut(stride).skip(placement.top as usize);
        for (row, y) in rows.zip(0..placement.size.height as usize) {
            let source = scaled.as_view().row(y);
            row[left..left + source.len()].copy_from_slice(source);
        }
        RgbImage::new(self.canvas.size().width, self.canvas.size().height, pixels)
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
    /// equal to [`decode`](crate::decode()) and [`Letterbox::process`], unless the mode is [`Mode::Fast`].
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
                expected: format!(
                    "a buffer of {} values for {}",
                    self.value_count(),
                    self.canvas.size()
                ),
                found: format!("{} values", out.len()),
            });
        }
        let bytes = match input.into() {
            Input::Encoded(bytes) => bytes,
            Input::Rgb(image) => {
                let mut rows = Whole::new(image.size(), image.pixels());
                let (upright, whole) = (Orientation::Upright, Reduction::Whole);
                let placed = self.run(&mut rows, upright, image.size(), whole, workspace, out);
                return Ok(placed.expect("pixels have no error"));
            }
        };
        self.options.limits.check_encoded(bytes.len())?;
        let info = probe(bytes)?;
        self.options.limits.check_size(info.size())?;
        let (size, orientation) = (info.size(), info.orientation);
        let wanted = self.options.mode.reduction(info.format, size, self.placement(size).size);
        let mut decode = std::mem::take(&mut workspace.decode);
        let placed = with_rows(bytes, info.format, wanted, &mut decode, &mut |rows, has| {
            self.run(rows, orientation, size, has, workspace, out)
        });
        workspace.decode = decode;
        placed.map_err(|reason| Error::decode(info.format, reason))
    }

    /// Resizes the rows of an image that is of `size` once it is upright and not reduced, and writes all of `out`.
    fn run<T: Element>(
        &self,
        rows: &mut dyn RowSource,
        orientation: Orientation,
        size: Size,
        reduction: Reduction,
        workspace: &mut Workspace,
        out: &mut [T],
    ) -> Result<Placement, Reason> {
        let placement = self.placement(size);
        let LetterboxOptions { filter, pass_order, .. } = self.options;
        let passes = Passes::new(size, placement.size, filter, pass_order, orientation)
            .of_reduced(reduction);
        let Workspace { resize, letterbox: buffers, .. } = workspace;
        passes.run(rows, self.canvas.level(), resize, |rows| {
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
        let (canvas, store) = (self.canvas.size(), Store::of(out));
        row.clear();
        row.extend(self.options.color.iter().cycle().take(canvas.width as usize * 3));
        for y in (0..top).chain(top + height..canvas.height as usize) {
            self.canvas.write_row(y, row, planar, store, out);
        }
        batch.resize(len * BATCH_ROWS.min(height), 0);
        let mut y = top;
        while y < top + height {
            match rows.read(batch)? {
                0 => return Err("the file has fewer rows than its header says".into()),
                count => {
                    for pixels in batch.chunks_exact(len).take(count) {
                        row[left..left + len].copy_from_slice(pixels);
                        self.canvas.write_row(y, row, planar, store, out);
                        y += 1;
                    }
                }
            }
        }
        store.finish();
        Ok(())
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
}
