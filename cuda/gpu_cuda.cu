// The device, implemented by the CUDA runtime.
#include "cuda/gpu.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "cuda/kernels/code_version.h"

namespace hrun::gpu {
namespace {

class CudaGraph : public Graph {
 public:
  explicit CudaGraph(cudaGraphExec_t exec) : exec(exec) {}
  ~CudaGraph() override { cudaGraphExecDestroy(exec); }
  cudaGraphExec_t exec;
};

std::string version(int number) {  // 12040 -> "12.4"
  return message("{}.{}", number / 1000, number % 1000 / 10);
}

// Says why nothing can be done with any device.
std::string why_none(cudaError_t status) {
  if (status == cudaErrorInsufficientDriver) {
    int driver = 0, built = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&built);
    return driver == 0 ? std::string("no NVIDIA driver is installed")
                       : message(
                             "the NVIDIA driver is for CUDA {}, this build needs one for CUDA "
                             "{} or newer",
                             version(driver), version(built));
  }
  if (status == cudaErrorInitializationError)
    return "CUDA cannot be initialised; a process that was forked cannot use CUDA once its parent "
           "did";
  return cudaGetErrorString(status);
}

// Turns an error that the runtime reports into an exception; the process and the other devices go
// on.
void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // clears what can be cleared
  // Launches and graphs take memory too: stacks of kernels, nodes.
  if (status == cudaErrorMemoryAllocation)
    throw OutOfMemoryError("CUDA: {} failed: the device has no memory left", what);
  if (status == cudaErrorNoKernelImageForDevice || status == cudaErrorUnsupportedPtxVersion)
    throw DeviceError(
        "CUDA: {} failed: this build has no code for the device; install hrun again on this "
        "machine, or with -C cmake.define.HRUN_CUDA_ARCHITECTURES for it",
        what);
  if (status == cudaErrorInitializationError || status == cudaErrorInsufficientDriver)
    throw DeviceError("CUDA: {} failed: {}", what, why_none(status));
  throw DeviceError("CUDA: {} failed: {} ({})", what, cudaGetErrorString(status),
                    cudaGetErrorName(status));
}

// The largest stack of a thread among the kernels, which the runtime takes for all threads that a
// device can hold at once when such a kernel first runs.
constexpr size_t kStackBytes = 2048;
constexpr size_t kStagingBytes = size_t{8} << 20;

}  // namespace

struct Gpu::State {
  GpuInfo info;
  cudaStream_t stream = nullptr;
  // Two halves are used in turn: while one travels the other is filled.
  uint8_t* staging = nullptr;
  cudaEvent_t travelled[2] = {};
  int half = 0;
  bool overlaps = false;  // a kernel may start while the one before ends
  std::mutex mutex;       // of these two: any thread may release
  bool capturing = false;
  std::vector<void*> unreleased;

  void select() const { check(cudaSetDevice(info.index), "the choice of the device"); }
  void end_of_capture() {
    const std::lock_guard lock(mutex);
    capturing = false;
    if (unreleased.empty()) return;
    cudaStreamSynchronize(stream);
    for (void* const memory : std::exchange(unreleased, {})) cudaFree(memory);
  }
  ~State() {  // also where the constructor of a Gpu threw
    if (!stream) return;
    cudaSetDevice(info.index);
    cudaStreamSynchronize(stream);
    for (const cudaEvent_t event : travelled)
      if (event) cudaEventDestroy(event);
    if (staging) cudaFreeHost(staging);
    cudaStreamDestroy(stream);
  }
};

std::vector<GpuInfo> Gpu::list(std::string& reason) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess) {
    cudaGetLastError();
    reason = why_none(status);
    return {};
  }
  if (count == 0) reason = "no CUDA device is present";
  std::vector<GpuInfo> all;
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties;
    if (const cudaError_t asked = cudaGetDeviceProperties(&properties, i); asked != cudaSuccess) {
      cudaGetLastError();
      reason = message("device {} cannot be asked: {}", i, cudaGetErrorString(asked));
      continue;
    }
    if (properties.major < 8) {
      reason = message("{} has compute capability {}.{}, and 8.0 or newer is needed",
                       properties.name, properties.major, properties.minor);
      continue;
    }
    GpuInfo info;
    info.index = i;
    info.name = properties.name;
    info.total_bytes = info.free_bytes = properties.totalGlobalMem;
    info.capability = properties.major * 10 + properties.minor;
    info.multiprocessors = properties.multiProcessorCount;
    info.block_shared_bytes = properties.sharedMemPerBlockOptin;
    all.push_back(info);
  }
  return all;
}

Gpu::Gpu(int index) : state_(new State) {
  std::string reason;
  for (const GpuInfo& info : list(reason))
    if (info.index == index) state_->info = info;
  if (state_->info.name.empty())
    throw DeviceError("CUDA device {} cannot be used: {}", index,
                      reason.empty() ? "there is none of this number" : reason);
  State& s = *state_;
  s.select();
  check(cudaStreamCreateWithFlags(&s.stream, cudaStreamNonBlocking), "the stream");
  void* staging = nullptr;
  check(cudaHostAlloc(&staging, 2 * kStagingBytes, cudaHostAllocDefault),
        "pinned memory for uploads");
  s.staging = static_cast<uint8_t*>(staging);
  for (cudaEvent_t& event : s.travelled)
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "an event");
  // Code made for older devices does not wait, whatever device it runs on.
  CodeVersion code;
  check(static_cast<cudaError_t>(code_version(code)), "the question for the code of kernels");
  const auto is_off = [](const char* name) {
    const char* const value = std::getenv(name);
    return value && std::string_view(value) == "0";
  };
  s.overlaps = code.architecture >= 90 && !is_off("HRUN_CUDA_OVERLAP");
  s.info.bulk_copies = code.architecture >= 90 && !is_off("HRUN_CUDA_BULK");
  s.info.warpgroups = code.warpgroups && !is_off("HRUN_CUDA_WARPGROUPS");
}

Gpu::~Gpu() = default;

const GpuInfo& Gpu::info() const { return state_->info; }

size_t Gpu::free_bytes() const { return free_bytes(state_->info.index); }

size_t Gpu::free_bytes(int index) {
  check(cudaSetDevice(index), "the choice of the device");
  size_t free = 0, total = 0;
  check(cudaMemGetInfo(&free, &total), "the question for free memory");
  int threads = 0, multiprocessors = 0;
  check(cudaDeviceGetAttribute(&threads, cudaDevAttrMaxThreadsPerMultiProcessor, index),
        "a question");
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, index),
        "a question");
  const size_t stacks =
      kStackBytes * static_cast<size_t>(threads) * static_cast<size_t>(multiprocessors);
  return free - std::min(free, stacks);
}

void* Gpu::allocate(size_t bytes) {
  if (state_->capturing) throw DeviceError("an allocation while a graph is recorded");
  state_->select();
  void* memory = nullptr;
  const cudaError_t status = cudaMalloc(&memory, std::max<size_t>(bytes, 1));
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  check(status, "an allocation");
  return memory;
}

void Gpu::release(void* memory) {
  if (!memory) return;
  const std::lock_guard lock(state_->mutex);
  if (state_->capturing) return state_->unreleased.push_back(memory);
  cudaSetDevice(state_->info.index);
  cudaStreamSynchronize(state_->stream);
  cudaFree(memory);
}

void* Gpu::allocate_host(size_t bytes) {
  state_->select();
  void* memory = nullptr;
  if (cudaHostAlloc(&memory, bytes, cudaHostAllocDefault) == cudaSuccess) return memory;
  cudaGetLastError();
  return nullptr;
}
void Gpu::release_host(void* memory) {
  if (!memory) return;
  cudaSetDevice(state_->info.index);
  cudaFreeHost(memory);
}

void Gpu::write(void* to, const void* from, size_t bytes) {
  if (state_->capturing)
    throw DeviceError("a write from ordinary memory while a graph is recorded");
  State& s = *state_;
  s.select();
  for (size_t done = 0; done < bytes;) {
    const size_t part = std::min(kStagingBytes, bytes - done);
    uint8_t* const half = s.staging + static_cast<size_t>(s.half) * kStagingBytes;
    check(cudaEventSynchronize(s.travelled[s.half]), "an upload");
    memcpy(half, static_cast<const uint8_t*>(from) + done, part);
    check(cudaMemcpyAsync(static_cast<uint8_t*>(to) + done, half, part, cudaMemcpyHostToDevice,
                          s.stream),
          "an upload");
    check(cudaEventRecord(s.travelled[s.half], s.stream), "an upload");
    s.half ^= 1;
    done += part;
  }
}

void Gpu::write_pinned(void* to, const void* from, size_t bytes) {
  state_->select();
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, state_->stream), "an upload");
}

void Gpu::read(void* to, const void* from, size_t bytes) {
  if (state_->capturing) throw DeviceError("a read while a graph is recorded");
  state_->select();
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, state_->stream), "a download");
  check(cudaStreamSynchronize(state_->stream), "the work before a download");
}

void Gpu::copy(void* to, const void* from, size_t bytes) {
  state_->select();
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, state_->stream), "a copy");
}

void Gpu::clear(void* at, size_t bytes) {
  state_->select();
  check(cudaMemsetAsync(at, 0, bytes, state_->stream), "a fill");
}

void Gpu::wait() {
  if (state_->capturing) throw DeviceError("a wait while a graph is recorded");
  state_->select();
  check(cudaStreamSynchronize(state_->stream), "the work on the device");
}

void Gpu::prepare(const void* function, size_t shared_bytes) {
  state_->select();
  check(cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(shared_bytes)),
        "a kernel's wish for shared memory");
}

void* Gpu::stream() const {
  state_->select();
  return state_->stream;
}
bool Gpu::overlaps() const { return state_->overlaps; }
void Gpu::check_launch(const char* what) { check(cudaGetLastError(), what); }

void Gpu::begin_capture() {
  const std::lock_guard lock(state_->mutex);
  state_->select();
  check(cudaStreamBeginCapture(state_->stream, cudaStreamCaptureModeThreadLocal),
        "the recording of a graph");
  state_->capturing = true;
}

std::unique_ptr<Graph> Gpu::end_capture() {
  cudaGraph_t graph = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(state_->stream, &graph);
  state_->end_of_capture();
  check(ended, "the recording of a graph");
  cudaGraphExec_t exec = nullptr;
  const cudaError_t status = cudaGraphInstantiate(&exec, graph, 0);
  cudaGraphDestroy(graph);
  check(status, "the making of a graph");
  return std::make_unique<CudaGraph>(exec);
}

void Gpu::drop_capture() noexcept {
  if (!state_->capturing) return;
  cudaGraph_t graph = nullptr;
  cudaStreamEndCapture(state_->stream, &graph);
  state_->end_of_capture();
  if (graph) cudaGraphDestroy(graph);
  cudaGetLastError();
}

void Gpu::run(const Graph& graph) {
  state_->select();
  check(cudaGraphLaunch(static_cast<const CudaGraph&>(graph).exec, state_->stream), "a graph");
}

}  // namespace hrun::gpu
