// y = W x for up to 16 rows x [B, K] of bf16, with W [N, K] packed as in ../matvec.cu, N a multiple of 16.
//
// A block makes 16 outputs of every row; its warps take K in turns, 64 inputs at a time, and add up what
// they found. Weights are unpacked in registers to bf16, rounded as MLX rounds them, and multiplied by
// the tensor cores. Which weight stands where in a fragment is free as long as x stands alike, so that
// a lane keeps the 16 weights in a row that it loads.

namespace matrows {

constexpr int WARPS = 8;

// A word of eight weights to four pairs: weights j and j + 4.
__device__ inline void unpack(unsigned word, __nv_bfloat162 s, __nv_bfloat162 b, unsigned* pairs) {
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    // Below the exponent of 128, four bits are a whole number: two bf16 of 128 + q.
    unsigned q = ((word >> (4 * j)) & 0x000f000fu) | 0x43004300u;
    __nv_bfloat162 v = *reinterpret_cast<__nv_bfloat162*>(&q);
    v = __hfma2(__hsub2(v, __float2bfloat162_rn(128.0f)), s, b);
    pairs[j] = *reinterpret_cast<unsigned*>(&v);
  }
}

// Eight values of x to the same pairs.
__device__ inline void pair_up(uint4 v, unsigned* pairs) {
  pairs[0] = __byte_perm(v.x, v.z, 0x5410);
  pairs[1] = __byte_perm(v.x, v.z, 0x7632);
  pairs[2] = __byte_perm(v.y, v.w, 0x5410);
  pairs[3] = __byte_perm(v.y, v.w, 0x7632);
}

// c [16, 8] += a [16, 16] b [16, 8].
__device__ inline void multiply(
    float (&c)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

struct Packed {
  const unsigned* w;
  const __nv_bfloat16* scales;
  const __nv_bfloat16* biases;
  int K;
};

// The products of weights `top` and `bottom` + 8 of a tile with 16 rows of x, of which `B` are there:
// sums[o][b], for all threads of the block.
__device__ inline void tile(
    const __nv_bfloat16* x, int B, Packed m, size_t top, size_t bottom, float (&sums)[WARPS][16][17]) {
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  int row = lane / 4, quarter = lane % 4;
  size_t rows[2] = {top + row, bottom + row};
  const __nv_bfloat16* from[2] = {
      x + (size_t)min(row, B - 1) * m.K, x + (size_t)min(row + 8, B - 1) * m.K};
  float c[2][4] = {};
#pragma unroll 2
  for (int k = warp * 64; k < m.K; k += WARPS * 64) {
    unsigned weights[2][8], values[2][8];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      size_t group = rows[i] * (m.K / 64) + k / 64;
      uint2 words = *reinterpret_cast<const uint2*>(m.w + group * 8 + quarter * 2);
      __nv_bfloat162 s = __bfloat162bfloat162(m.scales[group]);
      __nv_bfloat162 b = __bfloat162bfloat162(m.biases[group]);
      unpack(words.x, s, b, weights[i]);
      unpack(words.y, s, b, weights[i] + 4);
      const uint4* of_x = reinterpret_cast<const uint4*>(from[i] + k + quarter * 16);
      pair_up(of_x[0], values[i]);
      pair_up(of_x[1], values[i] + 4);
    }
#pragma unroll
    for (int p = 0; p < 8; p += 2) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (i == 0 || B > 8) {
          multiply(
              c[i], weights[0][p], weights[1][p], weights[0][p + 1], weights[1][p + 1],
              values[i][p], values[i][p + 1]);
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      sums[warp][row + j / 2 * 8][i * 8 + quarter * 2 + j % 2] = c[i][j];
    }
  }
  __syncthreads();
}

__device__ inline float total(const float (&sums)[WARPS][16][17], int o, int b) {
  float all = 0;
#pragma unroll
  for (int warp = 0; warp < WARPS; ++warp) {
    all += sums[warp][o][b];
  }
  return __bfloat162float(__float2bfloat16(all));
}

// y [B, N] plus `extra`, of N values for every row or [B, N], if there is one.
__device__ inline void plain(
    const __nv_bfloat16* x, int B, Packed m, int N, const __nv_bfloat16* extra, bool of_rows,
    __nv_bfloat16* y) {
  __shared__ float sums[WARPS][16][17];
  size_t first = (size_t)blockIdx.x * 16;
  tile(x, B, m, first, first + 8, sums);
  int o = threadIdx.x % 16, b = threadIdx.x / 16;
  if (b < B) {
    size_t at = (size_t)b * N + first + o;
    float add = extra ? __bfloat162float(extra[of_rows ? at : first + o]) : 0.0f;
    y[at] = __float2bfloat16(total(sums, o, b) + add);
  }
}

// silu(first half of the weights) * second half: y [B, N / 2].
__device__ inline void gated(const __nv_bfloat16* x, int B, Packed m, int N, __nv_bfloat16* y) {
  __shared__ float sums[WARPS][16][17];
  size_t first = (size_t)blockIdx.x * 8;
  tile(x, B, m, first, first + N / 2, sums);
  int o = threadIdx.x % 8, b = threadIdx.x / 8;
  if (b < B) {
    auto rounded = [](float v) { return __bfloat162float(__float2bfloat16(v)); };
    float gate = total(sums, o, b), up = total(sums, o + 8, b);
    gate = rounded(gate * rounded(1.0f / (1.0f + __expf(-gate))));
    y[(size_t)b * (N / 2) + first + o] = __float2bfloat16(gate * up);
  }
}

} // namespace matrows
