// Operations of the training passes on dense planar panels, [channels][pitch] floats: matrix products, sums over pixels
// and norms, each with its gradient.
//
// The pitch is a multiple of kStep floats. For sums over pixels, the floats between the last pixel and the pitch must
// be zero (clear_tail).
#pragma once

#include "dense.h"

namespace {

constexpr int64_t kStep = kColumns * kLanes;  // floats that `product` writes at a time

// Channels at multiples of 2 KB would share a few sets of the L1 cache.
inline int64_t planar_pitch(int64_t pixels) {
    const int64_t pitch = round_up(pixels, kStep);
    return pitch % 512 ? pitch : pitch + kStep;
}

inline void clear_tail(float* panel, int64_t pitch, int64_t channels, int64_t pixels) {
    for (int64_t c = 0; c < channels; ++c) fill(panel + c * pitch + pixels, pitch - pixels, 0.0f);
}

inline Quad quad_of(Vec v) {
    float lanes[kLanes];
    store(lanes, v);
    Quad sum = widen4(lanes);
    for (int i = 4; i < kLanes; i += 4) sum += widen4(lanes + i);
    return sum;
}

inline float sum_of(Vec v) {
    const Quad sum = quad_of(v);
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// Sums of more than this many vectors are split: rounding errors grow with the length of a sum.
constexpr int64_t kSumVectors = 64;

// Packs a matrix [rows][inner], each row times scale[row], for `product`.
inline void pack_matrix(float* to, const float* m, int64_t rows, int64_t inner, const float* scale) {
    pack_rows(to, Matrix{m, false}, 0, rows, inner, Matrix{scale, false}, Products::kFloat);
}

// The same for the transpose: m is [inner][rows], scaled along `inner`.
inline void pack_transpose(float* to, const float* m, int64_t rows, int64_t inner, const float* scale) {
    for (int64_t r = 0; r < rows; r += kRows, to += inner * kRows)
        for (int64_t i = 0; i < inner; ++i)
            for (int64_t s = 0; s < kRows; ++s)
                to[i * kRows + s] = r + s < rows ? m[i * rows + r + s] * (scale ? scale[i] : 1.0f) : 0.0f;
}

inline int64_t packed_floats(int64_t rows, int64_t inner) { return round_up(rows, kRows) * inner; }

// out = W left + bias, or out += W left. `bias` has round_up(rows, kRows) values; rows of `out` are rounded up too.
inline void multiply(float* out, const float* packed, const float* bias, const float* left, int64_t pitch,
                     int64_t rows, int64_t inner) {
    product<FloatDot>(out, pitch, nullptr, left, pitch, nullptr, pitch / kLanes, packed, bias, rows, inner);
}

inline void multiply_add(float* out, const float* packed, const float* zeros, const float* left, int64_t pitch,
                         int64_t rows, int64_t inner) {
    product<FloatDot>(out, pitch, nullptr, left, pitch, nullptr, pitch / kLanes, packed, zeros, rows, inner, true);
}

constexpr int kOuterRows = 4, kOuterColumns = kRegisters == 32 ? 4 : 2;

// to[j] += the sum of acc[j]'s lanes, for the first `many`
inline void add_sums(float* to, const Vec (&acc)[kOuterColumns], int64_t many) {
    Quad q[4] = {};
    for (int j = 0; j < kOuterColumns; ++j) q[j] = quad_of(acc[j]);
    transpose(q[0], q[1], q[2], q[3]);
    const Quad sums = (q[0] + q[1]) + (q[2] + q[3]);
    if (many == 4)
        narrow4(widen4(to) + sums, to);
    else
        for (int64_t j = 0; j < many; ++j) to[j] += sums[j];
}

// out[r][c] += sum_p a[r][p] b[c][p] over whole pitches
inline void add_outer(float* out, const float* a, int64_t rows, const float* b, int64_t columns, int64_t pitch) {
    const int64_t vectors = pitch / kLanes;
    for (int64_t begin = 0; begin < vectors; begin += kSumVectors) {
        const int64_t first = begin * kLanes, last = smaller(vectors, begin + kSumVectors) * kLanes;
        for (int64_t r = 0; r < rows; r += kOuterRows)
            for (int64_t c = 0; c < columns; c += kOuterColumns) {
                const float *left[kOuterRows], *right[kOuterColumns];
                for (int i = 0; i < kOuterRows; ++i) left[i] = a + smaller(r + i, rows - 1) * pitch;
                for (int j = 0; j < kOuterColumns; ++j) right[j] = b + smaller(c + j, columns - 1) * pitch;
                Vec acc[kOuterRows][kOuterColumns] = {};
                for (int64_t p = first; p < last; p += kLanes) {
                    Vec x[kOuterColumns];
                    for (int j = 0; j < kOuterColumns; ++j) x[j] = load(right[j] + p);
                    for (int i = 0; i < kOuterRows; ++i) {
                        const Vec y = load(left[i] + p);
                        for (int j = 0; j < kOuterColumns; ++j) acc[i][j] += x[j] * y;
                    }
                }
                const int64_t many = smaller(kOuterColumns, columns - c);
                for (int64_t i = 0; i < smaller(kOuterRows, rows - r); ++i)
                    add_sums(out + (r + i) * columns + c, acc[i], many);
            }
    }
}

// The sum of n products of two rows, or of the n values of one row.
inline float row_dot(const float* a, const float* b, int64_t n) {
    float total = 0.0f;
    const int64_t whole = n / kLanes * kLanes;
    for (int64_t begin = 0; begin < whole; begin += kSumVectors * kLanes) {
        Vec sum{};
        for (int64_t p = begin; p < smaller(whole, begin + kSumVectors * kLanes); p += kLanes)
            sum += load(a + p) * load(b + p);
        total += sum_of(sum);
    }
    for (int64_t p = whole; p < n; ++p) total += a[p] * b[p];
    return total;
}

inline float row_sum(const float* a, int64_t n) {
    float total = 0.0f;
    const int64_t whole = n / kLanes * kLanes;
    for (int64_t begin = 0; begin < whole; begin += kSumVectors * kLanes) {
        Vec sum{};
        for (int64_t p = begin; p < smaller(whole, begin + kSumVectors * kLanes); p += kLanes) sum += load(a + p);
        total += sum_of(sum);
    }
    for (int64_t p = whole; p < n; ++p) total += a[p];
    return total;
}

inline void add_row_sums(float* to, const float* panel, int64_t pitch, int64_t channels) {
    for (int64_t c = 0; c < channels; ++c) to[c] += row_sum(panel + c * pitch, pitch);
}

// panel = (panel - mean) * scale over the channels of every pixel, scale = 1 / deviation; u = panel * weight + bias
inline void norm(float* panel, float* scale, float* u, int64_t pitch, int64_t channels, const float* weight,
                 const float* bias, float eps) {
    const float share = 1.0f / static_cast<float>(channels);
    for (int64_t p = 0; p < pitch; p += kLanes) {
        float* const x = panel + p;
        Vec sum{}, squares{};
        for (int64_t c = 0; c < channels; ++c) sum += load(x + c * pitch);
        const Vec mean = sum * share;
        for (int64_t c = 0; c < channels; ++c) {
            const Vec d = load(x + c * pitch) - mean;
            squares += d * d;
            store(x + c * pitch, d);
        }
        store(scale + p, squares * share + eps);
    }
    for (int64_t p = 0; p < pitch; ++p) scale[p] = 1.0f / std::sqrt(scale[p]);
    for (int64_t c = 0; c < channels; ++c)
        for (int64_t p = 0; p < pitch; p += kLanes) {
            const Vec x = load(panel + c * pitch + p) * load(scale + p);
            store(panel + c * pitch + p, x);
            store(u + c * pitch + p, x * weight[c] + bias[c]);
        }
}

// dx += the gradient of `norm` for du, which is overwritten; x and scale are its outputs, and the tails of du are zero
inline void norm_backward(float* dx, float* du, const float* x, const float* scale, int64_t pitch, int64_t channels,
                          const float* weight, float* dweight, float* dbias) {
    for (int64_t c = 0; c < channels; ++c) {
        dweight[c] += row_dot(du + c * pitch, x + c * pitch, pitch);
        dbias[c] += row_sum(du + c * pitch, pitch);
    }
    const float share = 1.0f / static_cast<float>(channels);
    for (int64_t p = 0; p < pitch; p += kLanes) {
        Vec sum{}, along{};
        for (int64_t c = 0; c < channels; ++c) {
            const Vec g = load(du + c * pitch + p) * weight[c];
            sum += g;
            along += g * load(x + c * pitch + p);
        }
        sum *= share, along *= share;
        const Vec factor = load(scale + p);
        for (int64_t c = 0; c < channels; ++c) {
            const int64_t at = c * pitch + p;
            store(dx + at, load(dx + at) + factor * (load(du + at) * weight[c] - sum - load(x + at) * along));
        }
    }
}

}  // namespace
