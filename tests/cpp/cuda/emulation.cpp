// The mistakes that the emulation must find (primitives.cpp has the correct ones).
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cases.h"
#include "cuda/device/warpgroup.h"
#include "cuda/emulation/products.h"

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

// Without `barrier`, each thread may read its neighbour's value before it was written.
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

// A slot is asked for again while another thread may still read it.
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

// A place is filled twice by bulk copies, with a mistake or without.
enum class Bulk { right, no_wait, too_early, no_barrier, not_begun, left };
struct BulkCopies : Kernel {
  const Words4* from;
  uint32_t* out;
  Bulk mistake;
  HRUN_HD void operator()() const {
    auto* const to = reinterpret_cast<Words4*>(shared()) + 2 * warp();
    auto* const barrier = reinterpret_cast<uint64_t*>(shared() + 256) + warp();
    if (lane() == 0 && mistake != Bulk::no_barrier) make_bulk_barrier(barrier);
    sync_warp();
    if (lane() == 0) copy_bulk(to, from, 32, barrier);
    sync_warp();
    if (mistake != Bulk::no_wait) wait_bulk(barrier, 0);
    const uint32_t first = to[1].v[0];
    if (mistake != Bulk::too_early) sync_warp();
    if (lane() == 0 && mistake != Bulk::not_begun) copy_bulk(to, from + 2, 32, barrier);
    if (mistake == Bulk::left) return;
    const uint32_t early = mistake == Bulk::too_early ? to[1].v[0] : first;
    sync_warp();
    wait_bulk(barrier, 1);
    out[thread()] = early + to[1].v[0];
  }
};

// Products of a warpgroup with columns that asynchronous copies brought, with a mistake or without.
enum class Products {
  right,
  copies_not_waited_for,
  not_shown,
  shown_early,
  no_barrier,
  not_begun,
  begun_early,
  fragment_changed,
  sums_read,
  sums_changed,
  not_committed,
  not_waited_for,
  columns_overwritten,
  warps_differ,
  warp_missing
};
struct WarpgroupProducts : Kernel {
  static constexpr int kThreads = kWarpgroup;
  const Words4* from;  // 64 columns of 128 bytes, all equal
  int* out;
  Products mistake;
  HRUN_HD void operator()() const {
    for (int i = thread(); i < 512; i += kThreads) copy_async(shared() + 16 * i, from + i);
    commit_copies();
    if (mistake == Products::shown_early) show_to_products();
    if (mistake != Products::copies_not_waited_for) wait_copies<0>();
    if (mistake != Products::not_shown && mistake != Products::shown_early) show_to_products();
    if (mistake != Products::no_barrier) sync_block();
    int c[8][4];
    uint32_t a[2][4];
    for (int i = 0; i < 32; ++i) c[i / 4][i % 4] = 5;
    for (int i = 0; i < 8; ++i) a[i / 4][i % 4] = i < 4 ? 0x01010101 : 0x02020202;
    ProductColumns b = product_columns(shared());
    if (mistake == Products::warps_differ && warp() == 2) b = b.at(32);
    if (mistake == Products::warp_missing && warp() == 3) return;
    if (mistake == Products::begun_early) a[0][0] = 0;
    if (mistake != Products::not_begun) begin_products(c, a[0]);
    if (mistake == Products::begun_early) a[0][0] = 0x01010101;
    multiply_s8<true>(c, a[0], b);
    commit_products();
    begin_products(c, a[1]);
    multiply_s8<true>(c, a[1], b);
    if (mistake == Products::fragment_changed) a[1][2] = 7;
    if (mistake == Products::sums_changed) c[3][1] = 0;
    if (mistake == Products::columns_overwritten)
      for (int i = thread(); i < 512; i += kThreads) shared()[16 * i] = 0;
    const int early = c[7][3];
    if (mistake != Products::not_committed) commit_products();
    if (mistake == Products::not_waited_for) return;
    wait_products<0>(c);
    out[thread()] = mistake == Products::sums_read ? early : c[7][3];
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

struct Write : Kernel {
  int* to;
  HRUN_HD void operator()() const { to[thread()] = 7; }
};
// Reads, or writes, what the kernel before wrote: before its own wait or after it, or without one.
enum class Wait { after, before, never };
struct Early : Kernel {
  static constexpr bool kWaits = true;
  int* of_others;
  int* out;
  Wait wait;
  bool writes;
  HRUN_HD void operator()() const {
    if (wait == Wait::before) wait_for_kernels();
    const int seen = of_others[thread()];
    if (writes) of_others[thread()] = 8;
    if (wait == Wait::after) wait_for_kernels();
    out[thread()] = seen;
  }
};

// A kernel that starts while the one before is under way.
void check_early(Gpu& gpu) {
  const OnDevice<int> of_others(gpu, std::vector<int>(96)), out(gpu, 96);
  const std::vector<int> zeros(96);
  const auto seven = [&](Wait wait) {
    gpu.write(of_others.get(), zeros.data(), 96 * sizeof(int));
    gpu.launch(Write{{}, of_others.get()}, Grid{1}, 0);
    gpu.launch(Early{{}, of_others.get(), out.get(), wait, false}, Grid{1}, 0);
    return out.read() == std::vector<int>(96, 7);
  };
  const auto error = [&](Wait wait, bool writes) {
    gpu.write(of_others.get(), zeros.data(), 96 * sizeof(int));
    gpu.launch(Write{{}, of_others.get()}, Grid{1}, 0);
    return error_of(gpu, Early{{}, of_others.get(), out.get(), wait, writes}, 0);
  };
  expect(error(Wait::never, false).find("without a wait") != std::string::npos,
         "a kernel that never waits is noticed");
  setenv("HRUN_EMULATED_EARLY", "1", 1);
  expect(seven(Wait::before), "a read after the wait for the kernels before");
  expect(!seven(Wait::after), "a read before the wait is noticed");
  gpu.launch(Write{{}, of_others.get()}, Grid{1}, 0);
  gpu.wait();
  gpu.launch(Early{{}, of_others.get(), out.get(), Wait::after, false}, Grid{1}, 0);
  expect(out.read() == std::vector<int>(96, 7), "a read of what was there long before");
  expect(error(Wait::before, true).empty(), "a write after the wait");
  expect(error(Wait::after, true).find("a write before") != std::string::npos,
         "a write before the wait is noticed");
  unsetenv("HRUN_EMULATED_EARLY");
}

void check_products(Gpu& gpu) {
  std::vector<Words4> columns(512, Words4{{0x01010101, 0x01010101, 0x01010101, 0x01010101}});
  const auto multiply = [&](Products mistake) {
    std::string said;
    for (int i = 0; i < 20 && said.empty(); ++i) {
      int out[kWarpgroup] = {};
      said = error_of(gpu, WarpgroupProducts{{}, columns.data(), out, mistake}, 8192);
      for (const int v : out)
        if (said.empty() && v != 5 + 3 * 32) said = "wrong";
      if (mistake == Products::right && i == 2) break;
    }
    return said;
  };
  const std::string copied = "was not waited for and shown";
  const std::pair<Products, std::string> mistakes[] = {
      {Products::copies_not_waited_for, copied},
      {Products::not_shown, copied},
      {Products::shown_early, copied},
      {Products::no_barrier, ""},  // or wrong
      {Products::not_begun, "begin_products"},
      {Products::begun_early, "begin_products"},
      {Products::fragment_changed, "a fragment that was changed"},
      {Products::sums_read, "wrong"},
      {Products::sums_changed, "sums that were changed"},
      {Products::not_committed, "did not wait for"},
      {Products::not_waited_for, "did not wait for"},
      {Products::columns_overwritten, "wrong"},
      {Products::warps_differ, "different products"},
      {Products::warp_missing, "did not take part"}};
  expect(multiply(Products::right).empty(), "products: {}", multiply(Products::right));
  for (const auto& [mistake, words] : mistakes) {
    const std::string said = multiply(mistake);
    expect(!said.empty() && said.find(words) != std::string::npos, "a product: {}, and not: {}",
           words, said);
  }
}

// The places of bytes by every swizzle, from the tables of the PTX manual.
void check_places() {
  const auto described = [](uint64_t mode, uint64_t leading, uint64_t stride) {
    return uint64_t{4096 >> 4} | leading >> 4 << 16 | stride >> 4 << 32 | mode << 62;
  };
  struct Case {
    uint64_t descriptor;
    int column, byte;
    size_t at;
  };
  const Case cases[] = {{described(0, 256, 128), 3, 5, 4096 + 48 + 5},
                        {described(0, 256, 128), 10, 20, 4096 + 128 + 32 + 256 + 4},
                        {described(1, 16, 1024), 3, 5, 4096 + 3 * 128 + 3 * 16 + 5},
                        {described(1, 16, 1024) + 2, 9, 17, 4096 + 1024 + 128 + (3 ^ 1) * 16 + 1},
                        {described(2, 16, 512), 3, 5, 4096 + 3 * 64 + 1 * 16 + 5},
                        {described(2, 16, 512), 14, 16, 4096 + 512 + 6 * 64 + (1 ^ 3) * 16},
                        {described(3, 16, 256), 3, 5, 4096 + 3 * 32 + 5},
                        {described(3, 16, 256), 5, 17, 4096 + 5 * 32 + 1}};
  for (const Case& c : cases) {
    const emulation::Place place = emulation::place_of(c.descriptor, c.column, c.byte);
    expect(!place.wrong && place.at == c.at, "column {}, byte {}: at {}, expected {}", c.column,
           c.byte, place.at, c.at);
  }
  expect(emulation::place_of(described(1, 16, 1024) + 8, 0, 0).wrong != nullptr,
         "a swizzled matrix from the midst of a pattern is noticed");
}

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
  fails("launch", [&] { return gpu.launch(Parted{}, Grid{1}), false; });
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

  Words4 pieces[4] = {{{1, 2, 3, 4}}, {{5, 6, 7, 8}}, {{10, 0, 0, 0}}, {{20, 0, 0, 0}}};
  const auto bulk = [&](Bulk mistake) {
    std::string said;
    for (int i = 0; i < 20 && said.empty(); ++i) {
      said = error_of(gpu, BulkCopies{{}, pieces, seen, mistake});
      for (const uint32_t v : seen)
        if (said.empty() && v != 25) said = "wrong";
    }
    return said;
  };
  for (const char* weak : {"0", "1"}) {
    setenv("HRUN_EMULATED_WEAK", weak, 1);
    expect(bulk(Bulk::right).empty(), "bulk copies: {}", bulk(Bulk::right));
  }
  unsetenv("HRUN_EMULATED_WEAK");
  expect(!bulk(Bulk::too_early).empty(), "a place that is filled too early is noticed");
  for (const auto& [mistake, words] : {std::pair{Bulk::no_wait, "a barrier of its own"},
                                       {Bulk::no_barrier, "a barrier of its own"},
                                       {Bulk::not_begun, "nobody began"},
                                       {Bulk::left, "nobody waited for"}})
    expect(bulk(mistake).find(words) != std::string::npos, "a bulk copy: {}, and not: {}", words,
           bulk(mistake));

  check_products(gpu);
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
  check_places();
  check_memory(gpu);
  check_early(gpu);

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
