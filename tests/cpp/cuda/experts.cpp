// Experts that the device chooses: the choice and its weights are the host's bits, the lists cover
// every slot once, and what comes of them is what single products give.
#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>

#include "cases.h"
#include "cuda/cuda_backend.h"
#include "cuda/kernels/experts.h"
#include "encode/encoders.h"
#include "formats/list.h"
#include "model/blocks/experts.h"

using namespace hrun;
using namespace hrun::gpu;

namespace {

HyperParams params(Gating gating, int n_experts, int n_used) {
  HyperParams p;
  p.gating = gating;
  p.n_experts = n_experts, p.n_experts_used = n_used;
  return p;
}

ExpertRule rule_of(const HyperParams& p) {
  return {p.gating,
          static_cast<int>(p.n_experts),
          static_cast<int>(p.n_experts_used),
          static_cast<int>(p.n_expert_groups),
          static_cast<int>(p.n_expert_groups_used),
          p.experts_normed,
          p.experts_scale,
          p.mixer_margin};
}

struct Choice {
  std::vector<int32_t> experts;
  std::vector<float> weights;
};

Choice by_host(const HyperParams& p, const std::vector<float>& logits, int64_t n,
               const std::vector<float>& correction, const std::vector<float>& factor) {
  const auto used = static_cast<size_t>(p.n_experts_used);
  Choice c;
  c.experts.resize(static_cast<size_t>(n) * used), c.weights.resize(c.experts.size());
  for (size_t t = 0; t < static_cast<size_t>(n); ++t)
    hrun::choose_experts(p, logits.data() + t * static_cast<size_t>(p.n_experts),
                         correction.empty() ? nullptr : correction.data(),
                         c.experts.data() + t * used, c.weights.data() + t * used);
  for (size_t i = 0; i < c.weights.size() && !factor.empty(); ++i)
    c.weights[i] *= factor[static_cast<size_t>(c.experts[i])];
  return c;
}

// Checks that the runs have the rows of their experts, all of them, in order.
void check_runs(const std::vector<SliceRun>& runs, const SliceTask& task,
                const std::vector<int32_t>& expert_of, int64_t n) {
  std::vector<int> seen(expert_of.size());
  for (size_t i = 0; i < runs.size(); ++i) {
    const SliceRun& run = runs[i];
    const bool few = i < static_cast<size_t>(task.n_few_runs);
    expect(run.n <= (few ? task.few : kManyRows), "{} tokens: a run of {} rows", n, run.n);
    for (int r = run.first; r < run.first + run.n; ++r) {
      ++seen[static_cast<size_t>(r)];
      expect(expert_of[static_cast<size_t>(r)] == run.slice, "{} tokens: row {} of another expert",
             n, r);
    }
  }
  expect(std::all_of(seen.begin(), seen.end(), [](int k) { return k == 1; }),
         "{} tokens: each row is in one run", n);
}

void check_choice(Gpu& gpu, const HyperParams& p, int64_t n, bool corrects, bool scales,
                  Random& random, bool strange = false) {
  const auto n_experts = static_cast<size_t>(p.n_experts);
  std::vector<float> logits = random.normals(static_cast<size_t>(n) * n_experts, 2);
  if (strange)  // equal scores, infinities and NaN
    for (float& x : logits)
      x = random.below(3) != 0   ? static_cast<float>(random.below(3))
          : random.below(2) != 0 ? std::numeric_limits<float>::quiet_NaN()
                                 : -std::numeric_limits<float>::infinity();
  // A favourite has many rows.
  for (size_t t = 0; t < static_cast<size_t>(n) && !strange; ++t) logits[t * n_experts + 1] += 9;
  const auto correction = corrects ? random.normals(n_experts) : std::vector<float>{};
  const auto factor = scales ? random.normals(n_experts) : std::vector<float>{};
  const Choice want = by_host(p, logits, n, correction, factor);

  const auto used = static_cast<int>(p.n_experts_used);
  const OnDevice<float> on_device(gpu, logits), c(gpu, correction), f(gpu, factor);
  const OnDevice<uint8_t> memory(gpu, expert_lists_bytes(n, static_cast<int>(p.n_experts), used));
  const ExpertLists lists = expert_lists(memory.get(), n, static_cast<int>(p.n_experts), used);
  gpu::choose_experts(gpu, rule_of(p), corrects ? c.get() : nullptr, scales ? f.get() : nullptr,
                      {on_device.get(), n, p.n_experts, p.n_experts}, lists);
  const size_t slots = want.experts.size();
  const auto read = [&]<class T>(const T* from, size_t count) {
    std::vector<T> values(count);
    gpu.read(values.data(), from, count * sizeof(T));
    return values;
  };
  const auto chosen = read(lists.chosen, slots);
  expect(chosen == want.experts, "{} of {} experts, {} tokens: others are chosen", used, n_experts,
         n);
  expect(std::memcmp(read(lists.weights, slots).data(), want.weights.data(),
                     slots * sizeof(float)) == 0,
         "{} of {} experts, {} tokens: other weights", used, n_experts, n);
  // Rows in the order of the experts, and of tokens where experts are equal.
  std::vector<int32_t> order(slots);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return want.experts[static_cast<size_t>(a)] < want.experts[static_cast<size_t>(b)];
  });
  const auto slot_of = read(lists.slot_of, slots), token_of = read(lists.token_of, slots),
             expert_of = read(lists.expert_of, slots);
  for (size_t row = 0; row < slots; ++row) {
    const auto slot = static_cast<size_t>(order[row]);
    expect(slot_of[slot] == static_cast<int32_t>(row) && token_of[row] == order[row] / used &&
               expert_of[row] == want.experts[slot],
           "{} tokens: the place of slot {}", n, slot);
  }
  std::vector<SliceRun> runs = read(lists.few, static_cast<size_t>(lists.task.n_few_runs));
  const auto many = read(lists.many, static_cast<size_t>(lists.task.n_many_runs));
  runs.insert(runs.end(), many.begin(), many.end());
  check_runs(runs, lists.task, expert_of, n);
}

void check_choices(Gpu& gpu) {
  Random random(1);
  for (const int64_t n : {1, 2, 8, 9, 40, 150})
    for (const Gating gating : {Gating::softmax, Gating::sigmoid, Gating::softmax_of_selected})
      for (const bool strange : {false, true}) {
        HyperParams p = params(gating, 40, 6);
        p.experts_normed = n != 2;
        p.experts_scale = 2.5;
        check_choice(gpu, p, n, false, n == 8, random, strange);
        p.n_expert_groups = 8, p.n_expert_groups_used = 3;
        check_choice(gpu, p, n, true, false, random, strange);
      }
  HyperParams mixer = params(Gating::sparse_mixer, 16, 2);
  mixer.experts_normed = false;
  for (const double margin : {0.02, 0.8})
    for (const bool strange : {false, true}) {
      mixer.mixer_margin = margin;
      check_choice(gpu, mixer, 70, false, false, random, strange);
    }
  check_choice(gpu, params(Gating::softmax, 2, 1), 3, false, false, random);
  check_choice(gpu, params(Gating::softmax, 2, 2), 70, false, false, random);
  check_choice(gpu, params(Gating::sigmoid, 512, 32), 9, true, true, random);
  check_choice(gpu, params(Gating::softmax, kMostExperts, kMostExpertsUsed), 1, false, true,
               random);
}

// A tensor of n slices with random values.
struct Sliced {
  std::vector<std::vector<uint8_t>> bytes;
  std::vector<std::unique_ptr<DeviceTensor>> on_device;

  Sliced(Backend& backend, std::string_view format, int64_t n, int64_t rows, int64_t cols,
         Random& random) {
    const FormatInfo& f = *find_format(format);
    std::vector<TensorView> views;
    for (int64_t i = 0; i < n; ++i) {
      std::vector<uint8_t>& out = bytes.emplace_back(f.row_bytes(cols) * static_cast<size_t>(rows));
      for (int64_t r = 0; r < rows; ++r) {
        const std::vector<float> row = random.normals(static_cast<size_t>(cols));
        find_encoder(f.id)->encode_row(row.data(), nullptr, cols,
                                       out.data() + static_cast<size_t>(r) * f.row_bytes(cols));
      }
      views.push_back({f.id, rows, cols, f.row_bytes(cols), out.data(), "test"});
    }
    on_device = backend.upload_slices(views, TensorUse::product);
  }
};

struct Floats {
  Backend& backend;
  std::unique_ptr<DeviceBuffer> memory;
  FloatView view;

  Floats(Backend& on, int64_t rows, int64_t cols)
      : backend(on),
        memory(on.allocate(static_cast<size_t>(rows * cols) * sizeof(float), "test")),
        view{static_cast<float*>(memory->data), rows, cols, cols} {}
  Floats(Backend& on, int64_t rows, int64_t cols, const std::vector<float>& values)
      : Floats(on, rows, cols) {
    backend.write(view.data, {reinterpret_cast<const uint8_t*>(values.data()), memory->bytes});
  }
  std::vector<float> read() const {
    std::vector<float> values(memory->bytes / sizeof(float));
    backend.read(view.data, {reinterpret_cast<uint8_t*>(values.data()), memory->bytes});
    return values;
  }
};

// The experts of `n` tokens against products of one row each.
void check_experts(CudaBackend& backend, std::string_view format, std::string_view down_format,
                   int64_t n, Nonlinearity f, bool gated, bool biased, Random& random) {
  constexpr int64_t kEmbd = 256, kFf = 288, kExperts = 3, kUsed = 2;
  const Sliced gate(backend, format, kExperts, kFf, kEmbd, random),
      up(backend, format, kExperts, kFf, kEmbd, random),
      down(backend, down_format, kExperts, kEmbd, kFf, random),
      up_bias(backend, "f32", kExperts, 1, kFf, random),
      down_bias(backend, "f32", kExperts, 1, kEmbd, random);
  const HyperParams p = params(Gating::softmax, kExperts, kUsed);
  std::vector<float> logits = random.normals(static_cast<size_t>(n * kExperts));
  for (int64_t t = 0; t < n; ++t) logits[static_cast<size_t>(t * kExperts + 2)] += 2;
  const Floats x(backend, n, kEmbd, random.normals(static_cast<size_t>(n * kEmbd))),
      l(backend, n, kExperts, logits), out(backend, n, kEmbd), g(backend, n * kUsed, kFf),
      u(backend, n * kUsed, kFf), mixed(backend, n * kUsed, kEmbd);
  ExpertBlock block{};
  block.rule = rule_of(p);
  if (gated) block.gate = gate.on_device;
  block.up = up.on_device, block.down = down.on_device;
  if (biased) block.up_bias = up_bias.on_device, block.down_bias = down_bias.on_device;
  block.f = f;
  expect(backend.chooses_experts(block), "{}: the device chooses", format);
  backend.experts(block, l.view, x.view, {g.view, u.view, mixed.view}, out.view);

  const Choice choice = by_host(p, logits, n, {}, {});
  const Floats a(backend, 1, kFf), b(backend, 1, kFf), rows(backend, kUsed, kEmbd),
      want(backend, n, kEmbd);
  for (int64_t t = 0; t < n; ++t) {
    const FloatView token{x.view.row(t), 1, kEmbd, kEmbd};
    for (int64_t k = 0; k < kUsed; ++k) {
      const auto e = static_cast<size_t>(choice.experts[static_cast<size_t>(t * kUsed + k)]);
      const FloatView to{rows.view.row(k), 1, kEmbd, kEmbd};
      const auto multiply = [&](const Sliced& w, const MatmulInput& from, FloatView y) {
        const MatmulTarget target{w.on_device[e].get(), y};
        backend.matmul({&target, 1}, from);
      };
      multiply(up, token, b.view);
      if (biased) backend.add_bias(b.view, *up_bias.on_device[e]);
      if (gated) {
        multiply(gate, token, a.view);
        backend.gated(f, a.view, b.view, b.view);
      } else {
        backend.nonlinearity(f, b.view, b.view);
      }
      multiply(down, b.view, to);
      if (biased) backend.add_bias(to, *down_bias.on_device[e]);
    }
    const int32_t both[] = {0, 1};
    backend.mix_rows(rows.view, both,
                     {choice.weights.data() + static_cast<size_t>(t * kUsed), kUsed},
                     {want.view.row(t), 1, kEmbd, kEmbd});
  }
  expect(out.read() == want.read(), "experts in {} and {}, {} tokens: other bits", format,
         down_format, n);
}

// Heads of several tokens in one launch against one product after the other.
void check_heads(CudaBackend& backend, std::string_view format, int64_t n, bool apart,
                 Random& random) {
  constexpr int64_t kHeads = 3, kRows = 70, kCols = 160;
  const int64_t step = kCols + (apart ? 32 : 0), width = kHeads * step + (apart ? 64 : 0);
  const Sliced w(backend, format, kHeads, kRows, kCols, random);
  const Floats x(backend, n, width, random.normals(static_cast<size_t>(n * width))),
      y(backend, n, kHeads * (kRows + 2)), want(backend, n, kHeads * (kRows + 2));
  const std::vector<float> before(static_cast<size_t>(n * kHeads * (kRows + 2)), 3);
  for (const Floats* to : {&y, &want})
    backend.write(to->view.data,
                  {reinterpret_cast<const uint8_t*>(before.data()), to->memory->bytes});
  backend.matmul_heads(w.on_device, x.view, step, y.view, kRows + 2);
  for (int64_t h = 0; h < kHeads; ++h) {
    const MatmulTarget target{w.on_device[static_cast<size_t>(h)].get(),
                              {want.view.data + h * (kRows + 2), n, kRows, want.view.stride}};
    backend.matmul({&target, 1}, FloatView{x.view.data + h * step, n, kCols, width});
  }
  expect(y.read() == want.read(), "heads in {}, {} tokens, apart {}: other bits", format, n, apart);
}

}  // namespace

int main() {
  Gpu gpu(0);
  CudaBackend backend(0, {});
  Random random(2);
  using enum Nonlinearity;
  if (few_cases()) {
    check_choice(gpu, params(Gating::softmax, 8, 2), 9, true, true, random);
    check_experts(backend, "rtq3", "q8_0", 3, silu, true, false, random);
    check_heads(backend, "q8_0", 12, false, random);
    if (starts_early()) {
      check_choice(gpu, params(Gating::sigmoid, 40, 6), 1, true, false, random);
      check_experts(backend, "f32", "q4_1", 9, relu_squared, false, false, random);
      check_experts(backend, "q4_0", "f16", 1, gelu, true, true, random);
      check_experts(backend, "rtq3", "f16", 60, silu, true, false, random);
      check_experts(backend, "q8_0", "q4_1", 150, silu, true, false, random);
      for (const std::string_view format : {"q8_0", "f16", "q4_1"})
        for (const int64_t n : {1, 40}) check_heads(backend, format, n, true, random);
    }
    return failures != 0;
  }
  check_choices(gpu);
  for (const int64_t n : {1, 3, 8, 9, 17}) {
    check_experts(backend, "q8_0", "q8_0", n, silu, true, false, random);
    check_experts(backend, "rtq3", "rtq4", n, silu, true, n == 3, random);
  }
  for (const int64_t n : {1, 9}) {
    check_experts(backend, "q4_0", "f16", n, gelu, true, true, random);
    check_experts(backend, "f32", "q4_1", n, relu_squared, false, false, random);
    check_experts(backend, "q5_1", "bf16", n, clamped_silu, true, true, random);
  }
  // Experts with many rows, and with more than a run has.
  check_experts(backend, "q8_0", "q4_1", 150, silu, true, false, random);
  check_experts(backend, "rtq3", "f16", 60, silu, true, false, random);
  check_experts(backend, "f16", "q8_0", 60, relu_squared, false, true, random);
  for (const int64_t n : {1, 5, 9, 40, 140})
    for (const bool apart : {false, true}) check_heads(backend, "q8_0", n, apart, random);
  for (const std::string_view format : {"f16", "q4_1"})
    for (const int64_t n : {1, 9, 140}) check_heads(backend, format, n, n != 9, random);
  // A card without bulk copies and products of warpgroups.
  setenv("HRUN_CUDA_BULK", "0", 1);
  setenv("HRUN_CUDA_WARPGROUPS", "0", 1);
  CudaBackend older(0, {});
  unsetenv("HRUN_CUDA_BULK");
  unsetenv("HRUN_CUDA_WARPGROUPS");
  for (const int64_t n : {3, 150})
    check_experts(older, "rtq3", "q8_0", n, silu, true, false, random);
  for (const int64_t n : {12, 140}) check_heads(older, "q8_0", n, true, random);
  return failures != 0;
}
