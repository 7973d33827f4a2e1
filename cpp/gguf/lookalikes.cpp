#include "gguf/lookalikes.h"

#include <algorithm>
#include <array>
#include <cctype>

#include "base/byte_span.h"
#include "base/error.h"

namespace hrun::gguf {
namespace {

struct Signature {
  std::string_view bytes;
  std::string_view sentence;
};

using namespace std::string_view_literals;

// Magic numbers at byte 0.  The old GGML ones are little-endian words, so the file shows them
// backwards.
constexpr Signature kSignatures[] = {
    {"PK\x03\x04"sv,
     "this is a zip archive (PyTorch saves its checkpoints so), not a GGUF file; convert the "
     "original model with hrun-convert"},
    {"\x80\x02"sv,
     "this is a Python pickle file, not a GGUF file; pickles can run code, use the safetensors "
     "version of the model"},
    {"\x80\x04"sv,
     "this is a Python pickle file, not a GGUF file; pickles can run code, use the safetensors "
     "version of the model"},
    {"\x7f"
     "ELF"sv,
     "this is an ELF program or library, not a GGUF file"},
    {"MZ"sv, "this is a Windows program, not a GGUF file"},
    {"\x1f\x8b"sv, "this is a gzip archive, not a GGUF file; unpack it first"},
    {"\x28\xb5\x2f\xfd"sv, "this is a zstd archive, not a GGUF file; unpack it first"},
    {"\xfd"
     "7zXZ"sv,
     "this is an xz archive, not a GGUF file; unpack it first"},
    {"lmgg"sv,
     "this is an old GGML file (ggml), a format that GGUF replaced; convert the original model "
     "again"},
    {"fmgg"sv,
     "this is an old GGML file (ggmf), a format that GGUF replaced; convert the original model "
     "again"},
    {"tjgg"sv,
     "this is an old GGML file (ggjt), a format that GGUF replaced; convert the original model "
     "again"},
    {"algg"sv, "this is an old GGML adapter (ggla), not a GGUF file"},
    {"version https://git-lfs"sv,
     "this is a Git LFS pointer, the model itself was not downloaded; run 'git lfs pull' or "
     "download the file again"},
    {"\x89HDF\r\n"sv, "this is an HDF5 file, not a GGUF file"},
};

bool starts_with(std::string_view text, std::string_view prefix) {
  return text.substr(0, prefix.size()) == prefix;
}

// A page that a server sent in place of the file, usually an error or a login form.
bool is_html(std::string_view text) {
  std::string head(text.substr(0, std::min<size_t>(text.size(), 256)));
  std::transform(head.begin(), head.end(), head.begin(),
                 [](unsigned char c) { return std::tolower(c); });
  const size_t first = head.find_first_not_of(" \t\r\n\xef\xbb\xbf");
  if (first == std::string::npos) return false;
  const std::string_view rest = std::string_view(head).substr(first);
  return starts_with(rest, "<!doctype") || starts_with(rest, "<html") ||
         starts_with(rest, "<?xml") || starts_with(rest, "<head");
}

// Its first bytes are printing ASCII, spaces and line ends.
bool is_text(std::string_view text) {
  const std::string_view head = text.substr(0, std::min<size_t>(text.size(), 512));
  return head.size() >= 4 && std::all_of(head.begin(), head.end(), [](unsigned char c) {
           return (c >= 32 && c < 127) || c == '\n' || c == '\r' || c == '\t';
         });
}

// A length of 8 bytes, then that many bytes of JSON.
bool is_safetensors(std::span<const uint8_t> data) {
  const ByteSpan bytes(data);
  const std::optional<uint64_t> header = bytes.read_at<uint64_t>(0);
  return header && *header >= 2 && *header < 100'000'000 &&
         bytes.read_at<uint8_t>(8) == uint8_t{'{'};
}

}  // namespace

std::string describe_lookalike(std::span<const uint8_t> data) {
  const std::string_view text = as_text(data);
  for (const Signature& s : kSignatures)
    if (starts_with(text, s.bytes)) return std::string(s.sentence);
  if (is_html(text))
    return "this is an HTML page, not a GGUF file: the server sent a page in place of the model; "
           "download it again";
  if (is_safetensors(data))
    return "this is a safetensors file, not a GGUF file; convert its folder with hrun-convert";
  if (starts_with(text, "FUGG"))
    return "not a GGUF file: the magic is byte-swapped (46 55 47 47, expected 47 47 55 46)";
  if (is_text(text)) return "this is a text file, not a GGUF file";
  static constexpr char kHex[] = "0123456789abcdef";
  std::string hex;
  for (size_t i = 0; i < std::min<size_t>(4, data.size()); ++i) {
    if (i) hex += ' ';
    hex += kHex[data[i] >> 4];
    hex += kHex[data[i] & 15];
  }
  return message("not a GGUF file (starts with {}, expected 47 47 55 46, \"GGUF\")", hex);
}

}  // namespace hrun::gguf
