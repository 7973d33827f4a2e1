#include "model/placement.h"

#include <algorithm>

namespace hrun {
namespace {

constexpr int64_t kPositions = 16384, kBatch = 512;

// About what a Workspace takes and a backend's scratch beside it: as much again.
size_t working_bytes(const HyperParams& p, int64_t positions) {
  const int64_t batch = std::min(kBatch, positions),
                heads = p.n_heads * (p.k_dim + p.v_dim) + p.n_kv_heads * (p.k_dim + p.v_dim);
  const int64_t experts = p.n_experts_used * (2 * p.n_embd + 2 * p.n_ff_expert);
  const int64_t activations = batch * (5 * p.n_embd + heads + 2 * p.n_ff + experts);
  const int64_t logits = std::clamp<int64_t>((16 << 20) / p.n_vocab, 1, batch) * p.n_vocab,
                rotary = positions * p.n_rot;
  return static_cast<size_t>(2 * (activations + logits) + rotary) * sizeof(float);
}

}  // namespace

int64_t layers_that_fit(const gguf::File& file, const ModelPlan& plan, const DeviceRoom& room) {
  const HyperParams& p = plan.params;
  const auto bytes = [&](const gguf::TensorInfo* info) {
    if (!info) return size_t{0};
    const TensorView view = file.view(*info);
    return room.weight_bytes(view.format, view.rows, view.cols);
  };
  const int64_t positions = std::min(p.n_ctx_train, kPositions);
  const size_t held_back = room.free_bytes / 16 + working_bytes(p, positions);
  if (held_back > room.free_bytes) return 0;
  const size_t budget = room.free_bytes - held_back,
               cache = static_cast<size_t>(positions) *
                       static_cast<size_t>(p.n_kv_heads * (p.k_dim + p.v_dim)) * 2;
  size_t used = 0;
  int64_t fitting = 0;
  for (int64_t l = p.n_layers - 1; l >= 0; --l) {
    used += cache;
    for (const gguf::TensorInfo* info : plan.layers[static_cast<size_t>(l)]) used += bytes(info);
    if (used > budget) return fitting;
    ++fitting;
  }
  // The head, the embedding beside it, and the norms.
  for (const gguf::TensorInfo* info : plan.globals) used += bytes(info);
  if (plan.tied_head) used += bytes(plan.global(Role::token_embd));
  return used > budget ? fitting : fitting + 1;
}

}  // namespace hrun
