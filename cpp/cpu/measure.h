// The limits of the machine, which hrun-bench measures beside what it does.
#pragma once

#include <string_view>

namespace hrun {

// Bytes per second that n_threads threads read from memory: the best of several passes over a
// buffer well above the last-level cache.  Throws OutOfMemoryError.
double measure_read_bandwidth(int n_threads);

// Seconds of a loop over all threads of a pool of n_threads, in which each thread only waits until
// all are there: the loop is started and joined, and the threads meet and leave.  It is the tenth
// percentile of many loops: the cost while every thread has a core.
double measure_barrier(int n_threads);

// Integer operations (a product and an addition are two) per second of the int8 multiply-add that
// the tier's matmul kernels use, all threads on registers only.
double measure_int8_peak(int n_threads, std::string_view tier);

}  // namespace hrun
