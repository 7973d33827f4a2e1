// Weights on their way to the device take little memory beside their own: a large matrix fits where
// it fits with a part of its rows, and the memory of that part goes when the first pass begins.
// Large tables that are only looked up stay on the host.
#include <algorithm>

#include "cases.h"
#include "cuda/cuda_backend.h"
#include "cuda/kernels/matmul_weight.h"
#include "encode/encoders.h"
#include "formats/list.h"

using namespace hrun;
using namespace hrun::gpu;

namespace {

constexpr size_t kMiB = size_t{1} << 20;
constexpr size_t kPart = 64 * kMiB;  // of rows on their way

void check(std::string_view format, RotatedMatmul way) {
  const FormatInfo& f = *find_format(format);
  constexpr int64_t kCols = 20480;
  const size_t row_bytes = f.row_bytes(kCols);
  const auto rows = static_cast<int64_t>((kPart + 20 * kMiB) / row_bytes);
  const std::vector<uint8_t> bytes(row_bytes * static_cast<size_t>(rows));
  const size_t own = way == RotatedMatmul::weight ? weight_domain_bytes(f.id, rows, kCols)
                                                  : packed_bytes(f.id, rows, kCols);
  expect(own > kPart, "{}: the case is large enough", format);
  setenv("HRUN_EMULATED_BYTES", std::to_string(own + kPart + kMiB).c_str(), 1);
  CudaBackend backend(0, {.rotated_matmul = way});
  try {
    const auto tensor =
        backend.upload({f.id, rows, kCols, row_bytes, bytes.data(), "large"}, TensorUse::product);
    expect(tensor->bytes == own, "{}: bytes of the layout", format);
    BatchRows batch;
    const int32_t token = 0, page = 0;
    batch.add({&token, 1}, 0, {&page, 1});
    backend.begin_pass({.batch = batch.batch()});
    backend.end_pass(true);
    backend.allocate(kPart, "what the rows on their way took");
  } catch (const OutOfMemoryError& e) {
    expect(false, "{}: {}", format, std::string_view(e.what()));
  }
  unsetenv("HRUN_EMULATED_BYTES");
}

// A table of which the device could not hold a tenth.
void check_table(std::string_view format) {
  const FormatInfo& f = *find_format(format);
  constexpr int64_t kCols = 1024, kRows = 20000;
  const size_t row_bytes = f.row_bytes(kCols);
  Random random(3);
  const auto& encoder = *find_encoder(f.id);
  std::vector<uint8_t> bytes(row_bytes * kRows);
  const std::vector<int32_t> wanted = {0, 19999, 7, 7, 300, 1234, 15000, 1, 2, 3, 9999};
  for (const int32_t row : wanted)
    encoder.encode_row(random.normals(kCols).data(), nullptr, kCols,
                       bytes.data() + static_cast<size_t>(row) * row_bytes);
  setenv("HRUN_EMULATED_BYTES", std::to_string(bytes.size() / 10).c_str(), 1);
  CudaBackend backend(0, {});
  const auto table =
      backend.upload({f.id, kRows, kCols, row_bytes, bytes.data(), "table"}, TensorUse::lookup);
  for (const size_t n : {size_t{1}, size_t{8}, wanted.size()}) {
    const auto memory = backend.allocate(n * kCols * sizeof(float), "rows");
    backend.embed(*table, std::span(wanted).first(n),
                  {static_cast<float*>(memory->data), static_cast<int64_t>(n), kCols, kCols});
    std::vector<float> got(n * kCols), want(kCols);
    backend.read(memory->data, {reinterpret_cast<uint8_t*>(got.data()), memory->bytes});
    for (size_t i = 0; i < n; ++i) {
      f.decode_row(bytes.data() + static_cast<size_t>(wanted[i]) * row_bytes, kCols, want.data());
      expect(std::equal(want.begin(), want.end(), got.begin() + static_cast<int64_t>(i * kCols)),
             "{}: row {} of {}", format, i, n);
    }
  }
  unsetenv("HRUN_EMULATED_BYTES");
}

}  // namespace

int main() {
  check("q8_0", RotatedMatmul::activation);
  check("rtq4", RotatedMatmul::weight);
  for (const std::string_view format : {"q8_0", "q4_k", "rtq4", "f16"}) check_table(format);
  return failures != 0;
}
