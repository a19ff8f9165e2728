//! The frames of a GIF through the `gif` crate, composed as Pillow's `GifImagePlugin` does.

use ::gif::{ColorOutput, DecodeOptions, Decoder, DisposalMethod, MemoryLimit};
use std::io::Cursor;
use std::num::NonZeroU64;

use super::file::{Stop, Take, VideoFormat, VideoInfo};
use crate::{RgbView, Size};

/// Hundredths of a second that a frame lasts: a delay of 0 or 1 is a tenth, as in browsers.
fn ticks(delay: u16) -> u64 {
    if delay < 2 { 10 } else { delay.into() }
}

pub(super) fn probe(bytes: &[u8]) -> Result<VideoInfo, Stop> {
    let mut decoder = open(bytes, true)?;
    let mut size = Size { width: decoder.width().into(), height: decoder.height().into() };
    let (mut frames, mut total) = (0, 0);
    while let Some(frame) = decoder.next_frame_info()? {
        if frames == 0 {
            size = around(size, frame);
        }
        frames += 1;
        total += ticks(frame.delay);
    }
    // The canvas in colour and what is beneath a frame, and the indices of one frame.
    Ok(VideoInfo::new(VideoFormat::Gif, size, frames, (total, 100), size.pixels() * 7))
}

pub(super) fn decode(bytes: &[u8], indices: &[usize], take: Take<'_>) -> Result<(), Stop> {
    let mut decoder = open(bytes, false)?;
    let mut size = Size { width: decoder.width().into(), height: decoder.height().into() };
    let (mut canvas, mut beneath, mut indexed) = (Vec::new(), Vec::new(), Vec::new());
    let mut wanted = indices.iter().peekable();
    for at in 0.. {
        if wanted.peek().is_none() {
            return Ok(());
        }
        let frame = decoder.next_frame_info()?.ok_or("the file has fewer frames than at first")?;
        let (dispose, transparent) = (frame.dispose, frame.transparent);
        let local = frame.palette.clone();
        if at == 0 {
            size = around(size, frame);
            canvas.resize(size.rgb_bytes(), 0);
        }
        let place = Place::of(frame, size);
        indexed.clear();
        indexed.resize(decoder.buffer_size(), 0);
        decoder.read_into_buffer(&mut indexed)?;
        let palette = local.as_deref().or(decoder.global_palette()).unwrap_or_default();
        if at == 0 {
            // Outside of the first frame lies the transparent index, or index 0.
            let outside = colour(palette, transparent.unwrap_or(0));
            canvas.as_chunks_mut().0.iter_mut().for_each(|pixel| *pixel = outside);
        }
        if dispose == DisposalMethod::Previous {
            place.save(&canvas, &mut beneath);
        }
        place.draw(&mut canvas, &indexed, palette, transparent.filter(|_| at > 0));
        if wanted.next_if_eq(&&at).is_some() {
            take(Some(RgbView::new(size.width, size.height, &canvas)?))?;
        } else {
            take(None)?;
        }
        match dispose {
            DisposalMethod::Background => place.clear(&mut canvas),
            DisposalMethod::Previous => place.restore(&mut canvas, &beneath),
            DisposalMethod::Any | DisposalMethod::Keep => {}
        }
    }
    Ok(())
}

fn open(bytes: &[u8], skip: bool) -> Result<Decoder<Cursor<&[u8]>>, Stop> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    options.skip_frame_decoding(skip);
    // A frame has at most 65 535 squared indices; limits are checked against the header, and here against the canvas.
    options.set_memory_limit(MemoryLimit::Bytes(NonZeroU64::MAX));
    Ok(options.read_info(Cursor::new(bytes))?)
}

/// The logical screen, enlarged where its first frame passes its edge.
fn around(screen: Size, frame: &::gif::Frame<'_>) -> Size {
    Size {
        width: screen.width.max(u32::from(frame.left) + u32::from(frame.width)),
        height: screen.height.max(u32::from(frame.top) + u32::from(frame.height)),
    }
}

/// As Pillow has it: colours that a palette lacks are greys.
fn colour(palette: &[u8], index: u8) -> [u8; 3] {
    palette.as_chunks().0.get(usize::from(index)).copied().unwrap_or([index; 3])
}

/// Where a frame lies on the canvas, without what is outside of it.
struct Place {
    left: usize,
    top: usize,
    width: usize,
    height: usize,
    /// Of the frame, and of the canvas.
    stride: usize,
    canvas: usize,
}

impl Place {
    fn of(frame: &::gif::Frame<'_>, canvas: Size) -> Self {
        let side = |from: u16, length: u16, end: u32| {
            let from = usize::from(from).min(end as usize);
            (from, usize::from(length).min(end as usize - from))
        };
        let (left, width) = side(frame.left, frame.width, canvas.width);
        let (top, height) = side(frame.top, frame.height, canvas.height);
        let (stride, canvas) = (usize::from(frame.width), canvas.width as usize);
        Self { left, top, width, height, stride, canvas }
    }

    /// The bytes of each of its rows on a canvas.
    fn rows(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let (left, canvas, width) = (self.left, self.canvas, self.width);
        (self.top..self.top + self.height).map(move |row| {
            let start = (row * canvas + left) * 3;
            start..start + width * 3
        })
    }

    fn draw(&self, canvas: &mut [u8], indexed: &[u8], palette: &[u8], transparent: Option<u8>) {
        for (row, indices) in self.rows().zip(indexed.chunks_exact(self.stride.max(1))) {
            for (pixel, &index) in canvas[row].as_chunks_mut().0.iter_mut().zip(indices) {
                if Some(index) != transparent {
                    *pixel = colour(palette, index);
                }
            }
        }
    }

    fn save(&self, canvas: &[u8], beneath: &mut Vec<u8>) {
        beneath.clear();
        self.rows().for_each(|row| beneath.extend(&canvas[row]));
    }

    fn restore(&self, canvas: &mut [u8], beneath: &[u8]) {
        for (row, saved) in self.rows().zip(beneath.chunks_exact((self.width * 3).max(1))) {
            canvas[row].copy_from_slice(saved);
        }
    }

    fn clear(&self, canvas: &mut [u8]) {
        self.rows().for_each(|row| canvas[row].fill(0));
    }
}
