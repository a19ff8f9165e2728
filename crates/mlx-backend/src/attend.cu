// Attention of one token: rotates its queries and its key, puts key and value behind those of the
// tokens before it, and attends to all of them. For G query heads that share a key head of D values.
//
// The keys are divided among SPLITS blocks for each key head. In a block, as many lanes as a key has
// eights of values take a key at a time and keep a softmax of their own as they go; these are then
// merged in the warp, in the block, and by the block of the head that ends last. arXiv:2311.01282
//
// `keys` and `values` ([K, capacity, D], inputs to MLX) get the new row, and `state` is the distance
// between the token's position and its place, followed by a counter for each key head, which is zero
// before and after. Nobody else may read what is written here while the kernel runs: the caller holds
// the only references.

namespace attend {

constexpr int WARPS = 8;

__device__ inline float wide(__nv_bfloat16 v) {
  return __bfloat162float(v);
}

__device__ inline float rounded(float v) {
  return wide(__float2bfloat16(v));
}

__device__ inline void unpack(uint4 packed, float (&to)[8]) {
  unsigned pairs[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    to[2 * i] = __uint_as_float(pairs[i] << 16);
    to[2 * i + 1] = __uint_as_float(pairs[i] & 0xffff0000u);
  }
}

// A softmax over some of the keys: the largest score, and sums of the powers of 2 above it.
template <int G>
struct Partial {
  float top[G], sum[G], out[G][8];
};

// Adds what the lanes `apart` lanes away have.
template <int G>
__device__ inline void merge(Partial<G>& p, int apart) {
#pragma unroll
  for (int g = 0; g < G; ++g) {
    float other = __shfl_xor_sync(0xffffffffu, p.top[g], apart);
    float top = fmaxf(p.top[g], other);
    float mine = exp2f(p.top[g] - top), theirs = exp2f(other - top);
    p.top[g] = top;
    p.sum[g] = p.sum[g] * mine + __shfl_xor_sync(0xffffffffu, p.sum[g], apart) * theirs;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      float out = __shfl_xor_sync(0xffffffffu, p.out[g][i], apart);
      p.out[g][i] = p.out[g][i] * mine + out * theirs;
    }
  }
}

template <int D, int G, int SPLITS>
__device__ inline void run(
    const __nv_bfloat16* heads, __nv_bfloat16* keys, __nv_bfloat16* values, int K, int capacity,
    int position, int* state, float log2_base, float scale, float* parts, __nv_bfloat16* y) {
  constexpr int LANES = D / 8;
  constexpr int KEYS_OF_WARP = 32 / LANES;
  // A score below all others that leaves no infinities to be subtracted.
  constexpr float NONE = -1e30f;
  __shared__ float turned[G + 1][D];
  __shared__ float tops[WARPS][G], sums[WARPS][G], outs[WARPS][G][D];
  __shared__ float shares[G][SPLITS];
  __shared__ bool is_last;

  const int head = blockIdx.x / SPLITS, split = blockIdx.x % SPLITS;
  const int place = position - state[0];
  const int each = (place + SPLITS) / SPLITS;
  const int from = split * each, to = min(place + 1, from + each);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, part = lane % LANES;
  keys += size_t(head) * capacity * D;
  values += size_t(head) * capacity * D;

  for (int i = threadIdx.x; i < (G + 1) * D / 2; i += WARPS * 32) {
    int g = i / (D / 2), j = i % (D / 2);
    const __nv_bfloat16* x = heads + (g < G ? head * G + g : K * G + head) * D;
    float angle = float(position) * exp2f(-(float(j) / float(D / 2)) * log2_base);
    float c = cosf(angle), s = sinf(angle);
    float a = wide(x[j]), b = wide(x[j + D / 2]);
    turned[g][j] = rounded(a * c - b * s);
    turned[g][j + D / 2] = rounded(a * s + b * c);
  }
  __syncthreads();
  if (from <= place && place < to && threadIdx.x < D) {
    keys[size_t(place) * D + threadIdx.x] = __float2bfloat16(turned[G][threadIdx.x]);
    values[size_t(place) * D + threadIdx.x] = heads[(K * (G + 1) + head) * D + threadIdx.x];
  }
  __syncthreads();

  float q[G][8];
  Partial<G> p;
#pragma unroll
  for (int g = 0; g < G; ++g) {
    p.top[g] = NONE;
    p.sum[g] = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      // Scores are in powers of 2.
      q[g][i] = turned[g][part * 8 + i] * (scale * 1.4426950408889634f);
      p.out[g][i] = 0;
    }
  }
  const int step = WARPS * KEYS_OF_WARP;
  auto row = [&](const __nv_bfloat16* of, int base) {
    int at = min(base + lane / LANES, max(to - 1, 0));
    return *reinterpret_cast<const uint4*>(of + size_t(at) * D + part * 8);
  };
  int base = from + warp * KEYS_OF_WARP;
  uint4 next_key = row(keys, base), next_value = row(values, base);
  for (; base < to; base += step) {
    float key[8], value[8];
    unpack(next_key, key);
    unpack(next_value, value);
    next_key = row(keys, base + step);
    next_value = row(values, base + step);
    const bool counts = base + lane / LANES < to;
#pragma unroll
    for (int g = 0; g < G; ++g) {
      float score = 0;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        score += q[g][i] * key[i];
      }
#pragma unroll
      for (int apart = LANES / 2; apart > 0; apart /= 2) {
        score += __shfl_xor_sync(0xffffffffu, score, apart);
      }
      float top = counts ? fmaxf(p.top[g], score) : p.top[g];
      float before = exp2f(p.top[g] - top);
      float weight = counts ? exp2f(score - top) : 0.0f;
      p.top[g] = top;
      p.sum[g] = p.sum[g] * before + weight;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        p.out[g][i] = p.out[g][i] * before + weight * value[i];
      }
    }
  }
#pragma unroll
  for (int apart = LANES; apart < 32; apart *= 2) {
    merge<G>(p, apart);
  }
  if (lane < LANES) {
#pragma unroll
    for (int g = 0; g < G; ++g) {
      tops[warp][g] = p.top[g];
      sums[warp][g] = p.sum[g];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        outs[warp][g][part * 8 + i] = p.out[g][i];
      }
    }
  }
  __syncthreads();

  // Of a split: D values, the largest score and the sum.
  float* mine = parts + size_t(blockIdx.x) * G * (D + 2);
  for (int i = threadIdx.x; i < G * D; i += WARPS * 32) {
    int g = i / D, d = i % D;
    float top = NONE, sum = 0, out = 0;
#pragma unroll
    for (int w = 0; w < WARPS; ++w) {
      top = fmaxf(top, tops[w][g]);
    }
#pragma unroll
    for (int w = 0; w < WARPS; ++w) {
      float share = exp2f(tops[w][g] - top);
      sum += share * sums[w][g];
      out += share * outs[w][g][d];
    }
    mine[g * (D + 2) + d] = out;
    if (d == 0) {
      mine[g * (D + 2) + D] = top;
      mine[g * (D + 2) + D + 1] = sum;
    }
  }
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    is_last = atomicAdd(&state[1 + head], 1) == SPLITS - 1;
  }
  __syncthreads();
  if (!is_last) {
    return;
  }
  __threadfence();

  const float* all = parts + size_t(head) * SPLITS * G * (D + 2);
  for (int g = warp; g < G; g += WARPS) {
    float top = NONE, sum = 0;
    for (int s = lane; s < SPLITS; s += 32) {
      top = fmaxf(top, __ldcg(all + (s * G + g) * (D + 2) + D));
    }
    for (int apart = 16; apart > 0; apart /= 2) {
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, apart));
    }
    for (int s = lane; s < SPLITS; s += 32) {
      float share = exp2f(__ldcg(all + (s * G + g) * (D + 2) + D) - top);
      shares[g][s] = share;
      sum += share * __ldcg(all + (s * G + g) * (D + 2) + D + 1);
    }
    for (int apart = 16; apart > 0; apart /= 2) {
      sum += __shfl_xor_sync(0xffffffffu, sum, apart);
    }
    for (int s = lane; s < SPLITS; s += 32) {
      shares[g][s] /= sum;
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < G * D; i += WARPS * 32) {
    int g = i / D, d = i % D;
    float out = 0;
#pragma unroll 8
    for (int s = 0; s < SPLITS; ++s) {
      out += shares[g][s] * __ldcg(all + (s * G + g) * (D + 2) + d);
    }
    y[(head * G + g) * D + d] = __float2bfloat16(out);
  }
  if (threadIdx.x == 0) {
    state[1 + head] = 0;
  }
}

} // namespace attend
