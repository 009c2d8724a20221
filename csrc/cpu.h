// Which builds of the kernels this processor can run.
#pragma once

#include <vector>

#include "problem.h"

namespace kbnet {

// The fastest first; the last one runs on every processor of this architecture.
const std::vector<const Kernels*>& usable_kernels();

}  // namespace kbnet
