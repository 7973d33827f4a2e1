#include "model/blocks/block.h"

#include <algorithm>

#include "model/blocks/altup.h"
#include "model/blocks/attention.h"
#include "model/blocks/channel_state_space.h"
#include "model/blocks/delta_rule.h"
#include "model/blocks/dense_and_experts.h"
#include "model/blocks/experts.h"
#include "model/blocks/feed_forward.h"
#include "model/blocks/latent_attention.h"
#include "model/blocks/laurel.h"
#include "model/blocks/per_layer.h"
#include "model/blocks/short_conv.h"
#include "model/blocks/state_space.h"
#include "model/blocks/wkv.h"

namespace hrun {
namespace {

struct Block {
  BlockNeeds (*needs)(const ModelSpec& spec, int64_t layer, int64_t n_rows);
  void (*run)(const Pass& pass, int64_t layer, const MatmulInput& input, FloatView out);
};

// The decoder leaves out the blocks that a layer does not have.
BlockNeeds no_needs(const ModelSpec&, int64_t, int64_t) { return {}; }
void do_nothing(const Pass&, int64_t, const MatmulInput&, FloatView) {}

// The blocks in the order of Mixer, and of Feed.
constexpr Block kMixers[] = {{attention_needs, attention},
                             {latent_attention_needs, latent_attention},
                             {delta_rule_needs, delta_rule},
                             {short_conv_needs, short_conv},
                             {state_space_needs, state_space},
                             {channel_state_space_needs, channel_state_space},
                             {wkv_needs, wkv},
                             {attention_and_state_space_needs, attention_and_state_space},
                             {no_needs, do_nothing}};
constexpr Block kFeeds[] = {{feed_forward_needs, feed_forward},
                            {experts_needs, mix_experts},
                            {dense_and_experts_needs, dense_and_experts},
                            {no_needs, do_nothing}};
static_assert(std::size(kMixers) == static_cast<size_t>(Mixer::count));
static_assert(std::size(kFeeds) == static_cast<size_t>(Feed::count));

const Block& mixer_of(const ModelSpec& spec, int64_t layer) {
  return kMixers[static_cast<size_t>(spec.params.layer(layer).mixer)];
}
const Block& feed_of(const ModelSpec& spec, int64_t layer) {
  return kFeeds[static_cast<size_t>(spec.params.layer(layer).feed)];
}

}  // namespace

BlockNeeds mixer_needs(const ModelSpec& spec, int64_t layer, int64_t n_rows) {
  return mixer_of(spec, layer).needs(spec, layer, n_rows);
}

BlockNeeds feed_needs(const ModelSpec& spec, int64_t layer, int64_t n_rows) {
  return feed_of(spec, layer).needs(spec, layer, n_rows);
}

void run_mixer(const Pass& pass, int64_t layer, const MatmulInput& input, FloatView out) {
  mixer_of(pass.model.spec(), layer).run(pass, layer, input, out);
}

void run_feed(const Pass& pass, int64_t layer, const MatmulInput& input, FloatView out) {
  feed_of(pass.model.spec(), layer).run(pass, layer, input, out);
}

bool is_repeatable(const Model& model, size_t device) {
  const ModelSpec& spec = model.spec();
  for (int64_t l = 0; l < spec.params.n_layers; ++l) {
    const bool is_held = l >= model.part().first && (model.part().end < 0 || l < model.part().end);
    if (!is_held || model.device_of(l) != device) continue;
    const BlockNeeds feed = feed_needs(spec, l, 1);
    if (!mixer_needs(spec, l, 1).repeatable || !feed.repeatable ||
        (feed.chooses_experts && !backend_chooses_experts(model, l)))
      return false;
  }
  return true;
}

size_t scratch_floats(const ModelSpec& spec, int64_t n_rows) {
  size_t most = std::max({per_layer_scratch_floats(spec, n_rows),
                          altup_scratch_floats(spec, n_rows), laurel_scratch_floats(spec, n_rows)});
  for (int64_t l = 0; l < spec.params.n_layers; ++l)
    most = std::max({most, mixer_needs(spec, l, n_rows).scratch_floats,
                     feed_needs(spec, l, n_rows).scratch_floats});
  return most;
}

size_t state_bytes(const ModelSpec& spec) {
  size_t floats = 0;
  for (int64_t l = 0; l < spec.params.n_layers; ++l)
    floats += mixer_needs(spec, l, 1).state.floats() + feed_needs(spec, l, 1).state.floats();
  return floats * sizeof(float);
}

}  // namespace hrun
