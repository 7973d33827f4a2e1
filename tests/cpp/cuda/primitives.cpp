// Tests each function of thread.h against its definition in PTX: what the emulation does and,
// compiled as a CUDA program, what a card does.  It is the first test to run on a new card.
#include <cstdio>
#include <vector>

#include "cases.h"
#include "cuda/device/warpgroup.h"

using namespace hrun;
using namespace hrun::gpu;

namespace {

struct Kernel {
  static constexpr int kThreads = 96, kBlocks = 1;
  static constexpr const char* kName = "test";
};

// c = a b with a[r][k] = 3 r - k and b[k][n] = k + 5 n, both within int8.
struct Product8 : Kernel {
  bool* ok;
  HRUN_HD void operator()() const {
    const auto word = [](auto&& at) {
      uint32_t w = 0;
      for (int i = 0; i < 4; ++i)
        w |= static_cast<uint32_t>(static_cast<uint8_t>(at(i))) << (8 * i);
      return w;
    };
    const int group = lane() / 4, quad = lane() % 4;
    uint32_t a[4], b[2];
    for (int i = 0; i < 4; ++i)
      a[i] = word([&](int j) { return 3 * (group + 8 * (i % 2)) - (16 * (i / 2) + 4 * quad + j); });
    for (int i = 0; i < 2; ++i)
      b[i] = word([&](int j) { return (16 * i + 4 * quad + j) + 5 * group; });
    int c[4] = {1, 2, 3, 4}, halves[4] = {1, 2, 3, 4};
    mma_s8(c, a, b);
    mma_s8(halves, {a[2], a[3]}, b[1]);
    mma_s8(halves, {a[0], a[1]}, b[0]);
    for (int i = 0; i < 4; ++i) {
      const int row = group + 8 * (i / 2), col = 2 * quad + i % 2;
      int sum = i + 1;
      for (int k = 0; k < 32; ++k) sum += (3 * row - k) * (k + 5 * col);
      if (c[i] != sum || halves[i] != sum) *ok = false;
    }
    int unsigned_rows[4] = {1, 2, 3, 4};
    mma_u8_s8(unsigned_rows, a, b);
    for (int i = 0; i < 4; ++i) {
      const int row = group + 8 * (i / 2), col = 2 * quad + i % 2;
      int sum = i + 1;
      for (int k = 0; k < 32; ++k) sum += ((3 * row - k) & 255) * (k + 5 * col);
      if (unsigned_rows[i] != sum) *ok = false;
    }
  }
};

// Two warpgroups multiply 64 rows each with 8 n columns, from two places of these on.
template <int n>
struct WarpgroupProduct : Kernel {
  static constexpr int kThreads = 2 * kWarpgroup;
  bool* ok;
  HRUN_HD static int row_value(int row, int k) { return (row * 37 + k * 11) % 256 - 128; }
  HRUN_HD static int col_value(int k, int col) { return (k * 29 + col * 53) % 256 - 128; }
  HRUN_HD void operator()() const {
    for (int i = thread(); i < 8 * n * 128; i += kThreads)
      shared()[swizzled_piece(i / 128, i % 128 / 16) + i % 16] =
          static_cast<uint8_t>(col_value(i % 128, i / 128));
    show_to_products();
    sync_block();
    const int row = 16 * warp() + lane() / 4, quad = lane() % 4;
    const ProductColumns b = product_columns(shared());
    int c[n][4], again[n][4];
    for (int i = 0; i < 4 * n; ++i) c[i / 4][i % 4] = i, again[i / 4][i % 4] = -1;
    uint32_t a[2][4];
    for (int i = 0; i < 8; ++i) {
      a[i / 4][i % 4] = 0;
      for (int j = 0; j < 4; ++j) {
        const int k = i / 4 * 64 + i % 4 / 2 * 16 + 4 * quad + j;  // from 32 on
        a[i / 4][i % 4] |= (static_cast<uint32_t>(row_value(row + 8 * (i % 2), k)) & 255)
                           << (8 * j);
      }
    }
    begin_products(c, a[0]);
    multiply_s8<true>(c, a[0], b.at(32));
    commit_products();
    begin_products(c, a[1]);
    multiply_s8<true>(c, a[1], b.at(96));
    begin_products(again, a[1]);
    multiply_s8<false>(again, a[1], b.at(0));
    commit_products();
    wait_products<1>(c);
    wait_products<0>(c);
    wait_products<0>(again);
    for (int i = 0; i < 4 * n; ++i) {
      const int r = row + i % 4 / 2 * 8, col = i / 4 * 8 + 2 * quad + i % 2;
      int sum = i, last = 0;
      for (int k = 0; k < 32; ++k) {
        sum += row_value(r, k) * col_value(32 + k, col);
        sum += row_value(r, 64 + k) * col_value(96 + k, col);
        last += row_value(r, 64 + k) * col_value(k, col);
      }
      if (c[i / 4][i % 4] != sum || again[i / 4][i % 4] != last) *ok = false;
    }
  }
};

struct Product16 : Kernel {
  bool* ok;
  HRUN_HD void operator()() const {
    const int group = lane() / 4, quad = lane() % 4;
    const auto row_value = [](int r, int k) { return static_cast<float>(r - k) / 8; };
    const auto col_value = [](int k, int n) { return static_cast<float>(k + 3 * n) / 4; };
    uint32_t a[4], b[2];
    for (int i = 0; i < 4; ++i) {
      const int r = group + 8 * (i % 2), k = 8 * (i / 2) + 2 * quad;
      a[i] = two_halves(row_value(r, k), row_value(r, k + 1));
    }
    for (int i = 0; i < 2; ++i)
      b[i] = two_halves(col_value(8 * i + 2 * quad, group), col_value(8 * i + 2 * quad + 1, group));
    float c[4] = {};
    uint32_t narrow[2] = {};
    mma_f16(c, a, b);
    mma_f16_half(narrow, a, b);
    for (int i = 0; i < 4; ++i) {
      float sum = 0;
      for (int k = 0; k < 16; ++k)
        sum += row_value(group + 8 * (i / 2), k) * col_value(k, 2 * quad + i % 2);
      if (c[i] != sum) *ok = false;
      if (static_cast<uint16_t>(narrow[i / 2] >> (16 * (i % 2))) != fp32_to_fp16(sum)) *ok = false;
    }
  }
};

struct Product32 : Kernel {
  bool* ok;
  HRUN_HD void operator()() const {
    const int group = lane() / 4, quad = lane() % 4;
    const auto row_value = [](int r, int k) { return static_cast<float>(r - k) / 8; };
    const auto col_value = [](int k, int n) { return static_cast<float>(k + 3 * n) / 4; };
    uint32_t a[4], b[2];
    for (int i = 0; i < 4; ++i)
      a[i] = float_to_bits(row_value(group + 8 * (i % 2), quad + 4 * (i / 2)));
    for (int i = 0; i < 2; ++i) b[i] = float_to_bits(col_value(quad + 4 * i, group));
    float c[4] = {1, 2, 3, 4};
    mma_tf32(c, a, b);
    for (int i = 0; i < 4; ++i) {
      float sum = static_cast<float>(i + 1);
      for (int k = 0; k < 8; ++k)
        sum += row_value(group + 8 * (i / 2), k) * col_value(k, 2 * quad + i % 2);
      if (c[i] != sum) *ok = false;
    }
  }
};

struct Matrices : Kernel {
  bool* ok;
  HRUN_HD void operator()() const {
    auto* const tile = reinterpret_cast<uint16_t*>(shared());  // [32 rows][8 values]
    if (warp() == 0)
      for (int i = 0; i < 8; ++i) tile[lane() * 8 + i] = static_cast<uint16_t>(100 * lane() + i);
    sync_block();
    uint32_t r[4], t[4];
    load_matrices(r, tile + lane() * 8);
    load_matrices_transposed(t, tile + lane() * 8);
    const int row = lane() / 4, col = lane() % 4 * 2;
    for (int m = 0; m < 4; ++m) {
      const auto at = [&](int y, int x) { return static_cast<uint32_t>(100 * (8 * m + y) + x); };
      if (r[m] != (at(row, col) | at(row, col + 1) << 16)) *ok = false;
      if (t[m] != (at(col, row) | at(col + 1, row) << 16)) *ok = false;
    }
  }
};

struct Bytes : Kernel {
  bool* ok;
  HRUN_HD void operator()() const {
    if (permute_bytes(0x33221100, 0x77665544, 0x7036) != 0x77003366) *ok = false;
    if (permute_bytes(0x00008000, 0, 0x9999) != 0xffffffff)
      *ok = false;  // bit 3 of a selector: the sign
    if (dot2<false>(0x8000fffe, 0x04030201, 9) != 9 - 2 * 1 - 32768 * 2 ||
        dot2<true>(0x7ffffff0, 0xff030201, -1) != -1 - 16 * 3 + 32767 * 255)
      *ok = false;
    if (half_to_float(0x7fffc100) != -2.5f || half_to_float(0x0001) != 0x1p-24f) *ok = false;
    if (gpu::ballot(lane() % 3 == 0) != 0x49249249) *ok = false;
    if (warp_sum(lane()) != 496) *ok = false;
    const uint32_t halves =
        two_halves(1.0f + 0x1p-11f, -0x1p-24f);  // a tie goes to even; a subnormal
    if (halves != 0x80013c00 || low_half(halves) != 1.0f || high_half(halves) != -0x1p-24f)
      *ok = false;
    const float nan = bits_to_float(0x7fc00000u);
    if (largest_of(1, 2) != 2 || largest_of(2, 1) != 2 || largest_of(nan, 1) != 1 ||
        largest_of(1, nan) != 1)
      *ok = false;
    if (exp2_fast(-3) != 0.125f || exp2_fast(bits_to_float(0xff800000u)) != 0) *ok = false;
  }
};

// Asynchronous copies are there after the wait for their group.
struct Copies : Kernel {
  const Words4* from;
  bool* ok;
  HRUN_HD void operator()() const {
    auto* const to = reinterpret_cast<Words4*>(shared());
    if (thread() < 2) {
      copy_async(to + thread(), from + thread());
      commit_copies();
      copy_async(to + 2 + thread(), from + 2 + thread(), false);
      commit_copies();
      wait_copies<1>();
      if (to[thread()].v[0] != from[thread()].v[0]) *ok = false;
      wait_copies<0>();
      if (to[2 + thread()].v[3] != 0) *ok = false;
    }
  }
};

// So are bulk copies after the wait for their phase; each warp has a barrier and a place.
struct BulkCopies : Kernel {
  const Words4* from;
  bool* ok;
  HRUN_HD void operator()() const {
    auto* const to = reinterpret_cast<Words4*>(shared()) + 2 * warp();
    auto* const barrier = reinterpret_cast<uint64_t*>(shared() + 256) + warp();
    if (lane() == 0) make_bulk_barrier(barrier);
    sync_warp();
    for (int i = 0; i < 3; ++i) {
      if (lane() == 0) copy_bulk(to, from + i, 32, barrier);
      sync_warp();
      wait_bulk(barrier, i % 2);
      for (int word = 0; word < 8; ++word)
        if (to[word / 4].v[word % 4] != from[i + word / 4].v[word % 4]) *ok = false;
      sync_warp();
    }
  }
};

// Behind a barrier each thread reads what its neighbour wrote.
struct Neighbours : Kernel {
  bool* ok;
  HRUN_HD void operator()() const {
    auto* const s = reinterpret_cast<int*>(shared());
    s[thread()] = thread();
    sync_block();
    if (s[(thread() + 37) % kThreads] != (thread() + 37) % kThreads) *ok = false;
    sync_block();
    s[thread()] = 2 * thread();
    sync_warp();
    const int other = warp() * kWarp + (lane() + 5) % kWarp;
    if (s[other] != 2 * other) *ok = false;
  }
};

struct Counted : Kernel {
  bool* ok;
  HRUN_HD void operator()() const {
    auto* const counter = reinterpret_cast<int*>(shared());
    if (thread() == 0) *counter = 0;
    sync_block();
    add_shared(counter, 1);
    sync_block();
    if (*counter != kThreads) *ok = false;
  }
};

// A launch, eager and from a graph that is replayed with other contents of the same memory.
struct Twice : Kernel {
  const int* from;
  int* to;
  HRUN_HD void operator()() const {
    if (block_x() == 0) to[thread()] = 2 * from[thread()];
  }
};

template <class K>
void check(Gpu& gpu, const char* what, K kernel, size_t shared_bytes = 0) {
  const uint8_t yes = 1;
  const OnDevice<bool> ok(gpu, 1);
  gpu.write(ok.get(), &yes, 1);
  kernel.ok = ok.get();
  gpu.launch(kernel, Grid{2}, shared_bytes);
  uint8_t right = 0;
  gpu.read(&right, ok.get(), 1);
  expect(right == 1, "{}", what);
}

void check_graphs(Gpu& gpu) {
  constexpr size_t n = Kernel::kThreads;
  std::vector<int> values(n);
  const OnDevice<int> from(gpu, n), to(gpu, n);
  gpu.begin_capture();
  gpu.launch(Twice{{}, from.get(), to.get()}, Grid{3});
  const std::unique_ptr<Graph> graph = gpu.end_capture();
  for (int round = 1; round < 4; ++round) {
    for (size_t i = 0; i < n; ++i) values[i] = round * static_cast<int>(i);
    gpu.write(from.get(), values.data(), n * sizeof(int));
    gpu.run(*graph);
    const std::vector<int> got = to.read();
    for (size_t i = 0; i < n; ++i)
      expect(got[i] == 2 * values[i], "replay {} of a graph: {} instead of {}", round, got[i],
             2 * values[i]);
  }
}

}  // namespace

int main() {
  Gpu gpu(0);
  check(gpu, "mma_s8", Product8{});
  if (gpu.info().warpgroups) {
    check(gpu, "multiply_s8 of 64 columns", WarpgroupProduct<8>{}, 64 * 128);
    check(gpu, "multiply_s8 of 128 columns", WarpgroupProduct<16>{}, 128 * 128);
  }
  check(gpu, "mma_f16", Product16{});
  check(gpu, "mma_tf32", Product32{});
  check(gpu, "load_matrices", Matrices{}, 512);
  check(gpu, "byte functions, ballot and sums", Bytes{});
  const OnDevice<Words4> values(
      gpu, std::vector<Words4>{{{1, 2, 3, 4}}, {{5, 6, 7, 8}}, {{9, 9, 9, 9}}, {{9, 9, 9, 9}}});
  check(gpu, "asynchronous copies", Copies{{}, values.get(), nullptr}, 64);
  if (gpu.info().bulk_copies) check(gpu, "bulk copies", BulkCopies{{}, values.get(), nullptr}, 512);
  check(gpu, "barriers", Neighbours{}, 512);
  check(gpu, "a counter in shared memory", Counted{}, 64);
  check_graphs(gpu);
  return failures == 0 ? 0 : 1;
}
