// Splits a call into threads and strips of pixels.
#pragma once

#include <vector>

#include "problem.h"

namespace kbnet {

void forward(const Kernels& kernels, ForwardCall call, int threads);

// Writes dweight [N, C, G, k, k] and dbias [N, C] if call.want_weight.
void backward(const Kernels& kernels, BackwardCall call, float* dweight, float* dbias, int threads);

// Adds up the threads' sums of one group, [taps + 1][G * N, padded] each, and writes them as [N, C, taps] and [N, C].
void write_dweight(const Sizes& s, int64_t group, const std::vector<float*>& sums, int64_t pitch, float* dweight,
                   float* dbias);

// A block of KBNet-S, or the fusion half of one of KBNet-L, in inference, and the sums for its channel branch.
// `feed` reads and writes the result of `fusion`; without hidden channels it is left out.
void block(const Kernels& kernels, FusionCall fusion, FeedForwardCall feed, int threads);
void cell_sums(const Kernels& kernels, const SumsCall& call, int threads);

// The attention half of a block, and the sums that it depends on: [B][call.sums()], over all pixels but those at a
// distance of less than `halo` from a side.
void attention(const Kernels& kernels, AttentionCall call, int threads);
void attention_sums(const Kernels& kernels, AttentionCall call, int64_t halo, float* sums, int threads);

// The feed-forward half in training: writes call.y; call.dx and the gradients of the parameters, in their order in the
// call.
void feed_forward_training(const Kernels& kernels, const FeedForwardTrainingCall& call, int threads);
void feed_forward_backward(const Kernels& kernels, const FeedForwardTrainingCall& call, float* const* gradients,
                           int threads);

// The fusion half in training: writes call.y and call.filtered; call.dx and the gradients of the parameters, in order.
void fusion_training(const Kernels& kernels, FusionTrainingCall call, int threads);
void fusion_training_backward(const Kernels& kernels, FusionTrainingCall call, float* const* gradients, int threads);

}  // namespace kbnet
