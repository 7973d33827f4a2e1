#include "base/error.h"

#include <cstdint>

namespace hrun {
namespace {

// Length of the valid UTF-8 sequence at the start of `text` (1 to 4), or 0.
size_t utf8_length(std::string_view text) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<uint8_t>(text[i]) : 0u; };
  const auto tail = [&](size_t i) { return (byte(i) & 0xc0u) == 0x80u; };
  const unsigned b = byte(0);
  if (b < 0x80) return 1;
  if (b >= 0xc2 && b < 0xe0) return tail(1) ? 2 : 0;
  if (b >= 0xe0 && b < 0xf0) {
    if (!tail(1) || !tail(2)) return 0;
    if (b == 0xe0 && byte(1) < 0xa0) return 0;
    if (b == 0xed && byte(1) >= 0xa0) return 0;
    return 3;
  }
  if (b >= 0xf0 && b < 0xf5) {
    if (!tail(1) || !tail(2) || !tail(3)) return 0;
    if (b == 0xf0 && byte(1) < 0x90) return 0;
    if (b == 0xf4 && byte(1) >= 0x90) return 0;
    return 4;
  }
  return 0;
}

}  // namespace

std::string printable(std::string_view text, size_t limit) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string out;
  while (!text.empty()) {
    if (out.size() >= limit) return out + "...";
    const size_t n = utf8_length(text);
    const auto b = static_cast<uint8_t>(text[0]);
    // C1 control characters (U+0080 to U+009F) move cursors on some terminals.
    const bool control = b < 0x20 || b == 0x7f || (n == 2 && b == 0xc2 && static_cast<uint8_t>(text[1]) < 0xa0);
    if (n == 0 || control) {
      const size_t bytes = n == 2 ? 2 : 1;
      for (size_t i = 0; i < bytes; ++i) {
        const auto c = static_cast<uint8_t>(text[i]);
        out += "\\x";
        out += kHex[c >> 4];
        out += kHex[c & 15];
      }
      text.remove_prefix(bytes);
    } else {
      out.append(text.substr(0, n));
      text.remove_prefix(n);
    }
  }
  return out;
}

}  // namespace hrun
