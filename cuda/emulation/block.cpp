#include "cuda/emulation/block.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "cuda/emulation/products.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace hrun::gpu::emulation {

thread_local Fiber* current_fiber = nullptr;
thread_local Block* current_block = nullptr;

namespace {

constexpr int kLanes = 32;
constexpr size_t kStackBytes = 128 << 10;
constexpr int kWarpgroup = 128;
constexpr size_t kSharedAlignment = 1024;
constexpr size_t kSharedLimit = 227 << 10;  // of a block on the largest device

// A place to run.  While it does not run, its registers are on its own stack.
#if defined(__x86_64__)
struct Context {
  void* stack_pointer = nullptr;
};
extern "C" void hrun_switch_context(void** save, void* load);
asm(R"(
.text
.p2align 4
.globl hrun_switch_context
.hidden hrun_switch_context
.type hrun_switch_context, @function
hrun_switch_context:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size hrun_switch_context, .-hrun_switch_context
)");
void switch_context(Context& from, Context& to) {
  hrun_switch_context(&from.stack_pointer, to.stack_pointer);
}
void start_context(Context& context, uint8_t* stack, size_t bytes, void (*entry)()) {
  // The stack is as if `entry` had been called: it is 16-byte aligned before the call pushed a
  // return address.
  auto* top = reinterpret_cast<void**>(stack + bytes);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  context.stack_pointer = top;
}
#else
struct Context {
  ucontext_t state;
};
void switch_context(Context& from, Context& to) { swapcontext(&from.state, &to.state); }
void start_context(Context& context, uint8_t* stack, size_t bytes, void (*entry)()) {
  getcontext(&context.state);
  context.state.uc_stack.ss_sp = stack;
  context.state.uc_stack.ss_size = bytes;
  context.state.uc_link = nullptr;
  makecontext(&context.state, entry, 0);
}
#endif

struct Copy {
  void* to;
  const void* from;
  int group;
  bool landed;
};

// Of bulk copies, each a phase.
struct BulkBarrier {
  const void* at;
  int phases;  // that are over
  bool under_way, waited_for;
  uint8_t* to;
  const void* from;
  size_t bytes;
};

struct Byte {
  uint32_t at;
  uint8_t value;
};

struct Thread : Fiber {
  Context context;
  uint8_t* stack = nullptr;
  void* sanitizer_stack = nullptr;
  Meeting waiting = Meeting::none;
  bool done = false;
  bool waited = false;  // for the kernels before
  int meetings = 0;     // of the warp, so far: parity chooses the slots
  int groups = 0;       // of asynchronous copies, committed so far
  std::vector<Copy> copies;
  std::vector<size_t> unshown;  // sixteens of shared memory that its copies wrote, see readers_
  Products products;
  size_t n_products = 0;
  std::vector<Byte> unseen;  // that it wrote to shared memory, in weak order
};

struct Warp {
  Slot slots[2][kLanes];
};

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15ull + 1) {}
  uint32_t below(uint32_t n) {
    state_ ^= state_ << 13, state_ ^= state_ >> 7, state_ ^= state_ << 17;
    return static_cast<uint32_t>((state_ >> 32) * n >> 32);
  }

 private:
  uint64_t state_;
};

class Machine final : public Block, public Products::Memory {
 public:
  Machine(void (*kernel)(const void*), const void* argument, Grid the_grid, int threads,
          size_t shared_bytes, uint64_t seed, bool weak, const std::vector<Written>& hidden)
      : kernel_(kernel),
        argument_(argument),
        random_(seed),
        threads_(static_cast<size_t>(threads)),
        warps_(static_cast<size_t>(threads / kLanes)),
        stacks_(new uint8_t[kStackBytes * static_cast<size_t>(threads)]),
        memory_(shared_bytes + 2 * kGuard + kSharedAlignment),
        shared_bytes_(shared_bytes),
        weak_(weak && shared_bytes > 0),
        hidden_(hidden) {
    n_threads = threads;
    grid = the_grid;
    auto* base = memory_.data() + kGuard;
    shared = base + (kSharedAlignment - reinterpret_cast<uintptr_t>(base) % kSharedAlignment) %
                        kSharedAlignment;
    copied_.resize(shared_bytes / 16 + 1);
    asked_.resize(warps_.size() * kLanes / kWarpgroup + 1);
    for (size_t i = 0; i < threads_.size(); ++i) {
      threads_[i].thread = static_cast<int>(i);
      threads_[i].stack = stacks_.get() + i * kStackBytes;
    }
  }

  void run_all() {
    const int n = grid.x * grid.y * grid.z;
    std::vector<int> order(static_cast<size_t>(n));
    for (int i = 0; i < n; ++i) order[static_cast<size_t>(i)] = i;
    for (int i = n - 1; i > 0; --i)
      std::swap(order[static_cast<size_t>(i)], order[random_.below(static_cast<uint32_t>(i + 1))]);
    for (const int i : order) {
      at = {i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y};
      run_block();
    }
  }

  // Ends the run from within a thread, where nothing can be thrown: its stack has no caller.
  void give_up(std::string why) {
    failure_ = std::move(why);
    leave(self(), true);
  }
  void wait(Meeting kind) {
    Thread& me = self();
    me.waiting = kind;
    leave(me, false);
  }
  void wait_for_kernels() {
    self().waited = true;
    if (hidden_.empty()) return;
    wait(Meeting::kernels);
    reveal();
  }
  Thread& self() { return *static_cast<Thread*>(current_fiber); }
  Warp& warp_of(const Thread& t) { return warps_[static_cast<size_t>(t.thread / kLanes)]; }
  bool lands_at_once() { return random_.below(2) != 0; }
  // Makes the bytes that a lane wrote to shared memory visible to all at once, as atomic operations
  // do.
  void seen_by_all(const void* place, size_t bytes) {
    if (weak_) memcpy(&seen_[offset_of(place)], place, bytes);
  }
  BulkBarrier* bulk_barrier(const void* place) {
    for (BulkBarrier& b : bulk_barriers_)
      if (b.at == place) return &b;
    return nullptr;
  }
  void add_bulk_barrier(const void* place) {
    bulk_barriers_.push_back({place, 0, false, true, {}, {}, 0});
  }
  void land(BulkBarrier& barrier) {
    memcpy(barrier.to, barrier.from, barrier.bytes);
    seen_by_all(barrier.to, barrier.bytes);
    barrier.under_way = false;
    ++barrier.phases;
  }
  // A copy by this thread into shared memory is no data for products until it is shown.
  void hide_from_products(const Copy& copy) {
    if (offset_of(copy.to) >= shared_bytes_)
      return give_up("an asynchronous copy to outside of shared memory");
    copied_[offset_of(copy.to) / 16] = static_cast<uint16_t>(self().thread + 1);
  }
  void copy_is_over(const Copy& copy) { self().unshown.push_back(offset_of(copy.to) / 16); }
  void show_to_products() {
    for (const size_t i : std::exchange(self().unshown, {}))
      if (copied_[i] == self().thread + 1) copied_[i] = 0;
  }
  const int8_t* sixteen(uint64_t descriptor, int n, int k, const char*& wrong) override {
    const Place place = place_of(descriptor, n, k);
    // A descriptor has the lowest 18 bits of an address.
    const size_t base = reinterpret_cast<uintptr_t>(shared) & 0x3ffff,
                 offset = (place.at - base) & 0x3ffff;
    wrong = place.wrong                   ? place.wrong
            : offset + 16 > shared_bytes_ ? "a product that reads outside shared memory"
            : copied_[offset / 16] != 0
                ? "a product that reads a copy which was not waited for and shown"
                : nullptr;
    return wrong ? nullptr : reinterpret_cast<const int8_t*>(shared + offset);
  }
  // Says whether this product is that of the other warps of the warpgroup.
  bool is_theirs(uint64_t b) {
    std::vector<uint64_t>& asked = asked_[static_cast<size_t>(self().thread / kWarpgroup)];
    const size_t i = self().n_products++;
    if (i == asked.size()) asked.push_back(b);
    return asked[i] == b && n_threads % kWarpgroup == 0;
  }
  const void* seen(const void* place) const { return weak_ ? &seen_[offset_of(place)] : place; }

 private:
  size_t offset_of(const void* place) const {
    return static_cast<size_t>(static_cast<const uint8_t*>(place) - shared);
  }
  static constexpr size_t kGuard = 256;
  static constexpr uint8_t kPoison = 0xfe, kGuardByte = 0xa5;

  void hide() {
    saved_.clear();
    for (const Written& w : hidden_) {
      saved_.insert(saved_.end(), w.at, w.at + w.bytes);
      memset(w.at, kPoison, w.bytes);
    }
    hides_ = !hidden_.empty();
  }
  void reveal() {
    if (!std::exchange(hides_, false)) return;
    const uint8_t* from = saved_.data();
    for (const Written& w : hidden_) {
      if (!std::all_of(w.at, w.at + w.bytes, [](uint8_t b) { return b == kPoison; }))
        failure_ = "a write before the wait for the kernels before";
      memcpy(w.at, from, w.bytes);
      from += w.bytes;
    }
  }

  static void entry() {
    auto& machine = *static_cast<Machine*>(current_block);
    Thread& me = machine.self();
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &machine.main_stack_, &machine.main_stack_bytes_);
#endif
    machine.kernel_(machine.argument_);
    me.done = true;
    machine.leave(me, true);
  }

  void enter(Thread& t) {
    current_fiber = &t;
    t.waiting = Meeting::none;
#if defined(__SANITIZE_ADDRESS__)
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, t.stack, kStackBytes);
#endif
    switch_context(main_, t.context);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
    if (!failure_.empty()) fail("{}", failure_);
  }
  void leave(Thread& t, [[maybe_unused]] bool for_good) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(for_good ? nullptr : &t.sanitizer_stack, main_stack_,
                                   main_stack_bytes_);
#endif
    switch_context(t.context, main_);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(t.sanitizer_stack, &main_stack_, &main_stack_bytes_);
#endif
  }

  void run_block() {
    std::fill(memory_.begin(), memory_.end(), kGuardByte);
    memset(shared, kPoison, shared_bytes_);
    if (weak_) seen_.assign(shared, shared + shared_bytes_);
    for (Thread& t : threads_) {
      t.unseen.clear();
      t.waiting = Meeting::none;
      t.done = t.waited = false;
      t.meetings = t.groups = 0;
      t.copies.clear();
      t.unshown.clear();
      t.products.clear();
      t.n_products = 0;
      bulk_barriers_.clear();
      start_context(t.context, t.stack, kStackBytes, entry);
    }
    std::fill(copied_.begin(), copied_.end(), uint16_t{0});
    for (auto& asked : asked_) asked.clear();
    hide();
    current_block = this;
    std::vector<size_t> ready(warps_.size());
    while (true) {
      for (size_t w = 0; w < ready.size(); ++w) ready[w] = w;
      while (!ready.empty()) {
        const size_t i = random_.below(static_cast<uint32_t>(ready.size()));
        if (!run_warp(ready[i])) ready.erase(ready.begin() + static_cast<std::ptrdiff_t>(i));
      }
      if (threads_.front().done) break;
      for (const Thread& t : threads_)
        if (t.done) fail("thread {} has left while others wait at a block barrier", t.thread);
      for (const Thread& t : threads_)
        if (t.waiting != threads_.front().waiting)
          fail(
              "thread {} waits for other kernels while others wait at a block barrier, or the "
              "reverse",
              t.thread);
      ready.resize(warps_.size());
    }
    reveal();
    for (const Thread& t : threads_)
      if (!t.waited) fail("thread {} has left without a wait for the kernels before", t.thread);
    for (const Thread& t : threads_)
      if (!t.done) fail("thread {} waits at a block barrier that others passed by", t.thread);
    for (const Thread& t : threads_)
      if (t.products.under_way())
        fail("thread {} has left before a product that it did not wait for", t.thread);
      else if (t.n_products != asked_[static_cast<size_t>(t.thread / kWarpgroup)].size())
        fail("warp {} did not take part in a product of its warpgroup", t.thread / kLanes);
    for (const BulkBarrier& b : bulk_barriers_)
      if (!b.waited_for) fail("a block has left before a bulk copy that nobody waited for");
    const auto intact = [](uint8_t b) { return b == kGuardByte; };
    if (!std::all_of(memory_.data(), static_cast<uint8_t*>(shared), intact) ||
        !std::all_of(shared + shared_bytes_, memory_.data() + memory_.size(), intact))
      fail("thread block ({}) wrote outside its shared memory", at.x);
    current_block = nullptr;
    current_fiber = nullptr;
  }

  // Runs the lanes up to their next meeting, after which a barrier shows what they wrote.
  template <class Lane>
  void step_weakly(Thread* lanes, const Lane& lane) {
    const auto wrote = [](const Thread& t) { return !t.unseen.empty(); };
    const bool fresh = std::none_of(lanes, lanes + kLanes, wrote);
    const auto at_barrier = [](const Thread& t) {
      return t.done || t.waiting == Meeting::sync || t.waiting == Meeting::block ||
             t.waiting == Meeting::kernels;
    };
    step(lane(0));
    const bool barrier = at_barrier(lane(0));
    // Between one barrier and the next nothing can be hidden, which saves the comparison.
    for (int i = 1; i < kLanes; ++i)
      if (barrier && fresh)
        enter(lane(i));
      else
        step(lane(i));
    if (!barrier) return;
    for (int i = 0; i < kLanes; ++i) show(lanes[i]);
    if (fresh) seen_.assign(shared, shared + shared_bytes_);
  }

  // Runs a thread up to its next meeting.  In weak order, shared memory meanwhile holds the data
  // that all have seen and the data that this thread wrote.  Between threads it holds the data that
  // all have seen.
  void step(Thread& t) {
    for (const Byte& b : t.unseen) shared[b.at] = b.value;
    enter(t);
    t.unseen.clear();
    constexpr size_t kPiece = 64;
    for (size_t first = 0; first < shared_bytes_; first += kPiece) {
      const size_t n = std::min(kPiece, shared_bytes_ - first);
      if (memcmp(shared + first, &seen_[first], n) == 0) continue;
      for (size_t i = first; i < first + n; ++i)
        if (shared[i] != seen_[i]) t.unseen.push_back({static_cast<uint32_t>(i), shared[i]});
      memcpy(shared + first, &seen_[first], n);
    }
  }
  void show(Thread& t) {
    for (const Byte& b : t.unseen) shared[b.at] = seen_[b.at] = b.value;
    t.unseen.clear();
  }

  // Lets the lanes of a warp meet a few times; false when they wait for the block or are done.
  bool run_warp(size_t w) {
    Thread* const lanes = &threads_[w * kLanes];
    do {
      const bool upwards = random_.below(2) != 0;
      const auto lane = [&](int i) -> Thread& { return lanes[upwards ? i : kLanes - 1 - i]; };
      if (weak_)
        step_weakly(lanes, lane);
      else
        for (int i = 0; i < kLanes; ++i) enter(lane(i));
      for (int i = 1; i < kLanes; ++i)
        if (lanes[i].waiting != lanes[0].waiting || lanes[i].done != lanes[0].done)
          fail("the lanes of warp {} have parted: lane {} is elsewhere than lane 0", w, i);
      if (lanes[0].done || lanes[0].waiting == Meeting::block ||
          lanes[0].waiting == Meeting::kernels)
        return false;
    } while (random_.below(8) != 0);
    return true;
  }

  // Returns to the caller of run(), out of the main context; the fibers are abandoned.
  template <class... Args>
  [[noreturn]] void fail(std::string_view pattern, const Args&... args) {
    const std::string why = "emulated device: " + hrun::message(pattern, args...);
    reveal();
    current_block = nullptr;
    current_fiber = nullptr;
    throw std::logic_error(why);
  }

  void (*kernel_)(const void*);
  const void* argument_;
  Random random_;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::unique_ptr<uint8_t[]> stacks_;
  std::vector<uint8_t> memory_;
  size_t shared_bytes_;
  std::string failure_;
  bool weak_;
  const std::vector<Written>& hidden_;
  std::vector<uint8_t> saved_;  // what is hidden
  bool hides_ = false;
  std::vector<uint8_t> seen_;  // shared memory as all see it, in weak order
  std::vector<BulkBarrier> bulk_barriers_;
  // For each sixteen bytes of shared memory, the thread (from 1 on) whose copy to it products must
  // not read yet.
  std::vector<uint16_t> copied_;
  std::vector<std::vector<uint64_t>> asked_;  // the products of each warpgroup
  Context main_;
  const void* main_stack_ = nullptr;
  size_t main_stack_bytes_ = 0;
};

Machine& machine() { return *static_cast<Machine*>(current_block); }

}  // namespace

const Slot* exchange(Meeting kind, const void* mine, size_t bytes) {
  Machine& m = machine();
  Thread& me = m.self();
  // Two sets of slots in turn: a lane that is one meeting ahead does not overwrite what others
  // still read.
  Slot* const slots = m.warp_of(me).slots[me.meetings++ & 1];
  if (bytes > 0) memcpy(slots[me.thread % kLanes].bytes, mine, bytes);
  m.wait(kind);
  return slots;
}

void wait_for_block() { machine().wait(Meeting::block); }
void wait_for_kernels() { machine().wait_for_kernels(); }

void land(const Copy& copy) {
  if (copy.from)
    memcpy(copy.to, copy.from, 16);
  else
    memset(copy.to, 0, 16);
}

void copy_async(void* to, const void* from) {
  Machine& m = machine();
  Thread& me = m.self();
  require_alignment(to, "an asynchronous copy");
  require_alignment(from, "an asynchronous copy");
  const Copy copy{to, from, me.groups, m.lands_at_once()};
  m.hide_from_products(copy);
  if (copy.landed) land(copy);
  me.copies.push_back(copy);
}

void commit_copies() { ++machine().self().groups; }

void wait_copies(int newest) {
  Machine& m = machine();
  Thread& me = m.self();
  const auto due = [&](const Copy& c) { return c.group < me.groups - newest; };
  for (const Copy& c : me.copies) {
    if (!due(c)) continue;
    if (!c.landed) land(c);
    m.copy_is_over(c);
  }
  std::erase_if(me.copies, due);
}

void make_bulk_barrier(const void* barrier) {
  Machine& m = machine();
  if (reinterpret_cast<uintptr_t>(barrier) % 8 != 0 || m.bulk_barrier(barrier))
    m.give_up("a barrier of bulk copies at an odd address, or made twice");
  m.add_bulk_barrier(barrier);
}

void copy_bulk(void* to, const void* from, size_t bytes, const void* barrier) {
  Machine& m = machine();
  require_alignment(to, "a bulk copy");
  require_alignment(from, "a bulk copy");
  BulkBarrier* const b = m.bulk_barrier(barrier);
  if (!b || !b->waited_for || bytes % 16 != 0)
    return m.give_up(
        "a bulk copy without a barrier of its own, or of bytes that are no multiple of 16");
  b->to = static_cast<uint8_t*>(to), b->from = from, b->bytes = bytes;
  b->under_way = true, b->waited_for = false;
  if (m.lands_at_once()) m.land(*b);
}

void wait_bulk(const void* barrier, int phase) {
  Machine& m = machine();
  BulkBarrier* const b = m.bulk_barrier(barrier);
  if (!b) return m.give_up("a wait for a barrier of bulk copies that was not made");
  if (b->under_way) m.land(*b);
  if (b->phases % 2 == phase) m.give_up("a wait for a bulk copy that nobody began");
  b->waited_for = true;
}

void show_to_products() { machine().show_to_products(); }
void begin_products(int* c, int n, const uint32_t (&a)[4]) {
  machine().self().products.begin(c, n, a);
}
void multiply(int* c, int n, const uint32_t (&a)[4], uint64_t b, bool adds) {
  Machine& m = machine();
  const Slot* const slots = exchange(Meeting::product, a, sizeof a);
  Thread& me = m.self();
  const int lane = me.thread % kLanes;
  // Register 2 half + h of lane 4 g + q has columns 16 half + 4 q ... of row g + 8 h.
  Products::Rows rows;
  for (int h = 0; h < 2; ++h)
    for (int q = 0; q < 4; ++q)
      for (int half = 0; half < 2; ++half)
        memcpy(&rows[h][16 * half + 4 * q], slots[lane / 4 * 4 + q].bytes + 4 * (2 * half + h), 4);
  if (!m.is_theirs(b)) m.give_up("the warps of a warpgroup ask for different products");
  if (const char* const wrong =
          me.products.multiply(m, lane, c, n, a, rows, b, adds, m.lands_at_once()))
    m.give_up(wrong);
}
void commit_products() { machine().self().products.commit(); }
void wait_products(int newest) {
  Machine& m = machine();
  Thread& me = m.self();
  if (const char* const wrong = me.products.wait(m, me.thread % kLanes, newest)) m.give_up(wrong);
}

int add_shared(int* counter, int n) {
  Machine& m = machine();
  int old = 0;
  memcpy(&old, m.seen(counter), sizeof old);
  *counter = old + n;
  m.seen_by_all(counter, sizeof *counter);
  return old;
}

void require_alignment(const void* p, const char* what) {
  if (reinterpret_cast<uintptr_t>(p) % 16 != 0)
    machine().give_up(std::string(what) + " of 16 bytes at an odd address");
}

void run(void (*kernel)(const void*), const void* argument, Grid grid, int threads,
         size_t shared_bytes, uint64_t seed, bool weak, const std::vector<Written>& hidden) {
  if (threads < kLanes || threads > 1024 || threads % kLanes != 0)
    throw DeviceError("a block of {} threads: whole warps, at most 1024", threads);
  if (shared_bytes > kSharedLimit)
    throw DeviceError("a block with {} bytes of shared memory: the limit is {}", shared_bytes,
                      kSharedLimit);
  if (grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.y > 65535 || grid.z > 65535)
    throw DeviceError("a grid of {} x {} x {} blocks", grid.x, grid.y, grid.z);
  Machine(kernel, argument, grid, threads, shared_bytes, seed, weak, hidden).run_all();
}

}  // namespace hrun::gpu::emulation
