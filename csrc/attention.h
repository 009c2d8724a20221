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

struct AttentionWeights {
    Products products;
    int64_t steps, matrix;  // matrix: floats of one image's `out`
    float *norm_weight, *norm_bias, *qkv, *qkv_bias, *conv, *conv_bias, *out, *out_bias;
    int64_t floats;

    AttentionWeights(const AttentionCall& call, float* base) : products(products_for(call.paired)) {
        const int64_t channels = call.sizes.channels, channels4 = round_up(channels, kRows);
        steps = steps_of(products, channels);
        matrix = channels4 * steps;
        Arena arena{base};
        norm_weight = arena.take(channels), norm_bias = arena.take(channels);
        qkv = arena.take(round_up(3 * channels, kRows) * steps), qkv_bias = arena.take(round_up(3 * channels, kRows));
        conv = arena.take(27 * channels), conv_bias = arena.take(3 * channels);
        out = arena.take(call.out_batch * matrix), out_bias = arena.take(channels4);
        floats = arena.used;
    }
};

inline int64_t attention_packed(const AttentionCall& call) { return AttentionWeights(call, nullptr).floats; }

inline void attention_pack(const AttentionCall& call, float* packed, int64_t part, int64_t parts) {
    const int64_t channels = call.sizes.channels;
    const Share share{part, parts};
    const AttentionWeights w(call, packed);
    const Matrix none{};
    pack_share(w.qkv, call.qkv, 3 * channels, channels, none, w.products, share);
    for (int64_t b = 0; b < call.out_batch; ++b)
        pack_share(w.out + b * w.matrix, below(call.out, b * channels * channels), channels, channels, none, w.products,
                   share);
    if (part > 0) return;
    read_numbers(w.norm_weight, call.norm_weight, 0, channels);
    read_numbers(w.norm_bias, call.norm_bias, 0, channels);
    read_numbers(w.conv, call.conv, 0, 27 * channels);
    for (int64_t c = 0; c < 3 * channels; ++c) w.conv_bias[c] = bias_of(call.conv_bias, none, c);
    pack_biases(w.qkv_bias, call.qkv_bias, none, 3 * channels);
    pack_biases(w.out_bias, call.out_bias, none, channels);
}

struct AttentionScratch {
    AttentionWeights weights;
    Field field;
    int64_t dense, steps, each;
    int32_t *tile_at, *around_at, *offsets;
    float *u, *u_pairs, *first, *left, *right, *out, *unaligned_weight, *unaligned_bias;
    int64_t floats;

    bool in_lanes() const { return weights.products != Products::kFloat; }

    // `sums`: of the first pass, which needs a head's queries and keys; the second needs all values.
    AttentionScratch(const AttentionCall& call, const Tile& tile, bool sums, float* base)
        : weights(call, const_cast<float*>(call.packed)), field(tile, 1, call.sizes.height, call.sizes.width) {
        const int64_t channels = call.sizes.channels;
        dense = field.dense();
        each = channels / call.heads;
        steps = weights.steps;
        Arena arena{base};
        const int64_t room = Vectors::room(field.rows + 2, field.pitch);
        tile_at = reinterpret_cast<int32_t*>(arena.take(room));
        around_at = reinterpret_cast<int32_t*>(arena.take(room));
        offsets = reinterpret_cast<int32_t*>(arena.take(9));
        u = arena.take(channels * field.floats);
        u_pairs = in_lanes() ? arena.take(steps * field.floats) : u;
        first = arena.take(16 * field.floats);
        left = arena.take((sums ? each : channels) * dense);
        right = arena.take((sums ? each : in_lanes() ? steps : 0) * dense);
        out = arena.take(16 * dense);
        unaligned_weight = arena.take(16 * steps), unaligned_bias = arena.take(16);
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
    const AttentionWeights& w = k.weights;
    for (int64_t c = 0; c < n; c += 16) {
        const int64_t rows = smaller(16, n - c);
        if (c0 % kRows == 0) {
            pointwise<Dot>(k, k.first, w.qkv, w.qkv_bias, c0 + c, rows, around);
        } else {  // a head in the middle of a packed block of rows
            pack_rows(k.unaligned_weight, call.qkv, c0 + c, rows, call.sizes.channels, Matrix{},
                      w.products);
            pack_biases(k.unaligned_bias, below(call.qkv_bias, c0 + c), Matrix{}, rows);
            pointwise<Dot>(k, k.first, k.unaligned_weight, k.unaligned_bias, 0, rows, around);
        }
        depthwise(k, to + c * k.dense, k.dense, nullptr, k.first, w.conv, w.conv_bias, c0 + c, rows, 3, tile);
    }
}

inline void prepare(const AttentionCall& call, const AttentionScratch& k, const Tile& tile) {
    const int64_t channels = call.sizes.channels;
    gather_field(k.u, k.field, call.x, 0, channels, tile);
    normalize(k.u, k.field.floats, channels, k.field.floats, k.weights.norm_weight, k.weights.norm_bias, call.eps);
    k.field.zero_outside(k.u, channels);
    if (k.in_lanes())
        pack_panels(k.u_pairs, k.field.floats, k.u, k.field.floats, channels, k.field.floats, k.weights.products);
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
inline void attend(const AttentionCall& call, const Tile& tile, float* scratch) {
    const int64_t channels = call.sizes.channels;
    const AttentionScratch k(call, tile, false, scratch);
    const Vectors at = k.field.tile_vectors(k.tile_at), around = k.field.inside_vectors(k.around_at, 1);
    prepare(call, k, tile);
    project<Dot>(call, k, k.left, 2 * channels, channels, at, around);
    if (k.in_lanes()) pack_panels(k.right, k.dense, k.left, k.dense, channels, k.dense, k.weights.products);
    const float* const out = k.weights.out + (call.out_batch > 1 ? tile.image : 0) * k.weights.matrix;
    finish<Dot>(call, tile, k.out, out, k.weights.out_bias, k.in_lanes() ? k.right : k.left, k.dense, at.count,
                k.steps);
}

void attention_sums_tile(const AttentionCall& call, const Tile& tile, float* scratch, float* sums) {
    const MatrixUnit unit;
    if (products_for(call.paired) != Products::kFloat)
        add_attention_sums<PairDot>(call, tile, scratch, sums);
    else
        add_attention_sums<FloatDot>(call, tile, scratch, sums);
}

void attention_tile(const AttentionCall& call, const Tile& tile, float* scratch) {
    const MatrixUnit unit;
    if (products_for(call.paired) != Products::kFloat)
        attend<PairDot>(call, tile, scratch);
    else
        attend<FloatDot>(call, tile, scratch);
}

}  // namespace
