// How the numbers of a panel meet the weights: as they are, or as bfloat16 numbers, two of which share a lane.
//
// A float32 number is the sum of two bfloat16 numbers within 2^-17 of it, `high` and `low`. On a matrix unit, where a
// step of pairs takes a fraction of the time of two steps of floats, kSplit multiplies these:
//
//     x w = x_high w_high + x_high w_low + x_low w_high     (x_low w_low is smaller than what rounding loses)
#pragma once

#include <type_traits>

#include "tensors.h"
#include "tiles.h"

namespace {

enum class Products {
    kFloat,  // a lane holds a number
    kPairs,  // channels 2j and 2j + 1 share a lane, rounded to bfloat16
    kSplit   // the same three times: their high parts, the high parts again, their low parts
};

#if defined(KBNET_MATRIX_UNIT) || defined(KBNET_EMULATED_MATRIX_UNIT)
using PairDot = MatrixDot;
#elif defined(__AVX512BF16__)
using PairDot = Bfloat16PairDot;
#else
using PairDot = FloatDot;  // never used
#endif
constexpr bool kHavePairs = !std::is_same_v<PairDot, FloatDot>;
// In vectors, pairs are multiplied only without a matrix unit: processors that have one do it slowly.
using VectorPairDot = std::conditional_t<PairDot::kOnMatrixUnit, FloatDot, PairDot>;

// Whether split products are faster here than those of floats in vectors. Measured once per process (pairs.h).
inline bool splits_are_faster();

// `paired`: bfloat16 was asked for. `split`: else, split products are accurate enough.
inline Products products_for(bool paired, bool split = true) {
    if (paired && kHavePairs) return Products::kPairs;
    return split && kHaveMatrixUnit && splits_are_faster() ? Products::kSplit : Products::kFloat;
}

// Lanes that `inner` numbers take.
inline int64_t steps_of(Products products, int64_t inner) {
    switch (products) {
        case Products::kFloat: return inner;
        case Products::kPairs: return (inner + 1) / 2;
        case Products::kSplit: return (inner + 1) / 2 * 3;
    }
    return 0;
}

// What rounding to bfloat16 takes away.
inline float low_part(float number) {
    const uint32_t bits = rounded_bits(number) & 0xffff0000u;
    float high;
    std::memcpy(&high, &bits, 4);
    return number - high;
}

// The lanes of two weights, `apart` floats from each other.
inline void pack_pair(float* to, int64_t apart, float a, float b, Products products) {
    to[0] = pair_of(a, b);
    if (products != Products::kSplit) return;
    to[apart] = pair_of(low_part(a), low_part(b));
    to[2 * apart] = to[0];
}

#if defined(__AVX512BF16__)
typedef uint32_t VecBits __attribute__((vector_size(kLanes * 4)));

// Without denormal numbers, which become zero.
inline Vec pair_of(Vec low, Vec high) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return (Vec)_mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh((__m512)high, (__m512)low));
}
#endif

// to[p] = a[p] and b[p] in one lane; zeros instead of `b` if it is null
inline void pair_rows(float* to, const float* a, const float* b, int64_t n) {
    int64_t p = 0;
#if defined(__AVX512BF16__)
    for (; p + kLanes <= n; p += kLanes) store(to + p, pair_of(load(a + p), b ? load(b + p) : Vec{}));
#endif
    if (b)
        for (; p < n; ++p) to[p] = pair_of(a[p], b[p]);
    else
        for (; p < n; ++p) to[p] = pair_of(a[p], 0.0f);
}

// The same for kSplit: three rows, `pitch` floats apart
inline void split_rows(float* to, int64_t pitch, const float* a, const float* b, int64_t n) {
    int64_t p = 0;
#if defined(__AVX512BF16__)
    for (; p + kLanes <= n; p += kLanes) {
        const Vec x = load(a + p), y = b ? load(b + p) : Vec{}, high = pair_of(x, y);
        store(to + p, high), store(to + pitch + p, high);
        store(to + 2 * pitch + p, pair_of(x - (Vec)((VecBits)high << 16), y - (Vec)((VecBits)high & 0xffff0000u)));
    }
#endif
    for (; p < n; ++p) {
        const float y = b ? b[p] : 0.0f;
        to[p] = to[pitch + p] = pair_of(a[p], y);
        to[2 * pitch + p] = pair_of(low_part(a[p]), low_part(y));
    }
}

// The panel of steps_of(products, channels) rows that `product` reads, for kPairs and kSplit
inline void pack_panels(float* to, int64_t to_pitch, const float* from, int64_t pitch, int64_t channels, int64_t n,
                        Products products) {
    for (int64_t j = 0; j < channels; j += 2, from += 2 * pitch) {
        const float* const second = j + 1 < channels ? from + pitch : nullptr;
        if (products == Products::kSplit)
            split_rows(to, to_pitch, from, second, n);
        else
            pair_rows(to, from, second, n);
        to += steps_of(products, 2) * to_pitch;
    }
}

}  // namespace
