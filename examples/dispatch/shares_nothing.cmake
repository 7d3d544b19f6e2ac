# examples/dispatch/shares_nothing.cmake - no function is defined in two of the OBJECTS: the linker would keep one of them, whatever its flags.
# SPDX-License-Identifier: MIT
cmake_minimum_required(VERSION 3.25)

set(seen "")
foreach(object IN LISTS OBJECTS)
  execute_process(COMMAND ${NM} --defined-only ${object} OUTPUT_VARIABLE table COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCHALL "[0-9a-f]+ [TWVu] [^\n]+" symbols "${table}")
  list(TRANSFORM symbols REPLACE "^[0-9a-f]+ . " "")
  list(FILTER symbols EXCLUDE REGEX "^DW\\.ref\\.__gxx_personality_v0$")  # a pointer, the same in all programs
  list(LENGTH symbols count)
  if(count EQUAL 0)
    message(FATAL_ERROR "${object} defines nothing")
  endif()
  foreach(symbol IN LISTS symbols)
    if(symbol IN_LIST seen)
      message(SEND_ERROR "${object} and a file before it define ${symbol}")
    endif()
  endforeach()
  list(APPEND seen ${symbols})
endforeach()
