//! H.264 in MP4: `mp4parse` finds the samples, openh264 decodes them.
//!
//! openh264 is C++. Nothing of a file reaches it whose parameter sets are not of the size that the header says, of 8
//! bits, 4:2:0 and without interlacing; they decide what it allocates.

mod sps;

use std::ops::Range;

use mp4parse::{
    SampleEntry, Track, TrackType, VideoCodecSpecific,
    unstable::{CheckedInteger, create_sample_table},
};
use openh264::OpenH264API;
use openh264::decoder::{Decoder, DecoderConfig, Flush};
use openh264::formats::YUVSource;

use self::sps::PictureSize;
use super::file::{Stop, Take, VideoFormat, VideoInfo};
use crate::decode::Orientation;
use crate::decode::orient::turned;
use crate::{RgbImage, Size};

/// Frames that a decoder holds at most: those that others refer to, that one that is made, and some of its own.
const HELD_FRAMES: u64 = 20;

/// The track that is shown.
struct Video<'a> {
    bytes: &'a [u8],
    /// In the order of decoding.
    samples: Vec<Sample>,
    /// How long it is, and how many there are in a second.
    ticks: (u64, u64),
    stored: Size,
    orientation: Orientation,
    /// Bytes of the length before each unit.
    length_bytes: usize,
    /// What a decoder is given first, as a stream of units.
    parameters: Vec<u8>,
}

#[derive(Debug)]
struct Sample {
    range: Range<usize>,
    /// When it is shown, in units of the track.
    time: i64,
    sync: bool,
}

pub(super) fn probe(bytes: &[u8]) -> Result<VideoInfo, Stop> {
    let video = Video::read(bytes)?;
    let size = video.orientation.apply(video.stored);
    // Half of the values of colours, and what is turned upright.
    let held = size.pixels() * (HELD_FRAMES * 2 + 6);
    Ok(VideoInfo::new(VideoFormat::Mp4, size, video.samples.len(), video.ticks, held))
}

pub(super) fn decode(
    bytes: &[u8],
    size: Size,
    indices: &[usize],
    take: Take<'_>,
) -> Result<(), Stop> {
    let video = Video::read(bytes)?;
    if video.orientation.apply(video.stored) != size {
        return Err("the file has another size than at first".into());
    }
    let mut wanted = indices;
    for group in video.groups() {
        let here = wanted.iter().take_while(|&&index| index < group.end).count();
        let (now, later) = wanted.split_at(here);
        wanted = later;
        if !now.is_empty() {
            video.decode_group(group, now, take)?;
        }
    }
    Ok(())
}

impl<'a> Video<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, Stop> {
        let context = mp4parse::read_mp4(&mut std::io::Cursor::new(bytes))?;
        let track = context.tracks.iter().find(|track| track.track_type == TrackType::Video);
        let track = track.ok_or("the file has no video track")?;
        let entry = track.stsd.as_ref().and_then(|stsd| {
            stsd.descriptions.iter().find_map(|entry| match entry {
                SampleEntry::Video(video) => Some(video),
                _ => None,
            })
        });
        let entry = entry
            .ok_or_else(|| Stop::Unsupported("MP4 with a codec that is not known".to_owned()))?;
        let VideoCodecSpecific::AVCConfig(config) = &entry.codec_specific else {
            return Err(Stop::Unsupported(format!("MP4 with {:?}", entry.codec_type)));
        };
        let stored = Size { width: entry.width.into(), height: entry.height.into() };
        let (length_bytes, parameters) = configuration(config, stored)?;
        let samples = samples(track, bytes.len())?;
        let rate = track.timescale.map_or(0, |scale| scale.0);
        let ticks =
            track.stts.iter().flat_map(|stts| stts.samples.iter()).fold(0, |ticks: u64, run| {
                let run = u64::from(run.sample_count) * u64::from(run.sample_delta);
                ticks.saturating_add(run)
            });
        let orientation = orientation(track)?;
        let ticks = (ticks, rate);
        Ok(Self { bytes, samples, ticks, stored, orientation, length_bytes, parameters })
    }

    /// Groups of samples that are decoded, and shown, before those that follow; by places in the order of showing,
    /// which within a group are those in the order of decoding.
    fn groups(&self) -> Vec<Range<usize>> {
        let mut shown: Vec<usize> = (0..self.samples.len()).collect();
        shown.sort_by_key(|&at| self.samples[at].time);
        // The largest place in the order of decoding among those shown so far.
        let (mut groups, mut start, mut largest) = (Vec::new(), 0, 0);
        for (place, &at) in shown.iter().enumerate() {
            let complete = place == 0 || largest + 1 == place;
            if place > start && complete && self.samples[place].sync {
                groups.push(start..place);
                start = place;
            }
            largest = largest.max(at);
        }
        groups.push(start..self.samples.len());
        groups
    }

    /// Hands the frames `wanted` of a group to `take`.
    fn decode_group(
        &self,
        group: Range<usize>,
        wanted: &[usize],
        take: Take<'_>,
    ) -> Result<(), Stop> {
        let config = DecoderConfig::new().flush_after_decode(Flush::NoFlush);
        let mut decoder = Decoder::with_api_config(OpenH264API::from_source(), config)?;
        decoder.decode(&self.parameters)?;
        let mut wanted = wanted.iter().peekable();
        let mut place = group.start;
        let mut stream = Vec::new();
        let mut show = |frame: &dyn YUVSource, take: Take<'_>| -> Result<(), Stop> {
            if wanted.next_if_eq(&&place).is_some() {
                let rgb = self.rgb(frame)?;
                let upright = match self.orientation {
                    Orientation::Upright => rgb,
                    orientation => turned(rgb.as_view(), orientation),
                };
                take(Some(upright.as_view()))?;
            } else {
                take(None)?;
            }
            place += 1;
            Ok(())
        };
        for sample in &self.samples[group.clone()] {
            self.units(sample, &mut stream)?;
            match decoder.decode(&stream)? {
                Some(frame) => show(&frame, take)?,
                None => take(None)?,
            }
        }
        for frame in decoder.flush_remaining()? {
            show(&frame, take)?;
        }
        match wanted.peek() {
            None => Ok(()),
            Some(missing) => Err(format!("frame {} cannot be decoded", *missing + 1).into()),
        }
    }

    /// Makes a stream of units of a sample.
    fn units(&self, sample: &Sample, stream: &mut Vec<u8>) -> Result<(), Stop> {
        stream.clear();
        let mut rest = self.bytes.get(sample.range.clone()).ok_or("a frame is cut off")?;
        while !rest.is_empty() {
            let (length, after) =
                rest.split_at_checked(self.length_bytes).ok_or("a unit is cut off")?;
            let length = length.iter().fold(0usize, |n, &byte| n << 8 | usize::from(byte));
            let (unit, after) = after.split_at_checked(length).ok_or("a unit is cut off")?;
            add_unit(unit, self.stored, stream)?;
            rest = after;
        }
        Ok(())
    }

    fn rgb(&self, frame: &dyn YUVSource) -> Result<RgbImage, Stop> {
        let Size { width, height } = self.stored;
        let (w, h) = (width as usize, height as usize);
        if frame.dimensions() != (w, h) {
            let (found_w, found_h) = frame.dimensions();
            return Err(format!(
                "the header says {width}x{height}, a frame is {found_w}x{found_h}"
            )
            .into());
        }
        let (y_stride, u_stride, v_stride) = frame.strides();
        let mut pixels = Vec::with_capacity(w * h * 3);
        for row in 0..h {
            let y = frame.y().get(row * y_stride..).unwrap_or_default();
            let u = frame.u().get(row / 2 * u_stride..).unwrap_or_default();
            let v = frame.v().get(row / 2 * v_stride..).unwrap_or_default();
            for (column, &y) in y.iter().take(w).enumerate() {
                let at = |plane: &[u8]| plane.get(column / 2).copied().unwrap_or(128);
                pixels.extend(colour(y, at(u), at(v)));
            }
        }
        Ok(RgbImage::new(width, height, pixels)?)
    }
}

/// BT.601, of 16 to 235 for black to white and of 16 to 240 for colours, with 16 bits of fraction.
fn colour(y: u8, u: u8, v: u8) -> [u8; 3] {
    let (y, u, v) = (i32::from(y) - 16, i32::from(u) - 128, i32::from(v) - 128);
    let y = 76_309 * y + (1 << 15);
    let sums = [y + 104_597 * v, y - 25_675 * u - 53_279 * v, y + 132_201 * u];
    sums.map(|sum| (sum >> 16).clamp(0, 255) as u8)
}

/// Reads an `avcC`: the bytes of lengths, and the parameter sets as a stream of units.
fn configuration(config: &[u8], stored: Size) -> Result<(usize, Vec<u8>), Stop> {
    const CUT: &str = "the configuration of H.264 is cut off";
    let (head, mut rest) = config.split_first_chunk::<5>().ok_or(CUT)?;
    let mut stream = Vec::new();
    for mask in [0x1f, 0xff] {
        let (&count, after) = rest.split_first().ok_or(CUT)?;
        rest = after;
        for _ in 0..count & mask {
            let (&length, after) = rest.split_first_chunk::<2>().ok_or(CUT)?;
            let (unit, after) =
                after.split_at_checked(u16::from_be_bytes(length).into()).ok_or(CUT)?;
            add_unit(unit, stored, &mut stream)?;
            rest = after;
        }
    }
    Ok((usize::from(head[4] & 3) + 1, stream))
}

/// Adds a unit to a stream, if its parameters, should it have such, can be decoded.
fn add_unit(unit: &[u8], stored: Size, stream: &mut Vec<u8>) -> Result<(), Stop> {
    let Some(&first) = unit.first() else { return Ok(()) };
    const PARAMETERS: u8 = 7;
    if first & 0x1f == PARAMETERS {
        PictureSize::read(unit)?.check(stored)?;
    }
    stream.extend([0, 0, 0, 1]);
    stream.extend(unit);
    Ok(())
}

/// Returns the samples of a track, each within a file of `length` bytes.
fn samples(track: &Track, length: usize) -> Result<Vec<Sample>, Stop> {
    let (Some(stsc), Some(stco), Some(stsz)) = (&track.stsc, &track.stco, &track.stsz) else {
        return Err(Stop::Unsupported("MP4 in fragments".to_owned()));
    };
    // A sample has a byte or more; a small table can speak of billions.
    let chunks = stco.offsets.len() as u64;
    let mut count = 0_u64;
    for (at, run) in stsc.samples.iter().enumerate() {
        let next = stsc.samples.get(at + 1).map_or(chunks + 1, |next| next.first_chunk.into());
        let chunks = next.min(chunks + 1).saturating_sub(run.first_chunk.into());
        count = count.saturating_add(chunks.saturating_mul(run.samples_per_chunk.into()));
    }
    if count > length as u64 {
        return Err(format!("{count} frames in a file of {length} bytes").into());
    }
    if count == 0 && stsz.sample_sizes.is_empty() {
        return Err(Stop::Unsupported("MP4 in fragments, or without a frame".to_owned()));
    }
    let table =
        create_sample_table(track, CheckedInteger(0)).ok_or("the table of samples is broken")?;
    table
        .iter()
        .map(|sample| {
            let range =
                usize::try_from(sample.start_offset.0)?..usize::try_from(sample.end_offset.0)?;
            if range.end > length || range.start > range.end {
                return Err("the file ends before its last frame".into());
            }
            Ok(Sample { range, time: sample.start_composition.0, sync: sample.sync })
        })
        .collect()
}

/// Reads how a camera was held.
fn orientation(track: &Track) -> Result<Orientation, Stop> {
    const ONE: i32 = 1 << 16;
    let Some(matrix) = track.tkhd.as_ref().map(|tkhd| &tkhd.matrix) else {
        return Ok(Orientation::Upright);
    };
    match (matrix.a, matrix.b, matrix.c, matrix.d) {
        (0, ONE, m, 0) if m == -ONE => Ok(Orientation::Rotate90),
        (m, 0, 0, n) if m == -ONE && n == -ONE => Ok(Orientation::Rotate180),
        (0, m, ONE, 0) if m == -ONE => Ok(Orientation::Rotate270),
        // Scales and slants are left alone, as other readers do.
        _ => Ok(Orientation::Upright),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_those_of_bt_601() {
        assert_eq!(colour(16, 128, 128), [0, 0, 0]);
        assert_eq!(colour(235, 128, 128), [255, 255, 255]);
        assert_eq!(colour(81, 90, 240), [254, 0, 0]);
        assert_eq!(colour(255, 255, 255), [255, 125, 255]);
    }

    #[test]
    fn a_configuration_that_is_cut_off_is_an_error() {
        let size = Size { width: 16, height: 16 };
        for bytes in [&[][..], &[1, 66, 0, 10, 0xff], &[1, 66, 0, 10, 0xff, 0xe1, 0, 9, 0x67]] {
            assert!(configuration(bytes, size).is_err(), "{bytes:?}");
        }
    }
}
