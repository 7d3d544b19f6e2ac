# tests/package/consumers.cmake - the same programs, whatever way the library came in.
# SPDX-License-Identifier: MIT
enable_testing()

foreach(property IN ITEMS INTERFACE_COMPILE_OPTIONS INTERFACE_COMPILE_DEFINITIONS)
  get_target_property(leak kvcompress::kvcompress ${property})
  if(leak)
    message(FATAL_ERROR "kvcompress::kvcompress imposes ${property} on its consumers: ${leak}")
  endif()
endforeach()

add_executable(consumer ../consumer.cpp)
target_link_libraries(consumer PRIVATE kvcompress::kvcompress)
add_test(NAME consumer COMMAND consumer)

if(WITH_LOW_RANK)
  add_executable(low_rank_consumer ../low_rank_consumer.cpp)
  target_link_libraries(low_rank_consumer PRIVATE kvcompress::low_rank)
  add_test(NAME low_rank_consumer COMMAND low_rank_consumer)
endif()

if(WITH_PERSISTENCE)
  add_executable(persistence_consumer ../persistence_consumer.cpp)
  target_link_libraries(persistence_consumer PRIVATE kvcompress::persistence)
  add_test(NAME persistence_consumer COMMAND persistence_consumer)
endif()
