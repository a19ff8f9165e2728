//! Attention of one token on CUDA, with all that stands before it: the rotation of queries and key, and
//! the place of key and value behind those before them. As one operation of the device where MLX needs
//! five, two of which copy all keys and values while the step before is still being computed.

use mlx_rs::{Array, Dtype, error::Result as MlxResult};

use crate::ffi::{CudaKernel, CudaSource};

/// Blocks that keep the device busy: as many as an H100 has multiprocessors.
const BLOCKS: i32 = 132;

/// Most blocks for a key head: what each leaves is put together by one of them.
const MAX_SPLITS: i32 = 64;

/// Most query heads for a key head: rows of a fragment of the tensor cores.
const MAX_SHARE: i32 = 8;

/// As in `attend.cu`.
const WARPS: i32 = 8;

/// Attention of one token of one sequence.
#[derive(Debug)]
pub(crate) struct Attend {
    kernel: CudaKernel,
}

impl Attend {
    /// Returns the kernel for `heads` query heads and `key_heads` key heads of `d` values, rotated with
    /// `base`, or `None` if these are not what it is written for.
    pub(crate) fn new(
        (heads, key_heads, d): (i32, i32, i32),
        base: f32,
        dtype: Dtype,
    ) -> MlxResult<Option<Self>> {
        let share = heads / key_heads;
        let fits = dtype == Dtype::Bfloat16
            && (d == 64 || d == 128)
            && heads % key_heads == 0
            && share <= MAX_SHARE;
        if !fits {
            return Ok(None);
        }
        let splits = (BLOCKS / key_heads).clamp(1, MAX_SPLITS);
        let body = format!(
            "attend::run<{d}, {share}, {splits}>(
               heads, const_cast<__nv_bfloat16*>(keys), const_cast<__nv_bfloat16*>(values),
               keys_shape[1], keys_shape[2], position[0], const_cast<int*>(state), {:e}f, {:e}f,
               parts, y);",
            base.log2(),
            (d as f32).powf(-0.5),
        );
        CudaKernel::new(&CudaSource {
            name: "attend",
            inputs: &[
                ("heads", dtype),
                ("keys", dtype),
                ("values", dtype),
                ("position", Dtype::Int32),
                ("state", Dtype::Int32),
            ],
            header: &[include_str!("attend.cu")],
            body: &body,
            shape: &[1, 1, heads * d],
            scratch: key_heads * splits * share * (d + 4),
            blocks: key_heads * splits,
            threads: WARPS * 32,
            shared_bytes: 0,
        })
        .map(|kernel| Some(Self { kernel }))
    }

    /// Returns what [`apply`](Self::apply) needs to know of a sequence with `key_heads` key heads whose
    /// tokens stand at positions `delta` above their places.
    pub(crate) fn state(key_heads: i32, delta: i32) -> Array {
        let mut state = vec![0; key_heads as usize + 1];
        state[0] = delta;
        Array::from_slice(&state, &[key_heads + 1])
    }

    /// Returns the attention, `[1, 1, heads * d]`, of the token whose queries, key and value are `heads`
    /// (`[1, 1, (heads + 2 * key_heads) * d]`) at `position`, a number. Its key and value are written
    /// into `keys` and `values`, `[1, key_heads, capacity, d]`.
    ///
    /// MLX does not know that the inputs change. That is sound because `keys`, `values` and `state`
    /// belong to one sequence, which the caller guarantees: whoever reads them later needs what this
    /// token leads to, or is evaluated after it.
    pub(crate) fn apply(
        &self,
        heads: &Array,
        (keys, values): (&Array, &Array),
        position: &Array,
        state: &Array,
    ) -> MlxResult<Array> {
        self.kernel.apply(&[heads, keys, values, position, state])
    }
}

#[cfg(test)]
mod tests {
    use mlx_rs::{fast, ops, ops::indexing::TryIndexOp};

    use super::*;
    use crate::noise::{f32, largest, noise_bf16 as noise};

    /// Two tokens, one after the other, behind as many as are named, against the operations of MLX.
    #[test]
    #[ignore = "needs an NVIDIA GPU"]
    fn equals_the_operations_it_replaces() {
        let (base, delta) = (1e6, -40);
        for (h, k, d) in [(28, 4, 128), (16, 2, 128), (40, 8, 128), (14, 2, 64)] {
            let kernel = Attend::new((h, k, d), base, Dtype::Bfloat16).unwrap().unwrap();
            for tokens in [1, 2, 63, 300, 2741, 9001] {
                let capacity = tokens + 2;
                let behind = |seed| {
                    let old = noise(&[1, k, tokens, d], seed);
                    let rest = ops::zeros_dtype(&[1, k, 2, d], Dtype::Bfloat16).unwrap();
                    let all = ops::concatenate(&[&old, &rest], 2).unwrap();
                    all.eval().unwrap();
                    (old, all)
                };
                let ((mut old_keys, keys), (mut old_values, values)) = (behind(1), behind(2));
                let state = Attend::state(k, delta);
                for place in tokens..capacity {
                    let heads = noise(&[1, 1, (h + 2 * k) * d], place as u32);
                    let position = Array::from_int(place + delta);
                    let found = kernel.apply(&heads, (&keys, &values), &position, &state).unwrap();
                    found.eval().unwrap();
                    let heads = heads.reshape(&[1, h + 2 * k, 1, d]).unwrap();
                    let turned = heads.try_index((.., ..h + k, .., ..)).unwrap();
                    let turned = fast::rope_dynamic(&turned, d, false, base, 1.0, &position, None);
                    let turned = turned.unwrap();
                    let key = turned.try_index((.., h.., .., ..)).unwrap();
                    let value = heads.try_index((.., h + k.., .., ..)).unwrap();
                    old_keys = ops::concatenate(&[&old_keys, &key], 2).unwrap();
                    old_values = ops::concatenate(&[&old_values, &value], 2).unwrap();
                    for (all, old) in [(&keys, &old_keys), (&values, &old_values)] {
                        let seen = all.try_index((.., .., ..place + 1, ..)).unwrap();
                        let off = largest(&f32(&seen).subtract(f32(old)).unwrap());
                        // A position of thousands turns by angles that two compilers round apart.
                        assert!(off < 0.01, "{h} {k} {d}, {place}: rows differ by {off}");
                    }
                    let expected = fast::scaled_dot_product_attention(
                        f32(&turned.try_index((.., ..h, .., ..)).unwrap()),
                        f32(&old_keys),
                        f32(&old_values),
                        (d as f32).powf(-0.5),
                        None,
                        None,
                    );
                    let expected = expected.unwrap().reshape(&[1, 1, h * d]).unwrap();
                    let off = largest(&f32(&found).subtract(&expected).unwrap());
                    let off = off / largest(&expected);
                    assert!(off < 0.01, "{h} {k} {d}, {place}: attention differs by {off}");
                    assert_eq!(
                        state.to_vec_cast::<i32>().unwrap(),
                        [vec![delta], vec![0; k as usize]].concat()
                    );
                }
            }
        }
    }
}
