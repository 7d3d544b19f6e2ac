# cmake/conan/conanfile.py - Conan 2: `conan create cmake/conan` in a clone makes the package from the clone's headers.
# SPDX-License-Identifier: MIT
import os
import re

from conan import ConanFile
from conan.tools.layout import basic_layout
from conan.tools.files import copy, load

required_conan_version = ">=2.0"


class KvcompressRecipe(ConanFile):
    name = "kvcompress"
    description = "Header-only C++20 library that compresses the KV caches of language models"
    license = "MIT"
    topics = ("llm", "kv-cache", "quantization", "header-only")
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"
    options = {"low_rank": [True, False], "persistence": [True, False]}
    default_options = {"low_rank": True, "persistence": True}
    no_copy_source = True

    @property
    def _root(self):
        return os.path.join(self.recipe_folder, os.pardir, os.pardir)

    def set_version(self):
        text = load(self, os.path.join(self._root, "include", "kvcompress", "core", "version.hpp"))
        self.version = ".".join(re.findall(r"version_(?:major|minor|patch) = (\d+);", text))

    def export_sources(self):
        for pattern in ("LICENSE", "include/*"):
            copy(self, pattern, src=self._root, dst=self.export_sources_folder)

    def layout(self):
        basic_layout(self)

    def requirements(self):
        if self.options.low_rank:
            self.requires("eigen/3.4.0", transitive_headers=True)
        if self.options.persistence:
            self.requires("xxhash/[>=0.8]", transitive_headers=True)

    def package_id(self):
        self.info.clear()

    def package(self):
        copy(self, "LICENSE", src=self.source_folder, dst=os.path.join(self.package_folder, "licenses"))
        for pattern in ("*.hpp", "*.h"):
            copy(self, pattern, src=os.path.join(self.source_folder, "include"), dst=os.path.join(self.package_folder, "include"))

    def package_info(self):
        self.cpp_info.bindirs = []
        self.cpp_info.libdirs = []
        self.cpp_info.set_property("cmake_file_name", "kvcompress")
        core = self.cpp_info.components["core"]
        core.set_property("cmake_target_name", "kvcompress::kvcompress")
        core.set_property("pkg_config_name", "kvcompress")
        if self.options.low_rank:
            self.cpp_info.components["low_rank"].set_property("cmake_target_name", "kvcompress::low_rank")
            self.cpp_info.components["low_rank"].requires = ["core", "eigen::eigen"]
        if self.options.persistence:
            self.cpp_info.components["persistence"].set_property("cmake_target_name", "kvcompress::persistence")
            self.cpp_info.components["persistence"].requires = ["core", "xxhash::xxhash"]
