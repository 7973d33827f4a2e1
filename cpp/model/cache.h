// Keys and values of all layers of a model, on the devices where the layers are.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "model/model.h"

namespace hrun {

// A page number means the same positions in every layer and on every device.
class ModelCache {
 public:
  // Throws OutOfMemoryError with the need, UnsupportedModelError for a type that a device cannot
  // keep.
  // n_states: slots for states of recurrent layers, where the model has such.  n_log_rows: records
  // of their redo log.
  ModelCache(const Model& model, int64_t n_pages, CacheType k_type, CacheType v_type,
             int64_t n_states, int64_t n_log_rows = 0);

  // The cache and the states of a layer.  A slot has no cache where the layer keeps none.
  const CacheSlot& slot(int64_t layer) const { return slots_[static_cast<size_t>(layer)]; }
  const StateSlot& state(int64_t layer) const { return states_[static_cast<size_t>(layer)]; }
  // The state of its feed-forward block, where that has one.
  const StateSlot& feed_state(int64_t layer) const {
    return feed_states_[static_cast<size_t>(layer)];
  }
  int64_t n_pages() const { return n_pages_; }
  int64_t n_states() const { return n_states_; }  // 0 where no layer is recurrent
  size_t bytes() const;
  size_t page_bytes() const;  // on all devices
  void copy_page(int32_t from, int32_t to, int64_t n_positions);
  // See DeviceCache.
  bool is_coded() const;
  bool keeps_rows(int32_t page) const;
  void drop_rows(int32_t page);
  // Copies the state of all recurrent layers.  from = -1 gives the state before any token.
  void copy_state(int32_t from, int32_t to);
  // Makes the states in slot `to` those of slot `from` (-1: before any token) after the n tokens
  // whose records begin at log_row.
  void redo_state(int32_t from, int32_t to, int64_t log_row, int64_t n);

  // Calls draw(), and adds a word about the cache to the error where logits are not finite: the
  // cache may be the cause.
  template <class Draw>
  auto drawing(Draw&& draw) const {
    try {
      return draw();
    } catch (const GenerationError& error) {
      throw GenerationError("{}{}", error.what(), overflow_hint());
    }
  }

 private:
  std::string overflow_hint() const;  // "" where no value is stored in fewer bits than it had

  int64_t n_pages_;
  CacheType k_type_, v_type_;
  std::vector<std::unique_ptr<DeviceCache>> caches_;  // one per run of layers that keep some
  std::vector<CacheSlot> slots_;
  int64_t n_states_ = 0;
  // One per run with recurrent layers.
  struct RunStates {
    Backend* backend;
    std::unique_ptr<DeviceStates> states;
  };
  std::vector<RunStates> kept_states_;
  std::vector<StateSlot> states_, feed_states_;
};

// The number of slots for the states of up to n_running sequences and for checkpoints beside them,
// in a gibibyte or so; 0 where no layer is recurrent.
int64_t default_state_slots(const Model& model, int64_t n_running);

}  // namespace hrun
