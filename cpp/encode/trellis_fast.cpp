#include "encode/trellis_fast.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <mutex>

#include "base/cpu_features.h"
#include "base/error.h"
#include "formats/rotation.h"

namespace hrun {

void search_lanes_portable(const FastTrellis&, const int16_t*, int, uint8_t*, uint8_t*);
void search_lanes_avx2(const FastTrellis&, const int16_t*, int, uint8_t*, uint8_t*);
void search_lanes_avx512(const FastTrellis&, const int16_t*, int, uint8_t*, uint8_t*);

namespace {

constexpr int kByteBits = 4;  // of a place: the byte in a vector
constexpr int kTogether = 4;  // blocks prepared at once: one lane each

typedef float Floats __attribute__((vector_size(4 * kTogether)));
typedef int32_t Ints __attribute__((vector_size(4 * kTogether)));

// A bit of the code `lag` places back.
struct CodeBit {
  int lag, bit;
  bool operator==(const CodeBit&) const = default;
};

// Which code bit each bit of a place is: those of the vector number, and the queue of those of the
// byte, oldest last.
struct Layout {
  std::vector<CodeBit> vector, byte;
  bool operator==(const Layout&) const = default;
};

Layout first_layout(int k, int m) {
  Layout layout;
  for (int lag = m; lag > 0; --lag)
    for (int bit = 0; bit < k; ++bit) layout.vector.push_back({lag, bit});
  layout.byte.assign(layout.vector.rbegin(), layout.vector.rbegin() + kByteBits);
  layout.vector.resize(layout.vector.size() - kByteBits);
  return layout;
}

int16_t in_units(float level, float units, bool even) {
  return static_cast<int16_t>(static_cast<int>(level * units) & (even ? ~1 : ~0));
}

FastTrellis::Phase phase_of_layout(const TrellisCode& code, float units, bool even,
                                   const Layout& layout) {
  const int k = code.state_bits, m = code.memory;
  FastTrellis::Phase phase;
  std::vector<int> oldest(
      static_cast<size_t>(k));  // bits of the vector number that are the oldest code
  for (size_t i = 0; i < layout.vector.size(); ++i)
    if (layout.vector[i].lag == m)
      oldest[static_cast<size_t>(layout.vector[i].bit)] = static_cast<int>(i);
  for (unsigned code_value = 0; code_value < 1u << k; ++code_value) {
    unsigned vector = 0;
    for (int bit = 0; bit < k; ++bit)
      vector |= (code_value >> bit & 1) << oldest[static_cast<size_t>(bit)];
    phase.vectors.push_back(static_cast<uint16_t>(vector));
  }
  const auto state_at = [&](unsigned place) {
    unsigned state = 0;
    const auto put = [&](const CodeBit& b, unsigned value) {
      state |= value << (k * (b.lag - 1) + b.bit);
    };
    for (size_t i = 0; i < layout.byte.size(); ++i) put(layout.byte[i], place >> i & 1);
    for (size_t i = 0; i < layout.vector.size(); ++i)
      put(layout.vector[i], place >> (kByteBits + i) & 1);
    return state;
  };
  const unsigned n_vectors = 1u << layout.vector.size();
  phase.place.resize(size_t{n_vectors} * 16);
  for (unsigned place = 0; place < phase.place.size(); ++place) {
    phase.state.push_back(static_cast<uint16_t>(state_at(place)));
    phase.place[state_at(place)] = static_cast<uint16_t>(place);
  }
  for (unsigned newest = 0; newest < 1u << k; ++newest)
    for (unsigned x = 0; x < 1u << k; ++x)
      phase.steps.push_back(static_cast<uint16_t>(16 * phase.vectors[newest ^ x]));
  for (unsigned vector = 0; vector < n_vectors; ++vector) {
    if (vector & phase.vectors.back()) continue;
    phase.slices.push_back(static_cast<uint16_t>(vector));
    for (unsigned x = 0; x < 1u << k; ++x)
      for (size_t variant = 0; variant < code.variants(); ++variant)
        for (unsigned byte = 0; byte < 16; ++byte)  // of window (0, middle codes, x)
          phase.levels.push_back(in_units(
              code.values[variant * code.windows() +
                          ((state_at(vector * 16 + byte) << k | x) & (phase.place.size() - 1))],
              units, even));
  }
  return phase;
}

// The layout after a step, and how many bits of the newest code the queue takes in between.
Layout after_step(const Layout& before, int m, int& interleavings) {
  Layout layout = before;
  std::vector<size_t> newest;  // where the newest code's bits are
  for (size_t i = 0; i < layout.vector.size(); ++i)
    if (layout.vector[i].lag == m) {
      layout.vector[i].lag = 0;
      newest.resize(std::max(newest.size(), static_cast<size_t>(layout.vector[i].bit) + 1));
      newest[static_cast<size_t>(layout.vector[i].bit)] = i;
    }
  interleavings = 0;
  const auto next_waits = [&] {
    return std::any_of(layout.byte.begin(), layout.byte.end(),
                       [&](const CodeBit& b) { return b.lag == m - 1; });
  };
  while (next_waits()) {
    const size_t at = newest[static_cast<size_t>(interleavings++)];
    layout.byte.insert(layout.byte.begin(), layout.vector[at]);
    layout.vector[at] = layout.byte.back();
    layout.byte.pop_back();
  }
  for (auto* bits : {&layout.vector, &layout.byte})
    for (CodeBit& b : *bits) ++b.lag;
  return layout;
}

// Working memory and the steps of encoding kTogether blocks.
class FastCoder {
 public:
  FastCoder(const TrellisCode& code, const FastTrellis& fast, const LaneSearch& search)
      : code_(code),
        fast_(fast),
        search_(search),
        lanes_(static_cast<size_t>(search.lanes)),
        row_((size_t{1} << fast.state_bits) * lanes_),
        x_(kMaxBlock * lanes_ * 8),
        costs_(std::make_unique_for_overwrite<uint8_t[]>((kMaxBlock + 1) * row_)) {}

  // block[i]: n weights of column `first` on, signs: of these columns; out[i]: where block i goes;
  // blocks from n_blocks on are copies of the last.
  void encode(const float* const (&block)[kTogether], const float* signs, int n, int n_blocks,
              uint8_t* const (&out)[kTogether]) {
    for (int t = 0; t < n; ++t)
      rotated_[t] = Floats{block[0][t], block[1][t], block[2][t], block[3][t]} * signs[t];
    for (int done = 0; done < n;) {
      const int piece = rotation_piece(n - done);
      transform(rotated_ + done, piece);
      done += piece;
    }
    const Floats energy = dot(rotated_, rotated_, n);
    Floats inverse;
    float scale[kTogether];
    for (int i = 0; i < kTogether; ++i) {
      scale[i] = round_to_half(std::sqrt(energy[i] / static_cast<float>(n)) / code_.rms);
      inverse[i] = scale[i] > 0 ? fast_.units / scale[i] : 0.0f;
    }
    for (int i = 0; i < n_blocks; i += search_.lanes) search(i, n, inverse);
    finish(n, n_blocks, energy, scale, out);
  }

 private:
  static float round_to_half(float value) {
    return fp16_to_fp32(fp32_to_fp16(std::min(value, 65504.0f)));
  }

  static Floats dot(const Floats* a, const Floats* b, int n) {
    Floats sum = {};
    for (int t = 0; t < n; ++t) sum += a[t] * b[t];
    return sum;
  }

  // Does the same as fwht() of rotation.h, for kTogether blocks.
  static void transform(Floats* x, int n) {
    for (int half = 1; half < n; half *= 2)
      for (int i = 0; i < n; i += 2 * half)
        for (int j = i; j < i + half; ++j) {
          const Floats a = x[j], b = x[j + half];
          x[j] = a + b;
          x[j + half] = a - b;
        }
    const float scale = fwht_scale(n);
    for (int i = 0; i < n; ++i) x[i] *= scale;
  }

  // Finds the codes of the blocks first .. first + lanes.
  void search(int first, int n, Floats inverse) {
    for (int t = 0; t < n; ++t) {
      const auto step = std::min(static_cast<size_t>(t), fast_.lowest.size() - 1);
      const Floats least = Floats{} + fast_.lowest[step], most = Floats{} + fast_.highest[step];
      Floats wanted = rotated_[t] * inverse;
      wanted = wanted < most ? wanted : most;
      wanted = wanted > least ? wanted : least;
      const Ints rounded = __builtin_convertvector(wanted + 32768.5f, Ints) - 32768;
      for (size_t lane = 0; lane < lanes_; ++lane) {
        const int value = rounded[static_cast<size_t>(first) + lane] | fast_.odd_values;
        const uint64_t four = static_cast<uint16_t>(value) * 0x0001000100010001ull;
        int16_t* const to = x_.data() + (static_cast<size_t>(t) * lanes_ + lane) * 8;
        __builtin_memcpy(to, &four, sizeof four);
        __builtin_memcpy(to + 4, &four, sizeof four);
      }
    }
    std::fill_n(costs_.get(), row_, static_cast<uint8_t>(kLargestCost));
    const size_t start = fast_.phases[fast_.phase_of[0]].place[0];
    for (size_t lane = 0; lane < lanes_; ++lane)
      costs_[(start / 16 * lanes_ + lane) * 16 + start % 16] = 0;
    search_.run(fast_, x_.data(), n, costs_.get(), codes_[first]);
    for (size_t lane = 0; lane < lanes_; ++lane) {
      const size_t block = static_cast<size_t>(first) + lane;
      float x[kMaxBlock], z[kMaxBlock];
      if (code_.free_bits != 0) {
        for (int t = 0; t < n; ++t) x[t] = rotated_[t][block] * inverse[block] / fast_.units;
        code_.choose_variants(x, n, codes_[block]);
      }
      code_.reconstruct(codes_[block], n, z);
      for (int t = 0; t < n; ++t) z_[t][block] = z[t];
    }
  }

  // Finds the best scale of each path, and writes the bytes.
  void finish(int n, int n_blocks, Floats energy, const float (&scale)[kTogether],
              uint8_t* const (&out)[kTogether]) {
    const Floats xz = dot(rotated_, z_, n), zz = dot(z_, z_, n);
    const float limit =
        3 *
        static_cast<float>(code_.error);  // of Gaussian blocks less than one in a thousand has more
    for (int i = 0; i < n_blocks; ++i) {
      const float best = xz[i] > 0 ? round_to_half(xz[i] / zz[i]) : 0;
      const float error = energy[i] - 2 * best * xz[i] + best * best * zz[i];
      if (energy[i] > 0 && !(scale[i] > 0 && error <= limit * energy[i])) {
        float x[kMaxBlock];
        for (int t = 0; t < n; ++t) x[t] = rotated_[t][i];
        encode_trellis_block(code_, x, n, error > 10 * static_cast<float>(code_.error) * energy[i],
                             out[i]);
        continue;
      }
      store_fp16(out[i], energy[i] > 0 ? best : 0);
      if (!(energy[i] > 0)) std::fill_n(codes_[i], n, uint8_t{0});
      pack_trellis_codes(codes_[i], n, code_.code_bits(), out[i] + 2);
    }
  }

  const TrellisCode& code_;
  const FastTrellis& fast_;
  const LaneSearch& search_;
  const size_t lanes_, row_;  // bytes of the costs of one step
  std::vector<int16_t> x_;
  std::unique_ptr<uint8_t[]> costs_;
  Floats rotated_[kMaxBlock], z_[kMaxBlock];
  uint8_t codes_[kTogether][kMaxBlock];
};

}  // namespace

FastTrellis::FastTrellis(const TrellisCode& code)
    : code_bits(code.state_bits),
      free_bits(code.free_bits),
      memory(code.memory),
      state_bits(code.state_bits * code.memory) {
  const int k = code_bits, m = code.memory;
  const size_t n_states = size_t{1} << state_bits, n_windows = code.windows();
  for (size_t i = 0; i < code.values.size(); ++i) {
    const size_t window = i % n_windows, alike = (window & (n_states - 1)) ^ (window >> state_bits);
    if (code.values[i] != code.values[i - window + alike])
      throw ArgumentError(
          "the fast search wants a code that is read by the newest code xor the oldest");
  }
  // Costs of about 1.5 for an average step; less from 4 bits on, where an unlucky step is more
  // times as costly as an average one.
  const double step = code.error * static_cast<double>(code.rms) * static_cast<double>(code.rms);
  double most = 255;
  if (code.code_bits() >= 5) {  // levels and values fit 16 bits, and no difference is near 2^16
    const auto farther = [](float a, float b) { return std::fabs(a) < std::fabs(b); };
    most = 31000 /
           (1.0 + std::fabs(*std::max_element(code.values.begin(), code.values.end(), farther)));
  }
  units = static_cast<float>(
      std::floor(std::min(std::sqrt((k >= 4 ? 1.0 : 1.5) * 32768 / step), most)));
  odd_values = units > 255;
  for (size_t variant = 0; variant < code.variants(); ++variant)
    for (size_t window = 0; window < n_states; ++window)
      levels.push_back(in_units(code.values[variant * n_windows + window], units, odd_values));
  // Values beyond what a step can reach are cut, or their costs would all be the largest.  The
  // first steps reach less, as the codes before the block are 0.
  for (int t = 0; t <= m; ++t) {
    float low = 0, high = 0;
    for (size_t variant = 0; variant < code.variants(); ++variant) {
      const auto first = code.values.begin() + static_cast<int64_t>(variant * n_windows);
      const auto [least, most_of_all] =
          std::minmax_element(first, first + (int64_t{1} << (k * (t + 1))));
      low = std::min(low, *least);
      high = std::max(high, *most_of_all);
    }
    lowest.push_back((low - 1) * units);
    highest.push_back((high + 1) * units);
  }
  std::vector<Layout> layouts{first_layout(k, m)};
  for (size_t t = 0;; ++t) {
    int interleavings = 0;
    const Layout next = after_step(layouts[t], m, interleavings);
    phases.push_back(phase_of_layout(code, units, odd_values, layouts[t]));
    phases.back().interleavings = interleavings;
    phase_of[t] = static_cast<uint8_t>(t);
    const auto seen = std::find(layouts.begin(), layouts.end(), next);
    if (seen != layouts.end()) {
      const auto from = static_cast<size_t>(seen - layouts.begin());
      for (size_t later = t + 1; later <= kMaxBlock; ++later)
        phase_of[later] = phase_of[later - (t + 1 - from)];
      break;
    }
    layouts.push_back(next);
  }
}

const FastTrellis& fast_trellis(const TrellisCode& code) {
  static std::mutex mutex;
  // Never destroyed: at exit another thread may still use it.
  static auto& made = *new std::map<const TrellisCode*, FastTrellis>;
  const std::lock_guard lock(mutex);
  return made.try_emplace(&code, code).first->second;
}

std::span<const LaneSearch> lane_searches() {
  // Never destroyed: at exit another thread may still use it.
  static const std::vector<LaneSearch>& kSearches = *[] {
    auto* const made = new std::vector<LaneSearch>{{"portable", 1, search_lanes_portable}};
    std::vector<LaneSearch>& searches = *made;
#if defined(__x86_64__)
    if (cpu_may_use("avx2")) searches.push_back({"avx2", 2, search_lanes_avx2});
    if (cpu_may_use("avx512f avx512bw avx512dq avx512vl"))
      searches.push_back({"avx512", 4, search_lanes_avx512});
#endif
    return made;
  }();
  return kSearches;
}

void encode_trellis_rows_fast(const TrellisCode& code, const FastTrellis& fast,
                              const float* weights, int64_t rows, int64_t cols, uint8_t* out,
                              const LaneSearch& search) {
  FastCoder coder(code, fast, search);
  std::vector<float> signs(static_cast<size_t>(cols));
  for (int64_t c = 0; c < cols; ++c) signs[static_cast<size_t>(c)] = rotation_sign(c);
  const auto block_bytes = [&](int64_t n) {
    return 2 + static_cast<size_t>(n) * static_cast<size_t>(code.code_bits()) / 8;
  };
  const int64_t whole = cols / kMaxBlock, tail = cols % kMaxBlock;
  const size_t row_bytes =
      static_cast<size_t>(whole) * block_bytes(kMaxBlock) + (tail != 0 ? block_bytes(tail) : 0);
  for (int64_t b = 0; b < whole + (tail != 0); ++b) {
    const int n = static_cast<int>(std::min<int64_t>(kMaxBlock, cols - b * kMaxBlock));
    for (int64_t r = 0; r < rows; r += kTogether) {
      const float* block[kTogether];
      uint8_t* to[kTogether];
      for (int i = 0; i < kTogether; ++i) {
        const int64_t row = std::min(r + i, rows - 1);
        block[i] = weights + row * cols + b * kMaxBlock;
        to[i] = out + static_cast<size_t>(row) * row_bytes +
                static_cast<size_t>(b) * block_bytes(kMaxBlock);
      }
      coder.encode(block, signs.data() + b * kMaxBlock, n,
                   static_cast<int>(std::min<int64_t>(kTogether, rows - r)), to);
    }
  }
}

}  // namespace hrun
