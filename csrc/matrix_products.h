// Products on the matrix unit: those of dense.h, and the two ways to mix bases.
//
// Four vectors of pixels at a time: the rows of weights that multiply them are read once for all four.
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

// out[c] = the mixed kernel of every pixel times its neighbourhood. `coefficients`: pairs, [N / 2][pitch]
inline void mix_first(float* out, const float* channels, const Vectors& at, const int32_t* offsets, const Sizes& s,
                      const float* weight, const float* coefficients, int64_t pitch);

// With few bases, the group is convolved with all of them first: one product whose rows are channels and bases, and
// whose inner dimension is the taps, copied side by side into `columns` [taps][4 vectors]. `sums`: [G][N][4 vectors]
inline void convolve_first(float* out, const float* pairs, const Vectors& at, const int32_t* offsets, int64_t taps,
                           const float* weight, const float* bias, const float* coefficients, int64_t pitch,
                           int64_t bases4, int64_t group, float* columns, float* sums);

#if defined(KBNET_MATRIX_UNIT) || defined(KBNET_EMULATED_MATRIX_UNIT)
static_assert(kLanes == kTilePairs && kColumns == 4);

// Of tile_product: tiles 0 to 3 hold sums, 4 and 5 the operands, 6 and 7 the operands of the last, shorter step.
inline TileSizes product_tiles(int64_t rows, int64_t steps) {
    const int64_t rest = steps % kTilePairs;
    TileSizes sizes;
    for (int t = 0; t < 4; ++t) sizes.set(t, rows, kLanes);
    sizes.set(4, rows, kTilePairs), sizes.set(5, kTilePairs, kLanes);
    sizes.set(6, rows, rest), sizes.set(7, rest, kLanes);
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

// Up to 16 rows of tile_product for four vectors. `start`: the biases, in every lane
inline void tile_product_block(float* const (&out)[4], int64_t out_pitch, const float* const (&left)[4],
                               int64_t left_pitch, const float* weight, int64_t steps, const float* start) {
    load_tile<0>(start, kLanes), load_tile<1>(start, kLanes), load_tile<2>(start, kLanes), load_tile<3>(start, kLanes);
    const float* l[4] = {left[0], left[1], left[2], left[3]};
    int64_t i = 0;
    for (; i + kTilePairs <= steps; i += kTilePairs) {
        add_four_products<4, 5>(l, left_pitch, weight + i, steps);
        for (int v = 0; v < 4; ++v) l[v] += kTilePairs * left_pitch;
    }
    if (i < steps) add_four_products<6, 7>(l, left_pitch, weight + i, steps);
    store_tile<0>(out[0], out_pitch), store_tile<1>(out[1], out_pitch);
    store_tile<2>(out[2], out_pitch), store_tile<3>(out[3], out_pitch);
}

inline void tile_product(float* out, int64_t out_pitch, const int32_t* out_at, const float* left, int64_t left_pitch,
                         const int32_t* left_at, int64_t vectors, const float* weight, const float* bias, int64_t rows,
                         int64_t steps, bool add) {
    rows = round_up(rows, kRows);
    alignas(64) float start[kTileRows * kLanes], sums[kTileRows * 4 * kLanes];
    for (int64_t r = 0; r < rows; r += kTileRows, weight += kTileRows * steps) {
        const int64_t n = smaller(kTileRows, rows - r);
        MatrixUnit::use(product_tiles(n, steps));
        for (int64_t s = 0; s < n; ++s) store(start + s * kLanes, Vec{} + bias[r + s]);
        for (int64_t j = 0; j < vectors; j += 4) {
            float *o[4], *to[4];
            const float* l[4];
            for (int v = 0; v < 4; ++v) {
                o[v] = out + r * out_pitch + (out_at ? out_at[j + v] : (j + v) * kLanes);
                to[v] = add ? sums + v * kLanes : o[v];
                l[v] = left + (left_at ? left_at[j + v] : (j + v) * kLanes);
            }
            tile_product_block(to, add ? 4 * kLanes : out_pitch, l, left_pitch, weight, steps, start);
            // Not where the sums start: they would round like a large number at every step.
            for (int64_t s = 0; add && s < n; ++s)
                for (int v = 0; v < 4; ++v)
                    store(o[v] + s * out_pitch, load(o[v] + s * out_pitch) + load(to[v] + s * 4 * kLanes));
        }
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

// sums[c] += 16 rows of a mixed kernel times the taps they belong to, for one vector.
template <int Group>
inline void apply_mixed(Vec (&sums)[Group], const float* mixed, const float* pixels, const int32_t* offsets,
                        int64_t tap, int64_t taps) {
    for (int t = 0; t < kTileRows / Group; ++t) {
        const int64_t at = tap + t;
        const Vec x = at > 0 && at <= taps ? load(pixels + offsets[at - 1]) : Vec{} + 1.0f;
        for (int c = 0; c < Group; ++c) sums[c] += x * load(mixed + (t * Group + c) * kLanes);
    }
}

template <int Group>
inline void mix_first(float* out, const float* channels, const Vectors& at, const int32_t* offsets, const Sizes& s,
                      const float* weight, const float* coefficients, int64_t pitch) {
    constexpr int kDelay = 2;  // blocks of rows between multiplying and applying, which hides the unit's latency
    alignas(64) float ring[(kDelay + 1) * 4 * kProduct];
    const int64_t steps = round_up(s.bases, kRows) / 2, blocks = mixed_rows(s) / kTileRows;
    MatrixUnit::use(mixing_tiles(steps));
    for (int64_t j = 0; j < at.count; j += 4) {
        const float* a = coefficients + j * kLanes;
        load_tile<0>(a, pitch), load_tile<1>(a + kLanes, pitch);
        load_tile<2>(a + 2 * kLanes, pitch), load_tile<3>(a + 3 * kLanes, pitch);
        Vec sums[4][Group] = {};
        for (int64_t b = 0; b < blocks + kDelay; ++b) {
            if (b < blocks) mix_four(ring + b % (kDelay + 1) * 4 * kProduct, weight + b * kTileRows * steps, steps);
            if (b < kDelay) continue;
            const int64_t ready = b - kDelay;
            for (int v = 0; v < 4; ++v)
                apply_mixed<Group>(sums[v], ring + (ready % (kDelay + 1) * 4 + v) * kProduct, channels + at.at[j + v],
                                   offsets, ready * kTileRows / Group, s.taps());
        }
        for (int c = 0; c < Group; ++c)
            for (int v = 0; v < 4; ++v) store(out + c * pitch + (j + v) * kLanes, sums[v][c]);
    }
}

inline void mix_first(float* out, const float* channels, const Vectors& at, const int32_t* offsets, const Sizes& s,
                      const float* weight, const float* coefficients, int64_t pitch) {
    switch (s.group) {
        case 1: return mix_first<1>(out, channels, at, offsets, s, weight, coefficients, pitch);
        case 2: return mix_first<2>(out, channels, at, offsets, s, weight, coefficients, pitch);
        case 4: return mix_first<4>(out, channels, at, offsets, s, weight, coefficients, pitch);
    }
}

inline void convolve_first(float* out, const float* pairs, const Vectors& at, const int32_t* offsets, int64_t taps,
                           const float* weight, const float* bias, const float* coefficients, int64_t pitch,
                           int64_t bases4, int64_t group, float* columns, float* sums) {
    constexpr int64_t kWidth = 4 * kLanes;
    for (int64_t j = 0; j < at.count; j += 4) {
        for (int64_t t = 0; t < taps; ++t)
            for (int v = 0; v < 4; ++v)
                store(columns + t * kWidth + v * kLanes, load(pairs + at.at[j + v] + offsets[t]));
        tile_product(sums, kWidth, nullptr, columns, kWidth, nullptr, 4, weight, bias, group * bases4, taps, false);
        for (int64_t c = 0; c < group; ++c)
            for (int v = 0; v < 4; ++v) {
                const float* const from = sums + c * bases4 * kWidth + v * kLanes;
                const float* const a = coefficients + (j + v) * kLanes;
                Vec sum{};
                for (int64_t n = 0; n < bases4; ++n) sum += load(from + n * kWidth) * load(a + n * pitch);
                store(out + c * pitch + (j + v) * kLanes, sum);
            }
    }
}
#else  // never called
inline void tile_product(float*, int64_t, const int32_t*, const float*, int64_t, const int32_t*, int64_t, const float*,
                         const float*, int64_t, int64_t, bool) {}
inline void mix_first(float*, const float*, const Vectors&, const int32_t*, const Sizes&, const float*, const float*,
                      int64_t) {}
inline void convolve_first(float*, const float*, const Vectors&, const int32_t*, int64_t, const float*, const float*,
                           const float*, int64_t, int64_t, int64_t, float*, float*) {}
#endif

}  // namespace
