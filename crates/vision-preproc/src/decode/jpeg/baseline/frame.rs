//! The markers before the first scan (ITU-T T.81, annex B), for files that this decoder takes.
//!
//! Whatever is unusual is [`Irregular`], even where the standard allows it: libjpeg then decides what it means.

use super::Irregular;
use super::huffman::Spec;

/// libjpeg's `JPEG_MAX_DIMENSION`.
const MAX_SIDE: usize = 65_500;

/// The position of each coefficient in its block, by its place in the zigzag (T.81, figure A.6).
#[rustfmt::skip]
pub(crate) const ZIGZAG: [u8; 64] = [
     0,  1,  8, 16,  9,  2,  3, 10, 17, 24, 32, 25, 18, 11,  4,  5,
    12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13,  6,  7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
    58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// How the chroma components are subsampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sampling {
    /// There is none: the image is grey.
    Grey,
    /// 4:4:4.
    H1V1,
    /// 4:2:2.
    H2V1,
    /// 4:4:0.
    H1V2,
    /// 4:2:0.
    H2V2,
}

impl Sampling {
    /// Luma samples for each chroma sample, horizontally and vertically.
    pub(super) fn factors(self) -> (usize, usize) {
        match self {
            Self::Grey | Self::H1V1 => (1, 1),
            Self::H2V1 => (2, 1),
            Self::H1V2 => (1, 2),
            Self::H2V2 => (2, 2),
        }
    }
}

/// What is known before the first entropy-coded byte.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) sampling: Sampling,
    /// One, or three: Y, Cb, Cr.
    pub(super) components: Vec<Component>,
    /// MCUs between two restart markers; 0 if there are none.
    pub(super) restart_interval: usize,
    /// The first entropy-coded byte.
    pub(super) scan: usize,
}

/// The tables of a component.
#[derive(Debug)]
pub(super) struct Component {
    /// Quantisation steps, row by row.
    pub(super) quant: [i16; 64],
    pub(super) dc: Spec,
    pub(super) ac: Spec,
}

/// What the markers have said so far.
#[derive(Default)]
struct Tables {
    quant: [Option<[i16; 64]>; 4],
    dc: [Option<Spec>; 4],
    ac: [Option<Spec>; 4],
    restart_interval: usize,
    jfif: bool,
    adobe_transform: Option<u8>,
    size: Option<Size>,
}

/// The frame header: height, width, components.
struct Size {
    height: usize,
    width: usize,
    components: Vec<[u8; 3]>,
}

impl Frame {
    /// Reads the markers of `file` up to its first scan.
    pub(super) fn read(file: &[u8]) -> Result<Self, Irregular> {
        let mut tables = Tables::default();
        if !file.starts_with(&[0xff, 0xd8]) {
            return Err(Irregular);
        }
        let mut at = 2;
        loop {
            let rest = file.get(at..).ok_or(Irregular)?;
            let fill = rest.iter().take_while(|&&byte| byte == 0xff).count();
            let Some(&[marker, high, low]) = rest.get(fill..).and_then(|rest| rest.first_chunk())
            else {
                return Err(Irregular);
            };
            // Other bytes between the segments are skipped by libjpeg with a warning.
            if fill == 0 {
                return Err(Irregular);
            }
            let length = usize::from(u16::from_be_bytes([high, low]));
            let start = at + fill + 1;
            let body = file.get(start + 2..start + length).ok_or(Irregular)?;
            at = start + length;
            match marker {
                0xc0 | 0xc1 => tables.frame_header(body)?,
                0xc4 => tables.huffman(body)?,
                0xdb => tables.quantisation(body)?,
                0xdd => match body {
                    &[high, low] => {
                        tables.restart_interval = u16::from_be_bytes([high, low]).into()
                    }
                    _ => return Err(Irregular),
                },
                0xe0 => tables.jfif |= body.len() >= 14 && body.starts_with(b"JFIF\0"),
                0xee if body.len() >= 12 && body.starts_with(b"Adobe") => {
                    tables.adobe_transform = Some(body[11]);
                }
                0xe1..=0xef | 0xfe => {}
                0xda => return tables.scan_header(body, at),
                _ => return Err(Irregular),
            }
        }
    }
}

impl Tables {
    fn quantisation(&mut self, mut body: &[u8]) -> Result<(), Irregular> {
        while let Some((&[head], rest)) = body.split_first_chunk() {
            // The high half is the precision: steps of 16 bits are not for baseline files.
            let table = self.quant.get_mut(usize::from(head)).ok_or(Irregular)?;
            let (steps, rest) = rest.split_first_chunk::<64>().ok_or(Irregular)?;
            let mut quant = [0; 64];
            for (&place, &step) in ZIGZAG.iter().zip(steps) {
                quant[usize::from(place)] = step.into();
            }
            *table = Some(quant);
            body = rest;
        }
        Ok(())
    }

    fn huffman(&mut self, mut body: &[u8]) -> Result<(), Irregular> {
        while let Some((&[head], rest)) = body.split_first_chunk() {
            let tables = if head & 0x10 == 0 { &mut self.dc } else { &mut self.ac };
            let table = tables.get_mut(usize::from(head & !0x10)).ok_or(Irregular)?;
            let (&counts, rest) = rest.split_first_chunk::<16>().ok_or(Irregular)?;
            let count = counts.iter().map(|&count| usize::from(count)).sum();
            let (found, rest) = rest.split_at_checked(count).ok_or(Irregular)?;
            let mut symbols = [0; 256];
            symbols.get_mut(..count).ok_or(Irregular)?.copy_from_slice(found);
            *table = Some(Spec { counts, symbols });
            body = rest;
        }
        Ok(())
    }

    fn frame_header(&mut self, body: &[u8]) -> Result<(), Irregular> {
        let Some((&[8, h1, h0, w1, w0, count], rest)) = body.split_first_chunk() else {
            return Err(Irregular);
        };
        let height = usize::from(u16::from_be_bytes([h1, h0]));
        let width = usize::from(u16::from_be_bytes([w1, w0]));
        let sides = 1..=MAX_SIDE;
        if self.size.is_some()
            || !sides.contains(&height)
            || !sides.contains(&width)
            || rest.len() != usize::from(count) * 3
        {
            return Err(Irregular);
        }
        self.size = Some(Size { height, width, components: rest.as_chunks().0.to_vec() });
        Ok(())
    }

    fn scan_header(&self, body: &[u8], scan: usize) -> Result<Frame, Irregular> {
        let Some(Size { height, width, components }) = &self.size else { return Err(Irregular) };
        let Some((&count, body)) = body.split_first() else { return Err(Irregular) };
        let selectors = body.get(..usize::from(count) * 2).ok_or(Irregular)?;
        // All coefficients of all components, in one scan, in the order of the frame.
        if body[selectors.len()..] != [0, 63, 0] || usize::from(count) != components.len() {
            return Err(Irregular);
        }
        let sampling = self.sampling(components)?;
        let tables = components.iter().zip(selectors.as_chunks().0);
        let components = tables.map(|(&[id, _, quant], &[selected, tables])| {
            let huffman = |tables: &[Option<Spec>; 4], index: u8| {
                tables.get(usize::from(index)).cloned().flatten().ok_or(Irregular)
            };
            if id != selected {
                return Err(Irregular);
            }
            Ok(Component {
                quant: self.quant.get(usize::from(quant)).copied().flatten().ok_or(Irregular)?,
                dc: huffman(&self.dc, tables >> 4)?,
                ac: huffman(&self.ac, tables & 15)?,
            })
        });
        Ok(Frame {
            width: *width,
            height: *height,
            sampling,
            components: components.collect::<Result<_, _>>()?,
            restart_interval: self.restart_interval,
            scan,
        })
    }

    /// The subsampling, if the components are grey, or Y, Cb and Cr by the rules of libjpeg's `jdapimin.c`.
    fn sampling(&self, components: &[[u8; 3]]) -> Result<Sampling, Irregular> {
        let (ids, factors) = match components {
            // The factors of a single component have no effect on it.
            [[_, factors, _]] => {
                let valid = |factor| (1..=4).contains(&factor);
                let valid = valid(factors >> 4) && valid(factors & 15);
                return if valid { Ok(Sampling::Grey) } else { Err(Irregular) };
            }
            [[y, factors, _], [cb, 0x11, _], [cr, 0x11, _]] => ([*y, *cb, *cr], *factors),
            _ => return Err(Irregular),
        };
        let ycc = match self.adobe_transform {
            _ if self.jfif => true,
            Some(transform) => transform == 1,
            None => ids != *b"RGB",
        };
        let [y, cb, cr] = ids;
        if !ycc || y == cb || y == cr || cb == cr {
            return Err(Irregular);
        }
        match factors {
            0x11 => Ok(Sampling::H1V1),
            0x21 => Ok(Sampling::H2V1),
            0x12 => Ok(Sampling::H1V2),
            0x22 => Ok(Sampling::H2V2),
            _ => Err(Irregular),
        }
    }
}
