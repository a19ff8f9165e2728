//! Products of a few rows with weights, on CPUs: what a step of a decoder is made of. MLX unpacks one
//! value at a time there, on one thread; these kernels unpack sixteen, on all.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod codes;
mod level;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod x86;

use rayon::prelude::*;

pub(in crate::ffi) use self::level::Work;
pub(crate) use self::{
    codes::{Codes, Floats},
    level::Level,
};

/// Weights below which waking other threads takes longer than it saves.
const SMALL: usize = 1 << 17;
/// Weights that a thread takes at a time.
const PIECE: usize = 1 << 16;

/// A matrix of `outputs` rows of `inputs` values, borrowed from whoever holds it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Matrix<'a> {
    Dense(Floats<'a>),
    Packed(Packed<'a>),
}

/// Packed rows: each a stream of codes, and one scale (and bias) for each group of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packed<'a> {
    pub(crate) codes: Codes,
    /// `inputs * bits / 8` bytes for each row, the first code in the lowest bits.
    pub(crate) bytes: &'a [u8],
    pub(crate) group: usize,
    /// `inputs / group` for each row.
    pub(crate) scales: Floats<'a>,
    /// As `scales`, where there are some.
    pub(crate) biases: Option<Floats<'a>>,
}

/// `W x` for each of the rows `x`, `[M, inputs]`, into `y`, `[outputs, M]`.
pub(crate) fn product(level: Level, matrix: Matrix<'_>, x: &[f32], inputs: usize, y: &mut [f32]) {
    let rows = x.len() / inputs.max(1);
    if rows == 0 || y.is_empty() {
        return;
    }
    let outputs = y.len() / rows;
    let some = |first: usize, y: &mut [f32]| match matrix {
        Matrix::Dense(floats) => dense(level, floats, first, x, inputs, y),
        Matrix::Packed(packed) => packed_rows(level, packed, first, x, inputs, y),
    };
    if outputs * inputs * rows <= SMALL {
        return some(0, y);
    }
    let piece = (PIECE / inputs).max(1);
    y.par_chunks_mut(piece * rows).enumerate().for_each(|(i, y)| some(i * piece, y));
}

/// The outputs from `first` on.
fn dense(level: Level, floats: Floats<'_>, first: usize, x: &[f32], inputs: usize, y: &mut [f32]) {
    let rows = x.len() / inputs;
    for (i, y) in y.chunks_exact_mut(rows).enumerate() {
        let at = (first + i) * inputs;
        let row = floats.slice(at..at + inputs);
        for (y, x) in y.iter_mut().zip(x.chunks_exact(inputs)) {
            *y = level.dot(row, x);
        }
    }
}

/// The rows of `matrix` from `first` on, `inputs` values each.
pub(crate) fn unpack(
    level: Level,
    matrix: Matrix<'_>,
    first: usize,
    inputs: usize,
    into: &mut [f32],
) {
    let piece = (PIECE / inputs).max(1);
    into.par_chunks_mut(piece * inputs).enumerate().for_each(|(i, into)| {
        let first = first + i * piece;
        match matrix {
            Matrix::Dense(floats) => {
                floats.slice(first * inputs..first * inputs + into.len()).widen(into);
            }
            Matrix::Packed(packed) => {
                let mut into = into.chunks_exact_mut(inputs);
                packed.each_row(first, inputs, || into.next(), |row, into| level.unpack(row, into));
            }
        }
    });
}

/// The outputs from `first` on.
fn packed_rows(
    level: Level,
    packed: Packed<'_>,
    first: usize,
    x: &[f32],
    inputs: usize,
    y: &mut [f32],
) {
    let rows = x.len() / inputs;
    let mut y = y.chunks_exact_mut(rows);
    // Of several rows each weight is unpacked once.
    let mut unpacked = vec![0.0; if rows > 1 { inputs } else { 0 }];
    packed.each_row(
        first,
        inputs,
        || y.next(),
        |row, y| match y {
            [y] => *y = level.dot_packed(row, x),
            _ => {
                level.unpack(row, &mut unpacked);
                for (y, x) in y.iter_mut().zip(x.chunks_exact(inputs)) {
                    *y = level.dot(Floats::F32(&unpacked), x);
                }
            }
        },
    );
}

impl Packed<'_> {
    /// Hands each row from `first` on to `take` with its place, as long as there are places.
    fn each_row<'a>(
        &self,
        first: usize,
        inputs: usize,
        mut next: impl FnMut() -> Option<&'a mut [f32]>,
        mut take: impl FnMut(&Row<'_>, &mut [f32]),
    ) {
        let groups = inputs / self.group;
        let (mut scales, mut biases) = (vec![0.0; groups], vec![0.0; groups]);
        let mut row = first;
        while let Some(place) = next() {
            let of_row = row * groups..(row + 1) * groups;
            self.codes.scales(self.scales.slice(of_row.clone()), &mut scales);
            if let Some(of_all) = self.biases {
                of_all.slice(of_row).widen(&mut biases);
            }
            let bytes = &self.bytes[row * self.codes.bytes(inputs)..];
            let (scales, biases) = (&scales, &biases);
            take(&Row { codes: self.codes, bytes, group: self.group, scales, biases }, place);
            row += 1;
        }
    }
}

/// One packed row.
#[derive(Clone, Copy, Debug)]
struct Row<'a> {
    codes: Codes,
    /// The bytes of this row and all that are after it: kernels read a little further than a row.
    bytes: &'a [u8],
    group: usize,
    scales: &'a [f32],
    biases: &'a [f32],
}

#[cfg(test)]
mod tests;
