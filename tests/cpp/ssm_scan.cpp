// The scan of state space models: the CPU against double precision, any cut of a sequence to the
// same bits in every tier, bad arguments refused.
#include "formats/list.h"
#include "recurrence_cases.h"

namespace {

using namespace recurrences;

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

// Rows of x, b and c side by side, and of decays and steps, of kTokens tokens.
struct Input {
  Values all, decay, step;

  explicit Input(const Shape& s)
      : all(random_values(kTokens * s.columns(), 11, 1)),
        decay(random_values(kTokens * s.n_heads, 12, 0.5f, 0.5f)),
        step(random_values(kTokens * s.n_steps(), 13, 0.5f, 0.5f)) {}
};

struct Scan {
  hrun::Backend& backend;
  Shape shape;
  Input in;
  Values skip, rates;  // rates: [state_dim][values]
  std::unique_ptr<hrun::DeviceTensor> skip_on, rates_on;
  std::unique_ptr<hrun::DeviceStates> states;

  Scan(hrun::Backend& on, const Shape& s) : backend(on), shape(s), in(s) {
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

  Values run(const Pass& pass) {
    const int64_t first = pass.first, n = pass.n;
    const hrun::FloatView all = rows_of(in.all, first, n, shape.columns());
    const auto part = [&](int64_t at, int64_t cols) {
      return hrun::FloatView{all.data + at, n, cols, all.stride};
    };
    Values out(static_cast<size_t>(n * shape.inner()));
    const hrun::BatchRows rows = pass.batch();
    backend.ssm_scan(
        {part(0, shape.inner()), part(shape.inner(), shape.shared()),
         part(shape.inner() + shape.shared(), shape.shared()),
         shape.has_rates ? hrun::FloatView{} : rows_of(in.decay, first, n, shape.n_heads),
         rows_of(in.step, first, n, shape.n_steps()), skip_on.get(), shape.n_groups},
        {states.get(), 1}, rows.batch(), rows_of(out, 0, n, shape.inner()));
    return out;
  }
};

std::vector<double> reference(const Scan& scan) {
  const Shape& s = scan.shape;
  const Input& in = scan.in;
  std::vector<double> out, state(static_cast<size_t>(s.inner() * s.state_dim));
  const auto at = [](const Values& values, int64_t i) {
    return static_cast<double>(values[static_cast<size_t>(i)]);
  };
  for (int64_t t = 0; t < kTokens; ++t)
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
  // Each value of the state and of the sum rounds a few times per token and row.
  test_tiers([&](hrun::Backend& on) { return Scan(on, s); }, reference, 2e-6,
             [&](Scan& scan) {
               scan.shape.n_groups = 0;
               check(is_refused([&] { scan.run({0, 1, 0}); }), "no groups");
             });
}

}  // namespace

int main() {
  for (const Shape& s : {Shape{4, 2, 16, 32}, Shape{6, 1, 128, 64}, Shape{3, 3, 7, 19},
                         Shape{2, 1, 1, 1}, Shape{1, 1, 16, 64, true}, Shape{1, 1, 7, 19, true},
                         Shape{4, 2, 5, 33, true}, Shape{1, 1, 1, 1, true}})
    test(s);
  return failures;
}
