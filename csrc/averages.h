// Averages over an image for the channel branch of a block: one value a channel, or one a cell of pixels.
#pragma once

#include "engine.h"

namespace kbnet {

struct Grid {
    std::vector<float> values;  // [batch][channels][rows][cols]
    int64_t batch = 0, rows = 1, cols = 1;
    int64_t cell = 1;  // side of a cell, pixels
};

// Averages of the normalised image that `sums` describes (its sums and cells are set here), as the context wants them;
// `site` counts the blocks, `input_height` is that of the network's padded input.
Grid averages(const Kernels& kernels, SumsCall sums, Context& context, std::size_t site, int64_t input_height,
              int threads);

// Mean over a window of cells around each cell, moved inwards at borders; all cells' mean, [1][1], if it covers them.
void sliding_mean(Grid& grid, int64_t channels, int64_t window, int threads);

}  // namespace kbnet
