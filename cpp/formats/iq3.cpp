// Encoders of IQ3_S and, through the rotation, of ITQ3_S.
#include "formats/iq3.h"

#include <vector>

#include "formats/itq3_s.h"
#include "formats/rotation.h"
#include "formats/scale_search.h"

namespace hrun {
namespace {

// For each cell of the space of four magnitudes, the grid points that can be nearest to a point of the cell.
// Cell (c0, c1, c2, c3), 0 to 7 each, is the box of side `step` at c * step; magnitudes beyond the last cell belong to it.
class QuadIndex {
 public:
  QuadIndex(const uint32_t* grid, int size, float step) : size_(size), step_(step) {
    for (int k = 0; k < size; ++k)
      for (int i = 0; i < 4; ++i) points_.push_back(static_cast<float>((grid[k] >> (8 * i)) & 255));
    point_of_digits_.assign(4096, -1);
    for (int k = 0; k < size; ++k) point_of_digits_[static_cast<size_t>(cell_of(&points_[4 * k]))] = static_cast<int16_t>(k);
    first_.push_back(0);
    for (int cell = 0; cell < 4096; ++cell) {
      list_candidates(cell);
      first_.push_back(static_cast<int>(candidates_.size()));
    }
  }

  // Index of the grid point that minimises sum_i importance_i (v_i - point_i)^2; v >= 0.
  int nearest(const float* v, const float* importance) const {
    const auto cell = static_cast<size_t>(cell_of(v));
    int best = 0;
    float best_distance = HUGE_VALF;
    for (int c = first_[cell]; c < first_[cell + 1]; ++c) {
      const float* p = point(candidates_[static_cast<size_t>(c)]);
      float distance = 0;
      for (int i = 0; i < 4; ++i) distance += importance[i] * (v[i] - p[i]) * (v[i] - p[i]);
      if (distance < best_distance) {
        best_distance = distance;
        best = candidates_[static_cast<size_t>(c)];
      }
    }
    return best;
  }

  const float* point(int k) const { return &points_[4 * static_cast<size_t>(k)]; }

  // Index of the grid point with these magnitudes, which must be one.
  int index_of(const int8_t* codes) const {
    float v[4];
    for (int i = 0; i < 4; ++i) v[i] = std::fabs(static_cast<float>(codes[i]));
    return point_of_digits_[static_cast<size_t>(cell_of(v))];
  }

 private:
  int cell_of(const float* v) const {
    int cell = 0;
    for (int i = 0; i < 4; ++i) cell |= static_cast<int>(std::min(v[i] / step_, 7.5f)) << (3 * i);
    return cell;
  }

  void list_candidates(int cell) {
    const float half = step_ / 2;
    float centre[4];
    for (int i = 0; i < 4; ++i) centre[i] = static_cast<float>((cell >> (3 * i)) & 7) * step_ + half;
    const auto distance = [&](int k) {
      float sum = 0;
      for (int i = 0; i < 4; ++i) sum += (centre[i] - point(k)[i]) * (centre[i] - point(k)[i]);
      return sum;
    };
    // Point k is out if some other point is nearer everywhere in the box.  The points near the centre are the ones that
    // can do that to others; trying the first few leaves hardly any superfluous candidate.
    constexpr int kRivals = 6;
    std::array<std::pair<float, int>, kRivals> rivals;
    rivals.fill({HUGE_VALF, -1});
    for (int k = 0; k < size_; ++k)
      if (const float d = distance(k); d < rivals.back().first) {
        rivals.back() = {d, k};
        std::sort(rivals.begin(), rivals.end());
      }
    for (int k = 0; k < size_; ++k) {
      const float d = distance(k);
      const bool beaten = std::any_of(rivals.begin(), rivals.end(), [&](const auto& rival) {
        float lead = d - rival.first;  // at the centre; it shrinks by at most `half` * 2 |difference| per coordinate
        for (int i = 0; i < 4; ++i) lead -= 2 * half * std::fabs(point(k)[i] - point(rival.second)[i]);
        return rival.second != k && lead > 0;
      });
      if (!beaten) candidates_.push_back(static_cast<uint16_t>(k));
    }
  }

  int size_;
  float step_;
  std::vector<float> points_;             // 4 magnitudes each
  std::vector<int16_t> point_of_digits_;  // cell -> the point inside it, -1 if none
  std::vector<int> first_;                // cell -> its candidates
  std::vector<uint16_t> candidates_;
};

const QuadIndex& iq3_s_index() {
  static const QuadIndex index(iq3_s_grid(), 512, 2.0f);
  return index;
}

struct Iq3sLevels {
  static constexpr float kReach = 15, kLeast = 1;  // kLeast: weights of equal magnitude are all coded 1
  static constexpr bool kMirrored = false;
  static constexpr float kFirstTrial = 0.8f, kLastTrial = 1.2f;
  static constexpr int kTrials = 11;
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

}  // namespace

void IQ3_S::encode_row(const float* w, const float* importance, int64_t cols, uint8_t* out) {
  const QuadIndex& index = iq3_s_index();
  for (int64_t b = 0; b < cols; b += 256, out += kBlockBytes) {
    search::Encoded block;
    search::scaled<Iq3sLevels, search::ScaleSet<1, 31, 2>, 32>(
        search::Target(w + b, importance ? importance + b : nullptr, 256), block);
    memset(out, 0, kBlockBytes);
    store_fp16(out, block.scale);
    for (int k = 0; k < 64; ++k) {
      const int point = index.index_of(&block.codes[4 * static_cast<size_t>(k)]);
      out[2 + k] = static_cast<uint8_t>(point);
      out[66 + k / 8] = static_cast<uint8_t>(out[66 + k / 8] | ((point >> 8) << (k % 8)));
    }
    for (int i = 0; i < 256; ++i)
      out[74 + i / 8] = static_cast<uint8_t>(out[74 + i / 8] | ((block.codes[static_cast<size_t>(i)] < 0) << (i % 8)));
    for (int g = 0; g < 8; ++g)
      out[106 + g / 2] = static_cast<uint8_t>(out[106 + g / 2] | ((block.group_scale[static_cast<size_t>(g)] / 2) << (4 * (g % 2))));
  }
}

void ITQ3_S::encode_row(const float* w, const float*, int64_t cols, uint8_t* out) {
  for (int64_t b = 0; b < cols; b += kRotationBlock, out += kBlockBytes) {
    float z[kRotationBlock];
    std::copy_n(w + b, kRotationBlock, z);
    rotate_block(z, b, kRotationBlock, false);
    IQ3_S::encode_row(z, nullptr, kRotationBlock, out);
  }
}

}  // namespace hrun
