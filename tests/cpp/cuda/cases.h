// The tests of device code share this: a count of failures, random numbers, arrays on the device.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/error.h"
#include "cuda/gpu.h"

namespace hrun::gpu {

inline bool is_set(const char* name) {
  const char* const text = std::getenv(name);
  return text && *text == '1';
}
// Has shared memory a weak order, or does a kernel start before those that it follows are done?
// Both are slow, and find a missing barrier or wait, which does not depend on values: a few cases
// of each kernel suffice.
inline bool weak_order() { return is_set("HRUN_EMULATED_WEAK"); }
inline bool starts_early() { return is_set("HRUN_EMULATED_EARLY"); }
inline bool few_cases() { return weak_order() || starts_early(); }

inline int failures = 0;
template <class... Args>
void expect(bool ok, std::string_view pattern, const Args&... args) {
  if (ok) return;
  if (++failures <= 20) std::printf("FAILED: %s\n", message(pattern, args...).c_str());
}

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15ull + 1) {
    for (int i = 0; i < 4; ++i) next();
  }
  uint32_t next() {
    state_ = state_ * 6364136223846793005ull + 1442695040888963407ull;
    return static_cast<uint32_t>(state_ >> 32);
  }
  int below(int n) {
    return static_cast<int>(static_cast<uint64_t>(next()) * static_cast<uint64_t>(n) >> 32);
  }
  float uniform() { return static_cast<float>(next() >> 8) * 0x1p-24f; }  // [0, 1)
  float normal() {
    float sum = -6;
    for (int i = 0; i < 12; ++i) sum += uniform();
    return sum;
  }
  std::vector<float> normals(size_t n, float scale = 1) {
    std::vector<float> v(n);
    for (float& x : v) x = scale * normal();
    return v;
  }

 private:
  uint64_t state_;
};

template <class T>
class OnDevice {
 public:
  OnDevice(Gpu& gpu, size_t n)
      : gpu_(gpu), n_(n), data_(static_cast<T*>(gpu.allocate(n * sizeof(T)))) {}
  OnDevice(Gpu& gpu, const std::vector<T>& values) : OnDevice(gpu, values.size()) {
    gpu.write(data_, values.data(), n_ * sizeof(T));
  }
  ~OnDevice() { gpu_.release(data_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  T* get() const { return data_; }
  std::vector<T> read() const {
    std::vector<T> values(n_);
    gpu_.read(values.data(), data_, n_ * sizeof(T));
    return values;
  }

 private:
  Gpu& gpu_;
  size_t n_;
  T* data_;
};

}  // namespace hrun::gpu
