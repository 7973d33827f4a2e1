// Second moments of matmul inputs, collected while a model runs over text.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/threads.h"
#include "model/forward.h"
#include "model/model.h"

namespace hrun {

inline constexpr int64_t kSampleTokens = 64;

// One distinct matmul input: the matrices that read it, and sum x x^T over the tokens seen, in the
// rotated basis (formats/rotation.h, signs on), as diagonal blocks of `width` columns.
struct MomentInput {
  std::vector<std::string>
      tensors;  // GGUF names; of slices that have inputs of their own, "NAME[i]"
  int64_t cols = 0;
  int64_t width = 0;
  int64_t n_tokens = 0;
  std::vector<float> sums;          // [groups][width][width]; empty unless selected
  std::vector<float> sample;        // [up to kSampleTokens][cols]: a few inputs, original basis
  std::vector<double> power, peak;  // [cols]: sum of x^2 and largest |x| in the original basis
  int64_t groups() const { return (cols + width - 1) / width; }
  size_t bytes() const { return static_cast<size_t>(groups() * width * width) * sizeof(float); }
};

// Pass it to Session::forward().  The first pass finds out which inputs there are; only selected
// ones are summed. The sums do not depend on the number of threads, nor on the instruction set.
class MomentCollector : public MatmulObserver {
 public:
  // block_width: 0 for the full matrix of each input.
  MomentCollector(std::shared_ptr<const Model> model, int64_t block_width, int n_threads);

  void matmul_input(Backend& backend, std::span<const MatmulTarget> targets,
                    const MatmulInput& input) override;
  void slice_input(Backend& backend, const DeviceTensor& slice, const MatmulInput& input) override;

  const std::vector<MomentInput>& inputs() const { return inputs_; }
  // Sums these inputs from now on, from zero, and forgets the others' sums.  Throws ArgumentError.
  void select(std::span<const int64_t> indices, std::span<const int64_t> widths);

 private:
  size_t new_input(int64_t cols);
  void collect(Backend& backend, MomentInput& input, const MatmulInput& from);
  void add(MomentInput& input, int64_t n_tokens);
  FloatView plain(Backend& backend, const MatmulInput& input);  // norms and gates carried out

  std::shared_ptr<const Model> model_;
  int64_t block_width_;
  ThreadPool pool_;
  std::unordered_map<const DeviceTensor*, std::string> names_;
  std::unordered_map<const DeviceTensor*, const Weight*> slices_;  // all slices of one's tensor
  std::unordered_map<const DeviceTensor*, size_t> index_;          // by an input's first matrix
  std::unordered_map<const DeviceTensor*, size_t> slice_index_;
  std::vector<MomentInput> inputs_;
  std::unique_ptr<DeviceBuffer> made_;
  const Backend* made_on_ = nullptr;
  std::vector<float> x_;       // [tokens][cols]
  std::vector<float> panels_;  // the same, by columns: [cols / some][tokens][some]
};

}  // namespace hrun
