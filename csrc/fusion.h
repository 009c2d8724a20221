// Multi-axis feature fusion over one tile: all of a block up to its first residual addition.
//
//     u = norm(x);  v = depthwise(W u);  a = the coefficient head of u
//     y = x + scale * out((kba(v, a) * kba_scale + v) * static(u) * means)
//
// Nothing between x and y is stored for more than one tile. A tile reads a border around it, for which neighbouring
// tiles recompute the first products of the branches; that costs a few percent. The D hidden channels are processed in
// chunks.
#pragma once

#include "forward.h"
#include "interpolation.h"
#include "mixing.h"

namespace {

using kbnet::FusionCall;

inline int64_t common_multiple(int64_t a, int64_t b) {
    int64_t m = a;
    while (m % b) m += a;
    return m;
}

inline float gelu(float x) { return 0.5f * x * (1.0f + std::erf(x * 0.70710678f)); }

// Sizes that packing and running share.
struct FusionSizes {
    Products products;
    bool static_paired;
    int64_t chunk, steps, steps_hidden, static_planes, static_taps, head_taps, bases4;

    explicit FusionSizes(const FusionCall& call) : products(products_for(call.paired)) {
        const Sizes& s = call.sizes;
        chunk = common_multiple(common_multiple(s.group, call.static_group), kRows);
        chunk = smaller(round_up(16, chunk), call.hidden);
        steps = steps_of(products, s.channels);
        steps_hidden = steps_of(products, call.hidden);
        static_paired = in_lanes() && call.static_group > 1 && !PairDot::kOnMatrixUnit;  // few rows: slow on tiles
        static_planes = static_paired ? (call.static_group + 1) / 2 : call.static_group;
        static_taps = call.static_kernel * call.static_kernel * static_planes;
        head_taps = 9 * (s.channels / call.head);
        bases4 = round_up(s.bases, kRows);
    }

    // Whether bfloat16 numbers share lanes.
    bool in_lanes() const { return products != Products::kFloat; }
};

struct FusionWeights {
    float *norm_weight, *norm_bias, *static_in, *static_in_bias, *static_conv, *static_conv_bias, *adaptive_in,
        *adaptive_in_bias, *adaptive_conv, *adaptive_conv_bias, *head_conv, *head_conv_bias, *expand, *projection,
        *coefficient_bias, *zeros, *bases, *out, *out_bias;
    int64_t floats;

    FusionWeights(const FusionCall& call, const FusionSizes& k, float* base) {
        const int64_t c = call.sizes.channels, c4 = round_up(c, kRows), d = call.hidden, d4 = round_up(d, kRows);
        Arena arena{base};
        norm_weight = arena.take(c), norm_bias = arena.take(c);
        static_in = arena.take(d4 * k.steps), static_in_bias = arena.take(d4);
        static_conv = arena.take(static_groups(call) * static_rows(call) * k.static_taps);
        static_conv_bias = arena.take(static_groups(call) * static_rows(call));
        adaptive_in = arena.take(d4 * k.steps), adaptive_in_bias = arena.take(d4);
        adaptive_conv = arena.take(9 * d), adaptive_conv_bias = arena.take(d);
        head_conv = arena.take(call.head * k.head_taps), head_conv_bias = arena.take(call.head);
        expand = arena.take(k.bases4 * (call.head / 2)), projection = arena.take(k.bases4 * k.steps);
        coefficient_bias = arena.take(k.bases4), zeros = arena.take(k.bases4);
        bases = arena.take(d / call.sizes.group * Mixing::packed(call.sizes, k.products));
        out = arena.take(c4 * k.steps_hidden), out_bias = arena.take(c4);
        floats = arena.used;
    }

    // Rows of a group of the static convolution, padded to whole register tiles unless it is depthwise.
    static int64_t static_rows(const FusionCall& call) {
        return call.static_group == 1 ? 1 : round_up(call.static_group, kRows);
    }
    static int64_t static_groups(const FusionCall& call) { return call.hidden / call.static_group; }
};

inline int64_t fusion_packed(const FusionCall& call) {
    return FusionWeights(call, FusionSizes(call), nullptr).floats;
}

// One group of the static convolution, as [static_rows / kRows][taps][kRows].
inline void pack_static(const FusionCall& call, const FusionSizes& k, float* to, float* bias, int64_t group) {
    const int64_t each = call.static_group, area = call.static_kernel * call.static_kernel, c0 = group * each;
    for (int64_t r = 0; r < FusionWeights::static_rows(call); ++r)
        bias[r] = r < each ? bias_of(call.static_conv_bias, Matrix{}, c0 + r) : 0.0f;
    for (int64_t r0 = 0; r0 < each; r0 += kRows)
        for (int64_t i = 0; i < k.static_taps; ++i)
            for (int64_t r = r0; r < r0 + kRows; ++r) {
                const int64_t j = i / area, at = (c0 + r) * each * area + i % area;
                float w = 0.0f;
                if (r < each && k.static_paired)
                    w = pair_of(element(call.static_conv, at + 2 * j * area),
                                2 * j + 1 < each ? element(call.static_conv, at + (2 * j + 1) * area) : 0.0f);
                else if (r < each)
                    w = element(call.static_conv, at + j * area);
                *to++ = w;
            }
}

inline void fusion_pack(const FusionCall& call, float* packed, int64_t part, int64_t parts) {
    const Sizes& s = call.sizes;
    const Share share{part, parts};
    const FusionSizes k(call);
    const FusionWeights w(call, k, packed);
    const Matrix none{};
    pack_share(w.static_in, call.static_in, call.hidden, s.channels, none, k.products, share);
    pack_share(w.adaptive_in, call.adaptive_in, call.hidden, s.channels, none, k.products, share);
    pack_share(w.projection, call.projection, s.bases, s.channels, none, k.products, share);
    pack_share(w.out, call.out, s.channels, call.hidden, call.out_scale, k.products, share);
    const int64_t mixed = call.hidden / s.group;  // groups of the operator
    for (int64_t g = share.begin(mixed); g < share.end(mixed); ++g)
        Mixing::pack(w.bases + g * Mixing::packed(s, k.products), call.bases, call.bases_bias, call.kba_scale, g, mixed,
                     s, k.products);
    const int64_t groups = FusionWeights::static_groups(call), rows = FusionWeights::static_rows(call);
    if (rows > 1)
        for (int64_t g = share.begin(groups); g < share.end(groups); ++g)
            pack_static(call, k, w.static_conv + g * rows * k.static_taps, w.static_conv_bias + g * rows, g);
    if (part > 0) return;
    read_numbers(w.norm_weight, call.norm_weight, 0, s.channels);
    read_numbers(w.norm_bias, call.norm_bias, 0, s.channels);
    if (rows == 1) {
        read_numbers(w.static_conv, call.static_conv, 0, call.hidden * k.static_taps);
        for (int64_t c = 0; c < call.hidden; ++c) w.static_conv_bias[c] = bias_of(call.static_conv_bias, none, c);
    }
    read_numbers(w.adaptive_conv, call.adaptive_conv, 0, 9 * call.hidden);
    for (int64_t c = 0; c < call.hidden; ++c) w.adaptive_conv_bias[c] = bias_of(call.adaptive_conv_bias, none, c);
    read_numbers(w.head_conv, call.head_conv, 0, call.head * k.head_taps);
    for (int64_t c = 0; c < call.head; ++c) w.head_conv_bias[c] = bias_of(call.head_conv_bias, none, c);
    pack_biases(w.static_in_bias, call.static_in_bias, none, call.hidden);
    pack_biases(w.adaptive_in_bias, call.adaptive_in_bias, none, call.hidden);
    pack_biases(w.out_bias, call.out_bias, call.out_scale, s.channels);
    // In float32: the head is small and its inputs aren't paired.
    pack_rows(w.expand, call.expand, 0, s.bases, call.head / 2, call.coefficient_scale, Products::kFloat);
    for (int64_t n = 0; n < k.bases4; ++n)
        w.coefficient_bias[n] = n < s.bases ? bias_of(call.expand_bias, call.coefficient_scale, n) +
                                                  bias_of(call.projection_bias, none, n)
                                            : 0.0f;
    fill(w.zeros, k.bases4, 0.0f);
}

struct FusionScratch : FusionSizes {
    FusionWeights weights;
    Field field;
    Mixing mixing;
    int64_t dense;
    int32_t *tile_at, *adaptive_at, *kba_at, *static_at, *offsets;
    Columns columns;
    float *u, *u_pairs, *a, *head, *first, *second, *pairs, *fixed, *mixed, *fused, *out, *across;
    int64_t floats;

    static int64_t border(const FusionCall& call) {
        return larger(1 + call.sizes.half(), call.static_kernel / 2);
    }

    FusionScratch(const FusionCall& call, const Tile& tile, float* base)
        : FusionSizes(call),
          weights(call, *this, const_cast<float*>(call.packed)),
          field(tile, border(call), call.sizes.height, call.sizes.width) {
        const Sizes& s = call.sizes;
        dense = field.dense();
        const int64_t cells = smaller(call.grid_rows, (tile.rows - 1) / call.cell + 3);  // most rows of cells around a tile
        const int64_t chunk4 = round_up(larger(chunk, 16), kRows), row = field.vectors_across() * kLanes;
        Arena arena{base};
        const auto indices = [&](int64_t n) { return reinterpret_cast<int32_t*>(arena.take(n)); };
        const int64_t room = Vectors::room(field.rows + 2 * field.border, field.pitch);
        tile_at = indices(room), adaptive_at = indices(room), kba_at = indices(room), static_at = indices(room);
        offsets = indices(larger(static_taps, larger(head_taps, 9)));
        columns = Columns(call, field.vectors_across(), arena);
        across = arena.take(cells * row);
        u = arena.take(s.channels * field.floats);
        u_pairs = in_lanes() ? arena.take(steps * field.floats) : u;
        a = arena.take(bases4 * dense);
        head = arena.take(round_up(call.head, kRows) * dense);
        first = arena.take(chunk4 * field.floats);
        second = arena.take(chunk4 * field.floats);
        pairs = arena.take((call.static_group + 1) / 2 * field.floats);
        mixing = Mixing(s, products, field, arena);
        fixed = arena.take((chunk4 + kRows - 1) * dense);  // for example, a group of 5 channels is convolved as 8
        mixed = arena.take(chunk4 * dense);
        fused = arena.take(steps_hidden * dense);
        out = arena.take(chunk4 * dense);
        floats = arena.used;
    }
};

inline int64_t fusion_scratch(const FusionCall& call, const Tile& largest) {
    return FusionScratch(call, largest, nullptr).floats;
}

// first = W u + b over the given pixels, for channels [c0, c0 + n); c0 is a multiple of kRows. Zeros outside the image
template <class Dot, class Scratch>
inline void pointwise(const Scratch& k, float* out, const float* weight, const float* bias, int64_t c0, int64_t n,
                      const Vectors& at) {
    product<Dot>(out, k.field.floats, at.at, k.u_pairs, k.field.floats, at.at, at.count, weight + c0 * k.steps,
                 bias + c0, n, k.steps);
    k.field.zero_outside(out, n);
}

// Depthwise convolution of `from` for channels [c0, c0 + n); out_at null: dense, `pitch` floats a channel
template <class Scratch>
inline void depthwise(const Scratch& k, float* out, int64_t pitch, const int32_t* out_at, const float* from,
                      const float* weight, const float* bias, int64_t c0, int64_t n, int64_t kernel,
                      const Vectors& at) {
    const int64_t area = kernel * kernel;
    if (kernel != 3) tap_offsets(k.offsets, 1, 0, kernel, k.field.pitch);
    for (int64_t c = 0; c < n; ++c) {
        const float *const panel = from + c * k.field.floats, *const taps = weight + (c0 + c) * area;
        if (kernel == 3)
            depthwise_3x3(out + c * pitch, out_at, panel, at, k.field.pitch, taps, bias[c0 + c]);
        else
            convolve<FloatDot, 1>(out + c * pitch, pitch, out_at, panel, at, k.offsets, area, taps, bias + c0 + c);
    }
}

// The static branch of hidden channels [c0, c0 + n), dense into k.fixed
template <class Dot>
inline void static_branch(const FusionCall& call, const FusionScratch& k, int64_t c0, int64_t n,
                          const Vectors& tile, const Vectors& around) {
    const FusionWeights& w = k.weights;
    pointwise<Dot>(k, k.first, w.static_in, w.static_in_bias, c0, n, around);
    const int64_t group = call.static_group, kernel = call.static_kernel;
    if (group == 1) {
        depthwise(k, k.fixed, k.dense, nullptr, k.first, w.static_conv, w.static_conv_bias, c0, n, kernel, tile);
    } else {
        const int64_t rows = FusionWeights::static_rows(call);
        tap_offsets(k.offsets, k.static_planes, k.field.floats, kernel, k.field.pitch);
        for (int64_t g = 0; g < n; g += group) {
            const float* from = k.first + g * k.field.floats;
            if (k.static_paired) {
                pack_panels(k.pairs, k.field.floats, from, k.field.floats, group, k.field.floats, k.products);
                from = k.pairs;
            }
            for (int64_t r = 0; r < group; r += kRows) {
                const int64_t row = (c0 + g) / group * rows + r;
                convolve<std::conditional_t<Dot::kOnMatrixUnit, FloatDot, Dot>, kRows>(
                    k.fixed + (g + r) * k.dense, k.dense, nullptr, from, tile, k.offsets, k.static_taps,
                    w.static_conv + row * k.static_taps, w.static_conv_bias + row);
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
    const FusionWeights& w = k.weights;
    const int64_t each = s.channels / call.head, half = call.head / 2;
    tap_offsets(k.offsets, each, k.field.floats, 3, k.field.pitch);
    for (int64_t c = 0; c < call.head; ++c)
        convolve<FloatDot, 1>(k.head + c * k.dense, k.dense, nullptr, k.u + c * each * k.field.floats, tile, k.offsets,
                              k.head_taps, w.head_conv + c * k.head_taps, w.head_conv_bias + c);
    for (int64_t i = 0; i < half * k.dense; ++i) k.head[i] *= k.head[half * k.dense + i];
    product<FloatDot>(k.a, k.dense, nullptr, k.head, k.dense, nullptr, tile.count, w.expand, w.coefficient_bias,
                      s.bases, half);
    product<Dot>(k.a, k.dense, nullptr, k.u_pairs, k.field.floats, tile.at, tile.count, w.projection, w.zeros, s.bases,
                 k.steps, true);
}

// k.mixed = kba(v, a) * kba_scale for hidden channels [c0, c0 + n), v in k.second
template <class Dot>
inline void adaptive_branch(const FusionCall& call, const FusionScratch& k, int64_t c0, int64_t n,
                            const Vectors& tile) {
    const Sizes& s = call.sizes;
    for (int64_t g = 0; g < n; g += s.group)
        k.mixing.template group<Dot>(k.mixed + g * k.dense, k.second + g * k.field.floats, tile,
                                     k.weights.bases + (c0 + g) / s.group * Mixing::packed(s, k.products));
}

// k.fixed *= the channel branch of hidden channels [c0, c0 + n)
inline void multiply_means(const FusionCall& call, const FusionScratch& k, int64_t c0, int64_t n, const Tile& tile) {
    const int64_t row = k.field.vectors_across() * kLanes, cells = call.grid_rows * call.grid_cols;
    const float* means = call.means + ((call.means_batch > 1 ? tile.image : 0) * call.hidden + c0) * cells;
    if (cells == 1) {
        for (int64_t c = 0; c < n; ++c)
            for (int64_t i = 0; i < k.dense; ++i) k.fixed[c * k.dense + i] *= means[c];
        return;
    }
    const int64_t top = Between(tile.row0, call.cell, call.grid_rows).low;
    const int64_t bottom = Between(tile.row0 + tile.rows - 1, call.cell, call.grid_rows).high;
    for (int64_t c = 0; c < n; ++c) {
        // First between columns of cells, once for all rows of pixels between the same rows of cells.
        for (int64_t g = top; g <= bottom; ++g)
            k.columns.interpolate(k.across + (g - top) * row, means + c * cells + g * call.grid_cols);
        for (int64_t r = 0; r < tile.rows; ++r) {
            const Between y(tile.row0 + r, call.cell, call.grid_rows);
            const float *low = k.across + (y.low - top) * row, *high = k.across + (y.high - top) * row;
            float* const to = k.fixed + c * k.dense + r * row;
            for (int64_t x = 0; x < row; x += kLanes) {
                const Vec l = load(low + x);
                store(to + x, load(to + x) * (l + (load(high + x) - l) * y.share));
            }
        }
    }
}

// y = x + bias + W from, in chunks of output channels; `from` is dense
template <class Dot, class Call>
inline void finish(const Call& call, const Tile& tile, float* out, const float* weight, const float* bias,
                   const float* from, int64_t dense, int64_t vectors, int64_t steps) {
    const int64_t channels = call.sizes.channels, row = (tile.cols + kLanes - 1) / kLanes * kLanes;
    for (int64_t c0 = 0; c0 < channels; c0 += 16) {
        const int64_t n = smaller(16, channels - c0);
        gather_dense(out, dense, row, call.x, c0, n, tile);
        product<Dot>(out, dense, nullptr, from, dense, nullptr, vectors, weight + c0 * steps, bias + c0, n, steps, true);
        scatter_dense(call.y, out, dense, row, c0, n, tile);
    }
}

template <class Dot>
inline void fuse(const FusionCall& call, const Tile& tile, float* scratch) {
    const Sizes& s = call.sizes;
    FusionScratch k(call, tile, scratch);
    const Field& f = k.field;
    const Vectors at_tile = f.tile_vectors(k.tile_at), at_kba = f.inside_vectors(k.kba_at, s.half()),
                  at_adaptive = f.inside_vectors(k.adaptive_at, 1 + s.half()),
                  at_static = f.inside_vectors(k.static_at, call.static_kernel / 2);
    const FusionWeights& w = k.weights;

    gather_field(k.u, f, call.x, 0, s.channels, tile);
    normalize(k.u, f.floats, s.channels, f.floats, w.norm_weight, w.norm_bias, call.eps);
    f.zero_outside(k.u, s.channels);
    if (k.in_lanes()) pack_panels(k.u_pairs, f.floats, k.u, f.floats, s.channels, f.floats, k.products);
    predict_coefficients<Dot>(call, k, at_tile);
    k.mixing.prepare(k.a);
    if (call.grid_rows * call.grid_cols > 1) k.columns.prepare(call, tile);

    for (int64_t c0 = 0; c0 < call.hidden; c0 += k.chunk) {
        const int64_t n = smaller(k.chunk, call.hidden - c0);
        static_branch<Dot>(call, k, c0, n, at_tile, at_static);
        multiply_means(call, k, c0, n, tile);
        pointwise<Dot>(k, k.first, w.adaptive_in, w.adaptive_in_bias, c0, n, at_adaptive);
        depthwise(k, k.second, f.floats, at_kba.at, k.first, w.adaptive_conv, w.adaptive_conv_bias, c0, n, 3, at_kba);
        f.zero_outside(k.second, n);
        adaptive_branch<Dot>(call, k, c0, n, at_tile);
        float* const to = k.in_lanes() ? k.mixed : k.fused + c0 * k.dense;
        for (int64_t c = 0; c < n; ++c)
            for (int64_t j = 0; j < at_tile.count; ++j) {
                const int64_t p = c * k.dense + j * kLanes;
                store(to + p, (load(k.mixed + p) + load(k.second + c * f.floats + at_tile.at[j])) * load(k.fixed + p));
            }
        if (k.in_lanes())
            pack_panels(k.fused + steps_of(k.products, c0) * k.dense, k.dense, k.mixed, k.dense, n, k.dense, k.products);
    }
    finish<Dot>(call, tile, k.out, w.out, w.out_bias, k.fused, k.dense, at_tile.count, k.steps_hidden);
}

void fusion_tile(const FusionCall& call, const Tile& tile, float* scratch) {
    const MatrixUnit unit;
    if (products_for(call.paired) != Products::kFloat)
        fuse<PairDot>(call, tile, scratch);
    else
        fuse<FloatDot>(call, tile, scratch);
}

}  // namespace
