// Whether products of bfloat16 pairs are worth using on this processor.
//
// Having the instruction says little: Intel's processors run the one on vectors at a quarter of the rate of a float32
// multiply-add, AMD's at the same rate. So it is timed, once per process, in less than a tenth of a millisecond.
#pragma once

#include <chrono>
#include <cmath>

#include "forward.h"
#include "matrix_products.h"

namespace {

// Seconds of the shortest of several runs.
template <class Run>
inline double seconds_of(Run run) {
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

#if defined(KBNET_MATRIX_UNIT)
// Seconds that a product of 16 rows, 64 steps and 64 pixels takes, which are 4,096 vectors of pairs.
inline double tile_product_seconds() {
    const MatrixUnit unit;
    alignas(64) static float left[64 * 64], weight[16 * 64], out[16 * 64];
    return seconds_of([&] {
        tile_product(out, 64, nullptr, left, 64, nullptr, 4, weight, weight, 16, 64, false);
    });
}

bool pairs_are_faster() { return tile_product_seconds() * 6000 / 4096 < 0.8 * product_seconds<FloatDot>(); }
#elif defined(KBNET_EMULATED_MATRIX_UNIT)
bool pairs_are_faster() { return false; }
#elif defined(__AVX512BF16__)
// A pair is two products, but making pairs takes time too.
bool pairs_are_faster() { return product_seconds<PairDot>() < 1.6 * product_seconds<FloatDot>(); }
#else
bool pairs_are_faster() { return false; }
#endif

#if defined(KBNET_MATRIX_UNIT) || defined(KBNET_EMULATED_MATRIX_UNIT)
// Whether the matrix unit computes what it should. Few machines that build kbnet have one.
bool works() {
    const MatrixUnit unit;
    constexpr int kSteps = 18, kOutputs = 20, kWidth = 4 * kLanes;
    alignas(64) static float left[kSteps * kWidth], weight[kOutputs * kSteps], out[kOutputs * kWidth], bias[kOutputs];
    const auto small = [](int64_t i) { return static_cast<float>(i * 37 % 19 - 9); };
    for (int64_t i = 0; i < kSteps * kWidth; ++i) left[i] = pair_of(small(i), small(i + 5));
    for (int64_t i = 0; i < kOutputs * kSteps; ++i) weight[i] = pair_of(small(3 * i), small(7 * i));
    for (int64_t i = 0; i < kOutputs; ++i) bias[i] = small(i);
    tile_product(out, kWidth, nullptr, left, kWidth, nullptr, 4, weight, bias, kOutputs, kSteps, false);
    for (int64_t r = 0; r < kOutputs; ++r)
        for (int64_t p = 0; p < kWidth; ++p) {
            float sum = bias[r];  // whole numbers: exact in any order
            for (int64_t i = 0; i < kSteps; ++i)
                sum += small(3 * (r * kSteps + i)) * small(i * kWidth + p) +
                       small(7 * (r * kSteps + i)) * small(i * kWidth + p + 5);
            if (out[r * kWidth + p] != sum) return false;
        }
    return true;
}
#else
bool works() { return true; }
#endif

}  // namespace
