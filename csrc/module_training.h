#pragma once

#include <nanobind/nanobind.h>

namespace kbnet {

// Adds the forward and backward passes for training.
void define_training(nanobind::module_& m);

}  // namespace kbnet
