// The device that is not there: kernels run on the CPU, at once or, when recorded, with their
// graph.
#include "cuda/gpu.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <unordered_map>

#include "base/error.h"

namespace hrun::gpu {
namespace {

class Recording : public Graph {
 public:
  std::vector<std::function<void()>> steps;
};

// Tests ask for these by environment variables:
//   HRUN_EMULATED_BYTES   the memory of a device
//   HRUN_EMULATED_SHARED  the shared memory that a block of threads may have
//   HRUN_EMULATED_DEVICES how many devices there are
//   HRUN_EMULATED_MULTIPROCESSORS  of a device
//   HRUN_EMULATED_INDEX   the number of the first device, as if those before were too old
//   HRUN_EMULATED_SEED    the order in which threads run
//   HRUN_EMULATED_WEAK    1: a lane sees what others wrote to shared memory after a barrier only
//   HRUN_EMULATED_EARLY   1: a kernel sees what those before it wrote after its wait only
//   HRUN_EMULATED_FAIL    what fails from now on: allocation, end_capture, run, launch
//   HRUN_EMULATED_LOG     a file that gets a line for each launch: the device, and the kernel;
//                         and "context" where a device is started to be asked for its memory
bool shall_fail(std::string_view what) {
  const char* text = std::getenv("HRUN_EMULATED_FAIL");
  return text && what == text;
}
void log_line(int device, const char* what) {
  const char* path = std::getenv("HRUN_EMULATED_LOG");
  if (!path || !*path) return;
  if (std::FILE* file = std::fopen(path, "a")) {
    std::fprintf(file, "%d %s\n", device, what);
    std::fclose(file);
  }
}
size_t from_environment(const char* name, size_t otherwise) {
  const char* text = std::getenv(name);
  return text && *text ? std::strtoull(text, nullptr, 10) : otherwise;
}

}  // namespace

struct Gpu::State {
  GpuInfo info;
  size_t used = 0;
  uint64_t seed = from_environment("HRUN_EMULATED_SEED", 1);
  std::unordered_map<void*, size_t> sizes;
  std::unique_ptr<Recording> recording;
  std::mutex mutex;               // of the memory: any thread may release
  std::vector<void*> unreleased;  // while a graph is recorded

  void release(void* memory) {
    used -= sizes[memory];
    memset(memory, 0xfd, sizes[memory]);  // code that still reads it shall notice
    sizes.erase(memory);
    written.clear();
    std::free(memory);
  }
  std::unique_ptr<Recording> take_recording() {
    const std::lock_guard lock(mutex);
    for (void* const memory : std::exchange(unreleased, {})) release(memory);
    return std::move(recording);
  }

  // Where kernels wrote since the device was last waited for, or did something else: the next one
  // may start before they are done.
  std::map<uint8_t*, size_t> written;

  // Runs a kernel, given what it must not see before its wait, and adds what it wrote.
  template <class Run>
  void run_early(const Run& run) {
    std::vector<emulation::Written> hidden;
    for (const auto& [at, bytes] : written) hidden.push_back({at, bytes});
    std::vector<std::vector<uint8_t>> before;
    for (const auto& [memory, bytes] : sizes) {
      const auto* const from = static_cast<const uint8_t*>(memory);
      before.emplace_back(from, from + bytes);
    }
    run(hidden);
    size_t i = 0;
    for (const auto& [memory, bytes] : sizes) {
      const std::vector<uint8_t>& old = before[i++];
      constexpr size_t kPiece = 64;
      for (size_t first = 0; first < bytes; first += kPiece) {
        const size_t n = std::min(kPiece, bytes - first);
        uint8_t* const at = static_cast<uint8_t*>(memory) + first;
        if (memcmp(at, &old[first], n) != 0) written[at] = n;
      }
    }
  }

  // Something that begins when all kernels are done, and that kernels wait for.
  void do_alone(std::function<void()> step) {
    do_or_record([this, step = std::move(step)] {
      written.clear();
      step();
    });
  }
  void do_or_record(std::function<void()> step) {
    if (recording)
      recording->steps.push_back(std::move(step));
    else
      step();
  }
  void forbid_while_recording(const char* what) const {
    if (recording) throw DeviceError("{} while a graph is recorded", what);
  }
};

std::vector<GpuInfo> Gpu::list(std::string&) {
  GpuInfo info;
  info.name = "emulated on the CPU, for tests";
  info.total_bytes = info.free_bytes = from_environment("HRUN_EMULATED_BYTES", size_t{4} << 30);
  info.capability = 90;
  info.multiprocessors = static_cast<int>(from_environment("HRUN_EMULATED_MULTIPROCESSORS", 4));
  info.block_shared_bytes = from_environment("HRUN_EMULATED_SHARED", 227 << 10);
  const auto first = static_cast<int>(from_environment("HRUN_EMULATED_INDEX", 0)),
             n = static_cast<int>(from_environment("HRUN_EMULATED_DEVICES", 1));
  std::vector<GpuInfo> all;
  for (info.index = first; info.index < first + n; ++info.index) all.push_back(info);
  return all;
}

Gpu::Gpu(int index) : state_(new State) {
  std::string reason;
  for (const GpuInfo& info : list(reason))
    if (info.index == index) state_->info = info;
  if (state_->info.name.empty()) throw DeviceError("there is no CUDA device {}", index);
  state_->info.bulk_copies = from_environment("HRUN_CUDA_BULK", 1) != 0;
  state_->info.warpgroups = from_environment("HRUN_CUDA_WARPGROUPS", 1) != 0;
}
Gpu::~Gpu() = default;

const GpuInfo& Gpu::info() const { return state_->info; }
size_t Gpu::free_bytes() const { return state_->info.total_bytes - state_->used; }
size_t Gpu::free_bytes(int index) {
  log_line(index, "context");
  std::string reason;
  return list(reason).front().free_bytes;
}

void* Gpu::allocate(size_t bytes) {
  state_->forbid_while_recording("an allocation");
  if (bytes > free_bytes() || shall_fail("allocation")) return nullptr;
  void* memory = std::aligned_alloc(256, (bytes + 255) & ~size_t{255});
  if (!memory) return nullptr;
  memset(memory, 0xfe, bytes);  // code that reads unwritten memory shall notice
  const std::lock_guard lock(state_->mutex);
  state_->sizes[memory] = bytes;
  state_->used += bytes;
  return memory;
}
void Gpu::release(void* memory) {
  if (!memory) return;
  const std::lock_guard lock(state_->mutex);
  if (state_->recording)
    state_->unreleased.push_back(memory);
  else
    state_->release(memory);
}
void* Gpu::allocate_host(size_t bytes) { return std::malloc(bytes); }
void Gpu::release_host(void* memory) { std::free(memory); }

void Gpu::write(void* to, const void* from, size_t bytes) {
  state_->forbid_while_recording("a write from ordinary memory");
  state_->written.clear();
  if (bytes > 0) memcpy(to, from, bytes);
}
void Gpu::write_pinned(void* to, const void* from, size_t bytes) {
  state_->do_alone([=] { memcpy(to, from, bytes); });
}
void Gpu::read(void* to, const void* from, size_t bytes) {
  state_->forbid_while_recording("a read");
  state_->written.clear();
  if (bytes > 0) memcpy(to, from, bytes);
}
void Gpu::copy(void* to, const void* from, size_t bytes) {
  state_->do_alone([=] { memmove(to, from, bytes); });
}
void Gpu::clear(void* at, size_t bytes) {
  state_->do_alone([=] { memset(at, 0, bytes); });
}
void Gpu::wait() {
  state_->forbid_while_recording("a wait");
  state_->written.clear();
}

void Gpu::launch(void (*entry)(const void*), const char* name, const void* kernel, size_t bytes,
                 Grid grid, int threads, size_t shared_bytes) {
  if (shall_fail("launch")) throw OutOfMemoryError("emulated: {} failed", name);
  if (shared_bytes > state_->info.block_shared_bytes)
    throw DeviceError("a block with {} bytes of shared memory: the limit is {}", shared_bytes,
                      state_->info.block_shared_bytes);
  log_line(state_->info.index, name);
  std::vector<uint64_t> arguments((bytes + 7) / 8);  // as a graph keeps them
  memcpy(arguments.data(), kernel, bytes);
  const bool weak = from_environment("HRUN_EMULATED_WEAK", 0) != 0,
             early = from_environment("HRUN_EMULATED_EARLY", 0) != 0;
  state_->do_or_record(
      [this, entry, arguments = std::move(arguments), grid, threads, shared_bytes, weak, early] {
        const auto run = [&](const std::vector<emulation::Written>& hidden) {
          emulation::run(entry, arguments.data(), grid, threads, shared_bytes, state_->seed++, weak,
                         hidden);
        };
        if (early)
          state_->run_early(run);
        else
          run({});
      });
}

void Gpu::begin_capture() {
  state_->forbid_while_recording("another recording");
  const std::lock_guard lock(state_->mutex);
  state_->recording = std::make_unique<Recording>();
}
std::unique_ptr<Graph> Gpu::end_capture() {
  std::unique_ptr<Graph> graph = state_->take_recording();
  if (shall_fail("end_capture")) throw DeviceError("emulated: a graph could not be made");
  return graph;
}
void Gpu::drop_capture() noexcept { state_->take_recording().reset(); }
void Gpu::run(const Graph& graph) {
  state_->forbid_while_recording("a graph");
  if (shall_fail("run")) throw DeviceError("emulated: a graph could not be run");
  log_line(state_->info.index, "graph");
  for (const auto& step : static_cast<const Recording&>(graph).steps) step();
}

}  // namespace hrun::gpu
