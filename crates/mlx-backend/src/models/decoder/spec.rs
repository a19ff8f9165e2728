//! What a decoder is made of, as data that a family's file fills in.

use crate::models::sizes::{self, MAX_HEADS, MAX_VOCABULARY, MAX_WIDTH};
use crate::{
    Result,
    device::Backend,
    guard::DecoderFootprint,
    nn::{Activation, Experts, RmsNorm},
    rope::Rope,
    weights::Scope,
};

/// A decoder. The numbers are counts of values, heads and tokens.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) hidden: i32,
    /// Values inside the MLP.
    pub(crate) inner: i32,
    pub(crate) heads: i32,
    pub(crate) key_value_heads: i32,
    pub(crate) head_dim: i32,
    pub(crate) vocabulary: i32,
    pub(crate) context_tokens: usize,
    pub(crate) layers: Vec<LayerSpec>,
    pub(crate) eps: f32,
    /// What products of queries and keys are multiplied with.
    pub(crate) attention_scale: f32,
    /// Of `q_proj`, `k_proj` and `v_proj`.
    pub(crate) attention_bias: bool,
    /// Of `o_proj`.
    pub(crate) output_bias: bool,
    pub(crate) mlp_bias: bool,
    /// Whether the queries and keys of each head are normalised.
    pub(crate) head_norms: bool,
    /// Whether what attention and MLP give is normalised, too.
    pub(crate) after_norms: bool,
    /// Whether weights of norms are stored as their distance from 1.
    pub(crate) norms_add_one: bool,
    pub(crate) activation: Activation,
    /// What embeddings of tokens are multiplied with.
    pub(crate) embedding_scale: Option<f32>,
    /// Whether the head is the embedding.
    pub(crate) tied: bool,
}

/// A layer, in what layers of one decoder may differ.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerSpec {
    pub(crate) rope: RopeSpec,
    /// Most tokens that a token sees, itself included; `None` for all before it.
    pub(crate) window: Option<i32>,
    pub(crate) experts: Option<Experts>,
}

/// How positions turn queries and keys.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RopeSpec {
    /// Values of a head that are turned, the first ones.
    pub(crate) dims: i32,
    pub(crate) base: f32,
    pub(crate) scaling: Scaling,
    pub(crate) axes: Axes,
}

/// How frequencies are stretched for contexts longer than the first one trained on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scaling {
    None,
    /// All divided by this.
    Linear(f32),
    /// Low ones divided by `factor`, high ones kept, those between in between. Source:
    /// transformers `modeling_rope_utils.py`, `_compute_llama3_parameters`.
    Llama3 {
        factor: f32,
        low: f32,
        high: f32,
        original: f32,
    },
}

/// What the frequencies turn with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Axes {
    /// The position of a token.
    One,
    /// Time, height and width, so many frequencies each, one axis after the other.
    Sections([usize; 3]),
    /// Time, height and width by turns, until height and width have as many as they get.
    Interleaved([usize; 3]),
}

impl Default for RopeSpec {
    fn default() -> Self {
        Self { dims: 2, base: 1e4, scaling: Scaling::None, axes: Axes::One }
    }
}

impl RopeSpec {
    /// Returns the rotary embedding; to be called on the MLX thread.
    pub(crate) fn rope(&self, backend: Backend) -> Rope {
        let half = self.dims as usize / 2;
        let axis_of = match self.axes {
            Axes::One => vec![0; half],
            Axes::Sections(sections) => {
                let runs = sections.iter().enumerate();
                runs.flat_map(|(axis, &n)| std::iter::repeat_n(axis, n)).collect()
            }
            Axes::Interleaved([_, height, width]) => (0..half)
                .map(|i| match i % 3 {
                    1 if i < 3 * height => 1,
                    2 if i < 3 * width => 2,
                    _ => 0,
                })
                .collect(),
        };
        let exponent = |i: usize| (2 * i) as f32 / self.dims as f32;
        let plain = (0..half).map(|i| self.base.powf(-exponent(i)));
        let frequencies: Vec<f32> = match self.scaling {
            Scaling::None => plain.collect(),
            Scaling::Linear(factor) => plain.map(|f| f / factor).collect(),
            Scaling::Llama3 { factor, low, high, original } => plain
                .map(|f| {
                    let turns = original * f / (2.0 * std::f32::consts::PI);
                    let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    f * (kept + (1.0 - kept) / factor)
                })
                .collect(),
        };
        let base = (self.scaling == Scaling::None).then_some(self.base);
        Rope::new(self.dims, base, frequencies, axis_of, backend.compiles())
    }
}

impl Spec {
    /// Loads a norm of `dims` values.
    pub(super) fn norm(&self, scope: &Scope<'_>, dims: i32) -> Result<RmsNorm> {
        match self.norms_add_one {
            false => RmsNorm::load(scope, dims, self.eps),
            true => RmsNorm::load_add_one(scope, dims, self.eps),
        }
    }

    /// Returns the sizes that decide how much memory the decoder takes.
    pub(crate) fn footprint(&self) -> DecoderFootprint {
        // Validated to be positive.
        let size = |value: i32| u64::from(value.unsigned_abs());
        let of_experts =
            |layer: &LayerSpec| layer.experts.map(|e| size(e.inner) * size(e.per_token));
        let of_experts = self.layers.iter().filter_map(of_experts).max().unwrap_or(0);
        DecoderFootprint {
            layers: self.layers.len() as u64,
            hidden: size(self.hidden),
            inner: size(self.inner).max(of_experts),
            heads: size(self.heads),
            key_value_heads: size(self.key_value_heads),
            head_dim: size(self.head_dim),
            vocabulary: size(self.vocabulary),
            windows: self.layers.iter().any(|layer| layer.window.is_some()),
        }
    }

    /// Checks what later arithmetic relies on.
    ///
    /// # Errors
    /// A sentence with both values that do not fit.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let Self { hidden, heads, key_value_heads, head_dim, vocabulary, inner, .. } = *self;
        sizes::check(&[
            ("hidden_size", hidden, MAX_WIDTH),
            ("num_attention_heads", heads, MAX_HEADS),
            ("num_key_value_heads", key_value_heads, MAX_HEADS),
            ("head_dim", head_dim, MAX_HEADS),
            ("vocab_size", vocabulary, MAX_VOCABULARY),
            ("intermediate_size", inner, MAX_WIDTH),
        ])?;
        if self.layers.is_empty() {
            return Err("expected `num_hidden_layers` above 0, found 0".to_owned());
        }
        if heads % key_value_heads != 0 {
            return Err(format!(
                "{heads} query heads do not divide among {key_value_heads} key heads"
            ));
        }
        for layer in &self.layers {
            if let Some(window) = layer.window.filter(|&window| window <= 0) {
                return Err(format!("expected `sliding_window` above 0, found {window}"));
            }
            let Experts { count, per_token, inner, .. } = match layer.experts {
                Some(experts) => experts,
                None => continue,
            };
            sizes::check(&[
                ("num_experts", count, MAX_HEADS),
                ("num_experts_per_tok", per_token, count),
                ("moe_intermediate_size", inner, MAX_WIDTH),
            ])?;
        }
        match self.layers.iter().map(|layer| layer.rope.dims).find(|d| d % 2 != 0 || *d > head_dim)
        {
            Some(dims) => Err(format!(
                "expected an even number of values to turn, at most the head size of {head_dim}, \
                 found {dims}"
            )),
            None => Ok(()),
        }
    }
}
