// Norms, sums, gates and moves of rows: the operations of backend.h that are no product.  Each is
// one launch.
#pragma once

#include "backend/backend.h"
#include "cuda/gpu.h"

namespace hrun::gpu {

// weight, bias: fp32 [cols] on the device; rows, weights: on the device.
void rms_norm(Gpu& gpu, FloatView x, const float* weight, float eps, FloatView out);
void layer_norm(Gpu& gpu, FloatView x, const float* weight, const float* bias, float eps,
                FloatView out);
void gated(Gpu& gpu, Nonlinearity f, FloatView gate, FloatView up, FloatView out);
void nonlinearity(Gpu& gpu, Nonlinearity f, FloatView x, FloatView out);
void xielu(Gpu& gpu, FloatView x, const Xielu& f);
void add(Gpu& gpu, FloatView x, FloatView y);
void add_bias(Gpu& gpu, FloatView x, const float* bias);
void scale(Gpu& gpu, FloatView x, float factor);
void soft_cap(Gpu& gpu, FloatView x, float cap);
void copy_heads(Gpu& gpu, FloatView from, int64_t from_step, FloatView to, int64_t to_step,
                int n_heads, int64_t width);
void scale_columns(Gpu& gpu, FloatView x, const float* weight, FloatView out);
void mix_heads(Gpu& gpu, FloatView factors, float shift, FloatView x, int n, FloatView base,
               FloatView out);
void match_rms(Gpu& gpu, FloatView x, FloatView y, float least);
void keep_above(Gpu& gpu, FloatView x, float deviations);
void gather_rows(Gpu& gpu, FloatView x, const int32_t* rows, FloatView out);
// x[r] += the bias of expert experts[r]; the biases are so many values apart.
void add_expert_bias(Gpu& gpu, FloatView x, const float* biases, int64_t step,
                     const int32_t* experts);
// out[t] = x[t] / (1 + e^-logits[t]), the weight in double precision
void weigh_rows(Gpu& gpu, const float* logits, FloatView x, FloatView out);
// `add`, if it has data: out is added to it.
void mix_rows(Gpu& gpu, FloatView x, const int32_t* rows, const float* weights, int64_t per_token,
              FloatView out, FloatView add = {});

}  // namespace hrun::gpu
