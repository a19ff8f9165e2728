//! A block of a decoder for one token as one kernel, on CUDA. The device is quicker with an operation
//! than the host with handing it over, and idle between two: so all that a block does is one operation,
//! whose weights are on their way before they are needed.
//!
//! The kernel holds the whole device, a block for each multiprocessor, since its blocks wait for each
//! other. Two such kernels at a time could wait for ever; there never are, since MLX runs what one
//! thread asks for one evaluation after the other, and in one evaluation each needs what the one before
//! it made.
//!
//! `chunk.cu` multiplies, `ring.cu` brings weights, `product.cu` is a product of both, and `layer.cu` puts
//! products and attention together. What differs for several sequences is in `rows.rs`.

mod rows;

use mlx_rs::{
    Array, Dtype,
    error::{Exception, Result as MlxResult},
    ops,
};

pub(crate) use self::rows::FusedRows;
use crate::{
    ffi::{CudaDevice, CudaKernel, CudaSource, cuda_device},
    kv_cache::Place,
    nn::{Linear, RmsNorm},
    quantize::Quantize,
};

/// As in `chunk.cu`.
const WARPS: i32 = 8;
const THREADS: i32 = WARPS * 32;
const TILE: i32 = 16;
const CHUNK_BYTES: i32 = 128;

/// Chunks of a warp that are on their way: more gave nothing, and fewer than the least are too few.
const DEPTHS: std::ops::RangeInclusive<i32> = 3..=7;

/// Shared memory that the text of the kernel takes by itself, at most.
const STATIC_BYTES: i32 = 512;

/// Most query heads for a key head, and most parts of the keys of one, as in `attend.rs`.
const MAX_SHARE: i32 = 8;
const MAX_SPLITS: i32 = 64;

/// What a block of a decoder consists of, all of it without biases but for `qkv`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerParts<'a> {
    pub(crate) attention_norm: &'a RmsNorm,
    pub(crate) qkv: &'a Linear,
    pub(crate) o: &'a Linear,
    pub(crate) mlp_norm: &'a RmsNorm,
    /// The rows of the gate, then those it is multiplied with.
    pub(crate) gate_up: &'a Linear,
    pub(crate) down: &'a Linear,
}

/// Heads of `D` values: of queries, of keys, and `D`; and the base of their rotation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    pub(crate) queries: i32,
    pub(crate) keys: i32,
    pub(crate) values: i32,
    pub(crate) base: f32,
}

/// A block of a decoder for one token of one sequence.
#[derive(Debug)]
pub(crate) struct FusedLayer {
    kernel: CudaKernel,
    /// Where the blocks of the kernel meet; zero before and after.
    counter: Array,
}

/// Numbers that the kernel is written out for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    hidden: i32,
    inner: i32,
    depth: i32,
    shared_bytes: i32,
    scratch: i32,
}

impl FusedLayer {
    /// Returns the kernel for `parts`, or `None` if it is not written for them or for this device.
    pub(crate) fn new(
        parts: &LayerParts<'_>,
        heads: &Heads,
        dtype: Dtype,
    ) -> MlxResult<Option<Self>> {
        let Some(device) = cuda_device().filter(|_| dtype == Dtype::Bfloat16) else {
            return Ok(None);
        };
        let packing = parts.qkv.packing();
        let Some(plan) = plan(parts, heads, packing, device) else { return Ok(None) };
        let Plan { hidden, inner, depth, shared_bytes, scratch } = plan;
        let Heads { queries, keys, values: d, base } = *heads;
        let blocks = device.multiprocessors;
        let body = format!(
            "using L = fused::Layer<fused::{format}, {hidden}, {inner}, {queries}, {keys}, {d},
               {blocks}, {depth}>;
             static_assert(L::SHARED <= {shared_bytes} && L::SCRATCH <= {scratch}, \"room\");
             L::run(fused::Arguments{{
               {weights},
               const_cast<__nv_bfloat16*>(keys), const_cast<__nv_bfloat16*>(values),
               keys_shape[2], position[0], position[0] - state[0], const_cast<int*>(counter),
               {log2_base:e}f, {scale:e}f, {eps:e}f, parts, y}});",
            format = format_of(packing),
            weights = weights_text(parts),
            log2_base = base.log2(),
            scale = (d as f32).powf(-0.5),
            eps = parts.attention_norm.parts().1,
        );
        let mut inputs = weights(packing);
        inputs.extend(["keys", "values"].map(|name| (name, dtype)));
        inputs.extend(["position", "state", "counter"].map(|name| (name, Dtype::Int32)));
        let kernel = CudaKernel::new(&CudaSource {
            name: "fused_layer",
            inputs: &inputs,
            header: &[
                include_str!("attend.cu"),
                include_str!("fused_layer/chunk.cu"),
                include_str!("fused_layer/ring.cu"),
                include_str!("fused_layer/meet.cu"),
                include_str!("fused_layer/product.cu"),
                include_str!("fused_layer/layer.cu"),
            ],
            body: &body,
            shape: &[1, 1, hidden],
            scratch,
            blocks,
            threads: THREADS,
            shared_bytes,
        })?;
        kernel.prepare();
        let counter = ops::zeros_dtype(&[32], Dtype::Int32)?;
        counter.eval()?;
        Ok(Some(Self { kernel, counter }))
    }

    /// Returns what the block makes of `x`, `[1, 1, hidden]`, of the token at `position`, a number;
    /// `parts` are those of [`new`](Self::new). Its key and value are written into their `place`, on
    /// the terms of [`Attend::apply`](crate::attend::Attend::apply).
    pub(crate) fn apply(
        &self,
        x: &Array,
        parts: &LayerParts<'_>,
        position: &Array,
        place: &Place<'_>,
    ) -> MlxResult<Array> {
        let mut inputs = inputs_of(x, parts)?;
        inputs.extend([place.keys, place.values, position, place.state, &self.counter]);
        self.kernel.apply(&inputs)
    }
}

/// Names and types of what [`inputs_of`] returns, of weights packed like this.
fn weights(packing: Option<Quantize>) -> Vec<(&'static str, Dtype)> {
    let dtype = Dtype::Bfloat16;
    let words = if packing.is_some() { Dtype::Uint32 } else { dtype };
    vec![
        ("x", dtype),
        ("attention_gain", dtype),
        ("qkv", words),
        ("qkv_scales", dtype),
        ("qkv_biases", dtype),
        ("bias", dtype),
        ("o", words),
        ("o_scales", dtype),
        ("o_biases", dtype),
        ("mlp_gain", dtype),
        ("gate_up", words),
        ("gate_up_scales", dtype),
        ("gate_up_biases", dtype),
        ("down", words),
        ("down_scales", dtype),
        ("down_biases", dtype),
    ]
}

/// The begin of a kernel's arguments, of those names.
fn weights_text(parts: &LayerParts<'_>) -> String {
    let bias = if parts.qkv.bias().is_some() { "bias" } else { "nullptr" };
    format!(
        "x, attention_gain, {bias}, mlp_gain,
         {{qkv, qkv_scales, qkv_biases}}, {{o, o_scales, o_biases}},
         {{gate_up, gate_up_scales, gate_up_biases}}, {{down, down_scales, down_biases}}"
    )
}

fn inputs_of<'a>(x: &'a Array, parts: &LayerParts<'a>) -> MlxResult<Vec<&'a Array>> {
    let [qkv, qkv_scales, qkv_biases] = arrays(parts.qkv)?;
    let [o, o_scales, o_biases] = arrays(parts.o)?;
    let [gate_up, gate_up_scales, gate_up_biases] = arrays(parts.gate_up)?;
    let [down, down_scales, down_biases] = arrays(parts.down)?;
    let (attention_gain, mlp_gain) = (parts.attention_norm.parts().0, parts.mlp_norm.parts().0);
    let bias = parts.qkv.bias().unwrap_or(attention_gain);
    Ok(vec![
        x,
        attention_gain,
        qkv,
        qkv_scales,
        qkv_biases,
        bias,
        o,
        o_scales,
        o_biases,
        mlp_gain,
        gate_up,
        gate_up_scales,
        gate_up_biases,
        down,
        down_scales,
        down_biases,
    ])
}

fn arrays(of: &Linear) -> MlxResult<[&Array; 3]> {
    of.arrays().ok_or_else(|| Exception::custom("packed weights without biases"))
}

/// The type of chunk.cu for weights packed like this.
fn format_of(packing: Option<Quantize>) -> &'static str {
    if packing.is_some() { "Packed" } else { "Dense" }
}

/// Returns, of a row of weights, the values in a chunk, and the bytes of a chunk of 16 rows; `None` if
/// the kernels are not written for weights packed like this.
fn chunk_of(packing: Option<Quantize>) -> Option<(i32, i32)> {
    match packing {
        Some(how) if how == Quantize::affine(4, 64) => {
            Some((256, TILE * CHUNK_BYTES + 2 * TILE * 8))
        }
        Some(_) => None,
        None => Some((64, TILE * CHUNK_BYTES)),
    }
}

/// Whether shapes are such as the kernels are written for.
fn fits(parts: &LayerParts<'_>, heads: &Heads, values: i32, device: CudaDevice) -> bool {
    let LayerParts { attention_norm, qkv, o, mlp_norm, gate_up, down } = *parts;
    let Heads { queries, keys, values: d, .. } = *heads;
    let products = [qkv, o, gate_up, down];
    let (hidden, inner) = (qkv.shape().1, down.shape().1);
    device.major >= 8
        && products.iter().all(|product| product.packing() == qkv.packing())
        && products.iter().all(|product| product.shape().1 % values == 0)
        && products[1..].iter().all(|product| product.bias().is_none())
        && attention_norm.parts().1 == mlp_norm.parts().1
        && qkv.shape().0 == (queries + 2 * keys) * d
        && o.shape() == (hidden, queries * d)
        && gate_up.shape() == (2 * inner, hidden)
        && down.shape().0 == hidden
        && keys > 0
        && queries % keys == 0
        && queries / keys <= MAX_SHARE
        && keys <= device.multiprocessors
        && (d == 64 || d == 128)
}

/// Returns the numbers for the kernel, or `None` if it is not written for these shapes.
fn plan(
    parts: &LayerParts<'_>,
    heads: &Heads,
    packing: Option<Quantize>,
    device: CudaDevice,
) -> Option<Plan> {
    let LayerParts { qkv, o, gate_up, down, .. } = *parts;
    let Heads { queries, keys, values: d, .. } = *heads;
    let (values, stage) = chunk_of(packing)?;
    let (hidden, inner, blocks) = (qkv.shape().1, down.shape().1, device.multiprocessors);
    let long_enough =
        [qkv, o, gate_up, down].iter().all(|product| product.shape().1 / values >= WARPS);
    let outputs = [qkv.shape().0, hidden, inner].map(|all| ceil(all, blocks));
    if !fits(parts, heads, values, device) || !long_enough || outputs.iter().any(|&n| n > THREADS) {
        return None;
    }
    let share = queries / keys;
    let widest = hidden.max(inner).max(queries * d);
    let room = 2 * (share + 1) * d + 4 * WARPS * share * (2 + d);
    let input = (ceil(2 * widest + widest / 16, 16) * 16).max(room);
    let tiles = ceil(outputs[0], TILE).max(ceil(outputs[1], TILE)).max(ceil(outputs[2], TILE / 2));
    let rest = input + tiles * WARPS * TILE * 4;
    let depth = (device.shared_bytes - STATIC_BYTES - rest) / (WARPS * stage);
    let depth = depth.min(*DEPTHS.end());
    let splits = (blocks / keys).min(MAX_SPLITS);
    let attention = keys * splits * share * (d + 4);
    DEPTHS.contains(&depth).then_some(Plan {
        hidden,
        inner,
        depth,
        shared_bytes: WARPS * depth * stage + rest,
        scratch: attention + (qkv.shape().0 + queries * d + hidden + inner) / 2,
    })
}

fn ceil(all: i32, of: i32) -> i32 {
    (all + of - 1) / of
}
