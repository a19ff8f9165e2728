//! The image of the requests: waves of colour, so that patches differ and nothing is downloaded.

use std::{fs::File, io::BufWriter, path::Path};

use crate::Result;

/// Writes a PNG of `width` x `height`.
pub(crate) fn write(path: &Path, width: u32, height: u32) -> Result<()> {
    let mut pixels = Vec::with_capacity(width as usize * height as usize * 3);
    for (y, x) in (0..height).flat_map(|y| (0..width).map(move |x| (y as f32, x as f32))) {
        let wave = |a: f32, b: f32| (127.5 + 127.0 * (x * a + y * b).sin()) as u8;
        pixels.extend([wave(0.021, 0.013), wave(-0.009, 0.037), wave(0.053, -0.006)]);
    }
    let mut encoder = png::Encoder::new(BufWriter::new(File::create(path)?), width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.write_header()?.write_image_data(&pixels)?;
    Ok(())
}
