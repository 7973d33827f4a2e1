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
  float* past(int32_t slot, size_t layer) const override { return at(slot) + offsets_[2 * layer]; }
  float* log(size_t layer) const override {
    return static_cast<float*>(log_->data) + log_offsets_[layer];
  }
  float* redo_out() const override { return static_cast<float*>(log_->data) + log_offsets_.back(); }
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
  std::unique_ptr<Memory> memory_, log_;
  std::vector<size_t> log_offsets_;  // of each layer, then of redo_out()
};

}  // namespace hrun::gpu
