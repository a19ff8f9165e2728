//! Qwen2 decoder: pre-norm blocks of grouped-query attention (biases on q, k and v) and SwiGLU.
//! The text half of Qwen2-VL and Qwen2.5-VL, where positions have three axes.
//!
//! Sources: arXiv:2407.10671; transformers `modeling_qwen2_5_vl.py`, `Qwen2_5_VLTextModel`.
//!
//! `B` batch, `L` new tokens, `S` cached plus new, `E` hidden, `H`/`K` query/key heads, `D` head
//! size, `V` vocabulary.

use mlx_rs::{Array, Dtype, error::Result as MlxResult};
use serde::Deserialize;

use crate::{
    Result,
    attend::Attend,
    device::Backend,
    ffi::slice,
    guard::DecoderFootprint,
    kv_cache::{self, LayerCaches},
    matvec::Epilogue,
    nn::{Embedding, Joined, Linear, Mlp, RmsNorm, mlx_error, settle},
    rope::{Rope, Rotation},
    weights::Scope,
};

/// The fields of `config.json` that the decoder reads, with upstream's defaults.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Config {
    pub(crate) hidden_size: i32,
    pub(crate) num_hidden_layers: usize,
    pub(crate) intermediate_size: i32,
    pub(crate) num_attention_heads: i32,
    #[serde(default)]
    pub(crate) num_key_value_heads: Option<i32>,
    #[serde(default = "default_eps")]
    pub(crate) rms_norm_eps: f32,
    pub(crate) vocab_size: i32,
    #[serde(default)]
    rope_theta: Option<f32>,
    #[serde(default = "default_context")]
    pub(crate) max_position_embeddings: usize,
    #[serde(default)]
    rope_scaling: Option<RopeParameters>,
    /// The newer name, which holds the base too.
    #[serde(default)]
    rope_parameters: Option<RopeParameters>,
    /// Upstream's default is true: the 3B checkpoint has no head of its own.
    #[serde(default = "default_true")]
    pub(crate) tie_word_embeddings: bool,
}

/// The frequencies and how they are divided among the axes.
#[derive(Clone, Debug, Default, Deserialize)]
struct RopeParameters {
    #[serde(default)]
    rope_theta: Option<f32>,
    #[serde(default)]
    mrope_section: Option<[usize; 3]>,
}

impl Config {
    pub(crate) fn head_dim(&self) -> i32 {
        self.hidden_size / self.num_attention_heads
    }

    fn key_value_heads(&self) -> i32 {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// Returns the rotary embedding; without sections, every frequency turns with time, which for
    /// text is the plain embedding.
    fn rope(&self, backend: Backend) -> Rope {
        let half = self.head_dim() as usize / 2;
        let sections = self.mrope_section().unwrap_or([half, 0, 0]);
        Rope::new(self.head_dim(), self.rope_base(), sections, backend.compiles())
    }

    fn rope_base(&self) -> f32 {
        let theta = self.rope_theta.or_else(|| self.rope_parameters().find_map(|p| p.rope_theta));
        theta.unwrap_or(1e6)
    }

    fn rope_parameters(&self) -> impl Iterator<Item = &RopeParameters> {
        self.rope_scaling.iter().chain(&self.rope_parameters)
    }

    fn mrope_section(&self) -> Option<[usize; 3]> {
        self.rope_parameters().find_map(|p| p.mrope_section)
    }

    /// Returns the sizes that decide how much memory the decoder takes.
    pub(crate) fn footprint(&self) -> DecoderFootprint {
        // Validated to be positive.
        let size = |value: i32| u64::from(value.unsigned_abs());
        DecoderFootprint {
            layers: self.num_hidden_layers as u64,
            hidden: size(self.hidden_size),
            inner: size(self.intermediate_size),
            heads: size(self.num_attention_heads),
            key_value_heads: size(self.key_value_heads()),
            head_dim: size(self.head_dim()),
            vocabulary: size(self.vocab_size),
        }
    }

    /// Checks what later arithmetic relies on.
    ///
    /// # Errors
    /// A sentence with both values that do not fit.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let (hidden, heads, kv) =
            (self.hidden_size, self.num_attention_heads, self.key_value_heads());
        if hidden <= 0 || heads <= 0 || kv <= 0 || self.vocab_size <= 0 {
            return Err("hidden_size, vocab_size and the numbers of heads must be positive".into());
        }
        if hidden % heads != 0 || self.head_dim() % 2 != 0 {
            return Err(format!("hidden_size {hidden} does not divide into {heads} even heads"));
        }
        if heads % kv != 0 {
            return Err(format!("{heads} query heads do not divide among {kv} key heads"));
        }
        match self.mrope_section().map(|sections| sections.iter().sum::<usize>()) {
            Some(sum) if sum * 2 != self.head_dim() as usize => Err(format!(
                "mrope_section sums to {sum}, expected half the head size of {}",
                self.head_dim()
            )),
            _ => Ok(()),
        }
    }
}

/// The decoder: tokens or embeddings in, logits out.
#[derive(Debug)]
pub(crate) struct Model {
    embed_tokens: Embedding,
    layers: Vec<Block>,
    norm: RmsNorm,
    /// `None` where the head is tied to the embedding.
    lm_head: Option<Linear>,
    pub(crate) rope: Rope,
    pub(crate) dtype: Dtype,
    settle_bytes: usize,
    settle_layers: usize,
}

impl Model {
    /// Takes the tensors of `language_model`.
    pub(crate) fn load(config: &Config, scope: &Scope<'_>, backend: Backend) -> Result<Self> {
        let (model, hidden) = (scope.sub("model"), config.hidden_size);
        Ok(Self {
            embed_tokens: Embedding::load(&model.sub("embed_tokens"), config.vocab_size, hidden)?,
            layers: (0..config.num_hidden_layers)
                .map(|i| Block::load(config, &model.sub(format!("layers.{i}")), backend))
                .collect::<Result<_>>()?,
            norm: RmsNorm::load(&model.sub("norm"), hidden, config.rms_norm_eps)?,
            lm_head: (!config.tie_word_embeddings)
                .then(|| {
                    let scope = scope.sub("lm_head");
                    let head = Linear::load(&scope, config.vocab_size, hidden, false)?;
                    head.with_row(&scope, None, Epilogue::None, 2)
                })
                .transpose()?,
            rope: config.rope(backend),
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
        self.embed_tokens.forward(ids)
    }

    /// `[B, L, E]` to `[B, L, E]`, adding the tokens to the caches; with [`Rotation::Rows`],
    /// `[1, B, E]` are a token of each of `B` sequences.
    pub(crate) fn forward(
        &self,
        mut x: Array,
        rotation: &Rotation,
        caches: &mut dyn LayerCaches,
    ) -> MlxResult<Array> {
        // Steps of single tokens are small, and must not be waited for.
        let settles = x.dim(1) > 1 && !matches!(rotation, Rotation::Rows(_));
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&x, &self.rope, rotation, caches, i)?;
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
    post_attention_layernorm: RmsNorm,
    mlp: Mlp,
}

impl Block {
    fn load(config: &Config, scope: &Scope<'_>, backend: Backend) -> Result<Self> {
        let norm = |name| RmsNorm::load(&scope.sub(name), config.hidden_size, config.rms_norm_eps);
        Ok(Self {
            input_layernorm: norm("input_layernorm")?,
            self_attn: Attention::load(config, &scope.sub("self_attn"), backend)?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            mlp: Mlp::load(
                &scope.sub("mlp"),
                config.hidden_size,
                config.intermediate_size,
                false,
                backend,
            )?
            .with_row(&scope.sub("mlp"), config.rms_norm_eps)?,
        })
    }

    fn forward(
        &self,
        x: &Array,
        rope: &Rope,
        rotation: &Rotation,
        caches: &mut dyn LayerCaches,
        i: usize,
    ) -> MlxResult<Array> {
        let norm = &self.input_layernorm;
        let x = self.self_attn.forward_residual(norm, x, rope, rotation, (caches, i))?;
        self.mlp.forward_residual(&self.post_attention_layernorm, &x)
    }
}

#[derive(Debug)]
struct Attention {
    /// `q_proj`, `k_proj` and `v_proj`.
    qkv: Joined,
    o_proj: Linear,
    heads: i32,
    key_value_heads: i32,
    head_dim: i32,
    /// Whether MLX has a fused kernel for this attention.
    fused: bool,
    /// For one token of one sequence, where there is a kernel of our own.
    row: Option<Attend>,
}

impl Attention {
    fn load(config: &Config, scope: &Scope<'_>, backend: Backend) -> Result<Self> {
        let (hidden, d) = (config.hidden_size, config.head_dim());
        let (heads, key_value_heads) = (config.num_attention_heads, config.key_value_heads());
        let parts = [
            ("q_proj", heads * d),
            ("k_proj", key_value_heads * d),
            ("v_proj", key_value_heads * d),
        ];
        Ok(Self {
            qkv: Joined::load(scope, &parts, hidden, true)?.with_row(
                scope,
                config.rms_norm_eps,
                Epilogue::Add,
            )?,
            o_proj: Linear::load(&scope.sub("o_proj"), hidden, heads * d, false)?.with_row(
                scope,
                None,
                Epilogue::Add,
                3,
            )?,
            heads,
            key_value_heads,
            head_dim: d,
            fused: backend.fuses_attention(d, scope.dtype()),
            row: match backend {
                Backend::Cuda => {
                    Attend::new((heads, key_value_heads, d), config.rope_base(), scope.dtype())
                        .map_err(|e| mlx_error("kernel", &e))?
                }
                Backend::Cpu | Backend::Metal => None,
            },
        })
    }

    /// `x + attention(norm(x))`, of the shape of `x`; each token sees itself and those before it.
    fn forward_residual(
        &self,
        norm: &RmsNorm,
        x: &Array,
        rope: &Rope,
        rotation: &Rotation,
        (caches, layer): (&mut dyn LayerCaches, usize),
    ) -> MlxResult<Array> {
        let (h, k, d) = (self.heads, self.key_value_heads, self.head_dim);
        let (b, l) = match rotation {
            Rotation::Rows(_) => (x.dim(1), 1),
            Rotation::Offset(..) | Rotation::Table(..) => (x.dim(0), x.dim(1)),
        };
        let heads = self.qkv.forward_normed(norm, x)?;
        if let (Some(row), Rotation::Offset(position, first), (1, 1)) =
            (&self.row, rotation, (b, l))
            && let Some(place) = caches.next_place(layer, *first)?
        {
            let out = row.apply(&heads, (place.keys, place.values), position, place.state)?;
            return self.o_proj.forward_onto(&out, x);
        }
        let heads = match l {
            // Of one token, what a transposition would change are axes of length 1.
            1 => heads.reshape(&[b, h + 2 * k, 1, d])?,
            _ => heads.reshape(&[b, l, h + 2 * k, d])?.transpose_axes(&[0, 2, 1, 3])?,
        };
        let part = |x: &Array, from: i32, to: i32| slice(x, [0, from, 0, 0], [b, to, l, d]);
        let turned = rope.apply(&part(&heads, 0, h + k)?, rotation)?; // [B, H + K, L, D]
        let (keys, values) = (part(&turned, h, h + k)?, part(&heads, h + k, h + 2 * k)?);
        let how = kv_cache::Attention { scale: (d as f32).powf(-0.5), fused: self.fused };
        let out = caches.attend(layer, &part(&turned, 0, h)?, (&keys, &values), how)?;
        let out = if l == 1 { out } else { out.transpose_axes(&[0, 2, 1, 3])? };
        self.o_proj.forward_onto(&out.reshape(&[x.dim(0), x.dim(1), h * d])?, x)
    }
}

fn default_eps() -> f32 {
    1e-6
}

fn default_context() -> usize {
    128_000
}

fn default_true() -> bool {
    true
}
