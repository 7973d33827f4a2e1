// Token shift (RWKV): a block reads a mixture of its input and of the input of the token before.
#pragma once

#include "model/forward.h"

namespace hrun {

// The state in which the last input of a sequence is kept.
inline StateLayer shift_state(const HyperParams& params) {
  StateLayer state;
  state.n_channels = static_cast<int>(params.n_embd);
  state.n_past = 1;
  return state;
}

// out = the token before's x - x
inline void step_back(const Pass& pass, int64_t layer, FloatView x, const StateSlot& state,
                      FloatView out) {
  pass.backend().short_conv(x, *pass.model.weight(layer, Role::shift_taps), state, pass.batch,
                            false, out);
}

// out = x + part of the step back, channel by channel
inline void shifted(const Pass& pass, FloatView x, FloatView step, const DeviceTensor& part,
                    FloatView out) {
  pass.backend().scale_columns(step, part, out);
  pass.backend().add(out, x);
}

}  // namespace hrun
