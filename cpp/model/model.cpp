#include "model/model.h"

#include "base/error.h"
#include "formats/list.h"

namespace hrun {
namespace {

constexpr auto kRoles = static_cast<size_t>(Role::count);

const TensorRule& rule_of(const ModelDescription& description, Role role) {
  for (const TensorRule& rule : description.tensors)
    if (rule.role == role) return rule;
  throw ArgumentError("architecture '{}' has no role {}", description.name, role_name(role));
}

TensorView rows_of(const TensorView& whole, int64_t first, int64_t rows) {
  TensorView part = whole;
  part.rows = rows;
  part.data = whole.data + static_cast<size_t>(first) * whole.row_bytes;
  return part;
}

}  // namespace

Model::Model(gguf::File file, ModelPlan plan, std::unique_ptr<Backend> backend)
    : file_(std::move(file)), plan_(std::move(plan)), backend_(std::move(backend)) {}

std::shared_ptr<const Model> Model::load(const std::string& path, const BackendOptions& options,
                                         const std::function<void(int64_t, int64_t)>& progress) {
  gguf::File file = gguf::File::open_model(path);
  ModelPlan plan = plan_model(file);
  std::shared_ptr<Model> model(new Model(std::move(file), std::move(plan), make_backend(options)));
  const ModelPlan& p = model->plan_;

  int64_t total = 0, done = 0;
  for (const auto* t : p.globals) total += t != nullptr;
  for (const auto& layer : p.layers)
    for (const auto* t : layer) total += t != nullptr;
  const auto take = [&](const std::vector<const gguf::TensorInfo*>& infos, std::vector<Weight>& weights) {
    weights.resize(kRoles);
    for (size_t r = 0; r < kRoles; ++r) {
      if (!infos[r]) continue;
      if (static_cast<Role>(r) != Role::attn_kv_b) weights[r] = model->upload(infos[r], static_cast<Role>(r));
      if (progress) progress(++done, total);
    }
  };
  take(p.globals, model->globals_);
  model->layers_.resize(p.layers.size());
  for (size_t l = 0; l < p.layers.size(); ++l) {
    take(p.layers[l], model->layers_[l]);
    if (p.layers[l][static_cast<size_t>(Role::attn_kv_b)]) model->split_latent(static_cast<int64_t>(l));
  }
  return model;
}

Weight Model::upload(const gguf::TensorInfo* info, Role role) {
  const int64_t n_slices = size_of(rule_of(description(), role).slices, params());
  const TensorUse use = role == Role::token_embd && !plan_.tied_head ? TensorUse::lookup : TensorUse::any;
  const TensorView whole = file_.view(*info);
  const int64_t rows = whole.rows / n_slices;
  Weight weight;
  bool copied = true;
  for (int64_t i = 0; i < n_slices; ++i) {
    weight.push_back(backend_->upload(rows_of(whole, i * rows, rows), use));
    copied = copied && weight.back()->holds_copy;
  }
  if (copied) file_.release_pages(*info);
  return weight;
}

// attn_kv_b, the keys and values of each head one after the other, as attn_k_b and attn_v_b: values are rows as they are, keys
// have to be transposed, which a coded matrix cannot be: they become F16, or F32 where they are floats.
void Model::split_latent(int64_t layer) {
  const HyperParams& p = params();
  const TensorView whole = file_.view(*plan_.layer(layer, Role::attn_kv_b));
  const FormatInfo& format = *find_format(whole.format);
  const int64_t nope = p.nope(), cols = whole.cols;
  std::vector<Weight>& weights = layers_[static_cast<size_t>(layer)];
  Weight& keys = weights[static_cast<size_t>(Role::attn_k_b)];
  Weight& values = weights[static_cast<size_t>(Role::attn_v_b)];
  keys.clear(), values.clear();
  const FormatInfo& made = *find_format(format.is_float ? F32::kId : F16::kId);
  std::vector<float> row(static_cast<size_t>(cols)), transposed(static_cast<size_t>(nope * cols));
  for (int64_t h = 0; h < p.n_heads; ++h) {
    const int64_t first = h * (nope + p.latent_v_dim);
    for (int64_t r = 0; r < nope; ++r) {
      format.decode_row(whole.data + static_cast<size_t>(first + r) * whole.row_bytes, cols, row.data());
      for (int64_t c = 0; c < cols; ++c) transposed[static_cast<size_t>(c * nope + r)] = row[static_cast<size_t>(c)];
    }
    const size_t row_bytes = made.row_bytes(nope);
    std::vector<uint8_t>& bytes = made_.emplace_back(row_bytes * static_cast<size_t>(cols));
    for (int64_t c = 0; c < cols; ++c)
      made.encode_row(&transposed[static_cast<size_t>(c * nope)], nullptr, nope, &bytes[static_cast<size_t>(c) * row_bytes]);
    const TensorView view{made.id, cols, nope, row_bytes, bytes.data(), whole.name};
    keys.push_back(backend_->upload(view));
    values.push_back(backend_->upload(rows_of(whole, first + nope, p.latent_v_dim)));
  }
}

const DeviceTensor& Model::head() const { return *weight(plan_.tied_head ? Role::token_embd : Role::output); }

namespace {

// fn(tensor, how many of its kind a token uses).
template <class Function>
void for_each_matrix(const Model& model, Function&& fn) {
  for (int64_t l = 0; l < model.params().n_layers; ++l)
    for (auto r = static_cast<size_t>(kFirstLayerRole); r < kRoles; ++r) {
      const auto role = static_cast<Role>(r);
      const Weight& weight = model.slices(l, role);
      if (weight.empty() || weight.front()->rows == 1) continue;
      const bool experts = role == Role::experts_gate || role == Role::experts_up || role == Role::experts_down;
      fn(*weight.front(), experts ? model.params().n_experts_used : static_cast<int64_t>(weight.size()));
    }
  fn(model.head(), 1);
}

}  // namespace

size_t Model::bytes_per_token() const {
  size_t bytes = 0;
  for_each_matrix(*this, [&](const DeviceTensor& w, int64_t count) { bytes += w.bytes * static_cast<size_t>(count); });
  return bytes;
}

int64_t Model::weights_per_token() const {
  int64_t weights = 0;
  for_each_matrix(*this, [&](const DeviceTensor& w, int64_t count) { weights += w.rows * w.cols * count; });
  return weights;
}

}  // namespace hrun
