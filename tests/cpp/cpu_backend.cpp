// Several threads on one CPU backend: results equal those of one thread.  The caller's
// floating-point mode does not matter.  Requests for too much memory are refused.  Also under TSan.
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "devices/registry.h"
#include "encode/encoders.h"
#include "formats/list.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace {

int failures = 0;
void check(bool ok, const char* what) {
  if (ok) return;
  ++failures;
  std::printf("failed: %s\n", what);
}

constexpr int64_t kRows = 48, kCols = 512, kTokens = 40;

std::vector<float> values(size_t n, unsigned seed) {
  std::vector<float> out(n);
  for (float& v : out) {
    seed = seed * 1664525u + 1013904223u;
    v = static_cast<float>(static_cast<int>(seed >> 8) - (1 << 23)) * 0x1p-23f;
  }
  return out;
}

struct Matrix {
  std::vector<uint8_t> bytes;
  std::unique_ptr<hrun::DeviceTensor> tensor;
};

Matrix matrix(hrun::Backend& backend, std::string_view format) {
  const hrun::FormatInfo& f = *hrun::find_format(format);
  const std::vector<float> w = values(kRows * kCols, 7);
  Matrix m;
  m.bytes.resize(f.row_bytes(kCols) * kRows);
  for (int64_t r = 0; r < kRows; ++r)
    hrun::find_encoder(f.id)->encode_row(
        w.data() + r * kCols, nullptr, kCols,
        m.bytes.data() + static_cast<size_t>(r) * f.row_bytes(kCols));
  m.tensor = backend.upload({f.id, kRows, kCols, f.row_bytes(kCols), m.bytes.data(), "test"});
  return m;
}

std::vector<float> multiply(hrun::Backend& backend, const Matrix& a, const Matrix& b,
                            unsigned seed) {
  std::vector<float> x = values(kTokens * kCols, seed), y(2 * kTokens * kRows);
  const hrun::FloatView ya{y.data(), kTokens, kRows, kRows},
      yb{y.data() + kTokens * kRows, kTokens, kRows, kRows};
  const hrun::MatmulTarget targets[] = {{a.tensor.get(), ya}, {b.tensor.get(), yb}};
  backend.matmul(targets, hrun::FloatView{x.data(), kTokens, kCols, kCols});
  backend.silu_mul(ya, yb, ya);
  return y;
}

template <class Error, class Function>
std::string message_of(Function&& f) {
  try {
    f();
  } catch (const Error& e) { return e.what(); }
  return {};
}

}  // namespace

int main() {
  const auto backend = hrun::make_backend({.device = "cpu", .n_threads = 2});
  check(backend->n_threads() == 2, "two threads");
  check(backend->description().find("cpu") == 0, "description");
  const Matrix rotated = matrix(*backend, "rtq3"), plain = matrix(*backend, "q8_0");

  const std::vector<float> want = multiply(*backend, rotated, plain, 1),
                           other = multiply(*backend, plain, rotated, 2);
  std::vector<std::thread> threads;
  std::vector<int> wrong(4);
  for (size_t c = 0; c < wrong.size(); ++c)
    threads.emplace_back([&, c] {
      for (int i = 0; i < 20; ++i) {
        wrong[c] += multiply(*backend, rotated, plain, 1) != want;
        wrong[c] += multiply(*backend, plain, rotated, 2) != other;
      }
    });
  for (auto& t : threads) t.join();
  for (int w : wrong) check(w == 0, "threads that share a backend get what one thread gets");

#if defined(__x86_64__)
  // A caller that flushes subnormals and rounds up: rows of subnormal weights and all else give the
  // same bits.
  std::vector<float> w = values(kRows * kCols, 3);
  for (float& v : w) v *= 0x1p-130f;
  const auto subnormal = [&] {
    std::vector<float> x = values(kTokens * kCols, 4), y(kTokens * kRows);
    const auto tensor = backend->upload({hrun::F32::kId, kRows, kCols, kCols * 4,
                                         reinterpret_cast<const uint8_t*>(w.data()), "test"});
    const hrun::MatmulTarget target{tensor.get(), {y.data(), kTokens, kRows, kRows}};
    backend->matmul({&target, 1}, hrun::FloatView{x.data(), kTokens, kCols, kCols});
    return y;
  };
  const std::vector<float> gradual = subnormal();
  const unsigned mode = _mm_getcsr();
  constexpr unsigned kFlushAndRoundUp = 0x1f80 | 0x8040 | 0x4000;
  _mm_setcsr(kFlushAndRoundUp);
  const std::vector<float> flushed = multiply(*backend, rotated, plain, 1),
                           flushed_subnormal = subnormal();
  const unsigned after = _mm_getcsr();
  _mm_setcsr(mode);
  check(flushed == want && flushed_subnormal == gradual,
        "the caller's floating-point mode does not change results");
  check((after & ~0x3fu) == kFlushAndRoundUp, "and is left alone");
  check(gradual[0] != 0, "a case with subnormals");
#endif

  const std::string memory = message_of<hrun::OutOfMemoryError>(
      [&] { backend->allocate(size_t{1} << 60, "a huge cache"); });
  check(
      memory.find("a huge cache") != std::string::npos && memory.find("free") != std::string::npos,
      "out of memory says for what");
  check(!message_of<hrun::OutOfMemoryError>([&] {
           backend->allocate(SIZE_MAX - 3, "everything");
         }).empty(),
        "sizes do not wrap");
  const std::string device =
      message_of<hrun::DeviceError>([] { hrun::make_backend({.device = "abacus"}); });
  check(device.find("abacus") != std::string::npos && device.find("cpu") != std::string::npos,
        "devices that exist are named");
  auto buffer = backend->allocate(16, "test");
  const uint8_t bytes[8] = {1, 2, 3};
  backend->write(static_cast<uint8_t*>(buffer->data) + 8, bytes);
  uint8_t back[8] = {};
  backend->read(static_cast<uint8_t*>(buffer->data) + 8, back);
  check(std::memcmp(bytes, back, 8) == 0, "write and read");
  return failures != 0;
}
