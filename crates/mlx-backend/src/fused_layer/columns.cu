// Products with several rows x at a time, NT times 8 of them. In a fragment of the tensor cores they are
// the columns of the second factor, so in memory, too, the values of all rows stand side by side:
// [K][8 NT], in units of eight rows that are loaded at once. Rows that are not there are zero.
//
// A chunk of weights is what it is for a single row; all columns count, and groups follow each other.

namespace fused {

// Loads four 8 x 8 matrices of bf16, transposed; a lane has the address of row lane % 8 of one of them.
__device__ inline void read_columns(unsigned at, unsigned (&v)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
               : "r"(at));
}

template <class F, int NT>
struct Columns;

// What a lane finds in a tile: rows lane / 4 and 8 further on, of columns lane % 4 * 2 and the next.
template <int NT>
using Sums = float[NT][4];

template <int NT>
struct Columns<Packed, NT> : Packed {
  static constexpr int CHUNK_UNITS = VALUES * NT;

  unsigned columns_at, row_scales_at;

  __device__ Columns() {
    const int lane = threadIdx.x % 32, matrix = lane / 8, t = lane % 8 / 2, odd = lane % 2;
    // Matrices are the halves of a fragment of one step of 16 values and of the other columns, or, if
    // there are none, of the next step.
    const int k = t * 16 + odd * 4 + matrix % 2 + (NT == 1 ? matrix / 2 * 2 : 0);
    columns_at = unit(k, NT == 2 ? matrix / 2 : 0) * 16;
    row_scales_at = TILE * CHUNK_BYTES + lane / 4 * 8;
  }

  // Where eight columns of value k lie: no two of a matrix meet.
  __device__ static int unit(int k, int columns) {
    const int t = k >> 4 & 3, odd = k >> 2 & 1;
    return (k * NT + columns) ^ (NT == 2 ? odd | t << 1 : t);
  }

  // Fragments of the steps 2 `word` and the next of a group.
  __device__ void read(unsigned x, int group, int word, unsigned (&v)[NT][4]) const {
    const unsigned at = x + group * (64 * NT * 16) + word * (8 * NT * 16);
#pragma unroll
    for (int n = 0; n < NT; ++n) {
      read_columns(at + (columns_at ^ (n * 64)), v[n]);
    }
  }

  // The sums of the groups of a chunk; lanes of a row have the same columns.
  __device__ void add_up(unsigned x, unsigned sums) const {
    const int lane = threadIdx.x % 32;
    constexpr unsigned ONES = 0x3f803f80u;
    for (int group = 0; group < 4; ++group) {
      float c[NT][4] = {};
#pragma unroll
      for (int word = 0; word < 2; ++word) {
        unsigned v[NT][4];
        read(x, group, word, v);
#pragma unroll
        for (int n = 0; n < 2 * NT; ++n) {
          // Both halves of `v[.][2 n]` are of one step and of one tile of columns.
          multiply(
              c[NT == 2 ? n % 2 : 0], ONES, ONES, ONES, ONES, v[n / 2][n % 2 * 2],
              v[n / 2][n % 2 * 2 + 1]);
        }
      }
      if (lane < 4) {
#pragma unroll
        for (int n = 0; n < NT; ++n) {
          const unsigned at = sums + (group * 8 * NT + lane * 2 * NT + n * 2) * 4;
          asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(at), "f"(c[n][0]), "f"(c[n][1])
                       : "memory");
        }
      }
    }
  }

  __device__ void add(unsigned stage, unsigned x, unsigned sums, Sums<NT>& found) const {
    const int t = threadIdx.x % 4;
    const unsigned from = stage + row_at, scales = stage + row_scales_at;
    const uint2 scales1 = read_two(scales), scales2 = read_two(scales + 64);
    const uint2 biases1 = read_two(scales + 128), biases2 = read_two(scales + 192);
    auto of_group = [](uint2 v, int group) {
      const unsigned pair = group / 2 ? v.y : v.x;
      return group % 2 ? high(pair) : low(pair);
    };
#pragma unroll
    for (int group = 0; group < 4; ++group) {
      const unsigned at = from ^ (group * 32);
      const uint2 a = read_two(at), b = read_two(at + 8 * CHUNK_BYTES);
      float c[NT][4] = {};
#pragma unroll
      for (int word = 0; word < 2; ++word) {
        const unsigned of_a = word ? a.y : a.x, of_b = word ? b.y : b.x;
        unsigned v[NT][4];
        read(x, group, word, v);
#pragma unroll
        for (int step = 0; step < 2; ++step) {
          const unsigned a0 = codes(of_a >> (step * 8)), a1 = codes(of_b >> (step * 8));
          const unsigned a2 = codes(of_a >> (step * 8 + 4)), a3 = codes(of_b >> (step * 8 + 4));
#pragma unroll
          for (int n = 0; n < NT; ++n) {
            const int half = NT == 2 ? n : step;
            const unsigned (&of)[4] = v[NT == 2 ? step : 0];
            multiply(c[n], a0, a1, a2, a3, of[half * 2], of[half * 2 + 1]);
          }
        }
      }
      const float s1 = of_group(scales1, group), s2 = of_group(scales2, group);
      const float b1 = fmaf(-128.0f, s1, of_group(biases1, group));
      const float b2 = fmaf(-128.0f, s2, of_group(biases2, group));
      float sum[2 * NT];
      const unsigned sum_at = sums + (group * 8 * NT + t * 2 * NT) * 4;
#pragma unroll
      for (int n = 0; n < NT; ++n) {
        const uint2 v = read_two(sum_at + n * 8);
        sum[2 * n] = __uint_as_float(v.x);
        sum[2 * n + 1] = __uint_as_float(v.y);
      }
#pragma unroll
      for (int n = 0; n < NT; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          found[n][i] = fmaf(s1, c[n][i], fmaf(b1, sum[2 * n + i], found[n][i]));
          found[n][i + 2] = fmaf(s2, c[n][i + 2], fmaf(b2, sum[2 * n + i], found[n][i + 2]));
        }
      }
    }
  }
};

template <int NT>
struct Columns<Dense, NT> : Dense {
  static constexpr int CHUNK_UNITS = VALUES * NT;

  unsigned columns_at;

  __device__ Columns() {
    const int lane = threadIdx.x % 32, matrix = lane / 8, t = lane % 8 / 2, odd = lane % 2;
    const int k = t * 16 + odd + matrix % 2 * 2 + (NT == 1 ? matrix / 2 * 4 : 0);
    columns_at = unit(k, NT == 2 ? matrix / 2 : 0) * 16;
  }

  __device__ static int unit(int k, int columns) {
    const int t = k >> 4 & 3;
    return (k * NT + columns) ^ (NT == 2 ? t % 2 | t / 2 * 4 : t * 2);
  }

  __device__ void add_up(unsigned, unsigned) const {}

  __device__ void add(unsigned stage, unsigned x, unsigned, Sums<NT>& found) const {
    const unsigned from = stage + row_at;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const unsigned at = from ^ (half * 16);
      const uint4 a = read_four(at), b = read_four(at + 8 * CHUNK_BYTES);
      unsigned v[NT][4];
#pragma unroll
      for (int n = 0; n < NT; ++n) {
        read_columns(x + columns_at + half * (8 * NT * 16) + n * (4 * NT * 16), v[n]);
      }
#pragma unroll
      for (int n = 0; n < NT; ++n) {
        multiply(found[n], a.x, b.x, a.y, b.y, v[0][NT == 2 ? n * 2 : 0], v[0][NT == 2 ? n * 2 + 1 : 1]);
        const unsigned (&second)[4] = v[NT - 1];
        multiply(found[n], a.z, b.z, a.w, b.w, second[NT == 2 ? n * 2 : 2], second[NT == 2 ? n * 2 + 1 : 3]);
      }
    }
  }
};

} // namespace fused
