#include "model/model.h"

#include "base/error.h"

namespace hrun {
namespace {

constexpr auto kRoles = static_cast<size_t>(Role::count);

const TensorRule& rule_of(const ModelDescription& description, Role role) {
  for (const TensorRule& rule : description.tensors)
    if (rule.role == role) return rule;
  throw ArgumentError("architecture '{}' has no role {}", description.name, role_name(role));
}

// The tensor's rows in n_slices equal parts.
TensorView slice(const TensorView& whole, int64_t n_slices, int64_t i) {
  TensorView part = whole;
  part.rows = whole.rows / n_slices;
  part.data = whole.data + static_cast<size_t>(i * part.rows) * whole.row_bytes;
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
  const auto upload = [&](const gguf::TensorInfo* info, size_t role) -> Weight {
    Weight weight;
    if (!info) return weight;
    const int64_t n_slices = size_of(rule_of(*p.description, static_cast<Role>(role)).slices, p.params);
    const bool lookup = static_cast<Role>(role) == Role::token_embd && !p.tied_head;
    const TensorUse use = lookup ? TensorUse::lookup : TensorUse::any;
    const TensorView whole = model->file_.view(*info);
    bool copied = true;
    for (int64_t i = 0; i < n_slices; ++i) {
      weight.push_back(model->backend_->upload(slice(whole, n_slices, i), use));
      copied = copied && weight.back()->holds_copy;
    }
    if (copied) model->file_.release_pages(*info);
    if (progress) progress(++done, total);
    return weight;
  };
  model->globals_.resize(kRoles);
  for (size_t r = 0; r < kRoles; ++r) model->globals_[r] = upload(p.globals[r], r);
  model->layers_.resize(p.layers.size());
  for (size_t l = 0; l < p.layers.size(); ++l) {
    model->layers_[l].resize(kRoles);
    for (size_t r = 0; r < kRoles; ++r) model->layers_[l][r] = upload(p.layers[l][r], r);
  }
  return model;
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
