// RWKV 7's recurrence: the CPU against double precision, any cut of a sequence and states made
// again to the same bits in every tier, bad arguments refused.
#include "recurrence_cases.h"

namespace {

using namespace recurrences;

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
  Input in;
  std::unique_ptr<hrun::DeviceStates> states;

  Recurrence(hrun::Backend& on, const Shape& s) : backend(on), shape(s), in(s) {
    hrun::StatePlan plan;
    plan.n_slots = 2;
    plan.n_log_rows = kLogRows;
    plan.layers.push_back({7, 3, 0, 0, 0});  // so that offsets count
    plan.layers.push_back(
        {0, 0, s.n_heads, s.k_dim, s.v_dim, s.n_heads, true, hrun::Recurrence::wkv});
    states = on.make_states(plan, "a test");
  }

  Values run(const Pass& pass) {
    const auto of_keys = [&](Values& values) {
      return rows_of(values, pass.first, pass.n, shape.keys());
    };
    const int64_t n_values = shape.values();
    Values out(static_cast<size_t>(pass.n * n_values));
    const hrun::BatchRows rows = pass.batch();
    backend.wkv(
        {of_keys(in.q), of_keys(in.decay), of_keys(in.k),
         rows_of(in.v, pass.first, pass.n, n_values), of_keys(in.removed), of_keys(in.replaced)},
        {states.get(), 1}, rows.batch(), rows_of(out, 0, pass.n, n_values));
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
  // Each value of the state and of the sums rounds a few times per token and row.
  test_tiers([&](hrun::Backend& on) { return Recurrence(on, s); },
             [&](const Recurrence& wkv) { return reference(s, wkv.in); }, 3e-6,
             [&](Recurrence& wkv) {
               wkv.shape.k_dim = 2 * s.k_dim;
               check(is_refused([&] { wkv.run({0, 1, 0}); }), "keys of another width");
             });
}

}  // namespace

int main() {
  for (const Shape& s : {Shape{2, 64, 64}, Shape{3, 7, 19}, Shape{1, 1, 1}, Shape{4, 16, 33}})
    test(s);
  return failures;
}
