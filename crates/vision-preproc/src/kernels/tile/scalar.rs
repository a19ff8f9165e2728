//! The specification: one byte at a time.

pub(super) fn planes(src: &[u8], stride: usize, side: usize, frames: usize, dst: &mut [u8]) {
    for (channel, dst) in dst.chunks_exact_mut(frames * side * side).enumerate() {
        for plane in dst.chunks_exact_mut(side * side) {
            for (row, line) in src.chunks(stride).zip(plane.chunks_exact_mut(side)) {
                for (value, pixel) in line.iter_mut().zip(row.as_chunks::<3>().0) {
                    *value = pixel[channel];
                }
            }
        }
    }
}
