// Averages over an image for the channel branch of a block: one value per channel, or one per cell of pixels.
#pragma once

#include "engine.h"
#include "work.h"

namespace kbnet {

struct Grid {
    Floats values;  // [batch][channels][rows][cols]
    int64_t batch = 0, rows = 1, cols = 1;
    int64_t cell = 1;  // side of a cell in pixels
};

// Averages of the normalized image that `sums` describes (this sets its sums and cells), as the context requires.
// `site` is the index of the block, `input_height` the height of the network's padded input.
Grid averages(const Kernels& kernels, SumsCall sums, Context& context, std::size_t site, int64_t input_height,
              int threads);

// Memory in floats of a level's averages with a local context, and of what the channel branch makes of them. All levels
// count, because memory is kept for the next block. The window is in input pixels.
int64_t averages_floats(const Sizes& level, int64_t hidden, int64_t window, int64_t input_height);

// Means over a window of cells around each cell, shifted inwards at borders; the mean of all cells, [1][1], if it
// covers them all.
void sliding_mean(Grid& grid, int64_t channels, int64_t window, int threads);

}  // namespace kbnet
