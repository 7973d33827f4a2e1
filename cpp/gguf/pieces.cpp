#include "gguf/pieces.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <optional>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "gguf/state.h"

namespace hrun::gguf {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kEnd = ".gguf";
constexpr size_t kMostNamed = 8;  // pieces that a message names one by one

// Longest first: ".part-" is no ".part" with a number of "-".
constexpr std::array<std::string_view, 11> kMarks = {
    "-split-", ".split-", ".part-", ".part_", ".part.", "-part-",
    ".split",  ".part",   "-part",  ".",      "-",
};

bool all_of(std::string_view text, bool (*is)(char)) {
  return !text.empty() && std::all_of(text.begin(), text.end(), is);
}
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_small_letter(char c) { return c >= 'a' && c <= 'z'; }

// The number of a piece: digits, digits-of-digits as in part1of3, a letter, or aa, ab, ... as
// split(1) has them.
bool is_number(std::string_view text, bool letters) {
  if (all_of(text, is_digit)) return text.size() <= 5;
  if (letters && all_of(text, is_small_letter))
    return text.size() == 1 || (text.size() == 2 && text[0] == 'a');
  const size_t of = text.find("of");
  if (of == std::string_view::npos) return false;
  std::string_view number = text.substr(0, of), count = text.substr(of + 2);
  if (number.ends_with('-') || number.ends_with('_')) number.remove_suffix(1);
  if (count.starts_with('-') || count.starts_with('_')) count.remove_prefix(1);
  return is_number(number, false) && all_of(count, is_digit);
}

// "model.gguf.part" of "model.gguf.part12": all before the number.
std::optional<std::string> before_number(std::string_view name) {
  const size_t at = name.rfind(kEnd);
  if (at == std::string_view::npos || at == 0) return std::nullopt;
  const std::string_view tail = name.substr(at + kEnd.size());
  for (const std::string_view mark : kMarks)
    if (tail.starts_with(mark) && is_number(tail.substr(mark.size()), mark.size() > 1))
      return std::string(name.substr(0, at + kEnd.size() + mark.size()));
  return std::nullopt;
}

std::string shown(std::string_view name) { return "'" + printable(name, kShownPathBytes) + "'"; }

}  // namespace

std::string describe_piece(const std::string& path) {
  const fs::path file(path);
  const std::string name = file.filename().string();
  const auto start = before_number(name);
  if (!start) return {};
  const std::string whole = start->substr(0, start->rfind(kEnd) + kEnd.size());
  std::error_code error;
  const fs::path folder = file.parent_path().empty() ? fs::path(".") : file.parent_path();
  if (fs::exists(folder / whole, error))
    return message("it has the name of a piece of {}, which is beside it: open that", shown(whole));
  std::vector<std::string> pieces;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    const std::string other = at->path().filename().string();
    if (before_number(other) == start) pieces.push_back(other);
  }
  if (pieces.size() < 2)
    return message(
        "it has the name of a piece of {}, and no other piece is beside it; download "
        "all of them into one folder and join them with cat",
        shown(whole));
  // part2 comes before part10.
  std::sort(pieces.begin(), pieces.end(), [](const std::string& a, const std::string& b) {
    return a.size() != b.size() ? a.size() < b.size() : a < b;
  });
  std::string names;
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (i >= kMostNamed - 1 && i + 1 < pieces.size()) {
      if (i == kMostNamed - 1) names += " ...";
      continue;
    }
    names += ' ';
    names += printable(pieces[i], kShownPathBytes);
  }
  return message("it has the name of one of {} pieces of {}; join them in order: cat{} > {}",
                 pieces.size(), shown(whole), names, printable(whole, kShownPathBytes));
}

}  // namespace hrun::gguf
