#include "model/plan.h"

#include "base/error.h"
#include "model/plan_parts.h"

namespace hrun {
namespace {

std::string architecture_names() {
  std::string out;
  for (const ModelDescription* d : architectures()) out += (out.empty() ? "" : ", ") + std::string(d->name);
  return out;
}

const ModelDescription& require_architecture(const gguf::File& file) {
  const std::string_view name = file.get_string("general.architecture");
  const ModelDescription* description = find_architecture(name);
  if (!description)
    planning::unsupported(file, "architecture '{}' is not supported (supported: {})", printable(name), architecture_names());
  return *description;
}

// Adapters, projectors and importance matrices are GGUF files with an architecture too.
void require_whole_model(const gguf::File& file) {
  if (const auto type = file.find_string("general.type"); type && *type != "model")
    planning::unsupported(file, "key 'general.type' is '{}', expected 'model'", printable(*type));
  if (const uint64_t parts = file.get_uint_or("split.count", 0); parts > 1)
    planning::unsupported(file, "this is part {} of a model in {} files (split.count), expected one file; merge the parts first",
                          file.get_uint_or("split.no", 0) + 1, parts);
}

}  // namespace

ModelPlan plan_model(const gguf::File& file) {
  ModelPlan plan;
  plan.description = &require_architecture(file);
  require_whole_model(file);
  plan.params = planning::read_params(file, *plan.description);
  plan.params.n_vocab = planning::check_tokenizer(file, *plan.description, plan.warnings);
  planning::place_tensors(file, plan);
  return plan;
}

}  // namespace hrun
