// An engine asks here which tokens a grammar allows next, and is told the answer here.
//
// A caller that knows grammars takes the queries in a thread of its own and answers each of them
// while the model runs the next step; the engine never waits for an answer.  A sequence whose
// answer is late keeps its logits and sits out the steps until the answer is there.
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "base/event_fd.h"
#include "engine/token_mask.h"

namespace hrun {

class RequestHandle;

// Says what one request has drawn.  The answer is the mask of the draw after it.
struct MaskQuery {
  enum class Kind : uint8_t {
    first,  // nothing has been drawn yet
    drawn,  // the token
    ended,  // the request is over, no answer is expected
  };
  uint64_t constraint = 0;  // as the request named it
  std::shared_ptr<RequestHandle> handle;
  Kind kind = Kind::first;
  int32_t token = -1;
};

struct MaskAnswer {
  std::vector<uint32_t> words;  // a TokenMask
  bool complete = false;        // the text is complete and nothing may follow: ends the sequence
  std::exception_ptr error;     // fails it
};

class MaskDesk {
 public:
  // Takes everything that was asked since the last look, in order.
  std::vector<MaskQuery> take();
  // The descriptor is readable while there is something to take, and once the engine is closed.
  int descriptor() const { return asked_.descriptor(); }
  // Is the engine closed? Then nothing more will be asked.
  bool closed() const;

  // Throws ArgumentError where the request expects no answer.  A request that is over takes any
  // answer.
  void answer(RequestHandle& handle, MaskAnswer answer);

 private:
  friend class Engine;
  void ask(MaskQuery query);
  void on_answer(std::function<void()> wake);
  void close();

  const EventFd asked_;
  mutable std::mutex mutex_;
  std::vector<MaskQuery> queries_;
  bool closed_ = false;
  std::mutex wake_mutex_;
  std::function<void()> wake_;
};

}  // namespace hrun
