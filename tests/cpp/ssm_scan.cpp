// The scan of state space models: the CPU against double precision, any cut of a sequence to the
// same bits in every tier, bad arguments refused.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

#include "base/error.h"
#include "cpu/tiers.h"
#include "devices/registry.h"
#include "formats/list.h"

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

struct Shape {
  int n_heads, n_groups, state_dim, width;
  bool has_rates = false;
  // Steps and skips, of heads or of values; decays of heads, or none.
  int64_t n_steps() const { return has_rates ? inner() : n_heads; }
  int64_t n_decays() const { return has_rates ? 0 : n_heads; }
  int64_t inner() const { return int64_t{n_heads} * width; }
  int64_t shared() const { return int64_t{n_groups} * state_dim; }
  int64_t columns() const { return inner() + 2 * shared(); }
};

// Rows of x, b and c side by side, and of decays and steps.
struct Input {
  Values all, decay, step;
};

constexpr int64_t kLogRows = 8;

struct Scan {
  hrun::Backend& backend;
  Shape shape;
  Values skip, rates;  // rates: [state_dim][values]
  std::unique_ptr<hrun::DeviceTensor> skip_on, rates_on;
  std::unique_ptr<hrun::DeviceStates> states;

  Scan(hrun::Backend& on, const Shape& s) : backend(on), shape(s) {
    const auto uploaded = [&](const Values& values) {
      return on.upload({hrun::F32::kId, 1, static_cast<int64_t>(values.size()), values.size() * 4,
                        reinterpret_cast<const uint8_t*>(values.data()), "values"});
    };
    skip = random_values(s.n_steps(), 5, 1);
    skip_on = uploaded(skip);
    rates = random_values(s.state_dim * s.inner(), 6, 1, -1);
    if (s.has_rates) rates_on = uploaded(rates);
    hrun::StatePlan plan;
    plan.n_slots = 2;
    plan.n_log_rows = kLogRows;
    plan.layers.push_back({7, 3, 0, 0, 0});  // so that offsets count
    plan.layers.push_back({0, 0, s.n_heads, s.state_dim, s.width, s.n_groups, true});
    plan.layers.back().rates = rates_on.get();
    states = on.make_states(plan, "a test");
  }

  Values run(Input in, int64_t first, int64_t n, int32_t slot, int32_t kept = -1,
             int64_t kept_at = 0, int32_t log_row = -1) {
    const auto view = [&](Values& values, int64_t cols) {
      return hrun::FloatView{values.data() + first * cols, n, cols, cols};
    };
    const hrun::FloatView all = view(in.all, shape.columns());
    const auto part = [&](int64_t at, int64_t cols) {
      return hrun::FloatView{all.data + at, n, cols, all.stride};
    };
    Values out(static_cast<size_t>(n * shape.inner()));
    hrun::BatchRows batch;
    batch.add_positions(n, first, {}, slot);
    batch.last().kept = kept, batch.last().kept_at = kept_at, batch.last().log_row = log_row;
    backend.ssm_scan({part(0, shape.inner()), part(shape.inner(), shape.shared()),
                      part(shape.inner() + shape.shared(), shape.shared()),
                      shape.has_rates ? hrun::FloatView{} : view(in.decay, shape.n_heads),
                      view(in.step, shape.n_steps()), skip_on.get(), shape.n_groups},
                     {states.get(), 1}, batch.batch(),
                     {out.data(), n, shape.inner(), shape.inner()});
    return out;
  }
};

std::vector<double> reference(const Scan& scan, const Input& in, int64_t n) {
  const Shape& s = scan.shape;
  std::vector<double> out, state(static_cast<size_t>(s.inner() * s.state_dim));
  const auto at = [](const Values& values, int64_t i) {
    return static_cast<double>(values[static_cast<size_t>(i)]);
  };
  for (int64_t t = 0; t < n; ++t)
    for (int h = 0; h < s.n_heads; ++h)
      for (int p = 0; p < s.width; ++p) {
        const int64_t row = t * s.columns();
        const int64_t group = h / (s.n_heads / s.n_groups) * s.state_dim;
        const double x = at(in.all, row + h * s.width + p);
        const int64_t value = h * s.width + p, gate = s.has_rates ? value : h;
        const double step = at(in.step, t * s.n_steps() + gate);
        double y = at(scan.skip, gate) * x;
        for (int i = 0; i < s.state_dim; ++i) {
          double& kept = state[static_cast<size_t>(value * s.state_dim + i)];
          const double decay = s.has_rates ? std::exp(at(scan.rates, i * s.inner() + value) * step)
                                           : at(in.decay, t * s.n_heads + h);
          kept = decay * kept + step * x * at(in.all, row + s.inner() + group + i);
          y += kept * at(in.all, row + s.inner() + s.shared() + group + i);
        }
        out.push_back(y);
      }
  return out;
}

void test(const Shape& s) {
  constexpr int64_t kTokens = 37;
  const Input in{random_values(kTokens * s.columns(), 11, 1),
                 random_values(kTokens * s.n_heads, 12, 0.5f, 0.5f),
                 random_values(kTokens * s.n_steps(), 13, 0.5f, 0.5f)};
  Values first;
  for (const hrun::CpuTier& tier : hrun::cpu_tiers()) {
    if (!tier.available()) continue;
    const auto backend =
        hrun::make_backend({.device = "cpu", .n_threads = 2, .cpu_tier = std::string(tier.name)});
    Scan scan(*backend, s);
    scan.states->clear(0), scan.states->clear(1);
    const Values whole = scan.run(in, 0, kTokens, 0);
    const std::vector<double> exact = reference(scan, in, kTokens);
    // Each value of the state and of the sum rounds a few times per token and row.
    double worst = 0, largest = 0;
    for (size_t i = 0; i < whole.size(); ++i) {
      worst = std::max(worst, std::abs(static_cast<double>(whole[i]) - exact[i]));
      largest = std::max(largest, std::abs(exact[i]));
    }
    check(whole.size() == exact.size() && largest > 0.1 && worst < 2e-6 * largest,
          "close to double precision");
    if (first.empty()) first = whole;
    check(whole == first, "tiers agree");
    for (const std::vector<int64_t>& pieces :
         {std::vector<int64_t>(37, 1), {1, 36}, {5, 1, 1, 30}}) {
      scan.states->clear(1);
      Values joined;
      int64_t at = 0;
      for (const int64_t n : pieces) {
        const Values part = scan.run(in, at, n, 1);
        joined.insert(joined.end(), part.begin(), part.end());
        at += n;
      }
      check(joined == whole, "any cut gives the same bits");
    }
    // The state before row 20 is left behind; from it and the records come those behind it.
    for (int64_t n = 0; n <= 7; ++n) {
      scan.states->clear(0);
      check(
          scan.run(in, 0, 27, 1, 0, 20, 5) == Values(whole.begin(), whole.begin() + 27 * s.inner()),
          "a pass that keeps a state gives what one gives that does not");
      backend->redo(*scan.states, 0, 0, (20 + 5) % kLogRows, n);
      check(scan.run(in, 20 + n, kTokens - 20 - n, 0) ==
                Values(whole.begin() + (20 + n) * s.inner(), whole.end()),
            "a state that was made again");
    }
    bool refused = false;
    try {
      scan.run(in, 0, 1, 2);
    } catch (const hrun::ArgumentError&) { refused = true; }
    check(refused, "a slot that is not there");
    refused = false;
    scan.shape.n_groups = 0;
    try {
      scan.run(in, 0, 1, 0);
    } catch (const hrun::ArgumentError&) { refused = true; }
    check(refused, "no groups");
  }
}

}  // namespace

int main() {
  for (const Shape& s :
       {Shape{
            4,
            2,
            16,
            32,
        },
        Shape{6, 1, 128, 64}, Shape{3, 3, 7, 19}, Shape{2, 1, 1, 1}, Shape{1, 1, 16, 64, true},
        Shape{1, 1, 7, 19, true}, Shape{4, 2, 5, 33, true}, Shape{1, 1, 1, 1, true}})
    test(s);
  return failures;
}
