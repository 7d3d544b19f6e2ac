# cmake/sanitizers.cmake - building targets with sanitizers, and starting them in a way in which these work.
# SPDX-License-Identifier: MIT

# The command that programs with these sanitizers are started with: GCC 12's runtimes fail on kernels that spread
# addresses over more than 28 bits, so address randomisation is turned off where that is allowed.
# Sets <result> to that command, to "" when none is needed, or to NOTFOUND when such programs do not run here.
function(kvcompress_sanitizer_launcher result sanitizers)
  string(MAKE_C_IDENTIFIER KVCOMPRESS_LAUNCHER_${sanitizers} cache)
  if(NOT DEFINED ${cache})
    set(program ${PROJECT_BINARY_DIR}/CMakeFiles/sanitizer_probe_${sanitizers})
    try_compile(compiled SOURCE_FROM_CONTENT probe.cpp "int main() { return 0; }"
                COMPILE_DEFINITIONS -fsanitize=${sanitizers} LINK_OPTIONS -fsanitize=${sanitizers}
                COPY_FILE ${program})
    set(found NOTFOUND)
    if(compiled)
      foreach(launcher IN ITEMS "" "setarch;--addr-no-randomize")
        execute_process(COMMAND ${launcher} ${program} RESULT_VARIABLE failed OUTPUT_QUIET ERROR_QUIET)
        if(failed STREQUAL "0")
          set(found "${launcher}")
        endif()
      endforeach()
    endif()
    if(found STREQUAL "NOTFOUND")
      message(STATUS "Programs with -fsanitize=${sanitizers} do not run on this machine: their tests are disabled")
    endif()
    set(${cache} "${found}" CACHE INTERNAL "Starts programs built with -fsanitize=${sanitizers}")
  endif()
  set(${result} "${${cache}}" PARENT_SCOPE)
endfunction()

# kvcompress_sanitize(<target> <PRIVATE|INTERFACE> <sanitizers>): asserts are on; the first finding ends the program.
function(kvcompress_sanitize target scope sanitizers)
  target_compile_options(${target} ${scope}
    -fsanitize=${sanitizers} -fno-sanitize-recover=all -fno-omit-frame-pointer -g1 -UNDEBUG
    -Og  # compiles in half the time of -O1 and runs eight times as fast as -O0
    # GCC's manual: sanitizers raise the rate of false positives of this one.
    $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
  target_link_options(${target} ${scope} -fsanitize=${sanitizers})
endfunction()
