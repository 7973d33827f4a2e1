// Giving up and taking the GIL, also where the interpreter is ending.
//
// CPython up to 3.13 ends a thread that asks for the GIL of an ending interpreter by
// pthread_exit(), later versions let it wait for ever.  The former unwinds the stack, and would
// meet destructors that must not throw: these classes stop it where it begins.  Before that, at
// exit, calls of other threads are asked to end and waited for.
#pragma once

#include <cxxabi.h>
#include <nanobind/nanobind.h>

#include <mutex>
#include <utility>

namespace hrun::bindings {

// Thrown to end a call when the interpreter ends; Python sees SystemExit, which ends a thread
// silently.
struct InterpreterExit {};

// Throws InterpreterExit once the interpreter is ending, except in the thread that ends it.
void require_running();

// No GIL from construction to destruction.  What it guards may be constructed and destroyed without
// the GIL.  Throws InterpreterExit.
class WithoutGil {
 public:
  WithoutGil();
  ~WithoutGil();
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  PyThreadState* state_;
};

// Calls fn() with the GIL, inside WithoutGil.  Throws InterpreterExit.
template <class Function>
auto with_gil(Function&& fn);

// Makes calls on one object take turns.  Nobody waits for it with the GIL, since a call that has it
// asks for the GIL now and then.  Functions passed must not touch Python.
class CallMutex {
 public:
  CallMutex();

  // For calls that take long.
  template <class Function>
  auto call_without_gil(Function&& fn) {
    const WithoutGil release;
    const std::unique_lock lock = wait();
    return std::forward<Function>(fn)();
  }

  // For calls that take little time: gives the GIL up only if it must wait.
  template <class Function>
  auto call(Function&& fn) {
    if (const std::unique_lock lock(mutex_, std::try_to_lock); lock)
      return std::forward<Function>(fn)();
    return call_without_gil(std::forward<Function>(fn));
  }

  // Waits without the GIL.  Throws DeviceError in a forked child where a thread of the parent had
  // the lock.
  std::unique_lock<std::mutex> wait();

 private:
  std::mutex mutex_;
  int process_;
};

// Registers what happens at exit.
void init_gil(nanobind::module_& m);

namespace detail {

[[noreturn]] void wait_for_the_end() noexcept;

// Calls fn(), in which Python may end this thread.
template <class Function>
auto or_wait_for_the_end(Function&& fn) {
#if defined(__GLIBCXX__)
  try {
    return std::forward<Function>(fn)();
  } catch (abi::__forced_unwind&) { wait_for_the_end(); }
#else
  return std::forward<Function>(fn)();  // elsewhere pthread_exit() does not unwind
#endif
}

struct Gil {
  PyGILState_STATE state = or_wait_for_the_end([] { return PyGILState_Ensure(); });
  ~Gil() { PyGILState_Release(state); }
};

}  // namespace detail

template <class Function>
auto with_gil(Function&& fn) {
  require_running();
  const detail::Gil gil;
  return detail::or_wait_for_the_end(std::forward<Function>(fn));
}

}  // namespace hrun::bindings
