//! WebP through the `image-webp` crate.
//!
//! Only the colour bitstream is handed to it, in a container of its own: alpha is dropped anyway, and of an animation
//! the first frame is wanted, uncovered canvas being black as libwebp's animation decoder leaves it.

use std::io::Cursor;

use super::{Header, Reason, exif};
use crate::{RgbImage, Size};

/// The first picture of a file and where it lies on the canvas.
struct First<'a> {
    /// `VP8 ` or `VP8L`.
    kind: [u8; 4],
    data: &'a [u8],
    canvas: Option<Size>,
    left: usize,
    top: usize,
    exif: Option<&'a [u8]>,
    xmp: Option<&'a [u8]>,
}

pub(super) fn header(bytes: &[u8]) -> Result<Header, Reason> {
    let first = first(bytes)?;
    let stored = match first.canvas {
        Some(canvas) => canvas,
        None => frame_size(first.kind, first.data)?,
    };
    if stored.pixels() == 0 {
        return Err("the header has an empty side".into());
    }
    Ok(Header { stored, orientation: exif::orientation(first.exif, first.xmp) })
}

pub(super) fn decode(bytes: &[u8]) -> Result<RgbImage, Reason> {
    let first = first(bytes)?;
    let frame = frame_size(first.kind, first.data)?;
    let canvas = first.canvas.unwrap_or(frame);
    if first.left + frame.width as usize > canvas.width as usize
        || first.top + frame.height as usize > canvas.height as usize
    {
        return Err(format!("a frame of {frame} leaves the canvas of {canvas}").into());
    }
    let mut container = Vec::with_capacity(first.data.len() + 21);
    let padded = first.data.len() + first.data.len() % 2;
    container.extend(b"RIFF");
    container.extend((u32::try_from(padded)? + 12).to_le_bytes());
    container.extend(b"WEBP");
    container.extend(first.kind);
    container.extend(u32::try_from(first.data.len())?.to_le_bytes());
    container.extend(first.data);
    container.resize(padded + 20, 0);
    let mut decoder = image_webp::WebPDecoder::new(Cursor::new(container))?;
    let mut raw = vec![0; decoder.output_buffer_size().ok_or("the image exceeds the memory")?];
    decoder.read_image(&mut raw)?;
    if decoder.has_alpha() {
        let pixels = frame.rgb_bytes() / 3;
        for at in 0..pixels {
            raw.copy_within(at * 4..at * 4 + 3, at * 3);
        }
        raw.truncate(pixels * 3);
    }
    if frame == canvas {
        return Ok(RgbImage::new(frame.width, frame.height, raw)?);
    }
    let mut rgb = vec![0; canvas.rgb_bytes()];
    let stride = canvas.width as usize * 3;
    let len = frame.width as usize * 3;
    for (row, target) in raw.chunks_exact(len).zip(rgb.chunks_exact_mut(stride).skip(first.top)) {
        target[first.left * 3..first.left * 3 + len].copy_from_slice(row);
    }
    Ok(RgbImage::new(canvas.width, canvas.height, rgb)?)
}

fn first(bytes: &[u8]) -> Result<First<'_>, Reason> {
    let mut first =
        First { kind: [0; 4], data: &[], canvas: None, left: 0, top: 0, exif: None, xmp: None };
    // What follows the picture may turn it, so a file that ends early is refused even if the picture is whole; libwebp
    // does the same.
    let riff = bytes[4..8].first_chunk().map_or(0, |&len| u32::from_le_bytes(len) as usize);
    let content = riff.checked_add(8).and_then(|end| bytes.get(12..end));
    for (kind, body) in chunks(content.ok_or("the file is truncated")?) {
        match (&kind, body) {
            (b"VP8X", [_, _, _, _, w0, w1, w2, h0, h1, h2, ..]) => {
                first.canvas =
                    Some(Size { width: u24(*w0, *w1, *w2) + 1, height: u24(*h0, *h1, *h2) + 1 });
            }
            (b"VP8 " | b"VP8L", _) if first.data.is_empty() => {
                (first.kind, first.data) = (kind, body);
            }
            (b"ANMF", [x0, x1, x2, y0, y1, y2, ..]) if first.data.is_empty() => {
                first.left = u24(*x0, *x1, *x2) as usize * 2;
                first.top = u24(*y0, *y1, *y2) as usize * 2;
                let picture = chunks(body.get(16..).unwrap_or_default())
                    .find(|(kind, _)| matches!(kind, b"VP8 " | b"VP8L"));
                (first.kind, first.data) = picture.ok_or("the first frame holds no picture")?;
            }
            (b"EXIF", _) => first.exif = Some(body),
            (b"XMP ", _) => first.xmp = Some(body),
            _ => {}
        }
    }
    if first.data.is_empty() {
        return Err("the file holds no whole picture chunk".into());
    }
    Ok(first)
}

/// Name and content of each whole chunk.
fn chunks(mut rest: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    std::iter::from_fn(move || {
        let (&[k0, k1, k2, k3, l0, l1, l2, l3], after) = rest.split_first_chunk::<8>()?;
        let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let body = after.get(..len)?;
        rest = after.get(len + len % 2..).unwrap_or_default();
        Some(([k0, k1, k2, k3], body))
    })
}

fn frame_size(kind: [u8; 4], data: &[u8]) -> Result<Size, Reason> {
    let size = match (&kind, data) {
        (b"VP8 ", [_, _, _, 0x9d, 0x01, 0x2a, w0, w1, h0, h1, ..]) => Size {
            width: u32::from(u16::from_le_bytes([*w0, *w1]) & 0x3fff),
            height: u32::from(u16::from_le_bytes([*h0, *h1]) & 0x3fff),
        },
        (b"VP8L", [0x2f, b0, b1, b2, b3, ..]) => {
            let bits = u32::from_le_bytes([*b0, *b1, *b2, *b3]);
            Size { width: (bits & 0x3fff) + 1, height: ((bits >> 14) & 0x3fff) + 1 }
        }
        _ => return Err("the header of the picture is broken".into()),
    };
    Ok(size)
}

fn u24(b0: u8, b1: u8, b2: u8) -> u32 {
    u32::from_le_bytes([b0, b1, b2, 0])
}
