//! Windows and OS/2 bitmaps, uncompressed, after Pillow's `BmpImagePlugin`.
//!
//! Run-length encoded bitmaps are refused by name: no tool has written photographs in them for decades.

use super::{Header, Orientation, Palette, Reason};
use crate::{RgbImage, Size};

/// Where the pixels are and how they are stored.
struct Layout {
    size: Size,
    bits: u32,
    top_down: bool,
    pixels_at: usize,
    palette: Palette,
    /// For 24 and 32 bits, the places of red, green and blue within a pixel.
    order: [usize; 3],
    /// For 16 bits, whether green has six bits.
    wide_green: bool,
}

pub(super) fn header(bytes: &[u8]) -> Result<Header, Reason> {
    Ok(Header { stored: layout(bytes)?.size, orientation: Orientation::Upright })
}

pub(super) fn decode(bytes: &[u8]) -> Result<RgbImage, Reason> {
    let layout = layout(bytes)?;
    let (width, height) = (layout.size.width as usize, layout.size.height as usize);
    let stride = (width * layout.bits as usize).div_ceil(32) * 4;
    let stored = bytes
        .get(layout.pixels_at..)
        .and_then(|rest| rest.get(..stride.checked_mul(height)?))
        .ok_or("the file is truncated")?;
    let mut rgb = vec![0; layout.size.rgb_bytes()];
    for (y, row) in stored.chunks_exact(stride).enumerate() {
        let y = if layout.top_down { y } else { height - 1 - y };
        expand_row(row, &mut rgb[y * width * 3..(y + 1) * width * 3], &layout);
    }
    Ok(RgbImage::new(layout.size.width, layout.size.height, rgb)?)
}

fn expand_row(row: &[u8], rgb: &mut [u8], layout: &Layout) {
    let pixels = rgb.as_chunks_mut::<3>().0;
    let [r, g, b] = layout.order;
    match layout.bits {
        16 => {
            let scaled = |value: u16, most: u16| (u32::from(value) * 255 / u32::from(most)) as u8;
            for (pixel, &stored) in pixels.iter_mut().zip(row.as_chunks().0) {
                let v = u16::from_le_bytes(stored);
                *pixel = if layout.wide_green {
                    [scaled(v >> 11, 31), scaled(v >> 5 & 63, 63), scaled(v & 31, 31)]
                } else {
                    [scaled(v >> 10 & 31, 31), scaled(v >> 5 & 31, 31), scaled(v & 31, 31)]
                };
            }
        }
        24 | 32 => {
            let step = layout.bits as usize / 8;
            for (pixel, stored) in pixels.iter_mut().zip(row.chunks_exact(step)) {
                *pixel = [stored[r], stored[g], stored[b]];
            }
        }
        bits => {
            let bits = bits as usize;
            for (x, pixel) in pixels.iter_mut().enumerate() {
                let index = row[x * bits / 8] >> (8 - bits - x * bits % 8);
                *pixel = layout.palette.0[usize::from(index) & ((1 << bits) - 1)];
            }
        }
    }
}

fn layout(bytes: &[u8]) -> Result<Layout, Reason> {
    let u16_at = |at: usize| {
        let field = bytes.get(at..at + 2).ok_or("the header is truncated")?;
        Ok::<_, Reason>(u32::from(u16::from_le_bytes([field[0], field[1]])))
    };
    let u32_at = |at: usize| Ok::<_, Reason>(u16_at(at)? | u16_at(at + 2)? << 16);
    let header_len = u32_at(14)? as usize;
    let old = match header_len {
        12 => true,
        40 | 52 | 56 | 64 | 108 | 124 => false,
        _ => return Err(format!("unknown header of {header_len} bytes").into()),
    };
    let (width, height, bits, compression, colors) = if old {
        (u16_at(18)?, u16_at(20)?, u16_at(24)?, 0, 0)
    } else {
        (u32_at(18)?, u32_at(22)?, u16_at(28)?, u32_at(30)?, u32_at(46)?)
    };
    let top_down = !old && height >> 24 == 0xff;
    let size = Size { width, height: if top_down { height.wrapping_neg() } else { height } };
    if size.pixels() == 0 || width > i32::MAX as u32 {
        return Err("the header has an empty or impossible side".into());
    }
    if ![1, 4, 8, 16, 24, 32].contains(&bits) {
        return Err(format!("{bits} bits per pixel; 1, 4, 8, 16, 24 and 32 are supported").into());
    }
    let masks_at = 54;
    let (order, wide_green) = match compression {
        0 => ([2, 1, 0], false),
        3 => {
            let masks = [u32_at(masks_at)?, u32_at(masks_at + 4)?, u32_at(masks_at + 8)?];
            mask_order(bits, masks)?
        }
        1 | 2 => return Err("run-length encoding is not supported; save it uncompressed".into()),
        _ => return Err(format!("unknown compression {compression}").into()),
    };
    let colors = if colors == 0 { 1_u32 << bits.min(8) } else { colors };
    let entry = if old { 3 } else { 4 };
    let palette_at = 14 + header_len;
    let mut pixels_at = u32_at(10)? as usize;
    let mut stored = Vec::new();
    if bits <= 8 {
        if colors > 65_536 {
            return Err(format!("a palette of {colors} colours").into());
        }
        let end = palette_at + entry * colors as usize;
        let table = bytes.get(palette_at..end).ok_or("the palette is truncated")?;
        stored.extend(table.chunks_exact(entry).take(256).flat_map(|c| [c[2], c[1], c[0]]));
        // Some writers give the place of the palette as that of the pixels.
        if pixels_at == palette_at {
            pixels_at = end;
        }
    }
    let palette = Palette::new(&stored);
    Ok(Layout { size, bits, top_down, pixels_at, palette, order, wide_green })
}

/// The bit fields that Pillow knows, as byte places of red, green and blue.
fn mask_order(bits: u32, masks: [u32; 3]) -> Result<([usize; 3], bool), Reason> {
    Ok(match (bits, masks) {
        (16, [0xf800, 0x7e0, 0x1f]) => ([0; 3], true),
        (16, [0x7c00, 0x3e0, 0x1f]) => ([0; 3], false),
        (24 | 32, [0xff_0000, 0xff00, 0xff]) | (32, [0, 0, 0]) => ([2, 1, 0], false),
        (32, [0xff00_0000, 0xff_0000, 0xff00]) => ([3, 2, 1], false),
        (32, [0xff00_0000, 0xff00, 0xff]) => ([3, 1, 0], false),
        (32, [0xff, 0xff00, 0xff_0000]) => ([0, 1, 2], false),
        _ => return Err(format!("unknown bit fields {masks:x?} for {bits} bits").into()),
    })
}
