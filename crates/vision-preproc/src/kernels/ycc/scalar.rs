//! The specification.

/// `FIX(1.40200)`, `FIX(1.77200)`, `FIX(0.34414)` and `FIX(0.71414)`.
const CR_R: i32 = 91_881;
const CB_B: i32 = 116_130;
const CB_G: i32 = 22_554;
const CR_G: i32 = 46_802;
const HALF: i32 = 1 << 15;

pub(super) fn row(y: &[u8], cb: &[u8], cr: &[u8], rgb: &mut [u8]) {
    for (((rgb, &y), &cb), &cr) in rgb.as_chunks_mut().0.iter_mut().zip(y).zip(cb).zip(cr) {
        let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
        let r = y + ((CR_R * cr + HALF) >> 16);
        let g = y + ((HALF - CB_G * cb - CR_G * cr) >> 16);
        let b = y + ((CB_B * cb + HALF) >> 16);
        *rgb = [r, g, b].map(|value| value.clamp(0, 255) as u8);
    }
}
