// The operations of backend.h on the CPU: checks, splitting over threads, scratch; the arithmetic
// is in the kernels of the tier.  Calls from several threads take turns.
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "backend/backend.h"
#include "backend/plugin.h"
#include "base/threads.h"
#include "cpu/memory.h"
#include "cpu/tiers.h"
#include "formats/list.h"

namespace hrun {

// Weights stay where the file is mapped; where the tier has a kernel for it, matmul reads a
// repacked copy (panels/layout.h).
class CpuTensor final : public DeviceTensor {
 public:
  const uint8_t* data = nullptr;
  size_t row_bytes = 0;
  const FormatInfo* info = nullptr;
  const FormatKernels* kernels = nullptr;
  std::unique_ptr<DeviceBuffer> packed;
  size_t panel_bytes = 0;
  std::vector<float> vector;  // decoded, where there is one row: a norm or a bias

  const uint8_t* row(int64_t r) const { return data + static_cast<size_t>(r) * row_bytes; }
};

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(const BackendOptions& options);

  static DeviceDescription device();

  std::string description() const override;
  int n_threads() const override { return pool_.n_threads(); }
  const CpuTier& tier() const { return tier_; }
  // The blocks that attention has read since the backend was made.
  CodedBlocks coded_blocks_read() const { return {coded_keys_read_, coded_values_read_}; }

  std::unique_ptr<DeviceBuffer> allocate(size_t bytes, std::string_view purpose) override;
  void write(void* to, std::span<const uint8_t> from) override;
  void read(const void* from, std::span<uint8_t> to) override;

  void time_operations(bool on) override;
  OperationTimes operation_times() override;

 private:
  void do_embed(const DeviceTensor& table, std::span<const int32_t> tokens, FloatView out) override;
  void do_rms_norm(FloatView x, const DeviceTensor& weight, float eps, FloatView out) override;
  void do_layer_norm(FloatView x, const DeviceTensor& weight, const DeviceTensor* bias, float eps,
                     FloatView out) override;
  void do_matmul(std::span<const MatmulTarget> targets, const MatmulInput& x) override;
  void do_matmul_parts(std::span<const MatmulPart> parts, const MatmulInput& x) override;
  void do_rope(FloatView x, int n_heads, const Rope& rope, const Batch& batch) override;
  std::unique_ptr<DeviceCache> do_make_cache(const CachePlan& plan,
                                             std::string_view purpose) override;
  void do_kv_append(const CacheSlot& cache, FloatView k, FloatView v, const Batch& batch,
                    const KeyContext& keys) override;
  void do_attention(FloatView q, const CacheSlot& cache, const Batch& batch,
                    const AttentionShape& shape, FloatView out) override;
  std::unique_ptr<DeviceStates> do_make_states(const StatePlan& plan,
                                               std::string_view purpose) override;
  void do_short_conv(FloatView x, const DeviceTensor& taps, const StateSlot& state,
                     const Batch& batch, bool silu, FloatView out) override;
  void do_delta_rule(const DeltaInput& in, const DeltaHeads& heads, const StateSlot& state,
                     const Batch& batch, FloatView out) override;
  void do_wkv(const WkvInput& in, const StateSlot& state, const Batch& batch,
              FloatView out) override;
  void do_ssm_scan(const ScanInput& in, const StateSlot& state, const Batch& batch,
                   FloatView out) override;
  void do_l2_norm(FloatView x, int n_heads, float eps, float scale) override;
  void do_decay(FloatView x, const DeviceTensor& bias, const DeviceTensor& rate) override;
  void do_silu_mul(FloatView gate, FloatView up, FloatView out) override;
  void do_gated(Nonlinearity f, FloatView gate, FloatView up, FloatView out) override;
  void do_nonlinearity(Nonlinearity f, FloatView x, FloatView out) override;
  void do_xielu(FloatView x, const Xielu& f) override;
  void do_add(FloatView x, FloatView y) override;
  void do_add_bias(FloatView x, const DeviceTensor& bias) override;
  void do_scale(FloatView x, float factor) override;
  void do_soft_cap(FloatView x, float cap) override;
  void do_copy_heads(FloatView from, int64_t from_step, FloatView to, int64_t to_step, int n_heads,
                     int64_t width) override;
  void do_scale_columns(FloatView x, const DeviceTensor& weight, FloatView out) override;
  void do_mix_heads(FloatView factors, float shift, FloatView x, int n, FloatView base,
                    FloatView out) override;
  void do_match_rms(FloatView x, FloatView y, float least) override;
  void do_keep_above(FloatView x, float deviations) override;
  void do_gather_rows(FloatView x, std::span<const int32_t> rows, FloatView out) override;
  void do_mix_rows(FloatView x, std::span<const int32_t> rows, std::span<const float> weights,
                   FloatView out) override;
  std::unique_ptr<DeviceTensor> do_upload(const TensorView& view, const FormatInfo& info,
                                          TensorUse use) override;

  // The input of a matmul in the forms its targets want, each made once.
  struct PreparedInput {
    ActivationSource source;
    bool has_quantized[kActivations] = {}, has_packed[kActivations] = {};
    QuantizedRows quantized[kActivations];
    PackedActivations packed[kActivations];
    FloatView x;  // stored
    FloatView rotated[kActivations];
  };
  struct QuantizedScratch {
    Scratch codes, scale, sums, rotated;
    Scratch packed_codes, packed_scale, block_sums, sums8, sums16, sums32;
  };

  // Positions of one page of a span.
  struct AppendPart {
    const RowSpan* span;
    int64_t page;  // of the span

    int32_t page_id() const { return span->pages[static_cast<size_t>(page)]; }
    int64_t first() const { return std::max(page * kPagePositions, span->first_position); }
    int64_t end() const { return std::min((page + 1) * kPagePositions, span->end_position()); }
    bool completes_page() const { return end() == (page + 1) * kPagePositions; }
    int64_t row(int64_t position) const {
      return span->first_row + position - span->first_position;
    }
  };
  // Some rows of a span for the query heads of one kv head.  They have all the positions that they
  // see, or, with `partial`, some blocks of them.
  struct AttentionPiece {
    const RowSpan* span;
    int64_t kv_head;
    int64_t first_row, n_rows;  // of the span
    int64_t first_block, n_blocks;
    int64_t cost;
    int64_t partial = -1;  // floats into the scratch where the result of each block goes
    int64_t prepared = 0;  // and into that of the queries for coded keys
  };
  // A span whose positions are shared out, and the place where the results are joined.
  struct SplitSpan {
    const RowSpan* span;
    int64_t first_block, n_blocks;
    int64_t partial, prepared;
  };

  class Turn;

  void store_rows(const CacheLayer& layer, const FloatView& k, const FloatView& v,
                  const AppendPart& part, int64_t head, int worker, uint8_t* keys, uint8_t* values);
  void append_coded(const CacheSlot& cache, const FloatView& k, const FloatView& v,
                    const Batch& batch, const KeyContext& keys);
  void code_page(const CacheSlot& cache, const AppendPart& part, int64_t head,
                 const KeyContext& keys, int worker);
  CodedAttentionTask coded_task(const CacheSlot& cache, std::span<const int32_t> pages,
                                int64_t head, const Rope* rope, const AttentionTask& task) const;
  int64_t tasks_together(int64_t n_tasks, int64_t values_per_task) const;
  template <class Function>
  void parallel(int64_t n_tasks, int64_t values_per_task, Function&& fn);
  template <class Function>
  void for_columns(const StateSlot& state, const Batch& batch, int64_t n_rows, Function&& run);
  const float* signs(int64_t cols);
  void quantize(const ActivationSource& from, InputForm kind, QuantizedRows& out);
  void quantize_packed(const ActivationSource& from, InputForm kind, PackedActivations& out);
  void pack(CpuTensor& tensor);
  bool uses_packed(const CpuTensor& tensor) const;
  void rotate(FloatView x, InputForm kind, FloatView& out);
  ActivationSource source(const MatmulInput& input);
  FloatView materialise(const MatmulInput& input);
  void prepare(const CpuTensor& w, const MatmulInput& from, PreparedInput& input);
  void multiply(std::span<const MatmulPart> parts, const MatmulInput& from, Turn& turn);
  void multiply_packed(const MatmulPart& part, int64_t first_panel, int64_t most_panels,
                       const PreparedInput& input, int worker);
  void multiply_panel(const MatmulPart& part, int64_t first_row, const PreparedInput& input,
                      int worker);

  const CpuTier& tier_;
  const KernelTable& kernels_;
  const RotatedMatmul rotated_matmul_;
  const Prefetch prefetch_;
  ThreadPool pool_;
  std::mutex mutex_;
  OperationTimes times_;
  std::vector<float> signs_;
  PackedMemory packed_memory_;
  Scratch inverse_, input_, partial_, prepared_;
  std::vector<MatmulPart> parts_;
  std::vector<AppendPart> append_parts_;
  std::vector<AttentionPiece> attention_pieces_;
  std::vector<float> alibi_slopes_;  // by head
  std::vector<SplitSpan> attention_splits_;
  std::atomic<int64_t> coded_keys_read_ = 0, coded_values_read_ = 0;
  std::vector<int64_t> first_tasks_;  // of each part of a matmul, and their number
  QuantizedScratch quantized_[kActivations];
  std::vector<Scratch> worker_scratch_;  // one per worker
};

}  // namespace hrun
