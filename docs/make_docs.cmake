# docs/make_docs.cmake - runs Doxygen where it is installed, and fails on any warning.
# SPDX-License-Identifier: MIT
if(NOT DOXYGEN)
  message("Doxygen is not installed (Debian: doxygen): documentation is skipped")
  return()
endif()
execute_process(COMMAND ${DOXYGEN} ${DOXYFILE} RESULT_VARIABLE result OUTPUT_VARIABLE text ERROR_VARIABLE text)
if(NOT result EQUAL 0 OR text MATCHES "warning:|error:")
  message(FATAL_ERROR "Doxygen complains:\n${text}")
endif()
get_filename_component(folder ${DOXYFILE} DIRECTORY)
message("${folder}/html/index.html")
