// The files of the CUDA backend share this: turns, and tensors as the backend's own.
#pragma once

#include <array>

#include "backend/checks.h"
#include "cuda/cuda_backend.h"

namespace hrun::gpu {

inline const CudaTensor& on_device(const DeviceTensor& t) {
  if (const auto* own = dynamic_cast<const CudaTensor*>(&t)) return *own;
  throw ArgumentError("a tensor of another backend was given to CUDA");
}

inline const float* vector_of(const DeviceTensor& t) {
  const CudaTensor& own = on_device(t);
  require(static_cast<bool>(own.vector), "CUDA", "a tensor of one row");
  return own.floats();
}

// One operation.  It holds the lock and, while times are measured, the time until the device has
// done it.
class CudaBackend::Turn {
 public:
  // keep: the operations that may go on waiting, since this operation looks at them.
  Turn(CudaBackend& backend, Operation operation, Keep keep = Keep::nothing)
      : lock_(backend.mutex_), backend_(backend), timer_(backend.times_, operation) {
    backend.flush(keep);
  }
  explicit Turn(CudaBackend& backend) : Turn(backend, Operation::add) {}
  ~Turn() {
    if (backend_.times_.on && !backend_.recording_) try {
        backend_.gpu_.wait();
      } catch (const Error&) {  // the next operation reports it
      }
  }
  void next(Operation operation) {
    if (backend_.times_.on) backend_.gpu_.wait();
    timer_.next(operation);
  }

 private:
  std::lock_guard<std::recursive_mutex> lock_;
  CudaBackend& backend_;
  OperationTimer timer_;
};

// The input of one matmul() in the forms that its targets want, each made once.
struct CudaBackend::PreparedInput {
  const MatmulInput& from;
  RowMap rows{};  // of `from`; its x.rows then counts those of the result
  std::array<QuantizedRows, kActivations> quantized{};
  std::array<FloatView, kActivations> floats{};
};

}  // namespace hrun::gpu
