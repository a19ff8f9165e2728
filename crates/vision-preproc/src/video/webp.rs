//! The frames of a WebP through the `image-webp` crate, which composes them; where one is laid over another, opaque pixels
//! may be one less than libwebp's.

use std::io::Cursor;

use image_webp::WebPDecoder;

use super::file::{Stop, Take, VideoFormat, VideoInfo};
use crate::{RgbView, Size};

pub(super) fn probe(bytes: &[u8]) -> Result<VideoInfo, Stop> {
    let decoder = WebPDecoder::new(Cursor::new(bytes))?;
    let (width, height) = decoder.dimensions();
    let size = Size { width, height };
    let (frames, ticks) = match decoder.is_animated() {
        true => (decoder.num_frames() as usize, decoder.loop_duration()),
        false => (1, 0),
    };
    // The canvas, a frame, and what is handed out, with alpha.
    Ok(VideoInfo::new(VideoFormat::WebP, size, frames, (ticks, 1000), size.pixels() * 16))
}

pub(super) fn decode(bytes: &[u8], indices: &[usize], take: Take<'_>) -> Result<(), Stop> {
    let mut decoder = WebPDecoder::new(Cursor::new(bytes))?;
    if decoder.is_animated() {
        // What a frame leaves is cleared only for who names a colour; as libwebp does, with nothing.
        decoder.set_background_color([0; 4])?;
    }
    let (width, height) = decoder.dimensions();
    let mut raw = vec![0; decoder.output_buffer_size().ok_or("the image exceeds the memory")?];
    let mut rgb = Vec::new();
    let mut wanted = indices.iter().peekable();
    for at in 0.. {
        if wanted.peek().is_none() {
            return Ok(());
        }
        match decoder.is_animated() {
            true => drop(decoder.read_frame(&mut raw)?),
            false => decoder.read_image(&mut raw)?,
        }
        if wanted.next_if_eq(&&at).is_none() {
            take(None)?;
            continue;
        }
        let pixels = match decoder.has_alpha() {
            true => {
                rgb.clear();
                rgb.extend(raw.as_chunks::<4>().0.iter().flat_map(|[r, g, b, _]| [*r, *g, *b]));
                &rgb
            }
            false => &raw,
        };
        take(Some(RgbView::new(width, height, pixels)?))?;
    }
    Ok(())
}
