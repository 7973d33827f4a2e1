// The search of trellis_fast.h, for the vectors `Bytes` and operations that the including file has
// defined:
//
//   kWidth                         bytes of a vector, a multiple of 16; operations stay within 16
//   bytes load, store, broadcast(p)      the last: 16 bytes at p, to every 16 bytes add, subtract,
//   smaller         unsigned bytes limit(v)                       smaller(v, kLargestCost)
//   branch(levels, x)              min(((levels - x)^2 + 2^14) >> 15, kLargestBranch) of 16-bit
//   values, 16 levels to 16 bytes interleave_low, interleave_high smallest(v) the smallest of each
//   16 bytes, 16 times cheapest<k>(costs, steps, levels, x)   the first i < 2^k of those for which
//   add(the byte at costs[steps[i] kWidth / 16],
//                                          branch(levels[i], x)) is smallest
#pragma once

#include "encode/trellis_fast.h"

namespace hrun {
namespace {

template <int k>
inline void step_slice(const int16_t* levels, const size_t* offsets, int interleavings, Bytes x,
                       const uint8_t* costs, uint8_t* next) {
  constexpr int kCodes = 1 << k;
  Bytes branches[kCodes], out[kCodes];
#pragma GCC unroll 16
  for (int i = 0; i < kCodes; ++i) branches[i] = branch(levels + 16 * i, x);
  if constexpr (k < 4) {
    Bytes before[kCodes];
#pragma GCC unroll 16
    for (int p = 0; p < kCodes; ++p) before[p] = load(costs + offsets[p]);
#pragma GCC unroll 16
    for (int c = 0; c < kCodes; ++c) {
      out[c] = add(before[0], branches[c]);
#pragma GCC unroll 16
      for (int p = 1; p < kCodes; ++p) out[c] = smaller(out[c], add(before[p], branches[c ^ p]));
    }
  } else {  // sixteen of each do not fit the registers: eight outputs at a time
#pragma GCC unroll 2
    for (int half = 0; half < kCodes; half += 8) {
      const Bytes first = load(costs + offsets[0]);
#pragma GCC unroll 8
      for (int c = 0; c < 8; ++c) out[half + c] = add(first, branches[half + c]);
#pragma GCC unroll 16
      for (int p = 1; p < kCodes; ++p) {
        const Bytes before = load(costs + offsets[p]);
#pragma GCC unroll 8
        for (int c = 0; c < 8; ++c)
          out[half + c] = smaller(out[half + c], add(before, branches[(half + c) ^ p]));
      }
    }
  }
#pragma GCC unroll 16
  for (int c = 0; c < kCodes; ++c) out[c] = limit(out[c]);
#pragma GCC unroll 4
  for (int bit = 0; bit < k; ++bit) {
    if (bit >= interleavings) break;
#pragma GCC unroll 16
    for (int c = 0; c < kCodes; ++c) {
      if (c >> bit & 1) continue;
      const Bytes low = out[c], high = out[c | 1 << bit];
      out[c] = interleave_low(low, high);
      out[c | 1 << bit] = interleave_high(low, high);
    }
  }
#pragma GCC unroll 16
  for (int c = 0; c < kCodes; ++c) store(next + offsets[c], out[c]);
}

inline Bytes cheapest_of_all(const uint8_t* costs, size_t n_vectors) {
  Bytes least = load(costs);
  for (size_t v = 1; v < n_vectors; ++v) least = smaller(least, load(costs + v * kWidth));
  return smallest(least);
}

template <int k>
void fill_costs(const FastTrellis& code, const int16_t* x, int n, uint8_t* costs) {
  const size_t n_vectors = (size_t{1} << code.state_bits) / 16, row = n_vectors * kWidth;
  for (int t = 0; t < n; ++t, costs += row) {
    if (t % kStepsPerOffset == 0 && t >= code.memory) {  // not before all states can be reached
      const Bytes least = cheapest_of_all(costs, n_vectors);
      for (size_t v = 0; v < n_vectors; ++v)
        store(costs + v * kWidth, subtract(load(costs + v * kWidth), least));
    }
    const FastTrellis::Phase& phase = code.phases.data()[code.phase_of[t]];
    const uint16_t* const slices = phase.slices.data();
    const size_t n_slices = n_vectors >> k;
    size_t offsets[size_t{1} << k];
    for (size_t p = 0; p < size_t{1} << k; ++p) offsets[p] = phase.vectors.data()[p] * kWidth;
    const Bytes values =
        load(reinterpret_cast<const uint8_t*>(x) + static_cast<size_t>(t) * kWidth);
    for (size_t s = 0; s < n_slices; ++s)
      step_slice<k>(phase.levels.data() + (s << k) * 16, offsets, phase.interleavings, values,
                    costs + slices[s] * kWidth, costs + row + slices[s] * kWidth);
  }
}

// From the cheapest state at the end back to the beginning.
template <int k>
void trace_back(const FastTrellis& code, const int16_t* x, int n, const uint8_t* costs,
                uint8_t* codes, uint16_t* windows) {
  constexpr unsigned kCodes = 1u << k;
  constexpr size_t kLanes = kWidth / 16;
  const size_t n_states = size_t{1} << code.state_bits, row = n_states * kLanes;
  const int16_t* const levels = code.levels.data();
  unsigned state[kLanes];
  const uint8_t* const last = costs + static_cast<size_t>(n) * row;
  alignas(kWidth) uint8_t cheapest_costs[kWidth];
  store(cheapest_costs, cheapest_of_all(last, n_states / 16));
  for (size_t lane = 0; lane < kLanes; ++lane) {
    size_t place = 0;  // the first of the cheapest
    while (last[place / 16 * kWidth + 16 * lane + place % 16] != cheapest_costs[16 * lane]) ++place;
    state[lane] = code.phases.data()[code.phase_of[n]].state.data()[place];
  }
  for (int t = n - 1; t >= 0; --t) {
    const FastTrellis::Phase& phase = code.phases.data()[code.phase_of[t]];
    const uint16_t *const places = phase.place.data(), *const steps = phase.steps.data();
    const uint8_t* const before = costs + static_cast<size_t>(t) * row;
    if (t >= 3)  // all lanes together touch most of a step's costs, which have left the first cache
      for (size_t line = 0; line < row; line += 64) __builtin_prefetch(before - 3 * row + line);
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const unsigned now = state[lane], rest = now >> k, newest = now & (kCodes - 1),
                     middle = now ^ newest;
      unsigned i =
          newest;  // newest xor oldest; before step `memory` the oldest is one before the block, 0
      if (t >= code.memory) {
        const size_t place = places[rest];
        i = cheapest<k>(before + place / 16 * kWidth + 16 * lane + place % 16,
                        steps + newest * kCodes, levels + middle,
                        x[(static_cast<size_t>(t) * kLanes + lane) * 8]);
      }
      codes[lane * kMaxBlock + static_cast<size_t>(t)] = static_cast<uint8_t>(newest);
      windows[static_cast<size_t>(t) * kLanes + lane] = static_cast<uint16_t>(middle | i);
      state[lane] = rest | (i ^ newest) << (code.state_bits - k);
    }
  }
}

template <int k>
void search_lanes(const FastTrellis& code, const int16_t* x, int n, uint8_t* costs, uint8_t* codes,
                  uint16_t* windows) {
  fill_costs<k>(code, x, n, costs);
  trace_back<k>(code, x, n, costs, codes, windows);
}

void search_of_tier(const FastTrellis& code, const int16_t* x, int n, uint8_t* costs,
                    uint8_t* codes, uint16_t* windows) {
  if (code.code_bits == 2)
    search_lanes<2>(code, x, n, costs, codes, windows);
  else if (code.code_bits == 3)
    search_lanes<3>(code, x, n, costs, codes, windows);
  else
    search_lanes<4>(code, x, n, costs, codes, windows);
}

}  // namespace
}  // namespace hrun
