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
mod frame;
mod huffman;
mod plane;
mod scan;

use crate::kernels::{Level, idct, upsample, with_bit_instructions, ycc};
#[cfg(test)]
pub(super) use frame::ZIGZAG;
use frame::{Frame, Sampling};
use huffman::{Ac, Dc, Spec};
use plane::Plane;
use scan::{Extent, Layout, Mcus, Position, Tables};

/// MCUs that are decoded before they are transformed: their coefficients fit into the first-level cache.
const GROUP: usize = 16;

/// The file is not for this decoder.
#[derive(Debug)]
pub(crate) struct Irregular;

/// A file that is decoded a few rows at a time.
#[derive(Debug)]
pub(crate) struct Decoder<'a> {
    file: &'a [u8],
    frame: Frame,
    level: Level,
    scratch: Box<Scratch>,
    /// Indices of the components' tables in the scratch.
    tables: [(usize, usize); 3],
    blocks: Vec<Block>,
    /// Rows of MCUs that are decoded.
    mcu_rows: usize,
    /// MCUs up to the next restart marker.
    until_restart: usize,
    /// How many restart markers there were.
    restarts: usize,
    /// Rows that were handed out.
    rows: usize,
}

/// Memory that can be used for one file after the other.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    dc: Vec<(Spec, Dc)>,
    ac: Vec<(Spec, Ac)>,
    position: Position,
    coefficients: Vec<i16>,
    extents: Vec<Extent>,
    jobs: [Vec<idct::Job>; 3],
    planes: [Plane; 3],
    /// Cb and Cr in full width.
    chroma: [Vec<u8>; 2],
}

/// A block of an MCU: its component, and where it is among the component's blocks.
#[derive(Clone, Copy, Debug)]
struct Block {
    component: usize,
    x: usize,
    y: usize,
}

impl<'a> Decoder<'a> {
    /// Reads the header of `file`.
    pub(crate) fn open(
        file: &'a [u8],
        level: Level,
        mut scratch: Box<Scratch>,
    ) -> Result<Self, Irregular> {
        let frame = Frame::read(file)?;
        let mut tables = [(0, 0); 3];
        // The tables of the last image are probably those of this one; of more it is not worth to keep them.
        if scratch.dc.len() > 4 || scratch.ac.len() > 4 {
            scratch.dc.clear();
            scratch.ac.clear();
        }
        for (table, component) in tables.iter_mut().zip(&frame.components) {
            let dc = find_or_make(&mut scratch.dc, &component.dc, Dc::new)?;
            let ac = find_or_make(&mut scratch.ac, &component.ac, Ac::new)?;
            *table = (dc, ac);
        }
        let (h, v) = frame.sampling.factors();
        let mut blocks = Vec::new();
        for component in 0..frame.components.len() {
            let (h, v) = if component == 0 { (h, v) } else { (1, 1) };
            blocks.extend((0..h * v).map(|at| Block { component, x: at % h, y: at / h }));
            // Two rows of MCUs: the last row of one is handed out with the first of the next.
            let width = frame.width.div_ceil(8 * frame.sampling.factors().0) * 8 * h;
            scratch.planes[component].resize(width, 2 * 8 * v);
        }
        for line in &mut scratch.chroma {
            // Of a grey image it is what neutral chroma looks like.
            line.clear();
            line.resize(frame.width.next_multiple_of(2) + 2 * upsample::SLACK, 128);
        }
        scratch.coefficients.resize(scan::coefficients(GROUP * blocks.len()), 0);
        scratch.extents.resize(GROUP * blocks.len(), Extent::default());
        scratch.position.start(frame.scan);
        let until_restart = frame.restart_interval;
        Ok(Self {
            file,
            frame,
            level,
            scratch,
            tables,
            blocks,
            mcu_rows: 0,
            until_restart,
            restarts: 0,
            rows: 0,
        })
    }

    /// Gives the memory back.
    #[cfg(test)]
    pub(crate) fn into_scratch(self) -> Box<Scratch> {
        self.scratch
    }

    /// Columns and rows.
    pub(crate) fn size(&self) -> (u32, u32) {
        (self.frame.width as u32, self.frame.height as u32)
    }

    /// Writes as many whole rows of RGB as are ready and fit into `out`; returns how many, 0 after the last.
    pub(crate) fn read(&mut self, out: &mut [u8]) -> Result<usize, Irregular> {
        let stride = self.frame.width * 3;
        let fit = (out.len() / stride).min(self.frame.height - self.rows);
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
        let (_, v) = self.frame.sampling.factors();
        let decoded = self.mcu_rows * 8 * v;
        if decoded >= self.frame.height {
            return self.frame.height;
        }
        // The last row of an MCU is a mixture with the next one.
        let context = v == 2 && !self.is_narrow();
        if context { decoded.saturating_sub(1) } else { decoded }
    }

    /// Whether chroma has too few columns for a filter; libjpeg then repeats its samples.
    fn is_narrow(&self) -> bool {
        let (h, _) = self.frame.sampling.factors();
        h == 2 && self.frame.width.div_ceil(h) <= 2
    }

    /// Decodes the next row of MCUs into the planes.
    fn decode_mcu_row(&mut self) -> Result<(), Irregular> {
        let (h, _) = self.frame.sampling.factors();
        let mcus = self.frame.width.div_ceil(8 * h);
        let mut at = 0;
        while at < mcus {
            let mut group = GROUP.min(mcus - at);
            if self.frame.restart_interval > 0 {
                if self.until_restart == 0 {
                    let marker = 0xd0 + (self.restarts % 8) as u8;
                    self.scratch.position.restart(self.file, marker)?;
                    self.until_restart = self.frame.restart_interval;
                    self.restarts += 1;
                }
                group = group.min(self.until_restart);
                self.until_restart -= group;
            }
            self.decode_group(at, group)?;
            at += group;
        }
        if h == 2 {
            let width = self.frame.width.div_ceil(h);
            for plane in &mut self.scratch.planes[1..] {
                for y in self.mcu_rows * 8..(self.mcu_rows + 1) * 8 {
                    plane.repeat_ends(y, width);
                }
            }
        }
        self.mcu_rows += 1;
        Ok(())
    }

    /// Decodes `count` MCUs from `first` on into the planes.
    fn decode_group(&mut self, first: usize, count: usize) -> Result<(), Irregular> {
        let scratch = &mut *self.scratch;
        let components = &self.frame.components;
        let tables = self.tables;
        let tables = std::array::from_fn(|at| {
            let component = &components[at.min(components.len() - 1)];
            let (dc, ac) = tables[at.min(components.len() - 1)];
            Tables { dc: &scratch.dc[dc].1, ac: &scratch.ac[ac].1, quant: &component.quant }
        });
        let blocks: Vec<u8> = self.blocks.iter().map(|block| block.component as u8).collect();
        let total = count * blocks.len();
        scratch.coefficients[..total * 64].fill(0);
        let extents = &mut scratch.extents[..total];
        let coefficients = &mut scratch.coefficients;
        let work = Mcus {
            file: self.file,
            position: &mut scratch.position,
            layout: Layout { tables, blocks: &blocks },
            coefficients,
            extents,
        };
        with_bit_instructions(self.level, work)?;

        let (h, v) = self.frame.sampling.factors();
        for jobs in &mut scratch.jobs {
            jobs.clear();
        }
        let mut from = 0;
        for (mcu, extents) in (first..).zip(extents.chunks_exact(blocks.len())) {
            for (block, extent) in self.blocks.iter().zip(extents) {
                let (h, v) = if block.component == 0 { (h, v) } else { (1, 1) };
                let plane = &mut scratch.planes[block.component];
                let to =
                    plane.index((mcu * h + block.x) * 8, (self.mcu_rows * v + block.y) * 8) as u32;
                let job = idct::Job { from: from as u32, to };
                let quant = &components[block.component].quant;
                let stride = plane.stride();
                if extent.is_dc_only() {
                    idct::flat(coefficients[from], quant[0], job, plane.samples_mut(), stride);
                } else if extent.is_wide() {
                    idct::block(coefficients, quant, job, plane.samples_mut(), stride);
                } else {
                    scratch.jobs[block.component].push(job);
                }
                from += 64;
            }
        }
        for ((component, plane), jobs) in
            components.iter().zip(&mut scratch.planes).zip(&scratch.jobs)
        {
            let stride = plane.stride();
            idct::blocks(
                self.level,
                coefficients,
                &component.quant,
                jobs,
                plane.samples_mut(),
                stride,
            );
        }
        Ok(())
    }

    /// Writes row `y`, for which all samples are in the planes.
    fn write_row(&mut self, y: usize, out: &mut [u8]) {
        let Scratch { planes: [luma, planes @ ..], chroma, .. } = &mut *self.scratch;
        let (h, v) = self.frame.sampling.factors();
        let width = self.frame.width.div_ceil(h);
        let last = self.frame.height.div_ceil(v) - 1;
        let narrow = h == 2 && width <= 2;
        let near = y / v;
        // Above the first row and below the last one they are repeated.
        let above = y % v == 1;
        let far = if above { (near + 1).min(last) } else { near.saturating_sub(1) };
        let luma = luma.row(y);
        if matches!(self.frame.sampling, Sampling::Grey) {
            return ycc::row(self.level, luma, &chroma[0], &chroma[1], out);
        }
        if let Sampling::H1V1 = self.frame.sampling {
            return ycc::row(self.level, luma, planes[0].row(y), planes[1].row(y), out);
        }
        for (plane, line) in planes.iter().zip(&mut *chroma) {
            let (near, far) = (plane.with_margin(near), plane.with_margin(far));
            match self.frame.sampling {
                _ if narrow => upsample::replicate(near, line, width),
                Sampling::H2V1 => upsample::h2v1(self.level, near, line, width),
                Sampling::H1V2 => upsample::h1v2(near, far, line, width, above),
                _ => upsample::h2v2(self.level, near, far, line, width),
            }
        }
        ycc::row(self.level, luma, &chroma[0], &chroma[1], out);
    }
}

fn find_or_make<T>(
    tables: &mut Vec<(Spec, T)>,
    spec: &Spec,
    make: impl FnOnce(&Spec) -> Result<T, Irregular>,
) -> Result<usize, Irregular> {
    if let Some(found) = tables.iter().position(|(known, _)| known == spec) {
        return Ok(found);
    }
    tables.push((spec.clone(), make(spec)?));
    Ok(tables.len() - 1)
}
