//! Activations.

use std::cell::RefCell;

use mlx_rs::{Array, error::Result as MlxResult, ops, transforms::compile::compile};

/// What values inside an MLP, or its gate, go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activation {
    Silu,
    /// [`gelu`].
    Gelu,
    /// [`gelu_tanh`].
    GeluTanh,
    /// [`gelu_quick`].
    GeluQuick,
}

impl Activation {
    /// Applies it value by value.
    pub(crate) fn apply(self, x: &Array) -> MlxResult<Array> {
        match self {
            Self::Silu => x.multiply(ops::sigmoid(x)?),
            Self::Gelu => gelu(x),
            Self::GeluTanh => gelu_tanh(x),
            Self::GeluQuick => gelu_quick(x),
        }
    }
}

/// `silu(gate) * up`.
pub(super) fn swiglu((gate, up): (&Array, &Array)) -> MlxResult<Array> {
    Activation::Silu.apply(gate)?.multiply(up)
}

/// [`swiglu`] as one kernel, which MLX makes when it is first needed. Not on CPUs, where it would run
/// a C++ compiler.
pub(super) fn fused_swiglu(gate: &Array, up: &Array) -> MlxResult<Array> {
    type Compiled = Box<dyn for<'a> FnMut((&'a Array, &'a Array)) -> MlxResult<Array>>;
    thread_local! {
        static COMPILED: RefCell<Compiled> = RefCell::new(Box::new(compile(swiglu, true)));
    }
    COMPILED.with_borrow_mut(|compiled| compiled((gate, up)))
}

/// Exact GELU: `x Φ(x)` by the error function. Source: arXiv:1606.08415.
fn gelu(x: &Array) -> MlxResult<Array> {
    let scalar = |v: f32| Array::from_f32(v).as_dtype(x.dtype());
    let cdf = ops::erf(x.multiply(scalar(std::f32::consts::FRAC_1_SQRT_2)?)?)?.add(scalar(1.0)?)?;
    x.multiply(cdf)?.multiply(scalar(0.5)?)
}

/// GELU by the usual approximation of `Φ` with a hyperbolic tangent. Source: arXiv:1606.08415.
fn gelu_tanh(x: &Array) -> MlxResult<Array> {
    let scalar = |v: f32| Array::from_f32(v).as_dtype(x.dtype());
    let cubic = x.square()?.multiply(x)?.multiply(scalar(0.044_715)?)?;
    let inner = x.add(cubic)?.multiply(scalar((2.0 / std::f32::consts::PI).sqrt())?)?;
    x.multiply(scalar(0.5)?)?.multiply(ops::tanh(inner)?.add(scalar(1.0)?)?)
}

/// GELU with a sigmoid for `Φ`: `x sigmoid(1.702 x)`. Source: arXiv:1606.08415.
fn gelu_quick(x: &Array) -> MlxResult<Array> {
    let scale = Array::from_f32(1.702).as_dtype(x.dtype())?;
    x.multiply(ops::sigmoid(x.multiply(scale)?)?)
}
