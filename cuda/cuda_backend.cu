#include "cuda/cuda_backend.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "cuda/cuda_backend_parts.h"
#include "cuda/cuda_cache.h"
#include "cuda/kernels/coded_cache.h"
#include "cuda/kernels/elementwise.h"
#include "cuda/kernels/sample.h"
#include "formats/list.h"

namespace hrun::gpu {
namespace {

constexpr size_t kSlots = 16;             // passes that may be under way before one is waited for
constexpr int64_t kLeastPositions = 256;  // that a graph is made for
constexpr size_t kMostGraphs = 256;

}  // namespace

CudaBackend::CudaBackend(int device, const BackendOptions& options)
    : gpu_(device),
      rotated_matmul_(options.rotated_matmul),
      floats_(gpu_, "the input of a matmul", moves_),
      decoded_(gpu_, "the decoded rows of a matmul", moves_),
      attention_(gpu_, "the attention of a long context", moves_),
      product_(gpu_, "the partial sums of a matmul", moves_),
      experts_(gpu_, "the choice of experts", moves_),
      staging_(gpu_, "the upload of weights", other_moves_),
      table_rows_(gpu_, "rows of a table", other_moves_),
      indices_(gpu_, "row numbers", other_moves_),
      draw_(gpu_, "the draw of a token", other_moves_),
      draw_scratch_(gpu_, "the draw of a token", other_moves_) {
  const char* const graphs = std::getenv("HRUN_CUDA_GRAPHS");
  graphs_ = !(graphs && std::string_view(graphs) == "0");
  const char* const fusion = std::getenv("HRUN_CUDA_FUSION");
  fuses_ = !(fusion && std::string_view(fusion) == "0");
  const char* const experts = std::getenv("HRUN_CUDA_EXPERTS");
  chooses_experts_ = !(experts && std::string_view(experts) == "host");
  quantized_.reserve(2 * kActivations);
  for (int k = 0; k < 2 * kActivations; ++k) quantized_.emplace_back(gpu_, moves_);
}

CudaBackend::~CudaBackend() {
  try {
    gpu_.wait();            // graphs and pinned memory may be in use
  } catch (const Error&) {  // no caller is left to tell
  }
}

std::string CudaBackend::description() const {
  return message("CUDA{}, {}", gpu_.info().index, gpu_.info().name);
}

std::unique_ptr<DeviceBuffer> CudaBackend::allocate(size_t bytes, std::string_view purpose) {
  const Turn turn(*this);
  return std::make_unique<Memory>(gpu_, bytes, purpose);
}

void CudaBackend::write(void* to, std::span<const uint8_t> from) {
  const Turn turn(*this);
  if (!from.empty()) gpu_.write(to, from.data(), from.size());
}

void CudaBackend::read(const void* from, std::span<uint8_t> to) {
  const Turn turn(*this);
  if (!to.empty()) gpu_.read(to.data(), from, to.size());
}

// ---- passes

void CudaBackend::put_step(const Batch& batch) {
  const auto n = static_cast<size_t>(batch.n_rows());
  const size_t rows = (n + 3) / 4 * 4;
  step_.tokens_at = rows;
  step_.span_of_row_at = 2 * rows;
  step_.spans_at = 3 * rows;
  step_.tables_at = step_.spans_at + batch.spans.size() * (sizeof(SpanOnDevice) / sizeof(int32_t));
  // A table has room for the positions that a graph may be replayed at.
  step_.table = static_cast<size_t>(positions_bound(batch.end_position()) + kPagePositions - 1) /
                kPagePositions;
  const size_t bytes = (step_.tables_at + step_.table * batch.spans.size()) * sizeof(int32_t);
  if (bytes > step_.slot_bytes) {
    gpu_.wait();
    size_t slot = std::max<size_t>(step_.slot_bytes, 4096);
    while (slot < bytes) slot *= 2;
    ++moves_;  // also when the new memory cannot be had
    step_.slot_bytes = 0;
    step_.device.reset();
    step_.device = std::make_unique<Memory>(gpu_, slot, "the tokens of a batch");
    gpu_.release_host(std::exchange(step_.pinned, nullptr));
    step_.pinned = static_cast<uint8_t*>(gpu_.allocate_host(kSlots * slot));
    if (!step_.pinned)
      throw OutOfMemoryError("{} KiB of pinned memory for the tokens of a batch cannot be had",
                             kSlots * slot >> 10);
    step_.slot_bytes = slot;
    step_.next_slot = 0;
  }
  if (step_.next_slot == kSlots) {  // a caller that never reads a result could overtake the device
    gpu_.wait();
    step_.next_slot = 0;
  }
  uint8_t* const slot = step_.pinned + step_.next_slot++ * step_.slot_bytes;
  auto* const numbers = reinterpret_cast<int32_t*>(slot);
  std::copy(batch.positions.begin(), batch.positions.end(), numbers);
  std::copy(batch.tokens.begin(), batch.tokens.end(), numbers + step_.tokens_at);
  for (size_t i = 0; i < batch.spans.size(); ++i) {
    const RowSpan& span = batch.spans[i];
    const SpanOnDevice for_device{static_cast<int32_t>(span.first_row),
                                  static_cast<int32_t>(span.n_rows),
                                  static_cast<int32_t>(span.first_position),
                                  span.state,
                                  span.kept,
                                  static_cast<int32_t>(span.kept_at),
                                  span.log_row};
    std::memcpy(numbers + step_.spans_at + i * (sizeof for_device / sizeof(int32_t)), &for_device,
                sizeof for_device);
    std::fill_n(numbers + step_.span_of_row_at + span.first_row, span.n_rows,
                static_cast<int32_t>(i));
    const std::span<const int32_t> pages = span.pages;
    std::copy_n(pages.begin(), std::min(pages.size(), step_.table),
                numbers + step_.tables_at + i * step_.table);
  }
  gpu_.write_pinned(step_.device->data, slot, bytes);
}

bool CudaBackend::recordable(const PassInfo& pass) const {
  return graphs_ && !times_.on && pass.repeatable && pass.batch.n_rows() <= kMostRecordedTokens;
}

bool CudaBackend::begin_pass(const PassInfo& pass) {
  mutex_.lock();  // until end_pass()
  try {
    in_pass_ = true;
    quantized_turn_ = 0;
    open_caches_.clear();
    lookups_.clear();
    staging_.drop();  // weights are loaded
    pass_ = pass;
    put_step(pass.batch);
    if (!recordable(pass)) return false;
    std::vector<int64_t> rows;
    for (const RowSpan& span : pass.batch.spans) rows.push_back(span.n_rows);
    key_ = {pass.owner, std::move(rows), pass.n_logits, positions_bound(pass.batch.end_position()),
            n_coded_caches_ > 0 ? coded_work(pass.batch) : CodedWork{}};
    const auto seen = std::find_if(recordings_.begin(), recordings_.end(), [&](const Recording& r) {
      return r.key == key_ && r.moves == moves_;
    });
    if (seen == recordings_.end()) {  // the first time allocates what it needs
      std::erase_if(recordings_, [&](const Recording& r) { return r.key == key_; });
      return false;
    }
    recordings_.splice(recordings_.begin(), recordings_, seen);
    for (CudaCache* const cache : seen->coded_caches) {
      cache->open_pages(pass.batch);
      open_caches_.push_back(cache);
    }
    for (const Lookup& lookup : seen->lookups)
      bring_rows(*lookup.table, lookup.by_position ? pass.batch.positions : pass.batch.tokens,
                 static_cast<uint8_t*>(lookup.table->rows_of_pass->data));
    if (seen->graph) {
      gpu_.run(*seen->graph);
      return true;
    }
    gpu_.begin_capture();
    recording_ = true;
    return false;
  } catch (...) {
    in_pass_ = false;
    mutex_.unlock();
    throw;
  }
}

bool CudaBackend::end_pass(bool complete) {
  const auto unlock = [this](void*) {
    in_pass_ = false;
    mutex_.unlock();
  };
  const std::unique_ptr<void, decltype(unlock)> turn(this, unlock);
  if (!complete) pending_ = {};
  try {
    flush(Keep::nothing);
  } catch (...) {
    if (std::exchange(recording_, false)) gpu_.drop_capture();
    throw;
  }
  if (std::exchange(recording_, false)) {
    if (!complete) {
      gpu_.drop_capture();
      return true;
    }
    Recording& latest = recordings_.front();
    try {
      latest.graph = gpu_.end_capture();
    } catch (const Error&) {  // nothing has run: without graphs all is as it should be, but slower
      graphs_ = false;
      recordings_.clear();
      return false;
    }
    gpu_.run(*latest.graph);
    return true;
  }
  if (!complete || !recordable(pass_)) return true;
  if (!recordings_.empty() && recordings_.front().key == key_ &&
      recordings_.front().moves == moves_)
    return true;
  recordings_.push_front({key_, moves_, open_caches_, lookups_, nullptr});
  if (recordings_.size() > kMostGraphs) {
    gpu_.wait();  // it may be running
    recordings_.pop_back();
  }
  return true;
}

int64_t CudaBackend::positions_bound(int64_t end) const {
  if (!in_pass_ || !recordable(pass_)) return end;
  int64_t bound = kLeastPositions;
  while (bound < end) bound *= 2;
  return bound;
}

// Ensures that the numbers of the batch are on the device: they are there since the pass began, or
// are put there now.
void CudaBackend::require_step(const Batch& batch) {
  if (!in_pass_) return put_step(batch);
  require(batch.positions.data() == pass_.batch.positions.data(), "CUDA", "the batch of the pass");
}

BatchOnDevice CudaBackend::batch_on_device(const Batch& batch) const {
  const int32_t* const numbers = step_positions();
  return {reinterpret_cast<const SpanOnDevice*>(numbers + step_.spans_at),
          numbers,
          numbers + step_.span_of_row_at,
          numbers + step_.tables_at,
          static_cast<int>(batch.spans.size()),
          static_cast<int>(step_.table)};
}

const int32_t* CudaBackend::upload_indices(std::span<const int32_t> indices) {
  if (in_pass_ && indices.data() == pass_.batch.tokens.data())
    return step_positions() + step_.tokens_at;
  if (in_pass_ && indices.data() == pass_.batch.positions.data()) return step_positions();
  auto* const to = indices_.get<int32_t>(indices.size());
  gpu_.write(to, indices.data(), indices.size_bytes());
  return to;
}

// ---- operations

void CudaBackend::do_rms_norm(FloatView x, const DeviceTensor& weight, float eps, FloatView out) {
  const Turn turn(*this, Operation::norm, Keep::heads);
  if (wait_as_head_norm(x, vector_of(weight), eps, out)) return;
  gpu::rms_norm(gpu_, x, vector_of(weight), eps, out);
}

void CudaBackend::do_layer_norm(FloatView x, const DeviceTensor& weight, const DeviceTensor* bias,
                                float eps, FloatView out) {
  const Turn turn(*this, Operation::norm);
  gpu::layer_norm(gpu_, x, vector_of(weight), bias ? vector_of(*bias) : nullptr, eps, out);
}

void CudaBackend::do_rope(FloatView x, int n_heads, const Rope& rope, const Batch& batch) {
  const Turn turn(*this, Operation::rope, Keep::heads);
  require_step(batch);
  if (wait_as_turn(x, n_heads, rope)) return;
  gpu::rope(gpu_, x, n_heads, rope, step_positions());
}

std::unique_ptr<DeviceCache> CudaBackend::do_make_cache(const CachePlan& plan,
                                                        std::string_view purpose) {
  const Turn turn(*this);
  return std::make_unique<CudaCache>(*this, plan, purpose);
}

void CudaBackend::do_kv_append(const CacheSlot& cache, FloatView k, FloatView v, const Batch& batch,
                               const KeyContext& keys) {
  const Turn turn(*this, Operation::kv_append, Keep::heads);
  require_step(batch);
  const KVPages pages = pages_of(cache);
  if (pages.coded.beside) {
    CudaCache* const own = &on_device(cache);
    if (std::find(open_caches_.begin(), open_caches_.end(), own) == open_caches_.end() ||
        !in_pass_) {
      own->open_pages(batch);
      if (in_pass_) open_caches_.push_back(own);
    }
  }
  if (!append_pending(pages, k, v, batch))
    gpu::kv_append(gpu_, pages, k, v, batch_on_device(batch));
  if (!pages.coded.beside) return;
  flush(Keep::nothing);  // queries that are not turned yet
  std::vector<SpanBound> bounds;
  for (const RowSpan& span : batch.spans) bounds.push_back({span.n_rows, span.end_position()});
  const CodedWork work = coded_work(batch);
  const KeyTables tables{keys.mean ? vector_of(*keys.mean) : nullptr,
                         keys.balance ? vector_of(*keys.balance) : nullptr};
  code_pages(gpu_, pages, batch_on_device(batch), bounds, keys, tables, work.begins,
             work.completes);
}

// A cache with codes goes away: the graphs that were recorded with it go too.
void CudaBackend::forget(const CudaCache& cache) noexcept {
  const std::lock_guard lock(mutex_);
  --n_coded_caches_;
  try {
    gpu_.wait();            // a graph may be running
  } catch (const Error&) {  // the next operation reports it
  }
  std::erase_if(recordings_, [&](const Recording& r) {
    return std::find(r.coded_caches.begin(), r.coded_caches.end(), &cache) != r.coded_caches.end();
  });
}

CudaBackend::CodedWork CudaBackend::coded_work(const Batch& batch) {
  CodedWork work;
  for (const RowSpan& span : batch.spans) {
    work.begins |= span.first_position < kPagePositions;
    work.completes |= span.end_position() / kPagePositions > span.first_position / kPagePositions;
  }
  return work;
}

void CudaBackend::do_attention(FloatView q, const CacheSlot& cache, const Batch& batch,
                               const AttentionShape& shape, FloatView out) {
  const Turn turn(*this, Operation::attention);
  require_step(batch);
  const KVPages pages = pages_of(cache);
  const bool replayable = in_pass_ && recordable(pass_);
  const int64_t bound = positions_bound(batch.end_position());
  std::vector<SpanBound> bounds;
  for (const RowSpan& span : batch.spans)
    bounds.push_back({span.n_rows, replayable ? bound : span.end_position()});
  AttentionTask parts{};
  if (gpu::attention(gpu_, q, pages, batch_on_device(batch), bounds, shape,
                     shape.sinks ? vector_of(*shape.sinks) : nullptr, out,
                     attention_.get<uint8_t>(attention_scratch_bytes(pages, shape, bounds)),
                     may_wait() ? &parts : nullptr))
    pending_.join = parts;
}

void CudaBackend::do_silu_mul(FloatView gate, FloatView up, FloatView out) {
  gated(Nonlinearity::silu, gate, up, out);
}

void CudaBackend::do_gated(Nonlinearity f, FloatView gate, FloatView up, FloatView out) {
  const Turn turn(*this, Operation::gate);
  gpu::gated(gpu_, f, gate, up, out);
}

void CudaBackend::do_nonlinearity(Nonlinearity f, FloatView x, FloatView out) {
  const Turn turn(*this, Operation::gate);
  gpu::nonlinearity(gpu_, f, x, out);
}

void CudaBackend::do_xielu(FloatView x, const Xielu& f) {
  const Turn turn(*this, Operation::gate);
  gpu::xielu(gpu_, x, f);
}

void CudaBackend::do_add(FloatView x, FloatView y) {
  const Turn turn(*this, Operation::add, Keep::products);
  if (add_to_pending(x, y)) return;
  flush(Keep::nothing);
  gpu::add(gpu_, x, y);
}

void CudaBackend::do_add_bias(FloatView x, const DeviceTensor& bias) {
  const Turn turn(*this, Operation::add);
  gpu::add_bias(gpu_, x, vector_of(bias));
}

void CudaBackend::do_scale(FloatView x, float factor) {
  const Turn turn(*this, Operation::add);
  gpu::scale(gpu_, x, factor);
}

void CudaBackend::do_soft_cap(FloatView x, float cap) {
  const Turn turn(*this, Operation::add);
  gpu::soft_cap(gpu_, x, cap);
}

void CudaBackend::do_copy_heads(FloatView from, int64_t from_step, FloatView to, int64_t to_step,
                                int n_heads, int64_t width) {
  const Turn turn(*this, Operation::add);
  gpu::copy_heads(gpu_, from, from_step, to, to_step, n_heads, width);
}

void CudaBackend::do_scale_columns(FloatView x, const DeviceTensor& weight, FloatView out) {
  const Turn turn(*this, Operation::gate);
  gpu::scale_columns(gpu_, x, vector_of(weight), out);
}

void CudaBackend::do_mix_heads(FloatView factors, float shift, FloatView x, int n, FloatView base,
                               FloatView out) {
  const Turn turn(*this, Operation::add);
  gpu::mix_heads(gpu_, factors, shift, x, n, base, out);
}

void CudaBackend::do_match_rms(FloatView x, FloatView y, float least) {
  const Turn turn(*this, Operation::norm);
  gpu::match_rms(gpu_, x, y, least);
}

void CudaBackend::do_keep_above(FloatView x, float deviations) {
  const Turn turn(*this, Operation::gate);
  gpu::keep_above(gpu_, x, deviations);
}

void CudaBackend::do_gather_rows(FloatView x, std::span<const int32_t> rows, FloatView out) {
  const Turn turn(*this, Operation::add);
  gpu::gather_rows(gpu_, x, upload_indices(rows), out);
}

void CudaBackend::do_mix_rows(FloatView x, std::span<const int32_t> rows,
                              std::span<const float> weights, FloatView out) {
  const Turn turn(*this, Operation::add);
  auto* const indices = indices_.get<int32_t>(2 * rows.size());
  auto* const factors = reinterpret_cast<float*>(indices + rows.size());
  gpu_.write(indices, rows.data(), rows.size_bytes());
  gpu_.write(factors, weights.data(), weights.size_bytes());
  gpu::mix_rows(gpu_, x, indices, factors, static_cast<int64_t>(rows.size()) / out.rows, out);
}

SampleResult CudaBackend::sample(const float* logits, int64_t n_vocab,
                                 const SampleSettings& settings, std::span<const SampleEdit> edits,
                                 uint64_t& generator) {
  const Turn turn(*this);
  struct Draw {
    uint64_t generator;
    SampleResult result;
    int32_t n_edits;
  };
  constexpr size_t kEditsAt = (sizeof(Draw) + 15) / 16 * 16;
  std::vector<uint8_t> bytes(kEditsAt + edits.size_bytes());
  Draw draw{generator, {0, SampleStatus::ok}, static_cast<int32_t>(edits.size())};
  std::memcpy(bytes.data(), &draw, sizeof draw);
  if (!edits.empty()) std::memcpy(bytes.data() + kEditsAt, edits.data(), edits.size_bytes());
  auto* const on_device = draw_.get<uint8_t>(bytes.size());
  gpu_.write(on_device, bytes.data(), bytes.size());
  auto* const at = reinterpret_cast<Draw*>(on_device);
  gpu::sample(gpu_, logits, n_vocab, settings,
              reinterpret_cast<const SampleEdit*>(on_device + kEditsAt), &at->n_edits,
              &at->generator, &at->result,
              draw_scratch_.get<uint8_t>(sample_scratch_bytes(n_vocab)));
  gpu_.read(&draw, at, sizeof draw);
  generator = draw.generator;
  return draw.result;
}

void CudaBackend::time_operations(bool on) {
  const Turn turn(*this);
  gpu_.wait();
  times_ = {};
  times_.on = on;
}

OperationTimes CudaBackend::operation_times() {
  const std::lock_guard lock(mutex_);
  return times_;
}

}  // namespace hrun::gpu
