#include "cuda/kernels/rows.h"

#include "base/error.h"
#include "formats/list.h"

namespace hrun::gpu {
namespace {

constexpr int kWarps = 4;

// A warp has a block of 256 (or, of a smaller format, as many blocks as make 256).
template <AnyFormat F>
struct DecodeRows {
  static constexpr int kThreads = kWarps * kWarp, kBlocks = 1;
  static constexpr const char* kName = "decode_rows";
  static constexpr size_t kWarpBytes = kMaxBlock * sizeof(float);
  PlainMatrix w;
  int64_t first;
  const int32_t* rows;
  bool own_basis;
  FloatView out;

  // Transforms in place, as formats/rotation.h does it, with the lanes sharing the butterflies.
  static HRUN_HD void transform(float* x, int n) {
    for (int half = 1; half < n; half *= 2) {
      for (int k = lane(); k < n / 2; k += kWarp) {
        const int j = k / half * 2 * half + k % half;
        const float a = x[j], b = x[j + half];
        x[j] = a + b;
        x[j + half] = a - b;
      }
      sync_warp();
    }
    const float factor = fwht_scale(n);
    for (int i = lane(); i < n; i += kWarp) x[i] *= factor;
    sync_warp();
  }

  HRUN_HD void operator()() const {
    const int64_t col = static_cast<int64_t>(block_x()) * kMaxBlock;
    const int64_t i = static_cast<int64_t>(block_y()) * kWarps + warp();
    if (i >= out.rows) return;
    const int64_t r = rows ? rows[i] : first + i;
    const uint8_t* const row = w.data + static_cast<size_t>(r) * w.row_bytes;
    float* const to = out.row(i) + col;
    const int n = static_cast<int>(w.cols - col < kMaxBlock ? w.cols - col : kMaxBlock);
    const uint8_t* const block = row + static_cast<size_t>(col / F::kBlockValues) * F::kBlockBytes;
    if constexpr (FloatFormat<F>) {
      for (int c = lane(); c < n; c += kWarp)
        to[c] = F::widen(block + static_cast<size_t>(c) * F::kBlockBytes);
    } else {
      auto* const floats =
          reinterpret_cast<float*>(shared() + static_cast<size_t>(warp()) * kWarpBytes);
      // Lane b decodes the block b of these columns.
      const int blocks = (n + F::kBlockValues - 1) / F::kBlockValues;
      for (int b = lane(); b < blocks; b += kWarp) {
        const uint8_t* const at = block + static_cast<size_t>(b) * F::kBlockBytes;
        float* const values = floats + b * F::kBlockValues;
        if constexpr (DecodedFormat<F>) {
          F::decode(at, values);
        } else {
          IntBlock ints;
          const int length =
              n - b * F::kBlockValues < F::kBlockValues ? n - b * F::kBlockValues : F::kBlockValues;
          F::unpack(at, length, ints);
          to_floats<F>(ints, length, values);
        }
      }
      sync_warp();
      if constexpr (is_rotated(F::kInputForm)) {
        if (!own_basis) {
          for (int done = 0; done < n;) {
            const int piece = rotation_piece(n - done);
            transform(floats + done, piece);
            done += piece;
          }
          if (F::kInputForm == InputForm::kRotatedSigned)
            for (int c = lane(); c < n; c += kWarp) floats[c] *= rotation_sign(col + c);
          sync_warp();
        }
      }
      for (int c = lane(); c < n; c += kWarp) to[c] = floats[c];
    }
  }
};

constexpr int kTokens = 8;  // sums that a thread holds at a time

// A warp per row and eight tokens; its lanes take the blocks in turn.  The row is decoded again for
// every eight tokens: this is the kernel of formats that have no other.
template <QuantizedFormat F>
struct MatmulPlain {
  static constexpr int kThreads = kWarps * kWarp, kBlocks = 1;
  static constexpr const char* kName = "matmul_plain";
  PlainMatrix w;
  QuantizedRows x;
  FloatView y;
  // Where sliced: a z of the grid is a piece.
  bool sliced = false;
  SlicePieces pieces{};
  size_t slice_bytes = 0;
  int64_t slice_y = 0;

  HRUN_HD void operator()() const {
    const int64_t first = static_cast<int64_t>(block_y()) * kTokens;
    if (!sliced) return multiply(w.data, first, x.n_tokens - first, y.data + first * y.stride);
    const SlicePiece piece = pieces.at(block_z(), kManyRows);
    if (piece.n > first)
      multiply(w.data + static_cast<size_t>(piece.slice) * slice_bytes, piece.input_row + first,
               piece.n - first, y.data + piece.slice * slice_y + (piece.row + first) * y.stride);
  }

  // At most kTokens rows of x from t0 on.
  HRUN_HD void multiply(const uint8_t* weights, int64_t t0, int64_t rows, float* to) const {
    const int64_t r = static_cast<int64_t>(block_x()) * kWarps + warp();
    if (r >= w.rows) return;
    const int n_tokens = static_cast<int>(rows < kTokens ? rows : kTokens);
    float acc[kTokens] = {};
    for (int64_t b = lane(); b < n_blocks<F>(w.cols); b += kWarp) {
      IntBlock ints;
      const int n = block_length<F>(w.cols, b);
      F::unpack(
          weights + static_cast<size_t>(r) * w.row_bytes + static_cast<size_t>(b) * F::kBlockBytes,
          n, ints);
      const int64_t col = b * F::kBlockValues;
      for (int t = 0; t < n_tokens; ++t) {
        const int8_t* const codes = x.codes + (t0 + t) * x.stride + col;
        const int16_t* const sums = x.sums + ((t0 + t) * x.stride + col) / kGroup;
        const float dx = x.scales[(t0 + t) * x.n_blocks + b];
        int dot = 0, offset = 0;
        for (int g = 0; g * kGroup < n; ++g) {
          int sum = 0;
          for (int i = g * kGroup; i < (g + 1) * kGroup; ++i) sum += ints.codes[i] * codes[i];
          dot += ints.group_scale[g] * sum;
          if constexpr (F::kHasOffset) offset += ints.group_offset[g] * sums[g];
        }
        acc[t] = fused_multiply_add(ints.scale * dx, static_cast<float>(dot), acc[t]);
        if constexpr (F::kHasOffset)
          acc[t] = fused_multiply_add(-(ints.offset * dx), static_cast<float>(offset), acc[t]);
      }
    }
    for (int t = 0; t < n_tokens; ++t) {
      const float sum = warp_sum(acc[t]);
      if (lane() == 0) to[t * y.stride + r] = sum;
    }
  }
};

Grid warp_per_row(int64_t rows, int64_t n_tokens) {
  return {static_cast<int>((rows + kWarps - 1) / kWarps),
          static_cast<int>((n_tokens + kTokens - 1) / kTokens)};
}

constexpr int64_t kMaxGrid = 65535;

template <class Function>
void with_quantized_format(FormatId format, Function&& f) {
  Formats::visit(format, [&]<class F>() {
    if constexpr (QuantizedFormat<F>)
      f.template operator()<F>();
    else
      throw ArgumentError("matmul_plain with the float format {}", F::kName);
  });
}

}  // namespace

void decode_rows(Gpu& gpu, const PlainMatrix& w, int64_t first, const int32_t* rows, bool own_basis,
                 FloatView out) {
  for (int64_t done = 0; done < out.rows; done += kMaxGrid * kWarps) {
    const int64_t n = out.rows - done < kMaxGrid * kWarps ? out.rows - done : kMaxGrid * kWarps;
    const FloatView part{out.row(done), n, out.cols, out.stride};
    const Grid grid{static_cast<int>((w.cols + kMaxBlock - 1) / kMaxBlock),
                    static_cast<int>((n + kWarps - 1) / kWarps)};
    Formats::visit(w.format, [&]<class F>() {
      using Kernel = DecodeRows<F>;
      gpu.launch(Kernel{w, first + done, rows ? rows + done : nullptr, own_basis, part}, grid,
                 kWarps * Kernel::kWarpBytes);
    });
  }
}

void matmul_plain(Gpu& gpu, const PlainMatrix& w, const QuantizedRows& x, FloatView y) {
  with_quantized_format(w.format, [&]<class F>() {
    gpu.launch(MatmulPlain<F>{w, x, y}, warp_per_row(w.rows, x.n_tokens));
  });
}

void matmul_plain_slices(Gpu& gpu, const PlainMatrix& first, size_t slice_bytes,
                         const QuantizedRows& x, FloatView y, int64_t slice_y,
                         const SliceTask& task) {
  with_quantized_format(first.format, [&]<class F>() {
    const auto launch = [&](const SlicePieces& pieces, int n_runs, int most) {
      Grid grid = warp_per_row(first.rows, most);
      grid.z = n_pieces(pieces, n_runs, kManyRows);
      gpu.launch(MatmulPlain<F>{first, x, y, true, pieces, slice_bytes, slice_y}, grid);
    };
    const bool heads = task.few_runs == nullptr;
    launch(few_pieces(task), task.n_few_runs,
           !heads                    ? task.few
           : task.n_rows < kManyRows ? task.n_rows
                                     : kManyRows);
    if (task.n_many_runs > 0) launch(many_pieces(task), task.n_many_runs, kManyRows);
  });
}

}  // namespace hrun::gpu
