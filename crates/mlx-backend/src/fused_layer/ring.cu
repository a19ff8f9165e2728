// Weights that stream through shared memory, for kernels that hold a whole device: a block for each
// multiprocessor.
//
// A block has some rows of each of the products that follow each other. A warp takes every WARPS-th
// chunk of them, and has a ring of chunks that are on their way from memory. The ring runs ahead over
// the end of a product into the next, since weights depend on nothing: memory stays busy while blocks
// wait for each other.

namespace fused {

// Where part `i` of `parts` begins, if all have about as much of `all`.
__device__ inline int part_of(int all, unsigned i, unsigned parts) {
  return int(unsigned(all) * i / parts);
}

// The part of a product that a block computes.
struct Share {
  const char *words, *scales, *biases;
  // Of a row of the weights, and those of them that are multiplied.
  int row_chunks, first_chunk, chunks;
  // The block's outputs.
  int first, outputs;
  // Outputs of a tile: its rows, or half of them if an output has two rows.
  int of_tile, tiles;
  // How far the second half of a tile's rows is from the first.
  int64_t second;

  __device__ Share() {}

  // Of `all` outputs those of this block of `blocks`; `paired` rows of an output are `all` rows apart. With `slices`,
  // as many blocks have the same outputs, and a part of each row.
  __device__ Share(
      const void* words, const void* scales, const void* biases, int chunks, int all, bool paired,
      int blocks, int slices = 1)
      : words(static_cast<const char*>(words)),
        scales(static_cast<const char*>(scales)),
        biases(static_cast<const char*>(biases)),
        row_chunks(chunks),
        of_tile(paired ? TILE / 2 : TILE),
        second(paired ? all : TILE / 2) {
    const int groups = blocks / slices, group = blockIdx.x % groups, slice = blockIdx.x / groups;
    first = part_of(all, group, groups);
    // Blocks may be left over.
    outputs = slice < slices ? part_of(all, group + 1, groups) - first : 0;
    tiles = (outputs + of_tile - 1) / of_tile;
    first_chunk = part_of(row_chunks, slice, slices);
    this->chunks = part_of(row_chunks, slice + 1, slices) - first_chunk;
  }
};

// The chunks of a warp, of all shares in their order, DEPTH of them in memory or on their way.
template <class F, int DEPTH>
class Ring {
 public:
  // Starts copying; `room` has DEPTH stages for each warp.
  __device__ Ring(char* room, const Share* shares, int count)
      : begin_(shared_address(room) + threadIdx.x / 32 * (DEPTH * F::STAGE_BYTES)),
        share_(shares),
        end_(shares + count) {
    free_ = begin_;
    full_ = begin_;
    locate();
    settle();
    for (int i = 0; i < DEPTH - 1; ++i) {
      copy();
    }
  }

  // Returns the next chunk, and copies another one to where the last one was.
  __device__ unsigned next() {
    asm volatile("cp.async.wait_group %0;" ::"n"(DEPTH - 2) : "memory");
    __syncwarp();
    copy();
    const unsigned stage = full_;
    full_ = after(full_);
    return stage;
  }

 private:
  unsigned begin_;
  // Of the next chunk to copy.
  const Share *share_, *end_;
  int chunk_, chunks_, row_chunks_, tiles_left_;
  unsigned free_;
  // Of the next chunk to use.
  unsigned full_;
  // A lane copies 16 bytes of rows lane / 8, 4 further on, and the same in the second half of the tile,
  // and 8 of scales or biases.
  const char *rows_, *second_rows_, *groups_ = nullptr;
  // Rows that the share has from the begin of each half of the tile on.
  int left_, second_left_, of_tile_;

  __device__ unsigned after(unsigned stage) const {
    stage += F::STAGE_BYTES;
    return stage == begin_ + DEPTH * F::STAGE_BYTES ? begin_ : stage;
  }

  // Goes to the first chunk of a share.
  __device__ void locate() {
    while (share_ != end_ && share_->tiles == 0) {
      ++share_;
    }
    if (share_ == end_) {
      return;
    }
    const Share& share = *share_;
    const int lane = threadIdx.x % 32;
    chunk_ = threadIdx.x / 32;
    chunks_ = share.chunks;
    row_chunks_ = share.row_chunks;
    tiles_left_ = share.tiles;
    of_tile_ = share.of_tile;
    left_ = share.outputs;
    second_left_ = of_tile_ == TILE ? left_ - TILE / 2 : left_;
    const int64_t row_bytes = row_chunks_ * CHUNK_BYTES, from = share.first_chunk + chunk_;
    rows_ = share.words + (share.first + lane / 8) * row_bytes + lane % 8 * 16 + from * CHUNK_BYTES;
    second_rows_ = rows_ + share.second * row_bytes;
    if constexpr (F::HAS_GROUPS) {
      const int row = lane % TILE, half = row / (TILE / 2);
      groups_ = (lane < TILE ? share.scales : share.biases) +
          (share.first + row % (TILE / 2) + (half ? share.second : 0)) * (row_chunks_ * 8) +
          from * 8;
    }
  }

  __device__ void go_on() {
    rows_ += WARPS * CHUNK_BYTES;
    second_rows_ += WARPS * CHUNK_BYTES;
    groups_ += WARPS * 8;
    chunk_ += WARPS;
    settle();
  }

  // Goes on to where the warp has a chunk, if there is none left in this tile.
  __device__ void settle() {
    while (share_ != end_ && chunk_ >= chunks_) {
      if (--tiles_left_ == 0) {
        ++share_;
        locate();
        continue;
      }
      chunk_ -= chunks_;
      const int chunks = of_tile_ * row_chunks_ - chunks_;
      rows_ += chunks * CHUNK_BYTES;
      second_rows_ += chunks * CHUNK_BYTES;
      groups_ += chunks * 8;
      left_ -= of_tile_;
      second_left_ -= of_tile_;
    }
  }

  __device__ void copy() {
    if (share_ != end_) {
      const int lane = threadIdx.x % 32, row = lane / 8;
      const unsigned to = free_ + F::place(row, lane % 8);
      const int four = 4 * CHUNK_BYTES * row_chunks_;
      // Four rows further on, the order of the parts in a stage is the same.
      if (row < left_) {
        copy_ahead<16>(to, rows_);
      }
      if (row + 4 < left_) {
        copy_ahead<16>(to + 4 * CHUNK_BYTES, rows_ + four);
      }
      if (row < second_left_) {
        copy_ahead<16>(to + 8 * CHUNK_BYTES, second_rows_);
      }
      if (row + 4 < second_left_) {
        copy_ahead<16>(to + 12 * CHUNK_BYTES, second_rows_ + four);
      }
      if constexpr (F::HAS_GROUPS) {
        if (lane % 8 < (lane & 8 ? second_left_ : left_)) {
          copy_ahead<8>(free_ + TILE * CHUNK_BYTES + lane * 8, groups_);
        }
      }
      go_on();
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
    free_ = after(free_);
  }
};

} // namespace fused
