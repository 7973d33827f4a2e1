#include "cuda/emulation/products.h"

#include <algorithm>
#include <cstring>

namespace hrun::gpu::emulation {
namespace {

constexpr uint32_t kSpoilt = 0x5eadbeef;

}  // namespace

Place place_of(uint64_t descriptor, int n, int k) {
  const auto field = [&](int bit) { return static_cast<size_t>(descriptor >> bit & 0x3fff) << 4; };
  const size_t start = field(0), leading = field(16), stride = field(32);
  const uint64_t mode = descriptor >> 62;  // none, 128, 64 or 32 bytes
  const int log2_pieces = mode == 0 ? 0 : 4 - static_cast<int>(mode);
  const size_t mask = (size_t{1} << log2_pieces) - 1, column_bytes = size_t{16} << log2_pieces;
  if ((descriptor >> 49 & 7) != 0 || (start >> 7 & mask) != 0 ||
      (mask != 0 && stride % (8 * column_bytes) != 0))
    return {0, "a matrix whose swizzled bytes do not begin where the pattern does"};
  const auto column = static_cast<size_t>(n), byte = static_cast<size_t>(k);
  const size_t along = mode == 0 ? byte / 16 * leading + byte % 16 : byte;
  const size_t at = start + column / 8 * stride + column % 8 * column_bytes + along;
  return {at ^ ((at >> 7 & mask) << 4), nullptr};
}

bool Products::has_begun(const void* at, size_t n_words) const {
  return std::any_of(begun_.begin(), begun_.end(), [&](const Begun& b) {
    return b.at == at && b.words.size() == n_words &&
           std::memcmp(at, b.words.data(), n_words * 4) == 0;
  });
}

void Products::note(const void* at, size_t n_words) {
  std::erase_if(begun_, [&](const Begun& b) { return b.at == at; });
  Begun& b = begun_.emplace_back(Begun{at, std::vector<uint32_t>(n_words)});
  std::memcpy(b.words.data(), at, n_words * 4);
}

Products::Sums* Products::sums_of(const int* c) {
  const auto found =
      std::find_if(sums_.begin(), sums_.end(), [&](const Sums& s) { return s.c == c; });
  return found == sums_.end() ? nullptr : &*found;
}

void Products::begin(int* c, int n, const uint32_t (&a)[4]) {
  if (!sums_of(c)) note(c, static_cast<size_t>(4 * n));
  note(a, 4);
}

const char* Products::multiply(Memory& memory, int lane, int* c, int n, const uint32_t (&a)[4],
                               const Rows& rows, uint64_t b, bool adds, bool reads_now) {
  const auto n_sums = static_cast<size_t>(4 * n);
  Sums* sums = sums_of(c);
  if (!has_begun(a, 4) || (!sums && !has_begun(c, n_sums)))
    return "a product of registers that were written after begin_products(), or without it";
  if (!sums) {
    sums = &sums_.emplace_back(Sums{c, std::vector<uint32_t>(n_sums), 0});
    std::memcpy(sums->values.data(), c, n_sums * 4);
  }
  if (sums->values.size() != n_sums) return "products of two shapes with the same sums";
  if (!adds) {
    if (sums->under_way > 0) return "sums that begin anew while products are under way";
    std::fill(sums->values.begin(), sums->values.end(), 0u);
  }
  std::fill(c, c + n_sums, static_cast<int>(kSpoilt));
  ++sums->under_way;
  Product& p = products_.emplace_back(Product{groups_, c, n, a, {}, {}, b, false});
  std::memcpy(p.words, a, sizeof p.words);
  std::memcpy(p.rows, rows, sizeof p.rows);
  return reads_now ? read(memory, lane, p) : nullptr;
}

const char* Products::read(Memory& memory, int lane, Product& p) {
  uint32_t* to = sums_of(p.c)->values.data();
  for (int tile = 0; tile < p.n; ++tile, to += 4)
    for (int odd = 0; odd < 2; ++odd)
      for (int k = 0; k < 32; k += 16) {
        const char* wrong = nullptr;
        const int8_t* const b = memory.sixteen(p.b, 8 * tile + 2 * (lane % 4) + odd, k, wrong);
        if (!b) return wrong;
        for (int h = 0; h < 2; ++h) {
          int sum = 0;
          for (int i = 0; i < 16; ++i) sum += p.rows[h][k + i] * b[i];
          to[2 * h + odd] += static_cast<uint32_t>(sum);
        }
      }
  p.done = true;
  return nullptr;
}

const char* Products::wait(Memory& memory, int lane, int newest) {
  const auto due = [&](const Product& p) { return p.group < groups_ - newest; };
  for (Product& p : products_) {
    if (!due(p)) continue;
    if (std::memcmp(p.a, p.words, sizeof p.words) != 0)
      return "a fragment that was changed before its product was waited for";
    if (!p.done)
      if (const char* const wrong = read(memory, lane, p)) return wrong;
    Sums& sums = *sums_of(p.c);
    if (--sums.under_way > 0) continue;
    if (!std::all_of(p.c, p.c + sums.values.size(),
                     [](int v) { return v == static_cast<int>(kSpoilt); }))
      return "sums that were changed before their product was waited for";
    std::memcpy(p.c, sums.values.data(), sums.values.size() * 4);
    std::erase_if(begun_, [&](const Begun& b) { return b.at == p.c; });
    std::erase_if(sums_, [&](const Sums& s) { return s.c == p.c; });
  }
  std::erase_if(products_, due);
  return nullptr;
}

}  // namespace hrun::gpu::emulation
