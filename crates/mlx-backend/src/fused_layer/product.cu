// The products of a block's rows with x, which all of its threads bring into shared memory.

namespace fused {

// The input of a product in shared memory, and the sums of its groups.
template <class F, int K>
__device__ inline void put(char* x, float* sums, int part, uint4 v) {
  if (part < K / 8) {
    *reinterpret_cast<uint4*>(x + part * 16) = F::arranged(v);
  }
  if constexpr (F::HAS_GROUPS) {
    float sum = low(v.x) + high(v.x) + low(v.y) + high(v.y) + low(v.z) + high(v.z) + low(v.w) +
        high(v.w);
#pragma unroll
    for (int apart = 1; apart < 8; apart *= 2) {
      sum += __shfl_xor_sync(0xffffffffu, sum, apart);
    }
    if (part % 8 == 0 && part < K / 8) {
      sums[part / 8] = sum;
    }
  }
}

// A thread's part of K values.
template <int K>
struct Values {
  static constexpr int STEPS = (K / 8 + THREADS - 1) / THREADS;
  uint4 parts[STEPS];

  // Reads what no block writes.
  __device__ void take(const __nv_bfloat16* from) {
#pragma unroll
    for (int i = 0; i < STEPS; ++i) {
      parts[i] = __ldg(reinterpret_cast<const uint4*>(from) + place(i));
    }
  }

  // Reads what other blocks wrote.
  __device__ void take_fresh(const __nv_bfloat16* from) {
#pragma unroll
    for (int i = 0; i < STEPS; ++i) {
      parts[i] = __ldcg(reinterpret_cast<const uint4*>(from) + place(i));
    }
  }

  __device__ static int place(int i) {
    return min(int(threadIdx.x) + i * THREADS, K / 8 - 1);
  }

  // Makes them the input of a product.
  template <class F>
  __device__ void put_into(char* x, float* sums) const {
#pragma unroll
    for (int i = 0; i < STEPS; ++i) {
      put<F, K>(x, sums, threadIdx.x + i * THREADS, parts[i]);
    }
    __syncthreads();
  }

  // Root mean square normalisation with the weights `gain`, rounded as the operation of MLX.
  __device__ void normalise(const Values& gain, float eps) {
    __shared__ float of_warps[WARPS];
    float squares = 0;
#pragma unroll
    for (int i = 0; i < STEPS; ++i) {
      const unsigned pairs[4] = {parts[i].x, parts[i].y, parts[i].z, parts[i].w};
      const bool counts = threadIdx.x + i * THREADS < K / 8;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        squares += counts ? low(pairs[j]) * low(pairs[j]) + high(pairs[j]) * high(pairs[j]) : 0.0f;
      }
    }
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2) {
      squares += __shfl_xor_sync(0xffffffffu, squares, apart);
    }
    if (threadIdx.x % 32 == 0) {
      of_warps[threadIdx.x / 32] = squares;
    }
    __syncthreads();
    squares = 0;
#pragma unroll
    for (int i = 0; i < WARPS; ++i) {
      squares += of_warps[i];
    }
    const float by = rsqrtf(squares / K + eps);
    auto normed = [by](unsigned v, unsigned gain) {
      __nv_bfloat162 both = __floats2bfloat162_rn(
          rounded(low(v) * by) * low(gain), rounded(high(v) * by) * high(gain));
      return *reinterpret_cast<unsigned*>(&both);
    };
#pragma unroll
    for (int i = 0; i < STEPS; ++i) {
      const uint4 v = parts[i], g = gain.parts[i];
      parts[i] =
          make_uint4(normed(v.x, g.x), normed(v.y, g.y), normed(v.z, g.z), normed(v.w, g.w));
    }
  }
};

// Multiplies the block's share with x. `sums_of_warps` gets the sum of each warp for each row.
template <class F, int K, class R>
__device__ inline void multiply_share(
    R& ring, const char* x, const float* sums, int tiles, float* sums_of_warps) {
  constexpr int CHUNKS = K / F::VALUES;
  static_assert(K % F::VALUES == 0, "rows of whole chunks");
  static_assert(CHUNKS >= WARPS, "each warp has a chunk of every tile");
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const unsigned x_at = shared_address(x), sums_at = shared_address(sums);
  const F format;
  float first = 0, second = 0;
  for (int tile = 0, chunk = warp; tile < tiles;) {
    const unsigned stage = ring.next();
    format.add(
        stage, x_at + chunk * (F::VALUES * 2), sums_at + chunk * (F::VALUES / 64 * 4), first,
        second);
    chunk += WARPS;
    if (chunk >= CHUNKS) {
      first = F::whole(first);
      second = F::whole(second);
      if (lane % 4 == 0) {
        float* to = sums_of_warps + (tile * WARPS + warp) * TILE + lane / 4;
        to[0] = first;
        to[TILE / 2] = second;
      }
      first = second = 0;
      chunk -= CHUNKS;
      ++tile;
    }
  }
  __syncthreads();
}

// Returns the product of a row of a tile, in bf16.
__device__ inline float product_of(const float* sums_of_warps, int tile, int row) {
  float sum = 0;
#pragma unroll
  for (int warp = 0; warp < WARPS; ++warp) {
    sum += sums_of_warps[(tile * WARPS + warp) * TILE + row];
  }
  return rounded(sum);
}

} // namespace fused
