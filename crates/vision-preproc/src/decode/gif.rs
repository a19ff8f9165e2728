//! The first frame of a GIF through the `gif` crate, on the canvas that Pillow's `GifImagePlugin` prepares.

use std::io::Cursor;
use std::num::NonZeroU64;

use ::gif::{ColorOutput, DecodeOptions, Decoder, MemoryLimit};

use super::{Header, Orientation, Palette, Reason};
use crate::{RgbImage, Size};

pub(super) fn header(bytes: &[u8]) -> Result<Header, Reason> {
    let mut decoder = open(bytes)?;
    let screen = (decoder.width(), decoder.height());
    let frame = decoder.next_frame_info()?.ok_or("the file holds no frame")?;
    let stored = canvas(screen, frame);
    if stored.pixels() == 0 || frame.width == 0 || frame.height == 0 {
        return Err("the header has an empty side".into());
    }
    Ok(Header { stored, orientation: Orientation::Upright })
}

pub(super) fn decode(bytes: &[u8]) -> Result<RgbImage, Reason> {
    let mut decoder = open(bytes)?;
    let screen = (decoder.width(), decoder.height());
    let frame = decoder.next_frame_info()?.ok_or("the file holds no frame")?;
    let size = canvas(screen, frame);
    let (left, top, width) =
        (usize::from(frame.left), usize::from(frame.top), usize::from(frame.width));
    // Outside the frame lies the transparent index, or index 0.
    let background = frame.transparent.unwrap_or(0);
    let local = frame.palette.clone();
    let mut indices = vec![0; decoder.buffer_size()];
    decoder.read_into_buffer(&mut indices)?;
    let palette = Palette::new(local.as_deref().or(decoder.global_palette()).unwrap_or_default());
    let stride = size.width as usize;
    let mut canvas = vec![background; size.rgb_bytes() / 3];
    for (row, target) in indices.chunks_exact(width).zip(canvas.chunks_exact_mut(stride).skip(top))
    {
        target[left..left + width].copy_from_slice(row);
    }
    let mut rgb = vec![0; size.rgb_bytes()];
    palette.expand(&canvas, &mut rgb);
    Ok(RgbImage::new(size.width, size.height, rgb)?)
}

fn open(bytes: &[u8]) -> Result<Decoder<Cursor<&[u8]>>, Reason> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::Indexed);
    // A frame has at most 65 535 squared indices; the caller's own limit is checked against the header.
    options.set_memory_limit(MemoryLimit::Bytes(NonZeroU64::MAX));
    Ok(options.read_info(Cursor::new(bytes))?)
}

/// The logical screen, enlarged where the frame passes its edge.
fn canvas((width, height): (u16, u16), frame: &::gif::Frame<'_>) -> Size {
    Size {
        width: u32::from(width).max(u32::from(frame.left) + u32::from(frame.width)),
        height: u32::from(height).max(u32::from(frame.top) + u32::from(frame.height)),
    }
}
