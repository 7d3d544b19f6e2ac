# cmake/vcpkg/kvcompress/portfile.cmake - installs the clone it stands in.
# SPDX-License-Identifier: MIT
set(VCPKG_BUILD_TYPE release)  # only headers
get_filename_component(SOURCE_PATH "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)

vcpkg_cmake_configure(
  SOURCE_PATH "${SOURCE_PATH}"
  OPTIONS
    -DKVCOMPRESS_BUILD_TESTS=OFF
    -DKVCOMPRESS_BUILD_BENCH=OFF
    -DKVCOMPRESS_BUILD_EXAMPLES=OFF
    -DKVCOMPRESS_FETCH=OFF
)
vcpkg_cmake_install()
vcpkg_cmake_config_fixup(CONFIG_PATH share/cmake/kvcompress)
vcpkg_fixup_pkgconfig()
file(REMOVE_RECURSE "${CURRENT_PACKAGES_DIR}/debug" "${CURRENT_PACKAGES_DIR}/lib")
vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE")
