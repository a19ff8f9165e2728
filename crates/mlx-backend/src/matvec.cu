// y = W x for one row x [K] of bf16, with W [N, K] of bf16, or packed: 4 bits, a scale and a bias for
// every 64 inputs, as words [N, K / 8] with the first weight in the lowest bits and scales and biases
// [N, K / 64] of bf16.
//
// A warp takes ROWS rows at a time, a lane 8 or 16 weights of each, so that the loads of a step are in
// flight together and x is unpacked once for all rows. Intermediate results are rounded to bf16
// wherever the operations of MLX that this replaces would have stored them.
//
// One kernel does for all products, since compiling it takes seconds, nearly all of it for headers.

namespace matvec {

constexpr int WARPS = 4;

__device__ inline float low(unsigned v) {
  return __uint_as_float(v << 16);
}

__device__ inline float high(unsigned v) {
  return __uint_as_float(v & 0xffff0000u);
}

__device__ inline float wide(__nv_bfloat16 v) {
  return __bfloat162float(v);
}

__device__ inline float rounded(float v) {
  return wide(__float2bfloat16(v));
}

__device__ inline float sum_of_warp(float v) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    v += __shfl_xor_sync(0xffffffffu, v, step);
  }
  return v;
}

// Root mean square normalisation of x with the weights `gain`, by all threads of a block.
__device__ inline void normalise(
    const __nv_bfloat16* x, const __nv_bfloat16* gain, int K, float eps, __nv_bfloat16* normed) {
  __shared__ float parts[WARPS];
  float squares = 0;
  for (int k = threadIdx.x * 2; k < K; k += WARPS * 64) {
    unsigned v = *reinterpret_cast<const unsigned*>(x + k);
    squares += low(v) * low(v) + high(v) * high(v);
  }
  squares = sum_of_warp(squares);
  if (threadIdx.x % 32 == 0) {
    parts[threadIdx.x / 32] = squares;
  }
  __syncthreads();
  squares = 0;
  for (int i = 0; i < WARPS; ++i) {
    squares += parts[i];
  }
  float by = rsqrtf(squares / K + eps);
  for (int k = threadIdx.x; k < K; k += WARPS * 32) {
    normed[k] = __float2bfloat16(rounded(wide(x[k]) * by) * wide(gain[k]));
  }
  __syncthreads();
}

struct Dense {
  const __nv_bfloat16* w;
  int K;
};

struct Packed {
  const unsigned* w;
  const __nv_bfloat16* scales;
  const __nv_bfloat16* biases;
  int K;
};

// The products of rows `first`, `first + 1`, ... below `end`; for PAIRED the second half of `sums` is
// of the rows `end` further on.
template <int ROWS, bool PAIRED>
__device__ inline void products(
    const __nv_bfloat16* x, Packed m, int first, int end, float (&sums)[ROWS]) {
  constexpr int OUTPUTS = PAIRED ? ROWS / 2 : ROWS;
  const unsigned* row_w[ROWS];
  const __nv_bfloat16* row_s[ROWS];
  const __nv_bfloat16* row_b[ROWS];
#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    size_t row = min(first + r % OUTPUTS, end - 1) + (r < OUTPUTS ? 0 : end);
    row_w[r] = m.w + row * (m.K / 8);
    row_s[r] = m.scales + row * (m.K / 64);
    row_b[r] = m.biases + row * (m.K / 64);
    sums[r] = 0;
  }
#pragma unroll 4
  for (int k = threadIdx.x % 32 * 16; k < m.K; k += 512) {
    uint2 words[ROWS];
    float s[ROWS], b[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      words[r] = __ldcs(reinterpret_cast<const uint2*>(row_w[r] + k / 8));
      s[r] = wide(row_s[r][k / 64]);
      b[r] = wide(row_b[r][k / 64]);
    }
    float values[16];
    float total = 0;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      uint4 v = *reinterpret_cast<const uint4*>(x + k + 8 * i);
      unsigned pairs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        values[8 * i + 2 * j] = low(pairs[j]);
        values[8 * i + 2 * j + 1] = high(pairs[j]);
        total += low(pairs[j]) + high(pairs[j]);
      }
    }
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      float dot = 0;
      unsigned of_row[2] = {words[r].x, words[r].y};
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          // Below the exponent of 128, four bits are a whole number: two bf16 of 128 + q.
          unsigned q = ((of_row[i] >> (4 * j)) & 0x000f000fu) | 0x43004300u;
          dot += low(q) * values[8 * i + j];
          dot += high(q) * values[8 * i + j + 4];
        }
      }
      sums[r] += s[r] * dot + (b[r] - 128.0f * s[r]) * total;
    }
  }
#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    sums[r] = sum_of_warp(sums[r]);
  }
}

template <int ROWS, bool PAIRED>
__device__ inline void products(
    const __nv_bfloat16* x, Dense m, int first, int end, float (&sums)[ROWS]) {
  constexpr int OUTPUTS = PAIRED ? ROWS / 2 : ROWS;
  const __nv_bfloat16* row_w[ROWS];
#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    size_t row = min(first + r % OUTPUTS, end - 1) + (r < OUTPUTS ? 0 : end);
    row_w[r] = m.w + row * m.K;
    sums[r] = 0;
  }
#pragma unroll 4
  for (int k = threadIdx.x % 32 * 8; k < m.K; k += 256) {
    uint4 words[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      words[r] = __ldcs(reinterpret_cast<const uint4*>(row_w[r] + k));
    }
    uint4 v = *reinterpret_cast<const uint4*>(x + k);
    unsigned values[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      unsigned of_row[4] = {words[r].x, words[r].y, words[r].z, words[r].w};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        sums[r] += low(of_row[j]) * low(values[j]);
        sums[r] += high(of_row[j]) * high(values[j]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    sums[r] = sum_of_warp(sums[r]);
  }
}

// Outputs of this warp, each plus its value of `extra`, if there is one.
template <int ROWS, class M>
__device__ inline void plain(
    const __nv_bfloat16* x, M m, int N, const __nv_bfloat16* extra, __nv_bfloat16* y) {
  int first = (blockIdx.x * WARPS + threadIdx.x / 32) * ROWS;
  if (first >= N) {
    return;
  }
  float sums[ROWS];
  products<ROWS, false>(x, m, first, N, sums);
#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    if (threadIdx.x % 32 == 0 && first + r < N) {
      float add = extra ? wide(extra[first + r]) : 0.0f;
      y[first + r] = __float2bfloat16(rounded(sums[r]) + add);
    }
  }
}

// silu(first half of the rows) * second half.
template <class M>
__device__ inline void gated(const __nv_bfloat16* x, M m, int N, __nv_bfloat16* y) {
  int first = (blockIdx.x * WARPS + threadIdx.x / 32) * 2;
  if (first >= N / 2) {
    return;
  }
  float sums[4];
  products<4, true>(x, m, first, N / 2, sums);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (threadIdx.x % 32 == 0 && first + r < N / 2) {
      float gate = rounded(sums[r]);
      gate = rounded(gate * rounded(1.0f / (1.0f + __expf(-gate))));
      y[first + r] = __float2bfloat16(gate * rounded(sums[r + 2]));
    }
  }
}

} // namespace matvec
