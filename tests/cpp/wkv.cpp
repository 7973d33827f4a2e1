// RWKV 7's recurrence: the CPU against double precision, any cut of a sequence and states made
// again to the same bits in every tier, bad arguments refused.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

#include "base/error.h"
#include "cpu/tiers.h"
#include "devices/registry.h"

namespace {

int failures = 0;
void check(bool ok, const char* what) {
  if (ok) return;
  ++failures;
  std::printf("failed: %s\n", what);
}

using Values = std::vector<float>;

Values random_values(int64_t n, unsigned seed, float scale, float middle = 0) {
  Values out(static_cast<size_t>(n));
  for (float& v : out) {
    seed = seed * 1664525u + 1013904223u;
    v = middle + static_cast<float>(static_cast<int>(seed >> 8) - (1 << 23)) * 0x1p-23f * scale;
  }
  return out;
}

constexpr int64_t kTokens = 37, kLogRows = 8;

struct Shape {
  int n_heads, k_dim, v_dim;
  int64_t keys() const { return int64_t{n_heads} * k_dim; }
  int64_t values() const { return int64_t{n_heads} * v_dim; }
};

// Rows of kTokens tokens.
struct Input {
  Values q, decay, k, v, removed, replaced;

  explicit Input(const Shape& s)
      : q(random_values(kTokens * s.keys(), 1, 1)),
        decay(random_values(kTokens * s.keys(), 2, 0.2f, 0.8f)),
        k(random_values(kTokens * s.keys(), 3, 1)),
        v(random_values(kTokens * s.values(), 4, 1)),
        removed(random_values(kTokens * s.keys(), 5, 1 / std::sqrt(static_cast<float>(s.k_dim)))),
        replaced(random_values(kTokens * s.keys(), 6, 1 / std::sqrt(static_cast<float>(s.k_dim)))) {
  }
};

struct Recurrence {
  hrun::Backend& backend;
  Shape shape;
  std::unique_ptr<hrun::DeviceStates> states;

  Recurrence(hrun::Backend& on, const Shape& s) : backend(on), shape(s) {
    hrun::StatePlan plan;
    plan.n_slots = 2;
    plan.n_log_rows = kLogRows;
    plan.layers.push_back({7, 3, 0, 0, 0});  // so that offsets count
    plan.layers.push_back(
        {0, 0, s.n_heads, s.k_dim, s.v_dim, s.n_heads, true, hrun::Recurrence::wkv});
    states = on.make_states(plan, "a test");
  }

  Values run(Input& in, int64_t first, int64_t n, int32_t slot, int32_t kept = -1,
             int64_t kept_at = 0, int32_t log_row = -1) {
    const auto view = [&](Values& values, int64_t cols) {
      return hrun::FloatView{values.data() + first * cols, n, cols, cols};
    };
    const auto of_keys = [&](Values& values) { return view(values, shape.keys()); };
    Values out(static_cast<size_t>(n * shape.values()));
    hrun::BatchRows batch;
    batch.add_positions(n, first, {}, slot);
    batch.last().kept = kept, batch.last().kept_at = kept_at, batch.last().log_row = log_row;
    backend.wkv({of_keys(in.q), of_keys(in.decay), of_keys(in.k), view(in.v, shape.values()),
                 of_keys(in.removed), of_keys(in.replaced)},
                {states.get(), 1}, batch.batch(), {out.data(), n, shape.values(), shape.values()});
    return out;
  }
};

std::vector<double> reference(const Shape& s, const Input& in) {
  std::vector<double> out;
  std::vector<double> state(static_cast<size_t>(s.values() * s.k_dim));
  for (int64_t t = 0; t < kTokens; ++t)
    for (int h = 0; h < s.n_heads; ++h)
      for (int c = 0; c < s.v_dim; ++c) {
        const auto of_key = [&](const Values& values, int i) {
          return static_cast<double>(
              values[static_cast<size_t>(t * s.keys() + int64_t{h} * s.k_dim + i)]);
        };
        const int64_t column = int64_t{h} * s.v_dim + c;
        const auto v = static_cast<double>(in.v[static_cast<size_t>(t * s.values() + column)]);
        double* const kept = &state[static_cast<size_t>(column * s.k_dim)];
        double recalled = 0, y = 0;
        for (int i = 0; i < s.k_dim; ++i) recalled += of_key(in.removed, i) * kept[i];
        for (int i = 0; i < s.k_dim; ++i) {
          kept[i] = of_key(in.decay, i) * kept[i] - of_key(in.replaced, i) * recalled +
                    of_key(in.k, i) * v;
          y += of_key(in.q, i) * kept[i];
        }
        out.push_back(y);
      }
  return out;
}

void test(const Shape& s) {
  Input in(s);
  const std::vector<double> exact = reference(s, in);
  Values first;
  for (const hrun::CpuTier& tier : hrun::cpu_tiers()) {
    if (!tier.available()) continue;
    const auto backend =
        hrun::make_backend({.device = "cpu", .n_threads = 2, .cpu_tier = std::string(tier.name)});
    Recurrence wkv(*backend, s);
    wkv.states->clear(0), wkv.states->clear(1);
    const Values whole = wkv.run(in, 0, kTokens, 0);
    // Each value of the state and of the sums rounds a few times per token and row.
    double worst = 0, largest = 0;
    for (size_t i = 0; i < whole.size(); ++i) {
      worst = std::max(worst, std::abs(static_cast<double>(whole[i]) - exact[i]));
      largest = std::max(largest, std::abs(exact[i]));
    }
    check(whole.size() == exact.size() && largest > 0.1 && worst < 3e-6 * largest,
          "close to double precision");
    if (first.empty()) first = whole;
    check(whole == first, "tiers agree");
    for (const std::vector<int64_t>& pieces :
         {std::vector<int64_t>(37, 1), {1, 36}, {5, 1, 1, 30}}) {
      wkv.states->clear(1);
      Values joined;
      int64_t at = 0;
      for (const int64_t n : pieces) {
        const Values part = wkv.run(in, at, n, 1);
        joined.insert(joined.end(), part.begin(), part.end());
        at += n;
      }
      check(joined == whole, "any cut gives the same bits");
    }
    // The state before row 20 is left behind; from it and the records come those behind it.
    for (int64_t n = 0; n <= 7; ++n) {
      wkv.states->clear(0);
      check(
          wkv.run(in, 0, 27, 1, 0, 20, 5) == Values(whole.begin(), whole.begin() + 27 * s.values()),
          "a pass that keeps a state gives what one gives that does not");
      backend->redo(*wkv.states, 0, 0, (20 + 5) % kLogRows, n);
      check(wkv.run(in, 20 + n, kTokens - 20 - n, 0) ==
                Values(whole.begin() + (20 + n) * s.values(), whole.end()),
            "a state that was made again");
    }
    bool refused = false;
    try {
      wkv.run(in, 0, 1, 2);
    } catch (const hrun::ArgumentError&) { refused = true; }
    check(refused, "a slot that is not there");
    refused = false;
    wkv.shape.k_dim = 2 * s.k_dim;
    try {
      wkv.run(in, 0, 1, 0);
    } catch (const hrun::ArgumentError&) { refused = true; }
    check(refused, "keys of another width");
  }
}

}  // namespace

int main() {
  for (const Shape& s : {Shape{2, 64, 64}, Shape{3, 7, 19}, Shape{1, 1, 1}, Shape{4, 16, 33}})
    test(s);
  return failures;
}
