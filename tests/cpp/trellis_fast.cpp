// The fast search: every instruction set writes the same bytes, its error is near that of the exact
// search, and blocks that are far from Gaussian come out as well as there.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "encode/encoders.h"
#include "encode/trellis_fast.h"
#include "formats/list.h"

namespace {

double error(const hrun::FormatInfo& format, const std::vector<uint8_t>& data,
             const std::vector<float>& weights, int64_t cols) {
  std::vector<float> decoded(static_cast<size_t>(cols));
  double error = 0, energy = 0;
  const size_t rows = weights.size() / static_cast<size_t>(cols);
  for (size_t r = 0; r < rows; ++r) {
    format.decode_row(data.data() + r * data.size() / rows, cols, decoded.data());
    for (size_t c = 0; c < decoded.size(); ++c) {
      const double w = weights[r * decoded.size() + c], e = static_cast<double>(decoded[c]) - w;
      error += e * e;
      energy += w * w;
    }
  }
  return error / energy;
}

bool check(const hrun::FormatInfo& format, int64_t rows, int64_t cols, double most) {
  const hrun::TrellisCode& code = hrun::find_encoder(format.id)->trellis();
  std::mt19937 random(static_cast<unsigned>(cols));
  std::normal_distribution<float> normal;
  std::vector<float> weights(static_cast<size_t>(rows * cols));
  for (float& w : weights) w = normal(random);
  std::vector<uint8_t> exact(static_cast<size_t>(rows) * format.row_bytes(cols)), first;
  for (int64_t r = 0; r < rows; ++r)
    hrun::find_encoder(format.id)->encode_row(
        weights.data() + r * cols, nullptr, cols,
        exact.data() + static_cast<size_t>(r) * format.row_bytes(cols));
  const double least = error(format, exact, weights, cols);
  bool ok = true;
  for (const hrun::LaneSearch& search : hrun::lane_searches()) {
    std::vector<uint8_t> data(exact.size());
    hrun::encode_trellis_rows_fast(code, hrun::fast_trellis(code), weights.data(), rows, cols,
                                   data.data(), search);
    if (first.empty()) first = data;
    const double found = error(format, data, weights, cols);
    const bool same = data == first, near = found <= most * least;
    std::printf("%s, %lld columns, %s: %.5f, exact %.5f%s%s\n", std::string(format.name).c_str(),
                static_cast<long long>(cols), std::string(search.name).c_str(), found, least,
                same ? "" : ", OTHER BYTES", near ? "" : ", TOO FAR");
    ok = ok && same && near;
  }
  return ok;
}

// Constant rows, single weights, zeros and the signs of the rotation: the error is no worse than
// half as much again as that of the exact search, or of a Gaussian block.
bool check_odd_blocks(const hrun::FormatInfo& format) {
  constexpr int64_t kCols = 288;
  bool ok = true;
  const hrun::TrellisCode& code = hrun::find_encoder(format.id)->trellis();
  for (int kind = 0; kind < 5; ++kind) {
    std::vector<float> row(kCols);
    for (int64_t c = 0; c < kCols; ++c)
      row[static_cast<size_t>(c)] =
          kind == 0   ? 65504.0f
          : kind == 1 ? 0.0f
          : kind == 2 ? (c == 77 ? 1.0f : 0.0f)
          : kind == 3 ? hrun::rotation_sign(c)
                      : (c % 100 == 0 ? 50.0f : 1e-3f * static_cast<float>(c % 7));
    std::vector<uint8_t> exact(format.row_bytes(kCols)), fast(exact.size());
    hrun::find_encoder(format.id)->encode_row(row.data(), nullptr, kCols, exact.data());
    hrun::encode_trellis_rows_fast(code, hrun::fast_trellis(code), row.data(), 1, kCols,
                                   fast.data());
    if (kind == 1)
      ok = ok && fast == exact;
    else
      ok = ok && error(format, fast, row, kCols) <=
                     1.5 * std::max(error(format, exact, row, kCols), code.error);
    if (!ok) {
      std::printf("%s: odd block %d, error %.5f, exact %.5f\n", std::string(format.name).c_str(),
                  kind, error(format, fast, row, kCols), error(format, exact, row, kCols));
      return false;
    }
  }
  return true;
}

}  // namespace

int main() {
  bool ok = true;
  for (const hrun::FormatInfo& format : hrun::formats()) {
    const hrun::Encoder* const encoder = hrun::find_encoder(format.id);
    if (!encoder || !encoder->trellis) continue;
    ok = check(format, 26, 1024, format.bits_per_weight() > 4 ? 1.08 : 1.04) && ok;
    ok = check(format, 27, 224, 1.12) && ok;  // tails only, rows no multiple of four
    ok = check(format, 3, 544, 1.12) && ok;
    ok = check_odd_blocks(format) && ok;
  }
  return ok ? 0 : 1;
}
