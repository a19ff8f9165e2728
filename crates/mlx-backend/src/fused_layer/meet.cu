// Where the blocks of a grid wait for each other, at a counter in memory. The grid must not be larger than
// the device can run at once.

namespace fused {

// Waits until all blocks of the grid have come here; `passed` counts how often.
__device__ inline void meet(int* counter, int& passed) {
  __syncthreads();
  ++passed;
  if (threadIdx.x == 0) {
    const int all = gridDim.x * passed;
    asm volatile("red.release.gpu.global.add.s32 [%0], 1;" ::"l"(counter) : "memory");
    int seen, looks = 0;
    do {
      asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(seen) : "l"(counter) : "memory");
      if (++looks > 1 << 25) {
        // A block that never came: an error is better than a device that hangs.
        __trap();
      }
    } while (seen < all);
  }
  __syncthreads();
}

// As the last block to leave, sets the counter back to zero.
__device__ inline void leave(int* counter, int passed) {
  if (threadIdx.x == 0 && atomicAdd(counter, 1) == int(gridDim.x) * (passed + 1) - 1) {
    *counter = 0;
  }
}

struct Weights {
  const void *words, *scales, *biases;
};

} // namespace fused
