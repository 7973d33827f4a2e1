// The name of the function that a source of kernels exports: HRUN_TIER_PART(attention) is
// kernels_avx2_attention where HRUN_TIER is kernels_avx2.
#pragma once

#define HRUN_JOIN_NAMES(tier, part) tier##_##part
#define HRUN_NAME_OF(tier, part) HRUN_JOIN_NAMES(tier, part)
#define HRUN_TIER_PART(part) HRUN_NAME_OF(HRUN_TIER, part)
