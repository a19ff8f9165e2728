// A block of a decoder for a token of each of several sequences, as layer.cu has it for one: at most
// 8 NT of them. Each has keys and values of its own.
//
// All of the hidden state of all rows is in shared memory, but what is inside the MLP would not fit: so
// `down` is divided among blocks by its inputs, too, and what they found is added up at the end.

namespace fused {

struct RowsArguments {
  const __nv_bfloat16 *x, *attention_gain, *bias, *mlp_gain;
  Weights qkv, o, gate_up, down;
  // Positions, places and capacities of 8 NT rows, and how many there are.
  const int* rows;
  int* counter;
  float log2_base, scale, eps;
  float* scratch;
  __nv_bfloat16* y;
};

// A sequence.
struct Row {
  __nv_bfloat16 *keys, *values;
  int capacity, position, place;
  // Where its keys begin among those of all, in steps of 16 of one head, and how far heads are apart.
  int first, stride;
};

// Hidden states are [E][8 NT]. SLICES is by how many blocks the inputs of `down` are divided, and ROUND
// how many tiles are put together at a time.
template <class F, int NT, int E, int I, int H, int KV, int D, int BLOCKS, int DEPTH, int SLICES,
          int ROUND>
struct LayerRows {
  static constexpr int G = H / KV;
  static constexpr int HEADS = (H + 2 * KV) * D;
  static constexpr int R = 8 * NT;
  static constexpr int EACH = 16;

  static constexpr int largest(int a, int b) {
    return a > b ? a : b;
  }

  // Inputs of `down` that a block multiplies, at most.
  static constexpr int SLICE = (I / F::VALUES + SLICES - 1) / SLICES * F::VALUES;
  static constexpr int INPUTS = largest(largest(E, H * D), SLICE);

  // In shared memory, in bytes.
  static constexpr int RING = WARPS * DEPTH * F::STAGE_BYTES;
  static constexpr int X = largest(INPUTS * R * 2, sizeof(attend::Room<D, G>));
  static constexpr int SUMS = F::HAS_GROUPS ? INPUTS / 64 * R * 4 : 0;
  static constexpr int SHARED = RING + X + SUMS + ROUND * WARPS * TILE * R * 4;

  // In memory, in floats; parts of attention and of `down` are never there together.
  static constexpr int PARTS = (BLOCKS + R * KV) * G * attend::ROW<D>;
  static constexpr int ADDENDS = SLICES * E * R;
  static constexpr int REUSED = largest(PARTS, ADDENDS);
  static constexpr int SCRATCH = REUSED + BLOCKS * R + (HEADS + H * D + 2 * E + I) * R / 2;

  __device__ static void run(
      const RowsArguments& a, __nv_bfloat16* const (&keys)[R], __nv_bfloat16* const (&values)[R]) {
    extern __shared__ __align__(128) char shared[];
    __shared__ Share shares[4];
    __shared__ Row rows[R + 1];
    __shared__ float by[R];
    // Of the keys of all heads of all rows, in the order of `Row::first`.
    __shared__ int all_steps;
    char* x = shared + RING;
    float* sums = reinterpret_cast<float*>(x + X);
    float* found = reinterpret_cast<float*>(x + X + SUMS);
    float* squares = a.scratch + REUSED;
    __nv_bfloat16* heads = reinterpret_cast<__nv_bfloat16*>(squares + BLOCKS * R);
    __nv_bfloat16* attended = heads + HEADS * R;
    __nv_bfloat16* middle = attended + H * D * R;
    __nv_bfloat16* gated = middle + E * R;
    // A hidden state times the weights of its norm.
    __nv_bfloat16* weighted = gated + I * R;
    const int i = threadIdx.x;
    int passed = 0;

    constexpr int V = F::VALUES;
    if (i == 0) {
      shares[0] = Share(a.qkv.words, a.qkv.scales, a.qkv.biases, E / V, HEADS, false, BLOCKS);
      shares[1] = Share(a.o.words, a.o.scales, a.o.biases, H * D / V, E, false, BLOCKS);
      shares[2] = Share(a.gate_up.words, a.gate_up.scales, a.gate_up.biases, E / V, I, true, BLOCKS);
      shares[3] = Share(a.down.words, a.down.scales, a.down.biases, I / V, E, false, BLOCKS, SLICES);
    }
#pragma unroll
    for (int row = 0; row < R; ++row) {
      if (i == row) {
        rows[row] = {
            keys[row], values[row], a.rows[2 * R + row], a.rows[row], a.rows[R + row], 0, 0};
      }
    }
    const int count = a.rows[3 * R];
    __syncthreads();
    Ring<F, DEPTH> ring(shared, shares, 4);
    if (i < 32) {
      divide(rows, count, all_steps);
    }
    const Columns<F, NT> format;

    float square = 0;
    for (int at = own(E) * R + i; at < own_end(E) * R; at += THREADS) {
      const float v = wide(a.x[at]);
      square += v * v;
      weighted[at] = __float2bfloat16(v * wide(a.attention_gain[at / R]));
    }
    put_squares(square, i % R, squares);
    meet(a.counter, passed);

    start(x, weighted, E);
    find_norms(squares, a.eps, by);
    finish();
    add_up(format, x, sums, E / V);
    multiply(
        ring, format, x, sums, shares[0], found, [&](int tile, int o, int p, const float* of) {
          const int output = tile * TILE + o;
          if (output < shares[0].outputs) {
            const int to = shares[0].first + output;
            const float add = a.bias ? wide(a.bias[to]) : 0.0f;
            heads[p * HEADS + to] = __float2bfloat16(rounded(total(of) * by[p]) + add);
          }
        });
    Piece piece = next(rows, count, all_steps, own(all_steps));
    attend::Part<D, G> part = part_of_row(rows[piece.row], piece, a.log2_base);
    meet(a.counter, passed);

    while (piece.end > piece.begin) {
      part.run(
          *reinterpret_cast<attend::Room<D, G>*>(x), heads + piece.row * HEADS, a.scale,
          a.scratch + size_t(blockIdx.x + piece.row * KV + piece.head) * G * attend::ROW<D>);
      piece = next(rows, count, all_steps, piece.end);
      if (piece.end > piece.begin) {
        part = part_of_row(rows[piece.row], piece, a.log2_base);
      }
    }
    meet(a.counter, passed);
    put_together(a.scratch, rows, count, all_steps, attended);
    meet(a.counter, passed);

    start(x, attended, H * D);
    finish();
    add_up(format, x, sums, H * D / V);
    square = 0;
    multiply(
        ring, format, x, sums, shares[1], found, [&](int tile, int o, int p, const float* of) {
          const int output = tile * TILE + o;
          if (output < shares[1].outputs) {
            const int to = (shares[1].first + output) * R + p;
            const float v = rounded(rounded(total(of)) + wide(a.x[to]));
            square += v * v;
            middle[to] = __float2bfloat16(v);
            weighted[to] = __float2bfloat16(v * wide(a.mlp_gain[shares[1].first + output]));
          }
        });
    put_squares(square, column(i % R), squares);
    meet(a.counter, passed);

    start(x, weighted, E);
    find_norms(squares, a.eps, by);
    finish();
    add_up(format, x, sums, E / V);
    multiply(
        ring, format, x, sums, shares[2], found, [&](int tile, int o, int p, const float* of) {
          const int output = tile * (TILE / 2) + o;
          if (o < TILE / 2 && output < shares[2].outputs) {
            float gate = rounded(total(of) * by[p]), up = rounded(total(of + TILE / 2 * R) * by[p]);
            gate = rounded(gate * rounded(1.0f / (1.0f + __expf(-gate))));
            gated[(shares[2].first + output) * R + p] = __float2bfloat16(gate * up);
          }
        });
    meet(a.counter, passed);

    const Share& down = shares[3];
    if (down.tiles > 0) {
      start(x, gated + down.first_chunk * (V * R), down.chunks * V);
      finish();
      add_up(format, x, sums, down.chunks);
    }
    float* addends = a.scratch + size_t(blockIdx.x / (BLOCKS / SLICES)) * (E * R);
    multiply(
        ring, format, x, sums, down, found, [&](int tile, int o, int p, const float* of) {
          const int output = tile * TILE + o;
          if (output < down.outputs) {
            addends[(down.first + output) * R + p] = total(of);
          }
        });
    meet(a.counter, passed);

    for (int at = own(E) * R + i; at < own_end(E) * R; at += THREADS) {
      float sum = 0;
#pragma unroll
      for (int slice = 0; slice < SLICES; ++slice) {
        sum += __ldcg(a.scratch + slice * (E * R) + at);
      }
      a.y[at] = __float2bfloat16(rounded(sum) + wide(__ldcg(middle + at)));
    }
    leave(a.counter, passed);
  }

 private:
  // Where the block's part of `all` begins and ends.
  __device__ static int own(int all) {
    return part_of(all, blockIdx.x, BLOCKS);
  }

  __device__ static int own_end(int all) {
    return part_of(all, blockIdx.x + 1, BLOCKS);
  }

  // Starts putting `values` values of each row, which other blocks wrote, into shared memory.
  __device__ static void start(char* x, const __nv_bfloat16* from, int values) {
    const unsigned to = shared_address(x);
    // All blocks want the same, so each begins elsewhere.
    const int units = values * NT, begin = own(units / 8) * 8;
    for (int i = threadIdx.x; i < units; i += THREADS) {
      const int unit = i + begin < units ? i + begin : i + begin - units;
      copy_ahead<16>(
          to + Columns<F, NT>::unit(unit / NT, unit % NT) * 16,
          reinterpret_cast<const char*>(from) + size_t(unit) * 16);
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
  }

  // Waits for what was started. Weights are on their way as well, and have been for longer.
  __device__ static void finish() {
    asm volatile("cp.async.wait_group 0;" ::: "memory");
    __syncthreads();
  }

  // Tells the other blocks the sum of all `square`s of each column; all R threads from a multiple of R on
  // have different ones.
  __device__ static void put_squares(float square, int column, float* squares) {
    __shared__ float of_warps[WARPS][R];
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int apart = 16; apart >= R; apart /= 2) {
      square += __shfl_xor_sync(0xffffffffu, square, apart);
    }
    if (lane < R) {
      of_warps[threadIdx.x / 32][column] = square;
    }
    __syncthreads();
    if (threadIdx.x < R) {
      float sum = 0;
#pragma unroll
      for (int warp = 0; warp < WARPS; ++warp) {
        sum += of_warps[warp][threadIdx.x];
      }
      squares[blockIdx.x * R + threadIdx.x] = sum;
    }
  }

  // Finds what the root mean square normalisation multiplies each column with, of what all blocks said. It
  // is common to all inputs of a product, and so can be taken into its result.
  __device__ static void find_norms(const float* squares, float eps, float* by) {
    __shared__ float parts[THREADS / R][R];
    const int column = threadIdx.x % R, part = threadIdx.x / R;
    float sum = 0;
    for (int block = part; block < BLOCKS; block += THREADS / R) {
      sum += __ldcg(squares + block * R + column);
    }
    parts[part][column] = sum;
    __syncthreads();
    if (part == 0) {
      sum = 0;
#pragma unroll
      for (int i = 0; i < THREADS / R; ++i) {
        sum += parts[i][column];
      }
      by[column] = rsqrtf(sum / E + eps);
    }
    // Who needs it waits for x after this.
  }

  __device__ static void add_up(
      const Columns<F, NT>& format, const char* x, float* sums, int chunks) {
    if constexpr (F::HAS_GROUPS) {
      const unsigned x_at = shared_address(x), sums_at = shared_address(sums);
      for (int chunk = threadIdx.x / 32; chunk < chunks; chunk += WARPS) {
        format.add_up(
            x_at + chunk * (F::VALUES * R * 2), sums_at + chunk * (F::VALUES / 64 * R * 4));
      }
      __syncthreads();
    }
  }

  // The column at place q of what is found: lanes have columns of both tiles beside each other.
  __device__ static int column(int q) {
    return NT == 2 ? q / 2 % 2 * 8 + q / 4 * 2 + q % 2 : q;
  }

  // Multiplies the block's share with x, and calls `out` with tile, row, column and where the sums of the
  // warps for it begin, of which there is one for every row of the tile.
  template <class Ring, class Out>
  __device__ static void multiply(
      Ring& ring, const Columns<F, NT>& format, const char* x, const float* sums,
      const Share& share, float* found, Out out) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const unsigned x_at = shared_address(x), sums_at = shared_address(sums);
    const int tiles = share.tiles, chunks = share.chunks;
    int chunk = warp;
    for (int first = 0; first < tiles; first += ROUND) {
      const int here = min(tiles - first, ROUND);
      for (int tile = 0; tile < here; ++tile) {
        Sums<NT> sums_of_tile = {};
        for (; chunk < chunks; chunk += WARPS) {
          const unsigned stage = ring.next();
          format.add(
              stage, x_at + chunk * (F::VALUES * R * 2),
              sums_at + chunk * (F::VALUES / 64 * R * 4), sums_of_tile);
        }
        chunk -= chunks;
        float* to = found + (tile * WARPS + warp) * (TILE * R) + lane / 4 * R + lane % 4 * (2 * NT);
#pragma unroll
        for (int n = 0; n < NT; ++n) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            *reinterpret_cast<float2*>(to + half * (TILE / 2 * R) + n * 2) =
                make_float2(sums_of_tile[n][half * 2], sums_of_tile[n][half * 2 + 1]);
          }
        }
      }
      __syncthreads();
      for (int i = threadIdx.x; i < here * TILE * R; i += THREADS) {
        const int tile = i / (TILE * R), o = i / R % TILE, q = i % R;
        out(first + tile, o, column(q), found + (tile * WARPS * TILE + o) * R + q);
      }
      __syncthreads();
    }
  }

  __device__ static float total(const float* of_warps) {
    float sum = 0;
#pragma unroll
    for (int warp = 0; warp < WARPS; ++warp) {
      sum += of_warps[warp * TILE * R];
    }
    return sum;
  }

  // Keys of a head of a row, in steps.
  struct Piece {
    int row, head, begin, end, first;
  };

  __device__ static int steps(const Row& row) {
    return row.place / EACH + 1;
  }

  // Places the steps of all heads behind each other, so that equal parts of them for each block are about
  // equal work. Blocks that end at heads are better: one that has parts of two has to begin twice, which
  // takes as long as SPARE steps. So heads are padded to multiples of a block's steps, if that costs less.
  // For the threads of a warp.
  __device__ static void divide(Row* rows, int count, int& all) {
    constexpr int SPARE = 10;
    const int lane = threadIdx.x;
    int sum = 0;
    for (int row = 0; row < count; ++row) {
      sum += KV * steps(rows[row]);
    }
    const int each = (sum + BLOCKS - 1) / BLOCKS + lane;
    int blocks = 0;
    for (int row = 0; row < count; ++row) {
      blocks += KV * ((steps(rows[row]) + each - 1) / each);
    }
    const unsigned fits = __ballot_sync(0xffffffffu, blocks <= BLOCKS && lane < SPARE);
    const int best = __shfl_sync(0xffffffffu, each, fits ? __ffs(fits) - 1 : 0);
    if (lane == 0) {
      for (int row = 0; row < count; ++row) {
        const int of_head = steps(rows[row]);
        rows[row].stride = fits ? (of_head + best - 1) / best * best : of_head;
        rows[row + 1].first = rows[row].first + KV * rows[row].stride;
      }
      all = fits ? BLOCKS * best : sum;
    }
  }

  // What the block has from step `begin` on, of one head; nothing if that is its end, or that of all.
  __device__ static Piece next(const Row* rows, int count, int all, int begin) {
    const int end = own_end(all);
    if (begin >= end || begin >= rows[count].first) {
      return {0, 0, begin, begin, begin};
    }
    int row = 0;
    while (rows[row + 1].first <= begin) {
      ++row;
    }
    const int head = (begin - rows[row].first) / rows[row].stride;
    const int first = rows[row].first + head * rows[row].stride;
    return {row, head, begin, min(end, first + steps(rows[row])), first};
  }

  __device__ static attend::Part<D, G> part_of_row(
      const Row& row, const Piece& piece, float log2_base) {
    const int from = (piece.begin - piece.first) * EACH;
    const int to = min((piece.end - piece.first) * EACH, row.place + 1);
    return attend::Part<D, G>(
        row.keys, row.values, KV, row.capacity, row.position, row.place, log2_base,
        attend::Keys{piece.head, from, to});
  }

  // Puts the parts of this block's outputs together, four at a time.
  __device__ static void put_together(
      const float* parts, const Row* rows, int count, unsigned all, __nv_bfloat16* attended) {
    constexpr int FOURS = H * D / 4;
    for (int i = own(R * FOURS) + threadIdx.x; i < own_end(R * FOURS); i += THREADS) {
      const int row = i / FOURS, head = i % FOURS / (D / 4), d = i % (D / 4) * 4;
      float top = attend::NONE, sum = 0;
      float4 out = make_float4(0, 0, 0, 0);
      if (row < count) {
        const int of_head = steps(rows[row]), begin = rows[row].first + head / G * rows[row].stride;
        // The blocks that have its first step and its last.
        const int from = ((begin + 1u) * BLOCKS - 1) / all;
        const int to = ((begin + unsigned(of_head)) * BLOCKS - 1) / all;
        for (int block = from; block <= to; ++block) {
          if (part_of(all, block, BLOCKS) == part_of(all, block + 1, BLOCKS)) {
            continue;
          }
          const float* part =
              parts + (size_t(block + row * KV + head / G) * G + head % G) * attend::ROW<D>;
          const float4 v = __ldcg(reinterpret_cast<const float4*>(part + d));
          const float4 of = __ldcg(reinterpret_cast<const float4*>(part + D));
          const float before = exp2f(top - fmaxf(top, of.x)), now = exp2f(of.x - fmaxf(top, of.x));
          top = fmaxf(top, of.x);
          sum = sum * before + of.y * now;
          out.x = out.x * before + v.x * now;
          out.y = out.y * before + v.y * now;
          out.z = out.z * before + v.z * now;
          out.w = out.w * before + v.w * now;
        }
      } else {
        sum = 1;
      }
      __nv_bfloat16* to = attended + (head * D + d) * R + row;
      to[0] = __float2bfloat16(out.x / sum);
      to[R] = __float2bfloat16(out.y / sum);
      to[2 * R] = __float2bfloat16(out.z / sum);
      to[3 * R] = __float2bfloat16(out.w / sum);
    }
  }
};

} // namespace fused
