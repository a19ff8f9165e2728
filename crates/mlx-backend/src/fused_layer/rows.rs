//! A block of a decoder for a token of each of several sequences as one kernel, on CUDA. Weights are read
//! once for all of them, and tensor cores multiply with 8 rows in the time of one; keys and values of
//! each sequence stay where they are.
//!
//! `columns.cu` multiplies and `rows.cu` puts products and attention together.

use mlx_rs::{Array, Dtype, error::Result as MlxResult, ops};

use super::{
    Heads, LayerParts, MAX_SHARE, THREADS, TILE, WARPS, ceil, chunk_of, fits, format_of, inputs_of,
    weights, weights_text,
};
use crate::{
    ffi::{CudaDevice, CudaKernel, CudaSource, cuda_device},
    kv_cache::Places,
};

/// Rows of a fragment of the tensor cores.
const EIGHT: i32 = 8;

/// Chunks of a warp that are on their way, at least, and at most if they are packed or dense: with four
/// packed ones a block of 7b took 119 us on an H200, with three 114.
const LEAST_DEPTH: i32 = 3;
const MOST_DEPTH: (i32, i32) = (3, 7);

/// Shared memory that the text of the kernel takes by itself, at most.
const STATIC_BYTES: i32 = 4096;

/// A block of a decoder for one token of each of up to 16 sequences.
#[derive(Debug)]
pub(crate) struct FusedRows {
    /// For 8 rows, and for 16 unless these are too wide for the device.
    kernels: Vec<CudaKernel>,
    /// Where the blocks of a kernel meet; zero before and after.
    counter: Array,
}

/// Numbers that a kernel is written out for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    /// Times 8 rows.
    tiles: i32,
    depth: i32,
    /// By how many blocks the inputs of `down` are divided.
    slices: i32,
    /// Tiles that are put together at a time.
    round: i32,
    shared_bytes: i32,
    scratch: i32,
}

impl FusedRows {
    /// Returns the kernels for `parts`, or `None` if they are not written for them or for this device.
    pub(crate) fn new(
        parts: &LayerParts<'_>,
        heads: &Heads,
        dtype: Dtype,
    ) -> MlxResult<Option<Self>> {
        let Some(device) = cuda_device().filter(|_| dtype == Dtype::Bfloat16) else {
            return Ok(None);
        };
        let plans = [1, 2].into_iter().map_while(|tiles| plan(parts, heads, tiles, device));
        let kernels = plans.map(|plan| kernel(&plan, parts, heads, device.multiprocessors));
        let kernels = kernels.collect::<MlxResult<Vec<_>>>()?;
        if kernels.is_empty() {
            return Ok(None);
        }
        kernels.iter().for_each(CudaKernel::prepare);
        let counter = ops::zeros_dtype(&[32], Dtype::Int32)?;
        counter.eval()?;
        Ok(Some(Self { kernels, counter }))
    }

    /// Returns the width of hidden states of `rows` sequences, 8 or 16, or that for the most that there
    /// is a kernel for.
    pub(crate) fn width(&self, rows: i32) -> i32 {
        let most = EIGHT * self.kernels.len() as i32;
        (ceil(rows, EIGHT) * EIGHT).clamp(EIGHT, most)
    }

    /// Returns what the block makes of `x`, `[hidden, width]` with a column for each sequence and zeros
    /// behind them; `parts` are those of [`new`](Self::new). Keys and values are written into their
    /// `places`, on the terms of [`Attend::apply`](crate::attend::Attend::apply).
    pub(crate) fn apply(
        &self,
        x: &Array,
        parts: &LayerParts<'_>,
        places: &Places,
    ) -> MlxResult<Array> {
        let width = x.dim(1);
        let mut inputs = inputs_of(x, parts)?;
        for buffers in [&places.keys, &places.values] {
            // What stands for sequences that are not there is not read.
            let padded = buffers.iter().chain(std::iter::repeat(&buffers[0]));
            inputs.extend(padded.take(width as usize));
        }
        inputs.extend([&places.numbers, &self.counter]);
        self.kernels[(width / EIGHT - 1) as usize].apply(&inputs)
    }
}

fn kernel(
    plan: &Plan,
    parts: &LayerParts<'_>,
    heads: &Heads,
    blocks: i32,
) -> MlxResult<CudaKernel> {
    let Plan { tiles, depth, slices, round, shared_bytes, scratch } = *plan;
    let Heads { queries, keys, values: d, base } = *heads;
    let (hidden, inner, width) = (parts.qkv.shape().1, parts.down.shape().1, EIGHT * tiles);
    let names = |of: &str| (0..width).map(|row| format!("{of}_{row}")).collect::<Vec<_>>();
    let list = |of: &str| {
        let all = names(of).into_iter().map(|name| format!("const_cast<__nv_bfloat16*>({name})"));
        all.collect::<Vec<_>>().join(", ")
    };
    let buffers = [names("keys"), names("values")].concat();
    let mut inputs = weights(parts.qkv.packing());
    inputs.extend(buffers.iter().map(|name| (name.as_str(), Dtype::Bfloat16)));
    inputs.extend(["numbers", "counter"].map(|name| (name, Dtype::Int32)));
    let body = format!(
        "using L = fused::LayerRows<fused::{format}, {tiles}, {hidden}, {inner}, {queries}, {keys},
           {d}, {blocks}, {depth}, {slices}, {round}>;
         static_assert(L::SHARED <= {shared_bytes} && L::SCRATCH <= {scratch}, \"room\");
         __nv_bfloat16* const all_keys[{width}] = {{{all_keys}}};
         __nv_bfloat16* const all_values[{width}] = {{{all_values}}};
         L::run(fused::RowsArguments{{
           {weights}, numbers, const_cast<int*>(counter), {log2_base:e}f, {scale:e}f, {eps:e}f,
           parts, y}}, all_keys, all_values);",
        format = format_of(parts.qkv.packing()),
        all_keys = list("keys"),
        all_values = list("values"),
        weights = weights_text(parts),
        log2_base = base.log2(),
        scale = (d as f32).powf(-0.5),
        eps = parts.attention_norm.parts().1,
    );
    CudaKernel::new(&CudaSource {
        name: "fused_rows",
        inputs: &inputs,
        header: &[
            include_str!("../attend.cu"),
            include_str!("chunk.cu"),
            include_str!("ring.cu"),
            include_str!("meet.cu"),
            include_str!("columns.cu"),
            include_str!("rows.cu"),
        ],
        body: &body,
        shape: &[hidden, width],
        scratch,
        blocks,
        threads: THREADS,
        shared_bytes,
    })
}

/// Returns the numbers for a kernel of `tiles` times 8 rows, or `None` if it is not written for these
/// shapes.
fn plan(parts: &LayerParts<'_>, heads: &Heads, tiles: i32, device: CudaDevice) -> Option<Plan> {
    let LayerParts { qkv, o, down, .. } = *parts;
    let (values, stage) = chunk_of(qkv.packing())?;
    if !fits(parts, heads, values, device) {
        return None;
    }
    let Heads { queries, keys, values: d, .. } = *heads;
    let (hidden, inner, blocks) = (qkv.shape().1, down.shape().1, device.multiprocessors);
    let (width, inputs) = (EIGHT * tiles, hidden.max(o.shape().1));
    let chunks = inner / values;
    // Tiles and chunks of a block that has most, and what adding up takes: of 7b, where these are 133 of
    // 11 slices and 143 of 6, the latter were 1.5 us sooner on an H200.
    let cost =
        |slices: i32| ceil(chunks, slices) * ceil(ceil(hidden, blocks / slices), TILE) + 3 * slices;
    let slices = (1..=blocks.min(chunks))
        .filter(|&slices| ceil(chunks, slices) * values <= inputs)
        .min_by_key(|&slices| (cost(slices), slices))?;
    let share = queries / keys;
    let room = 2 * (share + 1) * d + 4 * WARPS * share * (2 + d);
    let sums = if qkv.packing().is_some() { inputs / 64 * width * 4 } else { 0 };
    let input = ceil((inputs * width * 2).max(room), 128) * 128 + sums;
    let most = if qkv.packing().is_some() { MOST_DEPTH.0 } else { MOST_DEPTH.1 };
    let (round, depth) = [4, 2, 1].into_iter().find_map(|round| {
        let rest = STATIC_BYTES + input + round * WARPS * TILE * width * 4;
        let depth = ((device.shared_bytes - rest) / (WARPS * stage)).min(most);
        (depth >= LEAST_DEPTH).then_some((round, depth))
    })?;
    let attention = (blocks + width * keys) * share * (d + 4);
    let between = qkv.shape().0 + queries * d + 2 * hidden + inner;
    debug_assert!(share <= MAX_SHARE, "checked by `fits`");
    Some(Plan {
        tiles,
        depth,
        slices,
        round,
        shared_bytes: WARPS * depth * stage + input + round * WARPS * TILE * width * 4,
        scratch: attention.max(slices * hidden * width) + blocks * width + between * width / 2,
    })
}
