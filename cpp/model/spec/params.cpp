// Hyper-parameters: every key that changes what a model computes is read, range-checked, or
// refused.
#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <vector>

#include "base/error.h"
#include "base/math64.h"
#include "model/spec/parts.h"

namespace hrun::planning {
namespace {

class Keys {
 public:
  Keys(const gguf::File& file, std::string_view architecture)
      : file_(file), prefix_(std::string(architecture) + ".") {}

  std::string key(std::string_view suffix) const { return prefix_ + std::string(suffix); }
  bool has(std::string_view suffix) const { return file_.find(key(suffix)) != nullptr; }

  int64_t count(std::string_view suffix, uint64_t least, uint64_t most) const {
    const std::string name = key(suffix);
    const uint64_t value = file_.get_uint(name);
    if (value < least || value > most)
      file_.fail("key '{}' is {}, must be {} to {}", name, value, least, most);
    return static_cast<int64_t>(value);
  }
  int64_t count_or(std::string_view suffix, int64_t fallback, uint64_t least, uint64_t most) const {
    return has(suffix) ? count(suffix, least, most) : fallback;
  }

  // One number for all layers, or an array with one per layer.
  std::vector<int64_t> per_layer(std::string_view suffix, int64_t n_layers, uint64_t least,
                                 uint64_t most) const {
    const std::string name = key(suffix);
    const gguf::Entry* entry = file_.find(name);
    const auto* array = entry ? std::get_if<gguf::Array>(&entry->value) : nullptr;
    if (!array)
      return std::vector<int64_t>(static_cast<size_t>(n_layers), count(suffix, least, most));
    if (!gguf::is_unsigned(array->element()) && !gguf::is_signed(array->element()))
      file_.fail("key '{}' is array<{}>, must be an unsigned integer or an array of them", name,
                 type_name(array->element()));
    if (array->size() != static_cast<uint64_t>(n_layers) &&
        array->size() != static_cast<uint64_t>(n_layers + n_extra_))
      file_.fail("key '{}' has {} entries, the model has {} layers", name, array->size(), n_layers);
    std::vector<int64_t> values;
    array->for_each([&](const gguf::Value& value) {
      const auto* u = std::get_if<uint64_t>(&value);
      const auto* i = std::get_if<int64_t>(&value);
      const bool fits = u ? *u >= least && *u <= most
                          : i && *i >= 0 && static_cast<uint64_t>(*i) >= least &&
                                static_cast<uint64_t>(*i) <= most;
      if (!fits) {
        if (u) file_.fail("key '{}' has an entry {}, must be {} to {}", name, *u, least, most);
        file_.fail("key '{}' has an entry {}, must be {} to {}", name, i ? *i : 0, least, most);
      }
      values.push_back(u ? static_cast<int64_t>(*u) : *i);
    });
    values.resize(static_cast<size_t>(n_layers));
    return values;
  }
  // The same for a number that must be alike in all layers.
  int64_t uniform(std::string_view suffix, int64_t n_layers, uint64_t least, uint64_t most) const {
    const std::vector<int64_t> values = per_layer(suffix, n_layers, least, most);
    for (const int64_t value : values)
      if (value != values.front())
        unsupported(
            file_,
            "key '{}' differs between layers, which hrun does not support; expected one value",
            key(suffix));
    return values.front();  // n_layers is at least 1
  }

  double number(std::string_view suffix, double least, double most) const {
    const std::string name = key(suffix);
    const double value = file_.get_float(name);
    if (!(value >= least && value <= most))
      file_.fail("key '{}' is {}, must be {} to {}", name, value, least, most);
    return value;
  }
  double number_or(std::string_view suffix, double fallback, double least, double most) const {
    return has(suffix) ? number(suffix, least, most) : fallback;
  }

  const gguf::File& file() const { return file_; }
  // Lets arrays have this many more entries, for layers that are not run.
  void allow_extra_layers(int64_t n) { n_extra_ = n; }

 private:
  const gguf::File& file_;
  std::string prefix_;
  int64_t n_extra_ = 0;
};

// Keys that change what some models compute; where the description does not list one it is harmless
// only at its neutral value.
struct Neutral {
  std::string_view suffix;
  double value;
};
constexpr std::string_view kExpertStep = "interleave_moe_layer_step";
constexpr std::array<Neutral, 20> kNeutral = {{
    {"expert_count", 0},
    {"expert_used_count", 0},
    {"expert_shared_count", 0},
    {"expert_weights_scale", 1},
    {"expert_group_count", 1},
    {"expert_group_used_count", 1},
    {"leading_dense_block_count", 0},
    {kExpertStep, 1},
    {"logit_scale", 1},
    {"residual_scale", 1},
    {"embedding_scale", 1},
    {"attention.clamp_kqv", 0},
    {"attention.max_alibi_bias", 0},
    {"attention.temperature_scale", 0},
    {"attention.kv_lora_rank", 0},
    {"attention.q_lora_rank", 0},
    {"rope.scaling.yarn_ext_factor", 1},
    {"rope.scaling.yarn_log_multiplier", 0},
    {"attn_logit_softcapping", 0},
    {"final_logit_softcapping", 0},
}};

constexpr uint64_t kMaxWindow = 2'147'483'648;

void refuse_unknown_maths(const Keys& keys, const ModelDescription& description, int64_t n_ctx) {
  const gguf::File& file = keys.file();
  for (const Neutral& n : kNeutral) {
    if (description.has_key(n.suffix) && n.suffix != kExpertStep) continue;
    const std::string name = keys.key(n.suffix);
    if (const double value = file.get_float_or(name, n.value); value != n.value)
      unsupported(file, "key '{}' is {}, hrun supports only {} for this architecture", name, value,
                  n.value);
  }
  if (const bool causal = file.get_bool_or(keys.key("attention.causal"), description.causal);
      causal != description.causal)
    unsupported(file, "key '{}' is {}, hrun supports only {} attention for this architecture",
                keys.key("attention.causal"), causal ? "true" : "false",
                causal ? "bidirectional" : "causal");
  // A window as long as the context changes nothing.
  if (const int64_t window = keys.count_or("attention.sliding_window", n_ctx, 0, kMaxWindow);
      window > 0 && window < n_ctx && !description.has_key("attention.sliding_window"))
    unsupported(file,
                "key '{}' is {}, smaller than the context of {}; hrun does not support sliding "
                "windows for this architecture",
                keys.key("attention.sliding_window"), window, n_ctx);
}

constexpr double kMaxScale = 1e6;

// The first layer that has heads and sees all positions, else one that has heads, else the first.
const LayerParams& attention_layer(const HyperParams& p) {
  const LayerParams* found = nullptr;
  for (const LayerParams& layer : p.layers) {
    if (!has_attention(layer.mixer)) continue;
    if (!layer.windowed) return layer;
    if (!found) found = &layer;
  }
  return found ? *found : p.layer(0);
}

void read_scales(const Keys& keys, const ModelDescription& description, HyperParams& p) {
  const auto listed = [&](std::string_view key, double fallback, double least) {
    return description.has_key(key) ? keys.number_or(key, fallback, least, kMaxScale) : fallback;
  };
  p.embd_scale = listed("embedding_scale", 1, 1e-6) *
                 (description.embd_times_root ? std::sqrt(static_cast<double>(p.n_embd)) : 1.0);
  p.residual_scale = listed("residual_scale", 1, 1e-6);
  p.logit_scale = listed("logit_scale", 1, 1e-9);
  if (description.divides_logits) p.logit_scale = 1 / p.logit_scale;
  p.attn_soft_cap = listed("attn_logit_softcapping", 0, 0);
  p.value_scale = listed("attention.value_scale", 1, 1e-6);
  p.logit_soft_cap = listed("final_logit_softcapping", 0, 0);
  p.attn_scale = 1.0 / std::sqrt(static_cast<double>(p.latent_kv > 0 ? p.latent_k_dim
                                                                     : attention_layer(p).k_dim));
  if (description.attn_scale != 0) p.attn_scale = description.attn_scale;
  if (!description.has_key("attention.scale")) return;
  if (const double scale = keys.number_or("attention.scale", 0, 0, kMaxScale); scale != 0) {
    p.attn_scale = scale;
  } else if (p.n_layers ==
             description
                 .width_scaled_layers) {  // llama.cpp's converter leaves it to who reads the file
    p.attn_scale =
        1.0 / std::sqrt(static_cast<double>(p.n_embd) / static_cast<double>(p.layer(0).n_heads));
  }
}

// Reads which layers have a window: by a period (every n-th layer is without, 0: none is), or one
// by one.
std::vector<bool> read_window_pattern(const Keys& keys, const ModelDescription& description,
                                      int64_t n_layers) {
  constexpr std::string_view kKey = "attention.sliding_window_pattern";
  std::vector<bool> has_window;
  const auto fill = [&](int64_t period) {
    for (int64_t l = 0; l < n_layers; ++l)
      has_window.push_back(period == 0 || (description.full_layer_first ? l : l + 1) % period != 0);
    return has_window;
  };
  const gguf::Entry* entry = keys.file().find(keys.key(kKey));
  if (!entry || !description.has_key(kKey)) return fill(description.window_period);
  const auto* array = std::get_if<gguf::Array>(&entry->value);
  if (!array) return fill(keys.count(kKey, 0, kMaxLayers));
  array->for_each([&](const gguf::Value& value) {
    const auto* flag = std::get_if<bool>(&value);
    const auto* number = std::get_if<uint64_t>(&value);
    const auto* integer = std::get_if<int64_t>(&value);
    has_window.push_back(flag ? *flag : number ? *number != 0 : integer && *integer != 0);
  });
  if (static_cast<int64_t>(has_window.size()) < n_layers)
    keys.file().fail("key '{}' has {} entries, the model has {} layers", keys.key(kKey),
                     has_window.size(), n_layers);
  return has_window;
}

void read_window(const Keys& keys, const ModelDescription& description, HyperParams& p) {
  if (!description.has_key("attention.sliding_window")) return;
  int64_t window = keys.count_or("attention.sliding_window", 0, 0, kMaxWindow);
  if (window == 0) return;
  if (description.causal && window >= p.n_ctx_train) window = 0;
  const std::vector<bool> has_window = read_window_pattern(keys, description, p.n_layers);
  const bool own_heads = description.has_key("attention.key_length_swa");
  for (int64_t l = 0; l < p.n_layers; ++l) {
    LayerParams& layer = p.layers[static_cast<size_t>(l)];
    layer.windowed = has_window[static_cast<size_t>(l)];
    layer.window = layer.windowed ? window : 0;
    if (!layer.windowed || !own_heads) continue;
    layer.k_dim = keys.count_or("attention.key_length_swa", layer.k_dim, 2, kMaxHeadDim);
    layer.v_dim = keys.count_or("attention.value_length_swa", layer.v_dim, 2, kMaxHeadDim);
  }
}

// The last layers read the keys and values of the last layer of their kind before them.
void read_shared_keys(const Keys& keys, const ModelDescription& description, HyperParams& p) {
  constexpr std::string_view kKey = "attention.shared_kv_layers";
  if (!description.has_key(kKey)) return;
  const int64_t own = p.n_layers - keys.count_or(kKey, 0, 0, static_cast<uint64_t>(p.n_layers));
  for (int64_t l = own; l < p.n_layers; ++l) {
    LayerParams& layer = p.layers[static_cast<size_t>(l)];
    int64_t from = own - 1;
    while (from >= 0 && p.layer(from).windowed != layer.windowed) --from;
    if (from < 0)
      keys.file().fail("key '{}' is {}: layer {} has no layer of its kind before these",
                       keys.key(kKey), p.n_layers - own, l);
    const LayerParams& source = p.layer(from);
    if (source.k_dim != layer.k_dim || source.v_dim != layer.v_dim ||
        source.n_kv_heads != layer.n_kv_heads)
      keys.file().fail("key '{}' is {}: the heads of layer {} are not those of layer {}",
                       keys.key(kKey), p.n_layers - own, l, from);
    layer.keys_of = from;
  }
}

// Reads the gates of the mixed values: one for each value or one for a head, as the first layer's
// matrix says.
void read_gate(const Keys& keys, const ModelDescription& description, HyperParams& p) {
  const TensorRule* rule = description.find_rule(Role::attn_gate);
  if (!rule || rule->rows != Dim::gate) return;
  const gguf::TensorInfo* tensor = keys.file().find_tensor(layer_name(rule->gguf_name, 0));
  p.gate_per_head = tensor && tensor->dims[1] == static_cast<uint64_t>(p.layer(0).n_heads) &&
                    p.layer(0).v_dim > 1;
}

// Reads how texts become vectors.
void read_pooling(const Keys& keys, const ModelDescription& description, HyperParams& p) {
  const gguf::File& file = keys.file();
  const auto pooling = [&](std::string_view key) -> std::optional<Pooling> {
    if (!keys.has(key)) return std::nullopt;
    return static_cast<Pooling>(keys.count(key, 0, static_cast<uint64_t>(Pooling::rank)));
  };
  p.pooling = pooling("pooling_type");
  p.class_pooling = pooling("classifier.pooling_type").value_or(description.class_pooling);
  if (p.class_pooling == Pooling::none || p.class_pooling == Pooling::rank)
    file.fail("key '{}' is {}, must be 1 (mean), 2 (cls) or 3 (last)",
              keys.key("classifier.pooling_type"), static_cast<int>(p.class_pooling));
  // Counts the rows of a tensor; the shapes are checked with those of all tensors.
  const auto rows_of = [&](Role role) -> int64_t {
    const TensorRule* rule = description.find_rule(role);
    const gguf::TensorInfo* tensor = rule ? file.find_tensor(rule->gguf_name) : nullptr;
    if (!tensor) return 0;
    if (tensor->dims[1] == 0) file.fail("tensor '{}' is empty", printable(tensor->name));
    return static_cast<int64_t>(std::min<uint64_t>(tensor->dims[1], kMaxWidth));
  };
  p.n_classes = rows_of(Role::class_output);
  p.n_dense = rows_of(Role::dense_2);
  p.n_token_types = description.has_role(Role::token_types)
                        ? static_cast<int64_t>(std::min<uint64_t>(
                              file.get_uint_or("tokenizer.ggml.token_type_count", 1), kMaxVocab))
                        : 0;
}

// Reads the function between the matrices of a feed-forward block, where files may say it.
void read_nonlinearity(const Keys& keys, const ModelDescription& description, HyperParams& p) {
  p.nonlinearity = description.nonlinearity;
  if (!description.has_key("hidden_activation") || !keys.has("hidden_activation")) return;
  const std::string_view name = keys.file().get_string(keys.key("hidden_activation"));
  if (name == "silu" || name == "swish" || name == "swiglu")
    p.nonlinearity = Nonlinearity::silu;
  else if (name == "gelu")
    p.nonlinearity = Nonlinearity::gelu_erf;
  else if (name == "relu2")
    p.nonlinearity = Nonlinearity::relu_squared;
  else
    unsupported(keys.file(), "key '{}' is '{}', hrun supports gelu, relu2 and silu",
                keys.key("hidden_activation"), printable(name));
}

// Reads an array that has a number for each layer.
std::vector<double> numbers_by_layer(const gguf::File& file, std::string_view key,
                                     const HyperParams& p) {
  const gguf::Entry* entry = file.find(key);
  const auto* array = entry ? std::get_if<gguf::Array>(&entry->value) : nullptr;
  std::vector<double> values;
  if (array)
    array->for_each([&](const gguf::Value& value) {
      if (const auto* number = std::get_if<double>(&value)) values.push_back(*number);
    });
  if (values.size() != p.layers.size())
    file.fail("key '{}' has {} numbers, the model has {} layers", key, values.size(), p.n_layers);
  return values;
}

// Reads the numbers of xIELU, which files have for each layer.  The alphas are stored before the
// softplus that keeps them positive.
void read_xielu(const gguf::File& file, HyperParams& p) {
  if (p.nonlinearity != Nonlinearity::xielu) return;
  const auto numbers = [&](std::string_view key) {
    const std::vector<double> values = numbers_by_layer(file, key, p);
    for (const double value : values)
      if (!(std::abs(value) <= kMaxScale))
        file.fail("key '{}' has an entry {}, must be {} to {}", key, value, -kMaxScale, kMaxScale);
    return values;
  };
  const auto softplus = [](double x) {
    return std::max(x, 0.0) + math64::log(1 + math64::exp(-std::abs(x)));
  };
  const std::vector<double> alpha_p = numbers("xielu.alpha_p"), alpha_n = numbers("xielu.alpha_n"),
                            beta = numbers("xielu.beta"), eps = numbers("xielu.eps");
  for (size_t l = 0; l < p.layers.size(); ++l)
    p.layers[l].xielu = {static_cast<float>(softplus(alpha_p[l])),
                         static_cast<float>(beta[l] + softplus(alpha_n[l])),
                         static_cast<float>(beta[l]), static_cast<float>(eps[l])};
}

// Reads how many hidden states a token has, and how wide learned residuals are.
void read_states(const Keys& keys, const ModelDescription& description, HyperParams& p) {
  constexpr uint64_t kMaxStates = 64;
  if (description.has_role(Role::altup_proj)) {
    p.n_states = keys.count("altup.num_inputs", 2, kMaxStates);
    p.active_state = keys.count_or("altup.active_idx", 0, 0, static_cast<uint64_t>(p.n_states - 1));
  }
  const TensorRule* rule = description.find_rule(Role::laurel_left);
  if (!rule) return;
  // The shapes are checked with those of all tensors.
  const gguf::TensorInfo* tensor = keys.file().find_tensor(layer_name(rule->gguf_name, 0));
  const uint64_t rank = tensor ? tensor->dims[1] : 1;
  if (rank < 1 || rank > kMaxWidth)
    keys.file().fail("tensor '{}' has {} rows, must have 1 to {}", printable(tensor->name), rank,
                     kMaxWidth);
  p.laurel_rank = static_cast<int64_t>(rank);
}

// Reads how many gates of each layer count.  -infinity: all.
void read_gate_cutoffs(const Keys& keys, const ModelDescription& description, HyperParams& p) {
  constexpr std::string_view kKey = "activation_sparsity_scale";
  if (!description.has_key(kKey) || !keys.has(kKey)) return;
  const std::string key = keys.key(kKey);
  const std::vector<double> cutoffs = numbers_by_layer(keys.file(), key, p);
  for (size_t l = 0; l < cutoffs.size(); ++l) {
    const double cutoff = cutoffs[l];
    if (!(std::abs(cutoff) <= kMaxScale || (std::isinf(cutoff) && cutoff < 0)))
      keys.file().fail("key '{}' has an entry {}, must be {} to {} or -infinity", key, cutoff,
                       -kMaxScale, kMaxScale);
    p.layers[l].gate_cutoff = cutoff;
  }
}

// Scores are corrected where they are sigmoids.
bool has_correction(const gguf::File& file, const ModelDescription& description,
                    int64_t first_layer) {
  const TensorRule* rule = description.find_rule(Role::router_correction);
  return rule && file.find_tensor(layer_name(rule->gguf_name, first_layer));
}

// Has every model of the architecture shared experts?
bool always_shared(const ModelDescription& description) {
  const TensorRule* rule = description.find_rule(Role::shared_up);
  return rule && rule->required;
}

void read_experts(const Keys& keys, const ModelDescription& description, HyperParams& p) {
  const gguf::File& file = keys.file();
  constexpr uint64_t kMaxExperts = 65'536;
  if (!description.has_role(Role::router)) return;
  p.n_experts = keys.count_or("expert_count", 0, 0, kMaxExperts);
  const bool optional = description.has_role(Role::ffn_down);  // dense layers exist too
  if (p.n_experts == 0) {
    if (!optional)
      file.fail("key '{}' is 0 or missing, this architecture needs experts",
                keys.key("expert_count"));
    if (const int64_t used = keys.count_or("expert_used_count", 0, 0, kMaxExperts); used > 0)
      file.fail("key '{}' is {}, but the model has no experts (expert_count)",
                keys.key("expert_used_count"), used);
    return;
  }
  p.n_experts_used = keys.count("expert_used_count", 1, static_cast<uint64_t>(p.n_experts));
  const bool own_width = description.has_key("expert_feed_forward_length");
  int64_t n_ff = 0;  // of a layer that has such a block
  for (const LayerParams& layer : p.layers)
    if (n_ff == 0) n_ff = layer.n_ff;
  p.n_ff_expert =
      own_width ? keys.uniform("expert_feed_forward_length", p.n_layers, 1, kMaxFeedForward) : n_ff;
  int64_t n_dense = 0;
  if (description.has_key("leading_dense_block_count"))
    n_dense =
        keys.count_or("leading_dense_block_count", std::min(description.leading_dense, p.n_layers),
                      0, static_cast<uint64_t>(p.n_layers));
  const auto has_router = [&](int64_t l) {
    return file.find_tensor(layer_name(description.find_rule(Role::router)->gguf_name, l));
  };
  for (int64_t l = n_dense; l < p.n_layers; ++l) {
    Feed& feed = p.layers[static_cast<size_t>(l)].feed;
    if (feed == Feed::none || (description.experts_by_router && !has_router(l))) continue;
    feed = description.experts_beside_dense ? Feed::dense_and_experts : Feed::experts;
  }
  // Where both keys are there, the width is that of all shared experts together.
  constexpr std::string_view kSharedWidth = "expert_shared_feed_forward_length",
                             kShared = "expert_shared_count";
  if (description.has_key(kShared))
    p.n_ff_shared = p.n_ff_expert * keys.count_or(kShared, 0, 0, 1024);
  if (description.has_key(kSharedWidth) &&
      (keys.has(kSharedWidth) || !description.has_key(kShared)))
    p.n_ff_shared =
        keys.count_or(kSharedWidth, always_shared(description) ? n_ff : 0, 0, kMaxFeedForward);
  p.experts_normed =
      description.has_key("expert_weights_norm")
          ? file.get_bool_or(keys.key("expert_weights_norm"), description.experts_normed)
          : description.experts_normed;
  if (description.has_key("expert_weights_scale")) {
    p.experts_scale = keys.number_or("expert_weights_scale", 1, 0, kMaxScale);
    if (p.experts_scale == 0) p.experts_scale = 1;
  }
  p.gating = description.gating;
  if (p.gating == Gating::sparse_mixer) {
    p.mixer_margin = 2 * keys.number_or("router_jitter_noise", 0.01, 0, 1);
    if (p.n_experts_used != 2)
      unsupported(file, "key '{}' is {}, a sparse mixer chooses 2 experts",
                  keys.key("expert_used_count"), p.n_experts_used);
  }
  if (description.has_key("expert_gating_func")) {
    const int64_t gating =
        keys.count_or("expert_gating_func", static_cast<int64_t>(description.gating), 0, 255);
    if (gating > 3)
      unsupported(
          file,
          "key '{}' is {}, hrun supports 1 (softmax), 2 (sigmoid) and 3 (softmax of the selected)",
          keys.key("expert_gating_func"), gating);
    p.gating = gating == 0 ? Gating::softmax : static_cast<Gating>(gating);
    if (!keys.has("expert_gating_func") && has_correction(file, description, n_dense))
      p.gating = Gating::sigmoid;
  }
  if (description.has_key("expert_group_count")) {
    p.n_expert_groups = std::max<int64_t>(
        1, keys.count_or("expert_group_count", 1, 0, static_cast<uint64_t>(p.n_experts)));
    p.n_expert_groups_used =
        std::max<int64_t>(1, keys.count_or("expert_group_used_count", p.n_expert_groups, 0,
                                           static_cast<uint64_t>(p.n_expert_groups)));
    if (p.n_experts % p.n_expert_groups != 0 ||
        p.n_experts / p.n_expert_groups * p.n_expert_groups_used < p.n_experts_used)
      file.fail("key '{}' is {}: {} experts in such groups, of which {} count, cannot give {}",
                keys.key("expert_group_count"), p.n_expert_groups, p.n_experts,
                p.n_expert_groups_used, p.n_experts_used);
  }
}

// Latent attention: the sizes of the cache replace those of the heads.
void read_latent_attention(const Keys& keys, const ModelDescription& description, HyperParams& p) {
  if (!description.has_role(Role::attn_kv_a)) return;
  p.latent_kv = keys.count("attention.kv_lora_rank", 1, kMaxHeadDim);
  p.latent_q = keys.count_or("attention.q_lora_rank", 0, 0, kMaxWidth);
  // Files from before these keys, which hold attn_kv_b, give the sizes as for any attention.
  const bool is_old =
      !keys.has("attention.key_length_mla") && !keys.has("attention.value_length_mla");
  p.latent_k_dim =
      keys.count(is_old ? "attention.key_length" : "attention.key_length_mla", 2, kMaxHeadDim);
  p.latent_v_dim =
      keys.count(is_old ? "attention.value_length" : "attention.value_length_mla", 1, kMaxHeadDim);
  const int64_t n_rot =
      keys.count("rope.dimension_count", 2, static_cast<uint64_t>(p.latent_k_dim - 1));
  for (LayerParams& layer : p.layers) {
    layer.mixer = Mixer::latent_attention;
    layer.n_kv_heads = 1;
    layer.k_dim = p.latent_kv + n_rot;
    layer.k_plain = n_rot;
    layer.v_dim = p.latent_kv;
  }
}

constexpr double kMaxFactor = 1e6;

// Reads which layers are recurrent: by a period (every n-th has attention), one by one, or those
// without heads of keys.
void read_mixers(const Keys& keys, const ModelDescription& description, HyperParams& p) {
  if (description.recurrent == Mixer::count) return;
  if (description.recurrent_without_keys) {
    for (LayerParams& layer : p.layers) {
      const bool feeds = layer.n_ff > 0;
      if (description.one_block && !feeds) layer.feed = Feed::none;
      if (layer.n_kv_heads == 0)
        layer.mixer = description.one_block && feeds ? Mixer::none : description.recurrent;
      else if (description.one_block && feeds)
        keys.file().fail("key '{}': a layer has heads and a width of {}; expected one of them",
                         keys.key("feed_forward_length"), layer.n_ff);
    }
    return;
  }
  const gguf::File& file = keys.file();
  constexpr std::string_view kKey = "attention.recurrent_layers";
  const gguf::Entry* entry = file.find(keys.key(kKey));
  std::vector<bool> recurrent;
  if (const auto* array = entry ? std::get_if<gguf::Array>(&entry->value) : nullptr) {
    array->for_each([&](const gguf::Value& value) {
      const auto* flag = std::get_if<bool>(&value);
      if (!flag) file.fail("key '{}' is no array<bool>", keys.key(kKey));
      recurrent.push_back(*flag);
    });
    if (static_cast<int64_t>(recurrent.size()) < p.n_layers)
      file.fail("key '{}' has {} entries, the model has {} layers", keys.key(kKey),
                recurrent.size(), p.n_layers);
  } else {
    const int64_t period = keys.count_or("full_attention_interval", description.attention_period,
                                         description.attention_period > 0 ? 1 : 0, kMaxLayers);
    for (int64_t l = 0; l < p.n_layers; ++l)
      recurrent.push_back(period == 0 || (l + 1) % period != 0);
  }
  for (size_t l = 0; l < p.layers.size(); ++l)
    if (recurrent[l]) p.layers[l].mixer = description.recurrent;
}

// The number of values of each head of a recurrent layer, whose groups share something.
int64_t recurrent_head_dim(const Keys& keys, int64_t n_heads, int64_t n_groups) {
  const int64_t values = keys.count("ssm.inner_size", 1, kMaxWidth);
  if (n_heads % n_groups != 0)
    keys.file().fail("key '{}' is {}, which is not a multiple of {}, {}",
                     keys.key("ssm.time_step_rank"), n_heads, keys.key("ssm.group_count"),
                     n_groups);
  if (values % n_heads != 0 || values / n_heads > static_cast<int64_t>(kMaxHeadDim))
    keys.file().fail("key '{}' is {}, must be {} (the heads) times at most {}",
                     keys.key("ssm.inner_size"), values, n_heads, kMaxHeadDim);
  return values / n_heads;
}

void read_delta_rule(const Keys& keys, const ModelDescription& description, HyperParams& p) {
  if (description.recurrent != Mixer::delta_rule) return;
  DeltaParams& d = p.delta;
  p.n_taps = keys.count("ssm.conv_kernel", 1, kMaxConvTaps);
  d.k_dim = keys.count("ssm.state_size", 1, kMaxStateRows);
  d.n_k_heads = keys.count("ssm.group_count", 1, kMaxHeads);
  d.n_v_heads = keys.count("ssm.time_step_rank", 1, kMaxHeads);
  d.v_dim = recurrent_head_dim(keys, d.n_v_heads, d.n_k_heads);
}

void read_state_space(const Keys& keys, const ModelDescription& description, HyperParams& p) {
  if (description.recurrent != Mixer::state_space &&
      description.recurrent != Mixer::attention_and_state_space)
    return;
  StateSpaceParams& s = p.ssm;
  p.n_taps = keys.count("ssm.conv_kernel", 1, kMaxConvTaps);
  s.state_dim = keys.count("ssm.state_size", 1, kMaxStateRows);
  s.n_groups = std::max<int64_t>(1, keys.count_or("ssm.group_count", 1, 0, kMaxHeads));
  s.n_heads = keys.count("ssm.time_step_rank", 1, kMaxHeads);
  s.head_dim = recurrent_head_dim(keys, s.n_heads, s.n_groups);
}

// Mamba 1: all channels are one head.
void read_channel_state_space(const Keys& keys, const ModelDescription& description,
                              HyperParams& p) {
  if (description.recurrent != Mixer::channel_state_space) return;
  StateSpaceParams& s = p.ssm;
  p.n_taps = keys.count("ssm.conv_kernel", 1, kMaxConvTaps);
  s.state_dim = keys.count("ssm.state_size", 1, kMaxStateRows);
  s.n_heads = s.n_groups = 1;
  s.head_dim = keys.count("ssm.inner_size", 1, kMaxWidth);
  s.step_rank = keys.count("ssm.time_step_rank", 1, kMaxWidth);
  s.normed = keys.file().get_bool_or(keys.key("ssm.dt_b_c_rms"), false);
  s.norm_eps = keys.number_or("ssm.dt_b_c_rms_epsilon", static_cast<double>(p.norm_eps), 0, 1);
}

void read_wkv(const Keys& keys, const ModelDescription& description, HyperParams& p) {
  if (description.recurrent != Mixer::wkv) return;
  WkvParams& w = p.wkv;
  w.head_dim = keys.count("wkv.head_size", 1, kMaxStateRows);
  if (p.n_embd % w.head_dim != 0)
    keys.file().fail("key '{}' is {}, which does not divide embedding_length {}",
                     keys.key("wkv.head_size"), w.head_dim, p.n_embd);
  w.decay_rank = keys.count("attention.decay_lora_rank", 1, kMaxWidth);
  w.rate_rank = keys.count("attention.iclr_lora_rank", 1, kMaxWidth);
  w.first_rank = keys.count("attention.value_residual_mix_lora_rank", 1, kMaxWidth);
  w.gate_rank = keys.count("attention.gate_lora_rank", 1, kMaxWidth);
  p.n_taps = 2;
}

void read_short_conv(const Keys& keys, const ModelDescription& description, HyperParams& p) {
  if (description.recurrent == Mixer::short_conv)
    p.n_taps = keys.count("shortconv.l_cache", 2, kMaxConvTaps);
}

// The rotary embedding of layers whose heads have k_dim values.
void read_rope(const Keys& keys, const ModelDescription& description, int64_t k_dim, HyperParams& p,
               RopeParams& rope) {
  const gguf::File& file = keys.file();
  rope.n_rot = keys.count_or("rope.dimension_count", k_dim, 2, static_cast<uint64_t>(k_dim));
  if (rope.n_rot % 2 != 0)
    file.fail("key '{}' is {}, must be even and at most {}", keys.key("rope.dimension_count"),
              rope.n_rot, k_dim);
  rope.base = keys.number_or("rope.freq_base", 10000, 2, 1e15);

  const std::string type_key = keys.key("rope.scaling.type");
  std::string_view type = file.find_string(type_key).value_or("none");
  // Files from before rope.scaling.* have another key.
  const std::string_view factor_key =
      keys.has("rope.scaling.factor") || !keys.has("rope.scale_linear") ? "rope.scaling.factor"
                                                                        : "rope.scale_linear";
  // The factor is checked even where the type is none: a NaN there is a broken file all the same.
  // 0 is written where there is no scaling.
  const bool no_factor = keys.has(factor_key) && file.get_float(keys.key(factor_key)) == 0;
  const double factor = no_factor ? 1 : keys.number_or(factor_key, 1, 1 / kMaxFactor, kMaxFactor);
  if (const bool has_factors = description.has_role(Role::rope_long);
      has_factors && (type == "none" || type == "longrope")) {
    // The factors are tensors; files made by llama.cpp do not name the type.
    if (type == "longrope") rope.scaling = RopeScaling::longrope;
    rope.original_ctx = static_cast<double>(
        keys.count_or("rope.scaling.original_context_length", p.n_ctx_train, 1, kMaxContext));
    rope.attn_factor = keys.number_or("rope.scaling.attn_factor", 1, 1 / kMaxFactor, kMaxFactor);
    return;
  }
  // A factor without a type is linear scaling, as in llama.cpp.
  if (!keys.has("rope.scaling.type") && factor != 1) type = "linear";
  if (type == "none") return;
  if (type != "linear" && type != "yarn")
    unsupported(file,
                "key '{}' is '{}', which is not supported (supported: none, linear, yarn; llama3 "
                "as rope_freqs.weight; "
                "longrope for phi3 and phimoe)",
                type_key, printable(type));
  if (!keys.has(factor_key))
    file.fail("key '{}' is missing, rope scaling '{}' needs it", keys.key("rope.scaling.factor"),
              printable(type));
  rope.factor = factor;
  if (type == "linear") {
    if (factor != 1) rope.scaling = RopeScaling::linear;
    return;
  }
  rope.scaling = RopeScaling::yarn;
  rope.original_ctx = static_cast<double>(
      keys.count_or("rope.scaling.original_context_length", p.n_ctx_train, 1, kMaxContext));
  rope.yarn_beta_fast = keys.number_or("rope.scaling.yarn_beta_fast", 32, 1e-3, kMaxFactor);
  rope.yarn_beta_slow = keys.number_or("rope.scaling.yarn_beta_slow", 1, 1e-3, kMaxFactor);
  rope.yarn_truncates =
      description.has_key("rope.scaling.yarn_truncate")
          ? file.get_bool_or(keys.key("rope.scaling.yarn_truncate"), description.yarn_truncates)
          : description.yarn_truncates;
  // YaRN's temperature belongs to the rope table; these keys only adjust it.
  rope.attn_factor = keys.number_or("rope.scaling.attn_factor", 1, 1 / kMaxFactor, kMaxFactor) *
                     keys.number_or("rope.scaling.yarn_attn_factor", 1, 1 / kMaxFactor, kMaxFactor);
  // DeepSeek: the temperature is on the scores, squared, and not on the rotation.  The file holds a
  // tenth of the multiplier.
  // Mistral: it is taken off the rotation.
  const double multiplier =
      description.has_key("rope.scaling.yarn_log_multiplier")
          ? keys.number_or("rope.scaling.yarn_log_multiplier", 0, 0, kMaxFactor)
          : 0;
  if (multiplier == 0 || factor <= 1) return;
  if (p.latent_kv == 0) {
    rope.attn_factor /= 1 + 0.1 * multiplier * math64::log(factor);
    return;
  }
  const double temperature = 1 + multiplier * math64::log(factor);
  p.attn_scale *= temperature * temperature;
  rope.attn_factor /= 1 + 0.1 * math64::log(factor);
}

// Queries that grow with their position have a rotary embedding of their own.
void read_query_temperature(const Keys& keys, const ModelDescription& description, HyperParams& p) {
  constexpr std::string_view kKey = "attention.temperature_scale";
  if (!description.has_key(kKey)) return;
  RopeParams rope = p.ropes.front();
  rope.temperature = keys.number_or(kKey, 0, 0, kMaxFactor);
  if (rope.temperature == 0) return;
  if (rope.n_rot != p.layer(0).k_dim)
    unsupported(keys.file(),
                "key '{}' is {} and {} of {} values of a head are turned: hrun supports only heads "
                "turned as a whole",
                keys.key(kKey), rope.temperature, rope.n_rot, p.layer(0).k_dim);
  rope.original_ctx = static_cast<double>(
      keys.count_or("rope.scaling.original_context_length", p.n_ctx_train, 1, kMaxContext));
  for (LayerParams& layer : p.layers) layer.query_rope = static_cast<int>(p.ropes.size());
  p.ropes.push_back(rope);
}

// Reads which layers are turned, where a file says it for each.
std::vector<bool> read_turned_layers(const Keys& keys, const ModelDescription& description,
                                     int64_t n_layers) {
  constexpr std::string_view kKey = "attention.rope_pattern";
  const gguf::Entry* entry = description.has_key(kKey) ? keys.file().find(keys.key(kKey)) : nullptr;
  if (!entry) return std::vector<bool>(static_cast<size_t>(n_layers), true);
  std::vector<bool> turned;
  if (const auto* array = std::get_if<gguf::Array>(&entry->value))
    array->for_each([&](const gguf::Value& value) {
      const auto* flag = std::get_if<bool>(&value);
      if (!flag) keys.file().fail("key '{}' is no array<bool>", keys.key(kKey));
      turned.push_back(*flag);
    });
  if (static_cast<int64_t>(turned.size()) < n_layers)
    keys.file().fail("key '{}' has {} entries, the model has {} layers", keys.key(kKey),
                     turned.size(), n_layers);
  return turned;
}

// Reads which rotary embedding each layer has: one for all, or another for those with a window.
void read_ropes(const Keys& keys, const ModelDescription& description, HyperParams& p) {
  if (!description.rotary || !has_attention(attention_layer(p).mixer)) return;
  // Granite's files say so where nothing is turned.
  if (description.has_key("rope.scaling.finetuned") &&
      !keys.file().get_bool_or(keys.key("rope.scaling.finetuned"), true))
    return;
  const int64_t k_dim = p.latent_kv > 0 ? p.latent_k_dim - 1 : attention_layer(p).k_dim;
  RopeParams rope;
  read_rope(keys, description, k_dim, p, rope);
  p.ropes.push_back(rope);
  if (description.window_rope_base > 0 || description.window_rope_unscaled) {
    RopeParams plain;
    plain.n_rot = rope.n_rot;
    if (description.has_key("rope.dimension_count_swa")) {
      int64_t width = k_dim;
      for (const LayerParams& layer : p.layers)
        if (layer.windowed) width = layer.k_dim;
      plain.n_rot =
          keys.count_or("rope.dimension_count_swa", width, 2, static_cast<uint64_t>(width));
      if (plain.n_rot % 2 != 0)
        keys.file().fail("key '{}' is {}, must be even", keys.key("rope.dimension_count_swa"),
                         plain.n_rot);
    }
    const double base = description.window_rope_unscaled ? rope.base : description.window_rope_base;
    plain.base = keys.number_or("rope.freq_base_swa", base, 2, 1e15);
    plain.has_factors = false;
    p.ropes.push_back(plain);
  }
  // Some models turn only the layers with a window, or leave out every n-th.
  const bool in_windows = description.rope_in_windows &&
                          keys.count_or("attention.sliding_window", 0, 0, UINT32_MAX) > 0;
  const std::vector<bool> has_window = read_window_pattern(keys, description, p.n_layers);
  const std::vector<bool> turned = read_turned_layers(keys, description, p.n_layers);
  const int64_t period = description.no_rope_period;
  for (int64_t l = 0; l < p.n_layers; ++l) {
    LayerParams& layer = p.layers[static_cast<size_t>(l)];
    const bool leading = description.rope_in_leading && has_dense(layer.feed) && p.n_experts > 0;
    const bool left_out = (period > 0 && (l + 1) % period == 0) ||
                          !turned[static_cast<size_t>(l)] ||
                          (in_windows && !has_window[static_cast<size_t>(l)] && !leading);
    layer.rope = left_out ? kNoRope : layer.windowed && p.ropes.size() > 1 ? 1 : 0;
  }
  read_query_temperature(keys, description, p);
}

// Reads the heads and widths of every layer.
void read_layers(const Keys& keys, const ModelDescription& description, HyperParams& p) {
  const gguf::File& file = keys.file();
  const uint64_t least_keys = description.recurrent_without_keys ? 0 : 1,
                 least = description.one_block ? 0 : 1;
  const std::vector<int64_t> n_ff =
      keys.per_layer("feed_forward_length", p.n_layers, least, kMaxFeedForward);
  const std::vector<int64_t> n_heads =
      keys.per_layer("attention.head_count", p.n_layers, least_keys, kMaxHeads);
  const std::vector<int64_t> n_kv_heads =
      keys.has("attention.head_count_kv")
          ? keys.per_layer("attention.head_count_kv", p.n_layers, least_keys, kMaxHeads)
          : n_heads;
  const bool explicit_dims = keys.has("attention.key_length") && keys.has("attention.value_length");
  for (size_t l = 0; l < n_ff.size(); ++l) {
    LayerParams layer;
    layer.n_ff = n_ff[l];
    layer.n_heads = n_heads[l];
    layer.n_kv_heads = n_kv_heads[l];
    if (layer.n_kv_heads == 0) {  // and no attention
      layer.n_heads = 0;
      p.layers.push_back(layer);
      continue;
    }
    if (layer.n_heads == 0 || layer.n_heads % layer.n_kv_heads != 0)
      file.fail("key '{}' is {}, which is not a multiple of head_count_kv {}",
                keys.key("attention.head_count"), layer.n_heads, layer.n_kv_heads);
    if (!explicit_dims && p.n_embd % layer.n_heads != 0)
      file.fail(
          "key '{}' is {}, which is not divisible by head_count {} (and there is no "
          "attention.key_length)",
          keys.key("embedding_length"), p.n_embd, layer.n_heads);
    const int64_t even = p.n_embd / layer.n_heads;
    layer.k_dim = keys.count_or("attention.key_length", even, 1, kMaxHeadDim);
    layer.v_dim = keys.count_or("attention.value_length", even, 1, kMaxHeadDim);
    if (layer.k_dim > static_cast<int64_t>(kMaxHeadDim) || layer.k_dim < 2 ||
        layer.v_dim > static_cast<int64_t>(kMaxHeadDim))
      file.fail("a head has {} values (embedding_length {} / head_count {}), must be 2 to {}",
                std::max(layer.k_dim, layer.v_dim), p.n_embd, layer.n_heads, kMaxHeadDim);
    p.layers.push_back(layer);
  }
}

}  // namespace

HyperParams read_params(const gguf::File& file, const ModelDescription& description) {
  Keys keys(file, description.name);
  HyperParams p;
  p.causal = description.causal;
  p.parallel = description.has_key("use_parallel_residual")
                   ? file.get_bool_or(keys.key("use_parallel_residual"), description.parallel)
                   : description.parallel;
  p.n_layers = keys.count("block_count", 1, kMaxLayers);
  // The last layers predict several tokens at once; they stay in the file.
  {
    const int64_t n_extra =
        keys.count_or("nextn_predict_layers", 0, 0, static_cast<uint64_t>(p.n_layers - 1));
    keys.allow_extra_layers(n_extra);
    p.n_layers -= n_extra;
  }
  p.n_embd = keys.count("embedding_length", 1, kMaxWidth);
  p.n_ctx_train = keys.count("context_length", 1, kMaxContext);
  read_layers(keys, description, p);
  read_mixers(keys, description, p);
  read_delta_rule(keys, description, p);
  read_short_conv(keys, description, p);
  read_state_space(keys, description, p);
  read_wkv(keys, description, p);
  constexpr std::string_view kRmsEps = "attention.layer_norm_rms_epsilon",
                             kLayerEps = "attention.layer_norm_epsilon";
  p.norm = description.norm;
  if (description.either_norm && keys.number_or(kRmsEps, 0, 0, 1) > 0) p.norm = Norm::rms;
  // Some models have the other norm's key.
  const bool rms = p.norm == Norm::rms ? keys.has(kRmsEps) || !description.has_key(kLayerEps)
                                       : description.has_key(kRmsEps);
  p.norm_eps = static_cast<float>(keys.number(rms ? kRmsEps : kLayerEps, 1e-30, 1));
  read_channel_state_space(keys, description, p);
  refuse_unknown_maths(keys, description, p.n_ctx_train);
  read_latent_attention(keys, description, p);
  read_window(keys, description, p);
  read_gate(keys, description, p);
  read_pooling(keys, description, p);
  read_nonlinearity(keys, description, p);
  read_xielu(file, p);
  read_states(keys, description, p);
  read_gate_cutoffs(keys, description, p);
  read_shared_keys(keys, description, p);
  read_scales(keys, description, p);
  if (constexpr std::string_view kKey = "embedding_length_per_layer_input";
      description.has_key(kKey)) {
    const TensorRule* table = description.find_rule(Role::per_layer_embd);
    p.n_per_layer =
        table->required ? keys.count(kKey, 1, kMaxWidth) : keys.count_or(kKey, 0, 0, kMaxWidth);
  }
  read_experts(keys, description, p);
  read_ropes(keys, description, p);
  return p;
}

}  // namespace hrun::planning
