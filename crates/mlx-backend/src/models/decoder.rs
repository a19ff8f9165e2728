//! The decoder that the families share: pre-norm blocks of grouped-query attention and a gated MLP, with
//! the choices in which families differ. A family's own file says which it makes.
//!
//! ```text
//! tokens -> embedding (times a scale?) -> block * layers -> norm -> head -> logits
//!
//! block:  x = x + norm?(attention(norm(x)))    q and k: (norm of each head?), then turned
//!         x = x + norm?(mlp(norm(x)))          mlp: gated, or a few of many (experts)
//! ```
//!
//! Sources: arXiv:2302.13971 (Llama), arXiv:2407.10671 (Qwen2), arXiv:2503.19786 (Gemma 3).
//!
//! `B` batch, `L` new tokens, `S` cached plus new, `E` hidden, `H`/`K` query/key heads, `D` head
//! size, `V` vocabulary.

mod attention;
mod spec;

use mlx_rs::{
    Array, Dtype,
    error::{Exception, Result as MlxResult},
    ops,
    ops::indexing::TryIndexOp,
};

use self::attention::Attention;
pub(crate) use self::spec::{Axes, LayerSpec, RopeSpec, Scaling, Spec};
use crate::{
    Result, adapter,
    device::Backend,
    fused_layer::{FusedLayer, FusedRows, Heads, LayerParts},
    kv_cache::{LayerCaches, Places},
    matvec::Epilogue,
    nn::{Embedding, Linear, MixtureOfExperts, Mlp, RmsNorm, mlx_error, settle},
    rope::{Positions, Rope, Rotation},
    weights::Scope,
};

/// The decoder: tokens or embeddings in, logits out.
#[derive(Debug)]
pub(crate) struct Decoder {
    embed_tokens: Embedding,
    embedding_scale: Option<f32>,
    layers: Vec<Block>,
    norm: RmsNorm,
    /// `None` where the head is tied to the embedding.
    lm_head: Option<Linear>,
    /// What turns tokens whose positions have three axes.
    rope: Rope,
    pub(crate) dtype: Dtype,
    settle_bytes: usize,
    settle_layers: usize,
}

impl Decoder {
    /// Takes `model` and, unless tied, `lm_head`.
    pub(crate) fn load(spec: &Spec, scope: &Scope<'_>, backend: Backend) -> Result<Self> {
        let (model, hidden) = (scope.sub("model"), spec.hidden);
        let head = scope.sub("lm_head");
        if spec.tied && head.has("weight") {
            // A copy of the embedding, packed or not, which some checkpoints hold.
            for part in ["weight", "scales", "biases"].into_iter().filter(|part| head.has(part)) {
                let _ = head.take_any_shape(part)?;
            }
        }
        let rope = spec.layers.first().map(|layer| layer.rope);
        Ok(Self {
            embed_tokens: Embedding::load(&model.sub("embed_tokens"), spec.vocabulary, hidden)?,
            embedding_scale: spec.embedding_scale,
            layers: (0..)
                .zip(&spec.layers)
                .map(|(i, layer)| {
                    Block::load(spec, layer, &model.sub(format!("layers.{i}")), backend)
                })
                .collect::<Result<_>>()?,
            norm: spec.norm(&model.sub("norm"), hidden)?,
            lm_head: (!spec.tied)
                .then(|| {
                    let linear = Linear::load(&head, spec.vocabulary, hidden, false)?;
                    linear.with_row(&head, None, Epilogue::None, 2)
                })
                .transpose()?,
            rope: rope.unwrap_or_default().rope(backend),
            dtype: scope.dtype(),
            settle_bytes: backend.decoder_settle_bytes(),
            settle_layers: backend.decoder_settle_layers(),
        })
    }

    pub(crate) fn layers(&self) -> usize {
        self.layers.len()
    }

    /// Token ids `[B, L]` to `[B, L, E]`.
    pub(crate) fn embed(&self, ids: &Array) -> MlxResult<Array> {
        let x = self.embed_tokens.forward(ids)?;
        match self.embedding_scale {
            None => Ok(x),
            Some(scale) => x.multiply(Array::from_f32(scale).as_dtype(x.dtype())?),
        }
    }

    /// Returns the rotation of the tokens of a prompt in `range`.
    pub(crate) fn rotation(
        &self,
        positions: &Positions,
        range: std::ops::Range<usize>,
    ) -> MlxResult<Rotation> {
        self.rope.prompt(positions, range, self.dtype)
    }

    /// `[B, L, E]` to `[B, L, E]`, adding the tokens to the caches; with [`Rotation::Rows`],
    /// `[1, B, E]` are a token of each of `B` sequences.
    pub(crate) fn forward(
        &self,
        x: Array,
        rotation: &Rotation,
        caches: &mut dyn LayerCaches,
    ) -> MlxResult<Array> {
        if let Rotation::Rows(_, positions) = rotation
            && let Some(x) = self.forward_rows(&x, positions, caches)?
        {
            return self.norm.forward(&x);
        }
        self.forward_with(x, rotation, caches, &|x, _| Ok(x))
    }

    /// Whether a step of several sequences has a kernel that takes keys and values of each in buffers
    /// of its own.
    pub(crate) fn takes_sequences(&self) -> bool {
        !adapter::is_active() && self.layers.iter().all(|layer| layer.rows.is_some())
    }

    /// The layers of [`forward`](Self::forward) for a token of each of several sequences, `[1, B, E]`, as
    /// one kernel each, if that can be.
    fn forward_rows(
        &self,
        x: &Array,
        positions: &[i32],
        caches: &mut dyn LayerCaches,
    ) -> MlxResult<Option<Array>> {
        let Some(rows) = self.layers.first().and_then(|layer| layer.rows.as_ref()) else {
            return Ok(None);
        };
        let (count, hidden) = (x.dim(1), x.dim(2));
        let all = x.reshape(&[count, hidden])?;
        let mut parts = Vec::new();
        let mut from = 0;
        while from < count {
            let width = rows.width(count - from);
            let to = count.min(from + width);
            let of = from as usize..to as usize;
            let mut part = all.try_index((from..to, ..))?;
            if to - from < width {
                let absent = ops::zeros_dtype(&[width - (to - from), hidden], x.dtype())?;
                part = ops::concatenate(&[&part, &absent], 0)?;
            }
            let mut columns = part.t();
            for (i, layer) in self.layers.iter().enumerate() {
                let positions = &positions[of.clone()];
                match caches.next_places(i, of.clone(), positions, width as usize)? {
                    Some(places) => columns = layer.forward_columns(&columns, &places)?,
                    None if i == 0 && from == 0 => return Ok(None),
                    None => return Err(Exception::custom("caches that only some layers have")),
                }
            }
            parts.push(columns.t().try_index((..to - from, ..))?);
            from = to;
        }
        let all = match parts.as_slice() {
            [all] => all.clone(),
            parts => ops::concatenate(parts, 0)?,
        };
        all.reshape(&[1, count, hidden]).map(Some)
    }

    /// As [`forward`](Self::forward); what leaves layer `i` is what `after(x, i)` makes of it.
    pub(crate) fn forward_with(
        &self,
        mut x: Array,
        rotation: &Rotation,
        caches: &mut dyn LayerCaches,
        after: &dyn Fn(Array, usize) -> MlxResult<Array>,
    ) -> MlxResult<Array> {
        // Steps of single tokens are small, and must not be waited for.
        let settles = x.dim(1) > 1 && !matches!(rotation, Rotation::Rows(..));
        for (i, layer) in self.layers.iter().enumerate() {
            x = after(layer.forward(&x, rotation, caches, i)?, i)?;
            if settles && (i + 1) % self.settle_layers == 0 {
                x = settle(x, self.settle_bytes)?;
            }
        }
        self.norm.forward(&x)
    }

    /// `[.., E]` to `[.., V]`.
    pub(crate) fn logits(&self, x: &Array) -> MlxResult<Array> {
        match &self.lm_head {
            Some(head) => head.forward_row(x),
            None => self.embed_tokens.as_linear(x),
        }
    }
}

#[derive(Debug)]
struct Block {
    input_layernorm: RmsNorm,
    self_attn: Attention,
    /// Of what the attention gives, where a family has it.
    after_attention: Option<RmsNorm>,
    before_mlp: RmsNorm,
    mlp: FeedForward,
    /// Of what the MLP gives, where a family has it.
    after_mlp: Option<RmsNorm>,
    /// All of it for one token of one sequence, where there is a kernel of our own.
    fused: Option<FusedLayer>,
    /// The same for one token of each of several.
    rows: Option<FusedRows>,
}

#[derive(Debug)]
enum FeedForward {
    Dense(Mlp),
    Experts(MixtureOfExperts),
}

impl Block {
    fn load(spec: &Spec, layer: &LayerSpec, scope: &Scope<'_>, backend: Backend) -> Result<Self> {
        let norm = |name| spec.norm(&scope.sub(name), spec.hidden);
        let mlp = &scope.sub("mlp");
        let (before_mlp, after_attention, after_mlp) = match spec.after_norms {
            false => (norm("post_attention_layernorm")?, None, None),
            true => (
                norm("pre_feedforward_layernorm")?,
                Some(norm("post_attention_layernorm")?),
                Some(norm("post_feedforward_layernorm")?),
            ),
        };
        let (hidden, activation) = (spec.hidden, spec.activation);
        let block = Self {
            input_layernorm: norm("input_layernorm")?,
            self_attn: Attention::load(spec, layer, &scope.sub("self_attn"), backend)?,
            after_attention,
            before_mlp,
            mlp: match layer.experts {
                Some(experts) => {
                    FeedForward::Experts(MixtureOfExperts::load(mlp, hidden, experts)?)
                }
                None => {
                    let (inner, bias) = (spec.inner, spec.mlp_bias);
                    let dense = Mlp::load(mlp, hidden, inner, bias, activation, backend)?;
                    FeedForward::Dense(dense.with_row(mlp, spec.eps)?)
                }
            },
            after_mlp,
            fused: None,
            rows: None,
        };
        let (fused, rows) = match block.parts().filter(|_| backend == Backend::Cuda) {
            Some(parts) => {
                let heads = Heads {
                    queries: spec.heads,
                    keys: spec.key_value_heads,
                    values: spec.head_dim,
                    base: layer.rope.base,
                };
                let dtype = scope.dtype();
                let kernels = || -> MlxResult<_> {
                    let fused = FusedLayer::new(&parts, &heads, dtype)?;
                    Ok((fused, FusedRows::new(&parts, &heads, dtype)?))
                };
                kernels().map_err(|e| mlx_error("kernel", &e))?
            }
            None => (None, None),
        };
        Ok(Self { fused, rows, ..block })
    }

    /// Returns what one kernel would have to know, if there is nothing that it cannot do.
    fn parts(&self) -> Option<LayerParts<'_>> {
        let FeedForward::Dense(mlp) = &self.mlp else { return None };
        let (qkv, o) = self.self_attn.row_products()?;
        let (gate_up, down) = mlp.swiglu_products()?;
        let (attention_norm, mlp_norm) = (&self.input_layernorm, &self.before_mlp);
        let plain = self.after_attention.is_none() && self.after_mlp.is_none();
        let parts = LayerParts { attention_norm, qkv, o, mlp_norm, gate_up, down };
        plain.then_some(parts)
    }

    /// [`forward`](Self::forward) as one kernel, if that can be.
    fn forward_fused(
        &self,
        x: &Array,
        rotation: &Rotation,
        caches: &mut dyn LayerCaches,
        i: usize,
    ) -> MlxResult<Option<Array>> {
        let (Some(fused), Rotation::Offset(position, first)) = (&self.fused, rotation) else {
            return Ok(None);
        };
        if adapter::is_active() {
            return Ok(None);
        }
        let Some(parts) = self.parts().filter(|_| x.shape()[..x.ndim() - 1] == [1, 1]) else {
            return Ok(None);
        };
        let Some(place) = caches.next_place(i, *first)? else { return Ok(None) };
        fused.apply(x, &parts, position, &place).map(Some)
    }

    /// `[E, width]` to the same, of a token of each of several sequences.
    fn forward_columns(&self, x: &Array, places: &Places) -> MlxResult<Array> {
        match self.rows.as_ref().zip(self.parts()) {
            Some((rows, parts)) => rows.apply(x, &parts, places),
            None => Err(Exception::custom("a layer without a kernel for several rows")),
        }
    }

    fn forward(
        &self,
        x: &Array,
        rotation: &Rotation,
        caches: &mut dyn LayerCaches,
        i: usize,
    ) -> MlxResult<Array> {
        if let Some(y) = self.forward_fused(x, rotation, caches, i)? {
            return Ok(y);
        }
        let norm = &self.input_layernorm;
        let x = match &self.after_attention {
            None => self.self_attn.forward_residual(norm, x, rotation, (caches, i))?,
            Some(after) => {
                let attended = self.self_attn.forward(norm, x, rotation, (caches, i))?;
                x.add(after.forward(&attended)?)?
            }
        };
        let norm = &self.before_mlp;
        match (&self.mlp, &self.after_mlp) {
            (FeedForward::Dense(mlp), None) => mlp.forward_residual(norm, &x),
            (FeedForward::Dense(mlp), Some(after)) => {
                x.add(after.forward(&mlp.forward(&norm.forward(&x)?)?)?)
            }
            (FeedForward::Experts(experts), after) => {
                let y = experts.forward(&norm.forward(&x)?)?;
                x.add(after.as_ref().map_or(Ok(y.clone()), |after| after.forward(&y))?)
            }
        }
    }
}

#[cfg(test)]
mod tests;
