// A model in several files: the tensors of the others join those of the first.
#include <algorithm>
#include <filesystem>
#include <numeric>
#include <optional>

#include "base/byte_span.h"
#include "base/error.h"
#include "gguf/state.h"

namespace hrun::gguf {
namespace {

constexpr uint64_t kMaxParts = 99'999;  // five digits
constexpr std::string_view kMagicBytes = "GGUF";

std::string part_suffix(uint64_t number, uint64_t count) {
  const auto five = [](uint64_t n) {
    std::string digits = std::to_string(n);
    return std::string(digits.size() < 5 ? 5 - digits.size() : 0, '0') + digits;
  };
  return "-" + five(number) + "-of-" + five(count) + ".gguf";
}

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

// The place where another GGUF file begins behind the last tensor: parts were joined byte by byte.
std::optional<uint64_t> joined_at(const File::State& state) {
  const ByteSpan bytes(state.bytes);
  const uint64_t end = state.data_end;
  for (const uint64_t at : {end, checked_align(end, state.alignment).value_or(end)})
    if (const auto found = bytes.at(at, kMagicBytes.size());
        found && as_text(*found) == kMagicBytes)
      return at;
  return std::nullopt;
}

}  // namespace

uint64_t File::require_first_part() const {
  const uint64_t count = get_uint_or("split.count", 0);
  const uint64_t index = get_uint_or("split.no", 0);
  if (index >= std::max<uint64_t>(count, 1))
    fail("key 'split.no' is {}, must be below {}, the number of files ('split.count')", index,
         std::max<uint64_t>(count, 1));
  if (count > kMaxParts) fail("key 'split.count' is {}, must be at most {}", count, kMaxParts);
  if (index == 0) return std::max<uint64_t>(count, 1);
  const std::string here = part_suffix(index + 1, count), first = part_suffix(1, count);
  const std::string name = std::filesystem::path(path()).filename().string();
  if (ends_with(name, here))
    fail("it is part {} of a model in {} files; open the first, '{}'", index + 1, count,
         printable(name.substr(0, name.size() - here.size()) + first, kShownPathBytes));
  fail("it is part {} of a model in {} files; open the first, whose name ends in '{}'", index + 1,
       count, first);
}

File File::open_model(const std::string& path) {
  File first = open(path);
  const uint64_t count = first.require_first_part();
  if (count == 1) return first;
  const std::string suffix = part_suffix(1, count);
  const auto joined = joined_at(*first.state_);
  const auto fail_joined = [&](uint64_t at) {
    first.fail(
        "it is the first of {} files with others behind it, the second from byte {} on; such "
        "parts are not joined byte by byte: give each its own file again, NAME{} and so on, and "
        "open the first",
        count, at, suffix);
  };
  if (!ends_with(path, suffix)) {
    if (joined) fail_joined(*joined);
    first.fail("it is part 1 of a model in {} files, so its name must end in '{}'", count, suffix);
  }
  const std::string stem = path.substr(0, path.size() - suffix.size());

  State& state = *first.state_;
  std::error_code error;
  const auto folder = std::filesystem::canonical(path, error).parent_path();
  for (uint64_t part = 2; part <= count; ++part) {
    const std::string name = stem + part_suffix(part, count);
    const auto real = std::filesystem::canonical(name, error);
    if (error && joined) fail_joined(*joined);
    if (error)
      first.fail(
          "it is the first of {} files, and '{}' is not beside it; download all of them into one "
          "folder",
          count, printable(std::filesystem::path(name).filename().string(), kShownPathBytes));
    if (real.parent_path() != folder)
      first.fail("its part '{}' is a link that leaves the folder",
                 printable(std::filesystem::path(name).filename().string(), kShownPathBytes));
    File other = open(name);
    if (other.get_uint_or("split.count", 0) != count ||
        other.get_uint_or("split.no", 0) != part - 1)
      other.fail("key 'split.no' is {} and 'split.count' {}, expected {} and {}",
                 other.get_uint_or("split.no", 0), other.get_uint_or("split.count", 0), part - 1,
                 count);
    constexpr std::string_view kArchitecture = "general.architecture";
    if (other.find(kArchitecture) && first.find(kArchitecture) &&
        other.get_string(kArchitecture) != first.get_string(kArchitecture))
      other.fail("key '{}' is '{}', the first part's is '{}'", kArchitecture,
                 printable(other.get_string(kArchitecture)),
                 printable(first.get_string(kArchitecture)));
    for (TensorInfo tensor : other.state_->tensors) {
      tensor.part = static_cast<uint32_t>(part - 1);
      state.tensors.push_back(tensor);
    }
    state.parts.push_back(std::move(other));
  }
  auto& order = state.tensors_by_name;
  order.resize(state.tensors.size());
  std::iota(order.begin(), order.end(), 0u);
  std::sort(order.begin(), order.end(),
            [&](uint32_t a, uint32_t b) { return state.tensors[a].name < state.tensors[b].name; });
  for (size_t k = 1; k < order.size(); ++k)
    if (state.tensors[order[k - 1]].name == state.tensors[order[k]].name)
      first.fail("tensor '{}' is in two of the {} files", printable(state.tensors[order[k]].name),
                 count);
  if (const uint64_t total = first.get_uint_or("split.tensors.count", state.tensors.size());
      total != state.tensors.size())
    first.fail("key 'split.tensors.count' is {}, the {} files hold {} tensors", total, count,
               state.tensors.size());
  return first;
}

}  // namespace hrun::gguf
