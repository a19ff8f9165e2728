//! The transform in 32 bits, eight columns side by side, for the compiler to make vectors of.
//!
//! Sums are modulo 2^32. With inputs of 16 bits the results fit, as `avx2` explains, whatever the sums between may do.

use std::num::Wrapping;

type Rows = [[Wrapping<i32>; 8]; 8];

/// As `scalar::block`, for products of 16 bits; `None` if the first pass comes to more.
pub(super) fn block(coefficients: &[i16; 64], quant: &[i16; 64]) -> Option<[u8; 64]> {
    let mut rows = Rows::default();
    for (row, (coefficients, quant)) in
        rows.iter_mut().zip(coefficients.as_chunks::<8>().0.iter().zip(quant.as_chunks::<8>().0))
    {
        for x in 0..8 {
            row[x] = Wrapping(i32::from(coefficients[x]) * i32::from(quant[x]));
        }
    }
    let rows = pass::<11>(&rows);
    let wide = rows.as_flattened().iter().fold(0, |wide, value| {
        // Zero for what the vector kernels take, so for values that are no ends of the 16-bit range.
        wide | u32::from(value.0.unsigned_abs() >= 32_767)
    });
    if wide != 0 {
        return None;
    }
    let rows = transposed(&pass::<18>(&transposed(&rows)));
    let mut samples = [0; 64];
    for (sample, value) in samples.iter_mut().zip(rows.as_flattened()) {
        // Ten bits count, as in `range_limit` of the specification.
        *sample = ((value.0 << 22 >> 22) + 128).clamp(0, 255) as u8;
    }
    Some(samples)
}

/// One pass over the rows, whose results are divided by `1 << SHIFT`.
fn pass<const SHIFT: u32>(rows: &Rows) -> Rows {
    let mut results = Rows::default();
    let half = Wrapping(1 << (SHIFT - 1));
    let times = |value: Wrapping<i32>, factor: i32| value * Wrapping(factor);
    for x in 0..8 {
        let row = |y: usize| rows[y][x];
        let z1 = times(row(2) + row(6), 4433);
        let (sum, difference) =
            (times(row(0) + row(4), 8192) + half, times(row(0) - row(4), 8192) + half);
        let (outer, inner) = (z1 + times(row(2), 6270), z1 - times(row(6), 15137));
        let even = [sum + outer, difference + inner, difference - inner, sum - outer];
        let z5 = times(row(7) + row(3) + row(5) + row(1), 9633);
        let z1 = times(row(7) + row(1), -7373);
        let z2 = times(row(5) + row(3), -20995);
        let z3 = times(row(7) + row(3), -16069) + z5;
        let z4 = times(row(5) + row(1), -3196) + z5;
        let odd = [
            times(row(1), 12299) + z1 + z4,
            times(row(3), 25172) + z2 + z3,
            times(row(5), 16819) + z2 + z4,
            times(row(7), 2446) + z1 + z3,
        ];
        for at in 0..4 {
            results[at][x] = (even[at] + odd[at]) >> SHIFT as usize;
            results[7 - at][x] = (even[at] - odd[at]) >> SHIFT as usize;
        }
    }
    results
}

fn transposed(rows: &Rows) -> Rows {
    let mut columns = Rows::default();
    for y in 0..8 {
        for x in 0..8 {
            columns[x][y] = rows[y][x];
        }
    }
    columns
}
