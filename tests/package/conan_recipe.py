# tests/package/conan_recipe.py ROOT OUT - runs the Conan recipe's methods with stand-ins for Conan: sources, package, version.
# SPDX-License-Identifier: MIT
import fnmatch
import importlib.util
import os
import shutil
import sys
import types

root, out = (os.path.abspath(path) for path in sys.argv[1:3])


def copy(_, pattern, src, dst):
    src = os.path.normpath(src)
    copied = []
    for folder, _, names in os.walk(src):
        for name in names:
            path = os.path.relpath(os.path.join(folder, name), src)
            if fnmatch.fnmatch(path, pattern):
                os.makedirs(os.path.dirname(os.path.join(dst, path)), exist_ok=True)
                copied.append(shutil.copy(os.path.join(src, path), os.path.join(dst, path)))
    assert copied, "%s in %s: no such files" % (pattern, src)


def load(_, path):
    with open(path) as file:
        return file.read()


for name in ("conan", "conan.tools", "conan.tools.layout", "conan.tools.files"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["conan"].ConanFile = object
sys.modules["conan.tools.layout"].basic_layout = lambda _: None
sys.modules["conan.tools.files"].copy = copy
sys.modules["conan.tools.files"].load = load

path = os.path.join(root, "cmake", "conan", "conanfile.py")
spec = importlib.util.spec_from_file_location("conanfile", path)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
recipe = module.KvcompressRecipe()
recipe.recipe_folder = os.path.dirname(path)
recipe.export_sources_folder = recipe.source_folder = os.path.join(out, "sources")
recipe.package_folder = os.path.join(out, "package")
recipe.options = types.SimpleNamespace(**recipe.default_options)
required = []
recipe.requires = lambda reference, **_: required.append(reference)
recipe.cpp_info = types.SimpleNamespace(components={part: types.SimpleNamespace(set_property=lambda *_: None)
                                                    for part in ("core", "low_rank", "persistence")}, set_property=lambda *_: None)
recipe.set_version()
recipe.export_sources()
recipe.layout()
recipe.requirements()
recipe.package()
recipe.package_info()
assert len(recipe.version.split(".")) == 3, recipe.version
assert len(required) == 2, required
assert os.path.exists(os.path.join(recipe.package_folder, "include", "kvcompress", "kvcompress.hpp"))
assert os.path.exists(os.path.join(recipe.package_folder, "licenses", "LICENSE"))
print("kvcompress/" + recipe.version, "requires", required)
