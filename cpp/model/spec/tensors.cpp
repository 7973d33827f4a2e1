// Tensors by role: present where required, of the shapes that the hyper-parameters say.
#include <cmath>
#include <initializer_list>
#include <unordered_set>

#include "base/error.h"
#include "formats/list.h"
#include "model/spec/parts.h"

namespace hrun {

bool is_in_layer(const TensorRule& rule, const HyperParams& params, int64_t layer) {
  const Feed feed = params.layer(layer).feed;
  const Mixer mixer = params.layer(layer).mixer;
  switch (rule.where) {
    case Where::every:
      return true;
    case Where::dense:
      return has_dense(feed);
    case Where::experts:
      return has_experts(feed);
    case Where::feed:
      return feed != Feed::none;
    case Where::attention:
      return has_attention(mixer);
    case Where::recurrent:
      return is_recurrent(mixer);
    case Where::mixer:
      return mixer != Mixer::none;
    case Where::count:
      break;
  }
  return false;
}

int64_t size_of(Dim dim, const HyperParams& p, int64_t layer) {
  const LayerParams& at = p.layer(layer);
  switch (dim) {
    case Dim::one:
      return 1;
    case Dim::embd:
      return p.n_embd;
    case Dim::vocab:
      return p.n_vocab;
    case Dim::ctx:
      return p.n_ctx_train;
    case Dim::ff:
      return at.n_ff;
    case Dim::ff_twice:
      return 2 * at.n_ff;
    case Dim::heads:
      return at.n_heads;
    case Dim::kv_heads:
      return at.n_kv_heads;
    case Dim::head:
      return at.k_dim;
    case Dim::q:
      return at.n_heads * at.k_dim;
    case Dim::k:
      return at.n_kv_heads * at.k_dim;
    case Dim::v:
      return at.n_kv_heads * at.v_dim;
    case Dim::qkv:
      return (at.n_heads + at.n_kv_heads) * at.k_dim + at.n_kv_heads * at.v_dim;
    case Dim::q_out:
      return at.n_heads * at.v_dim;
    case Dim::half_rot:
      return p.n_rot() / 2;
    case Dim::experts:
      return p.n_experts;
    case Dim::ff_expert:
      return p.n_ff_expert;
    case Dim::ff_shared:
      return p.n_ff_shared;
    case Dim::latent_q:
      return p.latent_q;
    case Dim::latent_kv:
      return p.latent_kv;
    case Dim::latent_kv_rot:
      return p.latent_kv + p.n_rot();
    case Dim::latent_heads:
      return at.n_heads * p.latent_k_dim;
    case Dim::nope:
      return p.nope();
    case Dim::latent_v:
      return p.latent_v_dim;
    case Dim::latent_out:
      return at.n_heads * p.latent_v_dim;
    case Dim::latent_expanded:
      return at.n_heads * (p.nope() + p.latent_v_dim);
    case Dim::q_gated:
      return 2 * at.n_heads * at.k_dim;
    case Dim::delta_qkv:
      return 2 * p.delta.n_k_heads * p.delta.k_dim + p.delta.n_v_heads * p.delta.v_dim;
    case Dim::delta_v:
      return p.delta.n_v_heads * p.delta.v_dim;
    case Dim::delta_heads:
      return p.delta.n_v_heads;
    case Dim::delta_heads_twice:
      return 2 * p.delta.n_v_heads;
    case Dim::delta_head:
      return p.delta.v_dim;
    case Dim::conv_taps:
      return p.n_taps;
    case Dim::token_types:
      return p.n_token_types;
    case Dim::classes:
      return p.n_classes;
    case Dim::dense:
      return p.n_dense;
    case Dim::embd_thrice:
      return 3 * p.n_embd;
    case Dim::ssm_in:
      return 2 * p.ssm.inner() + 2 * p.ssm.shared() + p.ssm.n_heads;
    case Dim::ssm_conv:
      return p.ssm.inner() + 2 * p.ssm.shared();
    case Dim::ssm_inner:
      return p.ssm.inner();
    case Dim::ssm_heads:
      return p.ssm.n_heads;
    case Dim::ssm_groups:
      return p.ssm.n_groups;
    case Dim::ssm_group:
      return p.ssm.n_groups > 0 ? p.ssm.inner() / p.ssm.n_groups : 0;
    case Dim::ssm_state:
      return p.ssm.state_dim;
    case Dim::ssm_inner_twice:
      return 2 * p.ssm.inner();
    case Dim::ssm_rank:
      return p.ssm.step_rank;
    case Dim::ssm_mix:
      return p.ssm.step_rank + 2 * p.ssm.shared();
    case Dim::ff_expert_twice:
      return 2 * p.n_ff_expert;
    case Dim::per_layer:
      return p.n_per_layer;
    case Dim::gate:
      return p.gate_per_head ? at.n_heads : at.n_heads * at.v_dim;
    case Dim::per_layer_all:
      return p.n_per_layer * p.n_layers;
    case Dim::states:
      return p.n_states;
    case Dim::states_squared:
      return p.n_states * p.n_states;
    case Dim::states_beside:
      return p.n_states - 1;
    case Dim::laurel:
      return p.laurel_rank;
    case Dim::wkv_shifts:
      return 6;
    case Dim::wkv_decay_rank:
      return p.wkv.decay_rank;
    case Dim::wkv_rate_rank:
      return p.wkv.rate_rank;
    case Dim::wkv_first_rank:
      return layer == 0 ? p.wkv.rate_rank : p.wkv.first_rank;
    case Dim::wkv_gate_rank:
      return p.wkv.gate_rank;
    case Dim::count:
      break;
  }
  return 0;
}

namespace planning {
namespace {

std::string shape_text(const gguf::TensorInfo& t) {
  std::string out;
  for (int d = 0; d < t.n_dims; ++d) out += message("{}{}", d ? ", " : "", t.dims[d]);
  return out;
}

void check_shape(const gguf::File& file, const gguf::TensorInfo& t, const TensorRule& rule,
                 const HyperParams& p, int64_t layer) {
  const auto cols = static_cast<uint64_t>(size_of(rule.cols, p, layer)),
             rows = static_cast<uint64_t>(size_of(rule.rows, p, layer));
  const auto slices = static_cast<uint64_t>(size_of(rule.slices, p, layer));
  const bool vector = rule.rows == Dim::one;
  if (t.dims[0] == cols && t.dims[1] == (vector ? slices : rows) &&
      t.dims[2] == (vector ? 1 : slices) && t.dims[3] == 1)
    return;
  if (vector && t.dims[0] == cols && t.dims[1] == 1 && t.dims[2] == 1 && t.dims[3] == slices)
    return;
  std::string expected = vector ? message("[{}", cols) : message("[{}, {}", cols, rows);
  expected += rule.slices == Dim::one ? "]" : message(", {}]", slices);
  const std::string name = printable(t.name);
  if (t.bytes == 0)
    file.fail("tensor '{}' is empty (shape [{}]), expected {}", name, shape_text(t), expected);
  if (rule.role == Role::token_embd && t.dims[0] == cols)
    file.fail("tensor '{}' has {} rows but the vocabulary has {} tokens", name, t.dims[1], rows);
  const bool transposed =
      t.dims[0] == rows && t.dims[1] == cols && t.dims[2] == 1 && t.dims[3] == 1;
  file.fail("tensor '{}' has shape [{}], the metadata says {}{}", name, shape_text(t), expected,
            transposed ? "; it looks transposed" : "");
}

// Vectors (norms, biases, factors) act on every token and are small: they must be plain floats, and
// finite.
void check_vector(const gguf::File& file, const gguf::TensorInfo& t, Role role) {
  const FormatInfo* info = find_format(t.format);
  if (!info || !info->is_float)
    file.fail("tensor '{}' has format {}, must be f32, f16 or bf16", printable(t.name),
              info ? info->name : "?");
  const std::span<const uint8_t> bytes = file.data(t);
  for (uint64_t i = 0; i < t.dims[0] * t.dims[1] * t.dims[3]; ++i) {
    float value;
    info->decode_row(bytes.data() + i * info->block_bytes, 1, &value);
    if (!std::isfinite(value))
      file.fail("tensor '{}': value {} is {}, must be finite", printable(t.name), i, value);
    if (role == Role::rope_freqs && !(value > 0))
      file.fail("tensor '{}': value {} is {}, must be positive", printable(t.name), i, value);
  }
}

const gguf::TensorInfo* place(const gguf::File& file, const TensorRule& rule,
                              const std::string& name, const HyperParams& p, int64_t layer) {
  const gguf::TensorInfo* tensor = file.find_tensor(name);
  if (!tensor) return nullptr;
  check_shape(file, *tensor, rule, p, layer);
  if (rule.rows == Dim::one || is_columns(rule.role)) check_vector(file, *tensor, rule.role);
  return tensor;
}

[[noreturn]] void fail_missing(const gguf::File& file, const TensorRule& rule,
                               const std::string& name, const HyperParams& p) {
  if (!is_layer_role(rule.role)) file.fail("tensor '{}' is missing", name);
  int64_t present = 0, wanted = 0;
  for (int64_t l = 0; l < p.n_layers; ++l) {
    if (!is_in_layer(rule, p, l)) continue;
    ++wanted;
    present += file.find_tensor(layer_name(rule.gguf_name, l)) != nullptr;
  }
  file.fail("tensor '{}' is missing ({} of {} layers have it)", name, present, wanted);
}

// Does the name of a tensor say that it takes part in the computation?  A tensor of a layer does so
// only if hrun runs the layer.
bool changes_the_result(std::string_view name, int64_t n_layers) {
  if (name.substr(0, 4) != "blk.")
    return name == "output.bias" || name == "output_norm.bias" ||
           name == "token_embd_norm.weight" || name == "token_embd_norm.bias" ||
           name == "token_types.weight" || name == "position_embd.weight";
  const size_t dot = name.find('.', 4);
  if (dot == std::string_view::npos || dot == 4 || dot > 4 + 6) return false;
  int64_t layer = 0;
  for (const char c : name.substr(4, dot - 4)) {
    if (c < '0' || c > '9') return false;
    layer = layer * 10 + (c - '0');
  }
  if (layer >= n_layers) return false;
  const std::string_view rest = name.substr(dot + 1);
  for (const std::string_view part :
       {".bias", "_norm", "_exps", "_shexp", "sinks", "ssm_", "_gate_inp", "attn_qkv", "scale",
        "_kv_b", "attn_gate", "shortconv", "_sub_norm", "per_layer", "inp_gate", "altup", "laurel",
        "time_mix", "channel_mix"})
    if (rest.find(part) != std::string_view::npos) return true;
  return false;
}

// Checks tensors that belong together: queries, keys and values come from one matrix or from three,
// and a text's vector has two projections or none.
void check_parts(const gguf::File& file, const ModelSpec& spec) {
  const auto all_or_none = [&](const char* names, std::initializer_list<Role> roles) {
    size_t n = 0;
    for (const Role role : roles) n += spec.global(role) != nullptr;
    if (n != 0 && n != roles.size()) file.fail("tensors {} belong together", names);
  };
  all_or_none("'dense_2.weight' and 'dense_3.weight'", {Role::dense_2, Role::dense_3});
  if (!spec.global(Role::class_dense) &&
      (spec.global(Role::class_dense_bias) || spec.global(Role::class_norm)))
    file.fail("tensors 'cls.bias' and 'cls.norm.weight' need tensor 'cls.weight'");
  if (!spec.global(Role::class_output) && spec.global(Role::class_output_bias))
    file.fail("tensor 'cls.output.bias' needs tensor 'cls.output.weight'");
  for (int64_t l = 0; l < spec.params.n_layers; ++l) {
    // Where values are normed, they may be the keys, and a layer may read another's.
    if (spec.params.layer(l).mixer != Mixer::attention || spec.description->normed_values) continue;
    const bool one = spec.layer(l, Role::attn_qkv);
    const int three = (spec.layer(l, Role::attn_q) != nullptr) +
                      (spec.layer(l, Role::attn_k) != nullptr) +
                      (spec.layer(l, Role::attn_v) != nullptr);
    if (three != (one ? 0 : 3))
      file.fail("layer {} must have either tensor '{}' or attn_q, attn_k and attn_v", l,
                layer_name("blk.{}.attn_qkv.weight", l));
  }
}

// Checks that the matrices of all experts are together or apart, and that there are shared ones
// where the sizes say so.
void check_experts(const gguf::File& file, const ModelSpec& spec, int64_t l) {
  const HyperParams& p = spec.params;
  const ModelDescription& d = *spec.description;
  if (d.has_role(Role::experts_gate_up)) {
    const bool together = spec.layer(l, Role::experts_gate_up),
               apart = spec.layer(l, Role::experts_gate) || spec.layer(l, Role::experts_up);
    if (together == apart)
      file.fail("layer {} must have either tensor '{}' or ffn_gate_exps and ffn_up_exps", l,
                layer_name("blk.{}.ffn_gate_up_exps.weight", l));
  }
  if (!d.has_role(Role::shared_up)) return;
  const bool gated = d.has_role(Role::shared_gate);
  const bool any = spec.layer(l, Role::shared_up),
             all = any && (!gated || spec.layer(l, Role::shared_gate)) &&
                   spec.layer(l, Role::shared_down);
  if (any != all || any != (p.n_ff_shared > 0))
    file.fail("layer {} must have {} tensor '{}' and its like: its shared experts are {} wide", l,
              p.n_ff_shared > 0 ? "a" : "no", layer_name("blk.{}.ffn_up_shexp.weight", l),
              p.n_ff_shared);
}

// Checks that all tensors of the vectors for every token are there, where layers have such vectors.
void check_per_layer(const gguf::File& file, const ModelSpec& spec) {
  const auto require = [&](Role role, int64_t l) {
    const std::string name = layer_name(spec.description->find_rule(role)->gguf_name, l);
    if (!(is_layer_role(role) ? spec.layer(l, role) : spec.global(role)))
      file.fail("tensor '{}' is missing; layers have vectors of {} for every token", name,
                spec.params.n_per_layer);
  };
  for (const Role role : {Role::per_layer_embd, Role::per_layer_model_proj, Role::per_layer_norm})
    require(role, 0);
  for (int64_t l = 0; l < spec.params.n_layers; ++l)
    for (const Role role : {Role::per_layer_gate, Role::per_layer_proj, Role::per_layer_post_norm})
      require(role, l);
}

// Checks the tensors of which a model has one kind or another.
void check_choices(const gguf::File& file, const ModelSpec& spec) {
  const HyperParams& p = spec.params;
  const bool has_long = spec.global(Role::rope_long), has_short = spec.global(Role::rope_short);
  if (has_long != has_short ||
      (!p.ropes.empty() && p.ropes.front().scaling == RopeScaling::longrope && !has_long))
    file.fail(
        "tensors 'rope_factors_long.weight' and 'rope_factors_short.weight' belong together, found "
        "{}",
        has_long    ? "only the first"
        : has_short ? "only the second"
                    : "neither");
  const ModelDescription& d = *spec.description;
  if (p.n_per_layer > 0) check_per_layer(file, spec);
  for (int64_t l = 0; l < p.n_layers; ++l) {
    if (has_experts(p.layer(l).feed)) check_experts(file, spec, l);
    if (d.normed_values && has_attention(p.layer(l).mixer)) {
      const bool all = spec.layer(l, Role::attn_k) && spec.layer(l, Role::attn_k_norm);
      if (p.layer(l).keys_of < 0 && !all)
        file.fail("layer {} must have tensors '{}' and attn_k_norm", l,
                  layer_name("blk.{}.attn_k.weight", l));
      if (!spec.layer(l, Role::attn_v) && p.layer(l).k_dim != p.layer(l).v_dim)
        file.fail("layer {} has no tensor '{}', and values of {} where keys have {}", l,
                  layer_name("blk.{}.attn_v.weight", l), p.layer(l).v_dim, p.layer(l).k_dim);
    }
  }
  if (p.latent_kv == 0) return;
  for (int64_t l = 0; l < p.n_layers; ++l) {
    const bool whole = spec.layer(l, Role::attn_q), parts = spec.layer(l, Role::attn_q_a) &&
                                                            spec.layer(l, Role::attn_q_a_norm) &&
                                                            spec.layer(l, Role::attn_q_b);
    if (whole == parts || parts != (p.latent_q > 0))
      file.fail(
          "layer {} must have either tensor '{}' or, with attention.q_lora_rank, attn_q_a, "
          "attn_q_a_norm and attn_q_b",
          l, layer_name("blk.{}.attn_q.weight", l));
    const bool split = spec.layer(l, Role::attn_k_b) && spec.layer(l, Role::attn_v_b),
               joined = spec.layer(l, Role::attn_kv_b);
    if (!split && !joined)
      file.fail("layer {} must have tensors '{}' and attn_v_b or, in older files, attn_kv_b", l,
                layer_name("blk.{}.attn_k_b.weight", l));
  }
}

void report_unused(const gguf::File& file, const std::unordered_set<const gguf::TensorInfo*>& used,
                   ModelSpec& spec) {
  std::string names;
  int64_t count = 0;
  for (const gguf::TensorInfo& t : file.tensors()) {
    if (used.count(&t)) continue;
    if (changes_the_result(t.name, spec.params.n_layers))
      unsupported(file,
                  "tensor '{}' is not part of architecture '{}' as hrun knows it; running without "
                  "it would give wrong results",
                  printable(t.name), spec.description->name);
    if (++count <= 5) names += message("{}{}", count > 1 ? ", " : "", printable(t.name));
  }
  if (count > 0)
    spec.warnings.push_back(message("{} tensor{} not used: {}{}", count,
                                    count > 1 ? "s are" : " is", names, count > 5 ? ", ..." : ""));
}

}  // namespace

void place_tensors(const gguf::File& file, ModelSpec& spec) {
  const HyperParams& p = spec.params;
  const auto n_roles = static_cast<size_t>(Role::count);
  spec.globals.assign(n_roles, nullptr);
  spec.layers.clear();
  // A file that claims 512 layers and has none fails at its first tensor, before the table is
  // built.
  std::unordered_set<const gguf::TensorInfo*> used;
  // Gates and values of experts may be together in another tensor.
  const TensorRule* const together = spec.description->find_rule(Role::experts_gate_up);
  const auto is_replaced = [&](Role role, int64_t layer) {
    return (role == Role::experts_gate || role == Role::experts_up) && together &&
           file.find_tensor(layer_name(together->gguf_name, layer));
  };
  const auto put = [&](const TensorRule& rule, const std::string& name, int64_t layer,
                       std::vector<const gguf::TensorInfo*>& table) {
    const gguf::TensorInfo* tensor = place(file, rule, name, p, layer);
    if (!tensor && rule.required && !is_replaced(rule.role, layer))
      fail_missing(file, rule, name, p);
    if (tensor) used.insert(tensor);
    table[static_cast<size_t>(rule.role)] = tensor;
  };
  for (const TensorRule& rule : spec.description->tensors)
    if (!is_layer_role(rule.role)) put(rule, std::string(rule.gguf_name), 0, spec.globals);
  for (int64_t l = 0; l < p.n_layers; ++l) {
    auto& layer = spec.layers.emplace_back(n_roles, nullptr);
    for (const TensorRule& rule : spec.description->tensors)
      if (is_layer_role(rule.role) && is_in_layer(rule, p, l))
        put(rule, layer_name(rule.gguf_name, l), l, layer);
  }
  check_parts(file, spec);
  check_choices(file, spec);
  spec.tied_head = !spec.is_encoder() && spec.global(Role::output) == nullptr;
  report_unused(file, used, spec);
}

}  // namespace planning
}  // namespace hrun
