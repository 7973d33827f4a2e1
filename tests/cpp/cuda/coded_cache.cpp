// Coded keys and values on the device: codes, mean and balance are the CPU's bits whatever the
// passes were; attention over them is within half a step of its weights' bytes of the exact sums.
#include <cstring>

#include "cases.h"
#include "cpu/backend/cpu_backend.h"
#include "cpu/backend/cpu_cache.h"
#include "cuda/cuda_cache.h"
#include "cuda/device/cache_encode.h"

using namespace hrun;
using namespace hrun::gpu;

namespace {

struct Case {
  CacheType k_type, v_type;
  int n_heads, n_kv_heads, k_dim, v_dim;
  int n_rot, first_rot;  // 0: nothing is turned
  RopeStyle style = RopeStyle::halves;
  int64_t window = 0;
  float soft_cap = 0;
  bool knows_queries = true;
  int k_plain = 0;  // the last values of keys, which are no codes

  int k_coded() const { return k_dim - k_plain; }
};

std::string name_of(const Case& c) {
  return message("{} and {}, {} heads of {} and {} over {}, {} turned from {}, window {}",
                 cache_type_name(c.k_type), cache_type_name(c.v_type), c.n_heads, c.k_dim, c.v_dim,
                 c.n_kv_heads, c.n_rot, c.first_rot, c.window);
}

constexpr int64_t kPositions = 340, kBlocks = (kPositions + 63) / 64;

// A backend with a cache of one layer and the rotary table, to which rows are given.
class Layer {
 public:
  Layer(Backend& backend, const Case& c, std::vector<int32_t> pages)
      : backend_(backend), case_(c), pages_(std::move(pages)) {
    CachePlan plan;
    plan.layers.push_back({c.n_kv_heads, c.k_dim, c.v_dim, c.k_type, c.v_type, c.k_plain});
    plan.n_pages = kBlocks + 3;
    cache_ = backend.make_cache(plan, "a test");
    const auto half = static_cast<size_t>(c.n_rot / 2);
    std::vector<float> cos(kPositions * half), sin(cos.size()), block_cos(kBlocks * half),
        block_sin(block_cos.size());
    for (size_t p = 0; p < kPositions; ++p)
      for (size_t j = 0; j < half; ++j) {
        const double angle = static_cast<double>(p) * std::pow(1e4, -double(j) / double(half));
        cos[p * half + j] = static_cast<float>(1.1 * std::cos(angle));  // and stretched
        sin[p * half + j] = static_cast<float>(1.1 * std::sin(angle));
        block_cos[p / 64 * half + j] += cos[p * half + j] / 64;
        block_sin[p / 64 * half + j] += sin[p * half + j] / 64;
      }
    rope_ = {c.style, c.n_rot, put(cos), put(sin), c.first_rot, put(block_cos), put(block_sin)};
  }

  const float* put(const std::vector<float>& values) { return view(values, 1).data; }
  FloatView view(const std::vector<float>& values, int64_t rows) {
    buffers_.push_back(backend_.allocate(std::max<size_t>(4, values.size() * 4), "a test"));
    auto* const data = static_cast<float*>(buffers_.back()->data);
    backend_.write(data, {reinterpret_cast<const uint8_t*>(values.data()), values.size() * 4});
    const auto cols = static_cast<int64_t>(values.size()) / rows;
    return {data, rows, cols, cols};
  }
  template <class T>
  std::vector<T> read(const void* from, size_t n) {
    std::vector<T> out(n);
    backend_.read(from, {reinterpret_cast<uint8_t*>(out.data()), n * sizeof(T)});
    return out;
  }

  // Passes rows `first` to `end` of keys, values and queries, and returns what attention gives for
  // them.
  std::vector<float> pass(const FloatView& k, const FloatView& v, const FloatView& q, int64_t first,
                          int64_t end) {
    const int64_t n = end - first;
    const auto part = [&](const FloatView& x) {
      return FloatView{x.data + first * x.stride, n, x.cols, x.stride};
    };
    BatchRows rows;
    rows.add_positions(n, first, pages_);
    const Rope* const rope = case_.n_rot > 0 ? &rope_ : nullptr;
    const CacheSlot slot{cache_.get(), 0};
    backend_.kv_append(slot, part(k), part(v), rows.batch(),
                       {rope, part(q), case_.knows_queries ? case_.n_heads : 0});
    AttentionShape shape{case_.n_heads, scale()};
    shape.window = case_.window;
    shape.soft_cap = case_.soft_cap;
    shape.rope = rope;
    const size_t n_out = static_cast<size_t>(n * case_.n_heads * case_.v_dim);
    const FloatView out = view(std::vector<float>(n_out), n);
    backend_.attention(part(q), slot, rows.batch(), shape, out);
    return read<float>(out.data, n_out);
  }
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(case_.k_dim)); }
  DeviceCache& cache() { return *cache_; }
  int32_t page(int64_t i) const { return pages_[static_cast<size_t>(i)]; }
  const Rope& rope() const { return rope_; }

 private:
  Backend& backend_;
  Case case_;
  std::vector<int32_t> pages_;
  std::unique_ptr<DeviceCache> cache_;
  std::vector<std::unique_ptr<DeviceBuffer>> buffers_;
  Rope rope_{};
};

// A block's codes by [position][dimension], and the scales.
struct Codes {
  std::vector<int> codes;
  std::vector<uint16_t> scales;
  bool operator==(const Codes&) const = default;
};

Codes of_cpu(const uint8_t* block, CacheType type, int dim, bool keys) {
  Codes out;
  const int steps = keys ? dim / 4 : dim / 16;
  // Of two vectors in a byte: m, u, u, m.
  const auto of_pair = [](int x, int vector, int m_bits) {
    const int m = (1 << m_bits) - 1;
    return vector % 2 == 0 ? 2 * (x & m) + (x >> m_bits & 1) : x >> (m_bits + 1) & (2 * m + 1);
  };
  const auto code_at = [&](int vector, int byte) {
    const auto x = [&](int i) { return int{block[i * 64 + byte]}; };
    switch (type) {
      case CacheType::rtq8:
        return x(vector);
      case CacheType::rtq5:
        return 2 * (x(vector / 2) >> (vector % 2 * 4) & 15) +
               (x(dim / 2 + vector / 8) >> vector % 8 & 1);
      case CacheType::rtq4:
        return of_pair(x(vector / 2), vector, 3);
      case CacheType::rtq3: {
        const int first = vector / 8 * 3, pair = vector % 8 / 2;
        return of_pair(pair < 3 ? x(first + pair)
                                : x(first) >> 6 | x(first + 2) >> 6 << 2 | x(first + 1) >> 6 << 4,
                       vector, 2);
      }
      default:
        return x(vector / 4) >> (vector % 4 * 2) & 3;
    }
  };
  for (int p = 0; p < 64; ++p)
    for (int i = 0; i < dim; ++i) {
      const int vector = (keys ? p / 16 : p / 4) * steps + i % steps,
                byte = keys ? 4 * (p % 16) + i / steps : 4 * (i / steps) + p % 4;
      out.codes.push_back(code_at(vector, byte));
    }
  out.scales.resize(64);
  memcpy(out.scales.data(), block + dim * 64 * cache_code_bits(type) / 8, 128);
  return out;
}

Codes of_device(const std::vector<uint8_t>& block, CacheType type, int dim) {
  Codes out;
  const CodedBlock shape{type, dim};
  const int bits = field_bits(type);
  for (int p = 0; p < 64; ++p)
    for (int i = 0; i < dim; ++i) {
      const int bit = i * bits;
      int code = block[static_cast<size_t>(p * shape.fields_bytes() + bit / 8)] >> (bit % 8) &
                 ((1 << bits) - 1);
      if (has_plane(type))
        code = 2 * code +
               (block[static_cast<size_t>(shape.plane_at() + p * dim / 8 + i / 8)] >> (i % 8) & 1);
      out.codes.push_back(code);
    }
  out.scales.resize(64);
  memcpy(out.scales.data(), block.data() + shape.scales_at(), 128);
  return out;
}

// Levels of a position, by the definition of the trellis (formats/cache_codes.h).
std::vector<double> levels_of(const Codes& codes, CacheType type, int dim, int position) {
  const CacheLevelBytes table = cache_levels(type);
  std::vector<double> out;
  int one = 0, two = 0;
  for (int i = 0; i < dim; ++i) {
    const int code = codes.codes[static_cast<size_t>(position * dim + i)], u = code & 1;
    out.push_back(type == CacheType::rtq8 ? static_cast<int8_t>(code)
                                          : table.v[4 * (code >> 1) + 2 * (u ^ two) + one]);
    two = one, one = u;
  }
  return out;
}

struct Beginning {
  std::vector<float> mean, balance;
};

// One query: the sums in double, and half a step of the weights' bytes in the basis of values.
struct Reference {
  const Case& c;
  const std::vector<float>&k, &v;                           // [position][head][dim]
  const std::vector<std::vector<Codes>>&k_codes, &v_codes;  // [block][kv head]
  const std::vector<Beginning>& beginnings;                 // [kv head]
  const TurnOfKeys turn;
  float scale;
  mutable double bound = 0;

  std::vector<double> operator()(const float* q, int64_t t, int head) const {
    const int kv = head / (c.n_heads / c.n_kv_heads);
    const auto k_dim = static_cast<size_t>(c.k_dim), v_dim = static_cast<size_t>(c.v_dim);
    const int64_t own = t / 64, begin = c.window > 0 ? std::max<int64_t>(0, t + 1 - c.window) : 0;
    const auto value = [](const std::vector<float>& rows, CacheType type, int n_heads, int dim,
                          int64_t p, int h, size_t i) {
      const float x = rows[static_cast<size_t>((p * n_heads + h) * dim) + i];
      return static_cast<double>(type == CacheType::f32 ? x : fp16_to_fp32(fp32_to_fp16(x)));
    };
    // The query as int8.
    std::vector<float> turned(k_dim);
    double q_scale = 0;
    if (is_coded(c.k_type) && own > 0) {
      turned.resize(static_cast<size_t>(c.k_coded()));
      for (size_t i = 0; i < turned.size(); ++i)
        turned[i] = q[i] / beginnings[static_cast<size_t>(kv)].balance[i];
      rotate_column(turned.data(), 1, c.k_coded());
      float top = 0;
      for (const float x : turned) top = std::max(top, std::abs(x));
      for (float& x : turned) x = std::nearbyint(x * (127.0f / top));
      q_scale = top / 127.0 / 64;
    }
    std::vector<double> score, weight;
    std::vector<int64_t> position;
    double most = -1e300;
    for (int64_t p = begin; p <= t; ++p) {
      const int64_t b = p / 64;
      double sum = 0;
      if (is_coded(c.k_type) && b < own && p >= kExactPositions) {
        const Codes& codes = k_codes[static_cast<size_t>(b)][static_cast<size_t>(kv)];
        const std::vector<double> level =
            levels_of(codes, c.k_type, c.k_coded(), static_cast<int>(p % 64));
        const float* const mean = beginnings[static_cast<size_t>(kv)].mean.data();
        double product = 0, centre = 0;
        for (size_t i = 0; i < turned.size(); ++i) {
          product += turned[i] * level[i];
          centre += static_cast<double>(q[i]) * turn.centre(mean, b, static_cast<int>(i));
        }
        sum = product * q_scale * fp16_to_fp32(codes.scales[static_cast<size_t>(p % 64)]) + centre;
        for (size_t i = turned.size(); i < k_dim; ++i)
          sum += q[i] * value(k, c.k_type, c.n_kv_heads, c.k_dim, p, kv, i);
      } else {
        for (size_t i = 0; i < k_dim; ++i)
          sum += q[i] * value(k, c.k_type, c.n_kv_heads, c.k_dim, p, kv, i);
      }
      sum *= scale;
      if (c.soft_cap != 0) sum = c.soft_cap * std::tanh(sum / c.soft_cap);
      score.push_back(sum), position.push_back(p);
      most = std::max(most, sum);
    }
    double total = 0;
    for (const double s : score) weight.push_back(std::exp(s - most)), total += weight.back();
    std::vector<double> coded(v_dim), plain(v_dim), error(v_dim);
    for (size_t at = 0; at < position.size(); ++at) {
      const int64_t p = position[at], b = p / 64;
      const double w = weight[at] / total;
      if (is_coded(c.v_type) && b < own && p >= kExactPositions) {
        const Codes& codes = v_codes[static_cast<size_t>(b)][static_cast<size_t>(kv)];
        const std::vector<double> level =
            levels_of(codes, c.v_type, c.v_dim, static_cast<int>(p % 64));
        double top = 0;  // of the block
        for (size_t other = 0; other < position.size(); ++other)
          if (position[other] / 64 == b && position[other] >= kExactPositions)
            top = std::max(
                top, weight[other] / total *
                         fp16_to_fp32(codes.scales[static_cast<size_t>(position[other] % 64)]));
        for (size_t i = 0; i < v_dim; ++i) {
          coded[i] += w * fp16_to_fp32(codes.scales[static_cast<size_t>(p % 64)]) / 64 * level[i];
          error[i] += top / 255 / 64 * std::abs(level[i]) * 0.5;
        }
      } else {
        for (size_t i = 0; i < v_dim; ++i)
          plain[i] += w * value(v, c.v_type, c.n_kv_heads, c.v_dim, p, kv, i);
      }
    }
    std::vector<float> back(coded.begin(), coded.end());
    rotate_column(back.data(), 1, c.v_dim);
    double norm = 0, squares = 0;
    for (size_t i = 0; i < v_dim; ++i) {
      plain[i] += back[i];
      norm += error[i] * error[i], squares += plain[i] * plain[i];
    }
    bound = std::sqrt(norm) + 2e-4 * std::sqrt(squares) + 1e-5;
    return plain;
  }
};

void check(CudaBackend& cuda, Backend& cpu, const Case& c, uint64_t seed) {
  Random random(seed);
  const auto k_cols = static_cast<size_t>(c.n_kv_heads * c.k_dim),
             v_cols = static_cast<size_t>(c.n_kv_heads * c.v_dim),
             q_cols = static_cast<size_t>(c.n_heads * c.k_dim);
  std::vector<float> k = random.normals(kPositions * k_cols),
                     v = random.normals(kPositions * v_cols),
                     q = random.normals(kPositions * q_cols);
  for (size_t i = 0; i < k.size(); ++i) {
    if (i % k_cols % 7 == 3) k[i] = 6 + 0.5f * k[i];  // a constant, as keys have
    if (i % k_cols % 5 == 1) k[i] *= 0.1f;
  }
  for (size_t i = 0; i < v_cols; ++i) v[70 * v_cols + i] = 0;     // a position without values
  for (size_t i = 0; i < v_cols; ++i) v[75 * v_cols + i] = 2.5f;  // all equal
  v[80 * v_cols] = 400;                                           // a spike
  std::vector<int32_t> pages, drawn;
  for (int i = 0; i < kBlocks; ++i) pages.push_back(i), drawn.push_back((5 * i + 3) % 8);
  Layer host(cpu, c, pages), device(cuda, c, drawn);
  const auto views = [&](Layer& layer) {
    return std::array{layer.view(k, kPositions), layer.view(v, kPositions),
                      layer.view(q, kPositions)};
  };
  const auto [hk, hv, hq] = views(host);
  const auto [dk, dv, dq] = views(device);
  const std::vector<float> expected = host.pass(hk, hv, hq, 0, kPositions);
  const std::vector<float> whole = device.pass(dk, dv, dq, 0, kPositions);
  // The same rows go in pieces into another cache.
  Layer other(cuda, c, pages);
  const auto [ok, ov, oq] = views(other);
  std::vector<float> pieces;
  for (int64_t first = 0; first < kPositions;) {
    const int64_t n =
        std::min<int64_t>(kPositions - first, 1 + random.below(random.below(2) ? 90 : 4));
    const std::vector<float> some = other.pass(ok, ov, oq, first, first + n);
    pieces.insert(pieces.end(), some.begin(), some.end());
    first += n;
  }
  expect(pieces == whole, "{}: attention in pieces has other bits", name_of(c));

  // Codes, mean and balance.
  auto& on_host = dynamic_cast<CpuCache&>(host.cache());
  const CacheSlot slot{&device.cache(), 0};
  const KVPages layer = pages_of(slot);
  const CodedPlace place{layer};
  std::vector<std::vector<Codes>> k_codes(kBlocks), v_codes(kBlocks);
  std::vector<Beginning> beginnings;
  for (int h = 0; h < c.n_kv_heads; ++h) {
    const BesidePage beside = device.read<BesidePage>(layer.coded.beside + device.page(0), 1)[0];
    const auto numbers = device.read<float>(
        beside.beginning + layer.coded.beginning + h * layer.coded.beginning_bytes,
        2 * static_cast<size_t>(c.k_dim));
    const auto middle = numbers.begin() + c.k_dim;
    beginnings.push_back({{numbers.begin(), middle}, {middle, numbers.end()}});
    const CpuCache::Beginning there = on_host.beginning(0, h, host.page(0));
    if (is_coded(c.k_type))
      expect(memcmp(numbers.data(), there.mean, static_cast<size_t>(c.k_dim) * 4) == 0 &&
                 memcmp(numbers.data() + c.k_dim, there.balance,
                        static_cast<size_t>(c.k_dim) * 4) == 0,
             "{}: mean or balance of head {}", name_of(c), h);
    for (int64_t b = 0; b < kPositions / 64; ++b) {
      const CpuCache::Heads heads = on_host.heads(0);
      const size_t at = static_cast<size_t>(host.page(b)) * on_host.page_bytes() +
                        static_cast<size_t>(h) * heads.head_stride;
      const auto compare = [&](CacheType type, int dim, const uint8_t* theirs, const uint8_t* ours,
                               bool keys, std::vector<Codes>& to) {
        if (!is_coded(type)) return;
        const auto bytes = static_cast<size_t>(CodedBlock{type, dim}.bytes());
        expect(bytes == 64 * cache_position_bytes(type, dim), "{}: bytes", name_of(c));
        to.push_back(of_device(device.read<uint8_t>(ours, bytes), type, dim));
        expect(to.back() == of_cpu(theirs, type, dim, keys), "{}: {} of block {}, head {}",
               name_of(c), keys ? "keys" : "values", b, h);
      };
      compare(c.k_type, c.k_coded(), heads.keys + at, place.key_block(device.page(b), h), true,
              k_codes[static_cast<size_t>(b)]);
      compare(c.v_type, c.v_dim, heads.values + at, place.value_block(device.page(b), h), false,
              v_codes[static_cast<size_t>(b)]);
    }
  }

  // Attention.
  std::vector<float> block_cos, block_sin;
  Rope rope = host.rope();
  const TurnOfKeys turn = c.n_rot > 0 ? turn_of_keys(&rope) : TurnOfKeys{};
  const Reference reference{c, k, v, k_codes, v_codes, beginnings, turn, host.scale()};
  for (const int64_t t : {int64_t{0}, int64_t{63}, int64_t{64}, int64_t{67}, int64_t{127},
                          int64_t{130}, int64_t{255}, int64_t{256}, kPositions - 1})
    for (int head = 0; head < c.n_heads; ++head) {
      const auto at = static_cast<size_t>((t * c.n_heads + head) * c.v_dim);
      const std::vector<double> exact =
          reference(q.data() + static_cast<size_t>(t) * q_cols + head * c.k_dim, t, head);
      const auto distance = [&](const std::vector<float>& out) {
        double sum = 0;
        for (size_t i = 0; i < exact.size(); ++i) sum += std::pow(out[at + i] - exact[i], 2);
        return std::sqrt(sum);
      };
      expect(distance(whole) <= reference.bound && distance(expected) <= reference.bound,
             "{}: position {}, head {}: device {}, CPU {}, bound {}", name_of(c), t, head,
             distance(whole), distance(expected), reference.bound);
    }
}

}  // namespace

int main() {
  setenv("HRUN_CUDA_GRAPHS", "0", 1);
  CudaBackend cuda(0, {});
  CpuBackend cpu({.device = "cpu", .n_threads = 1, .cpu_tier = "scalar"});
  using enum CacheType;
  uint64_t seed = 1;
  const auto run = [&](Case c) { check(cuda, cpu, c, seed++); };
  for (const CacheType type : {rtq8, rtq5, rtq4, rtq3, rtq2}) {
    run({type, type, 4, 2, 64, 64, 64, 0});
    run({type, f16, 2, 1, 32, 16, 0, 0});
    run({f32, type, 3, 1, 16, 48, 16, 0, RopeStyle::interleaved});
  }
  for (const int dim : {80, 96, 112, 128, 192, 256})
    run({dim % 64 == 0 ? rtq4 : rtq5, dim % 64 == 0 ? rtq3 : rtq2, 1, 1, dim, dim, dim / 2,
         dim / 4});
  run({rtq4, rtq3, 4, 1, 576, 512, 64, 512, RopeStyle::interleaved, 0, 0, false, 64});
  run({rtq8, f16, 3, 1, 576, 512, 64, 512, RopeStyle::interleaved, 0, 0, false, 64});
  run({rtq5, rtq4, 4, 2, 80, 64, 16, 64, RopeStyle::interleaved, 0, 0, true, 16});
  run({rtq4, rtq3, 20, 1, 64, 64, 64, 0, RopeStyle::halves, 100});
  run({rtq8, rtq4, 2, 2, 64, 32, 32, 0, RopeStyle::halves, 0, 30});
  return failures == 0 ? 0 : 1;
}
