// The convolutions outside the blocks of a network, each over one tile.
//
//     same    3x3 with zero padding: the first and the last layer
//     down    2x2 with a stride of 2: half the resolution
//     up      1x1, then pixels shuffled into 2x2: twice the resolution
//     mix     1x1, on the averages of a block's channel branch, or on an image
//     unshuffle, shuffle   3x3, then pixels taken apart or shuffled: half or twice the resolution, in KBNet-L
//
// Most can add another image to their result: the input of the network, or a skip connection. `edge_pack` packs the
// weights for a call, as the rows of outputs that register tiles read.
#pragma once

#include "dense.h"

namespace {

using kbnet::Edge;
using kbnet::EdgeCall;

inline bool is_3x3(Edge kind) { return kind == Edge::kSame || kind == Edge::kUnshuffle || kind == Edge::kShuffle; }

// Number of inputs of one output, in the order of the packed weights.
inline int64_t edge_inner(const EdgeCall& call) {
    return call.channels * (is_3x3(call.kind) ? 9 : call.kind == Edge::kDown ? 4 : 1);  // 1: kUp, kMix
}

// Outputs of the convolution, before any shuffling.
inline int64_t edge_outputs(const EdgeCall& call) {
    if (call.kind == Edge::kUp || call.kind == Edge::kShuffle) return 4 * call.out_channels;
    return call.kind == Edge::kUnshuffle ? call.out_channels / 4 : call.out_channels;
}

int64_t edge_packed(const EdgeCall& call) { return round_up(edge_outputs(call), kRows) * edge_inner(call); }

void edge_pack(const EdgeCall& call, float* packed) {
    pack_rows(packed, call.weight, 0, edge_outputs(call), edge_inner(call), Matrix{}, Products::kFloat);
}

struct EdgeScratch {
    int64_t row, dense, vectors;
    int32_t *at, *offsets;
    float *panel, *out, *bias;
    int64_t floats;

    EdgeScratch(const EdgeCall& call, const Tile& tile, float* base) {
        const Field field(tile, is_3x3(call.kind), call.height, call.width);
        row = round_up(tile.cols, kLanes);
        vectors = round_up(tile.rows * row / kLanes, kColumns);
        dense = channel_pitch(vectors * kLanes);
        Arena arena{base};
        at = reinterpret_cast<int32_t*>(arena.take(Vectors::room(field.rows, field.pitch)));
        offsets = reinterpret_cast<int32_t*>(arena.take(edge_inner(call)));
        panel = arena.take(is_3x3(call.kind) ? call.channels * field.floats : edge_inner(call) * dense);
        out = arena.take(16 * dense);
        bias = arena.take(round_up(edge_outputs(call), kRows));
        floats = arena.used;
    }
};

int64_t edge_scratch(const EdgeCall& call, const Tile& largest) { return EdgeScratch(call, largest, nullptr).floats; }

// y = out + added, output channels [c0, c0 + n)
inline void put(const EdgeCall& call, const Tile& tile, const EdgeScratch& k, int64_t c0, int64_t n) {
    if (call.added.data)
        for (int64_t r = 0; r < tile.rows; ++r)
            for (int64_t c = 0; c < n; ++c) {
                const float* from = static_cast<const float*>(call.added.data) +
                                    call.added.at(tile.image, c0 + c, tile.row0 + r, tile.col0);
                float* to = k.out + c * k.dense + r * k.row;
                for (int64_t x = 0; x < tile.cols; ++x) to[x] += from[x * call.added.stride_x];
            }
    scatter_dense(call.y, k.out, k.dense, k.row, c0, n, tile);
}

// Shuffles output channels [4 * c0, 4 * (c0 + n)) of a tile of x into 2x2 pixels of channels [c0, c0 + n) of y.
inline void put_twice(const EdgeCall& call, const Tile& tile, const EdgeScratch& k, int64_t c0, int64_t n) {
    float* const y = static_cast<float*>(call.y.data);
    const float* const added = static_cast<const float*>(call.added.data);
    for (int64_t c = 0; c < n; ++c)
        for (int64_t r = 0; r < tile.rows; ++r)
            for (int64_t u = 0; u < 2; ++u) {
                const float* even = k.out + (4 * c + 2 * u) * k.dense + r * k.row;
                const float* odd = even + k.dense;
                float* to = y + call.y.at(tile.image, c0 + c, 2 * (tile.row0 + r) + u, 2 * tile.col0);
                if (!added) {
                    for (int64_t i = 0; i < tile.cols; ++i) to[2 * i] = even[i], to[2 * i + 1] = odd[i];
                    continue;
                }
                const float* plus = added + call.added.at(tile.image, c0 + c, 2 * (tile.row0 + r) + u, 2 * tile.col0);
                for (int64_t i = 0; i < tile.cols; ++i) {
                    to[2 * i] = even[i] + plus[2 * i];
                    to[2 * i + 1] = odd[i] + plus[2 * i + 1];
                }
            }
}

// Takes the pixels of output channels [c0, c0 + n) of a tile of x apart, into four channels of y each.
inline void put_halves(const EdgeCall& call, const Tile& tile, const EdgeScratch& k, int64_t c0, int64_t n) {
    float* const y = static_cast<float*>(call.y.data);
    for (int64_t c = 0; c < n; ++c)
        for (int64_t r = 0; r < tile.rows; ++r) {
            const float* from = k.out + c * k.dense + r * k.row;
            const int64_t row = tile.row0 + r, channel = 4 * (c0 + c) + 2 * (row % 2);
            for (int64_t i = 0; i < tile.cols; ++i) {
                const int64_t col = tile.col0 + i;
                y[call.y.at(tile.image, channel + col % 2, row / 2, col / 2)] = from[i];
            }
        }
}

inline void convolve_3x3(const EdgeCall& call, const Tile& tile, const EdgeScratch& k) {
    const Field field(tile, 1, call.height, call.width);
    const Vectors at = field.tile_vectors(k.at);
    const int64_t inner = edge_inner(call);
    gather_field(k.panel, field, call.x, 0, call.channels, tile);
    tap_offsets(k.offsets, call.channels, field.floats, 3, field.pitch);
    for (int64_t c0 = 0; c0 < edge_outputs(call); c0 += 16) {
        const int64_t n = smaller(16, edge_outputs(call) - c0);
        for (int64_t c = c0; c < c0 + n; c += kRows)
            convolve<FloatDot, kRows>(k.out + (c - c0) * k.dense, k.dense, nullptr, k.panel, at, k.offsets, inner,
                                      call.packed + c * inner, k.bias + c);
        if (call.kind == Edge::kSame)
            put(call, tile, k, c0, n);
        else if (call.kind == Edge::kShuffle)
            put_twice(call, tile, k, c0 / 4, n / 4);
        else
            put_halves(call, tile, k, c0, n);
    }
}

// Panels of the four pixels that are combined into one, [channels][2][2][dense].
inline void gather_halves(const EdgeCall& call, const Tile& tile, const EdgeScratch& k) {
    const float* x = static_cast<const float*>(call.x.data);
    for (int64_t c = 0; c < call.channels; ++c)
        for (int64_t u = 0; u < 2; ++u)
            for (int64_t r = 0; r < tile.rows; ++r) {
                const float* from = x + call.x.at(tile.image, c, 2 * (tile.row0 + r) + u, 2 * tile.col0);
                float* even = k.panel + (4 * c + 2 * u) * k.dense + r * k.row;
                float* odd = even + k.dense;
                for (int64_t i = 0; i < tile.cols; ++i) even[i] = from[2 * i], odd[i] = from[2 * i + 1];
            }
}

// y = W panel + bias
inline void multiply(const EdgeCall& call, const Tile& tile, const EdgeScratch& k) {
    const int64_t inner = edge_inner(call);
    for (int64_t c0 = 0; c0 < call.out_channels; c0 += 16) {
        const int64_t n = smaller(16, call.out_channels - c0);
        product<FloatDot>(k.out, k.dense, nullptr, k.panel, k.dense, nullptr, k.vectors, call.packed + c0 * inner,
                          k.bias + c0, n, inner);
        put(call, tile, k, c0, n);
    }
}

inline void halve(const EdgeCall& call, const Tile& tile, const EdgeScratch& k) {
    gather_halves(call, tile, k);
    multiply(call, tile, k);
}

inline void mix(const EdgeCall& call, const Tile& tile, const EdgeScratch& k) {
    gather_dense(k.panel, k.dense, k.row, call.x, 0, call.channels, tile);
    multiply(call, tile, k);
}

// The tile is one of x; each of its pixels becomes 2x2 pixels of y.
inline void twice(const EdgeCall& call, const Tile& tile, const EdgeScratch& k) {
    const int64_t inner = edge_inner(call);
    gather_dense(k.panel, k.dense, k.row, call.x, 0, call.channels, tile);
    for (int64_t c0 = 0; c0 < call.out_channels; c0 += 4) {
        const int64_t n = smaller(4, call.out_channels - c0);
        product<FloatDot>(k.out, k.dense, nullptr, k.panel, k.dense, nullptr, k.vectors, call.packed + 4 * c0 * inner,
                          k.bias + 4 * c0, 4 * n, inner);
        put_twice(call, tile, k, c0, n);
    }
}

void edge_tile(const EdgeCall& call, const Tile& tile, float* scratch) {
    const EdgeScratch k(call, tile, scratch);
    for (int64_t i = 0; i < round_up(edge_outputs(call), kRows); ++i)
        k.bias[i] = i < edge_outputs(call) ? bias_of(call.bias, Matrix{}, i) : 0.0f;
    switch (call.kind) {
        case Edge::kSame: case Edge::kUnshuffle: case Edge::kShuffle: return convolve_3x3(call, tile, k);
        case Edge::kDown: return halve(call, tile, k);
        case Edge::kUp: return twice(call, tile, k);
        case Edge::kMix: return mix(call, tile, k);
    }
}

}  // namespace
