#include "cuda/cuda_states.h"

#include "cuda/cuda_backend_parts.h"
#include "cuda/kernels/ssm_scan.h"
#include "cuda/kernels/wkv.h"

namespace hrun::gpu {

CudaStates::CudaStates(CudaBackend& backend, const StatePlan& plan, std::string_view purpose)
    : DeviceStates(plan), backend_(backend) {
  const auto add = [&](size_t n) {
    offsets_.push_back(slot_floats_);
    slot_floats_ += (n + 63) / 64 * 64;
  };
  for (const StateLayer& layer : plan.layers) {
    const size_t past = static_cast<size_t>(layer.n_past) * static_cast<size_t>(layer.n_channels);
    add(past);
    add(layer.floats() - past);
  }
  size_t all = 0;
  if (__builtin_mul_overflow(slot_bytes(), static_cast<size_t>(plan.n_slots), &all))
    throw OutOfMemoryError("{}: {} states of {} bytes are more than the address space", purpose,
                           plan.n_slots, slot_bytes());
  memory_ = std::make_unique<Memory>(backend_.gpu_, all, purpose);
  size_t log = 0;
  for (size_t l = 0; l < plan.layers.size(); ++l) {
    log_offsets_.push_back(log);
    log += log_floats(l);
  }
  log_offsets_.push_back(log);
  if (plan.n_log_rows > 0) log_ = std::make_unique<Memory>(backend_.gpu_, log_bytes(), purpose);
}

void CudaStates::do_clear(int32_t slot) {
  const CudaBackend::Turn turn(backend_);
  backend_.gpu_.clear(at(slot), slot_bytes());
}

void CudaStates::do_copy(int32_t from, int32_t to) {
  const CudaBackend::Turn turn(backend_);
  backend_.gpu_.copy(at(to), at(from), slot_bytes());
}

StateOnDevice CudaStates::state(size_t layer, const BatchOnDevice& batch) const {
  const StateLayer& sizes = this->layer(layer);
  return {at(0) + offsets_[2 * layer],
          at(0) + offsets_[2 * layer + 1],
          static_cast<int64_t>(slot_floats_),
          batch.spans,
          batch.n_spans,
          {n_log_rows() > 0 ? log(layer) : nullptr, sizes.record_floats(), n_log_rows(),
           sizes.keys_at(), sizes.values_at(), sizes.decays_at(), sizes.steps_at()}};
}

namespace {

const CudaStates& on_device(const StateSlot& slot) {
  if (const auto* own = dynamic_cast<const CudaStates*>(slot.states)) return *own;
  throw ArgumentError("states of another backend were given to CUDA");
}

}  // namespace

std::unique_ptr<DeviceStates> CudaBackend::do_make_states(const StatePlan& plan,
                                                          std::string_view purpose) {
  const Turn turn(*this);
  return std::make_unique<CudaStates>(*this, plan, purpose);
}

void CudaBackend::do_short_conv(FloatView x, const DeviceTensor& taps, const StateSlot& state,
                                const Batch& batch, bool silu, FloatView out) {
  const Turn turn(*this, Operation::recurrent);
  require_step(batch);
  gpu::short_conv(gpu_, x, vector_of(taps), state.layer().n_past + 1,
                  on_device(state).state(state.index, batch_on_device(batch)), silu, out);
}

void CudaBackend::do_delta_rule(const DeltaInput& in, const DeltaHeads& heads,
                                const StateSlot& state, const Batch& batch, FloatView out) {
  const Turn turn(*this, Operation::recurrent);
  require_step(batch);
  gpu::delta_rule(gpu_, in, heads, state.layer(),
                  on_device(state).state(state.index, batch_on_device(batch)), out);
}

void CudaBackend::do_ssm_scan(const ScanInput& in, const StateSlot& state, const Batch& batch,
                              FloatView out) {
  const Turn turn(*this, Operation::recurrent);
  require_step(batch);
  const StateLayer& layer = state.layer();
  gpu::ssm_scan(gpu_, in, in.skip ? vector_of(*in.skip) : nullptr,
                layer.rates ? vector_of(*layer.rates) : nullptr, layer,
                on_device(state).state(state.index, batch_on_device(batch)), out);
}

void CudaBackend::do_wkv(const WkvInput& in, const StateSlot& state, const Batch& batch,
                         FloatView out) {
  const Turn turn(*this, Operation::recurrent);
  require_step(batch);
  gpu::wkv(gpu_, in, state.layer(), on_device(state).state(state.index, batch_on_device(batch)),
           out);
}

void CudaBackend::do_l2_norm(FloatView x, int n_heads, float eps, float scale) {
  const Turn turn(*this, Operation::norm);
  gpu::l2_norm(gpu_, x, n_heads, eps, scale);
}

void CudaBackend::do_decay(FloatView x, const DeviceTensor& bias, const DeviceTensor& rate) {
  const Turn turn(*this, Operation::gate);
  gpu::decay(gpu_, x, vector_of(bias), vector_of(rate));
}

}  // namespace hrun::gpu
