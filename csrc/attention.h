// Transposed attention over one tile: the second half of KBNet-L's block (Restormer, arXiv 2111.09881, section 3.1).
//
//     q, k, v = depthwise(W norm(x));  y = x + out(attention v)
//
// The attention matrix mixes channels, and depends on the image only through sums over its pixels. So there are two
// passes, which both compute what they need from x and store nothing larger than a tile: one adds up the sums, the other
// computes y. A matrix that mixes the channels of v within each head, followed by `out`, is one matrix for all channels.
#pragma once

#include "fusion.h"
#include "planar.h"

namespace {

using kbnet::AttentionCall;

struct AttentionScratch {
    Field field;
    int64_t dense, steps, each;
    int32_t *tile_at, *around_at, *offsets;
    float *norm_weight, *norm_bias, *u, *u_pairs, *first, *left, *right, *out, *weight, *bias;
    int64_t floats;

    // `sums`: of the first pass, which needs a head's queries and keys; the second needs all values.
    AttentionScratch(const AttentionCall& call, const Tile& tile, bool sums, float* base)
        : field(tile, 1, call.sizes.height, call.sizes.width) {
        const int64_t channels = call.sizes.channels;
        dense = field.dense();
        each = channels / call.heads;
        steps = call.paired ? (channels + 1) / 2 : channels;
        Arena arena{base};
        const int64_t room = Vectors::room(field.rows + 2, field.pitch);
        tile_at = reinterpret_cast<int32_t*>(arena.take(room));
        around_at = reinterpret_cast<int32_t*>(arena.take(room));
        offsets = reinterpret_cast<int32_t*>(arena.take(9));
        norm_weight = arena.take(channels), norm_bias = arena.take(channels);
        u = arena.take(channels * field.floats);
        u_pairs = call.paired ? arena.take(steps * field.floats) : u;
        first = arena.take(16 * field.floats);
        left = arena.take((sums ? each : channels) * dense);
        right = arena.take((sums ? each : call.paired ? steps : 0) * dense);
        out = arena.take(16 * dense);
        weight = arena.take(16 * steps);
        bias = arena.take(16);
        floats = arena.used;
    }
};

inline int64_t attention_scratch(const AttentionCall& call, const Tile& largest) {
    return larger(AttentionScratch(call, largest, true, nullptr).floats,
                  AttentionScratch(call, largest, false, nullptr).floats);
}

// to = depthwise(W u) for the rows [c0, c0 + n) of W, dense
template <class Dot>
inline void project(const AttentionCall& call, const AttentionScratch& k, float* to, int64_t c0, int64_t n,
                    const Vectors& tile, const Vectors& around) {
    for (int64_t c = 0; c < n; c += 16) {
        const int64_t rows = smaller(16, n - c);
        pointwise<Dot>(call, k, k.first, call.qkv, call.qkv_bias, c0 + c, rows, around);
        depthwise(k, to + c * k.dense, k.dense, nullptr, k.first, call.conv, call.conv_bias, c0 + c, rows, 3, tile);
    }
}

inline void prepare(const AttentionCall& call, const AttentionScratch& k, const Tile& tile) {
    const int64_t channels = call.sizes.channels;
    for (int64_t c = 0; c < channels; ++c)
        k.norm_weight[c] = element(call.norm_weight, c), k.norm_bias[c] = element(call.norm_bias, c);
    gather_field(k.u, k.field, call.x, 0, channels, tile);
    normalize(k.u, k.field.floats, channels, k.field.floats, k.norm_weight, k.norm_bias, call.eps);
    k.field.zero_outside(k.u, channels);
    if (call.paired) pair_panels(k.u_pairs, k.field.floats, k.u, k.field.floats, channels, k.field.floats);
}

// Zeros behind the rows of a dense panel, which sums over its pixels must not see.
inline void clear_tails(const AttentionScratch& k, float* panel, int64_t channels, const Tile& tile) {
    const int64_t row = k.field.vectors_across() * kLanes;
    for (int64_t c = 0; c < channels; ++c, panel += k.dense) {
        for (int64_t r = 0; r < tile.rows; ++r) fill(panel + r * row + tile.cols, row - tile.cols, 0.0f);
        fill(panel + tile.rows * row, k.dense - tile.rows * row, 0.0f);
    }
}

// sums += [heads][C / heads][C / heads] products of queries and keys, [C] squares of queries, [C] squares of keys
template <class Dot>
inline void add_attention_sums(const AttentionCall& call, const Tile& tile, float* scratch, float* sums) {
    const int64_t channels = call.sizes.channels;
    const AttentionScratch k(call, tile, true, scratch);
    const Vectors at = k.field.tile_vectors(k.tile_at), around = k.field.inside_vectors(k.around_at, 1);
    prepare(call, k, tile);
    float* const squares = sums + channels * k.each;
    for (int64_t c0 = 0; c0 < channels; c0 += k.each) {
        project<Dot>(call, k, k.left, c0, k.each, at, around);
        project<Dot>(call, k, k.right, channels + c0, k.each, at, around);
        clear_tails(k, k.left, k.each, tile), clear_tails(k, k.right, k.each, tile);
        add_outer(sums + c0 * k.each, k.left, k.each, k.right, k.each, k.dense);
        for (int64_t c = 0; c < k.each; ++c) {
            squares[c0 + c] += row_dot(k.left + c * k.dense, k.left + c * k.dense, k.dense);
            squares[channels + c0 + c] += row_dot(k.right + c * k.dense, k.right + c * k.dense, k.dense);
        }
    }
}

template <class Dot>
inline void attend(AttentionCall call, const Tile& tile, float* scratch) {
    const int64_t channels = call.sizes.channels;
    const AttentionScratch k(call, tile, false, scratch);
    const Vectors at = k.field.tile_vectors(k.tile_at), around = k.field.inside_vectors(k.around_at, 1);
    prepare(call, k, tile);
    project<Dot>(call, k, k.left, 2 * channels, channels, at, around);
    if (call.paired) pair_panels(k.right, k.dense, k.left, k.dense, channels, k.dense);
    if (call.out_batch > 1)
        call.out.data = static_cast<const float*>(call.out.data) + tile.image * channels * channels;
    finish<Dot>(call, tile, k.out, k.weight, k.bias, call.paired ? k.right : k.left, k.dense, at.count, channels, k.steps);
}

void attention_sums_tile(const AttentionCall& call, const Tile& tile, float* scratch, float* sums) {
    if (call.paired)
        add_attention_sums<PairDot>(call, tile, scratch, sums);
    else
        add_attention_sums<FloatDot>(call, tile, scratch, sums);
}

void attention_tile(const AttentionCall& call, const Tile& tile, float* scratch) {
    if (call.paired)
        attend<PairDot>(call, tile, scratch);
    else
        attend<FloatDot>(call, tile, scratch);
}

}  // namespace
