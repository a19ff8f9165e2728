//! PNG through the `png` crate, expanded to RGB as Pillow's `PngImagePlugin` and `Convert.c` do.

use std::io::Cursor;

use png::{BitDepth, ColorType, Decoder, Limits as PngLimits, Transformations};

use super::{Header, Palette, Reason, exif, expand_grey};
use crate::{RgbImage, Size};

pub(super) fn header(bytes: &[u8]) -> Result<Header, Reason> {
    let ihdr = bytes.get(8..29).filter(|ihdr| &ihdr[4..8] == b"IHDR").ok_or("no IHDR chunk")?;
    let u32_at =
        |at: usize| u32::from_be_bytes([ihdr[at], ihdr[at + 1], ihdr[at + 2], ihdr[at + 3]]);
    let stored = Size { width: u32_at(8), height: u32_at(12) };
    if stored.pixels() == 0 {
        return Err("the header has an empty side".into());
    }
    let (mut exif, mut xmp) = (None, None);
    let mut rest = &bytes[8..];
    while let Some((&[l3, l2, l1, l0, ref kind @ ..], after)) = rest.split_first_chunk::<8>() {
        let len = u32::from_be_bytes([l3, l2, l1, l0]) as usize;
        let Some(body) = after.get(..len) else { break };
        match kind {
            b"eXIf" => exif = Some(body),
            // Keyword, two compression bytes that must be zero, then text.
            b"iTXt" if body.starts_with(b"XML:com.adobe.xmp\0\0\0") => xmp = Some(body),
            _ => {}
        }
        rest = after.get(len + 4..).unwrap_or_default();
    }
    Ok(Header { stored, orientation: exif::orientation(exif, xmp) })
}

pub(super) fn decode(bytes: &[u8]) -> Result<RgbImage, Reason> {
    // The caller has checked the dimensions, so the crate's own guess at a limit is lifted.
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), PngLimits { bytes: usize::MAX });
    decoder.set_transformations(Transformations::IDENTITY);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let mut reader = decoder.read_info()?;
    let size = Size { width: reader.info().width, height: reader.info().height };
    let mut raw = vec![0; reader.output_buffer_size().ok_or("the image exceeds the memory")?];
    let frame = reader.next_frame(&mut raw)?;
    if (frame.width, frame.height) != (size.width, size.height) {
        return Err("the first frame does not cover the canvas".into());
    }
    if (frame.color_type, frame.bit_depth) == (ColorType::Rgb, BitDepth::Eight) {
        raw.truncate(size.rgb_bytes());
        return Ok(RgbImage::new(size.width, size.height, raw)?);
    }
    let palette = Palette::new(reader.info().palette.as_deref().unwrap_or_default());
    let mut rgb = vec![0; size.rgb_bytes()];
    let width = size.width as usize;
    let mut samples = vec![0; width];
    for (row, rgb) in raw.chunks_exact(frame.line_size).zip(rgb.chunks_exact_mut(width * 3)) {
        expand_row(row, rgb, &mut samples, frame.color_type, frame.bit_depth, &palette);
    }
    Ok(RgbImage::new(size.width, size.height, rgb)?)
}

fn expand_row(
    row: &[u8],
    rgb: &mut [u8],
    samples: &mut [u8],
    color: ColorType,
    depth: BitDepth,
    palette: &Palette,
) {
    let wide = depth == BitDepth::Sixteen;
    match color {
        ColorType::Indexed => {
            unpack(row, depth, 1, samples);
            palette.expand(samples, rgb);
        }
        ColorType::Grayscale if wide => {
            // Mode I;16: `I16_RGB` clips at 255, it does not scale.
            for (grey, &[high, low]) in samples.iter_mut().zip(row.as_chunks().0) {
                *grey = if high == 0 { low } else { 255 };
            }
            expand_grey(samples, rgb);
        }
        ColorType::Grayscale => {
            let scale = match depth {
                BitDepth::One => 255,
                BitDepth::Two => 85,
                BitDepth::Four => 17,
                BitDepth::Eight | BitDepth::Sixteen => 1,
            };
            unpack(row, depth, scale, samples);
            expand_grey(samples, rgb);
        }
        // Everything else keeps the high byte of 16 bits and drops alpha.
        ColorType::GrayscaleAlpha => {
            let step = if wide { 4 } else { 2 };
            for (pixel, stored) in rgb.as_chunks_mut().0.iter_mut().zip(row.chunks_exact(step)) {
                *pixel = [stored[0]; 3];
            }
        }
        ColorType::Rgb | ColorType::Rgba => {
            let bytes = if wide { 2 } else { 1 };
            let step = bytes * color.samples();
            for (pixel, stored) in rgb.as_chunks_mut().0.iter_mut().zip(row.chunks_exact(step)) {
                *pixel = [stored[0], stored[bytes], stored[2 * bytes]];
            }
        }
    }
}

/// Spreads samples of 1 to 8 bits, the first in the highest bits, over bytes.
fn unpack(row: &[u8], depth: BitDepth, scale: u8, samples: &mut [u8]) {
    let bits = depth as usize;
    let mask = ((1_u16 << bits) - 1) as u8;
    for (x, sample) in samples.iter_mut().enumerate() {
        let bit = x * bits;
        *sample = ((row[bit / 8] >> (8 - bits - bit % 8)) & mask) * scale;
    }
}
