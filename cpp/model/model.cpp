#include "model/model.h"

#include "base/error.h"

namespace hrun {
namespace {

constexpr auto kRoles = static_cast<size_t>(Role::count);

}  // namespace

Model::Model(gguf::File file, ModelPlan plan, std::unique_ptr<Backend> backend)
    : file_(std::move(file)), plan_(std::move(plan)), backend_(std::move(backend)) {}

std::shared_ptr<const Model> Model::load(const std::string& path, const BackendOptions& options,
                                         const std::function<void(int64_t, int64_t)>& progress) {
  gguf::File file = gguf::File::open(path);
  ModelPlan plan = plan_model(file);
  std::shared_ptr<Model> model(new Model(std::move(file), std::move(plan), make_backend(options)));
  const ModelPlan& p = model->plan_;

  int64_t total = 0, done = 0;
  for (const auto* t : p.globals) total += t != nullptr;
  for (const auto& layer : p.layers)
    for (const auto* t : layer) total += t != nullptr;
  const auto upload = [&](const gguf::TensorInfo* info) -> std::unique_ptr<DeviceTensor> {
    if (!info) return nullptr;
    auto tensor = model->backend_->upload(model->file_.view(*info));
    if (tensor->holds_copy) model->file_.release_pages(*info);
    if (progress) progress(++done, total);
    return tensor;
  };
  model->globals_.resize(kRoles);
  for (size_t r = 0; r < kRoles; ++r) model->globals_[r] = upload(p.globals[r]);
  model->layers_.resize(p.layers.size());
  for (size_t l = 0; l < p.layers.size(); ++l) {
    model->layers_[l].resize(kRoles);
    for (size_t r = 0; r < kRoles; ++r) model->layers_[l][r] = upload(p.layers[l][r]);
  }
  return model;
}

const DeviceTensor& Model::head() const { return *weight(plan_.tied_head ? Role::token_embd : Role::output); }


namespace {

template <class Function>
void for_each_matrix(const Model& model, Function&& fn) {
  for (int64_t l = 0; l < model.params().n_layers; ++l)
    for (auto r = static_cast<size_t>(kFirstLayerRole); r < kRoles; ++r)
      if (const DeviceTensor* w = model.weight(l, static_cast<Role>(r)); w && w->rows > 1) fn(*w);
  fn(model.head());
}

}  // namespace

size_t Model::bytes_per_token() const {
  size_t bytes = 0;
  for_each_matrix(*this, [&](const DeviceTensor& w) { bytes += w.bytes; });
  return bytes;
}

int64_t Model::weights_per_token() const {
  int64_t weights = 0;
  for_each_matrix(*this, [&](const DeviceTensor& w) { weights += w.rows * w.cols; });
  return weights;
}

}  // namespace hrun
