// Weights on a device by role, and the one generic decoder that runs them.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "gguf/file.h"
#include "model/plan.h"

namespace hrun {

// Immutable after load and shared between sessions (the backend serialises its own calls).
class Model {
 public:
  // Opens, validates and uploads.  progress(done, total) in tensors; it may throw Cancelled.
  static std::shared_ptr<const Model> load(const std::string& path, const BackendOptions& options,
                                           const std::function<void(int64_t, int64_t)>& progress = {});

  const gguf::File& file() const { return file_; }
  const HyperParams& params() const { return plan_.params; }
  const ModelPlan& plan() const { return plan_; }
  Backend& backend() const { return *backend_; }
  const DeviceTensor* weight(Role role) const { return globals_[static_cast<size_t>(role)].get(); }
  const DeviceTensor* weight(int64_t layer, Role role) const {
    return layers_[static_cast<size_t>(layer)][static_cast<size_t>(role)].get();
  }
  const DeviceTensor& head() const;
  // What one token of generation reads and multiplies: the matrices of the layers and the head.
  size_t bytes_per_token() const;
  int64_t weights_per_token() const;

 private:
  Model(gguf::File file, ModelPlan plan, std::unique_ptr<Backend> backend);

  gguf::File file_;
  ModelPlan plan_;
  std::unique_ptr<Backend> backend_;
  std::vector<std::unique_ptr<DeviceTensor>> globals_;
  std::vector<std::vector<std::unique_ptr<DeviceTensor>>> layers_;
};

}  // namespace hrun
