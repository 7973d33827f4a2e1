// States of recurrent layers in device memory.
#pragma once

#include "cuda/cuda_backend.h"
#include "cuda/kernels/recurrent.h"

namespace hrun::gpu {

class CudaStates final : public DeviceStates {
 public:
  // Throws OutOfMemoryError.
  CudaStates(CudaBackend& backend, const StatePlan& plan, std::string_view purpose);

  size_t slot_bytes() const override { return slot_floats_ * sizeof(float); }
  // The state of a layer, for the spans of a batch.
  StateOnDevice state(size_t layer, const BatchOnDevice& batch) const;

 private:
  void do_clear(int32_t slot) override;
  void do_copy(int32_t from, int32_t to) override;

  float* at(int32_t slot) const {
    return static_cast<float*>(memory_->data) + static_cast<size_t>(slot) * slot_floats_;
  }
  CudaBackend& backend_;
  std::vector<size_t> offsets_;  // of the inputs and the matrices of each layer
  size_t slot_floats_ = 0;
  std::unique_ptr<Memory> memory_;
};

}  // namespace hrun::gpu
