//! The layers that every model is made of, dense or quantised: what a tensor is decides, no model
//! knows.

use std::cell::RefCell;

use mlx_rs::{
    Array, Dtype,
    error::Result as MlxResult,
    fast,
    ops::{
        self,
        indexing::{Ellipsis, TryIndexOp},
    },
    transforms::compile::compile,
};

use crate::{
    Error, LoadError, Result,
    device::Backend,
    ffi::{After, HostLinear, HostWeight, dequantize, host_linear, quantize, quantized_matmul},
    matvec::{Epilogue, Matvec},
    quantize::{QuantizationMode, Quantize},
    weights::{Scope, cast},
};

/// `y = x Wᵀ + b`.
#[derive(Debug)]
pub(crate) struct Linear {
    weight: Weight,
    bias: Option<Array>,
    /// For one row, where there is a kernel that does more than the product.
    row: Option<Matvec>,
    /// As [`Backend::on_host`].
    on_host: bool,
}

impl Linear {
    /// Takes `weight` (`[output, input]`, packed where `scales` is there) and, if `bias`, `bias`.
    pub(crate) fn load(scope: &Scope<'_>, output: i32, input: i32, bias: bool) -> Result<Self> {
        Self::open(scope, output, input, bias)?.kept(scope)
    }

    /// As [`load`](Self::load), but for what is to be read from disk: that waits for `kept`.
    fn open(scope: &Scope<'_>, output: i32, input: i32, bias: bool) -> Result<Self> {
        let weight = Weight::open(scope, output, input)?;
        let bias = bias.then(|| scope.take_cast("bias", &[output])).transpose()?;
        Ok(Self { weight, bias, row: None, on_host: scope.on_host() })
    }

    /// Adds outputs of zero up to `outputs` and inputs that do not count up to `inputs`, if dense.
    fn padded(self, outputs: i32, inputs: i32) -> MlxResult<Self> {
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
        Ok(Self { weight, bias, ..self })
    }

    /// Has the weights read from disk at the end of loading.
    fn kept(self, scope: &Scope<'_>) -> Result<Self> {
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
        let (how, [rows, input]) = match &self.weight {
            Weight::Dense { rows, .. } => (None, [rows.dim(0), rows.dim(1)]),
            Weight::Packed(p) => {
                (Some(p.how), [p.scales.dim(0), p.scales.dim(1) * p.how.group_size])
            }
        };
        self.row = Matvec::new(how, scope.dtype(), (rows, input), norm_eps, epilogue, ndim)
            .map_err(|e| mlx_error("kernel", &e))?;
        Ok(self)
    }

    /// Runs the kernel for one row, if there is one and `x` is one.
    fn row(
        &self,
        x: &Array,
        gain: Option<&Array>,
        extra: Option<&Array>,
    ) -> Option<MlxResult<Array>> {
        let row = self.row.as_ref()?;
        let weights = match &self.weight {
            Weight::Dense { rows, .. } => [rows; 3],
            Weight::Packed(p) => [&p.weight, &p.scales, p.biases.as_ref()?],
        };
        row.takes(x).then(|| row.apply(x, weights, gain, extra))
    }

    /// `[.., input]` to `[.., output]`, added to `onto`; its kernel must be one that adds.
    pub(crate) fn forward_onto(&self, x: &Array, onto: &Array) -> MlxResult<Array> {
        if self.on_host {
            return host_linear(x, None, &[self.host()], After::Add(onto));
        }
        match self.row(x, None, Some(onto)) {
            Some(sum) => sum,
            None => onto.add(self.forward(x)?),
        }
    }

    fn host(&self) -> HostLinear<'_> {
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
    fn join(parts: &[Self]) -> MlxResult<Option<Self>> {
        let weights: Vec<&Weight> = parts.iter().map(|part| &part.weight).collect();
        let Some(weight) = Weight::join(&weights)? else { return Ok(None) };
        let biases: Vec<&Array> = parts.iter().filter_map(|part| part.bias.as_ref()).collect();
        let bias = match biases.len() {
            0 => None,
            n if n == parts.len() => Some(ops::concatenate(&biases, 0)?),
            _ => return Ok(None),
        };
        Ok(Some(Self { weight, bias, row: None, on_host: false }))
    }

    /// `[.., input]` to `[.., output]`.
    pub(crate) fn forward(&self, x: &Array) -> MlxResult<Array> {
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

/// Several [`Linear`] that read the same input: where one product is quicker than many, they are one.
#[derive(Debug)]
pub(crate) struct Joined {
    products: Vec<Linear>,
    /// Where the outputs of each end.
    ends: Vec<i32>,
}

impl Joined {
    /// Takes the layers `parts`, each with its number of outputs, as [`Linear::load`] does.
    pub(crate) fn load(
        scope: &Scope<'_>,
        parts: &[(&str, i32)],
        input: i32,
        bias: bool,
    ) -> Result<Self> {
        let products = parts
            .iter()
            .map(|&(name, output)| Linear::open(&scope.sub(name), output, input, bias))
            .collect::<Result<_>>()?;
        let ends = parts.iter().scan(0, |end, part| {
            *end += part.1;
            Some(*end)
        });
        Self::of(scope, products, ends.collect())
    }

    /// Joins `products` whose outputs end at `ends`, where that pays.
    fn of(scope: &Scope<'_>, products: Vec<Linear>, ends: Vec<i32>) -> Result<Self> {
        let join = scope.backend().joins_products();
        let joined = match join {
            true => Linear::join(&products).map_err(|e| mlx_error("concatenate", &e))?,
            false => None,
        };
        let products = joined.map_or(products, |joined| vec![joined]);
        let products = products.into_iter().map(|p| p.kept(scope)).collect::<Result<_>>()?;
        Ok(Self { products, ends })
    }

    /// As [`Linear::with_row`], if they are one product.
    pub(crate) fn with_row(
        mut self,
        scope: &Scope<'_>,
        norm_eps: f32,
        epilogue: Epilogue,
    ) -> Result<Self> {
        if self.products.len() == 1
            && let Some(product) = self.products.pop()
        {
            self.products.push(product.with_row(scope, Some(norm_eps), epilogue, 3)?);
        }
        Ok(self)
    }

    /// `norm`, then [`forward`](Self::forward); its kernel must be one that adds the bias.
    pub(crate) fn forward_normed(&self, norm: &RmsNorm, x: &Array) -> MlxResult<Array> {
        if let [joined] = self.products.as_slice()
            && let Some(y) = joined.row(x, Some(&norm.weight), joined.bias.as_ref())
        {
            return y;
        }
        match self.host() {
            Some(parts) => host_linear(x, Some(norm.parts()), &parts, After::Nothing),
            None => self.forward(&norm.forward(x)?),
        }
    }

    /// Returns the layers, if they are computed outside of MLX.
    fn host(&self) -> Option<Vec<HostLinear<'_>>> {
        let on_host = self.products.iter().all(|part| part.on_host);
        on_host.then(|| self.products.iter().map(Linear::host).collect())
    }

    /// `[.., input]` to `[.., sum of outputs]`.
    pub(crate) fn forward(&self, x: &Array) -> MlxResult<Array> {
        match self.products.as_slice() {
            [joined] => joined.forward(x),
            parts => {
                let outputs: Vec<Array> =
                    parts.iter().map(|part| part.forward(x)).collect::<MlxResult<_>>()?;
                ops::concatenate(&outputs, -1)
            }
        }
    }

    /// `[.., input]` to the outputs of each part.
    pub(crate) fn forward_parts(&self, x: &Array) -> MlxResult<Vec<Array>> {
        let [joined] = self.products.as_slice() else {
            return self.products.iter().map(|part| part.forward(x)).collect();
        };
        let all = joined.forward(x)?;
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(from, &to)| all.try_index((Ellipsis, from..to))).collect()
    }
}

/// A table of `[V, E]`, also usable as the output projection of tied models.
#[derive(Debug)]
pub(crate) struct Embedding {
    table: Linear,
    /// What the model computes in.
    dtype: Dtype,
}

impl Embedding {
    /// Takes `weight` (`[vocabulary, hidden]`, packed where `scales` is there).
    pub(crate) fn load(scope: &Scope<'_>, vocabulary: i32, hidden: i32) -> Result<Self> {
        let table = Linear::load(scope, vocabulary, hidden, false)?;
        let table = table.with_row(scope, None, Epilogue::None, 2)?;
        Ok(Self { table, dtype: scope.dtype() })
    }

    /// Token ids `[B, L]` to `[B, L, E]`.
    pub(crate) fn forward(&self, ids: &Array) -> MlxResult<Array> {
        match &self.table.weight {
            Weight::Dense { rows, .. } => rows.take_axis(ids, 0)?.as_dtype(self.dtype),
            Weight::Packed(p) => {
                let row = |a: &Array| a.take_axis(ids, 0);
                // Before they are multiplied, so that products are those of the type computed in.
                let wide = |a: &Array| match p.biases {
                    Some(_) => row(a)?.as_dtype(self.dtype),
                    None => row(a),
                };
                let biases = p.biases.as_ref().map(wide).transpose()?;
                let rows = (&row(&p.weight)?, &wide(&p.scales)?, biases.as_ref());
                dequantize(rows, p.how, self.dtype)
            }
        }
    }

    /// `[.., E]` to `[.., V]`, the logits of a model whose head is tied to its embedding.
    pub(crate) fn as_linear(&self, x: &Array) -> MlxResult<Array> {
        self.table.forward_row(x)
    }
}

/// Root mean square normalisation with a weight. Source: arXiv:1910.07467.
#[derive(Debug)]
pub(crate) struct RmsNorm {
    weight: Array,
    eps: f32,
}

impl RmsNorm {
    /// Takes `weight` (`[dims]`).
    pub(crate) fn load(scope: &Scope<'_>, dims: i32, eps: f32) -> Result<Self> {
        Ok(Self { weight: scope.take("weight", &[dims])?, eps })
    }

    fn parts(&self) -> (&Array, f32) {
        (&self.weight, self.eps)
    }

    /// `[.., dims]` to the same shape.
    pub(crate) fn forward(&self, x: &Array) -> MlxResult<Array> {
        fast::rms_norm(x, Some(&self.weight), self.eps)
    }
}

#[derive(Debug)]
enum Weight {
    /// `rows` is `[output, input]`; `transposed` is a view of it, made once.
    Dense {
        rows: Array,
        transposed: Array,
    },
    Packed(Packed),
}

impl Packed {
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

#[derive(Debug)]
struct Packed {
    /// `[output, input * bits / 32]` words.
    weight: Array,
    /// `[output, input / group_size]`, of the type that the model computes in or, in modes of floats,
    /// bytes.
    scales: Array,
    /// `[output, input / group_size]`; the mode affine has them.
    biases: Option<Array>,
    how: Quantize,
    /// What the model computes in.
    dtype: Dtype,
    /// As [`Backend::unpacks_from_rows`].
    unpacks_from_rows: Option<usize>,
}

impl Weight {
    fn open(scope: &Scope<'_>, output: i32, input: i32) -> Result<Self> {
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
        let unpacks_from_rows = scope.backend().unpacks_from_rows();
        Ok(Self::Packed(Packed { weight, scales, biases, how, dtype, unpacks_from_rows }))
    }

    fn dense(rows: Array) -> MlxResult<Self> {
        let transposed = ops::transpose(&rows)?;
        Ok(Self::Dense { rows, transposed })
    }

    /// As [`Linear::kept`].
    fn kept(self, scope: &Scope<'_>) -> Result<Self> {
        let keep = |array: &Array| scope.keep(array.clone()).map(drop);
        match &self {
            Self::Dense { rows, .. } => keep(rows)?,
            Self::Packed(p) => {
                [&p.weight, &p.scales].into_iter().chain(&p.biases).try_for_each(keep)?;
            }
        }
        Ok(self)
    }

    /// As [`Linear::join`].
    fn join(parts: &[&Self]) -> MlxResult<Option<Self>> {
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
    fn project(&self, x: &Array) -> MlxResult<Array> {
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
        let (dtype, unpacks_from_rows) = (scope.dtype(), scope.backend().unpacks_from_rows());
        Ok(Self { weight, scales, biases, how, dtype, unpacks_from_rows })
    }
}

/// Largest score tensor that attention makes where no fused kernel applies, in bytes.
pub(crate) const MAX_SCORE_BYTES: u64 = 32 << 20;

/// Attention of `[B, H, L, D]` queries over `[B, K, S, D]` keys and values: over all of them, or if
/// `causal`, where the queries are the last `L` of the keys, over those up to the query's own.
///
/// Where MLX has no fused kernel, the scores of all queries at once would take `B H L S` values,
/// 123 GB for a 12-megapixel photo; there it is done in pieces, see [`ScoreChunk`].
pub(crate) fn attention(
    q: &Array,
    k: &Array,
    v: &Array,
    scale: f32,
    causal: bool,
    fused: bool,
) -> MlxResult<Array> {
    match fused {
        true => attend(q, k, v, scale, causal),
        false => attention_within(MAX_SCORE_BYTES, q, k, v, scale, causal),
    }
}

fn attend(q: &Array, k: &Array, v: &Array, scale: f32, causal: bool) -> MlxResult<Array> {
    // A single query sees all keys anyway.
    let mask = (causal && q.dim(2) > 1).then_some(fast::ScaledDotProductAttentionMask::Causal);
    fast::scaled_dot_product_attention(q, k, v, scale, mask, None)
}

/// [`attention`] whose scores stay within `max_bytes`.
fn attention_within(
    max_bytes: u64,
    q: &Array,
    k: &Array,
    v: &Array,
    scale: f32,
    causal: bool,
) -> MlxResult<Array> {
    let (queries, keys) = (q.dim(2), k.dim(2));
    let share = q.dim(1) / k.dim(1).max(1);
    let chunk = ScoreChunk::new(max_bytes, q.dim(0), q.dim(1), k.dim(1), keys);
    if chunk.heads >= q.dim(1) && chunk.rows >= queries {
        return attend(q, k, v, scale, causal);
    }
    let mut heads = Vec::new();
    for head in (0..q.dim(1)).step_by(chunk.heads.max(1) as usize) {
        let of = head..head + chunk.heads;
        let mut rows = Vec::new();
        for start in (0..queries).step_by(chunk.rows as usize) {
            let end = queries.min(start + chunk.rows);
            // The last queries see all keys, those before them fewer.
            let seen = if causal { keys - queries + end } else { keys };
            let q = q.try_index((.., of.clone(), start..end, ..))?;
            let seen = |x: &Array| x.try_index((.., of.start / share..of.end / share, ..seen, ..));
            // Settled here: left in the graph, the scores of all pieces could be alive at once.
            rows.push(settle(attend(&q, &seen(k)?, &seen(v)?, scale, causal)?, 0)?);
        }
        heads.push(ops::concatenate(&rows, 2)?);
    }
    ops::concatenate(&heads, 1)
}

/// How much of an attention is done at a time where no fused kernel applies.
///
/// All heads and as many rows as fit; where those would be few, one key head (with the query heads
/// that share it) at a time and more rows, since a product of few rows is slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ScoreChunk {
    /// Query heads.
    pub(crate) heads: i32,
    /// Queries, at least 1.
    pub(crate) rows: i32,
}

impl ScoreChunk {
    /// Fewer rows than this are too few for all heads at once.
    const FEW_ROWS: u64 = 64;

    /// Returns the chunk whose scores, `[batch, heads, rows, keys]` in f32, stay within `max_bytes`.
    pub(crate) fn new(max_bytes: u64, batch: i32, heads: i32, key_heads: i32, keys: i32) -> Self {
        // Softmax runs in f32 whatever the inputs are.
        let rows_of = |heads: i32| {
            let row_bytes = [batch, heads, keys, 4].map(|d| u64::try_from(d).unwrap_or(0));
            (max_bytes / row_bytes.iter().product::<u64>().max(1)).max(1)
        };
        let share = heads / key_heads.max(1);
        let heads = if rows_of(heads) < Self::FEW_ROWS { share.max(1) } else { heads };
        Self { heads, rows: i32::try_from(rows_of(heads)).unwrap_or(i32::MAX) }
    }
}

/// Computes `x` now if it is larger than `bytes`.
///
/// MLX makes room for the results of up to a hundred operations ahead of the one it computes. Where
/// each is large, that is most of the memory that a model takes.
pub(crate) fn settle(x: Array, bytes: usize) -> MlxResult<Array> {
    if x.nbytes() > bytes {
        x.eval()?;
    }
    Ok(x)
}

/// `down(silu(gate(x)) * up(x))`. Source: arXiv:2002.05202.
#[derive(Debug)]
pub(crate) struct Mlp {
    /// `gate_proj` and `up_proj`.
    gate_up: Joined,
    down_proj: Linear,
    inner: i32,
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
            fuses: backend.compiles(),
            max_inner_bytes: backend.max_inner_bytes(),
        })
    }

    /// Adds kernels for one row after a normalisation with `norm_eps`, where there are some.
    pub(crate) fn with_row(mut self, scope: &Scope<'_>, norm_eps: f32) -> Result<Self> {
        self.gate_up = self.gate_up.with_row(scope, norm_eps, Epilogue::SwiGlu)?;
        let down = &scope.sub("down_proj");
        self.down_proj = self.down_proj.with_row(down, None, Epilogue::Add, 3)?;
        let has_row = |linear: &Linear| linear.row.is_some() && linear.bias.is_none();
        let gate_up = &self.gate_up.products;
        self.fused_row = gate_up.len() == 1 && has_row(&gate_up[0]) && has_row(&self.down_proj);
        Ok(self)
    }

    /// `x + mlp(norm(x))`, of the shape of `x`, `[.., N, hidden]`.
    pub(crate) fn forward_residual(&self, norm: &RmsNorm, x: &Array) -> MlxResult<Array> {
        if let (true, [gate_up]) = (self.fused_row, self.gate_up.products.as_slice())
            && let Some(gated) = gate_up.row(x, Some(&norm.weight), None)
        {
            return self.down_proj.forward_onto(&gated?, x);
        }
        if let (true, Some(parts)) = (self.fits(x), self.gate_up.host()) {
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

    /// Returns whether the inner activation for `x` may be had at once.
    fn fits(&self, x: &Array) -> bool {
        let rows = x.size() / x.dim(-1).max(1) as usize;
        rows * self.inner as usize * 2 * x.item_size() <= self.max_inner_bytes
    }

    fn forward_within(&self, max_bytes: usize, x: &Array) -> MlxResult<Array> {
        let (rows, total) = (x.dim(-2), x.size() / x.dim(-1).max(1) as usize);
        let inner_bytes = total * self.inner as usize * x.item_size();
        let chunks = inner_bytes.div_ceil(max_bytes).clamp(1, rows.max(1) as usize) as i32;
        if chunks == 1 {
            return self.gated(x);
        }
        let chunk = rows.div_euclid(chunks) + i32::from(rows % chunks != 0);
        let mut parts = Vec::new();
        let mut start = 0;
        while start < rows {
            let end = rows.min(start + chunk);
            // Evaluated here, as in `attention`.
            parts.push(settle(self.gated(&x.try_index((Ellipsis, start..end, ..))?)?, 0)?);
            start = end;
        }
        ops::concatenate(&parts, -2)
    }

    fn gated(&self, x: &Array) -> MlxResult<Array> {
        if let Some(parts) = self.gate_up.host() {
            return self.down_proj.forward(&host_linear(x, None, &parts, After::SwiGlu)?);
        }
        let parts = self.gate_up.forward_parts(x)?;
        let [gate, up] = parts.as_slice() else { unreachable!("two parts were loaded") };
        let gated = if self.fuses { fused_swiglu(gate, up)? } else { swiglu((gate, up))? };
        self.down_proj.forward(&gated)
    }
}

/// `silu(gate) * up`.
fn swiglu((gate, up): (&Array, &Array)) -> MlxResult<Array> {
    gate.multiply(ops::sigmoid(gate)?)?.multiply(up)
}

/// [`swiglu`] as one kernel, which MLX makes when it is first needed. Not on CPUs, where it would run
/// a C++ compiler.
fn fused_swiglu(gate: &Array, up: &Array) -> MlxResult<Array> {
    type Compiled = Box<dyn for<'a> FnMut((&'a Array, &'a Array)) -> MlxResult<Array>>;
    thread_local! {
        static COMPILED: RefCell<Compiled> = RefCell::new(Box::new(compile(swiglu, true)));
    }
    COMPILED.with_borrow_mut(|compiled| compiled((gate, up)))
}

/// Exact GELU: `x Φ(x)` by the error function. Source: arXiv:1606.08415.
pub(crate) fn gelu(x: &Array) -> MlxResult<Array> {
    let scalar = |v: f32| Array::from_f32(v).as_dtype(x.dtype());
    let cdf = ops::erf(x.multiply(scalar(std::f32::consts::FRAC_1_SQRT_2)?)?)?.add(scalar(1.0)?)?;
    x.multiply(cdf)?.multiply(scalar(0.5)?)
}

/// Turns an error of MLX into this crate's, with what was being computed.
pub(crate) fn mlx_error(op: &'static str, error: &mlx_rs::error::Exception) -> Error {
    Error::Mlx { op, message: error.what().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(shape: &[i32], step: f32) -> Array {
        let values: Vec<f32> =
            (0..shape.iter().product()).map(|i| (i as f32 * step).sin()).collect();
        Array::from_slice(&values, shape)
    }

    /// Every size of piece gives what one piece gives, also where query heads share key heads and
    /// where keys came before the queries.
    #[test]
    fn attention_in_pieces_is_attention() {
        let [q, k, v] = [(4, 0.37), (2, 0.21), (2, 0.13)].map(|(heads, step)| {
            let tokens = if heads == 4 { 70 } else { 90 };
            wave(&[2, heads, tokens, 16], step)
        });
        for causal in [false, true] {
            let whole = attend(&q, &k, &v, 0.25, causal).unwrap();
            // All heads and few rows; single rows; a key head at a time.
            for bytes in [2 * 4 * 90 * 4 * 65, 1, 2 * 2 * 90 * 4 * 40] {
                let pieces = attention_within(bytes, &q, &k, &v, 0.25, causal).unwrap();
                assert_eq!(pieces.shape(), whole.shape());
                let close = pieces.all_close(&whole, 1e-5, 1e-5, None).unwrap();
                assert!(close, "causal {causal}, at most {bytes} bytes");
            }
        }
    }

    #[test]
    fn a_chunk_of_scores_stays_within_its_bytes() {
        // The tower of Qwen2.5-VL at 12 megapixels: a head at a time.
        let chunk = ScoreChunk::new(MAX_SCORE_BYTES, 1, 16, 16, 62_208);
        assert_eq!(chunk, ScoreChunk { heads: 1, rows: 134 });
        assert!(chunk.rows as u64 * 62_208 * 4 <= MAX_SCORE_BYTES);
        // At one megapixel all heads fit.
        let chunk = ScoreChunk::new(MAX_SCORE_BYTES, 1, 16, 16, 4_920);
        assert_eq!(chunk, ScoreChunk { heads: 16, rows: 106 });
        // The decoder shares key heads: all that share one are taken together.
        let chunk = ScoreChunk::new(MAX_SCORE_BYTES, 1, 16, 2, 16_000);
        assert_eq!(chunk, ScoreChunk { heads: 8, rows: 65 });
        assert_eq!(ScoreChunk::new(1, 1, 16, 2, 16_000).rows, 1);
    }

    fn linear(output: i32, input: i32, step: f32) -> Linear {
        let weight = Weight::dense(wave(&[output, input], step)).unwrap();
        Linear { weight, bias: Some(wave(&[output], step * 3.0)), row: None, on_host: false }
    }

    fn packed(output: i32, input: i32, step: f32, bits: i32) -> Linear {
        let how = Quantize::affine(bits, 64);
        let (weight, scales, biases) = quantize(&wave(&[output, input], step), how).unwrap();
        let dtype = Dtype::Float32;
        let packed = Packed { weight, scales, biases, how, dtype, unpacks_from_rows: None };
        Linear { weight: Weight::Packed(packed), bias: None, row: None, on_host: false }
    }

    fn joined(products: Vec<Linear>, ends: [i32; 2]) -> Joined {
        Joined { products, ends: ends.into() }
    }

    #[test]
    fn layers_side_by_side_are_the_layers() {
        for (parts, input) in [
            ([linear(6, 8, 0.3), linear(10, 8, 0.7)], 8),
            ([packed(6, 64, 0.3, 4), packed(10, 64, 0.7, 4)], 64),
        ] {
            let x = wave(&[2, 3, input], 0.11);
            let one = Linear::join(&parts).unwrap().expect("layers of one kind");
            let (many, one) = (joined(parts.into(), [6, 16]), joined(vec![one], [6, 16]));
            let (a, b) = (many.forward(&x).unwrap(), one.forward(&x).unwrap());
            assert_eq!(b.shape(), [2, 3, 16]);
            assert!(a.all_close(&b, 1e-5, 1e-5, None).unwrap());
            let (a, b) = (many.forward_parts(&x).unwrap(), one.forward_parts(&x).unwrap());
            assert_eq!((b[0].shape(), b[1].shape()), (&[2, 3, 6][..], &[2, 3, 10][..]));
            for (a, b) in a.iter().zip(&b) {
                assert!(a.all_close(b, 1e-5, 1e-5, None).unwrap());
            }
        }
        // Of different widths, with and without bias, packed and not.
        assert!(Linear::join(&[packed(6, 64, 0.3, 4), packed(6, 64, 0.3, 8)]).unwrap().is_none());
        let bare = Linear { bias: None, ..linear(6, 8, 0.3) };
        assert!(Linear::join(&[linear(6, 8, 0.3), bare]).unwrap().is_none());
        assert!(Linear::join(&[packed(6, 64, 0.3, 4), linear(6, 64, 0.3)]).unwrap().is_none());
    }

    #[test]
    fn an_mlp_in_pieces_is_the_mlp() {
        let mlp = Mlp {
            gate_up: joined(vec![linear(64, 8, 0.3), linear(64, 8, 0.7)], [64, 128]),
            down_proj: linear(8, 64, 0.9),
            inner: 64,
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
