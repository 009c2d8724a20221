// Products on the matrix unit: those of dense.h, and the two ways to mix bases.
//
// Four vectors of pixels at a time: the weights that multiply them are read once for all four.
#pragma once

#include "field.h"
#include "matrix_unit.h"
#include "tiles.h"

namespace {

// `product` of dense.h
inline void tile_product(float* out, int64_t out_pitch, const int32_t* out_at, const float* left, int64_t left_pitch,
                         const int32_t* left_at, int64_t vectors, const float* weight, const float* bias, int64_t rows,
                         int64_t steps, bool add);

// With many bases, they are mixed first: one product of 16 rows gives 16 numbers of the mixed kernel, for 16 pixels. Row
// r of a group's weights belongs to output channel r % G and tap r / G; tap 0 is the bias.
constexpr int64_t kFewestMixedFirst = 16, kMostMixedFirst = 32;  // more do not fit into a row of a tile

inline bool mixes_first(const Sizes& s) {
    return s.bases >= kFewestMixedFirst && s.bases <= kMostMixedFirst && (s.group == 1 || s.group == 2 || s.group == 4);
}

inline int64_t mixed_rows(const Sizes& s) { return round_up(s.group * (s.taps() + 1), 16); }

// out[c] = the mixed kernel of every pixel times its neighbourhood. `offsets`: of the taps, and zeros up to whole blocks
// of 16 rows. `coefficients`: pairs, [N / 2][pitch]
inline void mix_first(float* out, const float* channels, const Vectors& at, const int32_t* offsets, const Sizes& s,
                      const float* weight, const float* coefficients, int64_t pitch);

// With few bases, the group is convolved with all of them first: one product whose rows are channels and bases, and
// whose inner dimension is the taps.
struct ConvolvedFirst {
    int64_t group, bases4, taps, rows;  // rows: G x N, padded to whole tiles
    float* columns;                     // two of [taps][4 vectors]: the neighbourhoods side by side
    float* sums;                        // two of [rows][4 vectors]
    float* start;                       // [rows][vector]
};

// out[c] = sum_n coefficients[n] * (bias[c][n] + weight[c][n] * the neighbourhood); `weight`: [rows][taps]
inline void convolve_first(float* out, const float* pairs, const Vectors& at, const int32_t* offsets,
                           const ConvolvedFirst& k, const float* weight, const float* bias, const float* coefficients,
                           int64_t pitch);

#if defined(KBNET_MATRIX_UNIT) || defined(KBNET_EMULATED_MATRIX_UNIT)
static_assert(kLanes == kTilePairs && kColumns == 4);

// Of tile_product: tiles 0 to 3 hold sums, 4 and 5 the operands, 6 and 7 the operands of the last, shorter step.
inline TileSizes product_tiles(int64_t rows, int64_t steps) {
    const int64_t rest = steps % kTilePairs;
    TileSizes sizes;
    for (int t = 0; t < 4; ++t) sizes.set(t, rows, kLanes);
    sizes.set(4, rows, kTilePairs), sizes.set(5, kTilePairs, kLanes);
    if (rest) sizes.set(6, rows, rest), sizes.set(7, rest, kLanes);
    return sizes;
}

// sums += `Weights` times four vectors, whose rows are `pitch` apart
template <int Weights, int Pixels>
inline void add_four_products(const float* const (&left)[4], int64_t pitch, const float* weight, int64_t steps) {
    load_tile<Weights>(weight, steps);
    load_tile<Pixels>(left[0], pitch), add_tile_product<0, Weights, Pixels>();
    load_tile<Pixels>(left[1], pitch), add_tile_product<1, Weights, Pixels>();
    load_tile<Pixels>(left[2], pitch), add_tile_product<2, Weights, Pixels>();
    load_tile<Pixels>(left[3], pitch), add_tile_product<3, Weights, Pixels>();
}

// to = start + W left: up to 16 rows, for four vectors
inline void tile_product_block(float* const (&to)[4], int64_t to_pitch, const float* const (&left)[4],
                               int64_t left_pitch, const float* weight, int64_t steps, const float* const (&start)[4],
                               int64_t start_pitch) {
    load_tile<0>(start[0], start_pitch), load_tile<1>(start[1], start_pitch);
    load_tile<2>(start[2], start_pitch), load_tile<3>(start[3], start_pitch);
    const float* l[4] = {left[0], left[1], left[2], left[3]};
    int64_t i = 0;
    for (; i + kTilePairs <= steps; i += kTilePairs) {
        add_four_products<4, 5>(l, left_pitch, weight + i, steps);
        for (int v = 0; v < 4; ++v) l[v] += kTilePairs * left_pitch;
    }
    if (i < steps) add_four_products<6, 7>(l, left_pitch, weight + i, steps);
    store_tile<0>(to[0], to_pitch), store_tile<1>(to[1], to_pitch);
    store_tile<2>(to[2], to_pitch), store_tile<3>(to[3], to_pitch);
}

constexpr int64_t kBlocksAtOnce = 4;  // blocks of rows that read a vector while it is in the L1 cache

// `blocks` blocks of `rows` rows of tile_product
inline void tile_product_rows(float* out, int64_t out_pitch, const int32_t* out_at, const float* left,
                              int64_t left_pitch, const int32_t* left_at, int64_t vectors, const float* weight,
                              const float* bias, int64_t rows, int64_t blocks, int64_t steps, bool add) {
    alignas(64) float start[kBlocksAtOnce * kTileRows * kLanes];
    for (int64_t r = 0; r < blocks * rows; ++r) {
        store(start + r * kLanes, Vec{} + bias[r]);
        float* const to = out + r * out_pitch;
        for (int64_t p = 0; add && p < vectors * kLanes; p += kLanes) store(to + p, load(to + p) + bias[r]);
    }
    MatrixUnit::use(product_tiles(rows, steps));
    for (int64_t j = 0; j < vectors; j += 4) {
        float* o[4];
        const float *l[4], *from[4];
        for (int v = 0; v < 4; ++v) {
            from[v] = start;
            o[v] = out + (out_at ? out_at[j + v] : (j + v) * kLanes);
            l[v] = left + (left_at ? left_at[j + v] : (j + v) * kLanes);
        }
        for (int64_t b = 0; b < blocks; ++b) {
            if (add)
                for (int v = 0; v < 4; ++v) from[v] = o[v];
            tile_product_block(o, out_pitch, l, left_pitch, weight + b * rows * steps, steps, from,
                               add ? out_pitch : kLanes);
            for (int v = 0; v < 4; ++v) from[v] += rows * kLanes, o[v] += rows * out_pitch;
        }
    }
}

inline void tile_product(float* out, int64_t out_pitch, const int32_t* out_at, const float* left, int64_t left_pitch,
                         const int32_t* left_at, int64_t vectors, const float* weight, const float* bias, int64_t rows,
                         int64_t steps, bool add) {
    rows = round_up(rows, kRows);
    for (int64_t r = 0; r < rows;) {
        const int64_t each = smaller(kTileRows, rows - r), blocks = smaller(kBlocksAtOnce, (rows - r) / each);
        tile_product_rows(out + r * out_pitch, out_pitch, out_at, left, left_pitch, left_at, vectors,
                          weight + r * steps, bias + r, each, blocks, steps, add);
        r += blocks * each;
    }
}

// Tiles 0 to 3 hold the coefficients of four vectors, 4 the weights, 5 to 7 products.
inline TileSizes mixing_tiles(int64_t steps) {
    TileSizes sizes;
    for (int t = 0; t < 4; ++t) sizes.set(t, steps, kLanes);
    sizes.set(4, kTileRows, steps);
    for (int t = 5; t < 8; ++t) sizes.set(t, kTileRows, kLanes);
    return sizes;
}

constexpr int kProduct = kTileRows * kLanes;  // floats of a product

template <int T, int Coefficients>
inline void mix_one(float* to) {
    clear_tile<T>(), add_tile_product<T, 4, Coefficients>(), store_tile<T>(to, kLanes);
}

// The products of 16 rows of weights and the coefficients of four vectors.
inline void mix_four(float* to, const float* weight, int64_t steps) {
    load_tile<4>(weight, steps);
    mix_one<5, 0>(to), mix_one<6, 1>(to + kProduct), mix_one<7, 2>(to + 2 * kProduct), mix_one<5, 3>(to + 3 * kProduct);
}

// sums[v][c] += 16 rows of a mixed kernel times the taps they belong to. `offsets`: of the first of these taps; the
// first block begins with the bias instead.
template <int Group, bool FirstBlock>
inline void apply_mixed(Vec (&sums)[4][Group], const float* mixed, const float* const (&pixels)[4],
                        const int32_t* offsets) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v)
#pragma GCC unroll 16
        for (int t = 0; t < kTileRows / Group; ++t) {
            const Vec x = FirstBlock && t == 0 ? Vec{} + 1.0f : load(pixels[v] + offsets[t]);
#pragma GCC unroll 4
            for (int c = 0; c < Group; ++c) sums[v][c] += x * load(mixed + v * kProduct + (t * Group + c) * kLanes);
        }
}

template <int Group>
inline void mix_first_of(float* out, const float* channels, const Vectors& at, const int32_t* offsets, const Sizes& s,
                         const float* weight, const float* coefficients, int64_t pitch) {
    constexpr int64_t kDelay = 2;  // blocks of rows between multiplying and applying, which hides the unit's latency
    constexpr int64_t kTaps = kTileRows / Group;
    alignas(64) float ring[(kDelay + 1) * 4 * kProduct];
    const int64_t steps = round_up(s.bases, kRows) / 2, blocks = mixed_rows(s) / kTileRows;
    const auto products = [&](int64_t block) { return ring + block % (kDelay + 1) * 4 * kProduct; };
    MatrixUnit::use(mixing_tiles(steps));
    for (int64_t j = 0; j < at.count; j += 4) {
        const float* const a = coefficients + j * kLanes;
        const float* pixels[4];
        for (int v = 0; v < 4; ++v) pixels[v] = channels + at.at[j + v];
        load_tile<0>(a, pitch), load_tile<1>(a + kLanes, pitch);
        load_tile<2>(a + 2 * kLanes, pitch), load_tile<3>(a + 3 * kLanes, pitch);
        Vec sums[4][Group] = {};
        for (int64_t b = 0; b < blocks + kDelay; ++b) {
            if (b < blocks) mix_four(products(b), weight + b * kTileRows * steps, steps);
            if (b == kDelay)
                apply_mixed<Group, true>(sums, products(0), pixels, offsets - 1);
            else if (b > kDelay)
                apply_mixed<Group, false>(sums, products(b - kDelay), pixels, offsets + (b - kDelay) * kTaps - 1);
        }
        for (int c = 0; c < Group; ++c)
            for (int v = 0; v < 4; ++v) store(out + c * pitch + (j + v) * kLanes, sums[v][c]);
    }
}

inline void mix_first(float* out, const float* channels, const Vectors& at, const int32_t* offsets, const Sizes& s,
                      const float* weight, const float* coefficients, int64_t pitch) {
    switch (s.group) {
        case 1: return mix_first_of<1>(out, channels, at, offsets, s, weight, coefficients, pitch);
        case 2: return mix_first_of<2>(out, channels, at, offsets, s, weight, coefficients, pitch);
        case 4: return mix_first_of<4>(out, channels, at, offsets, s, weight, coefficients, pitch);
    }
}

// Copies of the columns for four vectors, products, and sums over bases follow each other at a distance of one step, so
// that no tile is read while it is being written.
inline void convolve_first(float* out, const float* pairs, const Vectors& at, const int32_t* offsets,
                           const ConvolvedFirst& k, const float* weight, const float* bias, const float* coefficients,
                           int64_t pitch) {
    constexpr int64_t kWidth = 4 * kLanes;
    const auto copy = [&](int64_t i) {
        float* to = k.columns + i % 2 * k.taps * kWidth;
        for (int64_t t = 0; t < k.taps; ++t, to += kWidth)
            for (int v = 0; v < 4; ++v) store(to + v * kLanes, load(pairs + at.at[4 * i + v] + offsets[t]));
    };
    const auto multiply = [&](int64_t i) {
        const float* const from = k.columns + i % 2 * k.taps * kWidth;
        float* const to = k.sums + i % 2 * k.rows * kWidth;
        for (int64_t r = 0; r < k.rows; r += kTileRows) {
            const float* const start = k.start + r * kLanes;
            float* const o = to + r * kWidth;
            tile_product_block({o, o + kLanes, o + 2 * kLanes, o + 3 * kLanes}, kWidth,
                               {from, from + kLanes, from + 2 * kLanes, from + 3 * kLanes}, kWidth,
                               weight + r * k.taps, k.taps, {start, start, start, start}, kLanes);
        }
    };
    const auto mix = [&](int64_t i) {
        const float *from = k.sums + i % 2 * k.rows * kWidth, *a = coefficients + i * kWidth;
        for (int64_t c = 0; c < k.group; ++c, from += k.bases4 * kWidth) {
            Vec sum[4] = {};
            for (int64_t n = 0; n < k.bases4; ++n)
                for (int v = 0; v < 4; ++v)
                    sum[v] += load(from + n * kWidth + v * kLanes) * load(a + n * pitch + v * kLanes);
            for (int v = 0; v < 4; ++v) store(out + c * pitch + i * kWidth + v * kLanes, sum[v]);
        }
    };
    for (int64_t r = 0; r < k.rows; ++r) store(k.start + r * kLanes, Vec{} + bias[r]);
    MatrixUnit::use(product_tiles(kTileRows, k.taps));
    const int64_t count = at.count / 4;
    copy(0);
    for (int64_t i = 0; i < count; ++i) {
        if (i + 1 < count) copy(i + 1);
        multiply(i);
        if (i > 0) mix(i - 1);
    }
    mix(count - 1);
}
#else  // never called
inline void tile_product(float*, int64_t, const int32_t*, const float*, int64_t, const int32_t*, int64_t, const float*,
                         const float*, int64_t, int64_t, bool) {}
inline void mix_first(float*, const float*, const Vectors&, const int32_t*, const Sizes&, const float*, const float*,
                      int64_t) {}
inline void convolve_first(float*, const float*, const Vectors&, const int32_t*, const ConvolvedFirst&, const float*,
                           const float*, const float*, int64_t) {}
#endif

}  // namespace
