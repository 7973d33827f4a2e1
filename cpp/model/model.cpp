#include "model/model.h"

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "devices/registry.h"
#include "model/placement.h"
#include "encode/encoders.h"
#include "formats/list.h"

namespace hrun {
namespace {

constexpr auto kRoles = static_cast<size_t>(Role::count);

const TensorRule& rule_of(const ModelDescription& description, Role role) {
  if (const TensorRule* rule = description.find_rule(role)) return *rule;
  throw ArgumentError("architecture '{}' has no role {}", description.name, role_name(role));
}

// Does a tensor that is no table take part in what comes before the first layer?
bool is_before_layers(Role role) {
  return role == Role::embd_norm || role == Role::embd_norm_bias ||
         role == Role::per_layer_model_proj || role == Role::per_layer_norm ||
         role == Role::altup_proj;
}

LayerPart checked_part(const gguf::File& file, const ModelSpec& spec, LayerPart part) {
  const int64_t n = spec.params.n_layers;
  const LayerPart whole{0, n + 1};
  if (part.end < 0) part.end = n + 1;
  if (part.first == whole.first && part.end == whole.end) return whole;
  if (part.first < 0 || part.first >= part.end || part.end > n + 1)
    throw ArgumentError("layers {} to {} (exclusive): the model has {} and then the head",
                        part.first, part.end, n);
  if (spec.is_encoder())
    throw UnsupportedModelError("cannot load '{}': an encoder cannot be loaded in parts",
                                printable(file.path(), 4096));
  for (int64_t l = part.first; l < std::min(part.end, n); ++l)
    if (const int64_t from = spec.params.layer(l).keys_of; from >= 0 && from < part.first)
      throw ArgumentError("layers {} to {} (exclusive): layer {} reads the keys of layer {}",
                          part.first, part.end, l, from);
  return part;
}

// Cuts the runs of all layers to those of a part.
std::vector<LayerRun> runs_of(std::vector<LayerRun> runs, const LayerPart& part, int64_t n_layers) {
  std::vector<LayerRun> kept;
  for (const LayerRun& run : runs) {
    const LayerRun some{run.device, std::clamp(part.first, run.first_layer, run.end_layer),
                        std::clamp(part.end, run.first_layer, run.end_layer)};
    const bool embeds = &run == &runs.front() && part.first == 0;
    const bool has_head = &run == &runs.back() && part.end > n_layers;
    if (some.first_layer < some.end_layer || embeds || has_head) kept.push_back(some);
  }
  return kept;
}

TensorView rows_of(const TensorView& whole, int64_t first, int64_t rows) {
  TensorView part = whole;
  part.rows = rows;
  part.data = whole.data + static_cast<size_t>(first) * whole.row_bytes;
  return part;
}

}  // namespace

std::vector<LayerPart> smallest_parts(const ModelSpec& spec) {
  const int64_t n = spec.params.n_layers;
  std::vector<int64_t> lowest(static_cast<size_t>(n));  // that the layer and those behind it read
  for (int64_t l = n; l-- > 0;) {
    const int64_t from = spec.params.layer(l).keys_of, own = from < 0 ? l : std::min(from, l);
    lowest[static_cast<size_t>(l)] =
        l + 1 < n ? std::min(own, lowest[static_cast<size_t>(l + 1)]) : own;
  }
  std::vector<LayerPart> parts;
  for (int64_t l = 0, first = 0; l < n; ++l)
    if (l + 1 == n || lowest[static_cast<size_t>(l + 1)] > l) {
      parts.push_back({first, l + 1});
      first = l + 1;
    }
  parts.push_back({n, n + 1});
  return parts;
}

Model::Model(gguf::File file, ModelSpec spec, const BackendOptions& options, LayerPart part)
    : file_(std::move(file)), spec_(std::move(spec)), part_(checked_part(file_, spec_, part)) {
  const int64_t n_layers = spec_.params.n_layers;
  Backends made = make_backends(options, n_layers, [&](WeightBytes weight_bytes) {
    return layer_sizes(file_, spec_, weight_bytes);
  });
  warning_ = std::move(made.warning);
  backends_ = std::move(made.all);
  runs_ = std::move(made.runs);
  for (int64_t l = 0; l < n_layers; ++l)
    if (const int64_t from = spec_.params.layer(l).keys_of;
        from >= 0 && device_of(from) != device_of(l))
      throw UnsupportedModelError(
          "cannot load '{}': layer {} reads the keys and values of layer {}, which would be on "
          "another device; put no layer on the GPU, or all from {} on (-ngl {})",
          printable(file_.path(), 4096), l, from, from, n_layers - from);
  if (!is_whole()) runs_ = runs_of(std::move(runs_), part_, n_layers);
}

size_t Model::device_of(int64_t layer) const {
  for (const LayerRun& run : runs_)
    if (layer < run.end_layer) return run.device;
  return runs_.back().device;
}

std::vector<float> Model::values_of(const gguf::TensorInfo* vector) const {
  if (!vector) return {};
  const TensorView view = file_.view(*vector);
  std::vector<float> values(static_cast<size_t>(view.cols));
  find_format(view.format)->decode_row(view.data, view.cols, values.data());
  return values;
}

std::string Model::device_description() const {
  std::string text;
  for (const LayerRun& run : runs_) {
    if (!text.empty()) text += "; ";
    if (runs_.size() > 1 && run.first_layer == run.end_layer)
      text += "head: ";
    else if (runs_.size() > 1)
      text += hrun::message("layers {} to {}: ", run.first_layer, run.end_layer - 1);
    text += backend(run.device).description();
  }
  return text;
}

std::shared_ptr<const Model> Model::load(const std::string& path, const BackendOptions& options,
                                         const std::function<void(int64_t, int64_t)>& progress,
                                         LayerPart part) {
  gguf::File file = gguf::File::open_model(path);
  ModelSpec spec = read_spec(file);
  std::shared_ptr<Model> model(new Model(std::move(file), std::move(spec), options, part));
  const ModelSpec& p = model->spec_;
  const auto is_held = [&](size_t layer) {
    return static_cast<int64_t>(layer) >= model->part_.first &&
           static_cast<int64_t>(layer) < model->part_.end;
  };
  const bool embeds = model->embeds(), has_head = model->part_.end > p.params.n_layers;

  const size_t first_device = model->runs_.front().device, head_device = model->runs_.back().device;
  const bool second_embedding = p.tied_head && embeds && has_head && first_device != head_device;
  // Is a tensor outside the layers held?
  const auto is_used = [&](size_t role) {
    const bool is_input =
        is_lookup(static_cast<Role>(role)) || is_before_layers(static_cast<Role>(role));
    const bool is_head = !is_input || (p.tied_head && static_cast<Role>(role) == Role::token_embd);
    return (is_input && embeds) || (is_head && has_head);
  };
  int64_t total = second_embedding, done = 0;
  for (size_t r = 0; r < kRoles; ++r) total += p.globals[r] != nullptr && is_used(r);
  for (size_t l = 0; l < p.layers.size(); ++l)
    for (const auto* t : p.layers[l]) total += t != nullptr && is_held(l);
  const auto take = [&](const gguf::TensorInfo* info, size_t role, size_t device,
                        TensorUse use) -> Weight {
    if (!info) return {};
    Weight weight;
    if (static_cast<Role>(role) != Role::attn_kv_b &&
        static_cast<Role>(role) != Role::experts_gate_up)
      weight = model->upload(info, static_cast<Role>(role), device, use);
    if (progress) progress(++done, total);
    return weight;
  };
  model->globals_.resize(kRoles);
  constexpr auto kEmbedding = static_cast<size_t>(Role::token_embd);
  for (size_t r = 0; r < kRoles; ++r) {
    const bool is_table = is_lookup(static_cast<Role>(r));
    const bool is_input = is_table || is_before_layers(static_cast<Role>(r));
    const bool tied = r == kEmbedding && p.tied_head && has_head && !second_embedding;
    const TensorUse use = tied       ? embeds ? TensorUse::any : TensorUse::product
                          : is_table ? TensorUse::lookup
                                     : TensorUse::product;
    if (is_used(r))
      model->globals_[r] = take(p.globals[r], r, is_input ? first_device : head_device, use);
  }
  if (p.description->normed_embd)
    model->globals_[static_cast<size_t>(Role::embd_norm)] =
        model->upload_ones(p.params.n_embd, first_device);
  if (p.description->plain_norms)
    model->globals_[static_cast<size_t>(Role::output_norm)] =
        model->upload_ones(p.params.n_embd, head_device);
  if (second_embedding)
    model->tied_head_ = take(p.globals[kEmbedding], kEmbedding, head_device, TensorUse::product);
  model->head_ = second_embedding ? first(model->tied_head_)
                                  : model->weight(p.tied_head ? Role::token_embd : Role::output);
  if (p.is_encoder() || !has_head) model->head_ = nullptr;
  model->layers_.resize(p.layers.size());
  model->key_means_.resize(p.layers.size());
  model->key_balances_.resize(p.layers.size());
  for (size_t l = 0; l < p.layers.size(); ++l) {
    model->layers_[l].resize(kRoles);
    model->host_vectors_.emplace_back();
    if (!is_held(l)) continue;
    const size_t device = model->device_of(static_cast<int64_t>(l));
    for (size_t r = 0; r < kRoles; ++r)
      model->layers_[l][r] = take(p.layers[l][r], r, device, TensorUse::product);
    if (p.layers[l][static_cast<size_t>(Role::attn_kv_b)])
      model->split_latent(static_cast<int64_t>(l));
    if (p.layers[l][static_cast<size_t>(Role::experts_gate_up)])
      model->split_experts(static_cast<int64_t>(l));
    const LayerParams& layer = p.params.layers[l];
    if (p.description->normed_values && has_attention(layer.mixer) && layer.keys_of < 0)
      model->layers_[l][static_cast<size_t>(Role::attn_v_norm)] =
          model->upload_ones(layer.v_dim, device);
    if (p.params.ssm.normed && layer.mixer == Mixer::channel_state_space)
      for (const auto& [role, n] : {std::pair(Role::ssm_step_norm, p.params.ssm.step_rank),
                                    std::pair(Role::ssm_b_norm, p.params.ssm.shared()),
                                    std::pair(Role::ssm_c_norm, p.params.ssm.shared())})
        model->layers_[l][static_cast<size_t>(role)] = model->upload_ones(n, device);
    if (layer.mixer == Mixer::wkv) {
      const auto width = static_cast<size_t>(p.params.n_embd);
      std::vector<float> taps(2 * width, 1.0f);
      std::fill(taps.begin() + static_cast<ptrdiff_t>(width), taps.end(), -1.0f);
      model->layers_[l][static_cast<size_t>(Role::shift_taps)] = model->upload_vector(taps, device);
      model->layers_[l][static_cast<size_t>(Role::wkv_head_norm)] =
          model->upload_ones(p.params.wkv.head_dim, device);
    }
    if (p.description->plain_norms)
      for (const Role role : {Role::attn_norm, Role::ffn_norm})
        model->layers_[l][static_cast<size_t>(role)] = model->upload_ones(p.params.n_embd, device);
    const auto values = [&](Role role) {
      return model->values_of(p.layer(static_cast<int64_t>(l), role));
    };
    if (!p.key_means.empty() && !p.key_means[l].empty()) {
      model->key_means_[l] = model->upload_vector(p.key_means[l], device);
      model->key_balances_[l] = model->upload_vector(p.key_balances[l], device);
    }
    model->host_vectors_.back() = {values(Role::router_correction),
                                   values(Role::experts_down_scale), values(Role::layer_scale)};
  }
  model->file_.check_readable();
  return model;
}

Weight Model::upload(const gguf::TensorInfo* info, Role role, size_t device, TensorUse use) {
  const int64_t n_slices = size_of(rule_of(description(), role).slices, params());
  const TensorView whole = file_.view(*info);
  if (is_columns(role)) return upload_columns(whole, device);
  const int64_t rows = whole.rows / n_slices;
  std::vector<TensorView> slices;
  for (int64_t i = 0; i < n_slices; ++i) slices.push_back(rows_of(whole, i * rows, rows));
  Weight weight = backend(device).upload_slices(slices, use);
  const bool copied = std::all_of(weight.begin(), weight.end(),
                                  [](const auto& slice) { return slice->holds_copy; });
  file_.check_readable();
  if (copied) file_.release_pages(*info);
  return weight;
}

// Uploads the taps of a convolution.  The file has a row per channel; they become one row of
// floats, tap after tap.  It does the same with values that the file has in a column.
Weight Model::upload_columns(const TensorView& taps, size_t device) {
  const auto rows = static_cast<size_t>(taps.rows), cols = static_cast<size_t>(taps.cols);
  const FormatInfo& format = *find_format(taps.format);
  std::vector<uint8_t>& bytes = made_.emplace_back(rows * cols * sizeof(float));
  auto* const out = reinterpret_cast<float*>(bytes.data());
  std::vector<float> row(cols);
  for (size_t r = 0; r < rows; ++r) {
    format.decode_row(taps.data + r * taps.row_bytes, taps.cols, row.data());
    for (size_t c = 0; c < cols; ++c) out[c * rows + r] = row[c];
  }
  file_.check_readable();
  Weight weight;
  weight.push_back(backend(device).upload(
      TensorView{F32::kId, 1, taps.rows * taps.cols, bytes.size(), bytes.data(), taps.name},
      TensorUse::product));
  return weight;
}

// Uploads ones as the weight of a norm that has none.
Weight Model::upload_ones(int64_t n, size_t device) {
  return upload_vector(std::vector<float>(static_cast<size_t>(n), 1.0f), device);
}

// Uploads values that no tensor of the file holds.
Weight Model::upload_vector(std::span<const float> values, size_t device) {
  std::vector<uint8_t>& bytes = made_.emplace_back(values.size_bytes());
  std::memcpy(bytes.data(), values.data(), values.size_bytes());
  Weight weight;
  weight.push_back(
      backend(device).upload(TensorView{F32::kId, 1, static_cast<int64_t>(values.size()),
                                        bytes.size(), bytes.data(), "values"},
                             TensorUse::product));
  return weight;
}

// Splits a tensor that holds the gates and values of all experts, the gates of each expert first.
void Model::split_experts(int64_t layer) {
  const TensorView whole = file_.view(*spec_.layer(layer, Role::experts_gate_up));
  const int64_t rows = params().n_ff_expert;
  std::vector<Weight>& weights = layers_[static_cast<size_t>(layer)];
  Backend& on = backend(device_of(layer));
  std::vector<TensorView> gates, ups;
  for (int64_t e = 0; e < params().n_experts; ++e) {
    gates.push_back(rows_of(whole, 2 * e * rows, rows));
    ups.push_back(rows_of(whole, (2 * e + 1) * rows, rows));
  }
  weights[static_cast<size_t>(Role::experts_gate)] = on.upload_slices(gates, TensorUse::product);
  weights[static_cast<size_t>(Role::experts_up)] = on.upload_slices(ups, TensorUse::product);
  file_.check_readable();
}

// Splits attn_kv_b, which holds the keys and values of each head one after the other, into attn_k_b
// and attn_v_b.  Values are rows as they are.  Keys have to be transposed, which a coded matrix
// cannot be: they become F16, or F32 where they are floats.
void Model::split_latent(int64_t layer) {
  const HyperParams& p = params();
  const TensorView whole = file_.view(*spec_.layer(layer, Role::attn_kv_b));
  const int64_t n_heads = p.layer(layer).n_heads;
  const FormatInfo& format = *find_format(whole.format);
  const int64_t nope = p.nope(), cols = whole.cols;
  std::vector<Weight>& weights = layers_[static_cast<size_t>(layer)];
  std::vector<TensorView> keys, values;
  Backend& on = backend(device_of(layer));
  const FormatInfo& made = *find_format(format.is_float ? F32::kId : F16::kId);
  std::vector<float> row(static_cast<size_t>(cols)), transposed(static_cast<size_t>(nope * cols));
  for (int64_t h = 0; h < n_heads; ++h) {
    const int64_t first = h * (nope + p.latent_v_dim);
    for (int64_t r = 0; r < nope; ++r) {
      format.decode_row(whole.data + static_cast<size_t>(first + r) * whole.row_bytes, cols,
                        row.data());
      for (int64_t c = 0; c < cols; ++c)
        transposed[static_cast<size_t>(c * nope + r)] = row[static_cast<size_t>(c)];
    }
    const size_t row_bytes = made.row_bytes(nope);
    std::vector<uint8_t>& bytes = made_.emplace_back(row_bytes * static_cast<size_t>(cols));
    for (int64_t c = 0; c < cols; ++c)
      find_encoder(made.id)->encode_row(&transposed[static_cast<size_t>(c * nope)], nullptr, nope,
                                        &bytes[static_cast<size_t>(c) * row_bytes]);
    keys.push_back({made.id, cols, nope, row_bytes, bytes.data(), whole.name});
    values.push_back(rows_of(whole, first + nope, p.latent_v_dim));
  }
  weights[static_cast<size_t>(Role::attn_k_b)] = on.upload_slices(keys, TensorUse::product);
  weights[static_cast<size_t>(Role::attn_v_b)] = on.upload_slices(values, TensorUse::product);
}

namespace {

// Calls fn(tensor, how many of its kind a token uses).
template <class Function>
void for_each_matrix(const Model& model, Function&& fn) {
  for (int64_t l = 0; l < model.params().n_layers; ++l)
    for (auto r = static_cast<size_t>(kFirstLayerRole); r < kRoles; ++r) {
      const auto role = static_cast<Role>(r);
      const Weight& weight = model.slices(l, role);
      if (weight.empty() || weight.front()->rows == 1) continue;
      const bool experts =
          role == Role::experts_gate || role == Role::experts_up || role == Role::experts_down;
      fn(*weight.front(),
         experts ? model.params().n_experts_used : static_cast<int64_t>(weight.size()));
    }
  if (model.has_head()) fn(model.head(), 1);
}

}  // namespace

size_t Model::bytes_per_token() const {
  size_t bytes = 0;
  for_each_matrix(*this, [&](const DeviceTensor& w, int64_t count) {
    bytes += w.bytes * static_cast<size_t>(count);
  });
  return bytes;
}

int64_t Model::weights_multiplied(int64_t n_tokens) const {
  int64_t weights = 0;
  for_each_matrix(*this, [&](const DeviceTensor& w, int64_t count) {
    weights += w.rows * w.cols * count * (&w == head_ ? 1 : n_tokens);
  });
  return weights;
}

}  // namespace hrun
