// Which instruction set runs: the best that the processor has, or the one that is asked for.
#pragma once

#include <string>
#include <vector>

#include "plain/copies.h"

namespace fastmaml {

const Isa& current_isa();
std::vector<std::string> supported_isas();  // slowest first
void set_isa(const std::string& name);      // throws std::invalid_argument

}  // namespace fastmaml
