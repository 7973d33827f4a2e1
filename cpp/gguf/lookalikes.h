// Files that people hand to a GGUF reader by accident.
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace hrun::gguf {

// A sentence that says what a file is that does not start with "GGUF", and what to do about it.
std::string describe_lookalike(std::span<const uint8_t> data);

}  // namespace hrun::gguf
