// Short convolution and gated delta rule: the CPU against double precision, any cut of a sequence
// and any mix of sequences to the same bits, states copied and cleared, bad arguments refused.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>
#include <vector>

#include "base/error.h"
#include "cpu/tiers.h"
#include "devices/registry.h"
#include "formats/list.h"
#include "random_bits.h"

namespace {

int failures = 0;
void check(bool ok, const char* what) {
  if (ok) return;
  ++failures;
  std::printf("failed: %s\n", what);
}

using Values = std::vector<float>;

Values random_values(size_t n, unsigned seed, float scale) {
  Values out(n);
  for (float& v : out) {
    seed = seed * 1664525u + 1013904223u;
    v = static_cast<float>(static_cast<int>(seed >> 8) - (1 << 23)) * 0x1p-23f * scale;
  }
  return out;
}

struct Shape {
  int n_k_heads, n_v_heads, k_dim, v_dim, n_taps;
  bool grouped;
  int64_t keys() const { return int64_t{n_k_heads} * k_dim; }
  int64_t values() const { return int64_t{n_v_heads} * v_dim; }
  int64_t channels() const { return 2 * keys() + values(); }
};

hrun::FloatView view(Values& values, int64_t cols) {
  return {values.data(), static_cast<int64_t>(values.size()) / cols, cols, cols};
}
hrun::FloatView part(const hrun::FloatView& x, int64_t first, int64_t cols) {
  return {x.data + first, x.rows, cols, x.stride};
}

// One sequence on its own rows of x, taken in pieces.
struct Input {
  Values x, decay, beta;
};

constexpr int64_t kLogRows = 12;

struct Model {
  hrun::Backend& backend;
  Shape shape;
  Values taps;
  std::unique_ptr<hrun::DeviceTensor> taps_on;
  std::unique_ptr<hrun::DeviceStates> states;

  Model(hrun::Backend& on, const Shape& s) : backend(on), shape(s) {
    taps = random_values(static_cast<size_t>(s.channels() * s.n_taps), 3, 0.7f);
    taps_on = on.upload({hrun::F32::kId, 1, s.channels() * s.n_taps, taps.size() * 4,
                         reinterpret_cast<const uint8_t*>(taps.data()), "taps"});
    hrun::StatePlan plan;
    plan.n_slots = 3;
    plan.n_log_rows = kLogRows;
    // There is a layer before it, so that offsets count.
    plan.layers.push_back({5, 2, 1, 3, 5, 1});
    plan.layers.push_back({static_cast<int>(s.channels()), s.n_taps - 1, s.n_v_heads, s.k_dim,
                           s.v_dim, s.n_k_heads, s.grouped, hrun::Recurrence::delta_rule});
    states = on.make_states(plan, "a test");
    for (int32_t slot = 0; slot < 3; ++slot) states->clear(slot);
  }
  hrun::StateSlot slot() const { return {states.get(), 1}; }

  // Takes the rows of a batch through both operations; x becomes the convolved one.
  Values run(const hrun::Batch& batch, Values& x, Values& decay, Values& beta) {
    const hrun::FloatView all = view(x, shape.channels());
    backend.short_conv(all, *taps_on, slot(), batch, true, all);
    Values out(static_cast<size_t>(all.rows * shape.values()));
    const hrun::DeltaInput in{part(all, 0, shape.keys()), part(all, shape.keys(), shape.keys()),
                              part(all, 2 * shape.keys(), shape.values()),
                              view(decay, shape.n_v_heads), view(beta, shape.n_v_heads)};
    backend.delta_rule(in, {shape.n_k_heads, shape.n_v_heads, shape.grouped}, slot(), batch,
                       view(out, shape.values()));
    return out;
  }
};

Input input_of(const Shape& s, int64_t n, unsigned seed) {
  // Keys shorter than 1, as models make them: the recurrence then forgets its errors.
  const float scale = 1.2f / std::sqrt(static_cast<float>(s.k_dim));
  Input in{random_values(static_cast<size_t>(n * s.channels()), seed, scale),
           random_values(static_cast<size_t>(n * s.n_v_heads), seed + 1, 0.5f),
           random_values(static_cast<size_t>(n * s.n_v_heads), seed + 2, 0.5f)};
  for (float& e : in.decay) e += 0.5f;
  for (float& b : in.beta) b += 0.5f;
  return in;
}

template <class T>
std::vector<T> rows(const std::vector<T>& all, int64_t cols, int64_t first, int64_t n) {
  return {all.begin() + first * cols, all.begin() + (first + n) * cols};
}

// Rows of one sequence, which `span` says more about.
Values run_rows(Model& m, const Input& in, int64_t first, int64_t n, const hrun::RowSpan& span) {
  hrun::BatchRows batch;
  batch.add_positions(n, first, {}, span.state);
  batch.last().kept = span.kept, batch.last().kept_at = span.kept_at;
  batch.last().log_row = span.log_row;
  Values x = rows(in.x, m.shape.channels(), first, n),
         decay = rows(in.decay, m.shape.n_v_heads, first, n),
         beta = rows(in.beta, m.shape.n_v_heads, first, n);
  return m.run(batch.batch(), x, decay, beta);
}

Values in_pieces(Model& m, const Input& in, const std::vector<int64_t>& pieces, int32_t slot,
                 int64_t first = 0) {
  Values out;
  for (const int64_t n : pieces) {
    const Values y = run_rows(m, in, first, n, {.state = slot});
    out.insert(out.end(), y.begin(), y.end());
    first += n;
  }
  return out;
}

// A pass leaves the state before one of its rows behind; from there and the records any later state
// is made again.  The log goes round.
void test_redo(Model& m, const Input& in, const Values& whole) {
  constexpr int64_t kFirst = 20, kMore = 4, kTokens = 41;
  for (const int64_t kept_at : {0, 13, 19}) {
    m.states->clear(0);
    const auto log_row = [](int64_t position) {
      return static_cast<int32_t>((position + 3) % kLogRows);
    };
    const auto want = [&](int64_t first, int64_t n) {
      return rows(whole, m.shape.values(), first, n);
    };
    check(run_rows(m, in, 0, kFirst,
                   {.state = 1, .kept = 0, .kept_at = kept_at, .log_row = log_row(0)}) ==
              want(0, kFirst),
          "a pass that keeps a state gives what one gives that does not");
    run_rows(m, in, kFirst, kMore, {.state = 1, .log_row = log_row(kFirst)});
    if (kFirst + kMore - kept_at <= kLogRows)
      for (int64_t n = 0; n <= kFirst + kMore - kept_at; ++n) {
        m.backend.redo(*m.states, 0, 2, log_row(kept_at), n);
        const int64_t at = kept_at + n;
        check(in_pieces(m, in, {kTokens - at}, 2, at) == want(at, kTokens - at),
              "a state that was made again");
      }
    check(in_pieces(m, in, {kTokens - kept_at}, 0, kept_at) == want(kept_at, kTokens - kept_at),
          "the state that was kept");
  }
  run_rows(m, in, 0, 2, {.state = 1, .kept = 0, .log_row = 0});
  m.states->clear(1);
  run_rows(m, in, 0, 2, {.state = 1, .log_row = 0});
  m.backend.redo(*m.states, -1, 2, 0, 2);
  check(in_pieces(m, in, {5}, 2, 2) == rows(whole, m.shape.values(), 2, 5), "from the beginning");
  for (const hrun::RowSpan& wrong : {hrun::RowSpan{.state = 1, .kept = 1},
                                     {.state = 1, .kept = 3},
                                     {.state = 1, .kept = 0, .kept_at = 2},
                                     {.state = 1, .log_row = kLogRows}}) {
    bool refused = false;
    try {
      run_rows(m, in, 0, 2, wrong);
    } catch (const hrun::ArgumentError&) { refused = true; }
    check(refused, "a slot, a row or a record that is not there");
  }
}

std::vector<double> reference(const Shape& s, const Values& taps, const Input& in, int64_t n) {
  const int64_t channels = s.channels();
  std::vector<double> out, state(static_cast<size_t>(s.n_v_heads * s.k_dim * s.v_dim));
  for (int64_t t = 0; t < n; ++t) {
    std::vector<double> u(static_cast<size_t>(channels));
    for (int64_t c = 0; c < channels; ++c) {
      double y = 0;
      for (int j = 0; j < s.n_taps; ++j)
        if (const int64_t at = t - s.n_taps + 1 + j; at >= 0)
          y += static_cast<double>(taps[static_cast<size_t>(j * channels + c)]) *
               static_cast<double>(in.x[static_cast<size_t>(at * channels + c)]);
      u[static_cast<size_t>(c)] = y / (1 + std::exp(-y));
    }
    for (int h = 0; h < s.n_v_heads; ++h) {
      const int group = s.n_v_heads / s.n_k_heads, kh = s.grouped ? h / group : h % s.n_k_heads;
      const double* const q = &u[static_cast<size_t>(kh * s.k_dim)];
      const double* const k = &u[static_cast<size_t>(s.keys() + kh * s.k_dim)];
      const double* const v = &u[static_cast<size_t>(2 * s.keys() + h * s.v_dim)];
      const auto e = static_cast<double>(in.decay[static_cast<size_t>(t * s.n_v_heads + h)]),
                 b = static_cast<double>(in.beta[static_cast<size_t>(t * s.n_v_heads + h)]);
      double* const m = &state[static_cast<size_t>(h * s.k_dim * s.v_dim)];
      for (int j = 0; j < s.v_dim; ++j) {
        double recalled = 0, y = 0;
        for (int i = 0; i < s.k_dim; ++i) recalled += e * m[i * s.v_dim + j] * k[i];
        const double d = b * (v[j] - recalled);
        for (int i = 0; i < s.k_dim; ++i) {
          m[i * s.v_dim + j] = e * m[i * s.v_dim + j] + k[i] * d;
          y += m[i * s.v_dim + j] * q[i];
        }
        out.push_back(y);
      }
    }
  }
  return out;
}

void test(const Shape& s, std::vector<Values>& of_tiers) {
  constexpr int64_t kTokens = 41;
  for (const hrun::CpuTier& tier : hrun::cpu_tiers()) {
    if (!tier.available()) continue;
    const auto backend =
        hrun::make_backend({.device = "cpu", .n_threads = 2, .cpu_tier = std::string(tier.name)});
    const Input in = input_of(s, kTokens, 11), other = input_of(s, kTokens, 77);
    Model m(*backend, s);
    const Values whole = in_pieces(m, in, {kTokens}, 0);
    const std::vector<double> exact = reference(s, m.taps, in, kTokens);
    double worst = 0, largest = 0;
    for (size_t i = 0; i < whole.size(); ++i) {
      worst = std::max(worst, std::abs(static_cast<double>(whole[i]) - exact[i]));
      largest = std::max(largest, std::abs(exact[i]));
    }
    check(whole.size() == exact.size() && largest > 1e-4 && worst < 2e-6 * largest,
          "close to double precision");
    of_tiers.push_back(whole);
    for (const std::vector<int64_t>& pieces :
         {std::vector<int64_t>(41, 1), {1, 40}, {2, 39}, {3, 1, 1, 30, 6}, {40, 1}}) {
      m.states->clear(1);
      check(in_pieces(m, in, pieces, 1) == whole, "any cut gives the same bits");
    }
    // Two sequences in one batch, rows of each between the other's.
    m.states->clear(0), m.states->clear(1);
    const Values alone = in_pieces(m, other, {kTokens}, 0);
    m.states->clear(0);
    for (const auto& [first, n] : {std::pair<int64_t, int64_t>{0, 7}, {7, 1}, {8, 33}}) {
      hrun::BatchRows batch;
      batch.add_positions(n, first, {}, 1);
      batch.add_positions(n, first, {}, 0);
      const auto both = [&](const Values& a, const Values& b, int64_t cols) {
        Values out = rows(a, cols, first, n);
        const Values more = rows(b, cols, first, n);
        out.insert(out.end(), more.begin(), more.end());
        return out;
      };
      Values x = both(in.x, other.x, s.channels()),
             decay = both(in.decay, other.decay, s.n_v_heads),
             beta = both(in.beta, other.beta, s.n_v_heads);
      const Values y = m.run(batch.batch(), x, decay, beta);
      check(y == both(whole, alone, s.values()), "sequences do not see each other");
    }
    // A copy goes on from the state at which it was made.
    m.states->clear(0);
    in_pieces(m, in, {17}, 0);
    m.states->copy(0, 2);
    in_pieces(m, other, {5}, 0);
    check(in_pieces(m, in, {24}, 2, 17) == rows(whole, s.values(), 17, 24), "a copied state");
    test_redo(m, in, whole);
    bool refused = false;
    try {
      in_pieces(m, in, {1}, 3);
    } catch (const hrun::ArgumentError&) { refused = true; }
    check(refused, "a slot that is not there");
  }
}

}  // namespace

int main() {
  for (const Shape& s : {Shape{2, 4, 32, 32, 4, false}, Shape{2, 4, 7, 19, 4, true},
                         Shape{1, 1, 128, 128, 3, false}, Shape{3, 3, 5, 1, 1, false}}) {
    std::vector<Values> of_tiers;
    test(s, of_tiers);
    for (const Values& values : of_tiers) check(values == of_tiers.front(), "tiers agree");
  }
  return failures;
}
