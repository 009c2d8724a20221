// Whether dot products of bfloat16 pairs are worth using on this processor.
//
// Having the instruction says little: Intel's processors run it at a quarter of the rate of a float32
// multiply-add, AMD's at the same rate. So it is timed, once per process, in less than a tenth of a millisecond.
#pragma once

#include "forward.h"

#if defined(__AVX512BF16__)
#include <chrono>
#endif

namespace {

#if defined(__AVX512BF16__)
// Seconds that many independent products of this kind take; the shortest of several runs.
template <class Dot>
inline double product_seconds() {
    constexpr int kSums = 12, kProducts = 500, kRuns = 5;  // enough sums to hide the latency of a product
    Vec sums[kSums] = {}, x = {};
    float w = 0.0f;
    __asm__ volatile("" : "+v"(x), "+v"(w));  // unknown to the compiler
    double shortest = 1e9;
    for (int run = 0; run < kRuns; ++run) {
        const auto begin = std::chrono::steady_clock::now();
        for (int i = 0; i < kProducts; ++i)
            for (int s = 0; s < kSums; ++s) {
                sums[s] = Dot::add(sums[s], x, w);
                __asm__ volatile("" : "+v"(sums[s]));
            }
        const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
        shortest = took.count() < shortest ? took.count() : shortest;
    }
    return shortest;
}

// A pair is two products, but making pairs takes time too.
bool pairs_are_faster() { return product_seconds<PairDot>() < 1.6 * product_seconds<FloatDot>(); }
#else
bool pairs_are_faster() { return false; }
#endif

}  // namespace
