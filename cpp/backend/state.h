// Recurrent layers keep a state of fixed size for a sequence instead of pages.
//
// States have slots; a slot is the state of all recurrent layers after some position.  Which
// sequence has which slot is the caller's business (RowSpan::state).  All of it is fp32, and every
// operation goes token by token, so that no cut of a sequence changes a bit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace hrun {

// Limits of the kernels.
inline constexpr int kMaxConvTaps = 8;
inline constexpr int kMaxStateRows = 256;

struct StateLayer {
  // A short convolution keeps its last inputs.
  int n_channels = 0;
  int n_past = 0;
  // A linear recurrence keeps a matrix [k_dim, v_dim] per head.
  int n_heads = 0;
  int k_dim = 0;
  int v_dim = 0;

  size_t floats() const {
    return static_cast<size_t>(n_channels) * static_cast<size_t>(n_past) +
           static_cast<size_t>(n_heads) * static_cast<size_t>(k_dim) * static_cast<size_t>(v_dim);
  }
};

struct StatePlan {
  std::vector<StateLayer> layers;
  int64_t n_slots = 0;
};

class DeviceStates {
 public:
  explicit DeviceStates(StatePlan plan) : plan_(std::move(plan)) {}
  virtual ~DeviceStates() = default;

  const StatePlan& plan() const { return plan_; }
  const StateLayer& layer(size_t l) const { return plan_.layers[l]; }
  int64_t n_slots() const { return plan_.n_slots; }
  virtual size_t slot_bytes() const = 0;
  void clear(int32_t slot);  // the state before any token
  void copy(int32_t from, int32_t to);

 private:
  virtual void do_clear(int32_t slot) = 0;
  virtual void do_copy(int32_t from, int32_t to) = 0;

  StatePlan plan_;
};

// One layer of the states.
struct StateSlot {
  DeviceStates* states = nullptr;
  size_t index = 0;

  const StateLayer& layer() const { return states->layer(index); }
};

// The heads of a linear recurrence share keys: value head h reads key head h % n_k_heads, or, if
// `grouped`, h * n_k_heads / n_v_heads.
struct DeltaHeads {
  int n_k_heads;
  int n_v_heads;
  bool grouped;

  constexpr int key_head(int h) const {
    return grouped ? h / (n_v_heads / n_k_heads) : h % n_k_heads;
  }
};

}  // namespace hrun
