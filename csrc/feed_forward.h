// The feed-forward half of KBNet-S's block over one tile, and sums over cells for the channel branch.
//
//     y = x + scale * out(gate(in(norm(x))))
//
// Both only read single pixels, so a tile needs no border, and y can be the same memory as x.
#pragma once

#include "fusion.h"

namespace {

using kbnet::FeedForwardCall;
using kbnet::SumsCall;

struct FeedForwardWeights {
    Products products;
    int64_t steps, steps_hidden, half;  // half: rows of one half of `in`, which is packed as two matrices
    float *norm_weight, *norm_bias, *in, *in_bias, *out, *out_bias;
    int64_t floats;

    FeedForwardWeights(const FeedForwardCall& call, float* base) : products(products_for(call.paired)) {
        const int64_t channels = call.sizes.channels, channels4 = round_up(channels, kRows);
        steps = steps_of(products, channels);
        steps_hidden = steps_of(products, call.hidden);
        half = round_up(call.hidden, kRows);
        Arena arena{base};
        norm_weight = arena.take(channels), norm_bias = arena.take(channels);
        in = arena.take(2 * half * steps), in_bias = arena.take(2 * half);
        out = arena.take(channels4 * steps_hidden), out_bias = arena.take(channels4);
        floats = arena.used;
    }
};

inline int64_t feed_forward_packed(const FeedForwardCall& call) { return FeedForwardWeights(call, nullptr).floats; }

inline void feed_forward_pack(const FeedForwardCall& call, float* packed, int64_t part, int64_t parts) {
    const int64_t channels = call.sizes.channels;
    const Share share{part, parts};
    const FeedForwardWeights w(call, packed);
    const Matrix none{};
    pack_share(w.in, call.in, call.hidden, channels, none, w.products, share);
    pack_share(w.in + w.half * w.steps, below(call.in, call.hidden * channels), call.hidden, channels, none,
               w.products, share);
    pack_share(w.out, call.out, channels, call.hidden, call.out_scale, w.products, share);
    if (part > 0) return;
    read_numbers(w.norm_weight, call.norm_weight, 0, channels);
    read_numbers(w.norm_bias, call.norm_bias, 0, channels);
    pack_biases(w.in_bias, call.in_bias, none, call.hidden);
    pack_biases(w.in_bias + w.half, below(call.in_bias, call.hidden), none, call.hidden);
    pack_biases(w.out_bias, call.out_bias, call.out_scale, channels);
}

struct FeedForwardScratch {
    FeedForwardWeights weights;
    int64_t row, dense, vectors, steps, steps_hidden;
    float *u, *u_pairs, *gated, *first, *second, *out;
    int64_t floats;

    FeedForwardScratch(const FeedForwardCall& call, const Tile& tile, float* base)
        : weights(call, const_cast<float*>(call.packed)), steps(weights.steps), steps_hidden(weights.steps_hidden) {
        const int64_t channels = call.sizes.channels;
        row = round_up(tile.cols, kLanes);
        vectors = round_up(tile.rows * row / kLanes, kColumns);
        dense = channel_pitch(vectors * kLanes);
        Arena arena{base};
        u = arena.take(channels * dense);
        u_pairs = weights.products != Products::kFloat ? arena.take(steps * dense) : u;
        gated = arena.take(steps_hidden * dense);
        first = arena.take(16 * dense), second = arena.take(16 * dense), out = arena.take(16 * dense);
        floats = arena.used;
    }
};

inline int64_t feed_forward_scratch(const FeedForwardCall& call, const Tile& largest) {
    return FeedForwardScratch(call, largest, nullptr).floats;
}

template <class Dot>
inline void feed(const FeedForwardCall& call, const Tile& tile, float* scratch) {
    const int64_t channels = call.sizes.channels;
    const FeedForwardScratch k(call, tile, scratch);
    const FeedForwardWeights& w = k.weights;
    const bool in_lanes = w.products != Products::kFloat;
    gather_dense(k.u, k.dense, k.row, call.x, 0, channels, tile);
    normalize(k.u, k.dense, channels, k.dense, w.norm_weight, w.norm_bias, call.eps);
    if (in_lanes) pack_panels(k.u_pairs, k.dense, k.u, k.dense, channels, k.dense, w.products);
    for (int64_t c0 = 0; c0 < call.hidden; c0 += 16) {
        const int64_t n = smaller(16, call.hidden - c0);
        for (int half = 0; half < 2; ++half) {
            const int64_t row = half * w.half + c0;
            product<Dot>(half ? k.second : k.first, k.dense, nullptr, k.u_pairs, k.dense, nullptr, k.vectors,
                         w.in + row * k.steps, w.in_bias + row, n, k.steps);
        }
        float* const to = in_lanes ? k.first : k.gated + c0 * k.dense;
        for (int64_t i = 0; i < n * k.dense; i += kLanes) store(to + i, load(k.first + i) * load(k.second + i));
        if (in_lanes)
            pack_panels(k.gated + steps_of(w.products, c0) * k.dense, k.dense, k.first, k.dense, n, k.dense, w.products);
    }
    finish<Dot>(call, tile, k.out, w.out, w.out_bias, k.gated, k.dense, k.vectors, k.steps_hidden);
}

void feed_forward_tile(const FeedForwardCall& call, const Tile& tile, float* scratch) {
    const MatrixUnit unit;
    if (products_for(call.paired) != Products::kFloat)
        feed<PairDot>(call, tile, scratch);
    else
        feed<FloatDot>(call, tile, scratch);
}

constexpr int64_t kSumsPixels = 128;  // pixels of a row to normalize at a time

inline int64_t sums_scratch(const SumsCall& call) {
    return 2 * call.sizes.channels * (kSumsPixels + 2 * 16) + 64;
}

inline float sum_of(const float* from, int64_t n) {
    float sum = 0.0f;
    int64_t i = 0;
    if (n >= kLanes) {
        Vec lanes{};
        for (; i + kLanes <= n; i += kLanes) lanes += load(from + i);
        for (int lane = 0; lane < kLanes; ++lane) sum += lanes[lane];
    }
    for (; i < n; ++i) sum += from[i];
    return sum;
}

// Sums of one row of cells: first over the rows of pixels, then over the columns in each cell, which is less work.
void sums_row(const SumsCall& call, int64_t image, int64_t grid_row, float* scratch) {
    const Sizes& s = call.sizes;
    Arena arena{scratch};
    float* const weight = arena.take(s.channels);
    float* const bias = arena.take(s.channels);
    float* const u = arena.take(s.channels * kSumsPixels);
    float* const columns = arena.take(s.channels * kSumsPixels);
    const int64_t across = call.grid_cols(), cells = call.grid_rows() * across;
    float* const sums = call.sums + image * s.channels * cells + grid_row * across;
    for (int64_t c = 0; c < s.channels; ++c) {
        weight[c] = element(call.norm_weight, c), bias[c] = element(call.norm_bias, c);
        fill(sums + c * cells, across, 0.0f);
    }
    const int64_t end = smaller(s.height, (grid_row + 1) * call.cell_rows);
    for (int64_t x0 = 0; x0 < s.width; x0 += kSumsPixels) {
        const int64_t n = smaller(kSumsPixels, s.width - x0), wide = round_up(n, kLanes);
        const int64_t first = x0 / call.cell_cols, first_stop = (first + 1) * call.cell_cols - x0;
        fill(columns, s.channels * kSumsPixels, 0.0f);
        for (int64_t y = grid_row * call.cell_rows; y < end; ++y) {
            read_pixels(u, kSumsPixels, call.x, call.x.at(image, 0, y, x0), s.channels, n);
            normalize(u, kSumsPixels, s.channels, wide, weight, bias, call.eps);
            for (int64_t i = 0; i < s.channels * kSumsPixels; i += kLanes)
                store(columns + i, load(columns + i) + load(u + i));
        }
        for (int64_t c = 0; c < s.channels; ++c)
            for (int64_t x = 0, cell = first, stop = first_stop; x < n; ++cell, stop += call.cell_cols) {
                const int64_t until = smaller(n, stop);
                sums[c * cells + cell] += sum_of(columns + c * kSumsPixels + x, until - x);
                x = until;
            }
    }
}

}  // namespace
