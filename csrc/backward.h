// The backward pass over one strip of pixels.
//
// With u[t, p] the taps of a group at pixel p (the last one always 1, for the bias) and du their gradient:
//
//     da[n, p]  = sum_c dy[c, p] * sum_t W[n, c, t] u[t, p]
//     du[t, p]  = sum_(n,c) W[n, c, t] * (a[n, p] dy[c, p])
//     dW[n,c,t] = sum_p (a[n, p] dy[c, p]) * u[t, p]
//
// These are three matrix products. The operands in brackets are computed on the fly and used about 32 times. Nothing of
// the forward pass is needed. dx is du, added back to where the taps were read.
#pragma once

#include "strips.h"
#include "tiles.h"

namespace {

using kbnet::BackwardCall;
using kbnet::BackwardShare;

inline int64_t dweight_pitch(const Sizes& s) { return round_up(s.group * s.bases, 16); }

struct BackwardScratch {
    int64_t pitch, bases_pitch, z_pitch;
    Planes shape;
    float *planes, *taps, *coefficients, *dy, *dtaps, *dcoefficients, *partial, *products, *coefficients_t, *z;
    int64_t floats;

    BackwardScratch(const Sizes& s, const Strip& strip, float* base)
        : pitch(panel_pitch(strip.pixels())),
          bases_pitch(round_up(s.bases, 16)),
          z_pitch(dweight_pitch(s)),
          shape(s, strip) {
        const int64_t taps1 = s.taps() + 1;
        Arena arena{base};
        planes = arena.take(shape.floats(s.group));
        taps = arena.take(taps1 * pitch);
        coefficients = arena.take(s.bases * pitch);
        dy = arena.take(s.group * pitch);
        dtaps = arena.take(s.taps() * pitch);
        dcoefficients = arena.take(s.bases * pitch);
        partial = arena.take(s.bases * pitch);
        products = arena.take(s.group * s.bases * kBlock);
        coefficients_t = arena.take(strip.pixels() * bases_pitch);
        z = arena.take(strip.pixels() * z_pitch + 16);
        floats = arena.used;
    }
};

inline int64_t backward_scratch(const BackwardCall& call, const Strip& largest) {
    return BackwardScratch(call.sizes, largest, nullptr).floats;
}

// products[(r, c)][p] = rows[r] * dy[c], for V vectors of pixels
template <int V>
inline void multiply_rows(float* products, const float* rows, int64_t count, const float* dy, int64_t channels,
                          int64_t pitch) {
    for (int64_t r = 0; r < count; ++r) {
        Vec row[V];
        for (int v = 0; v < V; ++v) row[v] = load(rows + r * pitch + v * kLanes);
        for (int64_t c = 0; c < channels; ++c)
            for (int v = 0; v < V; ++v)
                store(products + (r * channels + c) * kBlock + v * kLanes, row[v] * load(dy + c * pitch + v * kLanes));
    }
}

// Covers `rows` output rows with product tiles of R rows, then of 4 rows, then of one.
template <int V, int R>
inline void product_rows(int64_t rows, float* out, int64_t out_pitch, const float* left, const float* weight,
                         int64_t weight_row, int64_t weight_step, int64_t inner) {
    for (; rows >= R; rows -= R, out += R * out_pitch, weight += R * weight_row)
        product_tile<V, R>(out, out_pitch, left, weight, weight_row, weight_step, inner);
    if constexpr (R > 4) {
        if (rows >= 4) {
            product_tile<V, 4>(out, out_pitch, left, weight, weight_row, weight_step, inner);
            rows -= 4, out += 4 * out_pitch, weight += 4 * weight_row;
        }
    }
    for (; rows > 0; --rows, out += out_pitch, weight += weight_row)
        product_tile<V, 1>(out, out_pitch, left, weight, weight_row, weight_step, inner);
}

// Rounding errors grow with the length of a sum, so long sums are split into partial sums of this length.
constexpr int64_t kProductLength = 128, kPixelsLength = 64, kPartialChannels = 16;

// out[r] += sum_i weight[r][i] left[i] over all rows of `left`
template <int V, int R>
inline void product(int64_t rows, float* out, int64_t out_pitch, const float* left, const float* weight,
                    int64_t weight_row, int64_t weight_step, int64_t inner) {
    const int64_t pieces = (inner + kProductLength - 1) / kProductLength;
    for (int64_t piece = 0; piece < pieces; ++piece) {
        const int64_t begin = inner * piece / pieces, end = inner * (piece + 1) / pieces;
        product_rows<V, R>(rows, out, out_pitch, left + begin * kBlock, weight + begin * weight_step, weight_row,
                           weight_step, end - begin);
    }
}

// partial[n] += sum_c dy[c] sum_t W[n,c,t] u[t]
struct AddDcoefficients {
    template <int V>
    static inline void block(const Sizes& s, const BackwardScratch& k, const float* packed, int64_t p) {
        const int64_t taps1 = s.taps() + 1, row = s.group * taps1;
        for (int64_t c = 0; c < s.group; ++c, packed += taps1) {
            const float *dy = k.dy + c * k.pitch + p, *weight = packed;
            float* out = k.partial + p;
            int64_t n = s.bases;
            for (; n >= kWide; n -= kWide, weight += kWide * row, out += kWide * k.pitch)
                unmix_tile<V, kWide>(out, k.taps + p, dy, k.pitch, weight, row, taps1);
            for (; n >= 2; n -= 2, weight += 2 * row, out += 2 * k.pitch)
                unmix_tile<V, 2>(out, k.taps + p, dy, k.pitch, weight, row, taps1);
            if (n) unmix_tile<V, 1>(out, k.taps + p, dy, k.pitch, weight, row, taps1);
        }
    }
};

// du[t] = sum_(n,c) W[n,c,t] (a[n] dy[c])
struct SetDtaps {
    template <int V>
    static inline void block(const Sizes& s, const BackwardScratch& k, const float* packed, int64_t p) {
        const int64_t taps = s.taps(), inner = s.bases * s.group;
        multiply_rows<V>(k.products, k.coefficients + p, s.bases, k.dy + p, s.group, k.pitch);
        for (int64_t t = 0; t < taps; ++t)
            for (int v = 0; v < V; ++v) store(k.dtaps + t * k.pitch + p + v * kLanes, Vec{});
        if (kRegisters == 32 && taps % 9 == 0)  // 3x3 kernels: 9 rows of 3 vectors just fit the registers
            product<V, 9>(taps, k.dtaps + p, k.pitch, k.products, packed, 1, taps + 1, inner);
        else
            product<V, kWide>(taps, k.dtaps + p, k.pitch, k.products, packed, 1, taps + 1, inner);
    }
};

template <class Work>
inline void for_each_block(const Sizes& s, const BackwardScratch& k, const float* packed, int64_t pixels) {
    int64_t p = 0;
    for (; p + kBlock <= pixels; p += kBlock) Work::template block<3>(s, k, packed, p);
    for (; p + kLanes < pixels; p += 2 * kLanes) Work::template block<2>(s, k, packed, p);
    if (p < pixels) Work::template block<1>(s, k, packed, p);
}

// z[p][c][n] = a[n, p] dy[c, p], pixels outermost: vectors run along c and n, because the sum is over p
inline void fill_z(const Sizes& s, const BackwardScratch& k, int64_t pixels) {
    for (int64_t p = 0; p < pixels; ++p) {
        const float* a = k.coefficients_t + p * k.bases_pitch;
        float* to = k.z + p * k.z_pitch;
        for (int64_t c = 0; c < s.group; ++c, to += s.bases) {
            const float d = k.dy[c * k.pitch + p];
            // Writes past N into the next channel, which is written next.
            for (int64_t n = 0; n < s.bases; n += kLanes) store(to + n, load(a + n) * d);
        }
    }
}

// V vectors of (c, n), starting at the m-th, times all taps, T at a time; pixels [p, p + length).
template <int V, int T>
inline void outer_columns(const Sizes& s, const BackwardScratch& k, float* out, int64_t m, int64_t p, int64_t length) {
    const int64_t taps1 = s.taps() + 1;
    const float* z = k.z + p * k.z_pitch + m;
    const float* taps = k.taps + p;
    out += m;
    int64_t t = 0;
    for (; t + T <= taps1; t += T)
        outer_tile<V, T>(out + t * k.z_pitch, z, k.z_pitch, taps + t * k.pitch, k.pitch, length);
    for (; t < taps1; ++t) outer_tile<V, 1>(out + t * k.z_pitch, z, k.z_pitch, taps + t * k.pitch, k.pitch, length);
}

// dW[t][c, n] += sum_p z[p][c, n] u[t, p]
inline void add_dweight(const Sizes& s, const BackwardScratch& k, float* out, int64_t pixels) {
    constexpr int kAccumulators = 3 * kWide;
    const int64_t width = s.group * s.bases;
    for (int64_t p = 0; p < pixels; p += kPixelsLength) {
        const int64_t length = smaller(kPixelsLength, pixels - p);
        int64_t m = 0;
        for (; m + 3 * kLanes < width; m += 4 * kLanes)
            outer_columns<4, kAccumulators / 4>(s, k, out, m, p, length);
        if (m + 2 * kLanes < width)
            outer_columns<3, kAccumulators / 3>(s, k, out, m, p, length);
        else if (m + kLanes < width)
            outer_columns<2, kAccumulators / 2>(s, k, out, m, p, length);
        else if (m < width)
            outer_columns<1, kAccumulators / 2>(s, k, out, m, p, length);
    }
}

// window += planes: adds the strip's share of dx, to its own rows and to the adjacent ones
inline void add_to_window(const BackwardShare& share, const BackwardScratch& k, int64_t g, const Sizes& s,
                          const Strip& strip) {
    const Inside inside(s, strip);
    const int64_t col = strip.col0 - s.half() + inside.first;
    const int64_t channels = (share.group1 - share.group0) * s.group, channel = (g - share.group0) * s.group;
    for_each_segment(s, strip, [&](const Segment& seg) {
        for (int64_t r = 0; r < seg.rows + 2 * s.half(); ++r) {
            const int64_t y = seg.y - s.half() + r;
            if (y < 0 || y >= s.height) continue;
            const int64_t row = seg.image * s.height + y - share.window_row0;
            for (int64_t j = 0; j < s.group; ++j)
                add_row(share.window + (row * channels + channel + j) * s.width + col,
                        k.planes + j * k.shape.channel + (seg.plane + r) * k.shape.pitch + inside.first,
                        inside.last - inside.first);
        }
    });
}

void write_dx_row(const BackwardCall& call, int64_t channel0, int64_t channels, int64_t row, const float* from) {
    const Sizes& s = call.sizes;
    write_pixels(call.dx, call.dx.at(row / s.height, channel0, row % s.height, 0), from, s.width, channels, s.width);
}

void backward_strip(const BackwardCall& call, const BackwardShare& share, const Strip& strip, float* scratch) {
    const Sizes& s = call.sizes;
    const BackwardScratch k(s, strip, scratch);
    const int64_t pixels = strip.pixels(), taps1 = s.taps() + 1;
    const bool want_dx = call.dx.data, want_da = call.dcoefficients.data;

    gather_panel(k.coefficients, k.pitch, call.coefficients, 0, s.bases, s, strip);
    fill(k.taps + s.taps() * k.pitch, k.pitch, 1.0f);
    if (want_da && share.group0 > 0)  // earlier groups have written it
        gather_panel(k.dcoefficients, k.pitch, call.dcoefficients, 0, s.bases, s, strip);
    else if (want_da)
        fill(k.dcoefficients, s.bases * k.pitch, 0.0f);
    if (call.want_weight)
        for (int64_t p = 0; p < pixels; ++p)
            for (int64_t n = 0; n < k.bases_pitch; ++n)
                k.coefficients_t[p * k.bases_pitch + n] = n < s.bases ? k.coefficients[n * k.pitch + p] : 0.0f;

    int64_t pending = 0;
    if (want_da) fill(k.partial, s.bases * k.pitch, 0.0f);
    for (int64_t g = share.group0; g < share.group1; ++g) {
        const float* packed = call.packed + g * s.bases * s.group * taps1;
        gather_panel(k.dy, k.pitch, call.dy, g * s.group, s.group, s, strip);
        if (want_da || call.want_weight) {
            gather_planes(k.planes, k.shape, call.x, g * s.group, s, strip);
            unfold(k.taps, k.pitch, k.planes, k.shape, s.group, s, strip);
        }
        if (want_da) {
            for_each_block<AddDcoefficients>(s, k, packed, pixels);
            pending += s.group;
            if (pending >= kPartialChannels || g + 1 == share.group1) {
                add_row(k.dcoefficients, k.partial, s.bases * k.pitch);
                fill(k.partial, s.bases * k.pitch, 0.0f);
                pending = 0;
            }
        }
        if (call.want_weight) {
            fill_z(s, k, pixels);
            add_dweight(s, k, share.dweight + (g - share.group0) * taps1 * k.z_pitch, pixels);
        }
        if (want_dx) {
            for_each_block<SetDtaps>(s, k, packed, pixels);
            fill(k.planes, k.shape.floats(s.group), 0.0f);
            fold(k.planes, k.shape, k.dtaps, k.pitch, s, strip);
            add_to_window(share, k, g, s, strip);
        }
    }
    if (want_da) scatter_panel(call.dcoefficients, 0, s.bases, k.dcoefficients, k.pitch, s, strip);
}

}  // namespace
