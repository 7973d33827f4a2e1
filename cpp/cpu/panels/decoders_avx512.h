// All decoders of the AVX-512 tiers.
#pragma once

#include "cpu/panels/decode_avx512.h"
#include "cpu/panels/decode_avx512_points.h"
#include "cpu/panels/decode_avx512_rtq.h"
