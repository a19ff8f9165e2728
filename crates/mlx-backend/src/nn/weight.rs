//! The weight of a linear layer: dense, or packed by the tensors that are there.

use mlx_rs::{Array, Dtype, error::Result as MlxResult, ops};

use super::mlx_error;
use crate::{
    LoadError, Result,
    ffi::{dequantize, quantize, quantized_matmul},
    quantize::{QuantizationMode, Quantize},
    weights::{Scope, cast},
};

/// The weight of a linear layer.
#[derive(Debug)]
pub(super) enum Weight {
    /// `rows` is `[output, input]`; `transposed` is a view of it, made once.
    Dense {
        rows: Array,
        transposed: Array,
    },
    Packed(Packed),
}

/// A weight whose values are codes of a few bits in groups that share a scale.
#[derive(Debug)]
pub(super) struct Packed {
    /// `[output, input * bits / 32]` words.
    pub(super) weight: Array,
    /// `[output, input / group_size]`, of the type that the model computes in or, in modes of floats,
    /// bytes.
    pub(super) scales: Array,
    /// `[output, input / group_size]`; the mode affine has them.
    pub(super) biases: Option<Array>,
    pub(super) how: Quantize,
    /// What the model computes in.
    pub(super) dtype: Dtype,
    /// As [`Backend::unpacks_from_rows_of`](crate::device::Backend::unpacks_from_rows_of).
    pub(super) unpacks_from_rows: Option<usize>,
}

impl Weight {
    pub(super) fn open(scope: &Scope<'_>, output: i32, input: i32) -> Result<Self> {
        if scope.has("scales") {
            return Packed::open(scope, output, input).map(Self::Packed);
        }
        let Some(how) = scope.quantize(input) else {
            let rows = match scope.on_host() {
                // There they are made longer as they are used.
                true => scope.take_stored("weight", &[output, input])?,
                false => scope.take_cast("weight", &[output, input])?,
            };
            return Self::dense(rows).map_err(|e| mlx_error("transpose", &e));
        };
        // Packed from the type in the file, as converters do, so that the bits are theirs.
        let rows = scope.take_stored("weight", &[output, input])?;
        let (weight, mut scales, mut biases) =
            quantize(&rows, how).map_err(|e| mlx_error("quantize", &e))?;
        let dtype = scope.dtype();
        if let (Some(of_groups), false) = (biases.clone(), scope.on_host()) {
            (scales, biases) = (cast(scales, dtype)?, Some(cast(of_groups, dtype)?));
        }
        let unpacks_from_rows = scope.backend().unpacks_from_rows_of(input, how.group_size);
        Ok(Self::Packed(Packed { weight, scales, biases, how, dtype, unpacks_from_rows }))
    }

    pub(super) fn dense(rows: Array) -> MlxResult<Self> {
        let transposed = ops::transpose(&rows)?;
        Ok(Self::Dense { rows, transposed })
    }

    /// As [`Linear::kept`](super::Linear::kept).
    pub(super) fn kept(self, scope: &Scope<'_>) -> Result<Self> {
        let keep = |array: &Array| scope.keep(array.clone()).map(drop);
        match &self {
            Self::Dense { rows, .. } => keep(rows)?,
            Self::Packed(p) => {
                [&p.weight, &p.scales].into_iter().chain(&p.biases).try_for_each(keep)?;
            }
        }
        Ok(self)
    }

    /// As [`Linear::join`](super::Linear::join).
    pub(super) fn join(parts: &[&Self]) -> MlxResult<Option<Self>> {
        let side_by_side = |of: &dyn Fn(&Packed) -> Option<Array>, packed: &[&Packed]| {
            ops::concatenate(&packed.iter().filter_map(|p| of(p)).collect::<Vec<_>>(), 0)
        };
        let (mut rows, mut packed) = (Vec::new(), Vec::new());
        for part in parts {
            match part {
                Self::Dense { rows: of_part, .. } => rows.push(of_part),
                Self::Packed(of_part) => packed.push(of_part),
            }
        }
        let Some(first) = packed.first() else {
            return Self::dense(ops::concatenate(&rows, 0)?).map(Some);
        };
        if !rows.is_empty() || packed.iter().any(|p| p.how != first.how) {
            return Ok(None);
        }
        Ok(Some(Self::Packed(Packed {
            weight: side_by_side(&|p| Some(p.weight.clone()), &packed)?,
            scales: side_by_side(&|p| Some(p.scales.clone()), &packed)?,
            // All or none have them: they are packed in one mode.
            biases: match first.biases {
                Some(_) => Some(side_by_side(&|p| p.biases.clone(), &packed)?),
                None => None,
            },
            how: first.how,
            dtype: first.dtype,
            unpacks_from_rows: first.unpacks_from_rows,
        })))
    }

    /// `[.., input]` to `[.., output]`.
    pub(super) fn project(&self, x: &Array) -> MlxResult<Array> {
        match self {
            Self::Dense { transposed, .. } => ops::matmul(x, transposed),
            Self::Packed(p) => p.project(x),
        }
    }
}

impl Packed {
    fn open(scope: &Scope<'_>, output: i32, input: i32) -> Result<Self> {
        let fail = |reason: String| LoadError::Quantization { name: scope.path(""), reason };
        let how = scope
            .packed()
            .ok_or_else(|| fail("the configuration has no quantization for it".to_owned()))?;
        if input % how.group_size != 0 {
            return Err(fail(format!(
                "{input} inputs cannot be divided into groups of {}",
                how.group_size
            ))
            .into());
        }
        let groups = [output, input / how.group_size];
        let (scales, biases) = match how.mode {
            QuantizationMode::Affine => {
                let take = |name| match scope.on_host() {
                    true => scope.take_stored(name, &groups),
                    false => scope.take_cast(name, &groups),
                };
                (take("scales")?, Some(take("biases")?))
            }
            _ => (scope.take_bytes("scales", &groups)?, None),
        };
        let weight = scope.take_packed("weight")?;
        let expected = [output, input * how.bits / 32];
        if weight.shape() != expected {
            let hint = match weight.shape() {
                &[rows, columns] if rows == output && columns * 32 % input == 0 => {
                    format!(" (that would be {} bits)", columns * 32 / input)
                }
                _ => String::new(),
            };
            return Err(fail(format!(
                "expected {expected:?} words for {} bits, found {:?}{hint}",
                how.bits,
                weight.shape()
            ))
            .into());
        }
        let dtype = scope.dtype();
        let unpacks_from_rows = scope.backend().unpacks_from_rows_of(input, how.group_size);
        Ok(Self { weight, scales, biases, how, dtype, unpacks_from_rows })
    }

    /// Returns the weights as they were before packing, `[input, output]`.
    fn unpacked(&self) -> MlxResult<Array> {
        ops::transpose(dequantize(self.parts(), self.how, self.dtype)?)
    }

    /// `[.., input]` to `[.., output]`.
    fn project(&self, x: &Array) -> MlxResult<Array> {
        let rows = x.size() / x.dim(-1).max(1) as usize;
        if self.unpacks_from_rows.is_some_and(|least| rows >= least) {
            return ops::matmul(x, self.unpacked()?);
        }
        quantized_matmul(x, self.parts(), self.how)
    }

    fn parts(&self) -> (&Array, &Array, Option<&Array>) {
        (&self.weight, &self.scales, self.biases.as_ref())
    }
}
