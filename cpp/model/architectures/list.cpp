// THE list of architectures.  Adding one is its data file and its name here.
#include <array>
#include <string>

#include "model/architectures/llama.h"

namespace hrun {
namespace {

constexpr std::array kArchitectures = {&architecture::kLlama};

constexpr std::array<std::string_view, static_cast<size_t>(Role::count)> kRoleNames = {
    "token_embd", "output_norm", "output", "rope_freqs",
    "attn_norm", "attn_q", "attn_k", "attn_v", "attn_q_bias", "attn_k_bias", "attn_v_bias", "attn_output",
    "attn_output_bias", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down", "ffn_gate_bias", "ffn_up_bias", "ffn_down_bias",
};
static_assert(!kRoleNames.back().empty(), "a role without a name");

}  // namespace

std::span<const ModelDescription* const> architectures() { return kArchitectures; }

const ModelDescription* find_architecture(std::string_view name) {
  for (const ModelDescription* d : kArchitectures)
    if (d->name == name) return d;
  return nullptr;
}

std::string_view role_name(Role role) { return kRoleNames[static_cast<size_t>(role)]; }

std::string layer_name(std::string_view pattern, int64_t layer) {
  const size_t at = pattern.find("{}");
  if (at == std::string_view::npos) return std::string(pattern);
  return std::string(pattern.substr(0, at)) + std::to_string(layer) + std::string(pattern.substr(at + 2));
}

}  // namespace hrun
