// A block of threads on the CPU: every thread a fiber of its own stack, all of them on the calling
// OS thread.
//
// Fibers run until they meet: at a warp function (all 32 lanes) or a block barrier.  Which warp
// runs next, and in which order its lanes, is drawn from a seed; shared memory is poisoned before
// each block, asynchronous copies happen only when they are waited for, and blocks run in a drawn
// order.  So a missing barrier, a read of what was never written or a wait that came too early
// gives a wrong result, or one that depends on the seed.  A warp function that only some lanes
// reach, or a block barrier that a thread has passed by, is reported as DeviceError.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace hrun::gpu {

struct Grid {
  int x = 1, y = 1, z = 1;
};

namespace emulation {

enum class Meeting : uint8_t {
  none,
  sync,
  shuffle,
  ballot,
  elect,
  mma,
  product,
  load_matrices,
  block,
  kernels
};

struct Slot {
  alignas(16) uint8_t bytes[32];
};

struct Fiber {
  int thread = 0;
};
struct Block {
  int n_threads = 0;
  Grid at, grid;
  uint8_t* shared = nullptr;
};

extern thread_local Fiber* current_fiber;
extern thread_local Block* current_block;
inline const Fiber& fiber() { return *current_fiber; }
inline const Block& block() { return *current_block; }

// Meets the other 31 lanes.  The value that lane l brought is in slot l until that lane's meeting
// after the next.
const Slot* exchange(Meeting kind, const void* mine, size_t bytes);
void wait_for_block();
void wait_for_kernels();
// The copy lands at once or at its wait, as is drawn.  from == null: zeros.
void copy_async(void* to, const void* from);
void commit_copies();
void wait_copies(int newest);
// A bulk copy lands at once or at the first wait for it, as is drawn.  A wait for a copy that
// nobody began would be for ever, and is reported.
void make_bulk_barrier(const void* barrier);
void copy_bulk(void* to, const void* from, size_t bytes, const void* barrier);
void wait_bulk(const void* barrier, int phase);
int add_shared(int* counter, int n);  // returns the old value
// Products of a warpgroup (warpgroup.h, products.h).  Their order is checked, that the four warps
// ask for the same ones, and that each copy_async() they read was waited for and then shown by the
// thread that asked for it; plain stores are not followed.
void show_to_products();
void begin_products(int* c, int n, const uint32_t (&a)[4]);
void multiply(int* c, int n, const uint32_t (&a)[4], uint64_t b, bool adds);
void commit_products();
void wait_products(int newest);
// Requires that an instruction may read 16 bytes at p at once.
void require_alignment(const void* p, const char* what);

// Memory that kernels before have written.
struct Written {
  uint8_t* at;
  size_t bytes;
};

// Runs kernel(argument) in every thread of every block.  `seed` draws the order; threads: a
// multiple of 32, at most 1024.  `weak`: what a lane writes to shared memory is seen by others only
// after the next barrier of the warp or the block, as shuffles and products order no memory.
// `hidden` is spoilt until all threads of a block wait for the kernels before, which every thread
// must do.
void run(void (*kernel)(const void*), const void* argument, Grid grid, int threads,
         size_t shared_bytes, uint64_t seed, bool weak, const std::vector<Written>& hidden);

}  // namespace emulation
}  // namespace hrun::gpu
