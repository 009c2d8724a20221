// Whether products of bfloat16 numbers, paired or split, are right and worth using on this processor.
//
// Having the instruction says little: Intel's processors run the one on vectors at a quarter of the rate of a float32
// multiply-add, AMD's at the same rate. So it is timed, once per process, in less than a tenth of a millisecond.
#pragma once

#include <chrono>
#include <cmath>

#include "forward.h"
#include "mixing.h"

namespace {

// Seconds of the shortest of several runs.
template <class Run>
[[maybe_unused]] inline double seconds_of(Run run) {
    constexpr int kRuns = 5;
    double shortest = 1e9;
    for (int i = 0; i < kRuns; ++i) {
        const auto begin = std::chrono::steady_clock::now();
        run();
        const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
        shortest = took.count() < shortest ? took.count() : shortest;
    }
    return shortest;
}

#if defined(__AVX512BF16__)
// Seconds that 6,000 independent products of vectors take.
template <class Dot>
inline double product_seconds() {
    constexpr int kSums = 12, kProducts = 500;  // enough sums to hide the latency of a product
    Vec sums[kSums] = {}, x = {};
    float w = 0.0f;
    __asm__ volatile("" : "+v"(x), "+v"(w));  // unknown to the compiler
    return seconds_of([&] {
        for (int i = 0; i < kProducts; ++i)
            for (int s = 0; s < kSums; ++s) {
                sums[s] = Dot::add(sums[s], x, w);
                __asm__ volatile("" : "+v"(sums[s]));
            }
    });
}
#endif

#if defined(KBNET_MATRIX_UNIT)
// Seconds that 4,096 vectors of pairs take: 16 rows, 64 steps and 64 pixels.
inline double tile_product_seconds() {
    constexpr int kProducts = 20;
    const MatrixUnit unit;
    alignas(64) static float left[64 * 64], weight[16 * 64], out[16 * 64];
    const double all = seconds_of([&] {
        for (int i = 0; i < kProducts; ++i)
            tile_product(out, 64, nullptr, left, 64, nullptr, 4, weight, weight, 16, 64, false);
    });
    return all / kProducts;
}

// Of the same number of steps: pairs replace two steps of floats by one, split products by three.
inline double share_of_vectors() {
    static const double share = tile_product_seconds() * 6000 / 4096 / product_seconds<FloatDot>();
    return share;
}

bool pairs_are_faster() { return share_of_vectors() < 0.8; }
inline bool splits_are_faster() { return share_of_vectors() < 0.8 * 2 / 3; }
#elif defined(KBNET_EMULATED_MATRIX_UNIT)
bool pairs_are_faster() { return false; }
inline bool splits_are_faster() { return true; }  // so that they are tested
#elif defined(__AVX512BF16__)
// A pair is two products, but making pairs takes time too.
bool pairs_are_faster() { return product_seconds<PairDot>() < 1.6 * product_seconds<FloatDot>(); }
inline bool splits_are_faster() { return false; }
#else
bool pairs_are_faster() { return false; }
inline bool splits_are_faster() { return false; }
#endif

#if defined(KBNET_MATRIX_UNIT) || defined(KBNET_EMULATED_MATRIX_UNIT)
inline float small_number(int64_t i) { return static_cast<float>(i * 37 % 19 - 9); }

inline bool products_are_right() {
    const MatrixUnit unit;
    constexpr int kSteps = 18, kOutputs = 20, kWidth = 4 * kLanes;
    alignas(64) static float left[kSteps * kWidth], weight[kOutputs * kSteps], out[kOutputs * kWidth], bias[kOutputs];
    for (int64_t i = 0; i < kSteps * kWidth; ++i) left[i] = pair_of(small_number(i), small_number(i + 5));
    for (int64_t i = 0; i < kOutputs * kSteps; ++i) weight[i] = pair_of(small_number(3 * i), small_number(7 * i));
    for (int64_t i = 0; i < kOutputs; ++i) bias[i] = small_number(i);
    tile_product(out, kWidth, nullptr, left, kWidth, nullptr, 4, weight, bias, kOutputs, kSteps, false);
    for (int64_t r = 0; r < kOutputs; ++r)
        for (int64_t p = 0; p < kWidth; ++p) {
            float sum = bias[r];  // whole numbers: exact in any order
            for (int64_t i = 0; i < kSteps; ++i)
                sum += small_number(3 * (r * kSteps + i)) * small_number(i * kWidth + p) +
                       small_number(7 * (r * kSteps + i)) * small_number(i * kWidth + p + 5);
            if (out[r * kWidth + p] != sum) return false;
        }
    return true;
}

// Mixes `bases` bases of 1x1 in one group of two channels. Factors above 1 give numbers with low parts.
inline bool mixing_is_right(int64_t bases, Products products, float weight_factor, float channel_factor) {
    const MatrixUnit unit;
    constexpr int64_t kWidth = 4 * kLanes, kGroup = 2, kMost = 20;
    const Field field({0, 0, 1, 0, kWidth}, 0, 1, kWidth);
    constexpr int64_t kPitch = channel_pitch(kWidth);  // of dense panels
    alignas(64) static float memory[1 << 14], channels[4 * kWidth], coefficients[kMost * kPitch], out[kGroup * kPitch];
    float numbers[kMost * kGroup * kGroup], biases[kMost * kGroup];
    int32_t at[4] = {0, kLanes, 2 * kLanes, 3 * kLanes};
    for (int64_t i = 0; i < kGroup * field.floats; ++i) channels[i] = channel_factor * small_number(i);
    for (int64_t i = 0; i < kMost * kPitch; ++i) coefficients[i] = i / kPitch < bases ? small_number(11 * i) : 0.0f;
    for (int64_t i = 0; i < bases * kGroup * kGroup; ++i) numbers[i] = weight_factor * small_number(5 * i);
    for (int64_t i = 0; i < bases * kGroup; ++i) biases[i] = small_number(13 * i);
    const Sizes s{1, kGroup, 1, kWidth, bases, kGroup, 1};
    Arena arena{memory};
    float* const packed = arena.take(Mixing::packed(s, products));
    Mixing::pack(packed, Matrix{numbers, false}, Matrix{biases, false}, Matrix{}, 0, 1, s, products);
    Mixing mixing(s, products, field, arena);
    mixing.prepare(coefficients);
    mixing.group<PairDot>(out, channels, Vectors{at, 4}, packed);
    for (int64_t c = 0; c < kGroup; ++c)
        for (int64_t p = 0; p < kWidth; ++p) {
            float sum = 0.0f;
            for (int64_t n = 0; n < bases; ++n) {
                const float *const w = numbers + (n * kGroup + c) * kGroup, *const x = channels + p;
                sum += coefficients[n * kPitch + p] * (biases[n * kGroup + c] + w[0] * x[0] + w[1] * x[field.floats]);
            }
            if (out[c * kPitch + p] != sum) return false;
        }
    return true;
}

// Few machines that build kbnet have a matrix unit, so this asks the one at hand.
bool works() {
    return products_are_right() && mixing_is_right(5, Products::kPairs, 1, 1) && mixing_is_right(18, Products::kPairs, 1, 1) &&
           mixing_is_right(18, Products::kSplit, 101, 1) && mixing_is_right(18, Products::kSplit, 1, 101);
}
#else
bool works() { return true; }
#endif

}  // namespace
