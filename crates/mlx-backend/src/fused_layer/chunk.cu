// Chunks of weights, 16 rows and 128 bytes of each, that lie in shared memory, times a row x.
//
// Tensor cores do it, with rows of weights as the rows of a fragment. Of the eight columns that the
// other factor can have there is only one, so packed weights use them for the groups of a chunk: column
// 2i has x of group i, and of what a fragment makes of group i only column 2i counts.

namespace fused {

constexpr int WARPS = 8;
constexpr int THREADS = WARPS * 32;
constexpr int TILE = 16;
constexpr int CHUNK_BYTES = 128;

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

__device__ inline void multiply(
    float (&c)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0, unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

template <int BYTES>
__device__ inline void copy_ahead(unsigned to, const char* from) {
  if constexpr (BYTES == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(from), "n"(BYTES)
                 : "memory");
  }
}

__device__ inline unsigned shared_address(const void* of) {
  return unsigned(__cvta_generic_to_shared(of));
}

__device__ inline uint2 read_two(unsigned at) {
  uint2 v;
  asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(at));
  return v;
}

__device__ inline uint4 read_four(unsigned at) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(at));
  return v;
}

__device__ inline float read_bf16(unsigned at) {
  unsigned short v;
  asm volatile("ld.shared.u16 %0, [%1];" : "=h"(v) : "r"(at));
  return __uint_as_float(unsigned(v) << 16);
}

__device__ inline float read_float(unsigned at) {
  float v;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(at));
  return v;
}

// 4 bits, a scale and a bias for every 64 inputs.
struct Packed {
  static constexpr bool HAS_GROUPS = true;
  static constexpr int VALUES = 256;
  static constexpr int STAGE_BYTES = TILE * CHUNK_BYTES + 2 * TILE * 8;

  // Where the 16 bytes `part` of row `row` lie in a stage: no two lanes that read together meet.
  __device__ static int place(int row, int part) {
    return row * CHUNK_BYTES + (part ^ (row % 4 * 2)) * 16;
  }

  // Of eight values, each stands beside the one whose code shares a half word with its own.
  __device__ static uint4 arranged(uint4 v) {
    return make_uint4(
        __byte_perm(v.x, v.z, 0x5410), __byte_perm(v.x, v.z, 0x7632),
        __byte_perm(v.y, v.w, 0x5410), __byte_perm(v.y, v.w, 0x7632));
  }

  // The bits of two codes. The compiler does not see that it is a constant (a grid has one layer): it
  // would put it into a register again for every use.
  unsigned mask;

  // Where a lane reads: its row of a stage, its scale, and x of the group whose column it has.
  unsigned row_at, scale_at, x_at;

  __device__ Packed() {
    const int lane = threadIdx.x % 32, row = lane / 4, t = lane % 4;
    mask = 0x000f000eu + gridDim.z;
    row_at = place(row, t / 2) + t % 2 * 8;
    scale_at = TILE * CHUNK_BYTES + (row * 4 + t) * 2;
    x_at = row / 2 * 128 + t * 32;
  }

  // Below the exponent of 128, four bits are a whole number: two bf16 of 128 + code.
  __device__ unsigned codes(unsigned word) const {
    return (word & mask) | 0x43004300u;
  }

  // Adds the products of a chunk, of rows lane / 4 and 8 further on; lanes of a row have a part each.
  __device__ void add(unsigned stage, unsigned x, unsigned sums, float& first, float& second) const {
    const int t = threadIdx.x % 4;
    const uint4 xa = read_four(x + x_at), xb = read_four(x + x_at + 16);
    const unsigned from = stage + row_at;
    float of_first = 0, of_second = 0;
#pragma unroll
    for (int group = 0; group < 4; ++group) {
      // Stages begin at multiples of 128 bytes.
      const unsigned at = from ^ (group * 32);
      const uint2 a = read_two(at), b = read_two(at + 8 * CHUNK_BYTES);
      float c[4] = {0, 0, 0, 0};
      multiply(c, codes(a.x), codes(b.x), codes(a.x >> 4), codes(b.x >> 4), xa.x, xa.y);
      multiply(c, codes(a.x >> 8), codes(b.x >> 8), codes(a.x >> 12), codes(b.x >> 12), xa.z, xa.w);
      multiply(c, codes(a.y), codes(b.y), codes(a.y >> 4), codes(b.y >> 4), xb.x, xb.y);
      multiply(c, codes(a.y >> 8), codes(b.y >> 8), codes(a.y >> 12), codes(b.y >> 12), xb.z, xb.w);
      of_first = t == group ? c[0] : of_first;
      of_second = t == group ? c[2] : of_second;
    }
    const unsigned scales = stage + scale_at;
    const float sum = read_float(sums + t * 4);
    const float s1 = read_bf16(scales), s2 = read_bf16(scales + 64);
    const float b1 = read_bf16(scales + 128), b2 = read_bf16(scales + 192);
    first += s1 * of_first + (b1 - 128.0f * s1) * sum;
    second += s2 * of_second + (b2 - 128.0f * s2) * sum;
  }

  __device__ static float whole(float v) {
    v += __shfl_xor_sync(0xffffffffu, v, 1);
    return v + __shfl_xor_sync(0xffffffffu, v, 2);
  }
};

// bf16.
struct Dense {
  static constexpr bool HAS_GROUPS = false;
  static constexpr int VALUES = 64;
  static constexpr int STAGE_BYTES = TILE * CHUNK_BYTES;

  __device__ static int place(int row, int part) {
    return row * CHUNK_BYTES + (part ^ (row % 2)) * 16;
  }

  __device__ static uint4 arranged(uint4 v) {
    return v;
  }

  unsigned row_at;

  __device__ Dense() {
    const int lane = threadIdx.x % 32;
    row_at = place(lane / 4, lane % 4 * 2);
  }

  __device__ void add(unsigned stage, unsigned x, unsigned, float& first, float& second) const {
    const int t = threadIdx.x % 4;
    const unsigned from = stage + row_at;
    float c[4] = {0, 0, 0, 0};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const unsigned at = from ^ (half * 16);
      const uint4 a = read_four(at), b = read_four(at + 8 * CHUNK_BYTES);
      const uint4 v = read_four(x + t * 32 + half * 16);
      multiply(c, a.x, b.x, a.y, b.y, v.x, v.y);
      multiply(c, a.z, b.z, a.w, b.w, v.z, v.w);
    }
    first += c[0];
    second += c[2];
  }

  // All columns are alike.
  __device__ static float whole(float v) {
    return v;
  }
};

} // namespace fused
