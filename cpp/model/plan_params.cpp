// Hyper-parameters: every key that changes what a model computes is read, range-checked, or refused.
#include <algorithm>
#include <array>

#include "base/error.h"
#include "model/plan_parts.h"

namespace hrun::planning {
namespace {

class Keys {
 public:
  Keys(const gguf::File& file, std::string_view architecture) : file_(file), prefix_(std::string(architecture) + ".") {}

  std::string key(std::string_view suffix) const { return prefix_ + std::string(suffix); }
  bool has(std::string_view suffix) const { return file_.find(key(suffix)) != nullptr; }

  int64_t count(std::string_view suffix, uint64_t least, uint64_t most) const {
    const std::string name = key(suffix);
    const uint64_t value = file_.get_uint(name);
    if (value < least || value > most) file_.fail("key '{}' is {}, must be {} to {}", name, value, least, most);
    return static_cast<int64_t>(value);
  }
  int64_t count_or(std::string_view suffix, int64_t fallback, uint64_t least, uint64_t most) const {
    return has(suffix) ? count(suffix, least, most) : fallback;
  }

  // One number for all layers, or an array with one per layer; hrun runs only uniform models.
  int64_t per_layer(std::string_view suffix, int64_t n_layers, uint64_t least, uint64_t most) const {
    const std::string name = key(suffix);
    const gguf::Entry* entry = file_.find(name);
    const auto* array = entry ? std::get_if<gguf::Array>(&entry->value) : nullptr;
    if (!array) return count(suffix, least, most);
    if (!gguf::is_unsigned(array->element()) && !gguf::is_signed(array->element()))
      file_.fail("key '{}' is array<{}>, must be an unsigned integer or an array of them", name,
                 type_name(array->element()));
    if (array->size() != static_cast<uint64_t>(n_layers))
      file_.fail("key '{}' has {} entries, the model has {} layers", name, array->size(), n_layers);
    std::optional<int64_t> first;
    bool uniform = true;
    array->for_each([&](const gguf::Value& value) {
      const auto* u = std::get_if<uint64_t>(&value);
      const auto* i = std::get_if<int64_t>(&value);
      const bool fits = u ? *u >= least && *u <= most
                          : i && *i >= 0 && static_cast<uint64_t>(*i) >= least && static_cast<uint64_t>(*i) <= most;
      if (!fits) {
        if (u) file_.fail("key '{}' has an entry {}, must be {} to {}", name, *u, least, most);
        file_.fail("key '{}' has an entry {}, must be {} to {}", name, i ? *i : 0, least, most);
      }
      const int64_t number = u ? static_cast<int64_t>(*u) : *i;
      uniform = uniform && number == first.value_or(number);
      first = first.value_or(number);
    });
    if (!uniform)
      unsupported(file_, "key '{}' differs between layers, which hrun does not support; expected one value", name);
    return *first;  // n_layers is at least 1
  }

  double number(std::string_view suffix, double least, double most) const {
    const std::string name = key(suffix);
    const double value = file_.get_float(name);
    if (!(value >= least && value <= most)) file_.fail("key '{}' is {}, must be {} to {}", name, value, least, most);
    return value;
  }
  double number_or(std::string_view suffix, double fallback, double least, double most) const {
    return has(suffix) ? number(suffix, least, most) : fallback;
  }

  const gguf::File& file() const { return file_; }

 private:
  const gguf::File& file_;
  std::string prefix_;
};

// Keys that other architectures or later versions of this one use; each is harmless only at its neutral value.
struct Neutral {
  std::string_view suffix;
  double value;
};
constexpr std::array<Neutral, 10> kNeutral = {{
    {"expert_count", 0},
    {"expert_used_count", 0},
    {"expert_shared_count", 0},
    {"logit_scale", 1},
    {"residual_scale", 1},
    {"embedding_scale", 1},
    {"attention.clamp_kqv", 0},
    {"attention.max_alibi_bias", 0},
    {"rope.scaling.yarn_ext_factor", 1},
    {"attn_logit_softcapping", 0},
}};

void refuse_unknown_maths(const Keys& keys, int64_t n_ctx) {
  const gguf::File& file = keys.file();
  for (const Neutral& n : kNeutral) {
    const std::string name = keys.key(n.suffix);
    if (const double value = file.get_float_or(name, n.value); value != n.value)
      unsupported(file, "key '{}' is {}, hrun supports only {} for this architecture", name, value, n.value);
  }
  if (!file.get_bool_or(keys.key("attention.causal"), true))
    unsupported(file, "key '{}' is false, hrun supports only causal attention", keys.key("attention.causal"));
  // A window as long as the context changes nothing.
  constexpr uint64_t kMaxWindow = 2'147'483'648;
  if (const int64_t window = keys.count_or("attention.sliding_window", n_ctx, 1, kMaxWindow); window < n_ctx)
    unsupported(
        file,
        "key '{}' is {}, smaller than the context of {}; hrun does not support sliding windows for this architecture",
        keys.key("attention.sliding_window"), window, n_ctx);
}

constexpr double kMaxFactor = 1e6;

void read_rope(const Keys& keys, HyperParams& p) {
  const gguf::File& file = keys.file();
  p.n_rot = keys.count_or("rope.dimension_count", p.k_dim, 2, static_cast<uint64_t>(p.k_dim));
  if (p.n_rot % 2 != 0)
    file.fail("key '{}' is {}, must be even and at most {}", keys.key("rope.dimension_count"), p.n_rot, p.k_dim);
  p.rope_base = keys.number_or("rope.freq_base", 10000, 2, 1e15);

  const std::string type_key = keys.key("rope.scaling.type");
  std::string_view type = file.find_string(type_key).value_or("none");
  if (!keys.has("rope.scaling.type") && keys.has("rope.scale_linear")) {  // files from before rope.scaling.*
    p.rope_factor = keys.number("rope.scale_linear", 1 / kMaxFactor, kMaxFactor);
    if (p.rope_factor != 1) p.rope_scaling = RopeScaling::linear;
    return;
  }
  // Checked even where the type is none: a NaN there is a broken file all the same.
  const double factor = keys.number_or("rope.scaling.factor", 1, 1 / kMaxFactor, kMaxFactor);
  if (type == "none") return;
  if (type != "linear" && type != "yarn")
    unsupported(file,
                "key '{}' is '{}', which is not supported (supported: none, linear, yarn; llama3 as rope_freqs.weight)",
                type_key, printable(type));
  if (!keys.has("rope.scaling.factor"))
    file.fail("key '{}' is missing, rope scaling '{}' needs it", keys.key("rope.scaling.factor"), printable(type));
  p.rope_factor = factor;
  if (type == "linear") {
    p.rope_scaling = RopeScaling::linear;
    return;
  }
  p.rope_scaling = RopeScaling::yarn;
  p.rope_original_ctx =
      static_cast<double>(keys.count_or("rope.scaling.original_context_length", p.n_ctx_train, 1, kMaxContext));
  p.yarn_beta_fast = keys.number_or("rope.scaling.yarn_beta_fast", 32, 1e-3, kMaxFactor);
  p.yarn_beta_slow = keys.number_or("rope.scaling.yarn_beta_slow", 1, 1e-3, kMaxFactor);
  // YaRN's temperature belongs to the rope table; these keys only adjust it.
  p.rope_attn_factor = keys.number_or("rope.scaling.attn_factor", 1, 1 / kMaxFactor, kMaxFactor) *
                       keys.number_or("rope.scaling.yarn_attn_factor", 1, 1 / kMaxFactor, kMaxFactor);
}

}  // namespace

HyperParams read_params(const gguf::File& file, const ModelDescription& description) {
  const Keys keys(file, description.name);
  HyperParams p;
  p.n_layers = keys.count("block_count", 1, kMaxLayers);
  p.n_embd = keys.count("embedding_length", 1, kMaxWidth);
  p.n_ctx_train = keys.count("context_length", 1, kMaxContext);
  p.n_ff = keys.per_layer("feed_forward_length", p.n_layers, 1, kMaxFeedForward);
  p.n_heads = keys.per_layer("attention.head_count", p.n_layers, 1, kMaxHeads);
  p.n_kv_heads = keys.has("attention.head_count_kv")
                     ? keys.per_layer("attention.head_count_kv", p.n_layers, 1, kMaxHeads)
                     : p.n_heads;
  if (p.n_heads % p.n_kv_heads != 0)
    file.fail("key '{}' is {}, which is not a multiple of head_count_kv {}", keys.key("attention.head_count"),
              p.n_heads, p.n_kv_heads);

  const bool explicit_dims = keys.has("attention.key_length") && keys.has("attention.value_length");
  if (!explicit_dims && p.n_embd % p.n_heads != 0)
    file.fail("key '{}' is {}, which is not divisible by head_count {} (and there is no attention.key_length)",
              keys.key("embedding_length"), p.n_embd, p.n_heads);
  p.k_dim = keys.count_or("attention.key_length", p.n_embd / p.n_heads, 1, kMaxHeadDim);
  p.v_dim = keys.count_or("attention.value_length", p.n_embd / p.n_heads, 1, kMaxHeadDim);
  if (p.k_dim > static_cast<int64_t>(kMaxHeadDim) || p.k_dim < 2 || p.v_dim > static_cast<int64_t>(kMaxHeadDim))
    file.fail("a head has {} values (embedding_length {} / head_count {}), must be 2 to {}", std::max(p.k_dim, p.v_dim),
              p.n_embd, p.n_heads, kMaxHeadDim);
  p.rms_eps = static_cast<float>(keys.number("attention.layer_norm_rms_epsilon", 1e-30, 1));
  refuse_unknown_maths(keys, p.n_ctx_train);
  read_rope(keys, p);
  return p;
}

}  // namespace hrun::planning
