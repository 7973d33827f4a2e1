// All decoders of the tiers whose registers hold half a panel.
#pragma once

#include "cpu/panels/decode_half.h"
#include "cpu/panels/decode_half_points.h"
