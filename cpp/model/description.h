// An architecture as data: what a new one adds is one file under architectures/ and its name in
// list.cpp.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "backend/backend.h"

namespace hrun {

// The purpose of a weight.  Per-layer roles come after `first_layer_role`.  Most are optional: the
// decoder does what the tensors ask for (a norm before or after a block or both, one matrix for q,
// k and v or three, experts or not).
enum class Role : uint8_t {
  token_embd,
  position_embd,
  token_types,
  embd_norm,
  embd_norm_bias,  // of the embedded tokens
  per_layer_embd,
  per_layer_model_proj,
  per_layer_norm,  // vectors of every layer for every token
  altup_proj,
  altup_unembd,  // of the hidden states beside the first, where a token has several
  output_norm,
  output_norm_bias,
  output,
  output_bias,
  rope_freqs,
  rope_long,
  rope_short,
  class_dense,
  class_dense_bias,
  class_norm,
  class_output,
  class_output_bias,  // what makes scores of a text's vector
  dense_2,
  dense_3,  // projections of a text's vector
  attn_norm,
  attn_norm_bias,
  attn_qkv,
  attn_qkv_bias,
  attn_q,
  attn_k,
  attn_v,
  attn_q_bias,
  attn_k_bias,
  attn_v_bias,
  attn_q_norm,
  attn_k_norm,
  attn_v_norm,  // of ones: no file has it
  attn_sinks,
  attn_gate,
  attn_sub_norm,  // of the mixed values
  attn_q_a,
  attn_q_a_norm,
  attn_q_b,
  attn_kv_a,
  attn_kv_a_norm,
  attn_k_b,
  attn_v_b,
  attn_kv_b,  // latent attention
  delta_qkv,
  delta_gate,
  delta_conv,
  delta_step,
  delta_beta,
  delta_beta_step,
  delta_step_bias,
  delta_rate,
  delta_norm,
  delta_out,  // the gated delta rule
  shortconv_in,
  shortconv_taps,
  shortconv_out,  // a gated short convolution
  ssm_in,
  ssm_conv,
  ssm_conv_bias,
  ssm_mix,  // gives steps, b and c of each value (Mamba 1)
  ssm_step,
  ssm_step_norm,
  ssm_b_norm,
  ssm_c_norm,  // of ones where no file has them
  ssm_step_bias,
  ssm_rate,
  ssm_skip,
  ssm_norm,
  ssm_out,     // a state space model
  shift_taps,  // of each channel's step back to the token before: no file has it
  wkv_shift,   // parts of that step which the inputs of r, w, k, v, a and g have
  wkv_queries,
  wkv_keys,
  wkv_values,
  wkv_decay_in,
  wkv_decay_out,
  wkv_decay_bias,
  wkv_rate_in,
  wkv_rate_out,
  wkv_rate_bias,  // how much of what is removed is replaced
  wkv_first_in,
  wkv_first_out,
  wkv_first_bias,  // the part of the first layer's values
  wkv_gate_in,
  wkv_gate_out,
  wkv_removed,
  wkv_replaced,
  wkv_bonus,
  wkv_head_norm,  // of ones: no file has it
  wkv_norm,
  wkv_norm_bias,
  wkv_out,  // RWKV 7
  attn_output,
  attn_output_bias,
  attn_post_norm,
  attn_post_norm_bias,
  ffn_norm,
  ffn_norm_bias,
  ffn_shift,  // the part of the step back to the token before which its input has
  ffn_gate_up,
  ffn_gate,
  ffn_up,
  ffn_down,
  ffn_gate_bias,
  ffn_up_bias,
  ffn_down_bias,
  ffn_post_norm,
  ffn_post_norm_bias,
  ffn_sub_norm,  // of what the last matrix reads
  router,
  router_bias,
  router_correction,
  router_scale,     // of its normed input
  experts_gate_up,  // both in one tensor, gates first
  experts_gate,
  experts_up,
  experts_down,
  experts_gate_bias,
  experts_up_bias,
  experts_down_bias,
  experts_down_scale,  // one number each
  dense_post_norm,
  experts_norm,
  experts_post_norm,  // of a dense block and experts side by side
  shared_router,
  shared_gate,
  shared_up,
  shared_down,
  per_layer_gate,
  per_layer_proj,
  per_layer_post_norm,
  layer_scale,  // of a layer's output: one number
  altup_router,
  altup_router_norm,
  altup_predict,
  altup_correct,
  altup_correct_scale,  // of a token's hidden states (AltUp)
  laurel_left,
  laurel_right,
  laurel_post_norm,  // a learned residual (LAuReL)
  count,
};
inline constexpr Role kFirstLayerRole = Role::attn_norm;

constexpr bool is_layer_role(Role role) { return role >= kFirstLayerRole; }
// Is the weight a vector, or a matrix that is read column by column as if it were several vectors?
// Neither is multiplied as a matrix.
constexpr bool is_columns(Role role) {
  return role == Role::delta_conv || role == Role::shortconv_taps || role == Role::ssm_conv ||
         role == Role::ssm_rate || role == Role::ssm_skip;
}

// A tensor's sizes in terms of the hyper-parameters.
enum class Dim : uint8_t {
  one,
  embd,
  vocab,
  ctx,
  ff,
  ff_twice,
  heads,
  kv_heads,
  head /* values of a key */,
  q /* heads * head */,
  k /* kv heads * head */,
  v,
  qkv,
  q_out /* heads * value dim */,
  half_rot,
  experts,
  ff_expert,
  ff_shared,
  latent_q,
  latent_kv,
  latent_kv_rot /* latent_kv + n_rot */,
  latent_heads /* heads * (nope + n_rot) */,
  nope,
  latent_v,
  latent_out /* heads * latent_v */,
  latent_expanded /* heads * (nope + latent_v) */,
  q_gated /* a gate beside each query: 2 * heads * head */,
  delta_qkv,
  delta_v,
  delta_heads /* of values */,
  delta_heads_twice,
  delta_head /* values of one */,
  conv_taps,
  token_types,
  classes,
  dense /* between two projections of a text's vector */,
  embd_thrice,
  ssm_in /* gates, values, b, c and steps */,
  ssm_conv /* values, b and c */,
  ssm_inner /* heads * values of one */,
  ssm_heads,
  ssm_groups,
  ssm_group /* values of one */,
  ssm_state /* rows of a head's state */,
  ssm_inner_twice,
  ssm_rank /* from which the steps of values are made */,
  ssm_mix /* that, b and c */,
  ff_expert_twice,
  per_layer,
  per_layer_all /* of all layers */,
  gate /* of the mixed values: of each, or one for a head */,
  states /* hidden states of a token */,
  states_squared,
  states_beside /* the first */,
  laurel /* rank of the learned residual */,
  wkv_shifts,
  wkv_decay_rank,
  wkv_rate_rank,
  wkv_first_rank /* in the first layer, where nobody reads it, the rank before */,
  wkv_gate_rank,
  count,
};

// A change that the converter makes to a Hugging Face tensor on its way into the GGUF.
enum class Transform : uint8_t {
  none,
  interleave_q_heads,  // rows of each head reordered from (i, i + d/2) pairs to (2i, 2i + 1), as
                       // llama.cpp's files have them
  interleave_k_heads,
  transpose,  // stored [cols, rows], per slice
  plus_one,   // norms that multiply by 1 + weight
  even_rows_transposed,
  odd_rows_transposed,  // of pairs of rows, stored [cols, 2 rows] per slice
  first_half,
  second_half,  // of slices of twice the rows
  first_half_transposed,
  second_half_transposed,  // stored [cols, 2 rows] per slice
  even_values,
  odd_values,  // of pairs of values
  latent_keys,
  latent_values,  // parts of the heads of kv_b_proj; keys transposed
  taps,           // of a convolution of each channel by itself: [channels, 1, taps]
  tile_heads,  // value heads (n_k_heads, r), r to a key head, to (r, n_k_heads): of rows, or values
  tile_last_heads,       // of the rows (taps or not) behind those of queries and keys
  tile_head_columns,     // of columns
  tile_heads_minus_exp,  // of values, -e^x
  minus_exp,
  delta_groups_qkv,
  delta_groups_gate,  // rows that lie together by key head: its query, key, values, gates
  after_padding,      // rows of positions, which begin after the padding's
  column,             // of values, one in each row
  column_minus_exp,
  groups,      // of values, in slices
  key_groups,  // rows that lie together by head of keys: the queries that read it, its key, its
               // value
  key_groups_q,
  key_groups_k,
  key_groups_v,      // parts of that, queries and keys interleaved
  first_row_beyond,  // rows of tokens; those that it lacks at the end are its first
  joined,            // slices as the rows of one matrix
  joined_transpose,  // the same, each stored [cols, rows]
  fourth,            // slices in the fourth dimension
  count,
};

// The layers that have a tensor: all, those with this feed-forward block (or with any), or those
// with this mixer (or with any).
enum class Where : uint8_t { every, dense, experts, feed, attention, recurrent, mixer, count };
std::string_view where_name(Where where);

struct TensorRule {
  Role role;
  std::string_view gguf_name;  // "{}" is the layer
  std::string_view hf_name;  // the full parameter name, or several with '|' between; "" if Hugging
                             // Face has none.  A second "{}" is the expert: the slices are stored
                             // one by one.  "name@transform": under this name it has another one;
                             // of equal names the first whose transform takes the stored shape
  Dim rows, cols;
  bool required;
  Transform transform = Transform::none;
  Dim slices = Dim::one;  // matrices (or vectors) in the tensor
  Where where = Where::every;
  std::string_view hf_if =
      "";  // optional tensors: the boolean of config.json that says whether there is one; "": look
};

// A key of the metadata beyond the common ones, and where config.json has it.  Keys that change
// what a model computes and that its description does not list are refused, unless neutral.
enum class ConfigType : uint8_t { integer, number, boolean, text };
enum class ConfigMap : uint8_t { same, inverse_root /* 1 / sqrt(x) */ };
struct ConfigRule {
  std::string_view key;  // without the architecture's prefix
  ConfigType type;
  std::string_view hf_key;         // or several with '|' between; "" if config.json does not say
  std::string_view fallback = "";  // written where config.json has nothing; "": the key is left out
  ConfigMap map = ConfigMap::same;
};

enum class Norm : uint8_t { rms, layer };

// The way in which the vectors of a text's tokens become one, by GGUF's numbers.  rank: scores by a
// head of classes.
enum class Pooling : uint8_t { none = 0, mean = 1, cls = 2, last = 3, rank = 4 };

// A layer runs a Mixer first and a Feed after it: the blocks under model/blocks.
enum class Mixer : uint8_t {
  attention,
  latent_attention,
  delta_rule,
  short_conv,
  state_space,
  channel_state_space,        // each channel decays by itself
  wkv,                        // RWKV 7
  attention_and_state_space,  // side by side
  none,
  count
};
constexpr bool is_recurrent(Mixer mixer) {
  return mixer >= Mixer::delta_rule && mixer < Mixer::none;
}
constexpr bool has_attention(Mixer mixer) {
  return mixer <= Mixer::latent_attention || mixer == Mixer::attention_and_state_space;
}
enum class Feed : uint8_t { dense, experts, dense_and_experts, none, count };
constexpr bool has_dense(Feed feed) {
  return feed == Feed::dense || feed == Feed::dense_and_experts;
}
constexpr bool has_experts(Feed feed) {
  return feed == Feed::experts || feed == Feed::dense_and_experts;
}

struct ModelDescription {
  std::string_view name;                         // general.architecture
  std::span<const std::string_view> hf_classes;  // "LlamaForCausalLM", ...
  RopeStyle rope;
  std::span<const TensorRule> tensors;
  std::span<const ConfigRule> config = {};
  Norm norm = Norm::rms;
  Nonlinearity nonlinearity = Nonlinearity::silu;
  bool causal = true;  // false: an encoder, whose tokens see those behind them too
  Pooling class_pooling = Pooling::cls;  // of what the head of classes reads, where no key says it
  bool class_gelu = false;               // that head has GELU in place of tanh between its matrices
  bool class_softmax = false;            // its scores are probabilities
  bool parallel = false;  // attention and feed-forward side by side; where a layer has one norm,
                          // both read what it gives
  bool norm_after_add = false;  // the norms after a block are of the sum with its input
  bool rotary = true;
  double max_alibi_bias = 0;     // scores shrink with distance (AttentionShape); 0: they do not
  double rotary_part = 1;        // of each head that is turned, where config.json does not say
  bool embd_times_root = false;  // embeddings times sqrt(n_embd)
  bool normed_embd = false;      // each embedding, without weights
  bool plain_norms = false;     // those before both blocks and after the last layer have no weights
  bool divides_logits = false;  // by logit_scale, not times
  int64_t window_period =
      0;  // every n-th layer sees all positions, the others a window; 0: all have the window
  bool full_layer_first = false;  // of a period, the layer that sees all is the first
  double window_rope_base =
      0;  // of the layers with a window, which then have no rope scaling; 0: as the others
  bool window_rope_unscaled = false;  // layers with a window have no rope scaling
  int64_t no_rope_period = 0;         // every n-th layer is not turned; 0: all are
  bool rope_in_windows = false;  // of a model with windows, only layers that have one are turned
  bool turned_before_normed = false;  // heads of queries and keys
  int64_t width_scaled_layers = 0;    // the model of so many layers has attention.scale 1 /
                                      // sqrt(n_embd / n_heads) where the key is absent
  Gating gating = Gating::softmax;
  bool experts_normed = true;      // the weights of the selected experts sum to 1
  bool experts_by_router = false;  // the layers that have a router have experts
  bool yarn_truncates = true;      // the ends of yarn's ramp are whole pairs
  Mixer recurrent = Mixer::count;  // of the layers without attention, if there are such
  int64_t attention_period =
      0;  // every n-th layer has attention, where the file does not say; 0: none
  bool recurrent_without_keys = false;  // the layers that have no heads of keys are the recurrent
  bool one_block = false;  // a layer has a mixer or a feed-forward block, as its sizes say
  double attn_scale = 0;   // of q . k; 0: 1 / sqrt(a head's values)
  Nonlinearity gate = Nonlinearity::sigmoid;  // of the mixed values
  double post_norm_eps = 0;                   // of the norms after a block; 0: as the others
  int64_t leading_dense = 0;     // dense layers before those with experts, where no key says it
  bool rope_in_leading = false;  // the leading dense layers are turned, with a window or without
  bool shared_averaged =
      false;                   // what the experts and the shared ones give is averaged, not summed
  bool either_norm = false;    // layer norms, or rms norms where the file has their epsilon
  bool normed_values = false;  // each head of values, without weights
  bool experts_beside_dense = false;  // where there are experts
  bool delta_grouped = false;         // value heads of one key head lie together

  bool has_key(std::string_view key) const {
    for (const ConfigRule& rule : config)
      if (rule.key == key) return true;
    return false;
  }
  // Null where no model of the architecture has it.
  const TensorRule* find_rule(Role role) const {
    for (const TensorRule& rule : tensors)
      if (rule.role == role) return &rule;
    return nullptr;
  }
  bool has_role(Role role) const { return find_rule(role) != nullptr; }
};

std::span<const ModelDescription* const> architectures();
const ModelDescription* find_architecture(std::string_view name);  // null if unknown
std::string_view role_name(Role role);                             // "attn_q"
std::string_view dim_name(Dim dim);
std::string_view mixer_name(Mixer mixer);  // "" of count
std::string_view transform_name(Transform transform);
std::string layer_name(std::string_view pattern,
                       int64_t layer);  // "blk.{}.attn_q.weight" with the layer's number

}  // namespace hrun
