// The emulated device: each warp function against its definition in PTX, and the mistakes that it
// must find.
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "cases.h"

using namespace hrun;
using namespace hrun::gpu;

namespace {

struct Kernel {
  static constexpr int kThreads = 96, kBlocks = 1;
  static constexpr const char* kName = "test";
};

template <class K>
std::string error_of(Gpu& gpu, const K& kernel, size_t shared_bytes = 512) {
  try {
    gpu.launch(kernel, Grid{3}, shared_bytes);
  } catch (const std::exception& e) { return e.what(); }
  return "";
}

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
    if (half_to_float(0x7fffc100) != -2.5f || half_to_float(0x0001) != 0x1p-24f) *ok = false;
    if (ballot(lane() % 3 == 0) != 0x49249249) *ok = false;
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

// Asynchronous copies are there after the wait for their group, and not before.
struct Copies : Kernel {
  const Words4* from;
  bool* ok;
  bool early;
  HRUN_HD void operator()() const {
    auto* const to = reinterpret_cast<Words4*>(shared());
    if (thread() < 2) {
      copy_async(to + thread(), from + thread());
      commit_copies();
      copy_async(to + 2 + thread(), from + 2 + thread(), false);
      commit_copies();
      if (early)
        wait_copies<2>();
      else
        wait_copies<1>();
      if (to[thread()].v[0] != from[thread()].v[0]) *ok = false;
      wait_copies<0>();
      if (to[2 + thread()].v[3] != 0) *ok = false;
    }
  }
};

// Without `barrier` each thread reads its neighbour's value before, perhaps, it was written.
struct Neighbours : Kernel {
  int* out;
  bool barrier;
  HRUN_HD void operator()() const {
    auto* const s = reinterpret_cast<int*>(shared());
    s[thread()] = thread();
    if (barrier) sync_block();
    out[thread()] = s[(thread() + 37) % kThreads];
  }
};

// A slot is asked for again while, perhaps, another thread still reads it.
struct Overwritten : Kernel {
  const Words4* from;
  uint32_t* out;
  bool barrier;
  HRUN_HD void operator()() const {
    auto* const slot = reinterpret_cast<Words4*>(shared());
    if (thread() == 0) {
      copy_async(slot, from);
      commit_copies();
      wait_copies<0>();
    }
    sync_block();
    const uint32_t seen = slot->v[0];
    out[thread()] = seen;
    if (barrier) sync_block();
    if (thread() == 0) copy_async(slot, from + 1);
    if (!barrier) out[thread()] = slot->v[0];
    sync_block();
    if (thread() == 0) wait_copies<0>();
  }
};

// A lane reads what its neighbour wrote, behind a shuffle or behind a barrier.
struct Unordered : Kernel {
  int* out;
  bool barrier;
  HRUN_HD void operator()() const {
    auto* const s = reinterpret_cast<int*>(shared());
    s[thread()] = thread();
    shuffle_bits(0, 0);
    if (barrier) sync_warp();
    out[thread()] = s[warp() * kWarp + (lane() + 5) % kWarp];
  }
};
struct Counted : Kernel {
  int* out;
  HRUN_HD void operator()() const {
    auto* const counter = reinterpret_cast<int*>(shared());
    if (thread() == 0) *counter = 0;
    sync_block();
    add_shared(counter, 1);
    sync_block();
    if (thread() == 0) *out = *counter;
  }
};

struct Odd : Kernel {
  HRUN_HD void operator()() const {
    uint32_t r[4];
    load_matrices(r, shared() + 8);
  }
};

struct Parted : Kernel {
  HRUN_HD void operator()() const {
    if (lane() < 16) shuffle_bits(1, 0);
  }
};
struct Passed : Kernel {
  HRUN_HD void operator()() const {
    if (warp() == 0) return;
    sync_block();
  }
};
struct Outside : Kernel {
  HRUN_HD void operator()() const { shared()[512] = 1; }
};

// Memory while a graph is recorded, and failures on demand.
void check_memory(Gpu& gpu) {
  const size_t before = gpu.free_bytes();
  void* const memory = gpu.allocate(1 << 20);
  expect(gpu.free_bytes() < before, "memory is taken");
  gpu.begin_capture();
  std::thread([&] { gpu.release(memory); }).join();  // of a session that another thread drops
  expect(gpu.free_bytes() < before, "what is released while a graph is recorded stays");
  expect(gpu.end_capture() != nullptr, "a recording that survived a release");
  expect(gpu.free_bytes() == before, "and goes when the recording has ended");
  const auto fails = [&](const char* what, auto&& act) {
    setenv("HRUN_EMULATED_FAIL", what, 1);
    bool failed = false;
    try {
      failed = act();
    } catch (const Error&) { failed = true; }
    unsetenv("HRUN_EMULATED_FAIL");
    expect(failed, "{} fails on demand", what);
  };
  fails("allocation", [&] { return gpu.allocate(1) == nullptr; });
  fails("launch", [&] { return gpu.launch(Bytes{{}, nullptr}, Grid{1}), false; });
  gpu.begin_capture();
  fails("end_capture", [&] { return gpu.end_capture() == nullptr; });
  gpu.begin_capture();
  const std::unique_ptr<Graph> graph = gpu.end_capture();
  fails("run", [&] { return gpu.run(*graph), false; });
}

}  // namespace

int main() {
  Gpu gpu(0);
  bool ok = true;
  gpu.launch(Product8{{}, &ok}, Grid{2});
  expect(ok, "mma_s8");
  gpu.launch(Product16{{}, &ok}, Grid{2});
  expect(ok, "mma_f16");
  gpu.launch(Product32{{}, &ok}, Grid{2});
  expect(ok, "mma_tf32");
  gpu.launch(Matrices{{}, &ok}, Grid{2}, 512);
  expect(ok, "load_matrices");
  gpu.launch(Bytes{{}, &ok}, Grid{2});
  expect(ok, "byte functions, ballot and sums");

  Words4 values[4] = {{{1, 2, 3, 4}}, {{5, 6, 7, 8}}, {{9, 9, 9, 9}}, {{9, 9, 9, 9}}};
  gpu.launch(Copies{{}, values, &ok, false}, Grid{1}, 64);
  expect(ok, "asynchronous copies");
  for (int i = 0; i < 20; ++i) gpu.launch(Copies{{}, values, &ok, true}, Grid{1}, 64);
  expect(!ok, "a wait for too few copies is noticed");
  uint32_t seen[96];
  const auto overwritten = [&](bool barrier) {
    bool early = false;
    for (int i = 0; i < 20; ++i) {
      gpu.launch(Overwritten{{}, values, seen, barrier}, Grid{1}, 64);
      for (const uint32_t v : seen) early |= v != values[0].v[0];
    }
    return early;
  };
  expect(!overwritten(true), "a slot that is asked for behind a barrier");
  expect(overwritten(false), "a slot that is asked for too early is noticed");

  int out[96];
  const auto right = [&] {
    for (int i = 0; i < 96; ++i)
      if (out[i] != (i + 37) % 96) return false;
    return true;
  };
  gpu.launch(Neighbours{{}, out, true}, Grid{1}, 512);
  expect(right(), "a block barrier");
  gpu.launch(Neighbours{{}, out, false}, Grid{1}, 512);
  expect(!right(), "a missing barrier is noticed");
  const auto neighbours = [&](bool barrier) {
    gpu.launch(Unordered{{}, out, barrier}, Grid{1}, 512);
    for (int i = 0; i < 96; ++i)
      if (out[i] != i / 32 * 32 + (i % 32 + 5) % 32) return false;
    return true;
  };
  setenv("HRUN_EMULATED_WEAK", "1", 1);
  expect(neighbours(true), "a barrier of the warp");
  expect(!neighbours(false), "a shuffle that is taken for a barrier is noticed");
  gpu.launch(Neighbours{{}, out, true}, Grid{1}, 512);
  expect(right(), "a block barrier where memory is weakly ordered");
  gpu.launch(Counted{{}, out}, Grid{1}, 64);
  expect(out[0] == 96, "a counter in shared memory where memory is weakly ordered");
  unsetenv("HRUN_EMULATED_WEAK");
  expect(error_of(gpu, Odd{}, 512).find("odd address") != std::string::npos,
         "a row that is not aligned is noticed");
  check_memory(gpu);

  expect(error_of(gpu, Parted{}).find("parted") != std::string::npos,
         "lanes that part are noticed");
  expect(error_of(gpu, Passed{}).find("barrier") != std::string::npos,
         "a barrier passed by is noticed");
  expect(error_of(gpu, Outside{}).find("outside its shared memory") != std::string::npos,
         "a write outside shared memory is noticed");
  expect(error_of(gpu, Passed{}, 1 << 20).find("shared memory") != std::string::npos,
         "too much shared memory is refused");
  return failures == 0 ? 0 : 1;
}
