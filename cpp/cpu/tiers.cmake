# The CPU tiers, worst first.  The sources in kernels/ are compiled once for each; adding a tier is one line here.
#   hrun_cpu_tier(NAME PROCESSORS LANES PANELS DECODERS FLAGS FEATURES)
# PROCESSORS: regular expression for CMAKE_SYSTEM_PROCESSOR.  LANES, PANELS, DECODERS: the headers
# lanes/LANES.h, panels/PANELS.h and panels/decoders_DECODERS.h; PANELS is empty where the tier
# reads no panels.  Byte lanes are lanes/bytes_LANES.h where LANES has its own, else
# lanes/bytes_portable.h.  FLAGS: of the compiler.  FEATURES: what the CPU must have, by the names
# in cpp/base/cpu_features.cpp.
set(HRUN_X86 "x86_64|AMD64|amd64")
set(HRUN_ARM "aarch64|arm64")
set(HRUN_CPU_TIERS "" CACHE STRING "The CPU tiers to build, e.g. scalar;avx2; HERE for those that this machine runs; empty for all")
set(HRUN_KERNEL_PARTS matrices attention vectors)  # the files in kernels/, and the members of TierEntry
set(hrun_tier_declarations "")
set(hrun_tier_entries "")
set(hrun_tier_features "")

# The definitions by which kernel headers find the tier's own.
function(hrun_tier_headers out lanes panels decoders)
  set(bytes portable)
  if(EXISTS ${CMAKE_SOURCE_DIR}/cpp/cpu/lanes/bytes_${lanes}.h)
    set(bytes ${lanes})
  endif()
  set(definitions "HRUN_LANES=\"cpu/lanes/${lanes}.h\"" "HRUN_BYTES=\"cpu/lanes/bytes_${bytes}.h\"")
  if(panels)
    list(APPEND definitions "HRUN_PANELS=\"cpu/panels/${panels}.h\""
                            "HRUN_DECODERS=\"cpu/panels/decoders_${decoders}.h\"")
  endif()
  set(${out} "${definitions}" PARENT_SCOPE)
endfunction()

# Does HRUN_CPU_TIERS leave the tier out?
function(hrun_tier_left_out out name features)
  set(left_out OFF)
  if(HRUN_CPU_TIERS STREQUAL "HERE")
    file(STRINGS /proc/cpuinfo here REGEX "^(flags|Features)" LIMIT_COUNT 1)
    string(REGEX REPLACE "[-_]" "" here " ${here} ")
    string(REGEX REPLACE "[-_]" "" features "${features}")
    separate_arguments(features)
    foreach(feature IN LISTS features)
      if(NOT here MATCHES " ${feature} ")
        set(left_out ON)
      endif()
    endforeach()
  elseif(HRUN_CPU_TIERS AND NOT name IN_LIST HRUN_CPU_TIERS)
    set(left_out ON)
  endif()
  set(${out} ${left_out} PARENT_SCOPE)
endfunction()

function(hrun_cpu_tier name processors lanes panels decoders flags features)
  if(NOT CMAKE_SYSTEM_PROCESSOR MATCHES "^(${processors})$")
    return()
  endif()
  hrun_tier_left_out(left_out ${name} "${features}")
  if(left_out)
    return()
  endif()
  separate_arguments(flags)
  add_library(hrun_kernels_${name} OBJECT)
  foreach(part IN LISTS HRUN_KERNEL_PARTS)
    target_sources(hrun_kernels_${name} PRIVATE ${CMAKE_SOURCE_DIR}/cpp/cpu/kernels/${part}.cpp)
  endforeach()
  target_include_directories(hrun_kernels_${name} PRIVATE ${CMAKE_SOURCE_DIR}/cpp)
  hrun_tier_headers(definitions "${lanes}" "${panels}" "${decoders}")
  target_compile_definitions(hrun_kernels_${name} PRIVATE HRUN_TIER=kernels_${name} ${definitions})
  # -O3 for the vectorisation of what is written as plain loops; under sanitizers it would take minutes for nothing.
  set(vectorise "$<$<NOT:$<CONFIG:Debug>>:-O3>")
  if(HRUN_SANITIZE)  # a list with a comma, which $<BOOL:> does not take
    set(vectorise "")
  endif()
  # Kernels do not throw: a handler would bring a weak symbol.  The warnings are wrong about arrays of which the first n
  # entries are written and read, once everything is inlined into one function, and about GCC's own AVX-512 header.
  target_compile_options(hrun_kernels_${name} PRIVATE ${HRUN_WARNINGS} -Wno-uninitialized -Wno-maybe-uninitialized
                         -fno-exceptions ${flags} ${vectorise})
  string(JOIN "\n" declarations "const MatrixKernels& kernels_${name}_matrices();" "const AttentionKernels& kernels_${name}_attention();"
         "const VectorKernels& kernels_${name}_vectors();\n")
  list(TRANSFORM HRUN_KERNEL_PARTS PREPEND kernels_${name}_ OUTPUT_VARIABLE functions)
  string(JOIN ", " functions ${functions})
  set(hrun_tier_declarations "${hrun_tier_declarations}${declarations}" PARENT_SCOPE)
  set(hrun_tier_entries "${hrun_tier_entries}    {\"${name}\", \"${features}\", ${functions}},\n" PARENT_SCOPE)
  set(hrun_tier_features "${hrun_tier_features}    {\"${name}\", \"${features}\"},\n" PARENT_SCOPE)
  set(hrun_tier_objects ${hrun_tier_objects} $<TARGET_OBJECTS:hrun_kernels_${name}> PARENT_SCOPE)
endfunction()

hrun_cpu_tier(scalar ".*" scalar "" "" "" "")
hrun_cpu_tier(avx2 "${HRUN_X86}" avx2 avx2 half "-mavx2 -mfma -mf16c -mbmi -mbmi2" "avx2 fma f16c bmi1 bmi2")
hrun_cpu_tier(avx2vnni "${HRUN_X86}" avx2 avx2 half "-mavx2 -mfma -mf16c -mbmi -mbmi2 -mavxvnni" "avx2 fma f16c bmi1 bmi2 avxvnni")
set(HRUN_AVX512_FLAGS "-mavx2 -mfma -mf16c -mbmi -mbmi2 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mavx512vbmi \
-mprefer-vector-width=512")
set(hrun_avx512_features "avx2 fma f16c bmi1 bmi2 avx512f avx512bw avx512dq avx512vl avx512vnni avx512vbmi")
hrun_cpu_tier(avx512 "${HRUN_X86}" avx512 avx512 avx512 "${HRUN_AVX512_FLAGS}" "${hrun_avx512_features}")
hrun_cpu_tier(amx "${HRUN_X86}" avx512 avx512 avx512 "${HRUN_AVX512_FLAGS} -mamx-tile -mamx-int8" "${hrun_avx512_features} amx-tile amx-int8")

hrun_cpu_tier(neon "${HRUN_ARM}" neon neon half "-march=armv8.2-a+dotprod" "asimddp")
hrun_cpu_tier(neoni8mm "${HRUN_ARM}" neon neon half "-march=armv8.2-a+dotprod+i8mm" "asimddp i8mm")

file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/generated/cpu_tier_list.h @ONLY CONTENT
"// Written by cpp/cpu/tiers.cmake.
#pragma once

#include \"cpu/tiers.h\"

namespace hrun {
@hrun_tier_declarations@
inline constexpr TierEntry kTierList[] = {
@hrun_tier_entries@};
}  // namespace hrun
")

file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/generated/cpu_tier_features.h @ONLY CONTENT
"// Written by cpp/cpu/tiers.cmake.
#pragma once

#include <string_view>

namespace hrun {
struct TierFeatures {
  std::string_view name, features;
};
inline constexpr TierFeatures kTierFeatures[] = {
@hrun_tier_features@};
}  // namespace hrun
")
target_include_directories(hrun_base PRIVATE ${CMAKE_BINARY_DIR}/generated)

hrun_room(cpu hrun_formats)
target_sources(hrun_cpu PRIVATE ${hrun_tier_objects})
target_include_directories(hrun_cpu PRIVATE ${CMAKE_BINARY_DIR}/generated)
