//! One product with a weight, dense or packed.

use mlx_rs::{Array, error::Result as MlxResult, ops};

use super::{adapted::Outputs, mlx_error, weight::Weight};
use crate::{
    Result,
    device::Backend,
    ffi::{After, HostLinear, HostWeight, host_linear},
    matvec::{Epilogue, Matvec},
    quantize::Quantize,
    weights::Scope,
};

/// `y = x Wᵀ + b`.
#[derive(Debug)]
pub(crate) struct Linear {
    pub(super) weight: Weight,
    pub(super) bias: Option<Array>,
    /// For one row, where there is a kernel that does more than the product.
    pub(super) row: Option<Matvec>,
    /// As [`Backend::on_host`].
    pub(super) on_host: bool,
    /// What adapters know it by.
    pub(super) outputs: Outputs,
}

impl Linear {
    /// Takes `weight` (`[output, input]`, packed where `scales` is there) and, if `bias`, `bias`.
    pub(crate) fn load(scope: &Scope<'_>, output: i32, input: i32, bias: bool) -> Result<Self> {
        Self::open(scope, output, input, bias)?.kept(scope)
    }

    /// As [`load`](Self::load), but for what is to be read from disk: that waits for `kept`.
    pub(super) fn open(scope: &Scope<'_>, output: i32, input: i32, bias: bool) -> Result<Self> {
        let weight = Weight::open(scope, output, input)?;
        let bias = bias.then(|| scope.take_cast("bias", &[output])).transpose()?;
        Ok(Self { bias, outputs: Outputs::of(scope, output, input), ..Self::of(scope, weight) })
    }

    /// Returns the layer of a weight alone, of which adapters know nothing.
    pub(super) fn of(scope: &Scope<'_>, weight: Weight) -> Self {
        let outputs = Outputs::default();
        Self { weight, bias: None, row: None, on_host: scope.on_host(), outputs }
    }

    /// Adds outputs of zero up to `outputs` and inputs that do not count up to `inputs`, if dense.
    pub(super) fn padded(self, outputs: i32, inputs: i32) -> MlxResult<Self> {
        let Weight::Dense { rows, .. } = &self.weight else { return Ok(self) };
        let longer = |x: &Array, axis: i32, to: i32| {
            let mut missing = x.shape().to_vec();
            missing[axis as usize] = to - x.dim(axis);
            match missing[axis as usize] {
                0 => Ok(x.clone()),
                _ => ops::concatenate(&[x, &ops::zeros_dtype(&missing, x.dtype())?], axis),
            }
        };
        let weight = Weight::dense(longer(&longer(rows, 0, outputs)?, 1, inputs)?)?;
        let bias = self.bias.as_ref().map(|bias| longer(bias, 0, outputs)).transpose()?;
        Ok(Self { weight, bias, outputs: self.outputs.widened(outputs), ..self })
    }

    /// Has the weights read from disk at the end of loading.
    pub(super) fn kept(self, scope: &Scope<'_>) -> Result<Self> {
        let bias = self.bias.map(|bias| scope.keep(bias)).transpose()?;
        Ok(Self { weight: self.weight.kept(scope)?, bias, ..self })
    }

    /// Adds the kernel for one row `[.., 1, input]` of `ndim` axes, where there is one.
    pub(crate) fn with_row(
        mut self,
        scope: &Scope<'_>,
        norm_eps: Option<f32>,
        epilogue: Epilogue,
        ndim: usize,
    ) -> Result<Self> {
        if scope.backend() != Backend::Cuda {
            return Ok(self);
        }
        let (how, shape) = (self.packing(), self.shape());
        self.row = Matvec::new(how, scope.dtype(), shape, norm_eps, epilogue, ndim)
            .map_err(|e| mlx_error("kernel", &e))?;
        Ok(self)
    }

    /// Returns how the weights are packed, `None` if they are not.
    pub(crate) fn packing(&self) -> Option<Quantize> {
        match &self.weight {
            Weight::Dense { .. } => None,
            Weight::Packed(p) => Some(p.how),
        }
    }

    /// Returns the numbers of outputs and inputs.
    pub(crate) fn shape(&self) -> (i32, i32) {
        match &self.weight {
            Weight::Dense { rows, .. } => (rows.dim(0), rows.dim(1)),
            Weight::Packed(p) => (p.scales.dim(0), p.scales.dim(1) * p.how.group_size),
        }
    }

    /// Returns words, scales and biases of packed weights, or dense ones three times; `None` if they
    /// are packed without biases.
    pub(crate) fn arrays(&self) -> Option<[&Array; 3]> {
        match &self.weight {
            Weight::Dense { rows, .. } => Some([rows; 3]),
            Weight::Packed(p) => Some([&p.weight, &p.scales, p.biases.as_ref()?]),
        }
    }

    /// Returns what is added to the product, if anything.
    pub(crate) fn bias(&self) -> Option<&Array> {
        self.bias.as_ref()
    }

    /// Runs the kernel for one row, if there is one and `x` is one.
    pub(super) fn row(
        &self,
        x: &Array,
        gain: Option<&Array>,
        extra: Option<&Array>,
    ) -> Option<MlxResult<Array>> {
        let row = self.row.as_ref().filter(|_| !self.outputs.are_changed())?;
        let weights = self.arrays()?;
        row.takes(x).then(|| row.apply(x, weights, gain, extra))
    }

    /// `[.., input]` to `[.., output]`, added to `onto`; its kernel must be one that adds.
    pub(crate) fn forward_onto(&self, x: &Array, onto: &Array) -> MlxResult<Array> {
        if self.on_host && !self.outputs.are_changed() {
            return host_linear(x, None, &[self.host()], After::Add(onto));
        }
        match self.row(x, None, Some(onto)) {
            Some(sum) => sum,
            None => onto.add(self.forward(x)?),
        }
    }

    pub(super) fn host(&self) -> HostLinear<'_> {
        let weight = match &self.weight {
            Weight::Dense { rows, .. } => HostWeight::Dense(rows),
            Weight::Packed(p) => HostWeight::Packed {
                words: &p.weight,
                scales: &p.scales,
                biases: p.biases.as_ref(),
                how: p.how,
            },
        };
        HostLinear { weight, bias: self.bias.as_ref() }
    }

    /// As [`forward`](Self::forward); its kernel must be one of the product alone.
    pub(crate) fn forward_row(&self, x: &Array) -> MlxResult<Array> {
        self.row(x, None, None).unwrap_or_else(|| self.forward(x))
    }

    /// Puts the outputs of `parts`, which read the same input, side by side; none where they are not
    /// of the same kind.
    pub(super) fn join(parts: &[Self]) -> MlxResult<Option<Self>> {
        let weights: Vec<&Weight> = parts.iter().map(|part| &part.weight).collect();
        let Some(weight) = Weight::join(&weights)? else { return Ok(None) };
        let biases: Vec<&Array> = parts.iter().filter_map(|part| part.bias.as_ref()).collect();
        let bias = match biases.len() {
            0 => None,
            n if n == parts.len() => Some(ops::concatenate(&biases, 0)?),
            _ => return Ok(None),
        };
        let outputs = Outputs::join(parts.iter().map(|part| &part.outputs));
        Ok(Some(Self { weight, bias, row: None, on_host: false, outputs }))
    }

    /// `[.., input]` to `[.., output]`, as the active adapter changes it.
    pub(crate) fn forward(&self, x: &Array) -> MlxResult<Array> {
        let y = self.unchanged(x)?;
        match self.outputs.change(x)? {
            Some(change) => y.add(change),
            None => Ok(y),
        }
    }

    fn unchanged(&self, x: &Array) -> MlxResult<Array> {
        if self.on_host {
            return host_linear(x, None, &[self.host()], After::Nothing);
        }
        match (&self.weight, &self.bias) {
            (Weight::Dense { transposed, .. }, Some(bias)) => {
                ops::addmm(bias, x, transposed, None, None)
            }
            (weight, None) => weight.project(x),
            (weight, Some(bias)) => weight.project(x)?.add(bias),
        }
    }
}
