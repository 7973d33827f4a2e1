// UTF-8 as the Unicode standard defines it: no overlong forms, no surrogates, nothing above
// U+10FFFF.
#pragma once

#include <cstddef>
#include <string_view>

namespace hrun {

// Bytes of the well-formed sequence at the start of `text` (1 to 4), or 0 if there is none.
size_t utf8_length(std::string_view text);

bool is_utf8(std::string_view text);

}  // namespace hrun
