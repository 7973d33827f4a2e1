#include "model/cache.h"

#include <algorithm>
#include <tuple>

#include "base/error.h"
#include "model/blocks/block.h"

namespace hrun {

ModelCache::ModelCache(const Model& model, int64_t n_pages, CacheType k_type, CacheType v_type,
                       int64_t n_states, int64_t n_log_rows)
    : n_pages_(n_pages), k_type_(k_type), v_type_(v_type) {
  const std::string purpose = message("the KV cache of {} positions (a smaller context takes less)",
                                      n_pages * kPagePositions);
  slots_.resize(model.params().layers.size());
  states_.resize(slots_.size());
  feed_states_.resize(slots_.size());
  for (const LayerRun& run : model.runs()) {
    CachePlan plan;
    plan.n_pages = n_pages;
    StatePlan state_plan;
    state_plan.n_slots = n_states;
    state_plan.n_log_rows = n_log_rows;
    std::vector<int64_t> layers;
    std::vector<StateSlot*> recurrent;
    std::vector<size_t> places;  // of the layers' rows in the cache
    for (int64_t l = run.first_layer; l < run.end_layer; ++l) {
      const BlockNeeds needs = mixer_needs(model.spec(), l, 1);
      if (needs.has_state()) {
        state_plan.layers.push_back(needs.state);
        if (needs.rates) state_plan.layers.back().rates = model.weight(l, *needs.rates);
        recurrent.push_back(&states_[static_cast<size_t>(l)]);
      }
      if (const BlockNeeds feed = feed_needs(model.spec(), l, 1); feed.has_state()) {
        state_plan.layers.push_back(feed.state);
        recurrent.push_back(&feed_states_[static_cast<size_t>(l)]);
      }
      if (!needs.has_cache()) continue;
      CacheLayer layer = needs.cache;
      layer.k_type = k_type, layer.v_type = v_type;
      layers.push_back(l);
      const auto same = [&](const CacheLayer& other) {
        return other.n_kv_heads == layer.n_kv_heads && other.k_dim == layer.k_dim &&
               other.v_dim == layer.v_dim;
      };
      // A layer of an encoder has read its keys and values when the next one writes its own.
      const auto shared = model.spec().is_encoder()
                              ? std::find_if(plan.layers.begin(), plan.layers.end(), same)
                              : plan.layers.end();
      places.push_back(static_cast<size_t>(shared - plan.layers.begin()));
      if (shared == plan.layers.end()) plan.layers.push_back(layer);
    }
    if (!recurrent.empty()) {
      n_states_ = n_states;
      Backend& backend = model.backend(run.device);
      kept_states_.push_back(
          {&backend,
           backend.make_states(state_plan, message("{} states of recurrent layers", n_states))});
      for (size_t i = 0; i < recurrent.size(); ++i)
        *recurrent[i] = {kept_states_.back().states.get(), i};
    }
    if (layers.empty()) continue;
    caches_.push_back(model.backend(run.device).make_cache(plan, purpose));
    for (size_t i = 0; i < layers.size(); ++i)
      slots_[static_cast<size_t>(layers[i])] = {caches_.back().get(), places[i]};
  }
  for (size_t l = 0; l < slots_.size(); ++l)
    if (const int64_t from = model.params().layers[l].keys_of; from >= 0)
      slots_[l] = slots_[static_cast<size_t>(from)];
}

size_t ModelCache::page_bytes() const {
  size_t bytes = 0;
  for (const auto& cache : caches_) bytes += cache->page_bytes();
  return bytes;
}

std::string ModelCache::overflow_hint() const {
  std::string flags, names;
  for (const auto& [type, flag, name] :
       {std::tuple(k_type_, "-ctk", "type_k"), std::tuple(v_type_, "-ctv", "type_v")}) {
    if (type == CacheType::f32) continue;
    flags += message(" {} f32", flag);
    names += message("{}{}", names.empty() ? "" : ", ", name);
  }
  if (flags.empty()) return "";
  return message(
      "; if keys or values are beyond what their cache holds (65504 in f16), one of f32 mends "
      "it:{} "
      "(in Python {})",
      flags, names);
}

size_t ModelCache::bytes() const {
  size_t bytes = page_bytes() * static_cast<size_t>(n_pages_);
  for (const auto& [backend, states] : kept_states_)
    bytes += states->slot_bytes() * static_cast<size_t>(states->n_slots()) + states->log_bytes();
  return bytes;
}

void ModelCache::copy_state(int32_t from, int32_t to) {
  for (const auto& [backend, states] : kept_states_)
    from < 0 ? states->clear(to) : states->copy(from, to);
}

void ModelCache::redo_state(int32_t from, int32_t to, int64_t log_row, int64_t n) {
  for (const auto& [backend, states] : kept_states_) backend->redo(*states, from, to, log_row, n);
}

void ModelCache::copy_page(int32_t from, int32_t to, int64_t n_positions) {
  for (const auto& cache : caches_) cache->copy_page(from, to, n_positions);
}

bool ModelCache::is_coded() const {
  return std::any_of(caches_.begin(), caches_.end(), [](const auto& c) { return c->is_coded(); });
}

bool ModelCache::keeps_rows(int32_t page) const {
  return std::all_of(caches_.begin(), caches_.end(),
                     [&](const auto& c) { return c->keeps_rows(page); });
}

void ModelCache::drop_rows(int32_t page) {
  for (const auto& cache : caches_) cache->drop_rows(page);
}

int64_t default_state_slots(const Model& model, int64_t n_running) {
  constexpr size_t kBytes = size_t{1} << 30;
  constexpr int64_t kLeast = 4;
  const size_t bytes = state_bytes(model.spec());
  if (bytes == 0) return 0;
  return std::clamp(static_cast<int64_t>(kBytes / bytes), kLeast, std::max(kLeast, 2 * n_running));
}

}  // namespace hrun
