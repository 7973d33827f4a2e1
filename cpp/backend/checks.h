// Backend checks the arguments of an operation with these before it is done.  All throw
// ArgumentError, naming the operation and what was expected.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "backend/backend.h"
#include "base/error.h"
#include "formats/list.h"

namespace hrun {

inline void require(bool ok, std::string_view operation, std::string_view expected) {
  if (!ok) throw ArgumentError("{}: expected {}", operation, expected);
}

inline bool same_shape(const FloatView& a, const FloatView& b) {
  return a.rows == b.rows && a.cols == b.cols;
}

}  // namespace hrun

namespace hrun::checks {

inline bool is_vector(const DeviceTensor& t, int64_t values) {
  return t.rows == 1 && t.cols == values;
}

// Returns the format of the tensor.  Throws UnsupportedModelError for an unknown format, or for a
// shape that does not fit it.
inline const FormatInfo& upload(const TensorView& view) {
  const FormatInfo* const info = find_format(view.format);
  const std::string name = printable(view.name);
  if (!info)
    throw UnsupportedModelError("tensor '{}': unknown format id {}; known: {}", name, view.format,
                                format_names());
  if (view.rows <= 0 || !info->row_ok(view.cols))
    throw UnsupportedModelError(
        "tensor '{}': {} rows of {} values do not fit format {} (blocks of {})", name, view.rows,
        view.cols, info->name, info->block_values);
  if (view.row_bytes != info->row_bytes(view.cols))
    throw ArgumentError("tensor '{}': rows of {} bytes, expected {}", name, view.row_bytes,
                        info->row_bytes(view.cols));
  return *info;
}

inline void slice(const TensorView& view, const TensorView& first) {
  require(view.format == first.format && view.rows == first.rows && view.cols == first.cols &&
              view.row_bytes == first.row_bytes,
          "upload_slices", "slices of one shape and format");
}

inline void embed(const DeviceTensor& table, std::span<const int32_t> tokens,
                  const FloatView& out) {
  require(out.cols == table.cols && out.rows == static_cast<int64_t>(tokens.size()), "embed",
          "out of [n_tokens, columns of the table]");
  for (const int32_t token : tokens)
    if (token < 0 || token >= table.rows)
      throw ArgumentError("token {} is outside the vocabulary of {}", token, table.rows);
}

inline void rms_norm(const FloatView& x, const DeviceTensor& weight, const FloatView& out) {
  require(same_shape(x, out) && is_vector(weight, x.cols), "rms_norm",
          "x and out of one shape and a weight per column");
}

inline void layer_norm(const FloatView& x, const DeviceTensor& weight, const DeviceTensor* bias,
                       const FloatView& out) {
  require(same_shape(x, out) && is_vector(weight, x.cols) && (!bias || is_vector(*bias, x.cols)),
          "layer_norm", "x and out of one shape, and a weight and a bias per column");
}

inline void matmul_input(const MatmulInput& from) {
  require(!from.norm || is_vector(*from.norm, from.x.cols), "matmul", "a norm weight per column");
  require(!from.gate.data || same_shape(from.gate, from.x), "matmul", "a gate of the shape of x");
}

inline void matmul(std::span<const MatmulTarget> targets, const MatmulInput& from) {
  matmul_input(from);
  for (const MatmulTarget& target : targets)
    require(target.weights->cols == from.x.cols && target.y.rows == from.x.rows &&
                target.y.cols == target.weights->rows,
            "matmul",
            "x of [n_tokens, columns of the weights] and y of [n_tokens, rows of the weights]");
}

inline void matmul_parts(std::span<const MatmulPart> parts, const MatmulInput& from) {
  matmul_input(from);
  for (const MatmulPart& part : parts)
    require(part.weights->cols == from.x.cols && part.first >= 0 &&
                part.first + part.y.rows <= from.x.rows && part.y.cols == part.weights->rows,
            "matmul_parts",
            "rows of x of the columns of the weights, and y of [n_tokens, rows of the weights]");
}

inline void matmul_heads(Slices weights, const FloatView& x, int64_t x_step, const FloatView& y,
                         int64_t y_step) {
  require(!weights.empty() && x.rows == y.rows, "matmul_heads",
          "heads, and as many rows of y as of x");
  const auto last = static_cast<int64_t>(weights.size()) - 1;
  require(last * x_step + weights.front()->cols <= x.cols &&
              last * y_step + weights.front()->rows <= y.cols,
          "matmul_heads", "heads inside x and y");
}

inline void experts(const ExpertBlock& block, const FloatView& logits, const FloatView& x,
                    const ExpertScratch& scratch, const FloatView& out) {
  const ExpertRule& rule = block.rule;
  const auto n = static_cast<size_t>(rule.n_experts);
  require(block.up.size() == n && block.down.size() == n &&
              (block.gate.empty() || block.gate.size() == n),
          "experts", "matrices of every expert");
  require(rule.n_used > 0 && rule.n_used <= rule.n_experts, "experts",
          "fewer experts per token than there are");
  require(logits.rows == x.rows && logits.cols == rule.n_experts && same_shape(x, out) &&
              block.up.front()->cols == x.cols && block.down.front()->rows == x.cols,
          "experts", "a logit per row and expert, and rows of the columns of the matrices");
  const int64_t slots = x.rows * rule.n_used;
  const auto fits = [&](const FloatView& view, Slices w) {
    return w.empty() || (view.rows >= slots && view.cols == w.front()->rows);
  };
  require(fits(scratch.gate, block.gate) && fits(scratch.up, block.up) &&
              fits(scratch.mixed, block.down),
          "experts", "scratch of a row per token and expert");
}

inline void rows(const Batch& batch, int64_t n, std::string_view operation) {
  require(batch.n_rows() == n, operation, "a position for each row");
}

inline void rope(const FloatView& x, int n_heads, const Rope& rope, const Batch& batch) {
  require(n_heads > 0 && x.cols % n_heads == 0 && rope.n_rot % 2 == 0 && rope.first >= 0 &&
              rope.first + rope.n_rot <= x.cols / n_heads,
          "rope", "whole heads that hold the values to turn");
  rows(batch, x.rows, "rope");
}

// Throws unless every span lies in pages of the cache.
inline void pages(const DeviceCache& cache, const Batch& batch, int64_t n_rows,
                  std::string_view operation) {
  rows(batch, n_rows, operation);
  int64_t row = 0;
  for (const RowSpan& span : batch.spans) {
    require(span.first_row == row && span.n_rows > 0 && span.first_position >= 0, operation,
            "spans that cover the rows in order");
    row += span.n_rows;
    require(static_cast<int64_t>(span.pages.size()) * kPagePositions >= span.end_position(),
            operation, "a page for every position");
    for (const int32_t page : span.pages)
      require(page >= 0 && page < cache.n_pages(), operation, "pages of the cache");
  }
  require(row == n_rows, operation, "spans that cover all rows");
}

inline void kv_append(const CacheSlot& cache, const FloatView& k, const FloatView& v,
                      const Batch& batch) {
  const CacheLayer& layer = cache.layer();
  require(k.rows == v.rows && k.cols == static_cast<int64_t>(layer.n_kv_heads) * layer.k_dim &&
              v.cols == static_cast<int64_t>(layer.n_kv_heads) * layer.v_dim,
          "kv_append", "keys and values of [n_rows, n_kv_heads * dim]");
  pages(*cache.cache, batch, k.rows, "kv_append");
}

inline void attention(const FloatView& q, const CacheSlot& cache, const Batch& batch,
                      const AttentionShape& shape, const FloatView& out) {
  const CacheLayer& layer = cache.layer();
  require(shape.n_heads > 0 && layer.n_kv_heads > 0 && shape.n_heads % layer.n_kv_heads == 0,
          "attention", "query heads in equal groups per kv head");
  require(q.cols == static_cast<int64_t>(shape.n_heads) * layer.k_dim &&
              out.cols == static_cast<int64_t>(shape.n_heads) * layer.v_dim && q.rows == out.rows,
          "attention", "q of [n_rows, n_heads * k_dim] and out of [n_rows, n_heads * v_dim]");
  require(!shape.sinks || is_vector(*shape.sinks, shape.n_heads), "attention", "one sink per head");
  require(shape.max_alibi_bias >= 0 && (shape.max_alibi_bias == 0 || !layer.is_coded()),
          "attention", "a cache that is not coded, where scores shrink with distance");
  pages(*cache.cache, batch, q.rows, "attention");
  if (shape.causal) return;
  require(!layer.is_coded(), "attention", "a cache that is not coded, where it is not causal");
  for (const RowSpan& span : batch.spans)
    require(span.first_position == 0, "attention", "whole sequences, where it is not causal");
}

// Throws unless the cache can be made: it needs at least a page, and layers with heads of some
// size.
inline void cache_plan(const CachePlan& plan) {
  require(plan.n_pages > 0, "make_cache", "at least one page");
  for (const CacheLayer& layer : plan.layers)
    require(layer.n_kv_heads > 0 && layer.k_dim > 0 && layer.v_dim > 0, "make_cache",
            "heads with keys and values");
}

inline void state_plan(const StatePlan& plan) {
  require(plan.n_slots > 0, "make_states", "at least one slot");
  for (const StateLayer& layer : plan.layers)
    require(layer.n_channels >= 0 && layer.n_past >= 0 && layer.n_past < kMaxConvTaps &&
                layer.n_heads >= 0 && layer.k_dim >= 0 && layer.k_dim <= kMaxStateRows &&
                layer.v_dim >= 0 &&
                (plan.n_log_rows == 0 || layer.n_heads == 0 ||
                 (layer.n_k_heads > 0 && layer.n_heads % layer.n_k_heads == 0)),
            "make_states", "convolutions and matrices of a size that kernels do");
  require(plan.n_log_rows >= 0, "make_states", "a number of records");
}

inline void state(const DeviceStates& states, int32_t slot, std::string_view operation) {
  require(slot >= 0 && slot < states.n_slots(), operation, "a slot of the states");
}

// Throws unless every span has a state of its own.
inline void states(const StateSlot& state, const Batch& batch, int64_t n_rows,
                   std::string_view operation) {
  rows(batch, n_rows, operation);
  int64_t row = 0;
  for (const RowSpan& span : batch.spans) {
    require(span.first_row == row && span.n_rows > 0, operation,
            "spans that cover the rows in order");
    row += span.n_rows;
    checks::state(*state.states, span.state, operation);
    if (span.kept >= 0) {
      checks::state(*state.states, span.kept, operation);
      require(span.kept != span.state && span.kept_at >= 0 && span.kept_at < span.n_rows, operation,
              "a state kept in another slot, before one of the rows");
    }
    require(span.log_row < state.states->n_log_rows(), operation, "a record of the redo log");
  }
  require(row == n_rows, operation, "spans that cover all rows");
}

inline void redo(const DeviceStates& states, int32_t from, int32_t to, int64_t log_row, int64_t n) {
  if (from >= 0) state(states, from, "redo");
  state(states, to, "redo");
  require(n >= 0 && n <= states.n_log_rows() && log_row >= 0 &&
              (n == 0 || log_row < states.n_log_rows()),
          "redo", "records of the redo log");
}

inline void short_conv(const FloatView& x, const DeviceTensor& taps, const StateSlot& state,
                       const Batch& batch, const FloatView& out) {
  const StateLayer& layer = state.layer();
  require(same_shape(x, out) && x.cols == layer.n_channels &&
              is_vector(taps, x.cols * (layer.n_past + 1)),
          "short_conv", "x and out of the channels of the state, and taps for each");
  states(state, batch, x.rows, "short_conv");
}

inline void delta_rule(const DeltaInput& in, const DeltaHeads& heads, const StateSlot& state,
                       const Batch& batch, const FloatView& out) {
  const StateLayer& layer = state.layer();
  require(heads.n_k_heads > 0 && heads.n_v_heads > 0 && heads.n_v_heads % heads.n_k_heads == 0 &&
              heads.n_v_heads == layer.n_heads,
          "delta_rule", "the value heads of the state, in equal groups per key head");
  const int64_t keys = static_cast<int64_t>(heads.n_k_heads) * layer.k_dim;
  require(in.q.cols == keys && in.k.cols == keys && same_shape(in.q, in.k) &&
              same_shape(in.v, out) &&
              out.cols == static_cast<int64_t>(heads.n_v_heads) * layer.v_dim &&
              in.decay.cols == heads.n_v_heads && same_shape(in.decay, in.beta) &&
              in.q.rows == out.rows && in.beta.rows == out.rows,
          "delta_rule", "whole heads, and a decay and a beta for each");
  require(
      in.q.stride == in.v.stride && in.k.stride == in.v.stride && in.decay.stride == in.beta.stride,
      "delta_rule", "rows of one stride");
  states(state, batch, out.rows, "delta_rule");
}

inline void ssm_scan(const ScanInput& in, const StateSlot& state, const Batch& batch,
                     const FloatView& out) {
  const StateLayer& layer = state.layer();
  require(in.n_groups > 0 && layer.n_heads > 0 && layer.n_heads % in.n_groups == 0, "ssm_scan",
          "the heads of the state, in equal groups");
  const int64_t shared = static_cast<int64_t>(in.n_groups) * layer.k_dim;
  const int64_t values = static_cast<int64_t>(layer.n_heads) * layer.v_dim;
  require(in.b.cols == shared && same_shape(in.b, in.c) && same_shape(in.x, out) &&
              out.cols == values && in.decay.cols == layer.n_decays() &&
              in.step.cols == layer.n_steps() && in.b.rows == out.rows &&
              in.step.rows == out.rows && (layer.rates || in.decay.rows == out.rows) &&
              (!in.skip || is_vector(*in.skip, layer.n_steps())),
          "ssm_scan", "whole heads, and a decay, a step and a skip for each");
  require(!layer.rates || is_vector(*layer.rates, values * layer.k_dim), "ssm_scan",
          "a rate for each number of the state");
  require(in.b.stride == in.c.stride && (layer.rates || in.decay.stride == in.step.stride),
          "ssm_scan", "rows of one stride");
  states(state, batch, out.rows, "ssm_scan");
}

inline void wkv(const WkvInput& in, const StateSlot& state, const Batch& batch,
                const FloatView& out) {
  const StateLayer& layer = state.layer();
  require(layer.rule == Recurrence::wkv && layer.n_k_heads == layer.n_heads, "wkv",
          "a state of this rule, with a head of keys for each head");
  const int64_t keys = int64_t{layer.n_heads} * layer.k_dim;
  require(same_shape(in.v, out) && out.cols == int64_t{layer.n_heads} * layer.v_dim &&
              in.q.rows == out.rows && in.q.cols == keys,
          "wkv", "whole heads");
  for (const FloatView& other : {in.decay, in.k, in.removed, in.replaced})
    require(same_shape(in.q, other), "wkv", "decays, keys and what is replaced as the queries");
  states(state, batch, out.rows, "wkv");
}

inline void heads(const FloatView& x, int n_heads, std::string_view operation) {
  require(n_heads > 0 && x.cols % n_heads == 0, operation, "whole heads");
}

inline void decay(const FloatView& x, const DeviceTensor& bias, const DeviceTensor& rate) {
  require(is_vector(bias, x.cols) && is_vector(rate, x.cols), "decay",
          "a bias and a rate per column");
}

inline void copy_page(const DeviceCache& cache, int32_t from, int32_t to, int64_t n_positions) {
  require(from >= 0 && from < cache.n_pages() && to >= 0 && to < cache.n_pages() && from != to,
          "copy_page", "two pages of the cache");
  require(n_positions >= 0 && n_positions <= kPagePositions, "copy_page", "positions of a page");
}

inline void gated(const FloatView& gate, const FloatView& up, const FloatView& out,
                  std::string_view operation = "gated") {
  require(same_shape(gate, up) && same_shape(gate, out), operation, "three views of one shape");
}

inline void nonlinearity(Nonlinearity f, const FloatView& x, const FloatView& out) {
  require(same_shape(x, out) && f != Nonlinearity::clamped_silu && f != Nonlinearity::xielu,
          "nonlinearity", "two views of one shape, and a function of one value");
}

inline void add(const FloatView& x, const FloatView& y) {
  require(same_shape(x, y), "add", "two views of one shape");
}

inline void add_bias(const FloatView& x, const DeviceTensor& bias) {
  require(is_vector(bias, x.cols), "add_bias", "one bias per column");
}

inline void soft_cap(float cap) { require(cap > 0, "soft_cap", "a positive cap"); }

inline void copy_heads(const FloatView& from, int64_t from_step, const FloatView& to,
                       int64_t to_step, int n_heads, int64_t width) {
  const auto inside = [&](const FloatView& view, int64_t step) {
    return step >= 0 && (n_heads - 1) * step + width <= view.cols;
  };
  require(n_heads > 0 && from.rows == to.rows && inside(from, from_step) && inside(to, to_step),
          "copy_heads", "heads inside both views");
}

inline void scale_columns(const FloatView& x, const DeviceTensor& weight, const FloatView& out) {
  require(same_shape(x, out) && is_vector(weight, x.cols), "scale_columns",
          "x and out of one shape and a weight per column");
}

inline void mix_heads(const FloatView& factors, const FloatView& x, int n, const FloatView& base,
                      const FloatView& out) {
  require(n > 0 && x.cols > 0 && x.cols % n == 0 && out.cols % (x.cols / n) == 0, "mix_heads",
          "whole heads");
  require(same_shape(base, out) && x.rows == out.rows && factors.rows == out.rows &&
              factors.cols == out.cols / (x.cols / n) * n && x.data != out.data,
          "mix_heads", "base and out of one shape, and a factor for each two heads");
}

inline void match_rms(const FloatView& x, const FloatView& y, float least) {
  require(x.rows == y.rows && x.cols > 0 && y.cols > 0 && least > 0, "match_rms",
          "as many rows of y as of x, and a positive mean of squares");
}

inline void gather_rows(const FloatView& x, std::span<const int32_t> rows, const FloatView& out) {
  require(out.rows == static_cast<int64_t>(rows.size()) && out.cols == x.cols, "gather_rows",
          "a row of out per index");
  for (const int32_t row : rows) require(row >= 0 && row < x.rows, "gather_rows", "rows of x");
}

inline void mix_rows(const FloatView& x, std::span<const int32_t> rows,
                     std::span<const float> weights, const FloatView& out) {
  require(out.rows > 0 && rows.size() == weights.size() &&
              static_cast<int64_t>(rows.size()) % out.rows == 0 && out.cols == x.cols,
          "mix_rows", "as many weights as rows, equally many per token");
  for (const int32_t row : rows) require(row >= 0 && row < x.rows, "mix_rows", "rows of x");
}

inline void weigh_rows(const FloatView& logits, const FloatView& x, const FloatView& out) {
  require(logits.cols == 1 && logits.stride == 1 && logits.rows == x.rows && same_shape(x, out),
          "weigh_rows", "x and out of one shape, and a logit per row");
}

}  // namespace hrun::checks
