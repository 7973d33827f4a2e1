// SipHash against the vectors of its authors (key 00 01 .. 0f, messages 00 01 02 ...) and those of
// CPython, whose hash of bytes with PYTHONHASHSEED=0 is SipHash-1-3 with an empty key.
#include "base/siphash.h"

#include <cstdio>
#include <string>

int main() {
  int failures = 0;
  const auto check = [&](bool ok, const char* what) {
    if (!ok) std::printf("failed: %s\n", what), ++failures;
  };
  std::string message;
  for (char c = 0; c < 15; ++c) message += c;
  const hrun::SipHashOf<2, 4> hash(0x0706050403020100, 0x0f0e0d0c0b0a0908);
  check(hash(message) == 0xa129ca6149be45e5, "SipHash-2-4 of 15 bytes");
  check(hash("") == 0x726fdb47dd0e0e31, "SipHash-2-4 of nothing");
  using hrun::Hash128;
  check(hash.hash128("") == Hash128{0xe6a825ba047f81a3, 0x930255c71472f66d},
        "SipHash-2-4-128 of nothing");
  check(hash.hash128(std::string(1, '\0')) == Hash128{0x44af996bd8c187da, 0x45fc229b11597634},
        "SipHash-2-4-128 of one byte");
  const hrun::SipHash empty_key(0, 0);
  check(static_cast<int64_t>(empty_key("hrun")) == -506816124641335481, "SipHash-1-3 of 4 bytes");
  check(static_cast<int64_t>(empty_key("sixty-four positions of one page")) == -6972771167085290162,
        "SipHash-1-3 of 32 bytes");
  check(hrun::SipHash()("hrun") != hrun::SipHash()("hrun"), "keys are fresh");
  return failures == 0 ? 0 : 1;
}
