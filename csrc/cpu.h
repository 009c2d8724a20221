// The builds of the kernels that this processor can run.
#pragma once

#include <vector>

#include "problem.h"

namespace kbnet {

// Fastest first; `portable` runs on every processor of this architecture.
const std::vector<const Kernels*>& usable_kernels();

}  // namespace kbnet
