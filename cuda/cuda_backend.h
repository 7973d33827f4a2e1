// The operations of backend.h on one CUDA device (or its emulation): checks, memory, and which
// kernel runs.
//
// Everything is asynchronous in one stream; only read() waits.  A repeatable pass over a few tokens
// is recorded as a graph when it comes for the third time with as many positions (to a power of
// two), and replayed from then on: the position and the tokens are read from device memory, where
// begin_pass() puts them.  Calls from several threads take turns; a pass is one turn.
#pragma once

#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "backend/backend.h"
#include "backend/operation_times.h"
#include "cuda/device/attention_parts.h"
#include "cuda/gpu.h"
#include "cuda/kernels/attention.h"
#include "cuda/kernels/matmul.h"
#include "cuda/kernels/quantize.h"
#include "cuda/memory.h"
#include "formats/format.h"

namespace hrun::gpu {

// A matrix in the layouts that its uses need.
class CudaTensor final : public DeviceTensor {
 public:
  const FormatInfo* info = nullptr;
  size_t row_bytes = 0;
  Piece plain;          // rows as in the file
  Piece packed;         // for the integer kernels (matmul.h)
  Piece weight_domain;  // for the weight-domain kernel (matmul_weight.h)
  Piece vector;         // fp32, where there is one row: a norm or a bias
  // A large table that is only looked up stays in the file.  The rows of a small pass are brought
  // to a place of their own, where a graph finds them.
  const uint8_t* on_host = nullptr;
  std::unique_ptr<Memory> rows_of_pass;

  PlainMatrix plain_matrix() const { return {format, rows, cols, row_bytes, plain.data}; }
  PackedMatrix packed_matrix() const { return {format, rows, cols, packed.data}; }
  const float* floats() const { return reinterpret_cast<const float*>(vector.data); }
};

class CudaCache;

class CudaBackend final : public Backend {
 public:
  CudaBackend(int device, const BackendOptions& options);
  ~CudaBackend() override;

  std::string description() const override;
  int n_threads() const override { return 1; }

  std::unique_ptr<DeviceBuffer> allocate(size_t bytes, std::string_view purpose) override;
  void write(void* to, std::span<const uint8_t> from) override;
  void read(const void* from, std::span<uint8_t> to) override;

  bool begin_pass(const PassInfo& pass) override;
  bool end_pass(bool complete) override;

  bool chooses_experts(const ExpertBlock& block) const override;

  bool samples() const override { return true; }
  SampleResult sample(const float* logits, int64_t n_vocab, const SampleSettings& settings,
                      std::span<const SampleEdit> edits, uint64_t& generator) override;

  void time_operations(bool on) override;
  OperationTimes operation_times() override;

 private:
  void do_embed(const DeviceTensor& table, std::span<const int32_t> tokens, FloatView out) override;
  void do_rms_norm(FloatView x, const DeviceTensor& weight, float eps, FloatView out) override;
  void do_layer_norm(FloatView x, const DeviceTensor& weight, const DeviceTensor* bias, float eps,
                     FloatView out) override;
  void do_matmul(std::span<const MatmulTarget> targets, const MatmulInput& x) override;
  void do_matmul_heads(Slices weights, FloatView x, int64_t x_step, FloatView y,
                       int64_t y_step) override;
  void do_experts(const ExpertBlock& block, FloatView logits, FloatView x,
                  const ExpertScratch& scratch, FloatView out) override;
  void do_weigh_rows(FloatView logits, FloatView x, FloatView out) override;
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
  std::vector<std::unique_ptr<DeviceTensor>> do_upload_slices(std::span<const TensorView> slices,
                                                              const FormatInfo& info,
                                                              TensorUse use) override;

  class Turn;
  // Operations of a pass that wait for the next one, because one launch can do both
  // (cuda_pending.cu).  A product waits for the sum that it is added to and for the norm of that.
  // Two products wait for the gate of one by the other.  Norms and turns of heads wait for the
  // write into the cache.  Attention's parts wait for the product that reads them joined.  A mix of
  // experts waits for the sum that it is added to.
  struct Mix {
    FloatView x, out;
    const int32_t* rows;
    const float* weights;
    int64_t per_token;
  };
  struct Pending {
    std::vector<PackedProduct> products;  // one or two
    QuantizedRows input;
    std::vector<HeadsTask> heads;
    std::optional<AttentionTask> join;
    std::optional<Mix> mix;
  };
  enum class Keep : uint8_t { nothing, products, heads };
  struct QuantizedScratch {
    Scratch codes, transposed, scales, sums;
    QuantizedScratch(Gpu& gpu, int64_t& moves)
        : codes(gpu, "the quantized input of a matmul", moves),
          transposed(gpu, "the quantized input of a matmul", moves),
          scales(gpu, "the quantized input of a matmul", moves),
          sums(gpu, "the quantized input of a matmul", moves) {}
  };
  struct PreparedInput;
  static constexpr int64_t kMostRecordedTokens = 8;
  friend class CudaCache;
  friend class CudaStates;
  // The work of a batch on the pages of a coded cache.  Its kernels are launched only where they
  // have to be.
  struct CodedWork {
    bool begins = false, completes = false;  // a page that begins a sequence; some page
    auto operator<=>(const CodedWork&) const = default;
  };
  // A look-up in a table on the host: by the tokens of the pass, or by their positions.
  struct Lookup {
    const CudaTensor* table;
    bool by_position;
  };
  // Owner, rows of each span, logits, positions to a power of two.
  using GraphKey = std::tuple<uint64_t, std::vector<int64_t>, int64_t, int64_t, CodedWork>;
  struct Recording {
    GraphKey key;
    int64_t moves;
    std::vector<CudaCache*> coded_caches;  // that it writes to
    std::vector<Lookup> lookups;           // whose rows it finds on the device
    std::unique_ptr<Graph> graph;          // null: seen, not recorded yet
  };

  bool may_wait() const { return fuses_ && in_pass_ && !times_.on; }
  void flush(Keep keep);
  bool wait_for_end(std::span<const PackedProduct> parts, const QuantizedRows& input);
  bool add_to_pending(FloatView x, FloatView y);
  bool quantize_with_pending(const CudaTensor& weights, PreparedInput& input);
  bool wait_as_head_norm(FloatView x, const float* weight, float eps, FloatView out);
  bool wait_as_turn(FloatView x, int n_heads, const Rope& rope);
  void forget(const CudaCache& cache) noexcept;
  static CodedWork coded_work(const Batch& batch);
  bool append_pending(const KVPages& cache, FloatView k, FloatView v, const Batch& batch);
  void put_step(const Batch& batch);
  bool recordable(const PassInfo& pass) const;
  void require_step(const Batch& batch);
  const int32_t* step_positions() const { return static_cast<const int32_t*>(step_.device->data); }
  BatchOnDevice batch_on_device(const Batch& batch) const;
  int64_t positions_bound(int64_t end) const;
  const int32_t* upload_indices(std::span<const int32_t> indices);

  void bring_rows(const CudaTensor& table, std::span<const int32_t> rows, uint8_t* to);
  void embed_from_host(const CudaTensor& table, std::span<const int32_t> rows, FloatView out);
  void upload_plain(CudaTensor& tensor, const TensorView& view);
  template <class Pack>
  void upload_in_parts(const TensorView& view, const Pack& pack);
  void upload_packed(CudaTensor& tensor, const TensorView& view);
  void upload_weight_domain(CudaTensor& tensor, const TensorView& view);
  bool multiplies_at_once(Slices slices) const;
  struct SlicedTarget;
  void multiply_slices(std::span<const SlicedTarget> targets, PreparedInput& input, int64_t slice_x,
                       const SliceTask& task);
  QuantizeSource source(const MatmulInput& input) const;
  QuantizedRows memory_for(const FloatView& x, InputForm kind);
  const QuantizedRows& quantized(PreparedInput& input, InputForm kind);
  FloatView floats(PreparedInput& input, InputForm kind);
  void multiply(const CudaTensor& w, PreparedInput& input, FloatView y);
  void multiply_decoded(const CudaTensor& w, FloatView x, bool own_basis, FloatView y);

  Gpu gpu_;
  RotatedMatmul rotated_matmul_;
  bool graphs_, fuses_, chooses_experts_;
  std::recursive_mutex mutex_;
  OperationTimes times_;

  int64_t moves_ = 0;        // of memory that graphs may know
  int64_t other_moves_ = 0;  // of memory that no recorded pass reads
  // One entry per InputForm, and two of each in turn: the input of a product, and that of the next
  // product, which it prepares.
  std::vector<QuantizedScratch> quantized_;
  size_t quantized_turn_ = 0;
  std::unique_ptr<Memory> end_counters_;
  Scratch floats_, decoded_, attention_, product_, experts_, staging_, table_rows_, indices_, draw_,
      draw_scratch_;

  // The data of a pass that the device reads: of the rows, their positions, tokens and spans; of
  // the spans, their SpanOnDevice and a page table.  It is written from pinned slots in turn.
  struct Step {
    std::unique_ptr<Memory> device;
    uint8_t* pinned = nullptr;
    size_t slot_bytes = 0;
    size_t next_slot = 0;
    // Numbers from the beginning; of a table.
    size_t tokens_at = 0, span_of_row_at = 0, spans_at = 0, tables_at = 0, table = 0;
  } step_;
  struct Pinned {
    Gpu& gpu;
    uint8_t*& memory;
    ~Pinned() { gpu.release_host(memory); }
  } step_owner_{gpu_, step_.pinned};
  Pending pending_;
  bool in_pass_ = false, recording_ = false;
  PassInfo pass_;
  GraphKey key_{};
  std::list<Recording> recordings_;      // latest first
  int64_t n_coded_caches_ = 0;           // that there are
  std::vector<CudaCache*> open_caches_;  // of this pass: their pages are open
  std::vector<Lookup> lookups_;          // of this pass
};

}  // namespace hrun::gpu
