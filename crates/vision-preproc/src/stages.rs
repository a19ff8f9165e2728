//! The kernels by themselves, over data that stays in the first-level cache: what a stage would take if nothing else
//! were there. Entropy decoding is that of the whole file, and nothing after it. For benches, which compare it with the time
//! of the stage in a job.

use crate::decode::{Baseline, BaselineScratch};
use crate::kernels::{Horizontal, Level, Vertical, idct, upsample, ycc};
use crate::mode::Reduction;
use crate::resize::AxisKey;
use crate::{Error, Filter, Size, probe};

#[expect(missing_debug_implementations, reason = "work is a closure")]
/// A stage of the letterbox of a 4:2:0 JPEG file.
pub struct Stage {
    /// What it is called.
    pub name: &'static str,
    /// How often the work is done for an image.
    pub times: f64,
    /// Does it once.
    pub work: Box<dyn FnMut()>,
}

/// The kernels for `file`, which is resized to `to` by Lanczos. Blocks of a single mean are counted as all others.
///
/// # Errors
/// If the own decoder does not take the file, or would decode it upside down.
pub fn stages(file: &[u8], to: Size) -> Result<Vec<Stage>, Error> {
    let level = Level::detect();
    let from = probe(file)?.size();
    let (width, height) = (from.width as usize, from.height as usize);
    let mut entropy = Entropy::new(level, file);
    let blocks = entropy.decode().ok_or_else(|| Error::Shape {
        expected: "a baseline JPEG file".into(),
        found: "one for libjpeg".into(),
    })?;
    let entropy = Box::new(move || {
        let _ = entropy.decode();
    });
    let stage = |name, times, work| Stage { name, times, work };
    Ok(vec![
        stage("entropy decoding", 1.0, entropy),
        stage("inverse DCT", blocks as f64 / GROUP as f64, inverse_dct(level)),
        stage("upsampling", 2.0 * height as f64, upsampling(level, width)),
        stage("YCbCr to RGB", height as f64, colours(level, width)),
        stage("horizontal pass", height as f64 / ROWS as f64, across(level, from, to)),
        stage("vertical pass", f64::from(to.height), down(level, from, to)),
    ])
}

/// The codes of a file, decoded to coefficients that nobody uses.
struct Entropy {
    level: Level,
    file: Vec<u8>,
    scratch: Box<BaselineScratch>,
}

impl Entropy {
    fn new(level: Level, file: &[u8]) -> Self {
        Self { level, file: file.to_vec(), scratch: Box::default() }
    }

    /// How many blocks there are.
    fn decode(&mut self) -> Option<usize> {
        let scratch = std::mem::take(&mut self.scratch);
        let mut decoder = Baseline::open(&self.file, Reduction::Whole, self.level, scratch).ok()?;
        let blocks = decoder.skip().ok()?;
        self.scratch = decoder.into_scratch();
        Some(blocks)
    }
}

/// Blocks that are transformed at a time.
const GROUP: usize = 96;
/// Rows that are resized at a time.
const ROWS: usize = 4;

/// Twelve coefficients in the low frequencies of each block, as photographs have.
fn inverse_dct(level: Level) -> Box<dyn FnMut()> {
    let mut coefficients = vec![0; GROUP * 64];
    for block in coefficients.chunks_exact_mut(64) {
        for (at, value) in block.iter_mut().enumerate().filter(|(at, _)| at / 8 + at % 8 < 5) {
            *value = 40 - 7 * at as i16;
        }
    }
    let job = |at: usize| idct::Job { from: 64 * at as u32, to: 8 * at as u32 };
    let jobs: Vec<_> = (0..GROUP).map(job).collect();
    let mut plane = vec![0; 64 * GROUP];
    Box::new(move || {
        idct::blocks(level, 8, &coefficients, &[3; 64], &jobs, &mut plane, 8 * GROUP);
    })
}

fn upsampling(level: Level, width: usize) -> Box<dyn FnMut()> {
    let near = noise(width / 2 + 2 + upsample::SLACK);
    let mut line = vec![0; width + 2 * upsample::SLACK];
    Box::new(move || upsample::h2v2(level, &near, &near, &mut line, width / 2))
}

fn colours(level: Level, width: usize) -> Box<dyn FnMut()> {
    let line = noise(width);
    let mut rgb = vec![0; width * 3];
    Box::new(move || ycc::row(level, &line, &line, &line, &mut rgb))
}

fn across(level: Level, from: Size, to: Size) -> Box<dyn FnMut()> {
    let mut pass = Horizontal::default();
    pass.set(level, axis(from.width, to.width));
    let rows = noise(from.width as usize * 3 * ROWS);
    let mut resized = vec![0; to.width as usize * 3 * ROWS];
    Box::new(move || pass.rows(&rows, ROWS, &mut resized))
}

fn down(level: Level, from: Size, to: Size) -> Box<dyn FnMut()> {
    let mut pass = Vertical::default();
    pass.set(level, axis(from.height, to.height));
    let mut row = vec![0; to.width as usize * 3];
    let y = to.height as usize / 2;
    let taps = pass.axis().taps_of(y).1.len().next_multiple_of(Vertical::GROUP);
    let rows = noise(row.len() * taps);
    let offsets: Vec<_> = (0..taps).map(|tap| tap * row.len()).collect();
    Box::new(move || pass.row(y, &rows, &offsets, &mut row))
}

fn axis(input: u32, output: u32) -> AxisKey {
    AxisKey { input, reduction: 1, output, filter: Filter::Lanczos, flipped: false, short: false }
}

fn noise(len: usize) -> Vec<u8> {
    (0..len as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}
