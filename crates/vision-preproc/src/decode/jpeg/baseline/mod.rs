//! A decoder for baseline JPEG (ITU-T T.81, sequential DCT with Huffman coding), bit-equal to libjpeg-turbo.
//!
//! ```text
//! bytes -- bits: unstuff --> bits -- scan: Huffman --> coefficients   some MCUs at a time, in the first-level cache
//! coefficients -- idct --> samples of each component                  a row of MCUs at a time
//! samples -- upsample, ycc --> RGB                                   a row at a time
//! ```
//!
//! What is rare is left to libjpeg, which is then the only place to decide what a damaged or strange file looks like:
//! everything that is not plain is [`Irregular`], and the caller starts anew with libjpeg. Until then the rows are
//! equal, so that those which were handed out already can be skipped.

mod bits;
mod entry;
mod frame;
mod huffman;
mod memory;
mod plane;
mod scan;
mod step;
mod stream;

use crate::Size;
use crate::kernels::{Level, idct, upsample, ycc};
use crate::mode::Reduction;

pub(super) use frame::ZIGZAG;
use frame::{Frame, Sampling};
use huffman::{Class, Tables};
use memory::Block;
use plane::Plane;
use scan::Blocks;
use stream::Scan;

/// Blocks that are transformed at a time.
const GROUP: usize = 96;

/// The file is not for this decoder.
#[derive(Debug, thiserror::Error)]
#[error("the file can only be decoded at its whole size")]
pub(crate) struct Irregular;

/// A file that is decoded a few rows at a time.
pub(crate) struct Decoder<'a> {
    file: &'a [u8],
    frame: Frame,
    output: Output,
    level: Level,
    scratch: Box<Scratch>,
    /// The blocks of an MCU.
    blocks: Vec<Block>,
    /// Rows of MCUs that are decoded.
    mcu_rows: usize,
    /// Blocks up to the end of the scan, and up to the next restart marker or the end.
    until_end: usize,
    until_restart: usize,
    /// What a block takes in the file, about.
    bytes_per_block: usize,
    /// How many restart markers there were.
    restarts: usize,
    /// The last DC coefficient of each component.
    predictions: [i32; 3],
    /// Rows that were handed out.
    rows: usize,
}

/// What the samples are, which depends on the size that the image is decoded at.
#[derive(Debug)]
struct Output {
    width: usize,
    height: usize,
    /// How the samples of chroma are subsampled.
    sampling: Sampling,
    /// Whether chroma is filtered when it is made larger, and not repeated.
    filters: bool,
    /// The sides of blocks of luma and of chroma.
    sides: [usize; 2],
}

impl Output {
    fn new(frame: &Frame, reduction: Reduction) -> Self {
        let Size { width, height } =
            reduction.apply(Size { width: frame.width as u32, height: frame.height as u32 });
        let (width, height) = (width as usize, height as usize);
        let side = reduction.block_side();
        // Chroma is reduced by less where it then needs no upsampling.
        let (sampling, chroma) = match frame.sampling {
            Sampling::H2V2 if side < 8 => (Sampling::H1V1, 2 * side),
            sampling => (sampling, side),
        };
        // libjpeg repeats the samples of chroma that has too few columns for its filter.
        let (h, _) = sampling.factors();
        let filters = h == 1 || width.div_ceil(h) > 2;
        Self { width, height, sampling, filters, sides: [side, chroma] }
    }

    /// The side of the blocks of `component`.
    fn side(&self, component: usize) -> usize {
        self.sides[component.min(1)]
    }
}

/// Memory that can be used for one file after the other.
#[derive(Default)]
pub(crate) struct Scratch {
    tables: Tables,
    scan: Blocks,
    jobs: [Vec<idct::Job>; 3],
    planes: [Plane; 3],
    /// Cb and Cr in full width.
    chroma: [Vec<u8>; 2],
}

impl<'a> Decoder<'a> {
    /// Reads the header of `file`.
    pub(crate) fn open(
        file: &'a [u8],
        reduction: Reduction,
        level: Level,
        mut scratch: Box<Scratch>,
    ) -> Result<Self, Irregular> {
        let frame = Frame::read(file)?;
        let (h, v) = frame.sampling.factors();
        let mcus_across = frame.width.div_ceil(8 * h);
        let output = Output::new(&frame, reduction);
        scratch.tables.start();
        let mut blocks = Vec::new();
        for (at, component) in frame.components.iter().enumerate() {
            let lookup = scratch.scan.memory_mut().lookup_mut();
            let dc = scratch.tables.index(Class::Dc, &component.dc, lookup)?;
            let ac = scratch.tables.index(Class::Ac, &component.ac, lookup)?;
            let side = output.side(at);
            // Up to the last place of the zigzag with a coefficient that is used.
            let is_used = |&at: &u8| usize::from(at / 8).max(usize::from(at % 8)) < side;
            let wanted = ZIGZAG.iter().rposition(is_used).map_or(0, |last| last + 1);
            let unwanted = match side {
                8 => ac,
                _ => scratch.tables.index(Class::Unwanted, &component.ac, lookup)?,
            };
            let (h, v) = if at == 0 { (h, v) } else { (1, 1) };
            let quant = component.quant;
            let block =
                |n| Block { component: at, x: n % h, y: n / h, dc, ac, wanted, unwanted, quant };
            blocks.extend((0..h * v).map(block));
            // Two rows of MCUs: the last row of one is handed out with the first of the next.
            scratch.planes[at].resize(mcus_across * side * h, 2 * side * v);
        }
        for line in &mut scratch.chroma {
            // Of a grey image it is what neutral chroma looks like.
            line.clear();
            line.resize(output.width.next_multiple_of(2) + 2 * upsample::SLACK, 128);
        }
        scratch.scan.memory_mut().set_order(&blocks);
        scratch.scan.start(frame.scan);
        let until_end = mcus_across * frame.height.div_ceil(8 * v) * blocks.len();
        let until_restart = match frame.restart_interval {
            0 => until_end,
            mcus => (mcus * blocks.len()).min(until_end),
        };
        let bytes_per_block = (file.len() - frame.scan) / until_end;
        Ok(Self {
            file,
            frame,
            output,
            level,
            scratch,
            blocks,
            mcu_rows: 0,
            until_end,
            until_restart,
            bytes_per_block,
            restarts: 0,
            predictions: [0; 3],
            rows: 0,
        })
    }

    /// Gives the memory back.
    pub(crate) fn into_scratch(self) -> Box<Scratch> {
        self.scratch
    }

    /// Columns and rows of the file.
    pub(crate) fn size(&self) -> (u32, u32) {
        (self.frame.width as u32, self.frame.height as u32)
    }

    /// Writes as many whole rows of RGB as are ready and fit into `out`; returns how many, 0 after the last.
    pub(crate) fn read(&mut self, out: &mut [u8]) -> Result<usize, Irregular> {
        let stride = self.output.width * 3;
        let fit = (out.len() / stride).min(self.output.height - self.rows);
        if fit == 0 {
            return Ok(0);
        }
        while self.ready() <= self.rows {
            self.decode_mcu_row()?;
        }
        let rows = fit.min(self.ready() - self.rows);
        for out in out.chunks_exact_mut(stride).take(rows) {
            self.write_row(self.rows, out);
            self.rows += 1;
        }
        Ok(rows)
    }

    /// Rows that can be written before more is decoded.
    fn ready(&self) -> usize {
        let Output { height, ref sampling, filters, sides, .. } = self.output;
        let (_, v) = self.frame.sampling.factors();
        let decoded = self.mcu_rows * sides[0] * v;
        if decoded >= height {
            return height;
        }
        // The last row of an MCU is a mixture with the next one.
        let context = sampling.factors().1 == 2 && filters;
        if context { decoded.saturating_sub(1) } else { decoded }
    }

    /// Decodes the next row of MCUs into the planes.
    fn decode_mcu_row(&mut self) -> Result<(), Irregular> {
        let (h, _) = self.frame.sampling.factors();
        let blocks = self.frame.width.div_ceil(8 * h) * self.blocks.len();
        let mut at = 0;
        while at < blocks {
            self.restart_if_due()?;
            at += self.decode_group(at, GROUP.min(blocks - at))?;
        }
        if self.until_end == 0 {
            self.scratch.scan.finish(self.file)?;
        }
        let (h, _) = self.output.sampling.factors();
        if h == 2 {
            let (width, side) = (self.output.width.div_ceil(h), self.output.sides[1]);
            for plane in &mut self.scratch.planes[1..] {
                for y in self.mcu_rows * side..(self.mcu_rows + 1) * side {
                    plane.repeat_ends(y, width);
                }
            }
        }
        self.mcu_rows += 1;
        Ok(())
    }

    /// Goes on behind the restart marker, if one must come now.
    fn restart_if_due(&mut self) -> Result<(), Irregular> {
        if self.until_restart == 0 {
            let marker = 0xd0 + (self.restarts % 8) as u8;
            self.scratch.scan.restart(self.file, marker)?;
            let interval = self.frame.restart_interval * self.blocks.len();
            self.until_restart = interval.min(self.until_end);
            self.restarts += 1;
            self.predictions = [0; 3];
        }
        Ok(())
    }

    /// Decodes all codes, and does nothing with the coefficients; returns how many blocks there were.
    #[cfg(feature = "stages")]
    pub(crate) fn skip(&mut self) -> Result<usize, Irregular> {
        let blocks = self.until_end;
        while self.until_end > 0 {
            self.restart_if_due()?;
            let Scratch { tables, scan, .. } = &mut *self.scratch;
            let is_reduced = self.output.sides[0] < 8;
            let layout = Scan { tables, blocks: &self.blocks, is_reduced };
            let (left, each) = (self.until_restart, self.bytes_per_block);
            let taken = scan.take(self.level, self.file, &layout, left, left, each)?.len();
            self.until_restart -= taken;
            self.until_end -= taken;
        }
        Ok(blocks)
    }

    /// Decodes at most `most` blocks of a row of MCUs from block `at` on into the planes; returns how many.
    fn decode_group(&mut self, at: usize, most: usize) -> Result<usize, Irregular> {
        let Scratch { tables, scan, jobs, planes, .. } = &mut *self.scratch;
        let is_reduced = self.output.sides[0] < 8;
        let layout = Scan { tables, blocks: &self.blocks, is_reduced };
        let left = self.until_restart;
        let slots = scan.take(self.level, self.file, &layout, left, most, self.bytes_per_block)?;
        let count = slots.len();
        self.until_restart -= count;
        self.until_end -= count;

        let (h, v) = self.frame.sampling.factors();
        for jobs in &mut *jobs {
            jobs.clear();
        }
        let memory = scan.memory_mut();
        let (mut mcu, mut phase) = (at / self.blocks.len(), at % self.blocks.len());
        for slot in slots {
            let block = &self.blocks[phase];
            let prediction = &mut self.predictions[block.component];
            let from = slot * 64;
            let is_wide = memory.is_wide(slot);
            let coefficients = memory.coefficients_mut();
            let dc = *prediction + i32::from(coefficients[from]);
            *prediction = dc;
            let coefficients_of_block = &mut coefficients[from..from + 64];
            coefficients_of_block[0] = 0;
            let side = self.output.side(block.component);
            // Small blocks are made faster than looked through. Not `all`, which would stop early: this is a few vector
            // instructions.
            let ac = match side {
                8 => coefficients_of_block.iter().fold(0, |found, value| found | value),
                side => i16::from(side > 1),
            };
            coefficients_of_block[0] = i16::try_from(dc).map_err(|_| Irregular)?;
            let dc = dc * i32::from(block.quant[0]);

            let (h, v) = if block.component == 0 { (h, v) } else { (1, 1) };
            let plane = &mut planes[block.component];
            let to = plane.index((mcu * h + block.x) * side, (self.mcu_rows * v + block.y) * side);
            let job = idct::Job { from: from as u32, to: to as u32 };
            let stride = plane.stride();
            if ac == 0 {
                idct::flat(side, dc, job, plane.samples_mut(), stride);
            } else if is_wide || i16::try_from(dc).is_err() {
                idct::block(side, coefficients, &block.quant, job, plane.samples_mut(), stride);
            } else {
                jobs[block.component].push(job);
            }
            phase += 1;
            if phase == self.blocks.len() {
                phase = 0;
                mcu += 1;
            }
        }
        let components = self.frame.components.iter().enumerate();
        for (((at, component), plane), jobs) in components.zip(planes).zip(jobs) {
            let (coefficients, stride) = (memory.coefficients_mut(), plane.stride());
            let (samples, side) = (plane.samples_mut(), self.output.side(at));
            idct::blocks(self.level, side, coefficients, &component.quant, jobs, samples, stride);
        }
        Ok(count)
    }

    /// Writes row `y`, for which all samples are in the planes.
    fn write_row(&mut self, y: usize, out: &mut [u8]) {
        let Scratch { planes: [luma, planes @ ..], chroma, .. } = &mut *self.scratch;
        let Output { width, height, ref sampling, filters, .. } = self.output;
        let (h, v) = sampling.factors();
        let (width, last) = (width.div_ceil(h), height.div_ceil(v) - 1);
        let near = y / v;
        // Above the first row and below the last one they are repeated.
        let above = y % v == 1;
        let far = if above { (near + 1).min(last) } else { near.saturating_sub(1) };
        let luma = luma.row(y);
        if matches!(sampling, Sampling::Grey) {
            return ycc::row(self.level, luma, &chroma[0], &chroma[1], out);
        }
        if let Sampling::H1V1 = sampling {
            return ycc::row(self.level, luma, planes[0].row(near), planes[1].row(near), out);
        }
        for (plane, line) in planes.iter().zip(&mut *chroma) {
            let (near, far) = (plane.with_margin(near), plane.with_margin(far));
            match sampling {
                _ if !filters => upsample::replicate(near, line, width),
                Sampling::H2V1 => upsample::h2v1(self.level, near, line, width),
                Sampling::H1V2 => upsample::h1v2(near, far, line, width, above),
                _ => upsample::h2v2(self.level, near, far, line, width),
            }
        }
        ycc::row(self.level, luma, &chroma[0], &chroma[1], out);
    }
}
