#include "model/spec/spec.h"

#include <cmath>

#include "backend/key_statistics.h"
#include "base/error.h"
#include "model/spec/parts.h"

namespace hrun {
namespace {

std::string architecture_names() {
  std::string out;
  for (const ModelDescription* d : architectures())
    out += (out.empty() ? "" : ", ") + std::string(d->name);
  return out;
}

// Architectures of GGUF files that hold something else than a language model, and what they are.
struct OtherKind {
  std::string_view prefix;
  std::string_view sentence;
};
constexpr OtherKind kOtherKinds[] = {
    {"clip",
     "the vision or sound part of a model (mmproj), which goes beside the language model; open the "
     "other file"},
    {"mmproj",
     "the vision or sound part of a model (mmproj), which goes beside the language model; open the "
     "other file"},
    {"flux", "an image model"},
    {"sd1", "an image model"},
    {"sd3", "an image model"},
    {"sdxl", "an image model"},
    {"lumina", "an image model"},
    {"qwen_image", "an image model"},
    {"hidream", "an image model"},
    {"aura", "an image model"},
    {"pig", "an image model"},
    {"wan", "a video model"},
    {"ltxv", "a video model"},
    {"hyvid", "a video model"},
    {"cosmos", "a video model"},
    {"whisper", "a speech model"},
    {"wavtokenizer", "a speech model"},
    {"nomic-bert-moe", "an encoder with experts"},
    {"jina-bert", "an encoder of a kind that hrun does not have"},
    {"neo-bert", "an encoder of a kind that hrun does not have"},
    {"eurobert", "an encoder of a kind that hrun does not have"},
    {"t5", "an encoder with a decoder"},
    {"imatrix", "an importance matrix, which hrun-convert takes with --imatrix"},
};

// Architectures of language models that hrun cannot run yet, and what it would need.
constexpr OtherKind kMissing[] = {
    {"llama4", "attention in chunks of positions"},
    {"rwkv", "RWKV's recurrence"},
    {"arwkv", "RWKV's recurrence"},
    {"kimi-linear", "a delta rule whose channels decay by themselves"},
    {"kimi-k3", "a delta rule whose channels decay by themselves"},
    {"glm5-next", "a delta rule whose channels decay by themselves"},
    {"bailingmoe3", "a delta rule whose channels decay by themselves"},
    {"deepseek32", "the indexer of sparse attention"},
    {"glm-dsa", "the indexer of sparse attention"},
    {"deepseek4", "compressed attention and hyper-connections"},
    {"qwen4exp", "hyper-connections and the indexer of sparse attention"},
    {"step35", "clamped gates of experts"},
    {"bloom", "scores that fall with distance (ALiBi)"},
    {"mpt", "scores that fall with distance (ALiBi)"},
};

// The supported architecture whose name shares the longest beginning, of three letters or more.
std::string_view nearest_architecture(std::string_view name) {
  std::string_view best;
  size_t longest = 2;
  for (const ModelDescription* d : architectures()) {
    size_t n = 0;
    while (n < name.size() && n < d->name.size() && name[n] == d->name[n]) ++n;
    if (n > longest) longest = n, best = d->name;
  }
  return best;
}

const ModelDescription& require_architecture(const gguf::File& file) {
  const std::string_view name = file.get_string("general.architecture");
  const ModelDescription* description = find_architecture(name);
  if (description) return *description;
  for (const OtherKind& kind : kOtherKinds)
    if (name.substr(0, kind.prefix.size()) == kind.prefix)
      planning::unsupported(file,
                            "architecture '{}' is {}; hrun runs language models (supported: {})",
                            printable(name), kind.sentence, architecture_names());
  for (const OtherKind& kind : kMissing)
    if (name.substr(0, kind.prefix.size()) == kind.prefix)
      planning::unsupported(
          file, "architecture '{}' is not supported: hrun does not have {} (supported: {})",
          printable(name), kind.sentence, architecture_names());
  const std::string_view near = nearest_architecture(name);
  planning::unsupported(
      file, "architecture '{}' is not supported{} (supported: {})", printable(name),
      near.empty() ? "" : message("; the nearest that is: '{}'", near), architecture_names());
}

// Adapters, projectors and importance matrices are GGUF files with an architecture too.
void require_whole_model(const gguf::File& file) {
  const auto type = file.find_string("general.type");
  if (type && *type != "model") {
    const std::string_view what =
        *type == "adapter"  ? "an adapter (LoRA), which changes a model and is none; merge it into "
                              "its model and convert that"
        : *type == "mmproj" ? "the vision or sound part of a model, which goes beside the language "
                              "model; open the other file"
        : *type == "imatrix" ? "an importance matrix, which hrun-convert takes with --imatrix"
        : *type == "vocab"   ? "a vocabulary without a model"
                             : "expected 'model'";
    planning::unsupported(file, "key 'general.type' is '{}': {}", printable(*type), what);
  }
  if (file.tensors().empty())
    file.fail(
        "it holds {} and no weights; a download of the vocabulary alone, or of the wrong file",
        file.find("tokenizer.ggml.tokens") ? "a vocabulary" : "metadata");
}

// Reads an array that has the keys of all layers, one layer after the other.
std::vector<std::vector<float>> read_key_table(const gguf::File& file, const HyperParams& params,
                                               std::string_view key) {
  std::vector<std::vector<float>> out;
  if (!file.find(key)) return out;
  const gguf::Array& array = file.get_array(key, gguf::Type::f32);
  uint64_t expected = 0;
  for (const LayerParams& layer : params.layers) {
    const bool has =
        layer.mixer == Mixer::attention || layer.mixer == Mixer::attention_and_state_space;
    out.emplace_back(has && layer.keys_of < 0 ? static_cast<size_t>(layer.n_kv_heads * layer.k_dim)
                                              : 0);
    expected += out.back().size();
  }
  if (array.size() != expected)
    file.fail("key '{}' has {} values; the keys of all layers have {}", key, array.size(),
              expected);
  size_t layer = 0, i = 0;
  array.for_each([&](const gguf::Value& value) {
    while (i == out[layer].size()) ++layer, i = 0;
    const double x = std::get<double>(value);
    if (!std::isfinite(x)) file.fail("key '{}': value {} of layer {} is not finite", key, i, layer);
    out[layer][i++] = static_cast<float>(x);
  });
  return out;
}

void read_key_tables(const gguf::File& file, ModelSpec& spec) {
  constexpr std::string_view kMean = "hrun.attention.key_mean",
                             kBalance = "hrun.attention.key_balance";
  spec.key_means = read_key_table(file, spec.params, kMean);
  spec.key_balances = read_key_table(file, spec.params, kBalance);
  if (spec.key_means.empty() != spec.key_balances.empty())
    file.fail("keys '{}' and '{}' belong together, found only the {}", kMean, kBalance,
              spec.key_means.empty() ? "second" : "first");
  for (size_t l = 0; l < spec.key_balances.size(); ++l)
    for (const float x : spec.key_balances[l])
      if (checked_balance(x) != x)
        file.fail("key '{}': layer {} has {}, must be a positive factor", kBalance, l, x);
}

}  // namespace

ModelSpec read_spec(const gguf::File& file) {
  ModelSpec spec;
  require_whole_model(file);
  spec.description = &require_architecture(file);
  spec.params = planning::read_params(file, *spec.description);
  spec.params.n_vocab = planning::check_tokenizer(file, *spec.description, spec.warnings);
  planning::place_tensors(file, spec);
  read_key_tables(file, spec);
  return spec;
}

}  // namespace hrun
