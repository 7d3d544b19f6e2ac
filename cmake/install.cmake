# cmake/install.cmake - headers, CMake package and pkg-config file; all independent of the architecture.
# SPDX-License-Identifier: MIT
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(package_dir ${CMAKE_INSTALL_DATADIR}/cmake/kvcompress)
set(pkgconfig_dir ${CMAKE_INSTALL_DATADIR}/pkgconfig)

# An export set each, so that a machine without Eigen or xxHash still gets the others.
install(TARGETS kvcompress EXPORT kvcompressTargets FILE_SET HEADERS COMPONENT kvcompress)
install(EXPORT kvcompressTargets NAMESPACE kvcompress:: DESTINATION ${package_dir} COMPONENT kvcompress)
if(TARGET kvcompress_low_rank)
  install(TARGETS kvcompress_low_rank EXPORT kvcompressLowRankTargets FILE_SET HEADERS COMPONENT kvcompress)
  install(EXPORT kvcompressLowRankTargets NAMESPACE kvcompress:: DESTINATION ${package_dir} COMPONENT kvcompress)
endif()

if(TARGET kvcompress_llama_cpp)
  install(TARGETS kvcompress_llama_cpp EXPORT kvcompressLlamaCppTargets FILE_SET HEADERS COMPONENT kvcompress)
  install(EXPORT kvcompressLlamaCppTargets NAMESPACE kvcompress:: DESTINATION ${package_dir} COMPONENT kvcompress)
endif()
if(TARGET kvcompress_persistence)
  install(TARGETS kvcompress_persistence EXPORT kvcompressPersistenceTargets FILE_SET HEADERS COMPONENT kvcompress)
  install(EXPORT kvcompressPersistenceTargets NAMESPACE kvcompress:: DESTINATION ${package_dir} COMPONENT kvcompress)
endif()

configure_package_config_file(cmake/kvcompressConfig.cmake.in kvcompressConfig.cmake
                              INSTALL_DESTINATION ${package_dir} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(kvcompressConfigVersion.cmake COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES ${PROJECT_BINARY_DIR}/kvcompressConfig.cmake ${PROJECT_BINARY_DIR}/kvcompressConfigVersion.cmake
        DESTINATION ${package_dir} COMPONENT kvcompress)

# The prefix is found from the place of the file, so that the installed tree can be moved.
file(RELATIVE_PATH prefix_from_pkgconfig /${pkgconfig_dir} /)
configure_file(cmake/kvcompress.pc.in kvcompress.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/kvcompress.pc DESTINATION ${pkgconfig_dir} COMPONENT kvcompress)
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/licenses/kvcompress COMPONENT kvcompress)
