// Encoders of IQ3_XXS, IQ3_S and, through the rotation, of ITQ3_S.
#include "formats/iq3.h"

#include <vector>

#include "formats/itq3_s.h"
#include "formats/rotation.h"
#include "encode/encoders.h"
#include "encode/scale_search.h"

namespace hrun {
namespace {

// For each cell of the space of four magnitudes, the grid points that can be nearest to a point of
// the cell. Cell (c0, c1, c2, c3), 0 to 7 each, is the box of side `step` at c * step; larger
// magnitudes belong to the last cell.
class QuadIndex {
 public:
  QuadIndex(const uint32_t* grid, int size, float step) : size_(size), step_(step) {
    for (int k = 0; k < size; ++k)
      for (int i = 0; i < 4; ++i) points_.push_back(static_cast<float>((grid[k] >> (8 * i)) & 255));
    point_in_cell_.assign(4096, -1);
    for (int k = 0; k < size; ++k)
      point_in_cell_[static_cast<size_t>(cell_of(point(k)))] = static_cast<int16_t>(k);
    for (int cell = 0; cell < 4096; ++cell) {
      first_.push_back(fours_.size());
      list_candidates(cell);
    }
    first_.push_back(fours_.size());
    fours_.push_back({});  // so that the end of the last list can be named
  }

  // Index of the grid point that minimises sum_i importance_i (v_i - point_i)^2; a negative v
  // counts as 0 for the choice of candidates.
  int nearest(const float* v, const float* importance) const {
    const auto cell = static_cast<size_t>(cell_of(v));
    int best = 0;
    float best_distance = HUGE_VALF;
    for (const Four *four = &fours_[first_[cell]], *end = &fours_[first_[cell + 1]]; four != end;
         ++four) {
      float distance[4] = {};
      for (int i = 0; i < 4; ++i)
        for (int k = 0; k < 4; ++k) {
          const float e = v[i] - four->value[i][k];
          distance[k] += importance[i] * (e * e);
        }
      for (int k = 0; k < 4; ++k)
        if (distance[k] < best_distance) {
          best_distance = distance[k];
          best = four->point[k];
        }
    }
    return best;
  }

  const float* point(int k) const { return &points_[4 * static_cast<size_t>(k)]; }

  // Index of the grid point with these magnitudes, which must be one.
  int index_of(const int8_t* codes) const {
    float v[4];
    for (int i = 0; i < 4; ++i) v[i] = std::fabs(static_cast<float>(codes[i]));
    return point_in_cell_[static_cast<size_t>(cell_of(v))];
  }

 private:
  struct Four {
    float value[4][4];  // [coordinate][candidate]: four distances are computed side by side
    uint16_t point[4];
  };

  int cell_of(const float* v) const {
    int cell = 0;
    for (int i = 0; i < 4; ++i)
      cell |= static_cast<int>(std::clamp(v[i] / step_, 0.0f, 7.5f)) << (3 * i);
    return cell;
  }

  void list_candidates(int cell) {
    const float half = step_ / 2;
    float centre[4];
    for (int i = 0; i < 4; ++i)
      centre[i] = static_cast<float>((cell >> (3 * i)) & 7) * step_ + half;
    const auto distance = [&](int k) {
      float sum = 0;
      for (int i = 0; i < 4; ++i) sum += (centre[i] - point(k)[i]) * (centre[i] - point(k)[i]);
      return sum;
    };
    // Point k is out if some other point is nearer everywhere in the box.  The points near the
    // centre are the ones that can do that to others; trying the first few leaves hardly any
    // superfluous candidate.
    constexpr int kRivals = 6;
    std::array<std::pair<float, int>, kRivals> rivals;
    rivals.fill({HUGE_VALF, -1});
    for (int k = 0; k < size_; ++k)
      if (const float d = distance(k); d < rivals.back().first) {
        rivals.back() = {d, k};
        std::sort(rivals.begin(), rivals.end());
      }
    int listed = 0;
    for (int k = 0; k < size_; ++k) {
      const float d = distance(k);
      const bool beaten = std::any_of(rivals.begin(), rivals.end(), [&](const auto& rival) {
        float lead = d - rival.first;  // at the centre; it shrinks by at most `half` * 2
                                       // |difference| per coordinate
        for (int i = 0; i < 4; ++i)
          lead -= 2 * half * std::fabs(point(k)[i] - point(rival.second)[i]);
        return rival.second != k && lead > 0;
      });
      if (beaten) continue;
      if (listed % 4 == 0) fours_.push_back({});
      for (int lane = listed % 4; lane < 4;
           ++lane) {  // repeat the last one up to the end of its four
        for (int i = 0; i < 4; ++i) fours_.back().value[i][lane] = point(k)[i];
        fours_.back().point[lane] = static_cast<uint16_t>(k);
      }
      ++listed;
    }
  }

  int size_;
  float step_;
  std::vector<float> points_;           // 4 magnitudes each
  std::vector<int16_t> point_in_cell_;  // cell -> the point inside it, -1 if none
  std::vector<size_t> first_;           // cell -> its candidates in fours_
  std::vector<Four> fours_;
};

const QuadIndex& iq3_s_index() {
  // Never destroyed: at exit another thread may still use it.
  static const QuadIndex& index = *new QuadIndex(iq3_s_grid(), 512, 2.0f);
  return index;
}

const QuadIndex& iq3_xxs_index() {
  // Never destroyed: at exit another thread may still use it.
  static const QuadIndex& index = *new QuadIndex(iq3_xxs_grid(), 256, 8.0f);
  return index;
}

// Five trial scales and a fit reach what eleven do.  kLeast: weights of equal magnitude are all
// coded by the lowest level.
struct Iq3Trials {
  static constexpr bool kMirrored = false;
  static constexpr float kFirstTrial = 0.8f, kLastTrial = 1.2f;
  static constexpr int kTrials = 5;
};

struct Iq3sLevels : Iq3Trials {
  static constexpr float kReach = 15, kLeast = 1;
  template <int n>
  static void nearest(const float* x, const float* importance, float inverse, float* q) {
    const QuadIndex& index = iq3_s_index();
    for (int i = 0; i < n; i += 4) {
      float v[4];
      for (int k = 0; k < 4; ++k) v[k] = std::fabs(x[i + k] * inverse);
      const float* p = index.point(index.nearest(v, importance + i));
      for (int k = 0; k < 4; ++k) q[i + k] = std::copysign(p[k], x[i + k]);
    }
  }
};

struct Iq3xxsLevels : Iq3Trials {
  static constexpr float kReach = 62, kLeast = 4;
  template <int n>
  static void nearest(const float* x, const float* importance, float inverse, float* q) {
    const QuadIndex& index = iq3_xxs_index();
    for (int i = 0; i < n; i += 8) {
      // The number of minus signs must be even; else the weight that matters least is coded with
      // the wrong sign.
      float v[8], sign[8];
      int negatives = 0, weakest = 0;
      for (int k = 0; k < 8; ++k) {
        v[k] = std::fabs(x[i + k] * inverse);
        sign[k] = x[i + k] < 0 ? -1.0f : 1.0f;
        negatives += x[i + k] < 0;
        if (importance[i + k] * v[k] < importance[i + weakest] * v[weakest]) weakest = k;
      }
      if (negatives % 2) {
        v[weakest] = -v[weakest];
        sign[weakest] = -sign[weakest];
      }
      for (int half = 0; half < 8; half += 4) {
        const float* p = index.point(index.nearest(v + half, importance + i + half));
        for (int k = half; k < half + 4; ++k) q[i + k] = sign[k] * p[k - half];
      }
    }
  }
};

// Calls pack(view, block) for each block of a row of 256-wide blocks.
template <class Format, class Levels, class Pack>
void encode_blocks(const float* w, const float* importance, int64_t cols, uint8_t* out, Pack pack) {
  search::Encoded view;
  for (int64_t b = 0; b < cols; b += 256, out += Format::kBlockBytes) {
    search::scaled<Levels, search::ScaleSet<1, 31, 2>, 32>(
        search::Target(w + b, importance ? importance + b : nullptr, 256), view);
    memset(out, 0, Format::kBlockBytes);
    pack(view, out);
  }
}

}  // namespace

void encode_iq3_xxs(const float* w, const float* importance, int64_t cols, uint8_t* out) {
  encode_blocks<IQ3_XXS, Iq3xxsLevels>(
      w, importance, cols, out, [](const search::Encoded& view, uint8_t* block) {
        store_fp16(block, view.scale * 4);
        for (size_t k = 0; k < 64; ++k)
          block[2 + k] = static_cast<uint8_t>(iq3_xxs_index().index_of(&view.codes[4 * k]));
        for (size_t g = 0; g < 8; ++g) {
          auto word = static_cast<uint32_t>(view.group_scale[g] / 2) << 28;
          for (size_t i = 0; i < 32; ++i)  // the eighth sign is implied
            if (i % 8 != 7 && view.codes[32 * g + i] < 0) word |= 1u << (7 * (i / 8) + i % 8);
          memcpy(block + 66 + 4 * g, &word, 4);
        }
      });
}

void encode_iq3_s(const float* w, const float* importance, int64_t cols, uint8_t* out) {
  encode_blocks<IQ3_S, Iq3sLevels>(
      w, importance, cols, out, [](const search::Encoded& view, uint8_t* block) {
        const auto or_into = [block](size_t byte, int bits) {
          block[byte] = static_cast<uint8_t>(block[byte] | bits);
        };
        store_fp16(block, view.scale);
        for (size_t k = 0; k < 64; ++k) {
          const int point = iq3_s_index().index_of(&view.codes[4 * k]);
          block[2 + k] = static_cast<uint8_t>(point);
          or_into(66 + k / 8, (point >> 8) << (k % 8));
        }
        for (size_t i = 0; i < 256; ++i) or_into(74 + i / 8, (view.codes[i] < 0) << (i % 8));
        for (size_t g = 0; g < 8; ++g)
          or_into(106 + g / 2, (view.group_scale[g] / 2) << (4 * (g % 2)));
      });
}

void encode_itq3_s(const float* w, const float*, int64_t cols, uint8_t* out) {
  for (int64_t b = 0; b < cols; b += kRotationBlock, out += ITQ3_S::kBlockBytes) {
    float z[kRotationBlock];
    std::copy_n(w + b, kRotationBlock, z);
    rotate_block(z, b, kRotationBlock, false);
    encode_iq3_s(z, nullptr, kRotationBlock, out);
  }
}

}  // namespace hrun
