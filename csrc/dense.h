// Operations of a block on panels: matrix products, convolutions and norms.
//
// Every product runs in register tiles of kRows outputs x kColumns vectors of pixels. Weights are packed once per call
// as [outputs / kRows][inputs][kRows], multiplied by their scales. In bfloat16 two inputs share a lane (products.h);
// with a matrix unit, products of pairs run there (matrix_products.h).
#pragma once

#include <cmath>

#include "field.h"
#include "matrix_products.h"
#include "products.h"

namespace {

inline Quad pair_of(Quad low, Quad high) {
    const auto rounded = [](Quad q) {
        const QuadBits bits = (QuadBits)q, is_nan = (QuadBits)(q != q);
        return (is_nan & (bits | 0x400000)) | (~is_nan & (bits + 0x7fff + ((bits >> 16) & 1)));
    };
    return (Quad)((rounded(low) >> 16) | (rounded(high) & 0xffff0000u));
}

// Transposes four rows of `inner` numbers, `row` apart: to[i] = scale * (row 0, 1, 2, 3)[i], or in pairs.
template <class T>
inline void pack_four(float* to, const T* from, int64_t row, int64_t inner, Quad scale, bool paired) {
    int64_t i = 0;
    for (; i + 4 <= inner; i += 4, from += 4) {
        Quad a = widen4(from), b = widen4(from + row), c = widen4(from + 2 * row), d = widen4(from + 3 * row);
        transpose(a, b, c, d);
        if (paired) {
            narrow4(pair_of(a * scale, b * scale), to);
            narrow4(pair_of(c * scale, d * scale), to + 4);
            to += 8;
        } else {
            narrow4(a * scale, to), narrow4(b * scale, to + 4), narrow4(c * scale, to + 8), narrow4(d * scale, to + 12);
            to += 16;
        }
    }
    const auto column = [&](int64_t at) {
        return Quad{widen(from[at]), widen(from[at + row]), widen(from[at + 2 * row]), widen(from[at + 3 * row])} * scale;
    };
    for (int64_t rest = inner - i, at = 0; at < rest; at += paired ? 2 : 1, to += 4)
        narrow4(paired ? pair_of(column(at), at + 1 < rest ? column(at + 1) : Quad{}) : column(at), to);
}

// The lanes of factor * (from[2i], from[2i + 1])
template <class T>
inline void pack_pairs(float* to, const T* from, int64_t inner, float factor, Products products) {
    for (int64_t i = 0; i < inner; i += 2, to += steps_of(products, 2))
        pack_pair(to, 1, widen(from[i]) * factor, i + 1 < inner ? widen(from[i + 1]) * factor : 0.0f, products);
}

// pack_rows for the matrix unit: [rows][steps]
inline void pack_rows_of_pairs(float* to, const Matrix& m, int64_t row0, int64_t rows, int64_t inner,
                               const Matrix& scale, Products products) {
    const int64_t steps = steps_of(products, inner);
    for (int64_t r = 0; r < rows; ++r, to += steps) {
        const float factor = scale.data ? element(scale, row0 + r) : 1.0f;
        const int64_t at = (row0 + r) * inner;
        if (m.bfloat16)
            pack_pairs(to, static_cast<const Bfloat16*>(m.data) + at, inner, factor, products);
        else
            pack_pairs(to, static_cast<const float*>(m.data) + at, inner, factor, products);
    }
    fill(to, (round_up(rows, kRows) - rows) * steps, 0.0f);
}

// Packs rows [row0, row0 + rows) of a matrix of `inner` columns, each times scale[row], for `product`. Rows are padded
// with zeros to a multiple of kRows. The matrix unit reads pairs as [rows][steps].
inline void pack_rows(float* to, const Matrix& m, int64_t row0, int64_t rows, int64_t inner, const Matrix& scale,
                      Products products) {
    static_assert(kRows == 4, "packs four rows at a time");
    const bool paired = products != Products::kFloat;
    const int64_t steps = steps_of(products, inner);
    if (kHaveMatrixUnit && paired) return pack_rows_of_pairs(to, m, row0, rows, inner, scale, products);
    for (int64_t r = 0; r < rows; r += kRows, to += steps * kRows) {
        Quad factor{};
        for (int64_t s = 0; s < kRows && r + s < rows; ++s)
            factor[s] = scale.data ? element(scale, row0 + r + s) : 1.0f;
        const int64_t at = (row0 + r) * inner;
        if (r + kRows <= rows) {
            if (m.bfloat16)
                pack_four(to, static_cast<const Bfloat16*>(m.data) + at, inner, inner, factor, paired);
            else
                pack_four(to, static_cast<const float*>(m.data) + at, inner, inner, factor, paired);
            continue;
        }
        for (int64_t i = 0; i < steps; ++i)
            for (int64_t s = 0; s < kRows; ++s) {
                const auto number = [&](int64_t column) {
                    return r + s < rows && column < inner ? element(m, at + s * inner + column) * factor[s] : 0.0f;
                };
                to[i * kRows + s] = paired ? pair_of(number(2 * i), number(2 * i + 1)) : number(i);
            }
    }
}

inline float bias_of(const Matrix& bias, const Matrix& scale, int64_t row) {
    if (!bias.data) return 0.0f;
    return element(bias, row) * (scale.data ? element(scale, row) : 1.0f);
}

// A part of the work of packing: the share of `count` items that part number `part` of `parts` has.
struct Share {
    int64_t part, parts;

    int64_t begin(int64_t count) const { return count * part / parts; }
    int64_t end(int64_t count) const { return count * (part + 1) / parts; }
};

// This share of the rows of a matrix.
inline void pack_share(float* to, const Matrix& m, int64_t rows, int64_t inner, const Matrix& scale, Products products,
                       const Share& share) {
    const int64_t blocks = round_up(rows, kRows) / kRows, steps = steps_of(products, inner);
    const int64_t begin = share.begin(blocks) * kRows, end = smaller(rows, share.end(blocks) * kRows);
    if (begin < end) pack_rows(to + begin * steps, m, begin, end - begin, inner, scale, products);
}

// Biases, times a scale, and zeros up to a multiple of kRows.
inline void pack_biases(float* to, const Matrix& bias, const Matrix& scale, int64_t rows) {
    for (int64_t i = 0; i < round_up(rows, kRows); ++i) to[i] = i < rows ? bias_of(bias, scale, i) : 0.0f;
}

// S x kColumns sums: out[s][v] = (out[s][v] if `add`) + bias[s] + sum_i weight[i][s] * left[i][v]
template <class Dot, int S>
inline void product_block(float* const (&out)[kColumns], int64_t out_pitch, const float* const (&left)[kColumns],
                          int64_t left_pitch, const float* weight, int64_t steps, const float* bias, bool add) {
    Vec acc[S][kColumns];
    for (int s = 0; s < S; ++s)
        for (int v = 0; v < kColumns; ++v) acc[s][v] = Vec{} + bias[s];
    for (int64_t i = 0; i < steps; ++i) {
        Vec x[kColumns];
        for (int v = 0; v < kColumns; ++v) x[v] = load(left[v] + i * left_pitch);
        const float* const weights = own_pointer(weight + i * kRows);
        for (int s = 0; s < S; ++s) {
            const float w = weights[s];
            for (int v = 0; v < kColumns; ++v) acc[s][v] = Dot::add(acc[s][v], x[v], w);
        }
    }
    // Last, because a sum that starts at a large number rounds like that number at every step; and all loads before the
    // first store, because the last vectors of a field can be the same one.
    if (add)
        for (int s = 0; s < S; ++s)
            for (int v = 0; v < kColumns; ++v) acc[s][v] += load(out[v] + s * out_pitch);
    for (int s = 0; s < S; ++s)
        for (int v = 0; v < kColumns; ++v) store(out[v] + s * out_pitch, acc[s][v]);
}

// Long sums are split, so that the block of `left` that many output rows read stays in the L1 cache.
constexpr int64_t kInnerSteps = 96;

// `product` in register tiles.
template <class Dot>
inline void vector_product(float* out, int64_t out_pitch, const int32_t* out_at, const float* left, int64_t left_pitch,
                           const int32_t* left_at, int64_t vectors, const float* weight, const float* bias, int64_t rows,
                           int64_t steps, bool add) {
    static const float zeros[kRows] = {};
    for (int64_t j = 0; j < vectors; j += kColumns)
        for (int64_t begin = 0; begin < steps; begin += kInnerSteps) {
            const int64_t count = smaller(kInnerSteps, steps - begin);
            const float* l[kColumns];
            for (int v = 0; v < kColumns; ++v)
                l[v] = left + (left_at ? left_at[j + v] : (j + v) * kLanes) + begin * left_pitch;
            for (int64_t r = 0; r < rows; r += kRows) {
                float* o[kColumns];
                for (int v = 0; v < kColumns; ++v)
                    o[v] = out + r * out_pitch + (out_at ? out_at[j + v] : (j + v) * kLanes);
                product_block<Dot, kRows>(o, out_pitch, l, left_pitch, weight + (r * steps + begin * kRows), count,
                                          begin ? zeros : bias + r, add || begin > 0);
            }
        }
}

// out = W left + bias for `rows` outputs (padded to kRows) at the given vectors; with `add`, added to `out`, which then
// has to be dense. `out_at` is null for dense output.
template <class Dot>
inline void product(float* out, int64_t out_pitch, const int32_t* out_at, const float* left, int64_t left_pitch,
                    const int32_t* left_at, int64_t vectors, const float* weight, const float* bias, int64_t rows,
                    int64_t steps, bool add = false) {
    if constexpr (Dot::kOnMatrixUnit)
        tile_product(out, out_pitch, out_at, left, left_pitch, left_at, vectors, weight, bias, rows, steps, add);
    else
        vector_product<Dot>(out, out_pitch, out_at, left, left_pitch, left_at, vectors, weight, bias, rows, steps, add);
}

// Offsets in a panel from a pixel to the taps of its neighbourhood, in order (channel, row, column).
inline void tap_offsets(int32_t* taps, int64_t channels, int64_t channel_pitch, int64_t kernel, int64_t pitch) {
    for (int64_t j = 0; j < channels; ++j)
        for (int64_t u = 0; u < kernel; ++u)
            for (int64_t v = 0; v < kernel; ++v)
                *taps++ = static_cast<int32_t>(j * channel_pitch + (u - kernel / 2) * pitch + v - kernel / 2);
}

// One group of a convolution, S output channels: out[s] = bias[s] + sum_t weight[t][s] * from[taps[t]]
template <class Dot, int S>
inline void convolve(float* out, int64_t out_pitch, const int32_t* out_at, const float* from, const Vectors& at,
                     const int32_t* taps, int64_t count, const float* weight, const float* bias) {
    for (int64_t j = 0; j < at.count; j += kColumns) {
        const float* l[kColumns];
        for (int v = 0; v < kColumns; ++v) l[v] = from + at.at[j + v];
        Vec acc[S][kColumns];
        for (int s = 0; s < S; ++s)
            for (int v = 0; v < kColumns; ++v) acc[s][v] = Vec{} + bias[s];
        for (int64_t t = 0; t < count; ++t) {
            Vec x[kColumns];
            for (int v = 0; v < kColumns; ++v) x[v] = load(l[v] + taps[t]);
            const float* const weights = own_pointer(weight + t * S);
            for (int s = 0; s < S; ++s) {
                const float w = weights[s];
                for (int v = 0; v < kColumns; ++v) acc[s][v] = Dot::add(acc[s][v], x[v], w);
            }
        }
        for (int s = 0; s < S; ++s)
            for (int v = 0; v < kColumns; ++v)
                store(out + s * out_pitch + (out_at ? out_at[j + v] : (j + v) * kLanes), acc[s][v]);
    }
}

// `convolve` of one channel by 3x3 taps: rows of `from` are `pitch` floats apart. The taps stay in registers.
inline void depthwise_3x3(float* out, const int32_t* out_at, const float* from, const Vectors& at, int64_t pitch,
                         const float* weight, float bias) {
    Vec w[9];
    for (int t = 0; t < 9; ++t) w[t] = Vec{} + weight[t];
    for (int64_t j = 0; j < at.count; j += kColumns) {
        Vec acc[kColumns];
        for (int v = 0; v < kColumns; ++v) acc[v] = Vec{} + bias;
        for (int v = 0; v < kColumns; ++v) {
            const float* const middle = from + at.at[j + v];
            const float* const rows[3] = {middle - pitch, middle, middle + pitch};
            for (int t = 0; t < 9; ++t) acc[v] += load(rows[t / 3] + t % 3 - 1) * w[t];
        }
        for (int v = 0; v < kColumns; ++v) store(out + (out_at ? out_at[j + v] : (j + v) * kLanes), acc[v]);
    }
}

// Layer norm over the channels of every pixel of a panel, in place; n is a multiple of kLanes. Every sum over channels is
// a chain of additions that wait for each other, so four vectors of pixels side by side take the time of one. At the end
// of a panel, the last vector is computed several times: by other code, it could round differently.
inline void normalize(float* panel, int64_t pitch, int64_t channels, int64_t n, const float* weight, const float* bias,
                      float eps) {
    constexpr int kAtOnce = 4;
    const float share = 1.0f / static_cast<float>(channels);
    for (int64_t p = 0; p < n; p += kAtOnce * kLanes) {
        float* x[kAtOnce];
        for (int v = 0; v < kAtOnce; ++v) x[v] = panel + smaller(p + v * kLanes, n - kLanes);
        Vec mean[kAtOnce] = {}, scale[kAtOnce] = {};
        for (int64_t c = 0; c < channels; ++c)
            for (int v = 0; v < kAtOnce; ++v) mean[v] += load(x[v] + c * pitch);
        for (int v = 0; v < kAtOnce; ++v) mean[v] *= share;
        for (int64_t c = 0; c < channels; ++c)
            for (int v = 0; v < kAtOnce; ++v) {
                const Vec d = load(x[v] + c * pitch) - mean[v];
                scale[v] += d * d;
            }
        for (int v = 0; v < kAtOnce; ++v) {
            scale[v] = scale[v] * share + eps;
            for (int i = 0; i < kLanes; ++i) scale[v][i] = 1.0f / std::sqrt(scale[v][i]);
        }
        for (int64_t c = 0; c < channels; ++c) {
            Vec y[kAtOnce];  // all loads before the first store, because of the repeated vectors
            for (int v = 0; v < kAtOnce; ++v) y[v] = (load(x[v] + c * pitch) - mean[v]) * scale[v] * weight[c] + bias[c];
            for (int v = 0; v < kAtOnce; ++v) store(x[v] + c * pitch, y[v]);
        }
    }
}

}  // namespace
