// The unit in which sequences keep their keys and values.
#pragma once

namespace hrun {

// Positions of a page.  Attention goes block by block in the same steps (DESIGN.md, the numeric
// contract), so a page can lie anywhere without a change of bits.
inline constexpr int kPagePositions = 64;

}  // namespace hrun
