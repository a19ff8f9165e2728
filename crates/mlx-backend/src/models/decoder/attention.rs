//! Grouped-query attention of a decoder's layer.

use mlx_rs::{Array, error::Result as MlxResult};

use super::{Axes, LayerSpec, Scaling, Spec};
use crate::{
    Result,
    attend::Attend,
    device::Backend,
    ffi::{HostAttend, slice},
    kv_cache::{self, LayerCaches},
    matvec::Epilogue,
    nn::{Joined, Linear, RmsNorm, mlx_error},
    rope::{Rope, Rotation},
    weights::Scope,
};

#[derive(Debug)]
pub(super) struct Attention {
    /// `q_proj`, `k_proj` and `v_proj`.
    qkv: Joined,
    o_proj: Linear,
    /// Of each head of the queries and of the keys, where a family has them.
    head_norms: Option<(RmsNorm, RmsNorm)>,
    rope: Rope,
    heads: i32,
    key_value_heads: i32,
    head_dim: i32,
    how: kv_cache::Attention,
    /// For one token of one sequence, where there is a kernel of our own.
    row: Option<OwnKernel>,
}

/// Attention of one token of one sequence, by a kernel of our own.
#[derive(Debug)]
enum OwnKernel {
    Cuda(Attend),
    Host(HostAttend),
}

impl Attention {
    pub(super) fn load(
        spec: &Spec,
        layer: &LayerSpec,
        scope: &Scope<'_>,
        backend: Backend,
    ) -> Result<Self> {
        let Spec { hidden, heads, key_value_heads, head_dim: d, .. } = *spec;
        let parts = [
            ("q_proj", heads * d),
            ("k_proj", key_value_heads * d),
            ("v_proj", key_value_heads * d),
        ];
        let epilogue = if spec.attention_bias { Epilogue::Add } else { Epilogue::None };
        let qkv = Joined::load(scope, &parts, hidden, spec.attention_bias)?;
        let out = scope.sub("o_proj");
        let norm = |name| spec.norm(&scope.sub(name), d);
        let rope = layer.rope.rope(backend);
        Ok(Self {
            row: own_kernel(spec, layer, &rope, scope, backend)?,
            qkv: qkv.with_row(scope, spec.eps, epilogue)?,
            o_proj: match (
                spec.output_bias,
                Linear::load(&out, hidden, heads * d, spec.output_bias)?,
            ) {
                // The kernel adds what comes in, and no bias.
                (true, o_proj) => o_proj,
                (false, o_proj) => o_proj.with_row(&out, None, Epilogue::Add, 3)?,
            },
            head_norms: match spec.head_norms {
                true => Some((norm("q_norm")?, norm("k_norm")?)),
                false => None,
            },
            rope,
            heads,
            key_value_heads,
            head_dim: d,
            how: kv_cache::Attention {
                scale: spec.attention_scale,
                fused: backend.fuses_attention(d, scope.dtype()),
                window: layer.window,
                together: false,
            },
        })
    }

    /// Returns the product of queries, keys and values and that of the output, where plain rotations
    /// and plain attention are all that is between.
    pub(super) fn row_products(&self) -> Option<(&Linear, &Linear)> {
        self.qkv.product().filter(|_| self.row.is_some()).map(|product| (product, &self.o_proj))
    }

    /// `x + attention(norm(x))`, of the shape of `x`; each token sees itself and those before it.
    pub(super) fn forward_residual(
        &self,
        norm: &RmsNorm,
        x: &Array,
        rotation: &Rotation,
        caches: (&mut dyn LayerCaches, usize),
    ) -> MlxResult<Array> {
        self.o_proj.forward_onto(&self.attended(norm, x, rotation, caches)?, x)
    }

    /// `attention(norm(x))`, of the shape of `x`.
    pub(super) fn forward(
        &self,
        norm: &RmsNorm,
        x: &Array,
        rotation: &Rotation,
        caches: (&mut dyn LayerCaches, usize),
    ) -> MlxResult<Array> {
        self.o_proj.forward(&self.attended(norm, x, rotation, caches)?)
    }

    /// What the heads found, `[.., H * D]`.
    fn attended(
        &self,
        norm: &RmsNorm,
        x: &Array,
        rotation: &Rotation,
        (caches, layer): (&mut dyn LayerCaches, usize),
    ) -> MlxResult<Array> {
        let (h, k, d) = (self.heads, self.key_value_heads, self.head_dim);
        let (b, l) = match rotation {
            Rotation::Rows(..) => (x.dim(1), 1),
            _ => (x.dim(0), x.dim(1)),
        };
        let heads = self.qkv.forward_normed(norm, x)?;
        if let (Some(row), Rotation::Offset(position, first), (1, 1)) =
            (&self.row, rotation, (b, l))
            && let Some(place) = caches.next_place(layer, *first)?
        {
            let (keys, values) = (place.keys, place.values);
            return match row {
                OwnKernel::Cuda(row) => row.apply(&heads, (keys, values), position, place.state),
                OwnKernel::Host(row) => {
                    let norms = self.head_norms.as_ref().map(|(q, k)| [q.parts(), k.parts()]);
                    row.apply(&heads, norms, *first, (keys, values, place.tokens as usize))
                }
            };
        }
        let heads = match l {
            // Of one token, what a transposition would change are axes of length 1.
            1 => heads.reshape(&[b, h + 2 * k, 1, d])?,
            _ => heads.reshape(&[b, l, h + 2 * k, d])?.transpose_axes(&[0, 2, 1, 3])?,
        };
        let part = |x: &Array, from: i32, to: i32| slice(x, [0, from, 0, 0], [b, to, l, d]);
        let (queries, keys) = match &self.head_norms {
            None => {
                let turned = self.rope.apply(&part(&heads, 0, h + k)?, rotation)?; // [B, H + K, L, D]
                (part(&turned, 0, h)?, part(&turned, h, h + k)?)
            }
            Some((q_norm, k_norm)) => (
                self.rope.apply(&q_norm.forward(&part(&heads, 0, h)?)?, rotation)?,
                self.rope.apply(&k_norm.forward(&part(&heads, h, h + k)?)?, rotation)?,
            ),
        };
        let values = part(&heads, h + k, h + 2 * k)?;
        let together = matches!(rotation, Rotation::Together(..));
        let how = kv_cache::Attention { together, ..self.how };
        let out = caches.attend(layer, &queries, (&keys, &values), how)?;
        let out = if l == 1 { out } else { out.transpose_axes(&[0, 2, 1, 3])? };
        out.reshape(&[x.dim(0), x.dim(1), h * d])
    }
}

/// Returns the kernel for one token of one sequence, if there is one for this layer.
fn own_kernel(
    spec: &Spec,
    layer: &LayerSpec,
    rope: &Rope,
    scope: &Scope<'_>,
    backend: Backend,
) -> Result<Option<OwnKernel>> {
    let Spec { heads, key_value_heads, head_dim: d, .. } = *spec;
    // What that on CUDA knows.
    let plain = !spec.head_norms
        && layer.rope.dims == d
        && layer.rope.scaling == Scaling::None
        && !matches!(layer.rope.axes, Axes::Interleaved(_))
        && spec.attention_scale == (d as f32).powf(-0.5);
    match backend {
        _ if layer.window.is_some() => Ok(None),
        Backend::Cuda if plain => {
            let sizes = (heads, key_value_heads, d);
            let kernel = Attend::new(sizes, layer.rope.base, scope.dtype())
                .map_err(|e| mlx_error("kernel", &e))?;
            Ok(kernel.map(OwnKernel::Cuda))
        }
        backend if backend.on_host(scope.dtype()) => Ok(Some(OwnKernel::Host(HostAttend {
            heads: heads as usize,
            key_heads: key_value_heads as usize,
            d: d as usize,
            scale: spec.attention_scale,
            frequencies: rope.frequencies().to_vec(),
        }))),
        _ => Ok(None),
    }
}
