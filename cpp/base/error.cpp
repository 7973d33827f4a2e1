#include "base/error.h"

#include <cstdint>

#include "base/utf8.h"

namespace hrun {

std::string printable(std::string_view text, size_t limit) {
  static constexpr char kHex[] = "0123456789abcdef";
  std::string out;
  while (!text.empty()) {
    if (out.size() >= limit) return out + "...";
    const size_t n = utf8_length(text);
    const auto b = static_cast<uint8_t>(text[0]);
    // C1 control characters (U+0080 to U+009F) move cursors on some terminals.
    const bool control =
        b < 0x20 || b == 0x7f || (n == 2 && b == 0xc2 && static_cast<uint8_t>(text[1]) < 0xa0);
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
