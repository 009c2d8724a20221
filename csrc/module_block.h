#pragma once

#include <nanobind/nanobind.h>

namespace kbnet {

// Adds fusion, feed_forward and cell_sums to the module.
void define_block(nanobind::module_& m);

// Adds the forward and backward passes for training.
void define_training(nanobind::module_& m);

}  // namespace kbnet
