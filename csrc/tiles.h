// The register tiles that do all arithmetic.
//
// Each tile keeps a block of accumulators in registers. One operand is read as whole vectors, and the other is
// broadcast, one number at a time. Template parameters are the sides of the tile, so every inner loop is unrolled.
#pragma once

#include "matrix_unit.h"
#include "vec.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

namespace {

constexpr int kWide = kRegisters == 32 ? 8 : 4;  // rows of a register tile; its columns are 3 vectors of pixels
constexpr int64_t kBlock = 3 * kLanes;           // pixels of a register tile

// How to add a product to an accumulator. `Step` is what one lane multiplies at a time, always four bytes.
struct FloatDot {
    static constexpr bool kOnMatrixUnit = false;
    static inline Vec add(Vec sum, Vec x, float w) { return sum + x * w; }
};

#if defined(__AVX512BF16__)
struct Bfloat16PairDot {  // a lane holds two bfloat16 numbers; both products accumulate in float32
    static constexpr bool kOnMatrixUnit = false;
    static inline Vec add(Vec sum, Vec x, float w) {
        return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)_mm512_set1_ps(w));
    }
};
#endif

// The same on whole tiles, by matrix_products.h.
struct MatrixDot {
    static constexpr bool kOnMatrixUnit = true;
};

// out[p] += sum_s right[s][p] * sum_i weight[s][i] * left[i][p],   V vectors of pixels p, S rows s
//
// Forward: left = the taps of the neighbourhood, right = the coefficients, s = the bases.
template <class Dot, int V, int S>
inline void mix_tile(float* out, const float* left, const float* right, int64_t pitch, const float* weight,
                     int64_t weight_pitch, int64_t inner) {
    Vec acc[S][V] = {};
    for (int64_t i = 0; i < inner; ++i) {
        Vec x[V];
        for (int v = 0; v < V; ++v) x[v] = load(left + i * pitch + v * kLanes);
        for (int s = 0; s < S; ++s) {
            const float w = weight[s * weight_pitch + i];
            for (int v = 0; v < V; ++v) acc[s][v] = Dot::add(acc[s][v], x[v], w);
        }
    }
    for (int v = 0; v < V; ++v) {
        Vec sum = load(out + v * kLanes);
        for (int s = 0; s < S; ++s) sum += acc[s][v] * load(right + s * pitch + v * kLanes);
        store(out + v * kLanes, sum);
    }
}

// out[s][p] += right[p] * sum_i weight[s][i] * left[i][p],   V vectors of pixels p, S rows s
//
// Gradient of the coefficients: left = the taps, right = dy of a channel, s = the bases.
template <int V, int S>
inline void unmix_tile(float* out, const float* left, const float* right, int64_t pitch, const float* weight,
                       int64_t weight_pitch, int64_t inner) {
    Vec acc[S][V] = {};
    for (int64_t i = 0; i < inner; ++i) {
        Vec x[V];
        for (int v = 0; v < V; ++v) x[v] = load(left + i * pitch + v * kLanes);
        for (int s = 0; s < S; ++s) {
            const float w = weight[s * weight_pitch + i];
            for (int v = 0; v < V; ++v) acc[s][v] += x[v] * w;
        }
    }
    for (int s = 0; s < S; ++s)
        for (int v = 0; v < V; ++v) {
            float* o = out + s * pitch + v * kLanes;
            store(o, load(o) + acc[s][v] * load(right + v * kLanes));
        }
}

// out[r][p] += sum_i weight[r][i] * left[i][p],   V vectors of pixels p, R rows r; left's rows are kBlock apart
template <int V, int R>
inline void product_tile(float* out, int64_t out_pitch, const float* left, const float* weight, int64_t weight_row,
                         int64_t weight_step, int64_t inner) {
    Vec acc[R][V] = {};
    for (int64_t i = 0; i < inner; ++i) {
        Vec x[V];
        for (int v = 0; v < V; ++v) x[v] = load(left + i * kBlock + v * kLanes);
        for (int r = 0; r < R; ++r) {
            const float w = weight[r * weight_row + i * weight_step];
            for (int v = 0; v < V; ++v) acc[r][v] += x[v] * w;
        }
    }
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) {
            float* o = out + r * out_pitch + v * kLanes;
            store(o, load(o) + acc[r][v]);
        }
}

// out[t][m] += sum_p taps[t][p] * z[p][m],   V vectors of m, T rows t: the sum runs over pixels
template <int V, int T>
inline void outer_tile(float* out, const float* z, int64_t pitch, const float* taps, int64_t taps_pitch,
                       int64_t pixels) {
    Vec acc[T][V] = {};
    for (int64_t p = 0; p < pixels; ++p) {
        Vec x[V];
        for (int v = 0; v < V; ++v) x[v] = load(z + p * pitch + v * kLanes);
        for (int t = 0; t < T; ++t) {
            const float u = taps[t * taps_pitch + p];
            for (int v = 0; v < V; ++v) acc[t][v] += x[v] * u;
        }
    }
    for (int t = 0; t < T; ++t)
        for (int v = 0; v < V; ++v) {
            float* o = out + t * pitch + v * kLanes;
            store(o, load(o) + acc[t][v]);  // a sum of sums: rounding errors grow with the number of strips, not pixels
        }
}

}  // namespace
