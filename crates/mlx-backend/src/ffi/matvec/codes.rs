//! What the bits of a weight mean.

use std::ops::Range;

use crate::quantize::{QuantizationMode, Quantize};

/// A code of a packed weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codes {
    /// Integers of so many bits, times the scale, plus the bias.
    Integers(usize),
    /// Floats E2M1 times a power of two.
    Mxfp4,
    /// Floats E4M3 times a power of two.
    Mxfp8,
    /// Floats E2M1 times a float E4M3.
    Nvfp4,
}

/// The values of E2M1 by their codes.
pub(super) const E2M1: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

impl From<Quantize> for Codes {
    fn from(how: Quantize) -> Self {
        match how.mode {
            QuantizationMode::Affine => Self::Integers(how.bits.unsigned_abs() as usize),
            QuantizationMode::Mxfp4 => Self::Mxfp4,
            QuantizationMode::Mxfp8 => Self::Mxfp8,
            QuantizationMode::Nvfp4 => Self::Nvfp4,
        }
    }
}

impl Codes {
    pub(super) fn bits(self) -> usize {
        match self {
            Self::Integers(bits) => bits,
            Self::Mxfp4 | Self::Nvfp4 => 4,
            Self::Mxfp8 => 8,
        }
    }

    /// Returns the bytes of `count` codes, a multiple of eight.
    pub(super) fn bytes(self, count: usize) -> usize {
        count / 8 * self.bits()
    }

    /// Turns the scales of a row into floats.
    pub(super) fn scales(self, stored: Floats<'_>, into: &mut [f32]) {
        match (self, stored) {
            (Self::Mxfp4 | Self::Mxfp8, Floats::Bytes(bytes)) => {
                into.iter_mut().zip(bytes).for_each(|(to, &byte)| *to = power_of_two(byte));
            }
            (Self::Nvfp4, Floats::Bytes(bytes)) => {
                into.iter_mut().zip(bytes).for_each(|(to, &byte)| *to = e4m3(byte));
            }
            _ => stored.widen(into),
        }
    }
}

/// E8M0: a power of two from -127 to 127.
fn power_of_two(byte: u8) -> f32 {
    f32::from_bits(if byte == 0 { 1 << 22 } else { u32::from(byte) << 23 })
}

/// E4M3: a sign, four bits of exponent with a bias of 7, three of mantissa; no infinities.
pub(super) fn e4m3(byte: u8) -> f32 {
    let magnitude = match byte & 0x7f {
        small @ 0..8 => f32::from(small) / 512.0,
        normal => f32::from_bits((u32::from(normal) << 20) + (120 << 23)),
    };
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
}

/// Values in one of the types that checkpoints have.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Floats<'a> {
    F32(&'a [f32]),
    /// The bits of bf16.
    Bf16(&'a [u16]),
    /// The bits of f16.
    F16(&'a [u16]),
    /// Scales of the modes of floats.
    Bytes(&'a [u8]),
}

impl<'a> Floats<'a> {
    pub(super) fn slice(self, range: Range<usize>) -> Self {
        match self {
            Self::F32(values) => Self::F32(&values[range]),
            Self::Bf16(values) => Self::Bf16(&values[range]),
            Self::F16(values) => Self::F16(&values[range]),
            Self::Bytes(values) => Self::Bytes(&values[range]),
        }
    }

    /// Turns the values into floats of 32 bits, which hold all of them.
    pub(super) fn widen(self, into: &mut [f32]) {
        match self {
            Self::F32(values) => into.copy_from_slice(values),
            Self::Bf16(values) => {
                into.iter_mut().zip(values).for_each(|(to, &bits)| *to = bf16(bits));
            }
            Self::F16(values) => {
                into.iter_mut().zip(values).for_each(|(to, &bits)| *to = f16(bits));
            }
            Self::Bytes(values) => {
                into.iter_mut().zip(values).for_each(|(to, &byte)| *to = f32::from(byte));
            }
        }
    }
}

pub(super) fn bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

pub(super) fn f16(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let (exponent, mantissa) = (u32::from(bits >> 10) & 0x1f, u32::from(bits & 0x3ff));
    match exponent {
        0 => f32::from_bits((mantissa as f32 / (1 << 24) as f32).to_bits() | sign),
        31 => f32::from_bits(sign | 0x7f80_0000 | mantissa << 13),
        _ => f32::from_bits(sign | (exponent + 112) << 23 | mantissa << 13),
    }
}
