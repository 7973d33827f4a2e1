// The products of a warpgroup that one thread takes part in (wgmma).
//
// A product reads b when it is asked for or when it is waited for, as is drawn.  Meanwhile its sums
// are spoilt, so that code which reads them early gets wrong numbers, and code which changes them,
// or a fragment of a, is reported.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace hrun::gpu::emulation {

// The place in shared memory of byte `k` of column `n`, 0 <= k < 32, of a K-major matrix of bytes;
// null and a reason where the descriptor is wrong.  Its fields: address, bytes from one sixteen of
// a column to the next (without a swizzle), bytes from eight columns to the next eight, swizzle.
struct Place {
  size_t at;
  const char* wrong;
};
Place place_of(uint64_t descriptor, int n, int k);

class Products {
 public:
  using Rows = int8_t[2][32];  // of a, those of the thread's sums
  // What the thread needs of the machine.
  class Memory {
   public:
    // Sixteen bytes that products may read; null, and a reason, where they may not.
    virtual const int8_t* sixteen(uint64_t descriptor, int n, int k, const char*& wrong) = 0;

   protected:
    ~Memory() = default;
  };

  // All return what is wrong, or null.  c: n times four sums.
  void begin(int* c, int n, const uint32_t (&a)[4]);
  const char* multiply(Memory& memory, int lane, int* c, int n, const uint32_t (&a)[4],
                       const Rows& rows, uint64_t b, bool adds, bool reads_now);
  void commit() { ++groups_; }
  const char* wait(Memory& memory, int lane, int newest);
  bool under_way() const { return !products_.empty(); }
  void clear() { *this = {}; }

 private:
  struct Product {
    int group;
    int* c;
    int n;
    const uint32_t* a;
    uint32_t words[4];
    Rows rows;
    uint64_t b;
    bool done;
  };
  struct Sums {
    int* c;
    std::vector<uint32_t> values;
    int under_way;
  };
  struct Begun {
    const void* at;
    std::vector<uint32_t> words;
  };
  bool has_begun(const void* at, size_t n_words) const;
  void note(const void* at, size_t n_words);
  Sums* sums_of(const int* c);
  const char* read(Memory& memory, int lane, Product& p);

  int groups_ = 0;
  std::vector<Product> products_;  // in the order of the code
  std::vector<Sums> sums_;
  std::vector<Begun> begun_;
};

}  // namespace hrun::gpu::emulation
