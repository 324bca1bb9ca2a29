// A network from what Python says of its layers: checked, and with what can be fused into one layer fused.
#pragma once

#include <string>
#include <tuple>
#include <vector>

#include "host/core.h"

namespace fastmaml {

// kind, in, out, weight offset, bias offset, eps
using LayerTuple = std::tuple<std::string, Index, Index, Index, Index, double>;

// Of a layer on images: sizes in and out, kernel, stride and padding, each y then x. Of another: nothing.
using Geometry = std::vector<Index>;

// Throws std::invalid_argument.
void require(bool condition, const char* what);

// counts: elements of each parameter. Throws std::invalid_argument for what is no network.
Model make_model(const std::vector<LayerTuple>& tuples, const std::string& loss, const std::vector<Index>& counts,
                 const std::vector<Geometry>& geometry);

}  // namespace fastmaml
