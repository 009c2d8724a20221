// Transposed attention of a block of KBNet-L: its averages over the image, the matrix that they give, and the result.
#pragma once

#include "engine.h"

namespace kbnet {

// y = x + attention(x), for `call.out` [C, C]. Takes three averages from the context, or adds them to it, as the modules
// do: the products of queries and keys, and the squares of each. `site` is the index of the first.
void transposed_attention(const Kernels& kernels, AttentionCall call, const Matrix& temperature, Context& context,
                          std::size_t site, int64_t input_height, int threads);

}  // namespace kbnet
