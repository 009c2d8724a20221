// Multi-axis feature fusion over one tile: all of a block up to its first residual addition.
//
//     u = norm(x);  v = depthwise(W u);  a = the coefficient head of u
//     y = x + scale * out((kba(v, a) * kba_scale + v) * static(u) * means)
//
// Nothing between x and y is stored for more than one tile. A tile reads a border around it, for which neighbouring
// tiles recompute the first products of the branches; that costs a few percent. The D hidden channels are processed in
// chunks.
#pragma once

#include "dense.h"
#include "forward.h"

namespace {

using kbnet::FusionCall;

inline int64_t common_multiple(int64_t a, int64_t b) {
    int64_t m = a;
    while (m % b) m += a;
    return m;
}

inline float gelu(float x) { return 0.5f * x * (1.0f + std::erf(x * 0.70710678f)); }

struct FusionScratch {
    Field field;
    int64_t dense, chunk, steps, steps_hidden, taps, static_taps, head_taps, bases4;
    int32_t *tile_at, *adaptive_at, *kba_at, *static_at, *offsets;
    float *norm_weight, *norm_bias, *u, *u_pairs, *a, *head, *first, *second, *pairs, *fixed, *mixed, *fused, *out,
        *weight, *bias, *columns, *grid_row;
    int64_t floats;

    static int64_t border(const FusionCall& call) {
        return larger(1 + call.sizes.half(), call.static_kernel / 2);
    }

    FusionScratch(const FusionCall& call, const Tile& tile, float* base)
        : field(tile, border(call), call.sizes.height, call.sizes.width) {
        const Sizes& s = call.sizes;
        dense = field.dense();
        chunk = common_multiple(common_multiple(s.group, call.static_group), 2);
        chunk = smaller(round_up(16, chunk), call.hidden);
        const int64_t chunk4 = round_up(larger(chunk, 16), kRows);
        steps = call.paired ? (s.channels + 1) / 2 : s.channels;
        steps_hidden = call.paired ? (call.hidden + 1) / 2 : call.hidden;
        taps = s.kernel * s.kernel * (call.paired ? (s.group + 1) / 2 : s.group);
        static_taps = call.static_kernel * call.static_kernel * call.static_group;
        head_taps = 9 * (s.channels / call.head);
        bases4 = round_up(s.bases, kRows);
        Arena arena{base};
        const auto indices = [&](int64_t n) { return reinterpret_cast<int32_t*>(arena.take(n)); };
        const int64_t room = Vectors::room(field.rows + 2 * field.border, field.pitch);
        tile_at = indices(room), adaptive_at = indices(room), kba_at = indices(room), static_at = indices(room);
        offsets = indices(larger(larger(taps, static_taps), larger(head_taps, 9)));
        norm_weight = arena.take(s.channels), norm_bias = arena.take(s.channels);
        u = arena.take(s.channels * field.floats);
        u_pairs = call.paired ? arena.take(steps * field.floats) : u;
        a = arena.take(bases4 * dense);
        head = arena.take(round_up(call.head, kRows) * dense);
        first = arena.take(chunk4 * field.floats);
        second = arena.take(chunk4 * field.floats);
        pairs = arena.take((larger(s.group, call.static_group) + 1) / 2 * field.floats);
        fixed = arena.take((chunk4 + kRows - 1) * dense);  // for example, a group of 5 channels is convolved as 8
        mixed = arena.take(chunk4 * dense);
        fused = arena.take(steps_hidden * dense);
        out = arena.take(chunk4 * dense);
        weight = arena.take(larger(larger(chunk4 * steps, chunk4 * steps_hidden),
                                   larger(larger(bases4 * steps, bases4 * call.head),
                                          larger(bases4 * taps, larger(static_taps * kRows, head_taps)))));
        bias = arena.take(larger(chunk4, bases4));
        columns = arena.take(2 * field.vectors_across() * kLanes);
        grid_row = arena.take(call.grid_cols + 1);
        floats = arena.used;
    }
};

inline int64_t fusion_scratch(const FusionCall& call, const Tile& largest) {
    return FusionScratch(call, largest, nullptr).floats;
}

// first = W u + b over the given pixels, for hidden channels [c0, c0 + n); zeros outside the image
template <class Dot, class Call, class Scratch>
inline void pointwise(const Call& call, const Scratch& k, float* out, const Matrix& w, const Matrix& b,
                      int64_t c0, int64_t n, const Vectors& at) {
    pack_rows(k.weight, w, c0, n, call.sizes.channels, Matrix{}, call.paired);
    for (int64_t i = 0; i < round_up(n, kRows); ++i) k.bias[i] = i < n ? bias_of(b, Matrix{}, c0 + i) : 0.0f;
    product<Dot>(out, k.field.floats, at.at, k.u_pairs, k.field.floats, at.at, at.count, k.weight, k.bias, n, k.steps);
    k.field.zero_outside(out, n);
}

// Depthwise 3x3 of `from` for hidden channels [c0, c0 + n); out_at null: dense, `pitch` floats a channel
template <class Scratch>
inline void depthwise(const Scratch& k, float* out, int64_t pitch, const int32_t* out_at, const float* from,
                      const Matrix& w, const Matrix& b, int64_t c0, int64_t n, int64_t kernel, const Vectors& at) {
    const int64_t area = kernel * kernel;
    tap_offsets(k.offsets, 1, 0, kernel, k.field.pitch);
    for (int64_t c = 0; c < n; ++c) {
        for (int64_t t = 0; t < area; ++t) k.weight[t] = element(w, (c0 + c) * area + t);
        const float bias = bias_of(b, Matrix{}, c0 + c);
        convolve<FloatDot, 1>(out + c * pitch, pitch, out_at, from + c * k.field.floats, at, k.offsets, area, k.weight,
                              &bias);
    }
}

// The static branch of hidden channels [c0, c0 + n), dense into k.fixed
template <class Dot>
inline void static_branch(const FusionCall& call, const FusionScratch& k, int64_t c0, int64_t n,
                          const Vectors& tile, const Vectors& around) {
    pointwise<Dot>(call, k, k.first, call.static_in, call.static_in_bias, c0, n, around);
    const int64_t group = call.static_group, kernel = call.static_kernel, area = kernel * kernel;
    if (group == 1) {
        depthwise(k, k.fixed, k.dense, nullptr, k.first, call.static_conv, call.static_conv_bias, c0, n, kernel, tile);
    } else {
        const int64_t planes = call.paired ? (group + 1) / 2 : group;
        tap_offsets(k.offsets, planes, k.field.floats, kernel, k.field.pitch);
        for (int64_t g = 0; g < n; g += group) {
            const float* from = k.first + g * k.field.floats;
            if (call.paired) {
                pair_panels(k.pairs, k.field.floats, from, k.field.floats, group, k.field.floats);
                from = k.pairs;
            }
            for (int64_t c = g; c < g + group; c += kRows) {
                const int64_t rows = smaller(kRows, g + group - c);
                float bias[kRows] = {};
                for (int64_t i = 0; i < planes * area; ++i)
                    for (int64_t r = 0; r < kRows; ++r) {
                        const int64_t j = i / area, at = ((c0 + c + r) * group) * area + i % area;
                        float w = 0.0f;
                        if (r < rows && call.paired)
                            w = pair_of(element(call.static_conv, at + 2 * j * area),
                                        2 * j + 1 < group ? element(call.static_conv, at + (2 * j + 1) * area) : 0.0f);
                        else if (r < rows)
                            w = element(call.static_conv, at + j * area);
                        k.weight[i * kRows + r] = w;
                    }
                for (int64_t r = 0; r < rows; ++r) bias[r] = bias_of(call.static_conv_bias, Matrix{}, c0 + c + r);
                convolve<Dot, kRows>(k.fixed + c * k.dense, k.dense, nullptr, from, tile, k.offsets, planes * area,
                                     k.weight, bias);
            }
        }
    }
    if (call.gelu)
        for (int64_t i = 0; i < n * k.dense; ++i) k.fixed[i] = gelu(k.fixed[i]);
}

// a = scale * expand(gate(grouped conv of u)) + projection(u), dense; rows beyond N are zero
template <class Dot>
inline void predict_coefficients(const FusionCall& call, const FusionScratch& k, const Vectors& tile) {
    const Sizes& s = call.sizes;
    const int64_t each = s.channels / call.head, half = call.head / 2;
    tap_offsets(k.offsets, each, k.field.floats, 3, k.field.pitch);
    for (int64_t c = 0; c < call.head; ++c) {
        for (int64_t t = 0; t < k.head_taps; ++t) k.weight[t] = element(call.head_conv, c * k.head_taps + t);
        const float bias = bias_of(call.head_conv_bias, Matrix{}, c);
        convolve<FloatDot, 1>(k.head + c * k.dense, k.dense, nullptr, k.u + c * each * k.field.floats, tile, k.offsets,
                              k.head_taps, k.weight, &bias);
    }
    for (int64_t i = 0; i < half * k.dense; ++i) k.head[i] *= k.head[half * k.dense + i];
    for (int64_t n = 0; n < k.bases4; ++n)
        k.bias[n] = n < s.bases ? bias_of(call.expand_bias, call.coefficient_scale, n) +
                                      bias_of(call.projection_bias, Matrix{}, n)
                                : 0.0f;
    // In float32: the head is small and its inputs aren't paired.
    pack_rows(k.weight, call.expand, 0, s.bases, half, call.coefficient_scale, false);
    product<FloatDot>(k.a, k.dense, nullptr, k.head, k.dense, nullptr, tile.count, k.weight, k.bias, s.bases, half);
    pack_rows(k.weight, call.projection, 0, s.bases, s.channels, Matrix{}, call.paired);
    fill(k.bias, k.bases4, 0.0f);
    product<Dot>(k.a, k.dense, nullptr, k.u_pairs, k.field.floats, tile.at, tile.count, k.weight, k.bias, s.bases,
                 k.steps, true);
}

// k.mixed = kba(v, a) * kba_scale for hidden channels [c0, c0 + n), v in k.second
template <class Dot>
inline void adaptive_branch(const FusionCall& call, const FusionScratch& k, int64_t c0, int64_t n,
                            const Vectors& tile) {
    const Sizes& s = call.sizes;
    const int64_t planes = call.paired ? (s.group + 1) / 2 : s.group;
    tap_offsets(k.offsets, planes, k.field.floats, s.kernel, k.field.pitch);
    for (int64_t g = 0; g < n; g += s.group) {
        const float* from = k.second + g * k.field.floats;
        if (call.paired) {
            pair_panels(k.pairs, k.field.floats, from, k.field.floats, s.group, k.field.floats);
            from = k.pairs;
        }
        for (int64_t c = g; c < g + s.group; ++c) {
            pack_bases(k.weight, k.bias, call.bases, call.bases_bias, c0 + c, call.hidden, s,
                       element(call.kba_scale, c0 + c), call.paired);
            mix_bases<Dot>(k.mixed + c * k.dense, from, tile, k.offsets, k.taps, k.weight, k.bias, k.a, k.dense,
                           k.bases4);
        }
    }
}

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

// k.fixed *= the channel branch of hidden channels [c0, c0 + n)
inline void multiply_means(const FusionCall& call, const FusionScratch& k, int64_t c0, int64_t n, const Tile& tile) {
    const int64_t row = k.field.vectors_across() * kLanes, grid = call.grid_rows * call.grid_cols;
    const float* means = call.means + ((call.means_batch > 1 ? tile.image : 0) * call.hidden + c0) * grid;
    if (grid == 1) {
        for (int64_t c = 0; c < n; ++c)
            for (int64_t i = 0; i < k.dense; ++i) k.fixed[c * k.dense + i] *= means[c];
        return;
    }
    for (int64_t r = 0; r < tile.rows; ++r) {
        const Between y(tile.row0 + r, call.cell, call.grid_rows);
        for (int64_t c = 0; c < n; ++c) {
            const float* low = means + c * grid + y.low * call.grid_cols;
            const float* high = means + c * grid + y.high * call.grid_cols;
            for (int64_t i = 0; i < call.grid_cols; ++i) k.grid_row[i] = low[i] + (high[i] - low[i]) * y.share;
            float* to = k.fixed + c * k.dense + r * row;
            const int32_t* at = reinterpret_cast<const int32_t*>(k.columns);
            const float* share = k.columns + row;
            for (int64_t x = 0; x < tile.cols; ++x) {
                const float l = k.grid_row[at[x]], h = k.grid_row[at[x] + 1];
                to[x] *= l + (h - l) * share[x];
            }
        }
    }
}

inline void prepare_columns(const FusionCall& call, const FusionScratch& k, const Tile& tile) {
    int32_t* at = reinterpret_cast<int32_t*>(k.columns);
    float* share = k.columns + k.field.vectors_across() * kLanes;
    for (int64_t x = 0; x < tile.cols; ++x) {
        const Between b(tile.col0 + x, call.cell, call.grid_cols);
        at[x] = static_cast<int32_t>(b.low);
        share[x] = b.high > b.low ? b.share : 0.0f;
    }
    k.grid_row[call.grid_cols] = 0.0f;
}

// y = x + bias + W from, in chunks of output channels; `from` is dense
template <class Dot, class Call>
inline void finish(const Call& call, const Tile& tile, float* out, float* weight, float* bias, const float* from,
                   int64_t dense, int64_t vectors, int64_t inner, int64_t steps) {
    const int64_t channels = call.sizes.channels, row = (tile.cols + kLanes - 1) / kLanes * kLanes;
    for (int64_t c0 = 0; c0 < channels; c0 += 16) {
        const int64_t n = smaller(16, channels - c0);
        pack_rows(weight, call.out, c0, n, inner, call.out_scale, call.paired);
        for (int64_t i = 0; i < round_up(n, kRows); ++i)
            bias[i] = i < n ? bias_of(call.out_bias, call.out_scale, c0 + i) : 0.0f;
        gather_dense(out, dense, row, call.x, c0, n, tile);
        product<Dot>(out, dense, nullptr, from, dense, nullptr, vectors, weight, bias, n, steps, true);
        scatter_dense(call.y, out, dense, row, c0, n, tile);
    }
}

template <class Dot>
inline void fuse(const FusionCall& call, const Tile& tile, float* scratch) {
    const Sizes& s = call.sizes;
    const FusionScratch k(call, tile, scratch);
    const Field& f = k.field;
    const Vectors at_tile = f.tile_vectors(k.tile_at), at_kba = f.inside_vectors(k.kba_at, s.half()),
                  at_adaptive = f.inside_vectors(k.adaptive_at, 1 + s.half()),
                  at_static = f.inside_vectors(k.static_at, call.static_kernel / 2);
    for (int64_t c = 0; c < s.channels; ++c)
        k.norm_weight[c] = element(call.norm_weight, c), k.norm_bias[c] = element(call.norm_bias, c);

    gather_field(k.u, f, call.x, 0, s.channels, tile);
    normalize(k.u, f.floats, s.channels, f.floats, k.norm_weight, k.norm_bias, call.eps);
    f.zero_outside(k.u, s.channels);
    if (call.paired) pair_panels(k.u_pairs, f.floats, k.u, f.floats, s.channels, f.floats);
    predict_coefficients<Dot>(call, k, at_tile);
    if (call.grid_rows * call.grid_cols > 1) prepare_columns(call, k, tile);

    for (int64_t c0 = 0; c0 < call.hidden; c0 += k.chunk) {
        const int64_t n = smaller(k.chunk, call.hidden - c0);
        static_branch<Dot>(call, k, c0, n, at_tile, at_static);
        multiply_means(call, k, c0, n, tile);
        pointwise<Dot>(call, k, k.first, call.adaptive_in, call.adaptive_in_bias, c0, n, at_adaptive);
        depthwise(k, k.second, f.floats, at_kba.at, k.first, call.adaptive_conv, call.adaptive_conv_bias, c0, n, 3,
                  at_kba);
        f.zero_outside(k.second, n);
        adaptive_branch<Dot>(call, k, c0, n, at_tile);
        float* const to = call.paired ? k.mixed : k.fused + c0 * k.dense;
        for (int64_t c = 0; c < n; ++c)
            for (int64_t j = 0; j < at_tile.count; ++j) {
                const int64_t p = c * k.dense + j * kLanes;
                store(to + p, (load(k.mixed + p) + load(k.second + c * f.floats + at_tile.at[j])) * load(k.fixed + p));
            }
        if (call.paired) pair_panels(k.fused + c0 / 2 * k.dense, k.dense, k.mixed, k.dense, n, k.dense);
    }
    finish<Dot>(call, tile, k.out, k.weight, k.bias, k.fused, k.dense, at_tile.count, call.hidden, k.steps_hidden);
}

void fusion_tile(const FusionCall& call, const Tile& tile, float* scratch) {
    if (call.paired)
        fuse<PairDot>(call, tile, scratch);
    else
        fuse<FloatDot>(call, tile, scratch);
}

}  // namespace
