#include "bindings/gil.h"

#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "base/error.h"

namespace nb = nanobind;

namespace hrun::bindings {
namespace {

// At exit, calls of other threads are waited for this long; those that poll end within a layer.
constexpr auto kExitWait = std::chrono::seconds(2);

std::atomic<int> calls{0};       // threads in WithoutGil
thread_local int own_calls = 0;  // 1 in such a thread
std::atomic<bool> exiting{false};
std::thread::id exiting_thread;  // written before `exiting`

void enter() {
  ++own_calls;
  ++calls;
}

void leave() noexcept {
  --calls;
  --own_calls;
}

void end_calls() {
  exiting_thread = std::this_thread::get_id();
  exiting = true;
  PyThreadState* const state = PyEval_SaveThread();
  const auto end = std::chrono::steady_clock::now() + kExitWait;
  while (calls > own_calls && std::chrono::steady_clock::now() < end)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  PyEval_RestoreThread(state);
}

}  // namespace

// The process ends without this thread.
void detail::wait_for_the_end() noexcept {
  for (;;) pause();
}

void require_running() {
  if (exiting && std::this_thread::get_id() != exiting_thread) throw InterpreterExit();
}

WithoutGil::WithoutGil() {
  require_running();
  enter();
  state_ = PyEval_SaveThread();
}

WithoutGil::~WithoutGil() {
  detail::or_wait_for_the_end([this] { PyEval_RestoreThread(state_); });
  leave();
}

CallMutex::CallMutex() : process_(getpid()) {}

std::unique_lock<std::mutex> CallMutex::wait() {
  std::unique_lock lock(mutex_, std::try_to_lock);
  if (lock) return lock;
  if (getpid() != process_)
    throw DeviceError(
        "another thread was using this object at fork(); create it in the child process, or use "
        "spawn");
  lock.lock();
  return lock;
}

void init_gil(nb::module_& m) {
  pthread_atfork(nullptr, nullptr, [] { calls = own_calls; });  // the other threads stayed behind
  nb::register_exception_translator([](const std::exception_ptr& error, void*) {
    try {
      std::rethrow_exception(error);
    } catch (const InterpreterExit&) { PyErr_SetNone(PyExc_SystemExit); }
  });
  m.def("require_running", &require_running,
        "Raises SystemExit once the interpreter is ending, except in the thread that ends it.");
  m.def("end_calls", &end_calls,
        "What happens at exit: calls of other threads end with SystemExit, from now on.");
  nb::module_::import_("atexit").attr("register")(m.attr("end_calls"));
}

}  // namespace hrun::bindings
