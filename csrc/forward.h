// The forward pass over one strip of pixels.
//
// With u[t, p] the taps of a group at pixel p, and one more tap that is always 1, for the bias:
//
//     y[c, p] = sum_n a[n, p] * sum_t W[n, c, t] u[t, p]
//
// In bfloat16, if the processor has dot products of bfloat16 pairs, channels 2j and 2j + 1 share a lane. Planes, taps
// and weights then hold pairs instead of floats, and everything else is the same.
#pragma once

#include "products.h"
#include "strips.h"

namespace {

using kbnet::ForwardCall;

// Whether strips of pixels are multiplied in pairs.
inline bool strips_in_pairs(const ForwardCall& call) {
    return kHavePairs && call.x.bfloat16 && !PairDot::kOnMatrixUnit;
}

struct ForwardScratch {
    int64_t planes_count;  // channels, or pairs of channels, of a group
    int64_t inner;         // taps (or pairs of them) of one output channel, and the bias
    int64_t pitch;
    Planes shape;
    float *planes, *pairs, *taps, *coefficients, *out, *packed;
    int64_t floats;

    ForwardScratch(const ForwardCall& call, const Strip& strip, float* base)
        : pitch(panel_pitch(strip.pixels())), shape(call.sizes, strip) {
        const Sizes& s = call.sizes;
        const bool paired = strips_in_pairs(call);
        planes_count = paired ? (s.group + 1) / 2 : s.group;
        inner = planes_count * s.kernel * s.kernel + 1;
        Arena arena{base};
        planes = arena.take(shape.floats(s.group));
        pairs = paired ? arena.take(shape.floats(planes_count)) : planes;
        taps = arena.take(inner * pitch);
        coefficients = arena.take(s.bases * pitch);
        out = arena.take(s.group * pitch);
        packed = call.packed ? nullptr : arena.take(s.bases * s.group * inner);
        floats = arena.used;
    }
};

inline int64_t forward_scratch(const ForwardCall& call, const Strip& largest) {
    return ForwardScratch(call, largest, nullptr).floats;
}

// to[i] = low[i] and high[i] as bfloat16 numbers in one lane. Both were converted from bfloat16, so their lower halves
// are zero. Without `high`, its half is zero.
inline void pair_up(float* to, const float* low, const float* high, int64_t n) {
    for (int64_t i = 0; i < n; ++i) {
        uint32_t a, b = 0;
        std::memcpy(&a, low + i, 4);
        if (high) std::memcpy(&b, high + i, 4);
        const uint32_t both = (a >> 16) | (b & 0xffff0000u);
        std::memcpy(to + i, &both, 4);
    }
}

inline int64_t forward_packed(const ForwardCall& call) {
    const Sizes& s = call.sizes;
    return s.bases * s.group * ForwardScratch(call, Strip{0, 1, 0, 1}, nullptr).inner;
}

// packed[n][c][t] = the bases of one group, each followed by its bias
inline void pack_weight(float* packed, const Matrix& weight, const Matrix& bias, int64_t group, const Sizes& s) {
    const int64_t taps = s.taps();
    for (int64_t n = 0; n < s.bases; ++n)
        for (int64_t c = 0; c < s.group; ++c, packed += taps + 1) {
            const int64_t row = n * s.channels + group * s.group + c;
            read_numbers(packed, weight, row * taps, taps);
            packed[taps] = element(bias, row);
        }
}

inline void forward_pack(const ForwardCall& call, int64_t group, float* packed) {
    const Sizes& s = call.sizes;
    if (!strips_in_pairs(call)) return pack_weight(packed, call.weight, call.bias, group, s);
    const int64_t area = s.kernel * s.kernel;
    for (int64_t n = 0; n < s.bases; ++n)
        for (int64_t c = 0; c < s.group; ++c) {
            const int64_t row = n * s.channels + group * s.group + c, at = row * s.taps();
            for (int64_t j = 0; j < s.group; j += 2)
                for (int64_t t = 0; t < area; ++t)
                    *packed++ = pair_of(element(call.weight, at + j * area + t),
                                        j + 1 < s.group ? element(call.weight, at + (j + 1) * area + t) : 0.0f);
            *packed++ = pair_of(element(call.bias, row), 0.0f);
        }
}

template <class Dot, int V>
inline void mix_block(const Sizes& s, const ForwardScratch& k, const float* packed, int64_t p) {
    const int64_t pitch = k.pitch, weight_pitch = s.group * k.inner;
    const float* left = k.taps + p;
    for (int64_t c = 0; c < s.group; ++c) {
        float* out = k.out + c * pitch + p;
        for (int v = 0; v < V; ++v) store(out + v * kLanes, Vec{});
        const float* weight = packed + c * k.inner;
        const float* right = k.coefficients + p;
        int64_t n = s.bases;
        for (; n >= kWide; n -= kWide, weight += kWide * weight_pitch, right += kWide * pitch)
            mix_tile<Dot, V, kWide>(out, left, right, pitch, weight, weight_pitch, k.inner);
        for (; n >= 2; n -= 2, weight += 2 * weight_pitch, right += 2 * pitch)
            mix_tile<Dot, V, 2>(out, left, right, pitch, weight, weight_pitch, k.inner);
        if (n) mix_tile<Dot, V, 1>(out, left, right, pitch, weight, weight_pitch, k.inner);
    }
}

template <class Dot>
inline void mix_strip(const Sizes& s, const ForwardScratch& k, const float* packed, int64_t pixels) {
    int64_t p = 0;
    for (; p + kBlock <= pixels; p += kBlock) mix_block<Dot, 3>(s, k, packed, p);
    for (; p + kLanes < pixels; p += 2 * kLanes) mix_block<Dot, 2>(s, k, packed, p);
    if (p < pixels) mix_block<Dot, 1>(s, k, packed, p);
}

void forward_strip(const ForwardCall& call, const Strip& strip, int64_t group0, int64_t group1, float* scratch) {
    const Sizes& s = call.sizes;
    const ForwardScratch k(call, strip, scratch);
    const bool paired = strips_in_pairs(call);
    gather_panel(k.coefficients, k.pitch, call.coefficients, 0, s.bases, s, strip);
    float* const bias_tap = k.taps + (k.inner - 1) * k.pitch;
    fill(bias_tap, k.pitch, 1.0f);
    if (paired) pair_up(bias_tap, bias_tap, nullptr, k.pitch);
    for (int64_t g = group0; g < group1; ++g) {
        if (k.packed) forward_pack(call, g, k.packed);
        const float* packed = k.packed ? k.packed : call.packed + g * s.bases * s.group * k.inner;
        gather_planes(k.planes, k.shape, call.x, g * s.group, s, strip);
        if (paired)
            for (int64_t j = 0; j < s.group; j += 2)
                pair_up(k.pairs + j / 2 * k.shape.channel, k.planes + j * k.shape.channel,
                        j + 1 < s.group ? k.planes + (j + 1) * k.shape.channel : nullptr, k.shape.channel);
        unfold(k.taps, k.pitch, k.pairs, k.shape, k.planes_count, s, strip);
        if (paired)
            mix_strip<VectorPairDot>(s, k, packed, strip.pixels());
        else
            mix_strip<FloatDot>(s, k, packed, strip.pixels());
        scatter_panel(call.y, g * s.group, s.group, k.out, k.pitch, s, strip);
    }
}

}  // namespace
