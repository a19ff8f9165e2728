//! JPEG: the header is read here; the pixels come from [`baseline`], and from libjpeg for what that does not take.

mod baseline;
mod libjpeg;
#[cfg(any(test, fuzzing))]
mod oracle;
#[cfg(test)]
mod tests;

pub(super) use baseline::Scratch;
#[cfg(feature = "stages")]
pub(crate) use baseline::{Decoder as Baseline, Scratch as BaselineScratch};
#[cfg(fuzzing)]
pub use oracle::compare_decoders;

use super::rows::RowSource;
use super::{Header, Reason, exif, expand_grey};
use crate::mode::Reduction;
use crate::{Level, Size};

/// The parts of a file before its first scan.
struct Head {
    frame: libjpeg::Header,
    exif: Vec<u8>,
    xmp: Option<Vec<u8>>,
}

pub(super) fn header(bytes: &[u8]) -> Result<Header, Reason> {
    let head = head(bytes)?;
    let exif = (!head.exif.is_empty()).then_some(&head.exif[..]);
    Ok(Header {
        stored: Size { width: head.frame.width, height: head.frame.height },
        orientation: exif::orientation(exif, head.xmp.as_deref()),
    })
}

/// A file that is decoded a few rows at a time.
pub(crate) struct Rows<'a> {
    bytes: &'a [u8],
    frame: libjpeg::Header,
    /// At what size the file is decoded, which only the baseline decoder makes smaller.
    reduction: Reduction,
    /// Whether only the whole image can be decoded, which came out after rows were handed out.
    is_irregular: bool,
    decoder: Decoder<'a>,
    /// How many were handed out.
    rows: usize,
}

enum Decoder<'a> {
    Baseline(baseline::Decoder<'a>),
    Libjpeg(Libjpeg<'a>),
}

impl<'a> Rows<'a> {
    pub(super) fn open(
        bytes: &'a [u8],
        reduction: Reduction,
        scratch: Box<Scratch>,
    ) -> Result<Self, Reason> {
        let frame = head(bytes)?.frame;
        let baseline = baseline::Decoder::open(bytes, reduction, Level::detect(), scratch);
        let (decoder, reduction) = match baseline {
            Ok(decoder) if decoder.size() == (frame.width, frame.height) => {
                (Decoder::Baseline(decoder), reduction)
            }
            _ => (Decoder::Libjpeg(Libjpeg::open(bytes, frame)?), Reduction::Whole),
        };
        Ok(Self { bytes, frame, reduction, is_irregular: false, decoder, rows: 0 })
    }

    /// At what size the rows are.
    pub(super) fn reduction(&self) -> Reduction {
        self.reduction
    }

    /// Whether an error means that the file has to be opened again to be decoded at its whole size.
    pub(super) fn is_irregular(&self) -> bool {
        self.is_irregular
    }

    /// Gives the memory back, if it was used to the end.
    pub(super) fn into_scratch(self) -> Option<Box<Scratch>> {
        match self.decoder {
            Decoder::Baseline(decoder) => Some(decoder.into_scratch()),
            Decoder::Libjpeg(_) => None,
        }
    }
}

impl RowSource for Rows<'_> {
    fn size(&self) -> Size {
        self.reduction.apply(Size { width: self.frame.width, height: self.frame.height })
    }

    fn read(&mut self, out: &mut [u8]) -> Result<usize, Reason> {
        let rows = match &mut self.decoder {
            Decoder::Libjpeg(libjpeg) => libjpeg.read(out)?,
            Decoder::Baseline(decoder) => match decoder.read(out) {
                Ok(rows) => rows,
                // libjpeg has no such rows.
                Err(irregular) if self.reduction != Reduction::Whole => {
                    self.is_irregular = true;
                    return Err(irregular.into());
                }
                // What was handed out is what libjpeg makes of it, too; from here on it is for libjpeg to say.
                Err(_) => {
                    let mut libjpeg = Libjpeg::open(self.bytes, self.frame)?;
                    for _ in 0..self.rows {
                        libjpeg.read(&mut out[..self.frame.width as usize * 3])?;
                    }
                    let rows = libjpeg.read(out)?;
                    self.decoder = Decoder::Libjpeg(libjpeg);
                    rows
                }
            },
        };
        self.rows += rows;
        Ok(rows)
    }
}

/// RGB by libjpeg.
struct Libjpeg<'a> {
    reader: libjpeg::Reader<'a>,
    width: usize,
    /// One row of grey or CMYK samples; RGB needs none.
    samples: Vec<u8>,
}

impl<'a> Libjpeg<'a> {
    fn open(bytes: &'a [u8], frame: libjpeg::Header) -> Result<Self, Reason> {
        let reader = libjpeg::Reader::open(bytes, frame)?;
        let samples = if frame.components == 3 { 0 } else { frame.width * frame.components };
        Ok(Self { reader, width: frame.width as usize, samples: vec![0; samples as usize] })
    }

    fn read(&mut self, out: &mut [u8]) -> Result<usize, Reason> {
        if self.samples.is_empty() {
            return Ok(self.reader.read(out)?);
        }
        let mut rows = 0;
        for rgb in out.chunks_exact_mut(self.width * 3) {
            if self.reader.read(&mut self.samples)? == 0 {
                break;
            }
            if self.samples.len() == self.width {
                expand_grey(&self.samples, rgb);
            } else {
                expand_cmyk(&self.samples, rgb);
            }
            rows += 1;
        }
        Ok(rows)
    }
}

/// Inverted CMYK (Adobe's convention, which Pillow assumes for every file) to RGB, as `cmyk2rgb` in Pillow's
/// `Convert.c`.
fn expand_cmyk(cmyk: &[u8], rgb: &mut [u8]) {
    for (pixel, &[c, m, y, k]) in rgb.as_chunks_mut().0.iter_mut().zip(cmyk.as_chunks().0) {
        *pixel = [c, m, y].map(|ink| {
            // The stored values are 255 - ink, so `255 - black` is the stored k itself.
            let white = u32::from(k);
            let product = u32::from(255 - ink) * white + 128;
            (white - (((product >> 8) + product) >> 8)) as u8
        });
    }
}

fn head(bytes: &[u8]) -> Result<Head, Reason> {
    let mut exif = Vec::new();
    let mut xmp = None;
    let mut at = 2;
    loop {
        // Fill bytes before a marker are allowed, and libjpeg skips other bytes with a warning.
        while *bytes.get(at).ok_or("the header is truncated")? != 0xff {
            at += 1;
        }
        while *bytes.get(at).ok_or("the header is truncated")? == 0xff {
            at += 1;
        }
        let marker = bytes[at];
        at += 1;
        match marker {
            0x00 | 0x01 | 0xd0..=0xd7 => continue,
            0xd8 => return Err("a second start of image before the first frame".into()),
            0xd9 => return Err("the image ends before its first frame".into()),
            0xda => return Err("a scan comes before the frame header".into()),
            _ => {}
        }
        let len = bytes.get(at..at + 2).ok_or("the header is truncated")?;
        let len = usize::from(u16::from_be_bytes([len[0], len[1]]));
        let body = bytes.get(at + 2..at + len.max(2)).ok_or("the header is truncated")?;
        at += len.max(2);
        match marker {
            0xe1 if body.starts_with(b"Exif\0\0") => {
                // A block larger than a segment continues in the next one.
                exif.extend_from_slice(if exif.is_empty() { body } else { &body[6..] });
            }
            0xe1 if body.starts_with(b"http://ns.adobe.com/xap/1.0/\0") => {
                xmp = Some(body.to_vec())
            }
            0xc0..=0xcf if ![0xc4, 0xc8, 0xcc].contains(&marker) => {
                let &[precision, h1, h0, w1, w0, components, ..] = body else {
                    return Err("the frame header is too short".into());
                };
                if precision != 8 {
                    return Err(format!("{precision} bits per sample; only 8 are supported").into());
                }
                if ![1, 3, 4].contains(&components) {
                    return Err(format!("{components} components; 1, 3 and 4 are supported").into());
                }
                let frame = libjpeg::Header {
                    width: u16::from_be_bytes([w1, w0]).into(),
                    height: u16::from_be_bytes([h1, h0]).into(),
                    components: components.into(),
                };
                if frame.width == 0 || frame.height == 0 {
                    return Err("the frame header has an empty side".into());
                }
                // Orientation may also follow the frame; Pillow reads markers up to the first scan.
                let rest = trailing_metadata(bytes, at, &mut exif);
                return Ok(Head { frame, exif, xmp: xmp.or(rest) });
            }
            _ => {}
        }
    }
}

/// EXIF and XMP between the frame header and the first scan.
fn trailing_metadata(bytes: &[u8], mut at: usize, exif: &mut Vec<u8>) -> Option<Vec<u8>> {
    let mut xmp = None;
    while let Some(&[0xff, marker, l1, l0]) = bytes.get(at..at + 4) {
        let end = at + 2 + usize::from(u16::from_be_bytes([l1, l0])).max(2);
        if matches!(marker, 0xda | 0xd9) {
            break;
        }
        let Some(body) = bytes.get(at + 4..end) else { break };
        if marker == 0xe1 && body.starts_with(b"Exif\0\0") {
            exif.extend_from_slice(if exif.is_empty() { body } else { &body[6..] });
        } else if marker == 0xe1 && body.starts_with(b"http://ns.adobe.com/xap/1.0/\0") {
            xmp = Some(body.to_vec());
        }
        at = end;
    }
    xmp
}
