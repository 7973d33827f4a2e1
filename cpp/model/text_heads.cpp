#include "model/text_heads.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "base/error.h"

namespace hrun {
namespace {

// Rows on the device of the model's last layers, one product after the other.
class Rows {
 public:
  Rows(const Model& model, std::span<const float> x)
      : backend_(model.backend(model.runs().back().device)) {
    const int64_t n_embd = model.params().n_embd;
    const auto n_values = static_cast<int64_t>(x.size());
    if (n_values == 0 || n_values % n_embd != 0)
      throw ArgumentError("{} values are no rows of {}", n_values, n_embd);
    at_ = take(n_values / n_embd, n_embd);
    backend_.write(at_.data, {reinterpret_cast<const uint8_t*>(x.data()), x.size_bytes()});
  }
  void multiply(const DeviceTensor& weight, const DeviceTensor* bias) {
    const FloatView y = take(at_.rows, weight.rows);
    const MatmulTarget target{&weight, y};
    backend_.matmul({&target, 1}, at_);
    if (bias) backend_.add_bias(y, *bias);
    at_ = y;
  }
  void tanh() { backend_.soft_cap(at_, 1); }
  void gelu() { backend_.nonlinearity(Nonlinearity::gelu_erf, at_, at_); }
  void norm(const DeviceTensor& weight, float eps) {
    backend_.layer_norm(at_, weight, nullptr, eps, at_);
  }
  std::vector<float> values() const {
    std::vector<float> out(static_cast<size_t>(at_.rows * at_.cols));
    backend_.read(at_.data, {reinterpret_cast<uint8_t*>(out.data()), out.size() * sizeof(float)});
    return out;
  }

 private:
  FloatView take(int64_t rows, int64_t cols) {
    buffers_.push_back(backend_.allocate(
        static_cast<size_t>(rows) * static_cast<size_t>(cols) * sizeof(float), "texts' vectors"));
    return {static_cast<float*>(buffers_.back()->data), rows, cols, cols};
  }

  Backend& backend_;
  std::vector<std::unique_ptr<DeviceBuffer>> buffers_;
  FloatView at_{};
};

// e^x / sum of them, row by row.
void softmax(std::vector<float>& x, size_t n) {
  for (size_t first = 0; first < x.size(); first += n) {
    const auto begin = x.begin() + static_cast<ptrdiff_t>(first);
    const auto end = begin + static_cast<ptrdiff_t>(n);
    const double largest = static_cast<double>(*std::max_element(begin, end));
    double sum = 0;
    for (auto value = begin; value != end; ++value)
      sum += std::exp(static_cast<double>(*value) - largest);
    for (auto value = begin; value != end; ++value)
      *value = static_cast<float>(std::exp(static_cast<double>(*value) - largest) / sum);
  }
}

}  // namespace

std::vector<float> project_texts(const Model& model, std::vector<float> x) {
  const DeviceTensor* const first = model.weight(Role::dense_2);
  if (!first || x.empty()) return x;
  Rows rows(model, x);
  rows.multiply(*first, nullptr);
  rows.multiply(*model.weight(Role::dense_3), nullptr);
  return rows.values();
}

std::vector<float> score_texts(const Model& model, std::span<const float> x) {
  const DeviceTensor* const output = model.weight(Role::class_output);
  if (!output)
    throw UnsupportedModelError(
        "'{}' has no head that scores texts (tensor cls.output.weight): it is no reranker",
        printable(model.file().path(), 4096));
  const ModelDescription& description = model.description();
  Rows rows(model, x);
  if (const DeviceTensor* dense = model.weight(Role::class_dense)) {
    rows.multiply(*dense, model.weight(Role::class_dense_bias));
    description.class_gelu ? rows.gelu() : rows.tanh();
    if (const DeviceTensor* norm = model.weight(Role::class_norm))
      rows.norm(*norm, model.params().norm_eps);
  }
  rows.multiply(*output, model.weight(Role::class_output_bias));
  std::vector<float> scores = rows.values();
  const auto n_classes = static_cast<size_t>(model.params().n_classes);
  if (description.class_softmax && n_classes > 1) softmax(scores, n_classes);
  return scores;
}

}  // namespace hrun
