// One sequence as the scheduler knows it: tokens, how far they are computed, and where.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "engine/page_pool.h"

namespace hrun {

using SequenceId = uint64_t;  // from 1, never used twice

enum class LogitRows : uint8_t { none, last, all };

struct SequenceParameters {
  int32_t priority = 0;    // class; a smaller number goes first
  std::string client;      // who shares fairly with others
  std::string salt;        // only sequences of equal salt share cached pages
  int64_t max_tokens = 0;  // to be appended to the prompt at most
  // The rows of the prompt whose logits are wanted: the last row (to draw a token), all (its
  // log-probabilities; such a sequence takes no cached prefix but fills the cache), or none (it is
  // computed for its own sake).
  LogitRows logits = LogitRows::last;
  int64_t wanted_from = 0;  // of all rows: the first whose logits are wanted
  bool reuse_prefix = true;
  // Ends of turns within the prompt, ascending: a recurrent state is worth keeping there.
  std::vector<int64_t> turn_ends;
};

enum class SequenceState : uint8_t {
  waiting,  // holds no pages
  running,  // holds pages; every token but those from n_computed on is in them
};

struct Sequence {
  SequenceId id = 0;
  SequenceParameters parameters;
  int64_t arrival_us = 0;
  SequenceState state = SequenceState::waiting;

  std::vector<int32_t> tokens;  // prompt, then what was drawn
  int64_t n_prompt = 0;
  int64_t n_computed = 0;      // positions in the pages
  std::vector<PageId> pages;   // of positions 0, 64, 128, ...
  std::vector<int32_t> draft;  // guesses of the tokens after the last, for the next step only
  int32_t state_slot = -1;     // of the recurrent state at n_computed, where the model has one

  // Logits that the caller waits for: of the last row, or of all rows from wanted_from on.
  LogitRows wanted = LogitRows::last;
  int64_t wanted_from = 0;

  int64_t n_done = 0;    // positions that a step has computed, even if their pages are gone
  int64_t n_cached = 0;  // positions that came out of the cache when it was first admitted
  int64_t n_preemptions = 0;

  int64_t size() const { return static_cast<int64_t>(tokens.size()); }
  // Positions that are to be computed: the token that reaches max_tokens is not.
  int64_t goal() const {
    const bool all_drawn = parameters.max_tokens > 0 && size() >= n_prompt + parameters.max_tokens;
    return all_drawn ? n_prompt + parameters.max_tokens - 1 : size();
  }
  bool has_work() const { return n_done < goal(); }
  // Rows from here on have logits that the caller waits for.
  int64_t first_wanted() const {
    if (wanted == LogitRows::none) return size();
    return wanted == LogitRows::all ? std::max(wanted_from, n_done) : size() - 1;
  }
};

}  // namespace hrun
