// The operator on the panels of one tile: every output channel is a sum over bases, weighted at every pixel.
//
//     out[c] = sum_n a[n] * (bias[n][c] + sum_t W[n][c][t] u[t])
//
// with u[t] the group's channels around a pixel. The weights of a group are packed together, with their biases behind
// them: [G][N / kRows][taps][kRows], [G][N].
#pragma once

#include "dense.h"

namespace {

// Packs four bases of one output channel for mix_bases: [taps][4], with two planes of the kernel per lane if `paired`.
// `from` points to the first basis, and `row` is the distance to the next one.
template <class T>
inline void pack_four_bases(float* to, const T* from, int64_t row, const Sizes& s, Quad scale, bool paired) {
    if (!paired) return pack_four(to, from, row, s.taps(), scale, false);
    const int64_t area = s.kernel * s.kernel;
    for (int64_t j = 0; j < s.group; j += 2, from += 2 * area)
        for (int64_t t = 0; t < area; t += 4) {
            const int64_t n = smaller(4, area - t);
            float low[16], high[16] = {};
            pack_four(low, from + t, row, n, scale, false);
            if (j + 1 < s.group) pack_four(high, from + area + t, row, n, scale, false);
            for (int64_t i = 0; i < n; ++i) narrow4(pair_of(widen4(low + 4 * i), widen4(high + 4 * i)), to + 4 * i);
            to += 4 * n;
        }
}

// Packs all bases of output channel c out of `channels`, times a scale, and their biases. Bases are padded with zeros
// to a multiple of kRows.
inline void pack_bases(float* to, float* bias, const Matrix& bases, const Matrix& bases_bias, int64_t c,
                       int64_t channels, const Sizes& s, float scale, bool paired) {
    const int64_t area = s.kernel * s.kernel, planes = paired ? (s.group + 1) / 2 : s.group, taps = planes * area;
    const int64_t row = channels * s.taps();
    const Quad scales{scale, scale, scale, scale};
    int64_t b = 0;
    for (; b + kRows <= s.bases; b += kRows, to += taps * kRows) {
        const int64_t at = (b * channels + c) * s.taps();
        if (bases.bfloat16)
            pack_four_bases(to, static_cast<const Bfloat16*>(bases.data) + at, row, s, scales, paired);
        else
            pack_four_bases(to, static_cast<const float*>(bases.data) + at, row, s, scales, paired);
    }
    if (b < s.bases) {
        fill(to, taps * kRows, 0.0f);
        for (int64_t r = 0; b + r < s.bases; ++r)
            for (int64_t j = 0; j < planes; ++j)
                for (int64_t t = 0; t < area; ++t) {
                    const auto number = [&](int64_t plane) {
                        const int64_t at = ((b + r) * channels + c) * s.taps() + plane * area + t;
                        return plane < s.group ? element(bases, at) * scale : 0.0f;
                    };
                    to[(j * area + t) * kRows + r] = paired ? pair_of(number(2 * j), number(2 * j + 1)) : number(j);
                }
    }
    for (b = 0; b < round_up(s.bases, kRows); ++b)
        bias[b] = b < s.bases ? element(bases_bias, b * channels + c) * scale : 0.0f;
}

// Mixes the bases of one output channel by the coefficients, four at a time: weight [N / 4][taps][4], bias [N]
template <class Dot>
inline void mix_bases(float* out, const float* from, const Vectors& at, const int32_t* taps, int64_t count,
                      const float* weight, const float* bias, const float* coefficients, int64_t pitch,
                      int64_t bases) {
    for (int64_t j = 0; j < at.count; j += kColumns) {
        const float* l[kColumns];
        for (int v = 0; v < kColumns; ++v) l[v] = from + at.at[j + v];
        const float *w = weight, *a = coefficients + j * kLanes;
        Vec sum[kColumns] = {};
        for (int64_t n = 0; n < bases; n += kRows, w += count * kRows, a += kRows * pitch) {
            Vec acc[kRows][kColumns];
            for (int s = 0; s < kRows; ++s)
                for (int v = 0; v < kColumns; ++v) acc[s][v] = Vec{} + bias[n + s];
            for (int64_t t = 0; t < count; ++t) {
                Vec x[kColumns];
                for (int v = 0; v < kColumns; ++v) x[v] = load(l[v] + taps[t]);
                for (int s = 0; s < kRows; ++s) {
                    const float b = w[t * kRows + s];
                    for (int v = 0; v < kColumns; ++v) acc[s][v] = Dot::add(acc[s][v], x[v], b);
                }
            }
            for (int s = 0; s < kRows; ++s)
                for (int v = 0; v < kColumns; ++v) sum[v] += acc[s][v] * load(a + s * pitch + v * kLanes);
        }
        for (int v = 0; v < kColumns; ++v) store(out + (j + v) * kLanes, sum[v]);
    }
}

// What mixing reads and writes besides the weights and channels of each group.
struct Mixing {
    Sizes sizes;
    bool paired;
    int64_t bases4, taps, dense, plane;  // plane: floats of a channel in its field
    int32_t* offsets;
    float* pairs;

    Mixing() = default;
    Mixing(const Sizes& s, bool paired_, const Field& field, Arena& arena)
        : sizes(s), paired(paired_), bases4(round_up(s.bases, kRows)), taps(mixing_taps(s, paired)),
          dense(field.dense()), plane(field.floats) {
        offsets = reinterpret_cast<int32_t*>(arena.take(taps));
        pairs = paired ? arena.take((s.group + 1) / 2 * plane) : nullptr;
    }

    static int64_t mixing_taps(const Sizes& s, bool paired) {
        return s.kernel * s.kernel * (paired ? (s.group + 1) / 2 : s.group);
    }

    // Floats of the packed weights and biases of one group.
    static int64_t packed(const Sizes& s, bool paired) {
        return s.group * round_up(s.bases, kRows) * (mixing_taps(s, paired) + 1);
    }

    // Packs the bases of a group out of `groups`, times the scale of each output channel, if there is one.
    static void pack(float* to, const Matrix& bases, const Matrix& biases, const Matrix& scale, int64_t group,
                     int64_t groups, const Sizes& s, bool paired) {
        const int64_t bases4 = round_up(s.bases, kRows), each = bases4 * mixing_taps(s, paired);
        for (int64_t c = 0; c < s.group; ++c) {
            const int64_t channel = group * s.group + c;
            pack_bases(to + c * each, to + s.group * each + c * bases4, bases, biases, channel, groups * s.group, s,
                       scale.data ? element(scale, channel) : 1.0f, paired);
        }
    }

    // Before the first group of a tile, whose rows of pixels are `pitch` apart.
    void prepare(int64_t pitch) const {
        tap_offsets(offsets, paired ? (sizes.group + 1) / 2 : sizes.group, plane, sizes.kernel, pitch);
    }

    // out[c] for the channels of one group, dense. `channels`: the group in its field. `coefficients`: [bases4][dense]
    template <class Dot>
    void group(float* out, const float* channels, const Vectors& at, const float* weight,
               const float* coefficients) const {
        if (paired) {
            pair_panels(pairs, plane, channels, plane, sizes.group, plane);
            channels = pairs;
        }
        const float* const bias = weight + sizes.group * bases4 * taps;
        for (int64_t c = 0; c < sizes.group; ++c)
            mix_bases<Dot>(out + c * dense, channels, at, offsets, taps, weight + c * bases4 * taps, bias + c * bases4,
                           coefficients, dense, bases4);
    }
};

}  // namespace
