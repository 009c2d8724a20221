// The operator on the panels of one tile: every output channel is a sum over bases, weighted at every pixel.
//
//     out[c] = sum_n a[n] * (bias[n][c] + sum_t W[n][c][t] u[t])
//
// with u[t] the group's channels around a pixel. The weights of a group are packed together, with their biases behind
// them: [G][N / kRows][taps][kRows], [G][N]. On a matrix unit there are two ways (matrix_products.h).
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
        for (int v = 0; v < kColumns; ++v) l[v] = own_pointer(from + at.at[j + v]);
        const float *w = weight, *a = coefficients + j * kLanes;
        Vec sum[kColumns] = {};
        for (int64_t n = 0; n < bases; n += kRows, w += count * kRows, a += kRows * pitch) {
            Vec acc[kRows][kColumns];
            for (int s = 0; s < kRows; ++s)
                for (int v = 0; v < kColumns; ++v) acc[s][v] = Vec{} + bias[n + s];
            for (int64_t t = 0; t < count; ++t) {
                Vec x[kColumns];
                for (int v = 0; v < kColumns; ++v) x[v] = load(l[v] + taps[t]);
                const float* const weights = own_pointer(w + t * kRows);
                for (int s = 0; s < kRows; ++s) {
                    const float b = weights[s];
                    for (int v = 0; v < kColumns; ++v) acc[s][v] = Dot::add(acc[s][v], x[v], b);
                }
            }
            for (int s = 0; s < kRows; ++s)
                for (int v = 0; v < kColumns; ++v) sum[v] += acc[s][v] * load(a + s * pitch + v * kLanes);
        }
        for (int v = 0; v < kColumns; ++v) store(out + (j + v) * kLanes, sum[v]);
    }
}

// Calls pack(bases of one output channel, distance between bases).
template <class Pack>
inline void with_bases_of(const Matrix& bases, int64_t channel, int64_t channels, const Sizes& s, Pack pack) {
    if (bases.bfloat16)
        pack(static_cast<const Bfloat16*>(bases.data) + channel * s.taps(), channels * s.taps());
    else
        pack(static_cast<const float*>(bases.data) + channel * s.taps(), channels * s.taps());
}

// Packs output channel `channel` of `channels` for mix_first. Leaves padding out: it has to be zero before.
inline void pack_to_mix_first(float* to, const Matrix& bases, const Matrix& biases, int64_t channel, int64_t channels,
                              const Sizes& s, float scale) {
    const int64_t steps = round_up(s.bases, kRows) / 2, apart = s.group * steps;
    const auto bias = [&](int64_t n) { return n < s.bases ? element(biases, n * channels + channel) * scale : 0.0f; };
    with_bases_of(bases, channel, channels, s, [&](const auto* from, int64_t row) {
        for (int64_t n = 0; n < s.bases; n += 2, from += 2 * row, ++to) {
            to[0] = pair_of(bias(n), bias(n + 1));
            for (int64_t t = 0; t < s.taps(); ++t)
                to[(t + 1) * apart] = pair_of(widen(from[t]) * scale, n + 1 < s.bases ? widen(from[row + t]) * scale : 0.0f);
        }
    });
}

// Packs output channel `channel` of `channels` for convolve_first: [N][taps]. Leaves padding out, as above.
inline void pack_to_convolve_first(float* to, float* bias, const Matrix& bases, const Matrix& biases, int64_t channel,
                                   int64_t channels, const Sizes& s, float scale, Products products) {
    const int64_t area = s.kernel * s.kernel;
    with_bases_of(bases, channel, channels, s, [&](const auto* from, int64_t row) {
        for (int64_t n = 0; n < s.bases; ++n, from += row) {
            bias[n] = element(biases, n * channels + channel) * scale;
            for (int64_t j = 0; j < s.group; j += 2, to += steps_of(products, 2) * area)
                for (int64_t t = 0; t < area; ++t)
                    pack_pair(to + t, area, widen(from[j * area + t]) * scale,
                              j + 1 < s.group ? widen(from[(j + 1) * area + t]) * scale : 0.0f, products);
        }
    });
}

// What mixing needs besides the weights and channels of each group.
class Mixing {
public:
    Mixing() = default;
    Mixing(const Sizes& s, Products products, const Field& field, Arena& arena)
        : sizes_(s), layout_(s, products), dense_(field.dense()), plane_(field.floats), pitch_(field.pitch) {
        offsets_ = reinterpret_cast<int32_t*>(arena.take(layout_.first ? layout_.rows / s.group : layout_.taps));
        if (layout_.channels_in_lanes) pairs_ = arena.take(layout_.planes * plane_);
        if (layout_.first) coefficient_pairs_ = arena.take(layout_.bases4 / 2 * dense_);
        if (layout_.on_tiles && !layout_.first) {
            convolved_ = {s.group, layout_.bases4, layout_.taps, layout_.rows, nullptr, nullptr, nullptr};
            convolved_.columns = arena.take(2 * layout_.taps * kColumns * kLanes);
            convolved_.sums = arena.take(2 * layout_.rows * kColumns * kLanes);
            convolved_.start = arena.take(layout_.rows * kLanes);
        }
    }

    // Floats of the packed weights and biases of one group.
    static int64_t packed(const Sizes& s, Products products) {
        const Layout k(s, products);
        return k.first ? k.rows * (k.bases4 / 2) : k.rows * (k.taps + 1);
    }

    // Packs the bases of a group out of `groups`, times the scale of each output channel, if there is one.
    static void pack(float* to, const Matrix& bases, const Matrix& biases, const Matrix& scale, int64_t group,
                     int64_t groups, const Sizes& s, Products products) {
        const Layout k(s, products);
        const int64_t channels = groups * s.group, each = k.bases4 * k.taps;
        if (k.on_tiles) fill(to, packed(s, products), 0.0f);
        for (int64_t c = 0; c < s.group; ++c) {
            const int64_t channel = group * s.group + c;
            const float factor = scale.data ? element(scale, channel) : 1.0f;
            float* const bias = to + k.rows * k.taps + c * k.bases4;
            if (!k.on_tiles)
                pack_bases(to + c * each, bias, bases, biases, channel, channels, s, factor, products == Products::kPairs);
            else if (k.first)
                pack_to_mix_first(to + c * k.bases4 / 2, bases, biases, channel, channels, s, factor);
            else
                pack_to_convolve_first(to + c * each, bias, bases, biases, channel, channels, s, factor, products);
        }
    }

    // Before the first group of a tile. `coefficients`: [bases4][dense]
    void prepare(const float* coefficients) {
        coefficients_ = coefficients;
        tap_offsets(offsets_, layout_.planes, plane_, sizes_.kernel, pitch_);
        if (!layout_.first) return;
        for (int64_t t = layout_.taps; t < layout_.rows / sizes_.group; ++t) offsets_[t] = 0;  // their weights are zero
        pack_panels(coefficient_pairs_, dense_, coefficients, dense_, layout_.bases4, dense_, layout_.products);
    }

    // out[c] for the channels of one group, dense. `channels`: the group in its field.
    template <class Dot>
    void group(float* out, const float* channels, const Vectors& at, const float* weight) const {
        const Layout& k = layout_;
        if (k.channels_in_lanes) {
            pack_panels(pairs_, plane_, channels, plane_, sizes_.group, plane_, k.products);
            channels = pairs_;
        }
        const float* const bias = weight + k.rows * k.taps;
        if constexpr (Dot::kOnMatrixUnit) {
            if (k.first)
                mix_first(out, channels, at, offsets_, sizes_, weight, coefficient_pairs_, dense_);
            else
                convolve_first(out, channels, at, offsets_, convolved_, weight, bias, coefficients_, dense_);
        } else {
            for (int64_t c = 0; c < sizes_.group; ++c)
                mix_bases<Dot>(out + c * dense_, channels, at, offsets_, k.taps, weight + c * k.bases4 * k.taps,
                               bias + c * k.bases4, coefficients_, dense_, k.bases4);
        }
    }

private:
    struct Layout {
        Products products = Products::kFloat;
        bool on_tiles = false, first = false, channels_in_lanes = false;
        int64_t bases4 = 0, planes = 0, taps = 0;  // planes: channels of a group, or their lanes
        int64_t rows = 0;                          // of the packed weights

        Layout() = default;
        Layout(const Sizes& s, Products by) : products(by), bases4(round_up(s.bases, kRows)) {
            on_tiles = kHaveMatrixUnit && products != Products::kFloat;
            // Split coefficients do not fit into the rows of a tile.
            first = on_tiles && products == Products::kPairs && mixes_first(s);
            channels_in_lanes = products != Products::kFloat && !first;
            planes = channels_in_lanes ? steps_of(products, s.group) : s.group;
            taps = planes * s.kernel * s.kernel;
            rows = first ? mixed_rows(s) : round_up(s.group * bases4, on_tiles ? 16 : 1);
        }
    };

    Sizes sizes_{};
    Layout layout_;
    int64_t dense_ = 0, plane_ = 0, pitch_ = 0;
    int32_t* offsets_ = nullptr;
    float *pairs_ = nullptr, *coefficient_pairs_ = nullptr;
    ConvolvedFirst convolved_{};
    const float* coefficients_ = nullptr;
};

}  // namespace
