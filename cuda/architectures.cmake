# For which compute capabilities the CUDA backend is compiled: those of the cards that are here, else of all that it supports.
#
#   cards          lines like "8.9", as `nvidia-smi --query-gpu=compute_cap --format=csv,noheader` prints them, or empty
#   nvcc_version   12.8 is the first that knows 10.0 and 12.0
#
# Code for X.y runs on X.z with z >= y, so 8.0 serves 8.6 and 8.9, and 12.0 serves 12.1; a capability that is not listed gets its code
# from the driver, which compiles the PTX that lies beside each of them (not that of 9.0a).
function(hrun_cuda_architectures result nvcc_version cards)
  set(newest 9)
  set(all 80 90a)
  if(nvcc_version VERSION_GREATER_EQUAL 12.8)
    set(newest 12)
    list(APPEND all 120)
  endif()
  set(here "")
  string(REGEX MATCHALL "[0-9]+\\.[0-9]+" cards "${cards}")
  foreach(card IN LISTS cards)
    string(REGEX REPLACE "\\..*" "" major "${card}")
    if(card VERSION_EQUAL 9.0)
      list(APPEND here 90a)
    elseif(major EQUAL 8)
      string(REPLACE "." "" architecture "${card}")
      list(APPEND here ${architecture})
    elseif(major GREATER_EQUAL 10 AND major LESS_EQUAL newest)
      list(APPEND here ${major}0)
    endif()
  endforeach()
  list(REMOVE_DUPLICATES here)
  list(SORT here)
  if(here)
    set(${result} "${here}" PARENT_SCOPE)
  else()
    set(${result} "${all}" PARENT_SCOPE)
  endif()
endfunction()

function(hrun_cards_here result)
  execute_process(COMMAND nvidia-smi --query-gpu=compute_cap --format=csv,noheader OUTPUT_VARIABLE cards RESULT_VARIABLE failed ERROR_QUIET)
  if(failed)
    set(cards "")
  endif()
  set(${result} "${cards}" PARENT_SCOPE)
endfunction()
