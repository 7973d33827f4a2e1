// One word for code that must run on the host and on a CUDA device.
//
// On the host it forces inlining: the same header is compiled once per CPU tier, and an ordinary
// inline function would leave a weak symbol of which the linker keeps one copy, perhaps the AVX-512
// one, for every CPU.
#pragma once

#if defined(__CUDACC__)
#define HRUN_HD __host__ __device__ __forceinline__
#else
#define HRUN_HD inline __attribute__((always_inline))
#endif
