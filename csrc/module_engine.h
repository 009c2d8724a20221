#pragma once

#include <nanobind/nanobind.h>

namespace kbnet {

void define_engine(nanobind::module_& m);

}  // namespace kbnet
