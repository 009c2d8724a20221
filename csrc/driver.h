// Splits a call over threads and strips of pixels.
#pragma once

#include "problem.h"

namespace kbnet {

void forward(const Kernels& kernels, ForwardCall call, int threads);

// dweight [N, C, G, k, k] and dbias [N, C] are written if call.want_weight.
void backward(const Kernels& kernels, BackwardCall call, float* dweight, float* dbias, int threads);

// The halves of a block in inference, and the sums its channel branch needs; see problem.h.
void fusion(const Kernels& kernels, FusionCall call, int threads);
void feed_forward(const Kernels& kernels, FeedForwardCall call, int threads);
void cell_sums(const Kernels& kernels, const SumsCall& call, int threads);

// The gradients of the feed-forward half: call.dx, and those of the parameters in the order of the call's pointers.
void feed_forward_backward(const Kernels& kernels, const FeedForwardBackwardCall& call, float* const* gradients,
                           int threads);

}  // namespace kbnet
