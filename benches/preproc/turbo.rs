//! The best that existing parts give in Rust: libjpeg-turbo with its assembler, and `fast_image_resize`.

use std::path::Path;

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use vision_preproc::{Size, letterbox, smart_resize};

use crate::Result;
use crate::job::{CLIP_MEAN, CLIP_STD, Job};
use crate::libjpeg::Libjpeg;
use crate::worker::Peer;

/// Frames and outputs are kept between images, or made anew for each.
pub(crate) struct Turbo {
    libjpeg: Libjpeg,
    reuse: bool,
    resizer: Resizer,
    frame: Vec<u8>,
    scaled: Vec<u8>,
    values: Vec<f32>,
}

impl Turbo {
    /// Loads the library at `path`.
    pub(crate) fn open(path: &str, reuse: bool) -> Result<Self> {
        Ok(Self {
            libjpeg: Libjpeg::open(Path::new(path))?,
            reuse,
            resizer: Resizer::new(),
            frame: Vec::new(),
            scaled: Vec::new(),
            values: Vec::new(),
        })
    }

    fn resize(&mut self, (width, height): (u32, u32), to: Size, filter: FilterType) -> Result<()> {
        self.scaled.resize(to.width as usize * to.height as usize * 3, 0);
        let source = ImageRef::new(width, height, &self.frame, PixelType::U8x3)?;
        let mut target =
            Image::from_slice_u8(to.width, to.height, &mut self.scaled, PixelType::U8x3)?;
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter));
        self.resizer.resize(&source, &mut target, &options)?;
        Ok(())
    }

    /// The scaled picture in the middle of `[3, side, side]`.
    fn letterbox(&mut self, side: u32, (width, height): (u32, u32)) -> Result<()> {
        let canvas = Size { width: side, height: side };
        let place = letterbox(Size { width, height }, canvas);
        self.resize((width, height), place.size, FilterType::Lanczos3)?;
        let side = side as usize;
        let (left, top) = (place.left as usize, place.top as usize);
        let stride = place.size.width as usize * 3;
        self.values.clear();
        self.values.resize(3 * side * side, -1.0);
        for (channel, plane) in self.values.chunks_exact_mut(side * side).enumerate() {
            let rows = plane.chunks_exact_mut(side).skip(top);
            for (row, source) in rows.zip(self.scaled.chunks_exact(stride)) {
                let pixels = source.as_chunks::<3>().0;
                for (value, pixel) in row[left..].iter_mut().zip(pixels) {
                    *value = f32::from(pixel[channel]) * (1.0 / 127.5) - 1.0;
                }
            }
        }
        Ok(())
    }

    /// Patch rows of 1176 in blocks of two by two.
    fn qwen(&mut self, max_pixels: u64, (width, height): (u32, u32)) -> Result<()> {
        let size = smart_resize(Size { width, height }, 28, 3136, max_pixels)?;
        self.resize((width, height), size, FilterType::CatmullRom)?;
        let stride = size.width as usize * 3;
        let blocks = size.width as usize / 28;
        let scale = CLIP_STD.map(|std| 1.0 / (255.0 * std));
        let bias = [0, 1, 2].map(|channel| -CLIP_MEAN[channel] / CLIP_STD[channel]);
        self.values.resize(size.width as usize * size.height as usize * 6, 0.0);
        for (index, patch) in self.values.as_chunks_mut::<1176>().0.iter_mut().enumerate() {
            let (block, inner) = (index / 4, index % 4);
            let top = block / blocks * 28 + inner / 2 * 14;
            let left = (block % blocks * 28 + inner % 2 * 14) * 3;
            for y in 0..14 {
                let at = (top + y) * stride + left;
                let line: &[u8; 42] = self.scaled[at..at + 42].try_into()?;
                for channel in 0..3 {
                    let row: [f32; 14] = std::array::from_fn(|x| {
                        f32::from(line[x * 3 + channel]) * scale[channel] + bias[channel]
                    });
                    for frame in 0..2 {
                        let at = channel * 392 + frame * 196 + y * 14;
                        patch[at..at + 14].copy_from_slice(&row);
                    }
                }
            }
        }
        Ok(())
    }
}

impl Peer for Turbo {
    fn run(&mut self, job: Job, image: &[u8]) -> Result<&[f32]> {
        // Twice the target is left, as is usual.
        let least = if let Job::Fast { side } = job { 2 * side } else { u32::MAX };
        let size = self.libjpeg.decode(image, least, &mut self.frame);
        match job {
            Job::Letterbox { side } | Job::Fast { side } => self.letterbox(side, size)?,
            Job::Qwen { max_pixels } => self.qwen(max_pixels, size)?,
        }
        Ok(&self.values)
    }

    fn forget(&mut self) {
        if !self.reuse {
            (self.frame, self.scaled, self.values) = (Vec::new(), Vec::new(), Vec::new());
            self.resizer.reset_internal_buffers();
        }
    }
}
