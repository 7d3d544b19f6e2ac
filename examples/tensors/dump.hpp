// examples/tensors/dump.hpp - keys, values and queries of a model, read from a folder: found, matched, checked, as floats.
// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tensors/dump_data.hpp"
#include "tensors/folder.hpp"
#include "tensors/layout.hpp"
#include "tensors/model_config.hpp"

namespace tensors {

/// The arrays of a role: one per layer, or a single one for all.
using ByLayer = std::map<std::size_t, const Array*>;

/// The arrays of each role, found to belong together: the same layers, one shape per role.
class Matched {
 public:
  Matched(const std::string& folder, const std::vector<Found>& found) : folder_(folder) {
    for (const Found& f : found) { add(f); }
    for (const Role role : roles) {
      const ByLayer& arrays = of(role);
      if (arrays.empty()) {
        fail("{}: has no array of {}, must have keys, values and queries; it has {}.", folder, name_of(role), names(found));
      }
      for (const auto& [layer, array] : arrays) {
        if (array->shape != first(role).shape) {
          fail("{}: has shape {}, must have {}, as {}.", array->where(), text(array->shape), text(first(role).shape), first(role).where());
        }
      }
    }
    for (const Role role : {Role::values, Role::queries}) { match_layers(role); }
    const Sizes& keys = first(Role::keys).shape;
    const Sizes& values = first(Role::values).shape;
    if (values.size() != keys.size() || !std::equal(keys.begin(), keys.empty() ? keys.end() : keys.end() - 1, values.begin())) {
      fail("{}: has shape {}, must have the keys' {} but for the last axis ({}).", first(Role::values).where(), text(values), text(keys),
           first(Role::keys).where());
    }
  }

  [[nodiscard]] const ByLayer& of(Role role) const { return arrays_[static_cast<std::size_t>(role)]; }
  [[nodiscard]] const Array& first(Role role) const { return *of(role).begin()->second; }
  [[nodiscard]] bool per_layer() const { return *numbered_; }

 private:
  void add(const Found& f) {
    const bool numbered = f.place.layer.has_value();
    if (numbered_.value_or(numbered) != numbered) {
      fail("{}: its name has {} layer's number, unlike that of {}.", f.array.where(), numbered ? "a" : "no", some_);
    }
    numbered_ = numbered;
    some_ = f.array.where();
    const auto [at, fresh] = arrays_[static_cast<std::size_t>(*f.place.role)].emplace(f.place.layer.value_or(0), &f.array);
    if (!fresh) {
      fail("{} and {} are both {}{}.", at->second->where(), f.array.where(), name_of(*f.place.role),
           numbered ? fmt::format(" of layer {}", *f.place.layer) : "");
    }
  }
  /// A role must have the layers of the keys.
  void match_layers(Role role) const {
    const auto lacks = [&](Role one, Role other) {
      for (const auto& [layer, array] : of(one)) {
        if (!of(other).contains(layer)) {
          fail("{}: layer {} has {} ({}) but no {}.", folder_, layer, name_of(one), array->where(), name_of(other));
        }
      }
    };
    lacks(Role::keys, role);
    lacks(role, Role::keys);
  }
  static std::string names(const std::vector<Found>& found) {
    std::string list;
    constexpr std::size_t most = 6;
    for (std::size_t i = 0; i < std::min(found.size(), most); ++i) {
      list += fmt::format("{}{} ({})", i > 0 ? ", " : "", found[i].array.where(), name_of(*found[i].place.role));
    }
    return list + (found.size() > most ? fmt::format(" and {} more", found.size() - most) : "");
  }

  const std::string& folder_;
  std::array<ByLayer, 3> arrays_;
  std::optional<bool> numbered_;
  std::string some_;
};

/// One layer and sequence of an array as floats (tokens, heads, dim), every one finite.
inline std::vector<float> floats_of(const Array& array, const Bytes& bytes, const Layout& layout, std::size_t layer, std::size_t sequence) {
  const std::array order{Axis::token, Axis::head, Axis::dim};
  std::array<std::size_t, 3> sizes{};
  std::array<std::size_t, 3> strides{};
  for (std::size_t i = 0; i < order.size(); ++i) {
    sizes[i] = size_of(order[i], layout, array.shape);
    strides[i] = stride_of(order[i], layout, array.shape);
  }
  const std::size_t start = layer * stride_of(Axis::layer, layout, array.shape) + sequence * stride_of(Axis::batch, layout, array.shape);
  std::vector<float> floats;
  floats.reserve(sizes[0] * sizes[1] * sizes[2]);
  for (std::size_t t = 0; t < sizes[0]; ++t) {
    for (std::size_t h = 0; h < sizes[1]; ++h) {
      for (std::size_t c = 0; c < sizes[2]; ++c) {
        std::size_t at = start + t * strides[0] + h * strides[1] + c * strides[2];
        const float number = number_at(array.element, bytes.bytes.data() + at * bytes_of(array.element));
        if (!std::isfinite(number)) {
          Sizes index(array.shape);
          for (std::size_t i = index.size(); i-- > 0; at /= array.shape[i]) { index[i] = at % array.shape[i]; }
          fail("{}: has {} at {} of {}, must be finite.", array.where(), number, text(index), text(array.shape));
        }
        floats.push_back(number);
      }
    }
  }
  return floats;
}

inline void read_role(Dump& dump, const Matched& matched, Role role, const Layout& layout, std::vector<float> LayerRows::*into) {
  std::size_t layer = 0;
  for (const auto& [number, array] : matched.of(role)) {
    const Bytes bytes = array->read();  // one array at a time: those of an archive are in memory as long as this
    for (std::size_t inner = 0; inner < size_of(Axis::layer, layout, array->shape); ++inner, ++layer) {
      for (std::size_t s = 0; s < dump.sequences.size(); ++s) {
        dump.sequences[s][layer].*into = floats_of(*array, bytes, layout, inner, s);
      }
    }
  }
  const Array& first = matched.first(role);
  constexpr std::array<std::string_view, 3> types{"f32", "f16", "bf16"};
  dump.read.push_back(fmt::format("{}: {} of {} as {}{}", name_of(role), types[static_cast<std::size_t>(first.element)], text(first.shape),
                                  text(layout), matched.per_layer() ? ", one array per layer" : ""));
}

/// The layout that was asked for, if it fits every array.
inline Layouts given_layout(std::string_view option, const Layout& layout, const Matched& matched) {
  for (const Role role : roles) {
    const Array& array = matched.first(role);
    if (array.shape.size() != layout.size()) {
      fail("{}: has shape {}, must have the {} axes of {} {}.", array.where(), text(array.shape), layout.size(), option, text(layout));
    }
  }
  if (matched.per_layer() && std::find(layout.begin(), layout.end(), Axis::layer) != layout.end()) {
    fail("{}: is one layer, by its name, but {} {} has a layer axis.", matched.first(Role::keys).where(), option, text(layout));
  }
  return {layout, layout};
}

/// Whether sizes of keys, values and queries fit each other; the arrays' names stand in the sentence.
inline void check_sizes(const Matched& matched, const Layouts& layouts) {
  const Array& keys = matched.first(Role::keys);
  const Array& values = matched.first(Role::values);
  const Array& queries = matched.first(Role::queries);
  const auto refuse = [&](const char* what, std::size_t found, const char* bound, std::size_t expected) {
    fail("{}: has shape {}, as {} {} {}, must have {} {} ({}: {}).", queries.where(), text(queries.shape), text(layouts.queries), found,
         what, bound, expected, keys.where(), text(keys.shape));
  };
  const auto of_keys = [&](Axis axis) { return size_of(axis, layouts.keys, keys.shape); };
  const auto of_queries = [&](Axis axis) { return size_of(axis, layouts.queries, queries.shape); };
  for (const Axis axis : {Axis::layer, Axis::batch, Axis::dim}) {
    if (of_keys(axis) != of_queries(axis)) { refuse(std::string(name_of(axis)).c_str(), of_queries(axis), "the keys'", of_keys(axis)); }
  }
  if (of_queries(Axis::head) % of_keys(Axis::head) != 0) {
    refuse("heads", of_queries(Axis::head), "a multiple of the keys'", of_keys(Axis::head));
  }
  if (of_queries(Axis::token) > of_keys(Axis::token)) {
    refuse("tokens", of_queries(Axis::token), "at most the keys'", of_keys(Axis::token));
  }
  for (const Axis axis : {Axis::head, Axis::token}) {
    if (of_keys(axis) != size_of(axis, layouts.keys, values.shape)) {
      fail("{}: has shape {}, must have the keys' {} {}.", values.where(), text(values.shape), of_keys(axis), name_of(axis));
    }
  }
}

/// Reads a folder or a file. `layout`: what the axes are, where that is not to be found out; `option` is what it is called to the user.
inline Dump read_dump(const std::filesystem::path& path, std::string_view option, const std::optional<Layout>& layout) {
  const std::string folder = path.string();
  const std::vector<Found> found = find_arrays(path);
  const Matched matched(folder, found);
  const Array& keys = matched.first(Role::keys);
  const Array& queries = matched.first(Role::queries);
  Dump dump;
  dump.config =
      read_model_config(std::filesystem::is_directory(path) ? path : path.parent_path(), keys.shape.empty() ? 0 : keys.shape.back());
  const LayoutFacts facts{keys.shape,          queries.shape,        keys.where(),           queries.where(),
                          matched.per_layer(), dump.config.kv_heads, dump.config.query_heads};
  const Layouts layouts = layout ? given_layout(option, *layout, matched) : find_layouts(option, facts);
  check_sizes(matched, layouts);
  dump.tokens = size_of(Axis::token, layouts.keys, keys.shape);
  dump.kv_heads = size_of(Axis::head, layouts.keys, keys.shape);
  dump.key_dim = size_of(Axis::dim, layouts.keys, keys.shape);
  dump.value_dim = size_of(Axis::dim, layouts.keys, matched.first(Role::values).shape);
  dump.queries = size_of(Axis::token, layouts.queries, queries.shape);
  dump.query_heads = size_of(Axis::head, layouts.queries, queries.shape);
  for (const auto& [number, array] : matched.of(Role::keys)) {
    for (std::size_t i = 0; i < size_of(Axis::layer, layouts.keys, keys.shape); ++i) { dump.layers.push_back(number + i); }
  }
  dump.sequences.assign(size_of(Axis::batch, layouts.keys, keys.shape), std::vector<LayerRows>(dump.layers.size()));
  read_role(dump, matched, Role::keys, layouts.keys, &LayerRows::keys);
  read_role(dump, matched, Role::values, layouts.keys, &LayerRows::values);
  read_role(dump, matched, Role::queries, layouts.queries, &LayerRows::queries);
  return dump;
}

}  // namespace tensors
