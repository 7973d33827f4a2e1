// Sampling: a first pass over the vocabulary by many blocks, then one block that holds the best
// 1024 and walks the chain.
//
// The first pass finds the best candidate of each of up to 1024 chunks.  The k best candidates of
// all then lie in the k chunks with the best bests, at or above the k-th of these: so the second
// kernel reads k chunks, not the vocabulary.
#include "cuda/kernels/sample.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/math64.h"
#include "base/pcg32.h"
#include "cuda/device/sample_parts.h"

namespace hrun::gpu {
namespace {

constexpr int kChunks = 1024;  // at most
constexpr int kBest =
    1024;  // candidates that are sorted; a larger set is handled by sums over the vocabulary
constexpr int kList = 4096;  // candidates gathered before they are sorted

struct Scratch {
  float* logits;     // [n_vocab], edited
  Candidate* bests;  // [n_chunks]
  double* weights;  // [n_vocab], e^(logit - best); only where more than kBest candidates can matter
  double* tempered;  // [n_vocab], e^(logit / temperature - best / temperature)
};

// e^x for x <= 0 to 1e-16, by fused multiply-adds: 20 of them instead of math64's divisions.
HRUN_HD double exp_below_one(double x) {
  if (!(x > -700)) return 0;
  const double n = std::nearbyint(x * 1.4426950408889634074);
  const double r = std::fma(n, -math64::kLn2Low, std::fma(n, -math64::kLn2High, x));
  double sum = 1.0 / 6227020800;  // 1 / 13!
  constexpr double kInverse[] = {1.0 / 479001600,
                                 1.0 / 39916800,
                                 1.0 / 3628800,
                                 1.0 / 362880,
                                 1.0 / 40320,
                                 1.0 / 5040,
                                 1.0 / 720,
                                 1.0 / 120,
                                 1.0 / 24,
                                 1.0 / 6,
                                 1.0 / 2,
                                 1.0,
                                 1.0};
#pragma unroll
  for (const double c : kInverse) sum = std::fma(sum, r, c);
  const uint64_t bits = static_cast<uint64_t>(static_cast<int64_t>(n) + 1023) << 52;
  double power;
  memcpy(&power, &bits, sizeof power);
  return sum * power;
}

// A warp has a chunk: it edits its logits and finds the best.
struct EditAndRank {
  static constexpr int kThreads = 256, kBlocks = 1;
  static constexpr const char* kName = "sampling: the pass over the logits";
  const float* from;
  int n_vocab, chunk, n_chunks;
  const SampleEdit* edits;
  const int32_t* n_edits;
  Scratch scratch;

  HRUN_HD void operator()() const {
    const int c = block_x() * (kThreads / kWarp) + warp();
    if (c >= n_chunks) return;
    const int first = c * chunk, end = first + chunk < n_vocab ? first + chunk : n_vocab,
              count = edits ? *n_edits : 0;
    Candidate best = 0;
    for (int id = first + lane(); id < end; id += kWarp) {
      const float logit = from[id];
      scratch.logits[id] = logit;
      best = better(best, candidate(logit, id));
    }
    bool any = false;
    for (int e = lane(); e < count; e += kWarp)
      any |= edits[e].token >= first && edits[e].token < end;
    if (ballot(any) != 0) {  // once more, after the edits of this chunk
      sync_warp();
      for (int e = lane(); e < count; e += kWarp)
        if (edits[e].token >= first && edits[e].token < end)
          edit(edits[e], scratch.logits[edits[e].token]);
      sync_warp();
      best = 0;
      for (int id = first + lane(); id < end; id += kWarp)
        best = better(best, candidate(scratch.logits[id], id));
    }
    best = warp_best(best);
    if (lane() == 0) scratch.bests[c] = best;
  }
  static HRUN_HD Candidate better(Candidate a, Candidate b) { return a > b ? a : b; }
  static HRUN_HD void edit(const SampleEdit& e, float& logit) {
    float x = logit + e.bias;
    x = x <= 0 ? x * e.repeat : x / e.repeat;
    logit = x - e.subtract;
  }
};

struct Weigh {
  static constexpr int kThreads = 256, kBlocks = 1;
  static constexpr const char* kName = "sampling: the weights";
  int n_vocab, n_chunks;
  float temperature;
  Scratch scratch;

  HRUN_HD void operator()() const {
    auto* const partial = reinterpret_cast<Candidate*>(shared());
    Candidate best = 0;
    for (int c = thread(); c < n_chunks; c += kThreads)
      best = EditAndRank::better(best, scratch.bests[c]);
    best = warp_best(best);
    if (lane() == 0) partial[warp()] = best;
    sync_block();
    for (int w = 0; w < kThreads / kWarp; ++w) best = EditAndRank::better(best, partial[w]);
    const int id = block_x() * kThreads + thread();
    if (id >= n_vocab) return;
    const float logit = scratch.logits[id], top = logit_of(best);
    scratch.weights[id] = exp_below_one(static_cast<double>(logit) - top);
    scratch.tempered[id] = exp_below_one(static_cast<double>(logit / temperature) -
                                         static_cast<double>(top / temperature));
  }
};

struct Choose {
  static constexpr int kThreads = 512, kBlocks = 1;
  static constexpr const char* kName = "sampling: the choice";
  static constexpr size_t kSharedBytes = (kList + kBest + kThreads / kWarp + 2) * 8;
  int n_vocab, chunk, n_chunks;
  float temperature;
  int top_k;  // n_vocab: all
  double top_p, log_min_p;
  bool with_top_p, with_min_p;
  Scratch scratch;
  uint64_t* generator;
  SampleResult* result;

  // Shared memory.  The bests of the chunks and, later, the probabilities of the list have the same
  // place.
  static HRUN_HD Candidate* list() { return reinterpret_cast<Candidate*>(shared()); }
  static HRUN_HD Candidate* bests() { return list() + kList; }
  static HRUN_HD double* probabilities() { return reinterpret_cast<double*>(bests()); }
  static HRUN_HD uint64_t* partial() { return bests() + kBest; }
  static HRUN_HD int* counter() { return reinterpret_cast<int*>(partial() + kThreads / kWarp); }

  HRUN_HD void answer(int token, SampleStatus status = SampleStatus::ok) const {
    if (thread() == 0) *result = {token, status};
  }

  HRUN_HD void operator()() const {
    const int sorted_bests = power_of_two_from(n_chunks);
    for (int c = thread(); c < sorted_bests; c += kThreads)
      bests()[c] = c < n_chunks ? scratch.bests[c] : 0;
    block_sort<kThreads>(bests(), sorted_bests);
    const Candidate best = bests()[0];
    if (best >> 32 >= key_of(bits_to_float(0x7f800000u)))
      return answer(0, SampleStatus::not_finite);
    if (best >> 32 <= key_of(minus_infinity())) return answer(0, SampleStatus::none_possible);
    if (temperature == 0) return answer(id_of(best));

    const double uniform = draw();
    bool complete = top_k <= kBest;  // the list holds all that top-k leaves
    const int n = complete ? top_k : n_chunks;
    gather(n);
    Candidate floor = 0;  // else: what top-k leaves
    int kept = n;
    if (!complete && top_k < n_vocab)
      floor =
          largest_with<int>([](int) { return 1; }, 0, [&](int count) { return count >= top_k; });
    double total = 0;  // of what top-k leaves, in weights
    if (with_top_p) {
      weigh(n, 1);
      if (complete)
        total = sum_of_first(n);
      else
        total = block_total<double>([&](int id) { return scratch.weights[id]; }, floor);
      kept = walk(n, total, [&](double sum, double) { return sum >= top_p; });
      complete |= kept < n || reached();
    }
    const double least = static_cast<double>(logit_of(best)) + log_min_p;
    if (with_min_p) {
      const int above = count_above(kept, least);
      complete |= above < kept;
      kept = above;
    }
    if (!complete) return choose_among_all(best, floor, total, least, uniform);
    weigh(kept, temperature);
    // The token is the last of the list if rounding leaves something of the draw.
    double left = uniform;
    const int i = walk(kept, sum_of_first(kept), [&](double, double p) {
      if (left < p) return true;
      left -= p;
      return false;
    });
    answer(id_of(list()[i - 1]));
  }

  static HRUN_HD int power_of_two_from(int n) {
    int power = 1;
    while (power < n) power *= 2;
    return power;
  }
  static HRUN_HD float minus_infinity() { return bits_to_float(0xff800000u); }

  HRUN_HD double draw() const {
    auto* const shared_draw = reinterpret_cast<double*>(partial());
    if (thread() == 0) {
      Pcg32 random{*generator};
      *shared_draw = random.uniform();
      *generator = random.state;
    }
    sync_block();
    const double uniform = *shared_draw;
    sync_block();
    return uniform;
  }

  // Puts the n best candidates, in order, into the list.
  HRUN_HD void gather(int n) const {
    Candidate least = n <= n_chunks ? bests()[n - 1] : 0;
    int found = gather_from(n, least);
    if (found > kList) {  // good ones crowd in a few chunks
      least = largest_with<int>([](int) { return 1; }, 0, [&](int count) { return count >= n; });
      found = gather_from(n, least);
    }
    const int size = power_of_two_from(found);
    for (int i = found + thread(); i < size; i += kThreads) list()[i] = 0;
    block_sort<kThreads>(list(), size);
  }
  // Gathers the candidates at or above `least`.  Returns how many there are; up to kList of them
  // are in the list.
  HRUN_HD int gather_from(int n, Candidate least) const {
    if (thread() == 0) *counter() = 0;
    sync_block();
    const int chunks = n < n_chunks ? n : n_chunks;
    for (int c = warp(); c < chunks; c += kThreads / kWarp) {
      const int first = id_of(bests()[c]) / chunk * chunk,
                end = first + chunk < n_vocab ? first + chunk : n_vocab;
      for (int id = first + lane(); id < end; id += kWarp) {
        const Candidate mine = candidate(scratch.logits[id], id);
        if (mine < least) continue;
        const int at = add_shared(counter(), 1);
        if (at < kList) list()[at] = mine;
      }
    }
    sync_block();
    const int found = *counter();
    sync_block();
    return found;
  }

  // Puts the weights of the first n of the list, at this temperature, into probabilities(), as
  // Candidates::probabilities() has them.
  HRUN_HD void weigh(int n, float at_temperature) const {
    const double top = static_cast<double>(logit_of(list()[0]) / at_temperature);
    for (int i = thread(); i < n; i += kThreads)
      probabilities()[i] =
          math64::exp(static_cast<double>(logit_of(list()[i]) / at_temperature) - top);
    sync_block();
  }
  // Adds them one after the other: the order of additions is part of the result.
  HRUN_HD double sum_of_first(int n) const {
    auto* const sum = reinterpret_cast<double*>(partial());
    if (thread() == 0) {
      double s = 0;
      for (int i = 0; i < n; ++i) s += probabilities()[i];
      *sum = s;
    }
    sync_block();
    const double result_sum = *sum;
    sync_block();
    return result_sum;
  }
  // Divides the weights by their total and goes through them until `enough`(sum so far, this one);
  // returns how many it took, n if all.
  template <class Enough>
  HRUN_HD int walk(int n, double total, Enough&& enough) const {
    for (int i = thread(); i < n; i += kThreads) probabilities()[i] /= total;
    sync_block();
    if (thread() == 0) {
      double sum = 0;
      int i = 0;
      bool done = false;
      while (i < n && !done) {
        sum += probabilities()[i];
        done = enough(sum, probabilities()[i]);
        ++i;
      }
      counter()[0] = i;
      counter()[1] = done;
    }
    sync_block();
    const int taken = counter()[0];
    return taken;
  }
  HRUN_HD bool reached() const {  // did the walk end by `enough`?
    const bool done = counter()[1] != 0;
    sync_block();
    return done;
  }
  HRUN_HD int count_above(int n, double least) const {
    int count = 0;
    for (int i = thread(); i < n; i += kThreads)
      count += static_cast<double>(logit_of(list()[i])) >= least;
    return block_sum<kThreads>(count, reinterpret_cast<int*>(partial()));
  }

  // Sums over the candidates of the whole vocabulary at or above `from`.
  template <class T, class Weight>
  HRUN_HD T block_total(Weight&& weight, Candidate from) const {
    T sum = 0;
#pragma unroll 4
    for (int id = thread(); id < n_vocab; id += kThreads) {
      const T here = weight(id);
      sum += candidate(scratch.logits[id], id) >= from ? here : T{0};
    }
    return block_sum<kThreads>(sum, reinterpret_cast<T*>(partial()));
  }
  // The largest candidate c, not below `floor`, such that those at or above it are `enough`
  // together; 0: all are not enough.
  template <class T, class Weight, class Enough>
  HRUN_HD Candidate largest_with(Weight&& weight, Candidate floor, Enough&& enough) const {
    Candidate found = 0;
    for (int bit = 63; bit >= 0; --bit) {
      const Candidate tried = found | static_cast<uint64_t>(1) << bit;
      if (enough(block_total<T>(weight, tried > floor ? tried : floor))) found = tried;
    }
    return found;
  }

  // More than kBest candidates can be drawn.  Their order enters by comparisons only.
  HRUN_HD void choose_among_all(Candidate best, Candidate floor, double total, double least,
                                double uniform) const {
    if (with_top_p) {
      const Candidate border =
          largest_with<double>([&](int id) { return scratch.weights[id]; }, floor,
                               [&](double sum) { return sum >= top_p * total; });
      floor = border > floor ? border : floor;
    }
    const auto weight = [&](int id) {
      return with_min_p && static_cast<double>(scratch.logits[id]) < least ? 0.0
                                                                           : scratch.tempered[id];
    };
    const double all = block_total<double>(weight, floor);
    const Candidate drawn =
        largest_with<double>(weight, floor, [&](double sum) { return sum > uniform * all; });
    answer(id_of(drawn > floor ? drawn : floor > 0 ? floor : best));
  }
};

struct Layout {
  size_t logits, bests, weights, tempered, bytes;
  explicit Layout(int64_t n_vocab) {
    const auto n = static_cast<size_t>(n_vocab);
    logits = 0;
    bests = (n * sizeof(float) + 15) & ~size_t{15};
    weights = bests + kChunks * sizeof(Candidate);
    tempered = weights + n * sizeof(double);
    bytes = tempered + n * sizeof(double);
  }
};

}  // namespace

size_t sample_scratch_bytes(int64_t n_vocab) { return Layout(n_vocab).bytes; }

void sample(Gpu& gpu, const float* logits, int64_t n_vocab, const SampleSettings& settings,
            const SampleEdit* edits, const int32_t* n_edits, uint64_t* generator,
            SampleResult* result, void* scratch) {
  if (n_vocab <= 0 || n_vocab > (int64_t{1} << 30))
    throw ArgumentError("sampling from a vocabulary of {} tokens", n_vocab);
  if (settings.top_k < 0 || !(settings.temperature >= 0))
    throw ArgumentError("sampling at temperature {} with top_k {}", settings.temperature,
                        settings.top_k);
  const Layout layout(n_vocab);
  auto* const base = static_cast<uint8_t*>(scratch);
  const Scratch at{reinterpret_cast<float*>(base + layout.logits),
                   reinterpret_cast<Candidate*>(base + layout.bests),
                   reinterpret_cast<double*>(base + layout.weights),
                   reinterpret_cast<double*>(base + layout.tempered)};
  const auto n = static_cast<int>(n_vocab);
  const int chunk = std::max(kWarp, (n + kChunks * kWarp - 1) / (kChunks * kWarp) * kWarp),
            n_chunks = (n + chunk - 1) / chunk;
  const int top_k =
      settings.top_k == 0 ? n : static_cast<int>(std::min<int64_t>(settings.top_k, n));
  constexpr int kPerBlock = EditAndRank::kThreads / kWarp;
  gpu.launch(EditAndRank{logits, n, chunk, n_chunks, edits, n_edits, at},
             Grid{(n_chunks + kPerBlock - 1) / kPerBlock});
  if (top_k > kBest && settings.temperature > 0)
    gpu.launch(Weigh{n, n_chunks, settings.temperature, at},
               Grid{(n + Weigh::kThreads - 1) / Weigh::kThreads},
               Weigh::kThreads / kWarp * sizeof(Candidate));
  const Choose choose{n,
                      chunk,
                      n_chunks,
                      settings.temperature,
                      top_k,
                      settings.top_p,
                      settings.min_p > 0 ? math64::log(settings.min_p) : 0,
                      settings.top_p < 1,
                      settings.min_p > 0,
                      at,
                      generator,
                      result};
  gpu.launch(choose, Grid{1}, Choose::kSharedBytes);
}

}  // namespace hrun::gpu
