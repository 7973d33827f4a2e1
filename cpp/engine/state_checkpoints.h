// The recurrent states that were kept: models with recurrent layers can only go on from there.
//
// The state of a sequence lives in a slot, and a slot can be kept as a checkpoint: the state after
// the first n positions of a page and all pages before it.  The pool forgets checkpoints with the
// contents of their page.  Their number is bounded by the slots; the least recently used one goes
// first.  Not thread-safe: the engine's thread owns it.
#pragma once

#include <cstdint>
#include <list>
#include <optional>
#include <unordered_map>
#include <vector>

#include "engine/page_pool.h"

namespace hrun {

class StateCheckpoints {
 public:
  // n_slots: for running sequences and checkpoints together.  grid: checkpoints are kept at
  // multiples of it (of kPagePositions) while a prompt is read.
  StateCheckpoints(int64_t n_slots, int64_t grid);

  int64_t n_slots() const { return static_cast<int64_t>(slots_.size()); }
  int64_t n_checkpoints() const { return static_cast<int64_t>(used_.size()); }
  int64_t n_live() const {
    return n_slots() - n_checkpoints() - static_cast<int64_t>(free_.size());
  }

  // The first position after `first`, at most `end`, where the state should be kept: the next
  // multiple of the grid; while a prompt of n_prompt tokens is read also the next end of a turn and
  // the start of the last page.
  int64_t next_stop(int64_t first, int64_t end, int64_t n_prompt,
                    const std::vector<int64_t>& turn_ends) const;
  bool worth_keeping(int64_t position, int64_t n_prompt,
                     const std::vector<int64_t>& turn_ends) const {
    return position > 0 &&
           next_stop(position - 1, position + grid_, n_prompt, turn_ends) == position;
  }
  int64_t grid() const { return grid_; }

  // Takes a slot for a running sequence or a state to be saved; the oldest checkpoint makes room.
  // -1: all are live.
  int32_t take();
  void give_back(int32_t slot);
  // A taken slot becomes the checkpoint after n positions (1 .. 64) of a page; given back if there
  // is one already.
  void keep(int32_t slot, PageId page, int64_t n);

  struct Checkpoint {
    int32_t slot;
    int64_t n;
  };
  // The last checkpoint within the first at_most positions of a page.
  std::optional<Checkpoint> last(PageId page, int64_t at_most) const;
  void touch(int32_t slot);   // it was used now
  void forget(int32_t slot);  // if it is a checkpoint

  // The pool calls these.
  void forget_beyond(PageId page, int64_t n);
  void move(PageId from, PageId to);

 private:
  struct Slot {
    PageId page = kNoPage;
    int64_t n = 0;
    std::list<int32_t>::iterator used;
  };
  void drop(int32_t slot);

  int64_t grid_;
  std::vector<Slot> slots_;
  std::vector<int32_t> free_;
  std::list<int32_t> used_;  // checkpoints, least recently used first
  std::unordered_map<PageId, std::vector<int32_t>> of_page_;
};

}  // namespace hrun
