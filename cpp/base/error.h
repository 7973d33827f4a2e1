// The typed errors of hrun and the formatter of their messages.
//
// A message names the file, the key, tensor or byte offset, what was found and what was expected.
// Each class becomes a Python exception of the same name in bindings/errors.cpp.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace hrun {

// Replaces each "{}" by the next argument, printed by operator<<.
template <class... Args>
std::string message(std::string_view pattern, const Args&... args) {
  std::ostringstream out;
  [[maybe_unused]] const auto put = [&](const auto& arg) {
    const size_t at = pattern.find("{}");
    out << pattern.substr(0, at);
    if (at == std::string_view::npos) {
      pattern = {};
      return;
    }
    out << arg;
    pattern.remove_prefix(at + 2);
  };
  (put(args), ...);
  out << pattern;
  return out.str();
}

// Text from a file as it may be shown on a terminal: control bytes and invalid UTF-8 escaped, at
// most `limit` bytes.
std::string printable(std::string_view text, size_t limit = 128);

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// One distinct class per tag; the message is a message() pattern and its arguments.
template <class Tag>
class TypedError : public Error {
 public:
  template <class... Args>
  explicit TypedError(std::string_view pattern, const Args&... args)
      : Error(message(pattern, args...)) {}
};

using ModelFileError = TypedError<struct ModelFileTag>;  // a file that is not what it should be
using UnsupportedModelError =
    TypedError<struct UnsupportedModelTag>;  // a sound file that asks for what hrun cannot do
using ContextOverflowError =
    TypedError<struct ContextOverflowTag>;  // more tokens than the context holds
using OutOfMemoryError = TypedError<struct OutOfMemoryTag>;
using DeviceError =
    TypedError<struct DeviceTag>;  // a device, tier or backend that is absent or failed
using ConversionError = TypedError<struct ConversionTag>;
using GenerationError = TypedError<struct GenerationTag>;  // logits that are not finite
using ArgumentError = TypedError<struct ArgumentTag>;      // a ValueError in Python
using QueueFullError = TypedError<struct QueueFullTag>;    // too many requests wait already
using Cancelled = TypedError<struct CancelledTag>;         // the caller asked to stop

}  // namespace hrun
