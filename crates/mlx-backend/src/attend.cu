// Attention of one token: rotates its queries and its key, puts key and value behind those of the
// tokens before it, and attends to all of them. For G query heads that share a key head of D values.
//
// The keys of a key head are divided among blocks, and among the warps of a block, 16 at a
// time. Tensor cores multiply them: the query heads are the rows of one factor, of which G count. Each
// warp keeps a softmax of its own as it goes; these are put together in the block, and then over all
// blocks of the head. arXiv:2311.01282
//
// `keys` and `values` ([K, capacity, D], inputs to MLX) get the new row. Nobody else may read what is
// written here while the kernel runs: the caller holds the only references.

namespace attend {

constexpr int WARPS = 8;

// A score below all others that leaves no infinities to be subtracted.
constexpr float NONE = -1e30f;

__device__ inline float wide(__nv_bfloat16 v) {
  return __bfloat162float(v);
}

__device__ inline unsigned pair(float a, float b) {
  __nv_bfloat162 both = __floats2bfloat162_rn(a, b);
  return *reinterpret_cast<unsigned*>(&both);
}

// c += a b for the first eight rows of a, the others being zero.
__device__ inline void multiply(float (&c)[4], unsigned a0, unsigned a2, unsigned b0, unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %6, %5, %6}, {%7, %8}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a2), "r"(0), "r"(b0), "r"(b1));
}

// What a block needs of shared memory.
template <int D, int G>
struct Room {
  // The queries, and the key.
  __nv_bfloat16 turned[G + 1][D];
  float outs[WARPS][G][D];
  float tops[WARPS][G], sums[WARPS][G];
};

// Floats of a part: D values, the largest score and the sum, and nothing up to a multiple of 16 bytes.
template <int D>
constexpr int ROW = D + 4;

// Some of the keys of a key head.
struct Keys {
  int head, from, to;

  // Of `keys` for each of K heads, the part of this block, one of `splits` for each head.
  __device__ static Keys of_block(int K, int keys, int splits) {
    const int split = blockIdx.x % splits, each = (keys + splits - 1) / splits;
    return {min(int(blockIdx.x) / splits, K - 1), split * each, min(keys, (split + 1) * each)};
  }
};

// What each of G query heads finds in a part of their keys.
template <int D, int G>
class Part {
 public:
  // Reads ahead, and turns nothing yet: `heads` of `run` may still be on their way.
  __device__ Part(
      __nv_bfloat16* keys, __nv_bfloat16* values, int K, int capacity, int position, int place,
      float log2_base, Keys part)
      : K(K), head(part.head), from(part.from), to(part.to), place(place) {
    this->keys = keys + size_t(head) * capacity * D;
    this->values = values + size_t(head) * capacity * D;
    take_keys(first());
    take_values(first());
    const float j = float(threadIdx.x % (D / 2));
    const float angle = float(position) * exp2f(-(j / float(D / 2)) * log2_base);
    cosine = cosf(angle);
    sine = sinf(angle);
  }

  // Writes G rows to `found`.
  __device__ void run(Room<D, G>& room, const __nv_bfloat16* heads, float scale, float* found);

 private:
  static constexpr int THREADS = WARPS * 32;
  // Keys of a warp at a time.
  static constexpr int EACH = 16;
  static_assert(THREADS % (D / 2) == 0, "all that a thread turns has one angle");
  static_assert(G <= 8, "rows of a fragment");

  int K, head, from, to, place;
  __nv_bfloat16 *keys, *values;
  float cosine, sine;
  // Of keys lane / 4 and 8 further on, the D / 4 values of lane % 4.
  uint4 some_keys[2][D / 32];
  // Of keys lane % 4 * 2, the next and both 8 further on, the D / 8 values of lane / 4.
  uint4 some_values[4][D / 64];

  __device__ int first() const {
    return from + threadIdx.x / 32 * EACH;
  }

  __device__ const uint4* row(const __nv_bfloat16* of, int at, int begin) const {
    at = min(at, max(to - 1, 0));
    return reinterpret_cast<const uint4*>(of + size_t(at) * D + begin);
  }

  __device__ void take_keys(int base) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const uint4* of = row(keys, base + n * 8 + lane / 4, lane % 4 * (D / 4));
#pragma unroll
      for (int i = 0; i < D / 32; ++i) {
        some_keys[n][i] = of[i];
      }
    }
  }

  __device__ void take_values(int base) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      const int key = base + lane % 4 * 2 + n % 2 + n / 2 * 8;
      const uint4* of = row(values, key, lane / 4 * (D / 8));
#pragma unroll
      for (int i = 0; i < D / 64; ++i) {
        some_values[n][i] = of[i];
      }
    }
  }
};

template <int D, int G>
__device__ inline void Part<D, G>::run(
    Room<D, G>& room, const __nv_bfloat16* heads, float scale, float* found) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = lane / 4, t = lane % 4;
  auto& turned = room.turned;
  constexpr int TURNS = (G + 1) * D / 2;
#pragma unroll
  for (int n = 0; n < (TURNS + THREADS - 1) / THREADS; ++n) {
    const int i = threadIdx.x + n * THREADS, g = i / (D / 2), j = i % (D / 2);
    if (i < TURNS) {
      const __nv_bfloat16* x = heads + (g < G ? head * G + g : K * G + head) * D;
      const float a = wide(__ldcg(x + j)), b = wide(__ldcg(x + j + D / 2));
      turned[g][j] = __float2bfloat16(a * cosine - b * sine);
      turned[g][j + D / 2] = __float2bfloat16(a * sine + b * cosine);
    }
  }
  __syncthreads();
  if (from <= place && place < to) {
    if (threadIdx.x < D) {
      keys[size_t(place) * D + threadIdx.x] = turned[G][threadIdx.x];
      values[size_t(place) * D + threadIdx.x] =
          __ldcg(heads + (K * (G + 1) + head) * D + threadIdx.x);
    }
    __syncthreads();
    if (first() <= place && place < first() + EACH) {
      // Some was read before it was written.
      take_keys(first());
      take_values(first());
    }
  }

  // Of a query lane / 4, the values of lane % 4.
  unsigned query[D / 8];
#pragma unroll
  for (int i = 0; i < D / 32; ++i) {
    uint4 v = make_uint4(0, 0, 0, 0);
    if (row < G) {
      v = *reinterpret_cast<const uint4*>(&turned[row][t * (D / 4) + i * 8]);
    }
    query[4 * i] = v.x;
    query[4 * i + 1] = v.y;
    query[4 * i + 2] = v.z;
    query[4 * i + 3] = v.w;
  }
  // Scores are in powers of 2.
  scale *= 1.4426950408889634f;
  float top = NONE, sum = 0;
  // Value i of lane % 4 * 2, and of the next, of query lane / 4.
  float out[D / 8][4] = {};
  for (int base = first(); base < to; base += WARPS * EACH) {
    float score[2][4] = {};
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int i = 0; i < D / 32; ++i) {
        const uint4 v = some_keys[n][i];
        multiply(score[n], query[4 * i], query[4 * i + 1], v.x, v.y);
        multiply(score[n], query[4 * i + 2], query[4 * i + 3], v.z, v.w);
      }
    }
    take_keys(base + WARPS * EACH);
    float before = top;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const bool counts = base + n * 8 + t * 2 + i < to;
        score[n][i] = counts ? score[n][i] * scale : NONE;
        top = fmaxf(top, score[n][i]);
      }
    }
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
    before = exp2f(before - top);
    sum *= before;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        score[n][i] = exp2f(score[n][i] - top);
        sum += score[n][i];
      }
    }
    const unsigned near = pair(score[0][0], score[0][1]), far = pair(score[1][0], score[1][1]);
#pragma unroll
    for (int i = 0; i < D / 64; ++i) {
      const uint4 (&v)[4][D / 64] = some_values;
      const unsigned of_keys[4][4] = {
          {v[0][i].x, v[0][i].y, v[0][i].z, v[0][i].w},
          {v[1][i].x, v[1][i].y, v[1][i].z, v[1][i].w},
          {v[2][i].x, v[2][i].y, v[2][i].z, v[2][i].w},
          {v[3][i].x, v[3][i].y, v[3][i].z, v[3][i].w}};
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        // The same value of two keys.
        const unsigned half = j % 2 ? 0x7632 : 0x5410;
        float (&to)[4] = out[i * 8 + j];
        to[0] *= before;
        to[1] *= before;
        multiply(
            to, near, far, __byte_perm(of_keys[0][j / 2], of_keys[1][j / 2], half),
            __byte_perm(of_keys[2][j / 2], of_keys[3][j / 2], half));
      }
    }
    take_values(base + WARPS * EACH);
  }
  sum += __shfl_xor_sync(0xffffffffu, sum, 1);
  sum += __shfl_xor_sync(0xffffffffu, sum, 2);
  if (row < G) {
    room.tops[warp][row] = top;
    room.sums[warp][row] = sum;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int i = 0; i < D / 8; i += 4) {
        *reinterpret_cast<float4*>(&room.outs[warp][row][(t * 2 + half) * (D / 8) + i]) =
            make_float4(out[i][half], out[i + 1][half], out[i + 2][half], out[i + 3][half]);
      }
    }
  }
  __syncthreads();

  for (int i = threadIdx.x; i < G * D / 4; i += THREADS) {
    const int g = i / (D / 4), d = i % (D / 4) * 4;
    float top = NONE, sum = 0;
    float4 out = make_float4(0, 0, 0, 0);
#pragma unroll
    for (int w = 0; w < WARPS; ++w) {
      top = fmaxf(top, room.tops[w][g]);
    }
#pragma unroll
    for (int w = 0; w < WARPS; ++w) {
      const float share = exp2f(room.tops[w][g] - top);
      const float4 v = *reinterpret_cast<const float4*>(&room.outs[w][g][d]);
      sum += share * room.sums[w][g];
      out.x += share * v.x;
      out.y += share * v.y;
      out.z += share * v.z;
      out.w += share * v.w;
    }
    *reinterpret_cast<float4*>(found + g * ROW<D> + d) = out;
    if (d == 0) {
      found[g * ROW<D> + D] = top;
      found[g * ROW<D> + D + 1] = sum;
    }
  }
}

// All of it, with the parts of a head put together by the block that ends last. `state` is the distance
// between the token's position and its place, followed by a counter for each key head, which is zero
// before and after.
template <int D, int G, int SPLITS>
__device__ inline void run(
    const __nv_bfloat16* heads, __nv_bfloat16* keys, __nv_bfloat16* values, int K, int capacity,
    int position, int* state, float log2_base, float scale, float* parts, __nv_bfloat16* y) {
  __shared__ Room<D, G> room;
  __shared__ float shares[G][SPLITS];
  __shared__ bool is_last;
  const int head = blockIdx.x / SPLITS, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int place = position - state[0];
  Part<D, G> part(
      keys, values, K, capacity, position, place, log2_base, Keys::of_block(K, place + 1, SPLITS));
  part.run(room, heads, scale, parts + size_t(blockIdx.x) * G * ROW<D>);
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

  const float* all = parts + size_t(head) * SPLITS * G * ROW<D>;
  for (int g = warp; g < G; g += WARPS) {
    float top = NONE, sum = 0;
    for (int s = lane; s < SPLITS; s += 32) {
      top = fmaxf(top, __ldcg(all + (s * G + g) * ROW<D> + D));
    }
    for (int apart = 16; apart > 0; apart /= 2) {
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, apart));
    }
    for (int s = lane; s < SPLITS; s += 32) {
      float share = exp2f(__ldcg(all + (s * G + g) * ROW<D> + D) - top);
      shares[g][s] = share;
      sum += share * __ldcg(all + (s * G + g) * ROW<D> + D + 1);
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
      out += shares[g][s] * __ldcg(all + (s * G + g) * ROW<D> + d);
    }
    y[(head * G + g) * D + d] = __float2bfloat16(out);
  }
  if (threadIdx.x == 0) {
    state[1 + head] = 0;
  }
}

} // namespace attend
