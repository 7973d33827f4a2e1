// Attention over coded keys and values (cpp/cpu/kernels/attention_coded.h says what they mean): a
// block of threads has 16 queries of a kv head, as the products of tensor cores want them.
//
// A split is 256 positions.  Its coded pages come first, in order: their levels are decoded to
// shared memory, the products of int8 queries with keys and of weights as bytes with values are
// exact, and what they give is in the basis of the values' codes, out of which it is turned once.
// Then come the exact positions, if they are the split's, and the queries' own page, both in fp32.
// A query skips what others of its block see, so its bits are those that it has alone.
#pragma once

#include "cuda/device/attention_tiles.h"
#include "cuda/device/cache_encode.h"

namespace hrun::gpu {

// The queries that a block of threads has, and where their values go.
using CodedTiles = AttentionTiles<64, 16, 64, 2, 4 * kWarp>;

struct CodedAttention : CodedTiles {
  static constexpr int kBlocks = 2, kMaxDim = 576, kSplit = 256;
  static constexpr const char* kName = "attention over codes";
  static constexpr int kRows = 16, kWarps = kThreads / kWarp, kRowsOfWarp = kRows / kWarps;
  static constexpr int kChunk = 128;  // dimensions that are decoded at a time
  static constexpr int kKeyPitch = kChunk + 16, kValuePitch = kBlockPositions + 16;
  static constexpr int kLevelBytes = kBlockPositions * kKeyPitch > kChunk* kValuePitch
                                         ? kBlockPositions* kKeyPitch
                                         : kChunk* kValuePitch;
  static_assert(kWarps * kMaxDim * sizeof(float) <= kLevelBytes);  // queries that are turned

  CodedPlace place;
  TurnOfKeys turn;
  CacheLevelBytes k_levels, v_levels;

  // The numbers of the queries that all threads share.
  struct Numbers {
    int8_t k_table[64], v_table[64];
    // For each query: the scale of its codes, its product with the centre of a page, the scale of
    // its weights as bytes; the factors of its values so far and of a page's; the positions that it
    // sees.
    float scale[kRows], centre[kRows], weight[kRows], before[kRows], here[kRows];
    int first[kRows], position[kRows];
  };
  static constexpr size_t kScores = kRows * kBlockPositions * sizeof(float);
  static constexpr size_t kWeights = static_cast<size_t>(kRows) * kValuePitch;
  static size_t shared_bytes(int k_dim, int v_dim) {
    const auto k = static_cast<size_t>(k_dim), v = static_cast<size_t>(v_dim);
    return sizeof(Numbers) + kLevelBytes + kScores + kWeights +
           kRows * (k * sizeof(float) + v * sizeof(float) + k + 16);
  }
  HRUN_HD Numbers& numbers() const { return *reinterpret_cast<Numbers*>(shared()); }
  HRUN_HD uint8_t* levels() const { return shared() + sizeof(Numbers); }
  HRUN_HD float* scores() const { return reinterpret_cast<float*>(levels() + kLevelBytes); }
  HRUN_HD uint8_t* weights() const { return levels() + kLevelBytes + kScores; }
  HRUN_HD float* queries() const { return reinterpret_cast<float*>(weights() + kWeights); }
  HRUN_HD float* values() const { return queries() + kRows * task.k_dim; }
  HRUN_HD uint8_t* codes() const {
    return reinterpret_cast<uint8_t*>(values() + kRows * task.v_dim);
  }
  HRUN_HD int code_pitch() const { return task.k_dim + 16; }

  // The positions of a page that a query sees, in one of the three ways; to <= from: none.
  enum class Part : uint8_t { codes, exact, own };
  struct Seen {
    int from, to;
  };
  HRUN_HD Seen seen(Part part, int row, int page) const {
    const Numbers& n = numbers();
    const int begin = page * kBlockPositions, own = n.position[row] / kBlockPositions,
              visible = n.first[row] - begin;
    const int from = part == Part::codes && page == 0 && visible < kExactPositions ? kExactPositions
                     : visible < 0                                                 ? 0
                                                                                   : visible;
    if (n.position[row] < 0) return {0, 0};
    switch (part) {
      case Part::codes:
        return {from, page < own ? kBlockPositions : 0};
      case Part::exact:
        return {from, own > 0 ? kExactPositions : 0};
      default:
        return {from, page == own ? n.position[row] - begin + 1 : 0};
    }
  }

  HRUN_HD void operator()() const {
    Work w;
    if (!this->work(w)) return;
    Numbers& n = numbers();
    if (thread() < 64) n.k_table[thread()] = k_levels.v[thread()];
    if (thread() < 64) n.v_table[thread()] = v_levels.v[thread()];
    if (thread() < kRows) {
      const int row = w.row + thread();
      const bool real = row < w.n_rows;
      n.position[thread()] = real ? w.first_position + row / task.group : -1;
      n.first[thread()] =
          real ? static_cast<int>(task.first_visible(w.first_position + row / task.group)) : 0;
    }
    const int last_own = (w.end - 1) / kBlockPositions;
    const BeginningOfKeys beginning =
        last_own > 0 ? place.beginning(w.pages[0], w.kv_head) : BeginningOfKeys{};
    for (int r = warp(); r < kRows; r += kWarps) prepare(w, r, beginning, last_own > 0);
    Joined all[kRowsOfWarp];
    for (int split = w.first; split < w.last; ++split) {
      Joined here[kRowsOfWarp];
      attend(w, split, beginning, here);
      finish(w, split, here, all);
    }
  }

  // Prepares a query's floats, and its codes where some keys are codes.
  HRUN_HD void prepare(const Work& w, int r, const BeginningOfKeys& beginning, bool coded) const {
    const int dim = task.k_dim, row = w.row + r;
    const bool real = row < w.n_rows;
    const float* const q = task.q.row(this->batch_row(w, real ? row : 0)) +
                           static_cast<int64_t>(this->head_of(w, real ? row : 0)) * dim;
    float* const to = queries() + r * dim;
    for (int i = lane(); i < dim; i += kWarp) to[i] = real ? q[i] : 0.0f;
    if (!coded || !is_coded(place.cache.k_type)) return;
    float* const turned = reinterpret_cast<float*>(levels()) + warp() * dim;
    const int coded_dim = place.cache.k_coded();
    for (int i = lane(); i < coded_dim; i += kWarp)
      turned[i] = real ? q[i] / beginning.balance[i] : 0.0f;
    rotate_row(turned, coded_dim);
    float largest = 0;
    for (int i = lane(); i < coded_dim; i += kWarp)
      largest = larger(turned[i] < 0 ? -turned[i] : turned[i], largest);
    const float top = warp_max(largest), factor = top > 1e-30f ? 127.0f / top : 0.0f;
    for (int i = lane(); i < coded_dim; i += kWarp)
      codes()[r * code_pitch() + i] =
          static_cast<uint8_t>(to_nearest(smaller(larger(turned[i] * factor, -127.0f), 127.0f)));
    if (lane() == 0) numbers().scale[r] = top / (127.0f * kCacheScaleUnit);
    sync_warp();
  }

  HRUN_HD void attend(const Work& w, int split, const BeginningOfKeys& beginning,
                      Joined (&joined)[kRowsOfWarp]) const {
    const KVPages& cache = place.cache;
    for (int i = thread(); i < kRows * task.v_dim; i += kThreads) values()[i] = 0;
    sync_block();
    constexpr int kPages = kSplit / kBlockPositions;
    const int first_own = w.first_position + w.row / task.group,
              first = split * kPages > w.begin / kBlockPositions ? split * kPages
                                                                 : w.begin / kBlockPositions,
              end = (w.end - 1) / kBlockPositions + 1 < (split + 1) * kPages
                        ? (w.end - 1) / kBlockPositions + 1
                        : (split + 1) * kPages;
    for (int page = first; page < end && page < (w.end - 1) / kBlockPositions; ++page) {
      const uint8_t *const k = place.key_block(w.pages[page], w.kv_head), *const v =
                                                                              place.value_block(
                                                                                  w.pages[page],
                                                                                  w.kv_head);
      if (is_coded(cache.k_type))
        coded_scores(k, page, beginning);
      else
        plain_scores(k, Part::codes, page, kBlockPositions);
      sync_block();
      const CodedBlock shape{cache.v_type, task.v_dim};
      weigh(is_coded(cache.v_type) ? v + shape.scales_at() : nullptr, joined);
      sync_block();
      if (is_coded(cache.v_type))
        add_coded_values(v, shape);
      else
        add_plain_values(v, kBlockPositions);
      sync_block();
    }
    if (is_coded(cache.v_type))
      for (int r = warp(); r < kRows; r += kWarps)
        rotate_row(values() + r * task.v_dim, task.v_dim);
    sync_block();
    const auto plain = [&](const uint8_t* k, const uint8_t* v, Part part, int page, int n) {
      plain_scores(k, part, page, n);
      sync_block();
      weigh(nullptr, joined);
      sync_block();
      add_plain_values(v, n);
      sync_block();
    };
    if (first == 0 && w.begin < kExactPositions && w.end > kBlockPositions)
      plain(beginning.exact_keys, beginning.exact_values, Part::exact, 0, kExactPositions);
    for (int page = first_own / kBlockPositions; page < end; ++page)
      if (page >= first)
        plain(place.key_rows(w.pages[page], w.kv_head), place.value_rows(w.pages[page], w.kv_head),
              Part::own, page, kBlockPositions);
  }

  // Puts scores as the softmax wants them: -infinity where a query does not see.
  HRUN_HD void put_score(int row, int place_in_page, Seen s, float score) const {
    score *= task.scale;
    if (task.soft_cap != 0) score = task.capped(score);
    scores()[row * kBlockPositions + place_in_page] =
        place_in_page >= s.from && place_in_page < s.to ? score : minus_infinity();
  }

  // A warp has 16 positions of the page.
  HRUN_HD void coded_scores(const uint8_t* block, int page,
                            const BeginningOfKeys& beginning) const {
    const CodedBlock shape = place.keys();
    const int dim = shape.dim, group = lane() / 4, quad = lane() % 4;
    const bool has_plain = place.cache.k_plain > 0;
    // The products with the values that are no codes wait where the scores will be.
    if (has_plain)
      plain_products(block + shape.bytes(), CacheType::f16, place.cache.k_plain, dim, true,
                     [&](int row, int position, float sum) {
                       scores()[row * kBlockPositions + position] = sum;
                     });
    // The products of the warp's queries with the centre of the page: lanes multiply, then their
    // sums are added.
    for (int r = warp(); r < kRows; r += kWarps) {
      float sum = 0;
      for (int i = lane(); i < dim; i += kWarp)
        sum = fused_multiply_add(queries()[r * task.k_dim + i],
                                 turn.centre(beginning.mean, page, i), sum);
      sum = warp_sum(sum);
      if (lane() == 0) numbers().centre[r] = sum;
    }
    int sums[2][4] = {};
    for (int first = 0; first < dim; first += kChunk) {
      const int n = dim - first < kChunk ? dim - first : kChunk, units = n / kUnitDims;
      if (first > 0) sync_block();
      for (int at = thread(); at < kBlockPositions * units; at += kThreads) {
        const int position = at / units, unit = at % units;
        uint32_t four[4];
        levels_of_unit(block, shape, position, first / kUnitDims + unit, numbers().k_table, four);
        auto* const to =
            reinterpret_cast<uint32_t*>(levels() + position * kKeyPitch + unit * kUnitDims);
#pragma unroll
        for (int j = 0; j < 4; ++j) to[j] = four[j];
      }
      sync_block();
      const uint8_t *const q = codes() + group * code_pitch() + first + quad * 4,
                           *const k = levels() + (warp() * 16 + group) * kKeyPitch + quad * 4;
      int d = 0;
      for (; d + 32 <= n; d += 32) {
        const uint32_t a[4] = {load_word(q + d), load_word(q + 8 * code_pitch() + d),
                               load_word(q + d + 16), load_word(q + 8 * code_pitch() + d + 16)};
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const uint8_t* const keys = k + i * 8 * kKeyPitch + d;
          const uint32_t b[2] = {load_word(keys), load_word(keys + 16)};
          mma_s8(sums[i], a, b);
        }
      }
      if (d < n) {
        const uint32_t a[2] = {load_word(q + d), load_word(q + 8 * code_pitch() + d)};
#pragma unroll
        for (int i = 0; i < 2; ++i) mma_s8(sums[i], a, load_word(k + i * 8 * kKeyPitch + d));
      }
    }
    const auto* const scales = reinterpret_cast<const uint16_t*>(block + shape.scales_at());
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = group + 8 * half;
      const Seen s = seen(Part::codes, row, page);
      const float scale = numbers().scale[row], centre = numbers().centre[row];
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const int at = warp() * 16 + i * 8 + quad * 2 + j;
          const float product = static_cast<float>(sums[i][2 * half + j]) * low_half(scales[at]);
          float score = fused_multiply_add(product, scale, centre);
          if (has_plain) score += scores()[row * kBlockPositions + at];
          put_score(row, at, s, score);
        }
    }
  }

  // Multiplies keys [position][dim] with the values of the queries from `first` on, in fp32, and
  // calls put(row, position, sum).  A thread has a position and half of the queries.
  template <class Put>
  HRUN_HD void plain_products(const uint8_t* keys, CacheType type, int dim, int first, bool any,
                              const Put& put) const {
    const int position = thread() % kBlockPositions, half = half_of_queries();
    float sums[kRows / 2] = {};
    const float* const q = queries() + half * task.k_dim + first;
    if (any) {
      for (int i = 0; i < dim; i += 4) {
        float k[4];
        load_four(keys, type, position * dim + i, k);
#pragma unroll
        for (int r = 0; r < kRows / 2; ++r)
#pragma unroll
          for (int j = 0; j < 4; ++j)
            sums[r] = fused_multiply_add(q[r * task.k_dim + i + j], k[j], sums[r]);
      }
    }
#pragma unroll
    for (int r = 0; r < kRows / 2; ++r) put(half + r, position, sums[r]);
  }
  static HRUN_HD int half_of_queries() { return thread() / kBlockPositions * (kRows / 2); }

  // Computes the scores of n positions in fp32.
  HRUN_HD void plain_scores(const uint8_t* keys, Part part, int page, int n) const {
    const int position = thread() % kBlockPositions, half = half_of_queries();
    bool any = false;
#pragma unroll
    for (int r = 0; r < kRows / 2; ++r) {
      const Seen s = seen(part, half + r, page);
      any |= position >= s.from && position < s.to;
    }
    plain_products(
        keys, place.cache.k_type, task.k_dim, 0, any && position < n,
        [&](int row, int at, float sum) { put_score(row, at, seen(part, row, page), sum); });
  }
  static HRUN_HD void load_four(const uint8_t* p, CacheType type, int i, float (&v)[4]) {
    if (type == CacheType::f32) {
      const Words4 words = *reinterpret_cast<const Words4*>(p + 4 * i);
#pragma unroll
      for (int j = 0; j < 4; ++j) v[j] = bits_to_float(words.v[j]);
    } else {
      const Words2 words = *reinterpret_cast<const Words2*>(p + 2 * i);
#pragma unroll
      for (int j = 0; j < 2; ++j)
        v[2 * j] = low_half(words.v[j]), v[2 * j + 1] = high_half(words.v[j]);
    }
  }

  // Scores become weights, and bytes where value_scales are given; the page joins those before.
  HRUN_HD void weigh(const uint8_t* value_scales, Joined (&joined)[kRowsOfWarp]) const {
#pragma unroll
    for (int i = 0; i < kRowsOfWarp; ++i) {
      const int r = i * kWarps + warp();
      float* const row = scores() + r * kBlockPositions;
      const float s0 = row[lane()], s1 = row[lane() + kWarp];
      const float top = warp_max(largest_of(s0, s1));
      const bool none = top == minus_infinity();
      const float m = none ? minus_infinity() : top * kLog2E;
      const auto weight = [&](float s) {
        return none ? 0.0f : exp2_fast(fused_multiply_add(s, kLog2E, -m));
      };
      const float e0 = weight(s0), e1 = weight(s1), l = warp_sum(e0 + e1);
      float before, here;
      joined[i].add(m, l, before, here);
      if (value_scales) {
        const auto* const scales = reinterpret_cast<const uint16_t*>(value_scales);
        const float w0 = e0 * low_half(scales[lane()]), w1 = e1 * low_half(scales[lane() + kWarp]);
        const float most = warp_max(larger(w0, w1)), factor = most > 1e-30f ? 255.0f / most : 0.0f;
        const auto byte = [&](float w) {
          return static_cast<uint8_t>(to_nearest(smaller(larger(w * factor, 0.0f), 255.0f)));
        };
        weights()[r * kValuePitch + lane()] = byte(w0);
        weights()[r * kValuePitch + lane() + kWarp] = byte(w1);
        if (lane() == 0) numbers().weight[r] = most / (255.0f * kCacheScaleUnit);
      } else {
        row[lane()] = e0;
        row[lane() + kWarp] = e1;
      }
      if (lane() == 0) numbers().before[r] = before, numbers().here[r] = here;
    }
  }

  // A warp has a quarter of the dimensions of a chunk.
  HRUN_HD void add_coded_values(const uint8_t* block, CodedBlock shape) const {
    const int dim = task.v_dim, group = lane() / 4, quad = lane() % 4;
    const Numbers& numbers = this->numbers();
    for (int first = 0; first < dim; first += kChunk) {
      const int n = dim - first < kChunk ? dim - first : kChunk, units = n / kUnitDims;
      if (first > 0) sync_block();
      for (int at = thread(); at < kBlockPositions * units; at += kThreads) {
        const int position = at % kBlockPositions, unit = at / kBlockPositions;
        uint32_t four[4];
        levels_of_unit(block, shape, position, first / kUnitDims + unit, numbers.v_table, four);
        uint8_t* const to = levels() + unit * kUnitDims * kValuePitch + position;
#pragma unroll
        for (int j = 0; j < kUnitDims; ++j)
          to[j * kValuePitch] = static_cast<uint8_t>(four[j / 4] >> (8 * (j % 4)));
      }
      sync_block();
      for (int tile = warp(); tile < n / 8; tile += kWarps) {
        int sums[4] = {};
        const uint8_t *const weight = weights() + group * kValuePitch + quad * 4,
                             *const level = levels() + (tile * 8 + group) * kValuePitch + quad * 4;
#pragma unroll
        for (int p = 0; p < kBlockPositions; p += 32) {
          const uint32_t a[4] = {load_word(weight + p), load_word(weight + 8 * kValuePitch + p),
                                 load_word(weight + p + 16),
                                 load_word(weight + 8 * kValuePitch + p + 16)},
                         b[2] = {load_word(level + p), load_word(level + p + 16)};
          mma_u8_s8(sums, a, b);
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int row = group + 8 * (j / 2);
          float& at = values()[row * dim + first + tile * 8 + quad * 2 + j % 2];
          at = join_value(at, static_cast<float>(sums[j]) * numbers.weight[row],
                          numbers.before[row], numbers.here[row]);
        }
      }
    }
  }

  HRUN_HD void add_plain_values(const uint8_t* block, int n) const {
    const int dim = task.v_dim;
    const Numbers& numbers = this->numbers();
    for (int i = thread(); i < dim; i += kThreads) {
      float sums[kRows] = {};
      for (int p = 0; p < n; p += 4) {
        float v[4];
#pragma unroll
        for (int j = 0; j < 4; ++j)
          v[j] = plain_value(block, place.cache.v_type, (p + j) * dim + i);
#pragma unroll
        for (int r = 0; r < kRows; ++r)
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            const float weight = scores()[r * kBlockPositions + p + j];
            // A value that was never written may be anything.
            if (weight != 0) sums[r] = fused_multiply_add(weight, v[j], sums[r]);
          }
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        float& at = values()[r * dim + i];
        at = join_value(at, sums[r], numbers.before[r], numbers.here[r]);
      }
    }
  }

  HRUN_HD void finish(const Work& w, int split, const Joined (&here)[kRowsOfWarp],
                      Joined (&all)[kRowsOfWarp]) const {
#pragma unroll
    for (int i = 0; i < kRowsOfWarp; ++i) {
      const int r = i * kWarps + warp(), row = w.row + r;
      if (row >= w.n_rows) continue;
      const Target target = this->target(w, row, split, here[i], all[i]);
      for (int at = lane(); at < task.v_dim; at += kWarp)
        target.put(at, values()[r * task.v_dim + at]);
      if (!w.whole && lane() == 0) this->put_sums(w, row, here[i]);
    }
    sync_block();  // before the next split clears the values
  }
};

}  // namespace hrun::gpu
