// What the files of the CUDA backend share: turns, and tensors as their own.
#pragma once

#include "backend/checks.h"
#include "cuda/cuda_backend.h"

namespace hrun::gpu {

inline const CudaTensor& on_device(const DeviceTensor& t) {
  if (const auto* own = dynamic_cast<const CudaTensor*>(&t)) return *own;
  throw ArgumentError("a tensor of another backend was given to CUDA");
}

inline const float* vector_of(const DeviceTensor& t) {
  const CudaTensor& own = on_device(t);
  require(own.vector != nullptr, "CUDA", "a tensor of one row");
  return own.floats();
}

inline FloatView rows_of(const FloatView& view, const RowSpan& span) {
  return {view.row(span.first_row), span.n_rows, view.cols, view.stride};
}

// One operation: the lock and, while they are measured, the time until the device has done it.
class CudaBackend::Turn {
 public:
  Turn(CudaBackend& backend, Operation operation)
      : lock_(backend.mutex_), backend_(backend), timer_(backend.times_, operation) {}
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

}  // namespace hrun::gpu
