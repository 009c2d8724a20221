// The builds of the kernels that this processor can run.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "problem.h"

namespace kbnet {

// Fastest first; `portable` runs on every processor of this architecture.
const std::vector<const Kernels*>& usable_kernels();

// The names of the other builds, and why this process can't run them.
const std::vector<std::pair<std::string, std::string>>& unusable_kernels();

// The fastest, or those that the environment variable KBNET_INSTRUCTION_SET names. Throws std::invalid_argument if it
// names no usable ones.
const Kernels& chosen_kernels();

}  // namespace kbnet
