//! MP4 and `QuickTime` files with H.264.

#[cfg(feature = "h264")]
pub(super) use super::h264::{decode, probe};

#[cfg(not(feature = "h264"))]
pub(super) fn probe(_: &[u8]) -> Result<super::VideoInfo, super::file::Stop> {
    Err(super::file::Stop::Unsupported(
        "MP4 or QuickTime, which this build does not read".to_owned(),
    ))
}

#[cfg(not(feature = "h264"))]
pub(super) fn decode(
    _: &[u8],
    _: crate::Size,
    _: &[usize],
    _: super::file::Take<'_>,
) -> Result<(), super::file::Stop> {
    probe(&[]).map(drop)
}
