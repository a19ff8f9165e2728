//! The encoder that most towers share: blocks with layer normalisation and an MLP of two layers.

use mlx_rs::{Array, error::Result as MlxResult};

use super::{Attention, Heads, Pass};
use crate::{
    Result,
    device::Backend,
    nn::{Activation, LayerNorm, TwoLayerMlp},
    weights::Scope,
};

/// What an encoder is made of.
#[derive(Clone, Copy, Debug)]
pub(in crate::models) struct EncoderSpec {
    pub(in crate::models) depth: usize,
    pub(in crate::models) heads: Heads,
    /// Values inside the MLP.
    pub(in crate::models) inner: i32,
    pub(in crate::models) activation: Activation,
    pub(in crate::models) eps: f32,
    pub(in crate::models) names: Names,
}

/// What checkpoints call the parts of a block.
#[derive(Clone, Copy, Debug)]
pub(in crate::models) struct Names {
    norms: [&'static str; 2],
    attention: &'static str,
    qkv: &'static [&'static str],
    out: &'static str,
    mlp: [&'static str; 2],
}

impl Names {
    /// Those of CLIP and SigLIP in transformers.
    pub(in crate::models) const HUGGING_FACE: Self = Self {
        norms: ["layer_norm1", "layer_norm2"],
        attention: "self_attn",
        qkv: &["q_proj", "k_proj", "v_proj"],
        out: "out_proj",
        mlp: ["fc1", "fc2"],
    };

    /// Those of Qwen-VL, whose `mlp` differs from one to the other.
    pub(in crate::models) const fn qwen(mlp: [&'static str; 2]) -> Self {
        Self { norms: ["norm1", "norm2"], attention: "attn", qkv: &["qkv"], out: "proj", mlp }
    }
}

/// The blocks.
#[derive(Debug)]
pub(in crate::models) struct Encoder {
    blocks: Vec<Block>,
    backend: Backend,
    fused: bool,
}

impl Encoder {
    /// Takes the blocks `0`, `1` and so on.
    pub(in crate::models) fn load(spec: &EncoderSpec, scope: &Scope<'_>) -> Result<Self> {
        let backend = scope.backend();
        let blocks = (0..spec.depth).map(|i| Block::load(spec, &scope.sub(i.to_string())));
        Ok(Self {
            blocks: blocks.collect::<Result<_>>()?,
            fused: backend.fuses_attention(spec.heads.dim, scope.dtype()),
            backend,
        })
    }

    /// `[T, N, E]` to the same shape. `rotation` turns queries and keys; `after` sees what leaves each
    /// block.
    pub(in crate::models) fn forward(
        &self,
        mut x: Array,
        rotation: Option<(Array, Array)>,
        mut after: impl FnMut(&Array, usize) -> MlxResult<()>,
    ) -> MlxResult<Array> {
        let pass = Pass::new(self.backend, self.fused, rotation);
        for (i, block) in self.blocks.iter().enumerate() {
            x = block.forward(x, &pass)?;
            after(&x, i)?;
        }
        Ok(x)
    }
}

#[derive(Debug)]
struct Block {
    norms: [LayerNorm; 2],
    attention: Attention,
    mlp: TwoLayerMlp,
}

impl Block {
    fn load(spec: &EncoderSpec, scope: &Scope<'_>) -> Result<Self> {
        let EncoderSpec { heads, inner, names, .. } = *spec;
        let hidden = heads.count * heads.dim;
        let norm = |name| LayerNorm::load(&scope.sub(name), hidden, spec.eps);
        let (attention, mlp) = (scope.sub(names.attention), scope.sub("mlp"));
        Ok(Self {
            norms: [norm(names.norms[0])?, norm(names.norms[1])?],
            attention: Attention::load(&attention, names.qkv, names.out, heads)?,
            mlp: TwoLayerMlp::load(&mlp, names.mlp, (hidden, inner, hidden), spec.activation)?,
        })
    }

    fn forward(&self, x: Array, pass: &Pass) -> MlxResult<Array> {
        let attended = self.attention.forward(&self.norms[0].forward(&x)?, pass, None)?;
        let x = pass.settle(x.add(attended)?)?;
        let inner = self.mlp.forward(&self.norms[1].forward(&x)?)?;
        pass.settle(x.add(inner)?)
    }
}
