//! The specification: one block in plain Rust.

/// Bits after the point of the constants (`CONST_BITS`).
pub(super) const POINT: u32 = 13;
/// More bits that the result of the first pass has (`PASS1_BITS`).
pub(super) const EXTRA: u32 = 2;

/// Dequantises and transforms a block, both row by row.
pub(super) fn block(coefficients: &[i16; 64], quant: &[i16; 64]) -> [u8; 64] {
    let mut columns = [0_i64; 64];
    for x in 0..8 {
        let at = |y: usize| i64::from(coefficients[y * 8 + x]) * i64::from(quant[y * 8 + x]);
        let column = transform(std::array::from_fn(at));
        for (y, value) in column.into_iter().enumerate() {
            columns[y * 8 + x] = descale(value, POINT - EXTRA);
        }
    }
    let mut samples = [0; 64];
    for (row, samples) in columns.as_chunks().0.iter().zip(samples.as_chunks_mut::<8>().0) {
        *samples = transform(*row).map(|value| range_limit(descale(value, POINT + EXTRA + 3)));
    }
    samples
}

/// The sample of a block whose only dequantised coefficient is `dc`.
pub(super) fn flat(dc: i32) -> u8 {
    range_limit(descale(i64::from(dc) << EXTRA, EXTRA + 3))
}

/// Eight points of the inverse DCT, scaled up by sqrt(8) and 2^13.
fn transform(from: [i64; 8]) -> [i64; 8] {
    let z1 = (from[2] + from[6]) * 4433;
    let even = [
        ((from[0] + from[4]) << POINT) + z1 + from[2] * 6270,
        ((from[0] - from[4]) << POINT) + z1 - from[6] * 15137,
        ((from[0] - from[4]) << POINT) - z1 + from[6] * 15137,
        ((from[0] + from[4]) << POINT) - z1 - from[2] * 6270,
    ];
    let z5 = (from[7] + from[3] + from[5] + from[1]) * 9633;
    let z1 = (from[7] + from[1]) * -7373;
    let z2 = (from[5] + from[3]) * -20995;
    let z3 = (from[7] + from[3]) * -16069 + z5;
    let z4 = (from[5] + from[1]) * -3196 + z5;
    let odd = [
        from[1] * 12299 + z1 + z4,
        from[3] * 25172 + z2 + z3,
        from[5] * 16819 + z2 + z4,
        from[7] * 2446 + z1 + z3,
    ];
    std::array::from_fn(|at| match at {
        0..4 => even[at] + odd[at],
        _ => even[7 - at] - odd[7 - at],
    })
}

/// Divides by `1 << bits`, rounding halves up.
pub(super) fn descale(value: i64, bits: u32) -> i64 {
    (value + (1 << (bits - 1))) >> bits
}

/// Centres and clamps. Like libjpeg's table, it looks at ten bits only: larger values, which no encoder makes, wrap.
pub(super) fn range_limit(value: i64) -> u8 {
    let wrapped = (value as i32) << 22 >> 22;
    (wrapped + 128).clamp(0, 255) as u8
}
