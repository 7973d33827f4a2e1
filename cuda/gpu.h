// One device: its memory, its one stream of work, its graphs.
//
// The CUDA build implements it by the CUDA runtime (gpu_cuda.cu).  The emulated build runs every
// kernel on the CPU (emulation/gpu.cpp): the same kernels, the same backend, the same order, for
// tests on machines without a GPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cuda/device/thread.h"

namespace hrun::gpu {

#if defined(__CUDACC__)
struct Grid {
  int x = 1, y = 1, z = 1;
};
#endif

struct GpuInfo {
  int index = 0;
  std::string name;  // "NVIDIA H100 80GB HBM3"
  size_t total_bytes = 0;
  size_t free_bytes = 0;
  int capability = 0;  // 90 for 9.0
  int multiprocessors = 0;
  size_t block_shared_bytes = 0;  // that a block of threads may have
  bool bulk_copies = false;       // has its code copy_bulk()? (of a Gpu, not of a list)
  bool warpgroups = false;        // and multiply_s8(), of warpgroup.h?
};

// A recorded sequence of launches and copies.
class Graph {
 public:
  virtual ~Graph() = default;
};

class Gpu {
 public:
  // The usable devices of this machine; makes no context.  `reason` says why there are none.
  static std::vector<GpuInfo> list(std::string& reason);

  // Throws DeviceError.
  explicit Gpu(int index);
  ~Gpu();
  Gpu(const Gpu&) = delete;
  Gpu& operator=(const Gpu&) = delete;

  const GpuInfo& info() const;
  size_t free_bytes() const;
  // The free memory, asked for without making the rest of a Gpu.  It leaves out the memory that
  // kernels will take for their stacks.  Makes a context on the device, which costs time and
  // memory.  Throws DeviceError.
  static size_t free_bytes(int index);

  void* allocate(size_t bytes);  // null when there is not so much
  // Waits for work that may use it.  Any thread may call it.  Memory that is released while a graph
  // is recorded is freed when the recording ends.
  void release(void* memory);
  void* allocate_host(size_t bytes);  // pinned; null when there is not so much
  void release_host(void* memory);

  // All in the order of the stream.
  void write(void* to, const void* from,
             size_t bytes);  // from ordinary memory, which may change when this returns
  void write_pinned(void* to, const void* from,
                    size_t bytes);  // from pinned memory, read when the stream gets there
  void read(void* to, const void* from, size_t bytes);  // returns when it is there
  void copy(void* to, const void* from, size_t bytes);  // on the device
  void clear(void* at, size_t bytes);
  void wait();  // for all that was asked for; throws DeviceError if it failed

  // Runs kernel() in every thread of `grid` blocks of kernel.kThreads threads, with `shared_bytes`
  // of shared memory.  Kernel: a trivially copyable struct with kThreads, kBlocks (resident per
  // multiprocessor, at least) and HRUN_HD operator()() const.  Where the device can, its blocks
  // start while the kernel before ends, and wait for it; a kernel with kWaits does that itself.
  template <class Kernel>
  void launch(const Kernel& kernel, Grid grid, size_t shared_bytes = 0);

  // Between these, launches and copies are recorded instead of run; allocation, read and wait are
  // errors.
  void begin_capture();
  std::unique_ptr<Graph> end_capture();
  void drop_capture() noexcept;
  void run(const Graph& graph);

 private:
#if defined(__CUDACC__)
  void prepare(const void* function, size_t shared_bytes);
  void* stream() const;
  bool overlaps() const;
  void check_launch(const char* what);
#else
  void launch(void (*entry)(const void*), const char* name, const void* kernel, size_t bytes,
              Grid grid, int threads, size_t shared_bytes);
#endif
  struct State;
  std::unique_ptr<State> state_;
};

template <class Kernel>
HRUN_HD void run_after_others(const Kernel& kernel) {
  let_next_begin();
  if constexpr (!requires { Kernel::kWaits; }) wait_for_kernels();
  kernel();
}

#if defined(__CUDACC__)

template <class Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, Kernel::kBlocks)
    run_kernel(const __grid_constant__ Kernel kernel) {
  run_after_others(kernel);
}

template <class Kernel>
void Gpu::launch(const Kernel& kernel, Grid grid, size_t shared_bytes) {
  if (shared_bytes > (48u << 10))
    prepare(reinterpret_cast<const void*>(&run_kernel<Kernel>), shared_bytes);
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(grid.x, grid.y, grid.z);
  config.blockDim = dim3(Kernel::kThreads);
  config.dynamicSmemBytes = shared_bytes;
  config.stream = static_cast<cudaStream_t>(stream());
  config.attrs = &early;
  config.numAttrs = overlaps() ? 1 : 0;
  cudaLaunchKernelEx(&config, run_kernel<Kernel>, kernel);
  check_launch(Kernel::kName);
}

#else

template <class Kernel>
void Gpu::launch(const Kernel& kernel, Grid grid, size_t shared_bytes) {
  static_assert(std::is_trivially_copyable_v<Kernel>);
  launch([](const void* k) { run_after_others(*static_cast<const Kernel*>(k)); }, Kernel::kName,
         &kernel, sizeof kernel, grid, Kernel::kThreads, shared_bytes);
}

#endif

}  // namespace hrun::gpu
