// Recurrent layers keep a state of fixed size for a sequence instead of pages.
//
// States have slots; a slot is the state of all recurrent layers after some position.  Which
// sequence has which slot is the caller's business (RowSpan::state).  All of it is fp32, and every
// operation goes token by token, so that no cut of a sequence changes a bit.
//
// A redo log keeps what the operations read of the latest tokens.  From a state that was kept and
// these records follows the state after any of those tokens, to the same bits and without weights
// (Backend::redo).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace hrun {

class DeviceTensor;

// Limits of the kernels.
inline constexpr int kMaxConvTaps = 8;
inline constexpr int kMaxStateRows = 256;

// The rules by which a token changes a head's matrix (Backend).
enum class Recurrence : uint8_t { ssm_scan, delta_rule, wkv };

struct StateLayer {
  // A short convolution keeps its last inputs.
  int n_channels = 0;
  int n_past = 0;
  // A linear recurrence keeps a matrix [k_dim, v_dim] per head.
  int n_heads = 0;
  int k_dim = 0;
  int v_dim = 0;
  // What the redo log must know beside: the heads that share keys (DeltaHeads), and the rule.
  int n_k_heads = 0;
  bool grouped = false;
  Recurrence rule = Recurrence::ssm_scan;
  // Of a scan whose steps are of each value, [k_dim * n_heads * v_dim] in one row: the decay of
  // each number of the state is e^(rate step).  Null: a head has a step and a decay.
  const DeviceTensor* rates = nullptr;

  size_t floats() const {
    return static_cast<size_t>(n_channels) * static_cast<size_t>(n_past) +
           static_cast<size_t>(n_heads) * static_cast<size_t>(k_dim) * static_cast<size_t>(v_dim);
  }
  // A record of the redo log: the inputs of the convolution, heads of keys and of values, and two
  // numbers per head (decays, and betas or steps), or a step for each value.  Of wkv: decays of
  // each value of a key, and in place of steps what is removed and what replaces it.
  int64_t keys_at() const { return n_channels; }
  int64_t values_at() const { return keys_at() + int64_t{n_k_heads} * k_dim; }
  int64_t decays_at() const { return values_at() + int64_t{n_heads} * v_dim; }
  int64_t n_decays() const {
    if (rule == Recurrence::wkv) return int64_t{n_heads} * k_dim;
    return rates ? 0 : n_heads;
  }
  int64_t n_steps() const {
    if (rule == Recurrence::wkv) return 2 * int64_t{n_heads} * k_dim;
    return rates ? int64_t{n_heads} * v_dim : n_heads;
  }
  int64_t steps_at() const { return decays_at() + n_decays(); }
  int64_t record_floats() const { return steps_at() + n_steps(); }
};

struct StatePlan {
  std::vector<StateLayer> layers;
  int64_t n_slots = 0;
  int64_t n_log_rows = 0;  // records of the redo log; 0: there is none
};

// The first of a span's rows that has a record.  A record behind the log's last one takes the place
// of the first.
constexpr int64_t first_logged(bool keeps, int64_t kept_at, int64_t n_rows, int64_t n_log_rows) {
  const int64_t first = keeps ? kept_at : 0;
  return first > n_rows - n_log_rows ? first : n_rows - n_log_rows;
}

class DeviceStates {
 public:
  explicit DeviceStates(StatePlan plan) : plan_(std::move(plan)) {}
  virtual ~DeviceStates() = default;

  const StatePlan& plan() const { return plan_; }
  const StateLayer& layer(size_t l) const { return plan_.layers[l]; }
  int64_t n_slots() const { return plan_.n_slots; }
  int64_t n_log_rows() const { return plan_.n_log_rows; }
  virtual size_t slot_bytes() const = 0;
  size_t log_bytes() const;
  void clear(int32_t slot);  // the state before any token
  void copy(int32_t from, int32_t to);
  // On the device: the last inputs of a layer's convolution [n_past][channel], the records of its
  // log one after the other, and room for a value of each head for all rows of the log.
  virtual float* past(int32_t slot, size_t layer) const = 0;
  virtual float* log(size_t layer) const = 0;
  virtual float* redo_out() const = 0;

 protected:
  size_t log_floats(size_t layer) const {
    return static_cast<size_t>(plan_.n_log_rows) *
           static_cast<size_t>(plan_.layers[layer].record_floats());
  }
  size_t redo_out_floats() const;

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
  // Is it the first of the heads that read its key head?
  constexpr bool leads(int h) const {
    return grouped ? h % (n_v_heads / n_k_heads) == 0 : h < n_k_heads;
  }
};

}  // namespace hrun
