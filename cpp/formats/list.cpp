#include "formats/list.h"

#include <algorithm>
#include <cctype>
#include <string>

namespace hrun {
namespace {

template <AnyFormat F>
void decode_own_basis(const uint8_t* row, int64_t cols, float* out) {
  for (int64_t b = 0; b < n_blocks<F>(cols); ++b) {
    const int n = block_length<F>(cols, b);
    const uint8_t* block = row + static_cast<size_t>(b) * F::kBlockBytes;
    if constexpr (QuantizedFormat<F>) {
      IntBlock ints;
      F::unpack(block, n, ints);
      to_floats<F>(ints, n, out + b * F::kBlockValues);
    } else if constexpr (DecodedFormat<F>) {
      F::decode(block, out + b * F::kBlockValues);
    } else {
      out[b] = F::widen(block);
    }
  }
}

template <AnyFormat F>
void decode(const uint8_t* row, int64_t cols, float* out) {
  decode_own_basis<F>(row, cols, out);
  if constexpr (is_rotated(F::kInputForm))
    for (int64_t first = 0; first < cols; first += kRotationBlock)
      unrotate_block(out + first, first,
                     static_cast<int>(std::min<int64_t>(kRotationBlock, cols - first)),
                     F::kInputForm == InputForm::kRotatedSigned);
}

template <AnyFormat F>
constexpr FormatInfo describe() {
  FormatInfo info{};
  info.id = F::kId;
  info.name = F::kName;
  info.block_values = F::kBlockValues;
  info.block_bytes = F::kBlockBytes;
  info.input_form = F::kInputForm;
  info.version = 1;
  if constexpr (requires { F::kVersion; }) info.version = F::kVersion;
  if constexpr (QuantizedFormat<F>) info.has_offset = F::kHasOffset;
  info.is_float = FloatFormat<F>;
  info.row_ok = [](int64_t cols) { return F::row_ok(cols); };
  info.row_bytes = [](int64_t cols) { return F::row_bytes(cols); };
  info.decode_row = decode<F>;
  info.decode_row_own_basis = decode_own_basis<F>;
  return info;
}

template <AnyFormat... F>
constexpr std::array<FormatInfo, sizeof...(F)> describe_all(FormatList<F...>) {
  return {describe<F>()...};
}

constexpr auto kTable = describe_all(Formats{});

constexpr bool ids_are_unique() {
  for (size_t i = 0; i < kTable.size(); ++i)
    for (size_t j = 0; j < i; ++j)
      if (kTable[i].id == kTable[j].id || kTable[i].name == kTable[j].name) return false;
  return true;
}
static_assert(ids_are_unique(), "two formats share an id or a name");

}  // namespace

std::span<const FormatInfo> formats() { return kTable; }

const FormatInfo* find_format(FormatId id) {
  for (const FormatInfo& f : kTable)
    if (f.id == id) return &f;
  return nullptr;
}

const FormatInfo* find_format(std::string_view name) {
  const auto same = [&](std::string_view other) {
    return std::equal(
        name.begin(), name.end(), other.begin(), other.end(),
        [](unsigned char a, unsigned char b) { return std::tolower(a) == std::tolower(b); });
  };
  for (const FormatInfo& f : kTable)
    if (same(f.name)) return &f;
  return nullptr;
}

std::string format_names() {
  std::string out;
  for (const FormatInfo& f : kTable) out += (out.empty() ? "" : ", ") + std::string(f.name);
  return out;
}

}  // namespace hrun
