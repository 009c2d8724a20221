// Splits a call over threads and strips of pixels.
#pragma once

#include "problem.h"

namespace kbnet {

void forward(const Kernels& kernels, ForwardCall call, int threads);

// dweight [N, C, G, k, k] and dbias [N, C] are written if call.want_weight.
void backward(const Kernels& kernels, BackwardCall call, float* dweight, float* dbias, int threads);

}  // namespace kbnet
