// Encoding by path search in eight-bit costs: some twenty times as fast as trellis.h for 1 to 3 %
// more error.
//
// All states are searched, as there, but costs are bytes: branch costs are squared errors, rounded
// to about two thirds of the error of an average step and cut, so that a sum fits a byte without
// saturation (which AVX-512 has on one port only); sums are cut too, and every few steps the
// cheapest cost is taken off all. No decisions are stored: the costs of all states after every step
// are, and the way back asks at each step again which predecessor was the cheapest.
//
// The 2^(k m) costs of a block lie in vectors of 16 bytes.  The four lowest bits of a place are the
// byte in a vector, the others the number of the vector.  A step wants the oldest code of the
// window among the latter (then it is additions and minima of whole vectors) and puts the newest in
// its place.  The next oldest code gets there by interleaving the bytes of pairs of vectors: this
// pushes one bit of the newest code into the lowest bit of the byte number and pops the highest, a
// queue.  So the meaning of the places changes from step to step; a Phase describes one such
// meaning.
//
// Vectors of 32 or 64 bytes are two or four blocks side by side, so every instruction set does the
// same arithmetic and finds the same paths.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "formats/format.h"
#include "encode/trellis.h"

namespace hrun {

inline constexpr int kLargestBranch = 127;
inline constexpr int kLargestCost = 128;   // also of states that no path has reached
inline constexpr int kStepsPerOffset = 4;  // steps between two subtractions of the cheapest cost

struct FastTrellis {
  // One meaning of places; arrays indexed by the number of a slice: the vectors that differ only in
  // the oldest code.
  struct Phase {
    // [slice][newest xor oldest code][variant][16 places] level times units
    std::vector<int16_t> levels;
    std::vector<uint16_t> slices;   // [slice] its first vector
    std::vector<uint16_t> vectors;  // [oldest code] number of its vector from there
    int interleavings;  // after the step, of vectors whose newest codes differ in bit 0, 1, ...
    std::vector<uint16_t> place;  // [state] 16 * vector + byte
    std::vector<uint16_t> state;  // [place]
    std::vector<uint16_t>
        steps;  // [newest code][newest xor oldest code] place of this oldest code, from that of 0
  };
  explicit FastTrellis(const TrellisCode& code);

  int code_bits, free_bits, memory, state_bits;  // code_bits: without free bits (trellis.h)
  // A level of 1 is this many units.  Beyond 255, a difference of a level and a value need not fit
  // 16 bits, but what is left of it there still costs the most.  Levels are then even and values
  // odd, because no difference may be -2^15, which has no square.
  float units;
  bool odd_values;
  std::vector<float> lowest,
      highest;  // [step, the last for all further ones] what values are cut to, in units
  std::vector<Phase> phases;
  uint8_t phase_of[kMaxBlock + 1];  // the layout of costs before step t
  std::vector<int16_t> levels;      // [variant][window with oldest code 0], in units
};

// The FastTrellis of a registered format's code, made on first use.
const FastTrellis& fast_trellis(const TrellisCode& code);

// Finds the paths of `lanes` blocks of n values.
// x: [step][lane][8] the value in units, eight times.  costs: [n + 1 steps][vector][lane][16],
// those before step 0 given. codes: [lane][kMaxBlock], without free bits.
struct LaneSearch {
  std::string_view name;
  int lanes;  // blocks searched at once
  void (*run)(const FastTrellis& code, const int16_t* x, int n, uint8_t* costs, uint8_t* codes);
};

// The searches that this CPU can run, slowest first.
std::span<const LaneSearch> lane_searches();

// Does the same as encode_trellis_row, for `rows` rows one after the other; blocks that are far
// from Gaussian are left to the exact search.  The result does not depend on the search that is
// given.
void encode_trellis_rows_fast(const TrellisCode& code, const FastTrellis& fast,
                              const float* weights, int64_t rows, int64_t cols, uint8_t* out,
                              const LaneSearch& search = lane_searches().back());

}  // namespace hrun
