// One sequence: a position, its KV cache, and the model that continues it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/cache.h"
#include "model/forward.h"
#include "model/model.h"
#include "engine/samplers.h"

namespace hrun {

struct SessionOptions {
  int64_t n_ctx = 0;      // 0: what the model was trained with
  int64_t n_batch = 512;  // tokens per pass; the result does not depend on it
  std::string type_k = "f16";
  std::string type_v = "f16";
};

enum class Logits : uint8_t {
  none,
  last,
  all,
  kept /* the last, on the device until they are asked for */
};

class Session {
 public:
  Session(std::shared_ptr<const Model> model, const SessionOptions& options);

  // Appends tokens and computes logits into logits() [rows, n_vocab].  Throws ArgumentError for an
  // id outside the vocabulary, ContextOverflowError before any work if they do not fit, and the
  // errors that `poll` throws (it is called at least once per layer and pass); the session then
  // stands where it stood before the call.  In a part of a model, `states` come from the part
  // before and go to the next one; the session begins at position 0.
  void forward(std::span<const int32_t> tokens, Logits which,
               const std::function<void()>& poll = {}, MatmulObserver* observer = nullptr,
               LayerStates states = {});

  // Runs forward() and draws the next token: on the device if it can, so that no logits travel.
  int32_t next(std::span<const int32_t> tokens, Sampler& sampler,
               const std::function<void()>& poll = {});

  int64_t n_past() const { return n_past_; }
  int64_t n_ctx() const { return n_ctx_; }
  const Model& model() const { return *model_; }
  // Forgets everything from position n on; n <= n_past().  Returns the position from which the next
  // forward() has to go on: n or, where recurrent states or coded pages cannot be cut, the last one
  // before; it then computes the tokens between once more, to the same bits.  The last kRedoTokens
  // positions that were computed can always be had.
  static constexpr int64_t kRedoTokens = 16;
  int64_t truncate(int64_t n);
  size_t memory_bytes() const;
  // For measurements of long contexts: the pages up to position n get the contents of the second
  // page, and the session stands at n as if it had read so many tokens.  What it computes from then
  // on takes the time that it should, and means nothing.  Throws ArgumentError.
  void pretend(int64_t n);

  // The logits of the last forward(): [n_logit_rows, n_vocab].
  std::span<const float> logits() const { return logits_; }
  std::span<const float> last_logits();

 private:
  void pass(std::span<const int32_t> tokens, int64_t first, Logits which, float* logits,
            const std::function<void()>& poll, MatmulObserver* observer, LayerStates states);

  // Recurrent layers.  One slot has the state at state_at_, others are kept.  Some of these serve
  // the redo log, whose records are those of the positions [log_from_, log_end_): the state at
  // position p of that stretch, and all records from p on, give each state behind it.
  struct KeptState {
    int32_t slot;
    int64_t position;
    bool for_redo = false;
  };
  void keep_state();
  int32_t free_slot(bool for_redo);
  void drop_oldest(bool for_redo);
  void restore_state(int64_t position);
  bool reaches(int64_t from, int64_t to) const {  // by redoing
    return from == to || (from >= log_from_ && from <= to && to <= log_end_);
  }
  void log_pass(RowSpan& span, int64_t left);
  void forget_states_beyond(int64_t n) {
    std::erase_if(kept_, [&](const KeptState& kept) { return kept.position > n; });
  }
  bool can_write(int64_t position) const;
  int64_t start_before(int64_t most) const;

  std::shared_ptr<const Model> model_;
  int64_t n_ctx_;
  int64_t n_past_ = 0;
  std::vector<int32_t> tokens_;  // n_past_ of them
  int64_t n_computed_ = 0;       // positions in the cache; those up to n_past_ are computed again
  ModelCache cache_;
  std::vector<KeptState> kept_;  // the least recently kept first
  int32_t state_slot_ = 0;
  int64_t state_at_ = 0;  // -1: nowhere
  int64_t log_from_ = 0, log_end_ = 0;
  std::vector<int32_t> pages_;         // of the one sequence: all, in order
  std::vector<Workspace> workspaces_;  // one per backend
  BatchRows rows_;
  std::vector<int32_t> wanted_;  // rows of a pass whose logits are wanted
  std::vector<float> logits_;
  bool logits_kept_ = false;
};

}  // namespace hrun
