// Reads and writes short runs of pixels of a tensor: float32 or bfloat16, in any memory format.
//
// Inside the kernels everything is float32 and planar, [channels][pixels]; only this file deals with the layout of the
// caller's tensors.
#pragma once

#include <cstring>

#include "problem.h"
#include "vec.h"

namespace {

using kbnet::Matrix;
using kbnet::Tensor4;

typedef uint16_t Bfloat16;

inline float widen(float f) { return f; }
inline float widen(Bfloat16 h) {
    const uint32_t bits = static_cast<uint32_t>(h) << 16;
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
}

inline void narrow(float f, float& to) { to = f; }
inline void narrow(float f, Bfloat16& to) {  // round to nearest, ties to even; NaN stays NaN
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    to = static_cast<Bfloat16>(f != f ? (bits >> 16) | 0x40 : rounded);
}

inline Quad widen4(const float* p) { return *reinterpret_cast<const UnalignedQuad*>(p); }
typedef uint32_t QuadBits __attribute__((vector_size(16)));
typedef uint16_t QuadHalf __attribute__((vector_size(8)));

inline Quad widen4(const Bfloat16* p) {
    QuadHalf half;
    std::memcpy(&half, p, sizeof half);
    return (Quad)(__builtin_convertvector(half, QuadBits) << 16);
}

inline void narrow4(Quad q, float* p) { *reinterpret_cast<UnalignedQuad*>(p) = q; }
inline void narrow4(Quad q, Bfloat16* p) {
    const QuadBits bits = (QuadBits)q;
    const QuadBits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const QuadBits nan = (bits >> 16) | 0x40, is_nan = (QuadBits)(q != q);
    const QuadHalf half = __builtin_convertvector((nan & is_nan) | (rounded & ~is_nan), QuadHalf);
    std::memcpy(p, &half, sizeof half);
}

// to[c * pitch + i] = from[c * stride_c + i * stride_x] for `channels` channels and n pixels
template <class T>
inline void read_pixels(float* to, int64_t pitch, const T* from, int64_t stride_c, int64_t stride_x, int64_t channels,
                        int64_t n) {
    int64_t c = 0;
    if (stride_c == 1 && stride_x != 1)  // channels-last: four channels of four pixels at a time
        for (; c + 4 <= channels; c += 4) {
            const T* f = from + c;
            float* t = to + c * pitch;
            int64_t i = 0;
            for (; i + 4 <= n; i += 4, f += 4 * stride_x) {
                Quad p0 = widen4(f), p1 = widen4(f + stride_x), p2 = widen4(f + 2 * stride_x),
                     p3 = widen4(f + 3 * stride_x);
                transpose(p0, p1, p2, p3);
                narrow4(p0, t + i);
                narrow4(p1, t + pitch + i);
                narrow4(p2, t + 2 * pitch + i);
                narrow4(p3, t + 3 * pitch + i);
            }
            for (; i < n; ++i, f += stride_x)
                for (int j = 0; j < 4; ++j) t[j * pitch + i] = widen(f[j]);
        }
    for (; c < channels; ++c) {
        const T* f = from + c * stride_c;
        float* t = to + c * pitch;
        if (stride_x == 1)
            for (int64_t i = 0; i < n; ++i) t[i] = widen(f[i]);
        else
            for (int64_t i = 0; i < n; ++i) t[i] = widen(f[i * stride_x]);
    }
}

// The inverse: to[c * stride_c + i * stride_x] = from[c * pitch + i]
template <class T>
inline void write_pixels(T* to, int64_t stride_c, int64_t stride_x, const float* from, int64_t pitch, int64_t channels,
                         int64_t n) {
    int64_t c = 0;
    if (stride_c == 1 && stride_x != 1)
        for (; c + 4 <= channels; c += 4) {
            T* t = to + c;
            const float* f = from + c * pitch;
            int64_t i = 0;
            for (; i + 4 <= n; i += 4, t += 4 * stride_x) {
                Quad p0 = widen4(f + i), p1 = widen4(f + pitch + i), p2 = widen4(f + 2 * pitch + i),
                     p3 = widen4(f + 3 * pitch + i);
                transpose(p0, p1, p2, p3);
                narrow4(p0, t);
                narrow4(p1, t + stride_x);
                narrow4(p2, t + 2 * stride_x);
                narrow4(p3, t + 3 * stride_x);
            }
            for (; i < n; ++i, t += stride_x)
                for (int j = 0; j < 4; ++j) narrow(f[j * pitch + i], t[j]);
        }
    for (; c < channels; ++c) {
        const float* f = from + c * pitch;
        T* t = to + c * stride_c;
        if (stride_x == 1)
            for (int64_t i = 0; i < n; ++i) narrow(f[i], t[i]);
        else
            for (int64_t i = 0; i < n; ++i) narrow(f[i], t[i * stride_x]);
    }
}

inline void read_pixels(float* to, int64_t pitch, const Tensor4& t, int64_t at, int64_t channels, int64_t n) {
    if (t.bfloat16)
        read_pixels(to, pitch, static_cast<const Bfloat16*>(t.data) + at, t.stride_c, t.stride_x, channels, n);
    else
        read_pixels(to, pitch, static_cast<const float*>(t.data) + at, t.stride_c, t.stride_x, channels, n);
}

inline void write_pixels(const Tensor4& t, int64_t at, const float* from, int64_t pitch, int64_t channels, int64_t n) {
    if (t.bfloat16)
        write_pixels(static_cast<Bfloat16*>(t.data) + at, t.stride_c, t.stride_x, from, pitch, channels, n);
    else
        write_pixels(static_cast<float*>(t.data) + at, t.stride_c, t.stride_x, from, pitch, channels, n);
}

// Two numbers, rounded to bfloat16, in the space of one float, for dot products of pairs.
inline uint32_t rounded_bits(float f) {
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    return f != f ? bits | 0x400000 : bits + 0x7fff + ((bits >> 16) & 1);  // NaN stays NaN, whatever its mantissa
}

inline float pair_of(float low, float high) {
    const uint32_t both = (rounded_bits(low) >> 16) | (rounded_bits(high) & 0xffff0000u);
    float f;
    std::memcpy(&f, &both, 4);
    return f;
}

inline float element(const Matrix& m, int64_t i) {
    return m.bfloat16 ? widen(static_cast<const Bfloat16*>(m.data)[i]) : static_cast<const float*>(m.data)[i];
}

// The array from element `i` on; absent if the array is.
inline Matrix below(const Matrix& m, int64_t i) {
    if (!m.data) return m;
    return {static_cast<const char*>(m.data) + i * (m.bfloat16 ? 2 : 4), m.bfloat16};
}

// to[i] = m[at + i]
inline void read_numbers(float* to, const Matrix& m, int64_t at, int64_t n) {
    if (m.bfloat16)
        for (int64_t i = 0; i < n; ++i) to[i] = widen(static_cast<const Bfloat16*>(m.data)[at + i]);
    else
        std::memcpy(to, static_cast<const float*>(m.data) + at, static_cast<std::size_t>(n) * sizeof(float));
}

// to[i] += from[i]
inline void add_row(float* to, const float* from, int64_t n) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) store(to + i, load(to + i) + load(from + i));
    for (; i < n; ++i) to[i] += from[i];
}

}  // namespace
