// Names of GGML type ids, for files whose tensors hrun cannot read.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace hrun::gguf {

// "'iq2_xxs' (id 16)", "4 ('q4_2'), which was removed from GGUF", "4711, which GGML does not
// define".
struct UnreadFormat {
  enum class Kind { known, removed, undefined } kind;
  std::string name;  // empty when undefined
};
UnreadFormat find_unread_format(uint32_t id);

}  // namespace hrun::gguf
