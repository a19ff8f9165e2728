//! Attention among the patches of a frame.

use mlx_rs::{Array, error::Result as MlxResult, ops, ops::indexing::TryIndexOp};

use crate::{
    Result,
    device::Backend,
    nn::{Joined, Linear, Reach, attention, settle},
    rope::rotate,
    weights::Scope,
};

/// What all blocks of a tower share for one image.
#[derive(Debug)]
pub(in crate::models) struct Pass {
    /// Cosines and sines of the patches, `[N, D]` in f32, if positions turn queries and keys.
    rotation: Option<(Array, Array)>,
    /// Whether MLX has a fused attention kernel for this head size on this device.
    fused: bool,
    compiles: bool,
    settle_bytes: usize,
}

impl Pass {
    /// Returns what blocks with heads of `head_dim` values share.
    pub(in crate::models) fn new(
        backend: Backend,
        fused: bool,
        rotation: Option<(Array, Array)>,
    ) -> Self {
        let (compiles, settle_bytes) = (backend.compiles(), backend.settle_bytes());
        Self { rotation, fused, compiles, settle_bytes }
    }

    /// Computes what is large at once; see [`settle`].
    pub(in crate::models) fn settle(&self, x: Array) -> MlxResult<Array> {
        settle(x, self.settle_bytes)
    }
}

/// How many heads there are, and how large each is.
#[derive(Clone, Copy, Debug)]
pub(in crate::models) struct Heads {
    pub(in crate::models) count: i32,
    pub(in crate::models) dim: i32,
}

/// Attention of every patch to every other, with biases.
#[derive(Debug)]
pub(in crate::models) struct Attention {
    qkv: Joined,
    out: Linear,
    heads: Heads,
}

impl Attention {
    /// Takes `qkv`, one layer or three, and `out`.
    pub(in crate::models) fn load(
        scope: &Scope<'_>,
        qkv: &[&str],
        out: &str,
        heads: Heads,
    ) -> Result<Self> {
        let hidden = heads.count * heads.dim;
        let outputs = 3 * hidden / qkv.len().max(1) as i32;
        let parts: Vec<(&str, i32)> = qkv.iter().map(|&name| (name, outputs)).collect();
        Ok(Self {
            qkv: Joined::load(scope, &parts, hidden, true)?,
            out: Linear::load(&scope.sub(out), hidden, hidden, true)?,
            heads,
        })
    }

    /// `[T, N, E]` to `[T, N, E]`. With `runs` (windows, patches of each window) patches attend
    /// within their window, all windows of a run in one call; without, over the frame.
    pub(in crate::models) fn forward(
        &self,
        x: &Array,
        pass: &Pass,
        runs: Option<&[(i32, i32)]>,
    ) -> MlxResult<Array> {
        let Heads { count, dim } = self.heads;
        let (t, n, scale) = (x.dim(0), x.dim(1), (dim as f32).powf(-0.5));
        let (q, k, v) = self.queries_keys_values(x, pass)?; // [T, H, N, D]
        let attend =
            |q: &Array, k: &Array, v: &Array| attention(q, k, v, scale, Reach::All, pass.fused);

        let out = match runs {
            None => attend(&q, &k, &v)?,
            Some(runs) => {
                let mut outs = Vec::with_capacity(runs.len());
                let mut start = 0;
                for &(windows, patches) in runs {
                    let end = start + windows * patches;
                    // [T, H, W * P, D] to [T * W, H, P, D]
                    let fold = |x: &Array| {
                        x.try_index((.., .., start..end, ..))?
                            .reshape(&[t, count, windows, patches, dim])?
                            .transpose_axes(&[0, 2, 1, 3, 4])?
                            .reshape(&[t * windows, count, patches, dim])
                    };
                    let out = attend(&fold(&q)?, &fold(&k)?, &fold(&v)?)?;
                    outs.push(
                        out.reshape(&[t, windows, count, patches, dim])?
                            .transpose_axes(&[0, 2, 1, 3, 4])?
                            .reshape(&[t, count, windows * patches, dim])?,
                    );
                    start = end;
                }
                ops::concatenate(&outs, 2)?
            }
        };
        self.out.forward(&out.transpose_axes(&[0, 2, 1, 3])?.reshape(&[t, n, -1])?)
    }

    /// `[T, N, E]` to three of `[T, H, N, D]`, the first two rotated.
    fn queries_keys_values(&self, x: &Array, pass: &Pass) -> MlxResult<(Array, Array, Array)> {
        let qkv = pass.settle(self.qkv.forward(x)?)?;
        let qkv = qkv.reshape(&[x.dim(0), x.dim(1), 3, self.heads.count, self.heads.dim])?;
        let part = |i: i32| qkv.try_index((.., .., i, .., ..))?.transpose_axes(&[0, 2, 1, 3]);
        // A view would keep all of `qkv`, and be copied for each piece of the attention.
        let apart = |x: Array| pass.settle(x.contiguous()?);
        let turn = |x: Array| match &pass.rotation {
            Some((cos, sin)) => pass.settle(rotate(&x, cos, sin, pass.compiles)?),
            None => apart(x),
        };
        Ok((turn(part(0)?)?, turn(part(1)?)?, apart(part(2)?)?))
    }
}
