// Bilinear interpolation between the cells of a grid of averages, for the pixels of a tile.
#pragma once

#include "problem.h"
#include "strips.h"

namespace {

using kbnet::FusionCall;
using kbnet::Tile;

// Position of a pixel between the centres of cells, as in torch's bilinear interpolation with align_corners=False.
struct Between {
    int64_t low, high;
    float share;  // weight of `high`

    Between(int64_t pixel, int64_t cell, int64_t cells) {
        float at = (static_cast<float>(pixel) + 0.5f) / static_cast<float>(cell) - 0.5f;
        if (at < 0) at = 0;
        low = smaller(static_cast<int64_t>(at), cells - 1);
        high = smaller(low + 1, cells - 1);
        share = at - static_cast<float>(low);
    }
};

// Interpolation along a row, as a short sum for each vector of pixels: the cells near it, times their weights.
struct Columns {
    int64_t vectors;
    int64_t most, used;  // cells per vector: at most, and here
    int32_t* first;      // [vectors], the first of its cells
    float* weights;      // [vectors][most][kLanes]

    Columns() = default;
    // A vector crosses the centres of at most (kLanes - 1) / cell + 1 cells; one more cell is left of them, one right.
    Columns(const FusionCall& call, int64_t vectors_, Arena& arena)
        : vectors(vectors_), most(smaller((kLanes - 1) / call.cell + 3, call.grid_cols)), used(most) {
        first = reinterpret_cast<int32_t*>(arena.take(round_up(vectors, 16)));
        weights = arena.take(vectors * most * kLanes);
    }

    void prepare(const FusionCall& call, const Tile& tile) {
        used = 1;
        fill(weights, vectors * most * kLanes, 0.0f);
        for (int64_t x = 0; x < vectors * kLanes; ++x) {
            const Between b(tile.col0 + smaller(x, tile.cols - 1), call.cell, call.grid_cols);
            const int64_t j = x / kLanes, lane = x % kLanes;
            if (lane == 0) first[j] = static_cast<int32_t>(smaller(b.low, call.grid_cols - most));
            float* const to = weights + j * most * kLanes + lane;
            to[(b.low - first[j]) * kLanes] += 1.0f - b.share;
            to[(b.high - first[j]) * kLanes] += b.share;
            used = larger(used, b.high - first[j] + 1);
        }
    }

    // to = the row of cells `from`, between its columns
    void interpolate(float* to, const float* from) const {
        for (int64_t j = 0; j < vectors; ++j) {
            const float *const cells = from + first[j], *const w = weights + j * most * kLanes;
            Vec sum = load(w) * cells[0];
            for (int64_t i = 1; i < used; ++i) sum += load(w + i * kLanes) * cells[i];
            store(to + j * kLanes, sum);
        }
    }
};

}  // namespace
