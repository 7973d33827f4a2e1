// Weights on a device by role, and the one generic decoder that runs them.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "devices/placement.h"
#include "gguf/file.h"
#include "model/spec/spec.h"

namespace hrun {

// A tensor on the device; one with several slices (experts, heads) is held as so many.
using Weight = std::vector<std::unique_ptr<DeviceTensor>>;

// The layers of a model that are held.  A part that begins with layer 0 holds the embedding too.  A
// part that includes the place behind the last layer (n_layers, so an end of n_layers + 1) holds
// the head.
struct LayerPart {
  int64_t first = 0, end = -1;  // -1: to the head
};

// The smallest parts that can be run one after the other, in order: mostly a layer each, more where
// layers read the keys of others; the head alone is the last one.
std::vector<LayerPart> smallest_parts(const ModelSpec& spec);

// Vectors of a layer that the host computes with, as floats; empty where the model has none.
struct HostVectors {
  std::vector<float> router_correction;  // of the scores of experts
  std::vector<float> down_scale;         // of what each expert gives
  std::vector<float> layer_scale;        // one factor of what leaves the layer
};

// Immutable after load and shared between sessions (the backends serialise their own calls).
class Model {
 public:
  // Opens, validates and uploads.  progress(done, total) counts tensors; it may throw Cancelled.
  // For a part, the other tensors stay in the file.  Throws ArgumentError for a part that cannot
  // be.
  static std::shared_ptr<const Model> load(
      const std::string& path, const BackendOptions& options,
      const std::function<void(int64_t, int64_t)>& progress = {}, LayerPart part = {});

  const gguf::File& file() const { return file_; }
  const HyperParams& params() const { return spec_.params; }
  const ModelSpec& spec() const { return spec_; }
  const ModelDescription& description() const { return *spec_.description; }
  // The number of backends, which are numbered from 0 in the order in which a token meets them.
  size_t n_backends() const { return backends_.size(); }
  Backend& backend(size_t device) const { return *backends_[device]; }
  std::span<const LayerRun> runs() const { return runs_; }
  const LayerPart& part() const { return part_; }
  bool embeds() const { return part_.first == 0; }
  bool is_whole() const { return embeds() && part_.end > params().n_layers; }
  // Values of a token between layers: its hidden states, and what all layers have for it alone.
  int64_t state_width() const {
    return (params().n_states + (params().wkv.head_dim > 0)) * params().n_embd +
           params().n_per_layer * params().n_layers;
  }
  size_t device_of(int64_t layer) const;
  std::string device_description() const;
  const std::string& warning() const {
    return warning_;
  }  // about the devices; empty if there is none
  // Null where the model has none.
  const DeviceTensor* weight(Role role) const { return first(globals_[static_cast<size_t>(role)]); }
  const DeviceTensor* weight(int64_t layer, Role role) const { return first(slices(layer, role)); }
  // The slices of a tensor; empty where the model has none.
  const Weight& slices(Role role) const { return globals_[static_cast<size_t>(role)]; }
  const Weight& slices(int64_t layer, Role role) const {
    return layers_[static_cast<size_t>(layer)][static_cast<size_t>(role)];
  }
  // [n_kv_heads * k_dim], for coded caches; null where the file has none.
  const DeviceTensor* key_mean(int64_t layer) const {
    return first(key_means_[static_cast<size_t>(layer)]);
  }
  const DeviceTensor* key_balance(int64_t layer) const {
    return first(key_balances_[static_cast<size_t>(layer)]);
  }
  const HostVectors& host_vectors(int64_t layer) const {
    return host_vectors_[static_cast<size_t>(layer)];
  }
  bool has_head() const { return head_ != nullptr; }  // encoders have none
  const DeviceTensor& head() const { return *head_; }
  // A vector as the file has it; empty where there is none.
  std::vector<float> values_of(const gguf::TensorInfo* vector) const;
  // The bytes that one token of generation reads: the matrices of the layers, of the experts that
  // it uses, and the head.
  size_t bytes_per_token() const;
  // The weights times tokens in the products of a prompt whose last token alone gets logits.
  int64_t weights_multiplied(int64_t n_tokens) const;

 private:
  Model(gguf::File file, ModelSpec spec, const BackendOptions& options, LayerPart part);
  Weight upload(const gguf::TensorInfo* info, Role role, size_t device, TensorUse use);
  Weight upload_columns(const TensorView& matrix, size_t device);
  Weight upload_ones(int64_t n, size_t device);
  Weight upload_vector(std::span<const float> values, size_t device);
  void split_latent(int64_t layer);
  void split_experts(int64_t layer);
  static const DeviceTensor* first(const Weight& weight) {
    return weight.empty() ? nullptr : weight.front().get();
  }

  gguf::File file_;
  ModelSpec spec_;
  std::vector<std::vector<uint8_t>> made_;  // matrices that are not in the file as they are used
  std::vector<std::unique_ptr<Backend>> backends_;
  std::vector<LayerRun> runs_;
  LayerPart part_;
  std::string warning_;
  std::vector<Weight> globals_;
  Weight tied_head_;  // where the head is the embedding, but on another device
  const DeviceTensor* head_ = nullptr;
  std::vector<std::vector<Weight>> layers_;
  std::vector<HostVectors> host_vectors_;         // by layer
  std::vector<Weight> key_means_, key_balances_;  // by layer
};

}  // namespace hrun
