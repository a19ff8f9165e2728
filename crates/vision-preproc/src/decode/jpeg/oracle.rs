//! libjpeg alone, which all rows must be equal to: for tests, and for fuzzing.

use super::{Libjpeg, Reason, Rows, head};
use crate::Size;
use crate::decode::rows::RowSource;
use crate::mode::Reduction;

/// All rows, or why there are none.
pub(super) fn all(
    mut read: impl FnMut(&mut [u8]) -> Result<usize, Reason>,
    size: Size,
) -> Result<Vec<u8>, String> {
    let stride = size.width as usize * 3;
    let mut pixels = vec![0; size.rgb_bytes()];
    let mut at = 0;
    while at < pixels.len() {
        match read(&mut pixels[at..]).map_err(|reason| reason.to_string())? {
            0 => return Err("too few rows".into()),
            rows => at += rows * stride,
        }
    }
    Ok(pixels)
}

pub(super) fn by_libjpeg(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let frame = head(bytes).map_err(|reason| reason.to_string())?.frame;
    let mut libjpeg = Libjpeg::open(bytes, frame).map_err(|reason| reason.to_string())?;
    all(|out| libjpeg.read(out), Size { width: frame.width, height: frame.height })
}

/// What the crate does: by the baseline decoder, then by libjpeg if that is not enough.
pub(super) fn by_rows(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let rows = Rows::open(bytes, Reduction::Whole, Box::default());
    let mut rows = rows.map_err(|reason| reason.to_string())?;
    let size = rows.size();
    all(|out| rows.read(out), size)
}

/// Compares both, if `bytes` have the header of a JPEG file of at most `max_pixels`.
#[cfg(fuzzing)]
pub fn compare_decoders(bytes: &[u8], max_pixels: u64) {
    let Ok(head) = head(bytes) else { return };
    let size = Size { width: head.frame.width, height: head.frame.height };
    if size.pixels() <= max_pixels {
        assert!(by_rows(bytes) == by_libjpeg(bytes), "{size}: the decoders differ");
    }
}
