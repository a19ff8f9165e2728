//! The gated feed-forward layer.

use mlx_rs::{Array, error::Result as MlxResult};

use super::{
    Joined, Linear, RmsNorm,
    activation::{Activation, fused_swiglu},
    in_pieces, mlx_error,
};
use crate::{
    Result,
    device::Backend,
    ffi::{After, HostLinear, host_linear},
    matvec::Epilogue,
    weights::Scope,
};

/// `down(activation(gate(x)) * up(x))`. Source: arXiv:2002.05202.
#[derive(Debug)]
pub(crate) struct Mlp {
    /// `gate_proj` and `up_proj`.
    gate_up: Joined,
    down_proj: Linear,
    inner: i32,
    activation: Activation,
    /// Whether a compiled activation is one kernel.
    fuses: bool,
    max_inner_bytes: usize,
    /// Whether the kernels for one row do all but the product, too.
    fused_row: bool,
}

impl Mlp {
    /// Takes `gate_proj`, `up_proj` and `down_proj`, with biases if `bias`.
    pub(crate) fn load(
        scope: &Scope<'_>,
        hidden: i32,
        inner: i32,
        bias: bool,
        activation: Activation,
        backend: Backend,
    ) -> Result<Self> {
        let fail = |e| mlx_error("concatenate", &e);
        let packed = ["gate_proj", "up_proj", "down_proj"].iter().any(|name| {
            let scope = scope.sub(name);
            let quantized = |width| scope.quantize(width).is_some();
            scope.has("scales") || quantized(inner) || quantized(hidden)
        });
        let multiple = if packed { 1 } else { backend.width_multiple() };
        let (width, padded) = (inner, (inner + multiple - 1) / multiple * multiple);
        let open = |name: &str| {
            let linear = Linear::open(&scope.sub(name), width, hidden, bias)?;
            linear.padded(padded, hidden).map_err(fail)
        };
        let down = Linear::open(&scope.sub("down_proj"), hidden, width, bias)?;
        let inner = padded;
        let gate_up = vec![open("gate_proj")?, open("up_proj")?];
        Ok(Self {
            gate_up: Joined::of(scope, gate_up, vec![inner, 2 * inner])?,
            down_proj: down.padded(hidden, inner).map_err(fail)?.kept(scope)?,
            fused_row: false,
            inner,
            activation,
            fuses: backend.compiles(),
            max_inner_bytes: backend.max_inner_bytes(),
        })
    }

    /// Adds kernels for one row after a normalisation with `norm_eps`, where there are some.
    pub(crate) fn with_row(mut self, scope: &Scope<'_>, norm_eps: f32) -> Result<Self> {
        if self.activation != Activation::Silu {
            return Ok(self);
        }
        self.gate_up = self.gate_up.with_row(scope, norm_eps, Epilogue::SwiGlu)?;
        let down = &scope.sub("down_proj");
        self.down_proj = self.down_proj.with_row(down, None, Epilogue::Add, 3)?;
        let has_row = |linear: &Linear| linear.row.is_some() && linear.bias.is_none();
        let gate_up = &self.gate_up.products;
        self.fused_row = gate_up.len() == 1 && has_row(&gate_up[0]) && has_row(&self.down_proj);
        Ok(self)
    }

    /// Returns `gate_proj` with `up_proj`, and `down_proj`, where `silu` of the first times the second
    /// and no bias are all that is between.
    pub(crate) fn swiglu_products(&self) -> Option<(&Linear, &Linear)> {
        self.gate_up.product().filter(|_| self.fused_row).map(|product| (product, &self.down_proj))
    }

    /// `x + mlp(norm(x))`, of the shape of `x`, `[.., N, hidden]`.
    pub(crate) fn forward_residual(&self, norm: &RmsNorm, x: &Array) -> MlxResult<Array> {
        if let (true, [gate_up]) = (self.fused_row, self.gate_up.products.as_slice())
            && let Some(gated) = gate_up.row(x, Some(&norm.weight), None)
        {
            return self.down_proj.forward_onto(&gated?, x);
        }
        if let (true, Some(parts)) = (self.fits(x), self.swiglu_host()) {
            let gated = host_linear(x, Some(norm.parts()), &parts, After::SwiGlu)?;
            return self.down_proj.forward_onto(&gated, x);
        }
        x.add(self.forward(&norm.forward(x)?)?)
    }

    /// `[.., N, hidden]` to the same shape. Rows are taken in chunks where the inner activation
    /// would be larger than [`Backend::max_inner_bytes`].
    pub(crate) fn forward(&self, x: &Array) -> MlxResult<Array> {
        self.forward_within(self.max_inner_bytes, x)
    }

    /// Returns `gate_proj` and `up_proj`, if they are computed outside of MLX, and the gate with them.
    fn swiglu_host(&self) -> Option<Vec<HostLinear<'_>>> {
        if self.activation == Activation::Silu { self.gate_up.host() } else { None }
    }

    /// Returns whether the inner activation for `x` may be had at once.
    fn fits(&self, x: &Array) -> bool {
        let rows = x.size() / x.dim(-1).max(1) as usize;
        rows * self.inner as usize * 2 * x.item_size() <= self.max_inner_bytes
    }

    fn forward_within(&self, max_bytes: usize, x: &Array) -> MlxResult<Array> {
        in_pieces(x, self.inner, max_bytes, |x| self.gated(x))
    }

    fn gated(&self, x: &Array) -> MlxResult<Array> {
        if let Some(parts) = self.swiglu_host() {
            return self.down_proj.forward(&host_linear(x, None, &parts, After::SwiGlu)?);
        }
        let parts = self.gate_up.forward_parts(x)?;
        let [gate, up] = parts.as_slice() else { unreachable!("two parts were loaded") };
        let gated = match self.activation {
            Activation::Silu if self.fuses => fused_swiglu(gate, up)?,
            activation => activation.apply(gate)?.multiply(up)?,
        };
        self.down_proj.forward(&gated)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{linear, wave},
        *,
    };

    #[test]
    fn an_mlp_in_pieces_is_the_mlp() {
        let mlp = Mlp {
            gate_up: Joined {
                products: vec![linear(64, 8, 0.3), linear(64, 8, 0.7)],
                ends: vec![64, 128],
            },
            down_proj: linear(8, 64, 0.9),
            inner: 64,
            activation: Activation::Silu,
            fuses: false,
            max_inner_bytes: usize::MAX,
            fused_row: false,
        };
        let x = wave(&[2, 50, 8], 0.11);
        let whole = mlp.forward_within(usize::MAX, &x).unwrap();
        for bytes in [1, 64 * 4 * 2 * 7, 64 * 4 * 2 * 49] {
            let pieces = mlp.forward_within(bytes, &x).unwrap();
            assert!(pieces.all_close(&whole, 1e-5, 1e-5, None).unwrap(), "at most {bytes} bytes");
        }
    }
}
