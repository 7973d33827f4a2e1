// Operations that wait for the next of a pass, so that one launch does both.  The bits are those of
// the operations alone.  If the next operation is not the one that was waited for, the waiting ones
// are done first: the caller of the backend sees nothing of it.
#include <utility>

#include "cuda/cuda_backend_parts.h"
#include "cuda/kernels/elementwise.h"

namespace hrun::gpu {

void CudaBackend::flush(Keep keep) {
  if (!pending_.products.empty() && keep != Keep::products)
    gpu::matmul(gpu_, std::exchange(pending_.products, {}), pending_.input);
  if (pending_.join && keep != Keep::products)
    join_parts(gpu_, *std::exchange(pending_.join, std::nullopt));
  if (pending_.mix && keep != Keep::products) {
    const Mix mix = *std::exchange(pending_.mix, std::nullopt);
    gpu::mix_rows(gpu_, mix.x, mix.rows, mix.weights, mix.per_token, mix.out);
  }
  if (pending_.heads.empty() || keep == Keep::heads) return;
  for (const HeadsTask& task : std::exchange(pending_.heads, {})) {
    const FloatView rows{task.x.data, task.x.rows * task.n_heads, task.dim, task.dim};
    if (task.norm && task.norm_first) gpu::rms_norm(gpu_, rows, task.norm, task.eps, rows);
    if (task.turned) gpu::rope(gpu_, task.x, task.n_heads, task.rope, step_positions());
    if (task.norm && !task.norm_first) gpu::rms_norm(gpu_, rows, task.norm, task.eps, rows);
  }
}

bool CudaBackend::wait_for_end(std::span<const PackedProduct> parts, const QuantizedRows& input) {
  if (!may_wait() || parts.size() > 2 || input.n_tokens > kMostAddedTokens) return false;
  pending_.products.assign(parts.begin(), parts.end());
  pending_.input = input;
  return true;
}

bool CudaBackend::add_to_pending(FloatView x, FloatView y) {
  if (pending_.mix && pending_.mix->out.data == y.data && same_shape(pending_.mix->out, y)) {
    const Mix mix = *std::exchange(pending_.mix, std::nullopt);
    gpu::mix_rows(gpu_, mix.x, mix.rows, mix.weights, mix.per_token, mix.out, x);
    return true;
  }
  if (pending_.products.size() != 1) return false;
  PackedProduct& product = pending_.products[0];
  if (product.add.data || product.y.data != y.data || !same_shape(product.y, y)) return false;
  product.add = x;
  return true;
}

// Makes the input of a matmul whose first matrix is `weights`, if it is the operation that was
// waited for: the products' own launch then does it.
bool CudaBackend::quantize_with_pending(const CudaTensor& weights, PreparedInput& input) {
  const MatmulInput& from = input.from;
  if (!weights.packed) return false;
  const InputForm kind = weights.info->input_form;
  QuantizedRows& rows = input.quantized[static_cast<size_t>(kind)];
  if (pending_.join) {
    if (from.norm || from.gate.data || pending_.join->out.data != from.x.data ||
        !same_shape(pending_.join->out, from.x) || !can_join_and_quantize(*pending_.join))
      return false;
    rows = memory_for(from.x, kind);
    join_and_quantize(gpu_, *std::exchange(pending_.join, std::nullopt), kind, rows);
    return true;
  }
  const std::vector<PackedProduct>& products = pending_.products;
  if (products.empty()) return false;
  const auto is = [](const FloatView& a, const FloatView& b) {
    return a.data == b.data && a.stride == b.stride && same_shape(a, b);
  };
  const bool normed = from.norm && !from.gate.data && products.size() == 1 &&
                      products[0].add.data && is(products[0].add, from.x);
  const bool gated = !from.norm && from.gate.data && products.size() == 2 &&
                     is(products[0].y, from.gate) && is(products[1].y, from.x);
  if (!(normed || gated) || !can_end(pending_.input, products[0].w.rows)) return false;
  if (!end_counters_) {
    if (recording_) return false;
    end_counters_ = std::make_unique<Memory>(gpu_, kEndCounters * sizeof(int), "counters");
    gpu_.clear(end_counters_->data, end_counters_->bytes);
  }
  rows = memory_for(from.x, kind);
  const MatmulEnd end{source(from), kind, rows, static_cast<int*>(end_counters_->data)};
  gpu::matmul(gpu_, std::exchange(pending_.products, {}), pending_.input, &end);
  return true;
}

namespace {

HeadsTask* find(std::vector<HeadsTask>& heads, const float* data) {
  for (HeadsTask& task : heads)
    if (task.x.data == data) return &task;
  return nullptr;
}

}  // namespace

// A norm in place, of rows that lie one after the other, with several or one to each row of the
// batch: it may be a norm of heads.
bool CudaBackend::wait_as_head_norm(FloatView x, const float* weight, float eps, FloatView out) {
  const int64_t n_rows = pass_.batch.n_rows();
  const bool fits = may_wait() && x.data == out.data && x.stride == x.cols &&
                    out.stride == x.cols && x.cols <= kMostHeadDim && x.rows % n_rows == 0;
  if (fits) {
    const auto n_heads = static_cast<int>(x.rows / n_rows), dim = static_cast<int>(x.cols);
    if (HeadsTask* const task = find(pending_.heads, x.data);
        task && !task->norm && task->n_heads == n_heads && task->dim == dim &&
        task->x.stride == n_heads * dim) {
      task->norm = weight, task->eps = eps;
      return true;
    }
    if (!find(pending_.heads, x.data) && pending_.heads.size() < 2) {
      pending_.heads.push_back({.x = {x.data, n_rows, n_heads * dim, n_heads * dim},
                                .n_heads = n_heads,
                                .dim = dim,
                                .norm = weight,
                                .eps = eps,
                                .norm_first = true});
      return true;
    }
  }
  flush(Keep::nothing);
  return false;
}

bool CudaBackend::wait_as_turn(FloatView x, int n_heads, const Rope& rope) {
  const int64_t dim = x.cols / n_heads;
  if (may_wait() && dim <= kMostHeadDim && rope.n_rot > 0) {
    HeadsTask* const task = find(pending_.heads, x.data);
    if (task && !task->turned && task->n_heads == n_heads && task->dim == dim &&
        (task->x.stride == x.stride || x.rows == 1)) {
      task->turned = true, task->rope = rope;
      return true;
    }
    if (!task && pending_.heads.size() < 2) {
      pending_.heads.push_back(
          {.x = x, .n_heads = n_heads, .dim = static_cast<int>(dim), .turned = true, .rope = rope});
      return true;
    }
  }
  flush(Keep::nothing);
  return false;
}

// Norms and turns that wait are those of these keys and of queries, and the write does them too.
bool CudaBackend::append_pending(const KVPages& cache, FloatView k, FloatView v,
                                 const Batch& batch) {
  const HeadsTask* const keys = find(pending_.heads, k.data);
  const bool fits = keys && keys->n_heads == cache.n_kv_heads && keys->dim == cache.k_dim &&
                    keys->x.rows == k.rows;
  if (!fits) {
    flush(Keep::nothing);
    return false;
  }
  const std::vector<HeadsTask> heads = std::exchange(pending_.heads, {});
  HeadsTask q{}, own = heads[0].x.data == k.data ? heads[0] : heads[1];
  if (heads.size() == 2) q = heads[0].x.data == k.data ? heads[1] : heads[0];
  own.x.stride = k.stride;
  finish_heads(gpu_, q, own, cache, v, batch_on_device(batch));
  return true;
}

}  // namespace hrun::gpu
