// States of recurrent layers on the CPU: where they lie in a slot.
//
// A slot holds the layers one after the other, and of each the last inputs of its convolution as
// [past][channel], then its matrices, head by head, as [16 columns][k_dim][column].
#pragma once

#include <cstring>
#include <string_view>

#include "backend/backend.h"
#include "backend/state.h"
#include "cpu/kernel_table.h"

namespace hrun {

class CpuStates final : public DeviceStates {
 public:
  // Throws OutOfMemoryError.
  CpuStates(const StatePlan& plan, std::string_view purpose);

  size_t slot_bytes() const override { return slot_floats_ * sizeof(float); }

  float* past(int32_t slot, size_t layer) const override { return at(slot) + offsets_[2 * layer]; }
  float* matrix(int32_t slot, size_t layer) const { return at(slot) + offsets_[2 * layer + 1]; }
  static size_t head_floats(const StateLayer& layer) {
    const int columns = (layer.v_dim + kLanes - 1) / kLanes * kLanes;
    return static_cast<size_t>(layer.k_dim) * static_cast<size_t>(columns);
  }
  // 16 columns of a head's matrix: [k_dim][16].
  float* columns(int32_t slot, size_t layer, int64_t head, int64_t part) const {
    const StateLayer& l = this->layer(layer);
    return matrix(slot, layer) + static_cast<size_t>(head) * head_floats(l) +
           static_cast<size_t>(part * l.k_dim * kLanes);
  }
  void copy_columns(int32_t from, int32_t to, size_t layer, int64_t head, int64_t part) const {
    std::memcpy(columns(to, layer, head, part), columns(from, layer, head, part),
                static_cast<size_t>(this->layer(layer).k_dim) * kLanes * sizeof(float));
  }
  float* log(size_t layer) const override {
    return static_cast<float*>(log_->data) + log_offsets_[layer];
  }
  float* redo_out() const override { return static_cast<float*>(log_->data) + log_offsets_.back(); }
  // Records columns of the rows that have a record.
  void record(size_t layer, const Batch& batch, const FloatView& x, int64_t column) const;

 private:
  void do_clear(int32_t slot) override;
  void do_copy(int32_t from, int32_t to) override;

  float* at(int32_t slot) const {
    return static_cast<float*>(memory_->data) + static_cast<size_t>(slot) * slot_floats_;
  }
  std::vector<size_t> offsets_;  // of the inputs and the matrices of each layer
  size_t slot_floats_ = 0;
  std::unique_ptr<DeviceBuffer> memory_, log_;
  std::vector<size_t> log_offsets_;  // of each layer, then of redo_out()
};

}  // namespace hrun
