#include "model/blocks/experts.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "base/math64.h"

namespace hrun {
namespace {

struct Scratch {
  FloatView routed;
  // The tokens in the order of the experts that they chose, [n * n_experts_used].
  FloatView gathered, gate, up, mixed;

  Scratch(Arena& arena, const HyperParams& p, int64_t n) {
    const int64_t slots = n * p.n_experts_used;
    routed = arena.take(n, p.n_experts);
    gathered = arena.take(slots, p.n_embd), mixed = arena.take(slots, p.n_embd);
    gate = arena.take(slots, p.n_ff_expert), up = arena.take(slots, p.n_ff_expert);
  }
};

struct SharedScratch {
  FloatView gate, up, shared, logit, weighted;

  SharedScratch(Arena& arena, const HyperParams& p, int64_t n) {
    gate = arena.take(n, p.n_ff_shared), up = arena.take(n, p.n_ff_shared);
    const int64_t rows = p.n_ff_shared > 0 ? n : 0;
    shared = arena.take(rows, p.n_embd), weighted = arena.take(rows, p.n_embd);
    logit = arena.take(rows, 1);
  }
};

double sigmoid(double x) { return 1 / (1 + math64::exp(-x)); }

void softmax(std::span<double> x) {
  const double top = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (double& v : x) sum += v = math64::exp(v - top);
  for (double& v : x) v /= sum;
}

// Keeps the scores of the best groups.  A group counts as its best expert or, with sigmoid gates,
// its best two.
void keep_best_groups(const HyperParams& p, std::span<double> scores) {
  const auto size = static_cast<size_t>(p.n_experts / p.n_expert_groups);
  std::vector<std::pair<double, size_t>>
      groups;  // minus the score, so that equal ones keep their order
  for (size_t g = 0; g < static_cast<size_t>(p.n_expert_groups); ++g) {
    double first = -std::numeric_limits<double>::infinity(), second = first;
    for (const double s : scores.subspan(g * size, size)) {
      second = std::max(second, std::min(first, s));
      first = std::max(first, s);
    }
    groups.emplace_back(p.gating == Gating::sigmoid && size > 1 ? -(first + second) : -first, g);
  }
  std::stable_sort(groups.begin(), groups.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  for (size_t i = static_cast<size_t>(p.n_expert_groups_used); i < groups.size(); ++i)
    for (double& s : scores.subspan(groups[i].second * size, size))
      s = -std::numeric_limits<double>::infinity();
}

std::vector<float> read_back(Backend& backend, const FloatView& view) {
  std::vector<float> values(static_cast<size_t>(view.rows * view.cols));
  backend.read(view.data,
               {reinterpret_cast<uint8_t*>(values.data()), values.size() * sizeof(float)});
  return values;
}

// f(gate) * up, or without gates f(up), as the input of the next matmul; `up` is overwritten
// unless that matmul applies f on its way.
MatmulInput activated(const Pass& pass, FloatView gate, FloatView up) {
  const Nonlinearity f = pass.model.description().nonlinearity;
  if (gate.data && f == Nonlinearity::silu) return MatmulInput::gated(gate, up);
  if (gate.data)
    pass.backend().gated(f, gate, up, up);
  else
    pass.backend().nonlinearity(f, up, up);
  return up;
}

void run_shared(const Pass& pass, int64_t l, Arena arena, FloatView x, FloatView out) {
  const Model& model = pass.model;
  const DeviceTensor* const up_weight = model.weight(l, Role::shared_up);
  if (!up_weight) return;
  Backend& backend = pass.backend();
  const SharedScratch s(arena, pass.params(), pass.n);
  const FloatView shared = s.shared;
  if (const DeviceTensor* gate_weight = model.weight(l, Role::shared_gate)) {
    const MatmulTarget gate_up[] = {{gate_weight, s.gate}, {up_weight, s.up}};
    pass.multiply(gate_up, x);
    pass.multiply(*model.weight(l, Role::shared_down), activated(pass, s.gate, s.up), shared);
  } else {
    pass.multiply(*up_weight, x, s.up);
    pass.multiply(*model.weight(l, Role::shared_down), activated(pass, {}, s.up), shared);
  }
  if (const DeviceTensor* router = model.weight(l, Role::shared_router)) {
    pass.multiply(*router, x, s.logit);
    backend.weigh_rows(s.logit, shared, s.weighted);
    return backend.add(out, s.weighted);
  }
  backend.add(out, shared);
}

}  // namespace

void choose_experts(const HyperParams& p, const float* logits, const float* correction,
                    int32_t* experts, float* weights) {
  const auto n = static_cast<size_t>(p.n_experts), used = static_cast<size_t>(p.n_experts_used);
  std::vector<double> scores(logits, logits + n);
  for (double& s : scores)
    if (!(s > -1e30 && s < 1e30)) s = -1e30;  // no number: never chosen before one
  if (p.gating == Gating::softmax) softmax(scores);
  if (p.gating == Gating::sigmoid)
    for (double& s : scores) s = sigmoid(s);
  std::vector<double> chosen_by = scores;
  if (correction)
    for (size_t e = 0; e < n; ++e) chosen_by[e] += static_cast<double>(correction[e]);
  if (p.n_expert_groups > 1) keep_best_groups(p, chosen_by);
  std::vector<int32_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::partial_sort(order.begin(), order.begin() + static_cast<int64_t>(used), order.end(),
                    [&](int32_t a, int32_t b) {
                      const double x = chosen_by[static_cast<size_t>(a)],
                                   y = chosen_by[static_cast<size_t>(b)];
                      return x != y ? x > y : a < b;
                    });
  std::vector<double> w(used);
  for (size_t k = 0; k < used; ++k) w[k] = scores[static_cast<size_t>(order[k])];
  if (p.gating == Gating::sparse_mixer)
    for (size_t k = 0; k < used; ++k)
      w[k] = sparse_mixer_weight(scores.data(), static_cast<int>(n), w[k], k > 0 ? order[0] : -1,
                                 p.mixer_margin);
  if (p.gating == Gating::softmax_of_selected) softmax(w);
  double sum = 0;
  for (const double v : w) sum += v;
  for (size_t k = 0; k < used; ++k) {
    experts[k] = order[k];
    weights[k] = static_cast<float>((p.experts_normed ? w[k] / std::max(sum, 1e-20) : w[k]) *
                                    p.experts_scale);
  }
}

ExpertBlock expert_block(const Model& model, int64_t l) {
  const HyperParams& p = model.params();
  ExpertBlock block{};
  block.rule = {p.gating,
                static_cast<int>(p.n_experts),
                static_cast<int>(p.n_experts_used),
                static_cast<int>(p.n_expert_groups),
                static_cast<int>(p.n_expert_groups_used),
                p.experts_normed,
                p.experts_scale,
                p.mixer_margin,
                model.weight(l, Role::router_correction),
                model.weight(l, Role::experts_down_scale)};
  block.gate = model.slices(l, Role::experts_gate), block.up = model.slices(l, Role::experts_up);
  block.down = model.slices(l, Role::experts_down);
  block.gate_bias = model.slices(l, Role::experts_gate_bias);
  block.up_bias = model.slices(l, Role::experts_up_bias);
  block.down_bias = model.slices(l, Role::experts_down_bias);
  block.f = model.description().nonlinearity;
  return block;
}

bool backend_chooses_experts(const Model& model, int64_t l) {
  return model.backend(model.device_of(l)).chooses_experts(expert_block(model, l));
}

BlockNeeds experts_needs(const ModelSpec& spec, int64_t, int64_t n_rows) {
  Arena count;
  count.take(n_rows, spec.params.n_embd);
  Arena shared = count;
  Scratch(count, spec.params, n_rows);
  SharedScratch(shared, spec.params, n_rows);
  BlockNeeds needs;
  needs.scratch_floats = std::max(count.used_floats(), shared.used_floats());
  needs.chooses_experts = true;
  return needs;
}

void mix_experts(const Pass& pass, int64_t l, const MatmulInput& from, FloatView out) {
  Arena arena = pass.arena();
  const FloatView x = pass.stored(from, arena.take(pass.n, pass.params().n_embd));
  routed_experts(pass, l, arena, x, x, out);
  run_shared(pass, l, arena, x, out);
  if (pass.model.description().shared_averaged && pass.model.weight(l, Role::shared_up))
    pass.backend().scale(out, 0.5f);
  pass.add_bias(l, Role::ffn_down_bias, out);
}

void routed_experts(const Pass& pass, int64_t l, Arena arena, FloatView routed_by, FloatView x,
                    FloatView out) {
  const Model& model = pass.model;
  const HyperParams& p = pass.params();
  Backend& backend = pass.backend();
  const auto n = static_cast<size_t>(pass.n), used = static_cast<size_t>(p.n_experts_used);

  const Scratch scratch(arena, p, pass.n);
  const FloatView routed = scratch.routed;
  const Weight& gates = model.slices(l, Role::experts_gate);
  const Weight& ups = model.slices(l, Role::experts_up);
  // All experts read the same input, which mostly is the router's input too; an observer sees them
  // as one input.
  std::vector<MatmulTarget> readers = {{model.weight(l, Role::router), routed},
                                       {ups.front().get(), {}}};
  if (!gates.empty()) readers.insert(readers.begin() + 1, {gates.front().get(), {}});
  const std::span<const MatmulTarget> all(readers);
  if (routed_by.data == x.data) {
    pass.observe(all, x);
  } else {
    pass.observe(all.first(1), routed_by);
    pass.observe(all.subspan(1), x);
  }
  backend.matmul(all.first(1), routed_by);
  pass.add_bias(l, Role::router_bias, routed);
  if (const ExpertBlock block = expert_block(model, l);
      !pass.observer && backend.chooses_experts(block))
    return backend.experts(block, routed, x, {scratch.gate, scratch.up, scratch.mixed}, out);
  const std::vector<float> logits = read_back(backend, routed);
  const std::vector<float>&correction = model.host_vectors(l).router_correction,
        &scale = model.host_vectors(l).down_scale;
  std::vector<int32_t> experts(n * used);
  std::vector<float> weights(n * used);
  for (size_t t = 0; t < n; ++t)
    choose_experts(p, logits.data() + t * static_cast<size_t>(p.n_experts),
                   correction.empty() ? nullptr : correction.data(), experts.data() + t * used,
                   weights.data() + t * used);

  if (!scale.empty())
    for (size_t i = 0; i < weights.size(); ++i)
      weights[i] *= scale[static_cast<size_t>(experts[i])];

  // The slots are the pairs of token and expert, expert by expert.
  std::vector<int32_t> token_of, slot_of(n * used), by_expert(n * used);
  std::iota(by_expert.begin(), by_expert.end(), 0);
  std::stable_sort(by_expert.begin(), by_expert.end(), [&](int32_t a, int32_t b) {
    return experts[static_cast<size_t>(a)] < experts[static_cast<size_t>(b)];
  });
  for (size_t s = 0; s < by_expert.size(); ++s) {
    token_of.push_back(by_expert[s] / static_cast<int32_t>(used));
    slot_of[static_cast<size_t>(by_expert[s])] = static_cast<int32_t>(s);
  }
  const auto n_slots = static_cast<int64_t>(n * used);
  const FloatView gate = gates.empty() ? FloatView{} : scratch.gate;
  const FloatView up = scratch.up, mixed = scratch.mixed;
  // One token is the input of all its experts.  With several tokens, those of an expert are brought
  // together.
  FloatView input = x;
  if (n > 1) {
    input = scratch.gathered;
    backend.gather_rows(x, token_of, input);
  }
  struct Run {  // slots of one expert
    size_t expert;
    int64_t first, rows;
  };
  std::vector<Run> runs;
  for (int64_t s = 0; s < n_slots; ++s) {
    const auto expert =
        static_cast<size_t>(experts[static_cast<size_t>(by_expert[static_cast<size_t>(s)])]);
    if (runs.empty() || runs.back().expert != expert) runs.push_back({expert, s, 0});
    ++runs.back().rows;
  }
  const auto part = [](const FloatView& view, const Run& run) {
    return FloatView{view.row(run.first), run.rows, view.cols, view.stride};
  };
  const auto add_biases = [&](Role role, const FloatView& y) {
    if (const Weight& bias = model.slices(l, role); !bias.empty())
      for (const Run& run : runs) backend.add_bias(part(y, run), *bias[run.expert]);
  };
  std::vector<MatmulPart> parts;
  for (const Run& run : runs) {
    const int64_t first = n > 1 ? run.first : 0;
    if (gate.data) parts.push_back({gates[run.expert].get(), first, part(gate, run)});
    parts.push_back({ups[run.expert].get(), first, part(up, run)});
  }
  backend.matmul_parts(parts, input);
  add_biases(Role::experts_gate_bias, gate);
  add_biases(Role::experts_up_bias, up);
  parts.clear();
  for (const Run& run : runs)
    parts.push_back(
        {model.slices(l, Role::experts_down)[run.expert].get(), run.first, part(mixed, run)});
  pass.multiply_parts(parts, activated(pass, gate, up));
  add_biases(Role::experts_down_bias, mixed);
  backend.mix_rows(mixed, slot_of, weights, out);
}

}  // namespace hrun
