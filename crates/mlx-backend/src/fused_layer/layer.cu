// A block of a decoder for one token, as one kernel that holds the whole device. Where all blocks of
// the grid need what others made they wait for each other.
//
//   heads    = Wqkv norm(x) + bias
//   parts    = attention of each head over a part of the keys           attend.cu
//   attended = the parts put together
//   middle   = x + Wo attended
//   gated    = silu(Wgate norm(middle)) * (Wup norm(middle))
//   y        = middle + Wdown gated
//
// What is rounded to bf16 in between is what the operations of MLX would have stored.

namespace fused {

struct Arguments {
  const __nv_bfloat16 *x, *attention_gain, *bias, *mlp_gain;
  Weights qkv, o, gate_up, down;
  __nv_bfloat16 *keys, *values;
  int capacity, position, place;
  int* counter;
  float log2_base, scale, eps;
  float* scratch;
  __nv_bfloat16* y;
};

// E values of hidden state, I inside the MLP, H query heads and KV key heads of D values.
template <class F, int E, int I, int H, int KV, int D, int BLOCKS, int DEPTH>
struct Layer {
  static constexpr int G = H / KV;
  static constexpr int HEADS = (H + 2 * KV) * D;
  static constexpr int SPLITS = BLOCKS / KV < 64 ? BLOCKS / KV : 64;

  static constexpr int largest(int a, int b) {
    return a > b ? a : b;
  }

  static constexpr int tiles(int outputs, int of_tile) {
    return ((outputs + BLOCKS - 1) / BLOCKS + of_tile - 1) / of_tile;
  }

  // In shared memory, in bytes.
  static constexpr int RING = WARPS * DEPTH * F::STAGE_BYTES;
  static constexpr int X = largest(largest(E, I), H * D) * 2;
  static constexpr int SUMS = X / 2 / 64 * 4;
  static constexpr int INPUT = largest((X + SUMS + 15) / 16 * 16, sizeof(attend::Room<D, G>));
  static constexpr int TILES = largest(
      largest(tiles(HEADS, TILE), tiles(E, TILE)), tiles(I, TILE / 2));
  static constexpr int SHARED = RING + INPUT + TILES * WARPS * TILE * 4;

  // In memory, in floats.
  static constexpr int PARTS = KV * SPLITS * G * attend::ROW<D>;
  static constexpr int SCRATCH = PARTS + (HEADS + H * D + E + I) / 2;

  __device__ static void run(const Arguments& a) {
    extern __shared__ __align__(128) char shared[];
    __shared__ Share shares[4];
    char* x = shared + RING;
    float* sums = reinterpret_cast<float*>(x + X);
    float* found = reinterpret_cast<float*>(x + INPUT);
    __nv_bfloat16* heads = reinterpret_cast<__nv_bfloat16*>(a.scratch + PARTS);
    __nv_bfloat16* attended = heads + HEADS;
    __nv_bfloat16* middle = attended + H * D;
    __nv_bfloat16* gated = middle + E;
    const int i = threadIdx.x;
    int passed = 0;

    constexpr int V = F::VALUES;
    if (i == 0) {
      shares[0] = Share(a.qkv.words, a.qkv.scales, a.qkv.biases, E / V, HEADS, false, BLOCKS);
      shares[1] = Share(a.o.words, a.o.scales, a.o.biases, H * D / V, E, false, BLOCKS);
      shares[2] = Share(a.gate_up.words, a.gate_up.scales, a.gate_up.biases, E / V, I, true, BLOCKS);
      shares[3] = Share(a.down.words, a.down.scales, a.down.biases, I / V, E, false, BLOCKS);
    }
    // Asked for before the weights, which fill the way from memory.
    Values<E> hidden, gain;
    hidden.take(a.x);
    gain.take(a.attention_gain);
    __syncthreads();
    Ring<F, DEPTH> ring(shared, shares, 4);

    // A thread has an output of a share, or none.
    static_assert((HEADS + BLOCKS - 1) / BLOCKS <= THREADS, "a thread for each output");
    static_assert((E + BLOCKS - 1) / BLOCKS <= THREADS, "a thread for each output");
    static_assert((I + BLOCKS - 1) / BLOCKS <= THREADS, "a thread for each output");
    auto extra = [&](const Share& share, const __nv_bfloat16* of) {
      return of && i < share.outputs ? wide(__ldcg(of + share.first + i)) : 0.0f;
    };
    auto put_out = [&](const Share& share, float extra, __nv_bfloat16* to) {
      if (i < share.outputs) {
        float sum = product_of(found, i / TILE, i % TILE) + extra;
        to[share.first + i] = __float2bfloat16(sum);
      }
    };

    // What depends on no other block is asked for before they meet.
    float add = extra(shares[0], a.bias);
    hidden.normalise(gain, a.eps);
    hidden.template put_into<F>(x, sums);
    multiply_share<F, E>(ring, x, sums, shares[0].tiles, found);
    put_out(shares[0], add, heads);
    attend::Part<D, G> part(
        a.keys, a.values, KV, a.capacity, a.position, a.place, a.log2_base,
        attend::Keys::of_block(KV, a.place + 1, SPLITS));
    meet(a.counter, passed);

    if (blockIdx.x < KV * SPLITS) {
      part.run(
          *reinterpret_cast<attend::Room<D, G>*>(x), heads, a.scale,
          a.scratch + size_t(blockIdx.x) * G * attend::ROW<D>);
    }
    meet(a.counter, passed);
    put_together(a.scratch, x, attended);
    add = extra(shares[1], a.x);
    meet(a.counter, passed);

    Values<H * D> found_by_heads;
    found_by_heads.take_fresh(attended);
    found_by_heads.template put_into<F>(x, sums);
    multiply_share<F, H * D>(ring, x, sums, shares[1].tiles, found);
    put_out(shares[1], add, middle);
    gain.take(a.mlp_gain);
    meet(a.counter, passed);

    hidden.take_fresh(middle);
    hidden.normalise(gain, a.eps);
    hidden.template put_into<F>(x, sums);
    multiply_share<F, E>(ring, x, sums, shares[2].tiles, found);
    if (i < shares[2].outputs) {
      float gate = product_of(found, i / (TILE / 2), i % (TILE / 2));
      float up = product_of(found, i / (TILE / 2), i % (TILE / 2) + TILE / 2);
      gate = rounded(gate * rounded(1.0f / (1.0f + __expf(-gate))));
      gated[shares[2].first + i] = __float2bfloat16(gate * up);
    }
    add = extra(shares[3], middle);
    meet(a.counter, passed);

    Values<I> inner;
    inner.take_fresh(gated);
    inner.template put_into<F>(x, sums);
    multiply_share<F, I>(ring, x, sums, shares[3].tiles, found);
    put_out(shares[3], add, a.y);
    leave(a.counter, passed);
  }

  // Puts the parts of this block's outputs together: a lane has an output, a warp some of the parts.
  __device__ static void put_together(const float* parts, char* room, __nv_bfloat16* attended) {
    constexpr int EACH = (SPLITS + WARPS - 1) / WARPS;
    float* tops = reinterpret_cast<float*>(room);
    float* sums = tops + THREADS;
    float* outs = sums + THREADS;
    const int first = part_of(H * D, blockIdx.x, BLOCKS), end = part_of(H * D, blockIdx.x + 1, BLOCKS);
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    for (int from = first; from < end; from += 32) {
      const int output = min(from + lane, end - 1);
      const int head = output / D, d = output % D;
      const float* of = parts + size_t(head / G * SPLITS * G + head % G) * attend::ROW<D>;
      float top_of[EACH], sum_of[EACH], out_of[EACH];
      float top = -1e30f, sum = 0, out = 0;
#pragma unroll
      for (int n = 0; n < EACH; ++n) {
        const int split = warp + n * WARPS;
        const float* part = of + size_t(min(split, SPLITS - 1)) * G * attend::ROW<D>;
        top_of[n] = split < SPLITS ? __ldcg(part + D) : -1e30f;
        sum_of[n] = split < SPLITS ? __ldcg(part + D + 1) : 0.0f;
        out_of[n] = split < SPLITS ? __ldcg(part + d) : 0.0f;
      }
#pragma unroll
      for (int n = 0; n < EACH; ++n) {
        top = fmaxf(top, top_of[n]);
      }
#pragma unroll
      for (int n = 0; n < EACH; ++n) {
        const float share = exp2f(top_of[n] - top);
        sum += share * sum_of[n];
        out += share * out_of[n];
      }
      tops[threadIdx.x] = top;
      sums[threadIdx.x] = sum;
      outs[threadIdx.x] = out;
      __syncthreads();
      if (warp == 0) {
#pragma unroll
        for (int w = 1; w < WARPS; ++w) {
          top = fmaxf(top, tops[w * 32 + lane]);
        }
        sum = out = 0;
#pragma unroll
        for (int w = 0; w < WARPS; ++w) {
          const float share = exp2f(tops[w * 32 + lane] - top);
          sum += share * sums[w * 32 + lane];
          out += share * outs[w * 32 + lane];
        }
        if (from + lane < end) {
          attended[from + lane] = __float2bfloat16(out / sum);
        }
      }
      __syncthreads();
    }
  }
};

} // namespace fused
